//! What of a large upload is done already, so that nobody sends it again.
//!
//! A multipart upload is a session: part addresses signed for it, an ETag for each part that arrived, and the address that
//! completes it. All of that is noted after every part, in one small file per object. A later push, even of another
//! process, asks the Hub again; if that still lacks the object, the noted session continues where it was. Should storage
//! have forgotten the session, the note is thrown away and the upload begins anew. The addresses carry permissions, so
//! only the owner may read the file.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use super::download::hex;
use crate::error::{Error, Result};

/// A multipart upload, as far as it got.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Session {
    /// Bytes of every part but the last.
    pub chunk: u64,
    /// The address that puts the parts together.
    pub complete: String,
    /// The parts' addresses, in order.
    pub parts: Vec<String>,
    /// ETags of the parts that arrived, by index.
    pub done: BTreeMap<usize, String>,
}

impl Session {
    /// Whether two sessions are one, though signed at different times.
    pub fn is_same(&self, other: &Session) -> bool {
        let all = |session: &Session| -> Vec<String> {
            session.parts.iter().chain([&session.complete]).map(|url| unsigned(url)).collect()
        };
        self.chunk == other.chunk && all(self) == all(other)
    }
}

/// An address without its signature.
fn unsigned(url: &str) -> String {
    let (path, query) = url.split_once('?').unwrap_or((url, ""));
    let kept = query.split('&').filter(|pair| !pair.to_ascii_lowercase().starts_with("x-amz-"));
    format!("{path}?{}", kept.collect::<Vec<_>>().join("&"))
}

/// Where one object's session is noted.
#[derive(Debug)]
pub(super) struct Journal {
    path: PathBuf,
}

impl Journal {
    /// The note of an object on its way to a repository.
    pub fn new(folder: &Path, endpoint: &str, repo: &str, oid: &str) -> Journal {
        let name = hex(&Sha256::digest(format!("{endpoint}\n{repo}\n{oid}")));
        Journal { path: folder.join(format!("{}.json", &name[..32])) }
    }

    /// The noted session; one that cannot be read is none.
    pub fn read(&self) -> Option<Session> {
        serde_json::from_slice(&std::fs::read(&self.path).ok()?).ok()
    }

    /// Notes the session, whole or not at all.
    pub fn write(&self, session: &Session) -> Result<()> {
        let folder = self.path.parent().unwrap_or(&self.path);
        std::fs::create_dir_all(folder).map_err(Error::io("create", folder))?;
        // Readable by its owner alone, as temporary files are.
        let file = tempfile::NamedTempFile::new_in(folder).map_err(Error::io("write", folder))?;
        let text = serde_json::to_vec(session).map_err(|error| Error::data(&self.path, error.to_string()))?;
        std::fs::write(file.path(), text).map_err(Error::io("write", &self.path))?;
        file.persist(&self.path).map_err(|error| Error::io("write", &self.path)(error.error))?;
        Ok(())
    }

    /// Forgets the session.
    pub fn remove(&self) {
        // A note that stays is harmless: the Hub is asked first.
        let _ = std::fs::remove_file(&self.path);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_session_is_known_again_by_what_is_not_its_signature() {
        let session = |signature: &str, id: &str| Session {
            chunk: 5,
            complete: format!("http://s/c?uploadId={id}&X-Amz-Signature={signature}"),
            parts: vec![format!("http://s/1?X-Amz-Date={signature}&uploadId={id}")],
            done: BTreeMap::new(),
        };
        assert!(session("a", "1").is_same(&session("b", "1")));
        assert!(!session("a", "1").is_same(&session("a", "2")));

        let folder = tempfile::tempdir().unwrap();
        let journal = Journal::new(folder.path(), "http://h", "a/b", "00");
        assert_eq!(journal.read(), None);
        let mut noted = session("a", "1");
        noted.done.insert(0, "\"etag\"".into());
        journal.write(&noted).unwrap();
        assert_eq!(journal.read(), Some(noted));
        assert_eq!(Journal::new(folder.path(), "http://h", "a/c", "00").read(), None);
        journal.remove();
        assert_eq!(journal.read(), None);
    }
}
