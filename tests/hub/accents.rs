//! Servers that speak the Hub's language with an accent, and connections that fail in the ways they do. The rules are
//! those of HTTP (RFC 9110, 8288, 3986) and of the LFS batch; what must come out is what was put in.

use super::server::{Fault, Wrong};
use super::{World, assert_token_is_safe, bytes, model, read};
use taper::hub::{PushOptions, PushResult, Want, pull, push};
use taper::ui::{Level, Silent, Ui};

const ID: &str = "me/model";

fn folder(world: &World) -> std::path::PathBuf {
    let files: [(&str, &[u8]); 4] = [
        ("config.json", b"{\"a\": 1}"),
        ("tokenizer.json", b"{\"long\": \"enough to be worth packing, packing, packing, packing, packing\"}"),
        ("README.md", b"---\nlicense: mit\n---\n# A model\n"),
        ("model.safetensors", &bytes(60_000, 3)),
    ];
    world.folder("model", &files)
}

fn send(world: &World, options: &PushOptions) -> taper::Result<PushResult> {
    push(&world.client(), &folder(world), &model(ID), options, &Silent)
}

fn there_and_back(world: &World) {
    send(world, &PushOptions::default()).unwrap();
    let pulled = pull(&world.client(), &model(ID), Want::Model, &Silent).unwrap();
    for name in ["config.json", "tokenizer.json", "README.md", "model.safetensors"] {
        assert_eq!(read(pulled.folder.join(name)), read(folder(world).join(name)), "{name}");
    }
    assert_token_is_safe(&world.hub, &[]);
}

#[test]
fn etags_that_something_in_between_has_changed() {
    for suffix in ["-gzip", ";gzip", "--gzip", "-br"] {
        let world = World::start();
        world.hub.state().quirks.etag_suffix = suffix;
        there_and_back(&world);
    }
    let world = World::start();
    world.hub.state().quirks.foreign_etags = true;
    there_and_back(&world);
    assert!(!world.hub.asked("GET", "/tree/").is_empty(), "the hash is looked up in the listing");
}

#[test]
fn lengths_that_are_not_the_files() {
    let world = World::start();
    world.hub.state().quirks.head_of_length_0 = true;
    there_and_back(&world);
    let world = World::start();
    (world.hub.state().gzip, world.hub.state().quirks.gzip_length) = (true, true);
    there_and_back(&world);
}

#[test]
fn relative_redirects_and_pages() {
    let world = World::start();
    {
        let mut state = world.hub.state();
        (state.quirks.relative, state.no_siblings, state.page) = (true, true, 2);
    }
    there_and_back(&world);
    assert!(world.hub.asked("GET", "/tree/").len() > 2);
}

#[test]
fn answers_that_break_off_are_asked_for_again() {
    let world = World::start();
    for (method, path) in
        [("GET", "/revision/"), ("POST", "/preupload/"), ("POST", "/objects/batch"), ("POST", "/validate-yaml")]
    {
        // One that shows it by its length, and one that does not.
        world.hub.fault(method, path, Wrong::Truncate(9));
        world.hub.fault(method, path, Wrong::Short(9));
    }
    there_and_back(&world);
    assert_eq!(world.hub.commits(ID), 2);
    // The answer to a commit that took is looked up, not the commit repeated.
    std::fs::write(folder(&world).join("config.json"), "{}").unwrap();
    world.hub.fault("POST", "/commit/", Wrong::Short(5));
    let folder = world.home.path().join("model");
    std::fs::write(folder.join("config.json"), "{\"b\": 2}").unwrap();
    let done = push(&world.client(), &folder, &model(ID), &PushOptions::default(), &Silent).unwrap();
    assert_eq!(world.hub.commits(ID), 3);
    assert_eq!(done.commit, world.hub.state().repos["models/me/model"].at("main").unwrap().sha);
}

#[test]
fn bursts_of_errors_everywhere() {
    let world = World::start();
    for method in ["GET", "HEAD", "POST", "PUT"] {
        for status in [500, 502, 503, 504] {
            let headers: &[(&str, &str)] = &[("retry-after", "Sun, 06 Nov 1994 08:49:37 GMT")];
            world.hub.fault(method, "", Wrong::Status(status, headers, "<html>bad gateway</html>"));
        }
        world.hub.fault(method, "", Wrong::Drop);
    }
    there_and_back(&world);
    assert_eq!(world.hub.commits(ID), 2);
}

#[test]
fn a_date_as_retry_after_is_obeyed() {
    let world = World::start();
    world.hub.put(ID, &[("config.json", b"{}"), ("model.safetensors", b"x")]);
    // Far in the future: longer than anyone waits, so the answer is final.
    let far: &[(&str, &str)] = &[("retry-after", "Fri, 31 Dec 9999 23:59:59 GMT")];
    world.hub.fault("GET", "/revision/", Wrong::Status(429, far, ""));
    let error = pull(&world.client(), &model(ID), Want::Model, &Silent).unwrap_err().to_string();
    assert!(error.contains("no more requests"), "{error}");
    assert_eq!(world.hub.asked("GET", "/revision/").len(), 1);
}

#[test]
fn an_object_that_the_hub_cannot_take_just_now_is_offered_again() {
    use sha2::{Digest, Sha256};
    let world = World::start();
    let oid = super::server::hex(&Sha256::digest(bytes(60_000, 3)));
    let answer = format!(
        r#"{{"objects": [{{"oid": "{oid}", "size": 60000, "error": {{"code": 503, "message": "storage is busy"}}}}]}}"#
    );
    world.hub.fault("POST", "/objects/batch", Wrong::Status(200, &[], Box::leak(answer.into_boxed_str())));
    there_and_back(&world);
    assert_eq!(world.hub.asked("POST", "/objects/batch").len(), 2);
}

#[test]
fn headers_of_the_batch_go_to_storage_but_the_token_does_not() {
    let world = World::start();
    (world.hub.state().storage.wants_header, world.hub.state().storage.verify) = (true, true);
    there_and_back(&world);
    let puts = world.hub.asked("PUT", "/basic/");
    assert!(puts.len() == 1 && puts[0].authorization.is_none());
}

#[test]
fn a_hub_without_a_check_of_cards_takes_the_push() {
    let world = World::start();
    world.hub.fault("POST", "/validate-yaml", Wrong::Status(404, &[], "{\"error\": \"Not Found\"}"));
    there_and_back(&world);
}

#[test]
fn a_busy_repository_is_waited_for_and_a_conflict_of_a_pull_request_is_not_the_end() {
    let world = World::start();
    world.hub.fault("POST", "/commit/", Wrong::Status(409, &[], "{\"error\": \"another operation is in progress\"}"));
    there_and_back(&world);
    assert_eq!((world.hub.asked("POST", "/commit/").len(), world.hub.commits(ID)), (2, 2));

    let world = World::start();
    world.hub.put(ID, &[("config.json", b"old")]);
    let refused = "{\"error\": \"A commit has happened since. Please refresh and try again.\"}";
    world.hub.fault("POST", "/commit/", Wrong::Status(412, &[], refused));
    let pr = PushOptions { pr: true, ..PushOptions::default() };
    let done = send(&world, &pr).unwrap();
    assert!(done.pull_request.unwrap().ends_with("/discussions/1"));
    assert_eq!(world.hub.asked("POST", "/commit/").len(), 2);
    assert_eq!(world.hub.files(ID, "main")["config.json"], b"old");
    // For ever is too long.
    let always =
        Fault { method: "POST", path: "/commit/", after: 0, times: 99, wrong: Wrong::Status(412, &[], refused) };
    world.hub.faults(always);
    let error = push(&world.client(), &folder(&world), &model("me/other"), &pr, &Silent).unwrap_err().to_string();
    assert!(error.contains("changed by someone else"), "{error}");
}

/// Counts the bytes that a person would see go by.
#[derive(Default)]
struct Seen(std::sync::Mutex<(u64, Option<u64>)>);

impl Ui for Seen {
    fn message(&self, _: Level, _: &str) {}

    fn begin(&self, _: &str, done: u64, total: Option<u64>) {
        let mut seen = self.0.lock().unwrap();
        *seen = (done, total.or(seen.1));
    }

    fn advance(&self, bytes: u64) {
        self.0.lock().unwrap().0 += bytes;
    }
}

#[test]
fn several_large_files_go_at_once_and_none_twice() {
    let world = World::start();
    let names: Vec<String> = (1..=7).map(|i| format!("model-{i:05}-of-00007.safetensors")).collect();
    let folder = world.folder("shards", &[("config.json", b"{}")]);
    for (i, name) in names.iter().enumerate() {
        std::fs::write(folder.join(name), bytes(30_000 + i, i as u32)).unwrap();
    }
    // The last of them fail for good; what arrived is not sent again.
    let broken = Wrong::Status(500, &[], "");
    world.hub.faults(Fault { method: "PUT", path: "/basic/", after: 4, times: 60, wrong: broken });
    push(&world.client(), &folder, &model(ID), &PushOptions::default(), &Silent).unwrap_err();
    let stored = world.hub.state().storage.objects.len();
    assert_eq!((stored, world.hub.commits(ID)), (4, 1));
    world.hub.forget();
    world.hub.disarm();
    let seen = Seen::default();
    let done = push(&world.client(), &folder, &model(ID), &PushOptions::default(), &seen).unwrap();
    assert_eq!((done.stored, world.hub.asked("PUT", "/basic/").len()), (3, 3));
    let (went_by, total) = *seen.0.lock().unwrap();
    assert_eq!(Some(went_by), total);
    for (i, name) in names.iter().enumerate() {
        assert_eq!(world.hub.files(ID, "main")[name], bytes(30_000 + i, i as u32));
    }
    assert_token_is_safe(&world.hub, &[]);
}
