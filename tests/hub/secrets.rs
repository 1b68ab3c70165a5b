//! The token is seen nowhere: every text of failing pulls and pushes is searched for it, while the hub does what it can to
//! have it repeated.

use super::server::{TOKEN, Wrong};
use super::{World, assert_token_is_safe, bytes};
use std::path::Path;
use std::process::Command;

use crate::program;

/// Everything below a folder, names and contents.
fn contents(folder: &Path) -> Vec<String> {
    let files = walkdir::WalkDir::new(folder).into_iter().flatten();
    files
        .map(|entry| {
            let bytes = if entry.file_type().is_file() { super::read(entry.path()) } else { Vec::new() };
            format!("{}\n{}", entry.path().display(), String::from_utf8_lossy(&bytes))
        })
        .collect()
}

fn taper(world: &World, arguments: &[&str], variable: &str) -> (i32, String) {
    let home = world.home.path();
    let mut command = program::taper(home);
    command.args(arguments).env_clear().env(variable, TOKEN);
    command.env("HOME", home).env("HF_HOME", home.join("hf")).env("HF_ENDPOINT", &world.hub.url);
    command.env("RUST_BACKTRACE", "full").env("RUST_LOG", "trace");
    let (code, out, err) = program::told(&mut command);
    (code, out + &err)
}

#[test]
fn no_failure_shows_the_token() {
    // The hub repeats it in bodies, in headers, in addresses.
    let json = "{\"error\": \"bad token hf_test_0123456789 given\"}";
    let list = "{\"errors\": [{\"message\": \"hf_test_0123456789 is bad\"}], \"warnings\": []}";
    let warned = "{\"errors\": [], \"warnings\": [{\"message\": \"hf_test_0123456789 is odd\"}]}";
    let said: &[(&str, &str)] =
        &[("x-error-message", "hf_test_0123456789"), ("x-error-code", "hf_test_0123456789"), ("retry-after", "0")];
    let away: &[(&str, &str)] = &[("location", "https://127.0.0.1:1/hf_test_0123456789?token=hf_test_0123456789")];
    let here: &[(&str, &str)] = &[("location", "/hf_test_0123456789")];
    let faults = [
        ("POST", "/repos/create", Wrong::Status(400, &[], json)),
        ("POST", "/validate-yaml", Wrong::Status(400, &[], list)),
        ("POST", "/validate-yaml", Wrong::Status(200, &[], list)),
        ("POST", "/validate-yaml", Wrong::Status(200, &[], warned)),
        ("POST", "/preupload/", Wrong::Status(403, said, "")),
        ("POST", "/preupload/", Wrong::Status(200, &[], "hf_test_0123456789")),
        ("POST", "/objects/batch", Wrong::Status(422, &[], json)),
        ("PUT", "", Wrong::Status(400, said, "<Error>hf_test_0123456789</Error>")),
        ("POST", "/commit/", Wrong::Status(400, said, json)),
        ("POST", "/commit/", Wrong::Status(500, said, json)),
        ("POST", "/commit/", Wrong::Status(307, away, "")),
        ("GET", "/revision/", Wrong::Status(401, said, json)),
        ("GET", "/revision/", Wrong::Status(404, said, json)),
        ("GET", "/revision/", Wrong::Status(302, here, "")),
        ("GET", "/revision/", Wrong::Status(302, away, "")),
        ("HEAD", "", Wrong::Status(403, said, "")),
        ("GET", "/blob/", Wrong::Status(403, said, "hf_test_0123456789")),
        ("GET", "/blob/", Wrong::Drop),
    ];
    // One hub each, at once: a person waits a second before the client tries again.
    std::thread::scope(|scope| {
        for (number, fault) in faults.into_iter().enumerate() {
            let variable = if number % 2 == 0 { "HF_TOKEN" } else { "HUGGING_FACE_HUB_TOKEN" };
            scope.spawn(move || fails_in_silence(fault, variable));
        }
    });
}

/// Pushes, lists and pulls on a hub with a fault, and searches all that is said and written.
fn fails_in_silence((method, path, wrong): (&'static str, &'static str, Wrong), variable: &str) {
    let world = World::start();
    world.hub.put("me/there", &[("config.json", b"{}"), ("tokenizer.json", b"{}"), ("model.safetensors", b"weights")]);
    let card = b"---\nlicense: mit\n---\n# A model\n";
    world.folder("m", &[("config.json", b"{}"), ("README.md", card), ("model.safetensors", &bytes(5000, 1))]);
    for arguments in
        [&["push", "m", "me/m"][..], &["push", "m", "me/there", "--dry-run", "--json"], &["pull", "me/there"]]
    {
        world.hub.fault(method, path, wrong.clone());
        let (_, told) = taper(&world, arguments, variable);
        assert_token_is_safe(&world.hub, std::slice::from_ref(&told));
        assert!(!told.contains("panicked"), "{told}");
        world.hub.disarm();
    }
    // Nor is it in anything that was written.
    assert_token_is_safe(&world.hub, &contents(world.home.path()));
}

#[test]
fn a_token_in_the_config_is_refused_without_being_shown() {
    let world = World::start();
    for config in [
        "[push]\ntoken = \"hf_test_0123456789\"\n",
        "[push]\nrepo = \"me/m\"\nhf_token = hf_test_0123456789\n",
        "[push]\nrepo = \"hf_test_0123456789\"\n",
        "[push]\nrepo = \"me/m\" hf_test_0123456789\n",
    ] {
        std::fs::write(world.home.path().join("c.toml"), format!("[data]\ntext = \"x.txt\"\n{config}")).unwrap();
        let (code, told) = taper(&world, &["train", "c.toml", "--run", "run"], "OTHER");
        assert_eq!(code, 2, "{told}");
        assert!(!told.contains(TOKEN), "{told}");
    }
}

/// What the test below starts, in a process of its own with the token in its environment: a sweep whose runs are a script
/// that writes its environment down.
#[test]
#[cfg(unix)]
#[ignore = "the test below starts it"]
fn a_sweep_in_a_process_of_its_own() {
    use std::os::unix::fs::PermissionsExt;
    use taper::sweep::{Sweep, results::outcomes, runner};
    let home = std::path::PathBuf::from(std::env::var("TEST_HOME").unwrap());
    let program = home.join("program");
    std::fs::write(&program, "#!/bin/sh\nenv\nexit 1\n").unwrap();
    std::fs::set_permissions(&program, std::fs::Permissions::from_mode(0o755)).unwrap();
    let text = "name = \"s\"\nseeds = [1]\n[[arm]]\nname = \"a\"\nset = { \"optimizer.lr\" = 0.1 }\n[base.train]\n\
        max_steps = 4\n[base.data]\ntext = [\"no-such-file.txt\"]\nval_fraction = 0.1\n";
    let mut sweep = Sweep::parse(text, "S.toml", "S").unwrap();
    sweep.out = home.join("sweep");
    let options = runner::Options { program, devices: Vec::new(), retry_failed: false };
    let folder = runner::Folder::open(&sweep).unwrap();
    let stop = std::sync::atomic::AtomicBool::new(false);
    runner::run(&folder, &sweep, &outcomes(&sweep).unwrap(), &options, &stop, &mut |_| {}).unwrap();
}

#[test]
#[cfg(unix)]
fn the_runs_of_a_sweep_do_not_get_the_token() {
    let home = tempfile::tempdir().unwrap();
    let mut command = Command::new(std::env::current_exe().unwrap());
    command.args(["--exact", "hub::secrets::a_sweep_in_a_process_of_its_own", "--ignored"]);
    command.env("TEST_HOME", home.path()).env("HF_TOKEN", TOKEN).env("HUGGING_FACE_HUB_TOKEN", TOKEN);
    let output = command.output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stdout));
    let written = contents(&home.path().join("sweep")).join("\n");
    assert!(written.contains("TEST_HOME="), "the script ran and wrote its environment: {written}");
    assert!(!written.contains(TOKEN) && !written.contains("HF_TOKEN"), "{written}");
}
