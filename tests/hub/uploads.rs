//! Large files on their way up: basic and multipart, faults, and nothing that arrived sent again. The hub counts.

use super::server::{Fault, Wrong};
use super::{World, assert_token_is_safe, bytes, model, read};
use std::path::PathBuf;
use taper::hub::{PushOptions, PushResult, push};
use taper::ui::Silent;

const ID: &str = "me/model";

fn send(world: &World, folder: &std::path::Path) -> taper::Result<PushResult> {
    push(&world.client(), folder, &model(ID), &PushOptions::default(), &Silent)
}

/// A folder whose weights go in twelve parts, so that parts 10 to 12 come before 2 where they are sorted as text.
fn in_parts(world: &World) -> PathBuf {
    let mut state = world.hub.state();
    (state.storage.multipart_over, state.storage.chunk) = (20_000, 10_000);
    drop(state);
    world.folder("step-00000020", &[("config.json", b"{}"), ("model.safetensors", &bytes(115_000, 9))])
}

fn stored(world: &World, folder: &std::path::Path) {
    assert_eq!(world.hub.files(ID, "main")["model.safetensors"], read(folder.join("model.safetensors")));
    assert!(world.names("uploads").is_empty(), "what is done is forgotten");
    assert_token_is_safe(&world.hub, &[]);
}

/// Numbers of the parts that were taken, in the order of their coming.
fn parts(world: &World) -> Vec<String> {
    let taken = world.hub.asked("PUT", "/part/").into_iter().filter(|asked| asked.status == 200);
    taken.map(|asked| asked.path.split('?').next().unwrap().rsplit('/').next().unwrap().to_string()).collect()
}

fn numbers(range: std::ops::RangeInclusive<u32>) -> Vec<String> {
    range.map(|number| number.to_string()).collect()
}

#[test]
fn parts_arrive_in_order_and_are_put_together() {
    let world = World::start();
    let folder = in_parts(&world);
    world.hub.state().storage.verify = true;
    assert_eq!(send(&world, &folder).unwrap().stored, 1);
    assert_eq!(parts(&world), numbers(1..=12));
    assert_eq!(world.hub.asked("POST", "/api/verify").len(), 1);
    stored(&world, &folder);
}

#[test]
fn parts_that_arrived_are_not_sent_again() {
    for keep_sessions in [true, false] {
        let world = World::start();
        let folder = in_parts(&world);
        world.hub.state().storage.keep_sessions = keep_sessions;
        // Part 6 fails so often that the push gives up.
        world.hub.faults(Fault {
            method: "PUT",
            path: "/part/",
            after: 5,
            times: 6,
            wrong: Wrong::Status(500, &[], ""),
        });
        let error = send(&world, &folder).unwrap_err().to_string();
        assert!(!error.contains("X-Amz"), "{error}");
        assert_eq!(parts(&world), numbers(1..=5));
        assert_eq!(world.names("uploads").len(), 1);
        // Another process, another day; in between, one more part gets lost on its way.
        world.hub.faults(Fault { method: "PUT", path: "/part/", after: 2, times: 1, wrong: Wrong::Drop });
        world.hub.forget();
        send(&world, &folder).unwrap();
        assert_eq!(parts(&world), numbers(6..=12));
        stored(&world, &folder);
    }
}

#[test]
fn a_session_that_ran_out_is_begun_anew() {
    let world = World::start();
    let folder = in_parts(&world);
    world.hub.faults(Fault { method: "PUT", path: "/part/", after: 5, times: 6, wrong: Wrong::Drop });
    send(&world, &folder).unwrap_err();
    world.hub.state().storage.expire();
    world.hub.forget();
    send(&world, &folder).unwrap();
    assert_eq!(parts(&world), numbers(1..=12));
    stored(&world, &folder);
    // And a note that makes no sense is none.
    std::fs::write(folder.join("model.safetensors"), bytes(40_000, 3)).unwrap();
    world.hub.faults(Fault { method: "PUT", path: "/part/", after: 2, times: 6, wrong: Wrong::Drop });
    send(&world, &folder).unwrap_err();
    let note = world.home.path().join("uploads").join(&world.names("uploads")[0]);
    std::fs::write(note, "{").unwrap();
    send(&world, &folder).unwrap();
    stored(&world, &folder);
}

#[test]
fn an_object_whose_answer_got_lost_is_not_sent_again() {
    for (method, path) in [("PUT", "/basic/"), ("POST", "/complete_multipart")] {
        let world = World::start();
        let folder = match method {
            "POST" => in_parts(&world),
            _ => world.folder("step-00000020", &[("config.json", b"{}"), ("model.safetensors", &bytes(50_000, 9))]),
        };
        world.hub.fault(method, path, Wrong::LoseAnswer);
        send(&world, &folder).unwrap();
        assert_eq!(world.hub.asked(method, path).len(), 1, "{path}");
        assert_eq!(world.hub.asked("PUT", "").len(), if method == "POST" { 12 } else { 1 });
        world.hub.forget();
        send(&world, &folder).unwrap();
        assert!(world.hub.asked("PUT", "").is_empty());
    }
}

#[test]
fn an_upload_that_was_refused_for_a_while_arrives() {
    for wrong in
        [Wrong::Status(403, &[], "<Error>Request has expired</Error>"), Wrong::Status(503, &[], ""), Wrong::Drop]
    {
        let world = World::start();
        let folder = world.folder("step-00000020", &[("config.json", b"{}"), ("model.safetensors", &bytes(50_000, 9))]);
        world.hub.faults(Fault { method: "PUT", path: "/basic/", after: 0, times: 2, wrong });
        send(&world, &folder).unwrap();
        stored(&world, &folder);
    }
}

#[test]
fn what_the_hub_does_not_take_is_told() {
    let world = World::start();
    let folder = world.folder("step-00000020", &[("config.json", b"{}"), ("model.safetensors", &bytes(500, 9))]);
    let oid = taper_sha256(&bytes(500, 9));
    let answer = format!(
        r#"{{"objects": [{{"oid": "{oid}", "size": 500, "error": {{"code": 403, "message": "quota is used up"}}}}]}}"#
    );
    let answer: &'static str = Box::leak(answer.into_boxed_str());
    world.hub.fault("POST", "/objects/batch", Wrong::Status(200, &[], answer));
    let error = send(&world, &folder).unwrap_err().to_string();
    assert!(error.contains("model.safetensors") && error.contains("quota is used up"), "{error}");
    assert_eq!(world.hub.commits(ID), 1);
}

fn taper_sha256(bytes: &[u8]) -> String {
    use sha2::{Digest, Sha256};
    super::server::hex(&Sha256::digest(bytes))
}

#[test]
fn two_files_of_the_same_bytes_are_one_object() {
    let world = World::start();
    let same = bytes(9000, 5);
    let folder =
        world.folder("step-1", &[("config.json", b"{}"), ("model.safetensors", &same), ("copy.safetensors", &same)]);
    assert_eq!(send(&world, &folder).unwrap().stored, 1);
    assert_eq!(world.hub.asked("PUT", "").len(), 1);
    assert_eq!(world.hub.files(ID, "main")["copy.safetensors"], same);
}
