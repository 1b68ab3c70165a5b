//! Large files by Xet, with a storage that takes xorbs and shards as the Hub's does (its answers are those that the crate
//! `xet-client` documents). What it puts together must be the file, byte for byte.

use super::server::{TOKEN, Wrong};
use super::{World, assert_token_is_safe, model, read};
use sha2::{Digest, Sha256};
use std::path::PathBuf;
use taper::hub::{Client, PushOptions, Settings, push};
use taper::ui::Silent;

const ID: &str = "me/model";

/// Bytes that nothing can pack.
fn noise(count: usize) -> Vec<u8> {
    (0u64..).flat_map(|i| Sha256::digest(i.to_le_bytes())).take(count).collect()
}

fn folder(world: &World) -> PathBuf {
    world.folder("step-1", &[("config.json", b"{}"), ("model.safetensors", &noise(300_000))])
}

#[test]
fn what_goes_by_xet_arrives_and_the_token_stays() {
    let world = World::start();
    world.hub.state().storage.xet = true;
    // The first time no permission comes; that is not the end.
    world.hub.fault("GET", "/xet-write-token/", Wrong::Status(503, &[], ""));
    let done = push(&world.client(), &folder(&world), &model(ID), &PushOptions::default(), &Silent).unwrap();
    assert_eq!(done.stored, 1);
    let stored = world.hub.files(ID, "main")["model.safetensors"].clone();
    assert_eq!(stored, read(folder(&world).join("model.safetensors")));
    let cas: Vec<_> = world.hub.all_asked().into_iter().filter(|asked| asked.origin == "storage").collect();
    assert!(!cas.is_empty() && cas.iter().all(|asked| asked.method != "PUT"), "nothing went by LFS: {cas:?}");
    assert!(cas.iter().all(|asked| !asked.authorization.as_deref().unwrap_or_default().contains(TOKEN)));
    // Again: the Hub has it all.
    world.hub.forget();
    let again = push(&world.client(), &folder(&world), &model(ID), &PushOptions::default(), &Silent).unwrap();
    assert!(again.committed.is_empty() && !world.hub.all_asked().iter().any(|asked| asked.origin == "storage"));
}

#[test]
fn where_xet_is_switched_off_or_not_wanted_lfs_serves() {
    let world = World::start();
    world.hub.state().storage.xet = true;
    let off = Client::new(Settings { xet: false, ..world.settings() });
    push(&off, &folder(&world), &model(ID), &PushOptions::default(), &Silent).unwrap();
    assert_eq!(world.hub.asked("PUT", "/basic/").len(), 1);
    assert!(world.hub.asked("GET", "/xet-write-token/").is_empty());
    let world = World::start();
    push(&world.client(), &folder(&world), &model(ID), &PushOptions::default(), &Silent).unwrap();
    assert_eq!(world.hub.asked("PUT", "/basic/").len(), 1);
    assert_token_is_safe(&world.hub, &[]);
}

#[test]
fn a_storage_that_is_a_file_is_refused() {
    let world = World::start();
    world.hub.state().storage.xet = true;
    let answer = r#"{"accessToken": "x", "exp": 9999999999, "casUrl": "local:///tmp"}"#;
    world.hub.fault("GET", "/xet-write-token/", Wrong::Status(200, &[], answer));
    let error = push(&world.client(), &folder(&world), &model(ID), &PushOptions::default(), &Silent).unwrap_err();
    assert!(error.to_string().contains("not protected by https"), "{error}");
}
