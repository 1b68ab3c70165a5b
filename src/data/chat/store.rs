//! Encoded conversations on disk, so that a run that continues has its data even if the files it came from are gone.
//!
//! One safetensors file for each split, and `made-from.json`, written last: the template and what it takes to tell
//! whether the files are whole.

use std::collections::HashMap;
use std::path::Path;

use safetensors::tensor::{Dtype, SafeTensors, TensorView};
use serde::{Deserialize, Serialize};
use xxhash_rust::xxh3::xxh3_64;

use crate::data::chat::conversation::Conversations;
use crate::error::{Error, Result};

const RECORD: &str = "made-from.json";

/// What a folder of conversations was made from and holds.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Record {
    /// The chat template.
    pub template: String,
    /// The SHA-256 of the tokenizer.
    pub tokenizer: String,
    /// The data in words.
    pub description: Vec<String>,
    /// XXH3 of each split's file, by its name.
    files: Vec<(String, String)>,
}

impl Record {
    /// A record of files that are yet to be written.
    pub fn new(template: &str, tokenizer: &str, description: Vec<String>) -> Record {
        Record { template: template.into(), tokenizer: tokenizer.into(), description, files: Vec::new() }
    }
}

fn name(split: &str) -> String {
    format!("{split}.safetensors")
}

/// Writes the splits and what they were made from.
///
/// # Errors
/// If the disk refuses.
pub fn save(folder: &Path, mut record: Record, splits: &[(&str, &Conversations)]) -> Result<()> {
    std::fs::create_dir_all(folder).map_err(Error::io("create", folder))?;
    for (split, conversations) in splits {
        let path = folder.join(name(split));
        let failed = |error: safetensors::SafeTensorError| Error::data(&path, error.to_string());
        let bytes = |list: &[u32]| list.iter().flat_map(|id| id.to_le_bytes()).collect::<Vec<u8>>();
        let ends: Vec<u8> = conversations.ends.iter().flat_map(|end| end.to_le_bytes()).collect();
        let (tokens, learn) = (bytes(&conversations.tokens), &conversations.learn);
        let views = [
            ("tokens", TensorView::new(Dtype::U32, vec![conversations.tokens.len()], &tokens).map_err(failed)?),
            ("learn", TensorView::new(Dtype::U8, vec![learn.len()], learn).map_err(failed)?),
            ("ends", TensorView::new(Dtype::U64, vec![conversations.len()], &ends).map_err(failed)?),
        ];
        let file = safetensors::serialize(views, None::<HashMap<String, String>>).map_err(failed)?;
        std::fs::write(&path, &file).map_err(Error::io("write", &path))?;
        record.files.push((name(split), format!("{:016x}", xxh3_64(&file))));
    }
    let path = folder.join(RECORD);
    let json = serde_json::to_string_pretty(&record).map_err(|error| Error::data(&path, error.to_string()))?;
    let part = folder.join(format!(".{RECORD}"));
    std::fs::write(&part, json + "\n").map_err(Error::io("write", &path))?;
    std::fs::rename(&part, &path).map_err(Error::io("write", &path))
}

/// What a folder says of itself; `None` if nothing whole was written there.
///
/// # Errors
/// If it cannot be read.
pub fn record(folder: &Path) -> Result<Option<Record>> {
    let path = folder.join(RECORD);
    match std::fs::read_to_string(&path) {
        Ok(text) => serde_json::from_str(&text).map(Some).map_err(|error| Error::data(&path, error.to_string())),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(Error::io("read", &path)(error)),
    }
}

/// Reads a split that `record` lists; `None` if it lists none of that name.
///
/// # Errors
/// `Data` if the file is not the one that was written.
pub fn load(folder: &Path, record: &Record, split: &str) -> Result<Option<Conversations>> {
    let Some((file, hash)) = record.files.iter().find(|(file, _)| *file == name(split)) else { return Ok(None) };
    let path = folder.join(file);
    let bytes = std::fs::read(&path).map_err(Error::io("read", &path))?;
    if format!("{:016x}", xxh3_64(&bytes)) != *hash {
        let message = "was changed or torn: its checksum is not the one that was recorded; start the run anew";
        return Err(Error::data(&path, message));
    }
    let wrong = |error: safetensors::SafeTensorError| Error::data(&path, error.to_string());
    let tensors = SafeTensors::deserialize(&bytes).map_err(wrong)?;
    let data = |name: &str| tensors.tensor(name).map(|tensor| tensor.data().to_vec()).map_err(wrong);
    let tokens = data("tokens")?.chunks_exact(4).map(|b| u32::from_le_bytes([b[0], b[1], b[2], b[3]])).collect();
    let end = |b: &[u8]| b.iter().rev().fold(0, |end, &byte| end << 8 | u64::from(byte));
    let ends = data("ends")?.chunks_exact(8).map(end).collect();
    Ok(Some(Conversations { tokens, learn: data("learn")?, ends }))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_saved_is_loaded_and_damage_is_noticed() {
        let folder = tempfile::tempdir().unwrap();
        assert_eq!(record(folder.path()).unwrap(), None);
        let all = Conversations { tokens: vec![1, 70_000, 3], learn: vec![0, 1, 1], ends: vec![2, 3] };
        save(folder.path(), Record::new("t", "h", vec!["d".into()]), &[("train", &all)]).unwrap();
        let found = record(folder.path()).unwrap().unwrap();
        assert_eq!((found.template.as_str(), found.tokenizer.as_str()), ("t", "h"));
        assert_eq!(load(folder.path(), &found, "train").unwrap(), Some(all));
        assert_eq!(load(folder.path(), &found, "val").unwrap(), None);
        let path = folder.path().join("train.safetensors");
        let mut bytes = std::fs::read(&path).unwrap();
        *bytes.last_mut().unwrap() ^= 1;
        std::fs::write(&path, bytes).unwrap();
        assert!(load(folder.path(), &found, "train").unwrap_err().to_string().contains("checksum"));
    }
}
