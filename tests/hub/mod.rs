//! The Hub's client against the test hub in `server/`: pulling, pushing, faults, the command line.
#![allow(missing_docs)] // what is public here is so for the tests next to it

mod accents;
mod cards;
mod command;
mod datasets;
#[path = "../common/fixtures.rs"]
mod fixtures;
mod pulling;
mod pushing;
mod secrets;
mod server;
mod training;
mod uploads;
#[cfg(feature = "xet")]
mod xet;

use std::path::{Path, PathBuf};
use std::time::Duration;

use server::{TOKEN, TestHub};
use taper::hub::{Client, Repo, Settings, Token};
use tempfile::TempDir;

/// A hub, and someone with a token and an empty cache.
pub struct World {
    pub hub: TestHub,
    pub home: TempDir,
}

impl World {
    pub fn start() -> World {
        World { hub: TestHub::start(), home: TempDir::new().unwrap() }
    }

    pub fn settings(&self) -> Settings {
        Settings {
            endpoint: self.hub.url.clone(),
            cache: self.home.path().join("hub"),
            journal: self.home.path().join("uploads"),
            token: Token::parse(TOKEN, "the test").unwrap(),
            implicit_token: true,
            offline: false,
            xet: true,
            backoff: Duration::from_millis(1),
        }
    }

    pub fn client(&self) -> Client {
        Client::new(self.settings())
    }

    pub fn anonymous(&self) -> Client {
        Client::new(Settings { token: None, ..self.settings() })
    }

    /// A folder under the home.
    pub fn folder(&self, name: &str, files: &[(&str, &[u8])]) -> PathBuf {
        let folder = self.home.path().join(name);
        for (path, bytes) in files {
            let path = folder.join(path);
            std::fs::create_dir_all(path.parent().unwrap()).unwrap();
            std::fs::write(path, bytes).unwrap();
        }
        folder
    }

    /// Files of a folder in the home that are no links, by name.
    pub fn names(&self, folder: &str) -> Vec<String> {
        let entries = std::fs::read_dir(self.home.path().join(folder)).into_iter().flatten().flatten();
        let mut names: Vec<String> = entries.map(|entry| entry.file_name().to_string_lossy().into_owned()).collect();
        names.sort();
        names
    }
}

pub fn model(id: &str) -> Repo {
    Repo::model(id).unwrap()
}

/// Bytes that do not repeat soon.
pub fn bytes(count: usize, seed: u32) -> Vec<u8> {
    (0..count as u32)
        .map(|i| (i.wrapping_add(seed.wrapping_mul(40_503)).wrapping_mul(2_654_435_761) >> 13) as u8)
        .collect()
}

pub fn read(path: impl AsRef<Path>) -> Vec<u8> {
    std::fs::read(path.as_ref()).unwrap_or_else(|error| panic!("{}: {error}", path.as_ref().display()))
}

/// The token went to the hub alone, and shows nowhere in `texts`.
pub fn assert_token_is_safe(hub: &TestHub, texts: &[String]) {
    for asked in hub.all_asked() {
        assert!(asked.origin == "hub" || asked.authorization.is_none(), "the token went to storage: {asked:?}");
        assert!(!asked.path.contains(TOKEN), "the token is in an address: {}", asked.path);
    }
    for text in texts {
        assert!(!text.contains(TOKEN), "the token is shown: {text}");
    }
}

/// Serves until standard input ends; `scripts/hub_faithful.sh` runs the official Python client against it.
#[test]
#[ignore = "runs until its standard input ends"]
fn serve() {
    let hub = TestHub::start();
    {
        let mut state = hub.state();
        state.page = 3;
        state.storage.multipart_over = 300_000;
        state.storage.chunk = 100_000;
        state.storage.verify = true;
        state.moved.insert("old/name".into(), "me/pushed".into());
    }
    hub.put("other/open", &[("config.json", b"{}"), ("a/b.txt", b"text"), ("model.safetensors", &bytes(1000, 1))]);
    hub.put("other/private", &[("config.json", b"{}")]);
    hub.put("other/gated", &[("config.json", b"{}")]);
    hub.state().repos.get_mut("models/other/private").unwrap().private = true;
    hub.state().repos.get_mut("models/other/gated").unwrap().gated = true;
    println!("\nSERVING {} {TOKEN}", hub.url);
    std::io::copy(&mut std::io::stdin(), &mut std::io::sink()).unwrap();
}
