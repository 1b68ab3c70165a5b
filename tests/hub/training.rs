//! Pushes next to a run: nothing waits for them, and nothing fails through them.

use super::server::{Fault, TOKEN, Wrong};
use super::{World, bytes, model, read};
use crate::program;
use std::path::PathBuf;
use std::sync::atomic::AtomicBool;
use taper::hub::{Background, PushOptions};

fn checkpoint(world: &World, step: u32) -> PathBuf {
    let name = format!("run/checkpoints/step-{step:08}");
    let card = format!("# step {step}");
    let files: [(&str, &[u8]); 4] = [
        ("config.json", b"{}"),
        ("README.md", card.as_bytes()),
        ("model.safetensors", &bytes(20_000, step)),
        ("training/state.json", b"{}"),
    ];
    world.folder(&name, &files)
}

#[test]
fn the_newest_checkpoint_arrives_even_if_the_run_removes_it() {
    let world = World::start();
    let run = world.home.path().join("run");
    world.hub.faults(Fault { method: "PUT", path: "/basic/", after: 0, times: 1, wrong: Wrong::Slow(300) });
    let pusher = Background::start(world.settings(), model("me/model"), PushOptions::default()).unwrap();
    for step in 1..=5 {
        let folder = checkpoint(&world, step);
        pusher.offer(&run, &folder, Box::new(|_| Ok(())));
        std::fs::remove_dir_all(folder).unwrap();
    }
    let pushed = pusher.finish(&AtomicBool::new(false));
    assert_eq!(pushed.failure, None);
    assert_eq!(pushed.last.unwrap().0, "step-00000005");
    assert_eq!(pushed.done + pushed.skipped, 5);
    assert_eq!(world.hub.files("me/model", "main")["README.md"], b"# step 5");
    assert_eq!(world.hub.files("me/model", "main")["model.safetensors"], bytes(20_000, 5));
    assert!(!run.join(".push").exists());
}

#[test]
fn what_fails_is_told_at_the_end_and_made_good_by_the_next() {
    let world = World::start();
    let run = world.home.path().join("run");
    let refuse = Wrong::Status(403, &[], "{\"error\": \"storage is full\"}");
    world.hub.faults(Fault { method: "POST", path: "/commit/", after: 0, times: 1, wrong: refuse });
    let pusher = Background::start(world.settings(), model("me/model"), PushOptions::default()).unwrap();
    pusher.offer(&run, &checkpoint(&world, 1), Box::new(|_| Ok(())));
    let pushed = pusher.finish(&AtomicBool::new(false));
    assert!(pushed.failure.unwrap().contains("storage is full"));
    let pusher = Background::start(world.settings(), model("me/model"), PushOptions::default()).unwrap();
    pusher.offer(&run, &checkpoint(&world, 2), Box::new(|_| Ok(())));
    // A checkpoint that is not there fails nobody.
    pusher.offer(&run, &run.join("checkpoints/step-none"), Box::new(|_| Ok(())));
    assert_eq!(pusher.finish(&AtomicBool::new(false)).done, 1);
    assert_eq!(world.hub.files("me/model", "main")["README.md"], b"# step 2");
}

#[test]
fn a_stopped_run_does_not_wait() {
    let world = World::start();
    let run = world.home.path().join("run");
    world.hub.faults(Fault {
        method: "POST",
        path: "",
        after: 0,
        times: 999,
        wrong: Wrong::Status(503, &[("retry-after", "600")], ""),
    });
    let pusher = Background::start(world.settings(), model("me/model"), PushOptions::default()).unwrap();
    pusher.offer(&run, &checkpoint(&world, 1), Box::new(|_| Ok(())));
    // Would wait ten minutes for the Hub.
    let pushed = pusher.finish(&AtomicBool::new(true));
    assert_eq!(pushed.done, 0);
}

const CONFIG: &str = "[model]\nn_layer = 1\nn_head = 2\nn_embd = 16\ncontext_length = 16\n[tokenizer]\nkind = \"bytes\"\n\
    [data]\ntext = \"text.txt\"\nval_fraction = 0\n[train]\nmicro_batch = 2\nmax_steps = 4\n[checkpoint]\nevery = 2\n\
    [push]\nevery = \"checkpoint\"\nrepo = \"me/run\"\nprivate = true\n";

#[test]
fn a_run_pushes_its_checkpoints() {
    let world = World::start();
    let home = world.home.path();
    std::fs::write(home.join("c.toml"), CONFIG).unwrap();
    std::fs::write(home.join("text.txt"), "All that is gold does not glitter. ".repeat(30)).unwrap();
    let train = |run: &str, endpoint: &str, token: Option<&str>| {
        let mut command = program::taper(home);
        command.args(["train", "c.toml", "--device", "cpu", "--run", run]);
        command.env_clear().env("HOME", home).env("HF_HOME", home.join("hf")).env("HF_ENDPOINT", endpoint);
        if let Some(token) = token {
            command.env("HF_TOKEN", token);
        }
        let output = command.output().unwrap();
        let told = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(output.status.success(), "{told}");
        assert!(!told.contains(TOKEN));
        told
    };
    let told = train("one", &world.hub.url, Some(TOKEN));
    assert!(told.contains("pushed step-00000004 to"), "{told}");
    assert!(world.hub.state().repos["models/me/run"].private);
    let files = world.hub.files("me/run", "main");
    assert_eq!(files["model.safetensors"], read(home.join("one/checkpoints/step-00000004/model.safetensors")));
    assert!(!files.keys().any(|path| path.starts_with("training")));
    for file in ["one/config.toml", "one/events.jsonl", "one/environment.json"] {
        assert!(!String::from_utf8_lossy(&read(home.join(file))).contains(TOKEN), "{file}");
    }
    // Without a token, the run goes its way all the same, and to the same bits.
    let told = train("two", &world.hub.url, None);
    assert!(told.contains("will NOT be pushed"), "{told}");
    let weights = |run: &str| read(home.join(run).join("checkpoints/step-00000004/model.safetensors"));
    assert_eq!(weights("one"), weights("two"));
}
