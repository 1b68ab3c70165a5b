//! Pushing: what is sent, what is not, and one commit for it. Defects of hf-hub 1.0 that are tested not to be ours: a
//! new commit for an unchanged folder, `shouldIgnore` ignored, more than 256 files in one question, no word for 412, no
//! plain LFS.

use super::server::{Fault, TestHub, Wrong};
use super::{World, assert_token_is_safe, bytes, model};
use std::path::Path;
use taper::hub::{Client, PushOptions, PushResult, Settings, Upload, plan_push, push};
use taper::ui::Silent;

const ID: &str = "me/model";
const CARD: &[u8] = b"---\nlicense: mit\n---\n# A model\n";

fn options() -> PushOptions {
    PushOptions::default()
}

fn send(world: &World, folder: &Path) -> taper::Result<PushResult> {
    push(&world.client(), folder, &model(ID), &options(), &Silent)
}

fn checkpoint(world: &World) -> std::path::PathBuf {
    let files: [(&str, &[u8]); 8] = [
        ("config.json", b"{}"),
        ("README.md", CARD),
        ("tokenizer.json", b"{\"a\": 1}"),
        ("empty.txt", b""),
        ("report/loss.png", b"\x89PNG\0\0"),
        ("model.safetensors", &bytes(50_000, 1)),
        ("training/arena.safetensors", &bytes(90_000, 2)),
        (".git/config", b"x"),
    ];
    world.folder("step-00000010", &files)
}

fn commit_posts(hub: &TestHub) -> usize {
    hub.asked("POST", "/commit/").len()
}

#[test]
fn a_folder_goes_in_one_commit_and_a_second_time_not_at_all() {
    let world = World::start();
    let folder = checkpoint(&world);
    let done = send(&world, &folder).unwrap();
    assert_eq!(done.url, format!("{}/me/model", world.hub.url));
    assert_eq!((done.committed.len(), done.stored), (6, 2));
    let files = world.hub.files(ID, "main");
    let names: Vec<&str> = files.keys().map(String::as_str).collect();
    let expected = [
        ".gitattributes",
        "README.md",
        "config.json",
        "empty.txt",
        "model.safetensors",
        "report/loss.png",
        "tokenizer.json",
    ];
    assert_eq!(names, expected);
    assert_eq!(files["model.safetensors"], bytes(50_000, 1));
    assert_eq!(files["empty.txt"], b"");
    assert_eq!(world.hub.commits(ID), 2);
    assert_token_is_safe(&world.hub, &[]);

    world.hub.forget();
    let again = send(&world, &folder).unwrap();
    assert!(again.committed.is_empty() && again.commit == done.commit);
    assert_eq!((commit_posts(&world.hub), world.hub.asked("PUT", "").len(), world.hub.commits(ID)), (0, 0, 2));

    // Only what changed goes.
    std::fs::write(folder.join("tokenizer.json"), "{}").unwrap();
    assert_eq!(send(&world, &folder).unwrap().committed, ["tokenizer.json"]);
    assert!(world.hub.asked("PUT", "").is_empty());
}

#[test]
fn the_state_goes_only_when_asked_for() {
    let world = World::start();
    let with = PushOptions { with_state: true, ..options() };
    push(&world.client(), &checkpoint(&world), &model(ID), &with, &Silent).unwrap();
    assert!(world.hub.files(ID, "main").contains_key("training/arena.safetensors"));
}

#[test]
fn private_repositories_and_those_that_are_there() {
    let world = World::start();
    let folder = checkpoint(&world);
    let private = PushOptions { private: true, ..options() };
    push(&world.client(), &folder, &model(ID), &private, &Silent).unwrap();
    assert!(world.hub.state().repos["models/me/model"].private);
    // What is public already does not become private by asking.
    world.hub.put("me/public", &[("config.json", b"old")]);
    let error = push(&world.client(), &folder, &model("me/public"), &private, &Silent).unwrap_err().to_string();
    assert!(error.contains("public"), "{error}");
    assert_eq!(world.hub.commits("me/public"), 1);
    // A namespace where we may not create, with and without the repository.
    let error = push(&world.client(), &folder, &model("forbidden/x"), &options(), &Silent).unwrap_err().to_string();
    assert!(error.contains("rights"), "{error}");
    world.hub.put("forbidden/there", &[("a", b"")]);
    push(&world.client(), &folder, &model("forbidden/there"), &options(), &Silent).unwrap();
    // Another of our repositories is being made at this moment.
    let busy = r#"{"error": "Cannot create repo: another conflicting operation is in progress"}"#;
    world.hub.fault("POST", "/repos/create", Wrong::Status(409, &[], busy));
    push(&world.client(), &folder, &model("me/other"), &options(), &Silent).unwrap();
}

#[test]
fn without_a_token_or_a_card_that_is_sound_nothing_is_sent() {
    let world = World::start();
    let folder = checkpoint(&world);
    let error = push(&world.anonymous(), &folder, &model(ID), &options(), &Silent).unwrap_err();
    assert!(error.exit_code() == 2 && error.to_string().contains("HF_TOKEN"), "{error}");
    let offline = Client::new(Settings { offline: true, ..world.settings() });
    push(&offline, &folder, &model(ID), &options(), &Silent).unwrap_err();
    assert!(world.hub.all_asked().is_empty());
    std::fs::write(folder.join("README.md"), "---\nlicense: [[mit]]\n---\n").unwrap();
    let error = send(&world, &folder).unwrap_err().to_string();
    assert!(error.contains("README.md") && error.contains("must be a string"), "{error}");
    assert!(world.hub.asked("PUT", "").is_empty());
    let error = send(&world, &world.folder("other", &[("a.txt", b"")])).unwrap_err().to_string();
    assert!(error.contains("config.json"), "{error}");
}

/// hf-hub 1.0 ignores `shouldIgnore`.
#[test]
fn the_gitignore_is_honoured() {
    let world = World::start();
    let folder = checkpoint(&world);
    std::fs::write(folder.join(".gitignore"), "tokenizer.json\n").unwrap();
    let done = send(&world, &folder).unwrap();
    assert!(!done.committed.contains(&"tokenizer.json".to_string()));
    assert!(!world.hub.files(ID, "main").contains_key("tokenizer.json"));
}

/// hf-hub 1.0 asks about all files at once; the Hub takes 256.
#[test]
fn questions_go_in_batches() {
    let world = World::start();
    let folder = checkpoint(&world);
    for i in 0..600 {
        std::fs::write(folder.join(format!("many-{i:03}.bin")), format!("object {i}")).unwrap();
    }
    send(&world, &folder).unwrap();
    assert_eq!(
        (world.hub.asked("POST", "/preupload/").len(), world.hub.asked("POST", "/lfs/objects/batch").len()),
        (3, 3)
    );
    assert_eq!(world.hub.files(ID, "main").len(), 607);
    assert_eq!(commit_posts(&world.hub), 1);
}

#[test]
fn a_dry_run_changes_nothing_and_says_what_would_be() {
    let world = World::start();
    let folder = checkpoint(&world);
    let plan = plan_push(&world.client(), &folder, &model(ID), &options(), &Silent).unwrap();
    assert!(!plan.exists);
    let of = |path: &str| plan.files.iter().find(|file| file.path == path).unwrap();
    assert_eq!((of("model.safetensors").upload, of("model.safetensors").size), (Upload::Lfs, 50_000));
    assert!(world.hub.state().repos.is_empty() && world.hub.asked("POST", "/repos/create").is_empty());
    send(&world, &folder).unwrap();
    world.hub.forget();
    std::fs::write(folder.join("config.json"), "{ }").unwrap();
    let plan = plan_push(&world.client(), &folder, &model(ID), &options(), &Silent).unwrap();
    let sent: Vec<&str> = plan.files.iter().filter(|file| file.is_sent()).map(|file| &file.path[..]).collect();
    assert_eq!((plan.exists, sent, plan.bytes()), (true, vec!["config.json"], 3));
    assert!(world.hub.asked("PUT", "").is_empty() && commit_posts(&world.hub) == 0);
}

#[test]
fn weights_that_would_be_loaded_in_place_of_ours_go() {
    let world = World::start();
    let old: [(&str, &[u8]); 4] = [
        ("model.safetensors.index.json", b"{}"),
        ("model-00001-of-00002.safetensors", b"1"),
        ("model-00002-of-00002.safetensors", b"2"),
        ("notes.txt", b"kept"),
    ];
    world.hub.put(ID, &old);
    send(&world, &checkpoint(&world)).unwrap();
    let files = world.hub.files(ID, "main");
    assert!(files.contains_key("notes.txt") && files.contains_key("model.safetensors"));
    assert!(!files.keys().any(|path| path.contains("-of-") || path.contains("index")));
    assert_eq!(commit_posts(&world.hub), 1);
}

#[test]
fn a_pull_request_leaves_the_branch_alone() {
    let world = World::start();
    world.hub.put(ID, &[("config.json", b"old")]);
    let pr = PushOptions { pr: true, ..options() };
    let done = push(&world.client(), &checkpoint(&world), &model(ID), &pr, &Silent).unwrap();
    assert!(done.pull_request.unwrap().ends_with("/discussions/1"));
    assert_eq!(world.hub.files(ID, "main")["config.json"], b"old");
    assert_eq!(world.hub.files(ID, "refs/pr/1")["config.json"], b"{}");
    assert!(world.hub.asked("POST", "/preupload/")[0].path.contains("create_pr=1"));
    // An answer that got lost is not answered by a second pull request.
    std::fs::write(world.home.path().join("step-00000010/config.json"), "new").unwrap();
    world.hub.fault("POST", "/commit/", Wrong::LoseAnswer);
    let error = push(&world.client(), &world.home.path().join("step-00000010"), &model(ID), &pr, &Silent).unwrap_err();
    assert!(error.to_string().contains("pull request"), "{error}");
    assert_eq!(world.hub.state().repos["models/me/model"].refs.len(), 3);
}

#[test]
fn a_lost_answer_to_the_commit_is_looked_up_not_repeated() {
    let world = World::start();
    let folder = checkpoint(&world);
    world.hub.fault("POST", "/commit/", Wrong::LoseAnswer);
    let done = send(&world, &folder).unwrap();
    assert_eq!((commit_posts(&world.hub), world.hub.commits(ID)), (1, 2));
    assert_eq!(done.commit, world.hub.state().repos["models/me/model"].at("main").unwrap().sha);
    // A request that got lost is repeated.
    std::fs::write(folder.join("config.json"), "new").unwrap();
    world.hub.faults(Fault { method: "POST", path: "/commit/", after: 1, times: 1, wrong: Wrong::Drop });
    world.hub.fault("POST", "/commit/", Wrong::Status(500, &[], ""));
    world.hub.forget();
    send(&world, &folder).unwrap();
    assert_eq!(world.hub.commits(ID), 3);
    assert_eq!(world.hub.files(ID, "main")["config.json"], b"new");
}

/// hf-hub 1.0 has no word for 412.
#[test]
fn a_commit_in_between_is_built_upon_or_refused() {
    // Someone else commits while our weights are on their way.
    let meanwhile = |path: &'static str| {
        let world = World::start();
        let folder = checkpoint(&world);
        world.hub.put(ID, &[("config.json", b"old")]);
        world.hub.fault("PUT", "/basic/", Wrong::Slow(300));
        let hub = world.hub.clone();
        let other = std::thread::spawn(move || {
            while hub.asked("PUT", "/basic/").is_empty() {
                std::thread::sleep(std::time::Duration::from_millis(5));
            }
            let mut state = hub.state();
            let repo = state.repos.get_mut("models/me/model").unwrap();
            let mut files = repo.at("main").unwrap().files.clone();
            files.insert(path.into(), super::server::Entry::Regular(b"theirs".to_vec()));
            repo.add("main", files, "theirs");
        });
        let result = send(&world, &folder);
        other.join().unwrap();
        (world, result)
    };
    let (world, result) = meanwhile("notes.txt");
    result.unwrap();
    let files = world.hub.files(ID, "main");
    assert_eq!((&files["notes.txt"][..], &files["config.json"][..]), (&b"theirs"[..], &b"{}"[..]));
    assert_eq!(commit_posts(&world.hub), 2);

    let (world, result) = meanwhile("config.json");
    let error = result.unwrap_err().to_string();
    assert!(error.contains("changed by someone else"), "{error}");
    assert_eq!(world.hub.files(ID, "main")["config.json"], b"theirs");
}

#[test]
fn a_push_to_a_renamed_repository_arrives() {
    let world = World::start();
    world.hub.put("new/name", &[("a.txt", b"")]);
    world.hub.state().moved.insert("me/model".into(), "new/name".into());
    world.hub.state().repos.insert("models/me/model".into(), Default::default());
    send(&world, &checkpoint(&world)).unwrap();
    assert!(world.hub.files("new/name", "main").contains_key("model.safetensors"));
    assert_token_is_safe(&world.hub, &[]);
}
