//! Who we are and where the Hub is: what the Python client's environment variables say.
//!
//! `HF_TOKEN` (or the older `HUGGING_FACE_HUB_TOKEN`), else the file that `HF_TOKEN_PATH` names, else `HF_HOME/token`;
//! `HF_HUB_DISABLE_IMPLICIT_TOKEN` says that a token is for pushing only. `HF_ENDPOINT`, `HF_HUB_CACHE` (or
//! `HUGGINGFACE_HUB_CACHE`), `HF_HUB_OFFLINE` (or `TRANSFORMERS_OFFLINE`), `HF_HUB_DISABLE_XET`. `HF_HOME` is
//! `~/.cache/huggingface` unless it or `XDG_CACHE_HOME` says otherwise.

use std::path::{Path, PathBuf};
use std::time::Duration;

use super::token::Token;
use crate::error::{Error, Result};

/// The variables that may hold an access token, the first before the second. No process that is started to do without the
/// Hub inherits them.
pub const TOKEN_VARIABLES: [&str; 2] = ["HF_TOKEN", "HUGGING_FACE_HUB_TOKEN"];

/// What a client needs to know.
#[derive(Clone, Debug)]
pub struct Settings {
    /// The Hub's address, without a slash at the end.
    pub endpoint: String,
    /// The folder of `models--OWNER--NAME` and the like.
    pub cache: PathBuf,
    /// Where unfinished uploads are noted.
    pub journal: PathBuf,
    /// The access token, if there is one.
    pub token: Option<Token>,
    /// Whether the token is sent where it is not needed (false only by `HF_HUB_DISABLE_IMPLICIT_TOKEN`).
    pub implicit_token: bool,
    /// Whether only the cache may be used.
    pub offline: bool,
    /// Whether large files may go by Xet, in builds that can.
    pub xet: bool,
    /// The wait before the first repetition; it doubles up to eight times this.
    pub backoff: Duration,
}

/// The public Hub.
pub const ENDPOINT: &str = "https://huggingface.co";

impl Settings {
    /// What the environment of this process says.
    ///
    /// # Errors
    /// `Usage` if a variable holds what cannot be; `Io` if the token's file is there and cannot be read.
    pub fn from_env() -> Result<Settings> {
        Settings::from_lookup(&|name| std::env::var(name).ok(), std::env::home_dir())
    }

    /// What an environment says, given as a function from names to values, with the home folder.
    ///
    /// # Errors
    /// As [`Settings::from_env`].
    pub fn from_lookup(lookup: &dyn Fn(&str) -> Option<String>, home: Option<PathBuf>) -> Result<Settings> {
        let get = |name: &str| lookup(name).filter(|value| !value.trim().is_empty());
        let expand = |value: String| match (value.strip_prefix("~/"), &home) {
            (Some(rest), Some(home)) => home.join(rest),
            _ => PathBuf::from(value),
        };
        let path = |name: &str| get(name).map(expand);
        let hf_home = path("HF_HOME")
            .or_else(|| path("XDG_CACHE_HOME").map(|cache| cache.join("huggingface")))
            .or_else(|| home.as_ref().map(|home| home.join(".cache").join("huggingface")))
            .ok_or_else(|| Error::usage("cannot tell where the cache of the Hub is: set HF_HOME to a folder"))?;
        let endpoint = get("HF_ENDPOINT").unwrap_or_else(|| ENDPOINT.into());
        let endpoint = endpoint.trim().trim_end_matches('/').to_string();
        if super::address::origin(&endpoint).is_none() || endpoint.contains(['?', '#', '@']) {
            // The value is not shown: someone may have put a password into it.
            return Err(Error::usage("HF_ENDPOINT must be an address such as https://huggingface.co"));
        }
        let token_path = path("HF_TOKEN_PATH").unwrap_or_else(|| hf_home.join("token"));
        let token = match TOKEN_VARIABLES.iter().find_map(|&name| Some((name, get(name)?))) {
            Some((name, value)) => Token::parse(&value, name)?,
            None => read_token(&token_path)?,
        };
        Ok(Settings {
            endpoint,
            cache: path("HF_HUB_CACHE")
                .or_else(|| path("HUGGINGFACE_HUB_CACHE"))
                .unwrap_or_else(|| hf_home.join("hub")),
            journal: hf_home.join("taper").join("uploads"),
            token,
            implicit_token: !is_true(get("HF_HUB_DISABLE_IMPLICIT_TOKEN")),
            xet: !is_true(get("HF_HUB_DISABLE_XET")),
            offline: is_true(get("HF_HUB_OFFLINE").or_else(|| get("TRANSFORMERS_OFFLINE"))),
            backoff: Duration::from_secs(1),
        })
    }
}

fn read_token(path: &Path) -> Result<Option<Token>> {
    match std::fs::read_to_string(path) {
        Ok(text) => Token::parse(&text, &path.display().to_string()),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(Error::io("read", path)(error)),
    }
}

fn is_true(value: Option<String>) -> bool {
    value.is_some_and(|value| matches!(value.to_ascii_uppercase().as_str(), "1" | "ON" | "YES" | "TRUE"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn settings(pairs: &[(&str, &str)], home: &Path) -> Result<Settings> {
        let lookup = |name: &str| pairs.iter().find(|(key, _)| *key == name).map(|(_, value)| value.to_string());
        Settings::from_lookup(&lookup, Some(home.to_path_buf()))
    }

    /// The order is that of huggingface_hub 2.4.0 (constants.py, utils/_auth.py).
    #[test]
    fn the_environment_is_read_as_the_python_client_reads_it() {
        let home = tempfile::tempdir().unwrap();
        let home = home.path();
        let header = |settings: Settings| settings.token.map(|token| token.header());
        let plain = settings(&[], home).unwrap();
        assert_eq!(plain.endpoint, "https://huggingface.co");
        assert_eq!(plain.cache, home.join(".cache/huggingface/hub"));
        assert!(!plain.offline && plain.token.is_none() && plain.implicit_token);

        let hf = home.join("hf");
        std::fs::create_dir_all(&hf).unwrap();
        std::fs::write(hf.join("token"), "from_home\n").unwrap();
        std::fs::write(home.join("other"), "from_path").unwrap();
        let hf = hf.to_str().unwrap();
        let other = home.join("other");
        let other = other.to_str().unwrap();
        let all = [("HF_TOKEN", "new"), ("HUGGING_FACE_HUB_TOKEN", "old"), ("HF_TOKEN_PATH", other), ("HF_HOME", hf)];
        for (from, expected) in [(0, "new"), (1, "old"), (2, "from_path"), (3, "from_home")] {
            assert_eq!(header(settings(&all[from..], home).unwrap()).unwrap(), format!("Bearer {expected}"));
        }
        // An empty variable is none.
        assert_eq!(header(settings(&[("HF_TOKEN", ""), ("HF_HOME", hf)], home).unwrap()).unwrap(), "Bearer from_home");
        assert_eq!(settings(&[("HF_HOME", hf)], home).unwrap().cache, home.join("hf/hub"));
        assert_eq!(settings(&[("HF_HOME", hf), ("HF_HUB_CACHE", "~/c")], home).unwrap().cache, home.join("c"));
        assert_eq!(settings(&[("XDG_CACHE_HOME", hf)], home).unwrap().cache, home.join("hf/huggingface/hub"));
        for (value, expected) in [("1", true), ("yes", true), ("TRUE", true), ("0", false), ("no", false)] {
            assert_eq!(settings(&[("HF_HUB_OFFLINE", value)], home).unwrap().offline, expected);
        }
        assert_eq!(settings(&[("HF_ENDPOINT", "http://h:1/x/")], home).unwrap().endpoint, "http://h:1/x");
        for wrong in ["huggingface.co", "ftp://h", "http://user:pass@h"] {
            let error = settings(&[("HF_ENDPOINT", wrong)], home).unwrap_err().to_string();
            assert!(!error.contains("pass"), "{error}");
        }
    }
}
