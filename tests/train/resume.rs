//! Stop anywhere, by any means, and resume: the same bits as never stopping.

use std::process::{Child, Stdio};
use std::time::{Duration, Instant};

use super::common::{Shop, stderr, timeless};
use taper::events::Reason;
use taper::random::{Purpose, uniform};

fn start(shop: &Shop, run: &str, more: &[&str]) -> Child {
    let mut arguments = vec!["train", "tiny.toml", "--run", run, "--resume"];
    arguments.extend_from_slice(more);
    shop.taper(&arguments).stderr(Stdio::null()).stdout(Stdio::null()).spawn().unwrap()
}

#[test]
fn killed_at_twenty_random_moments() {
    let shop = Shop::new();
    let more = ["--set", "train.max_steps=400", "--set", "checkpoint.every=10", "--set", "checkpoint.keep_last=3"];
    let began = Instant::now();
    shop.trained("runs/unbroken", &more);
    let whole = began.elapsed();

    let (mut kills, mut tries) = (0, 0);
    while kills < 20 && tries < 60 {
        // Up to a sixth of a whole run: in the preparation, between and within steps, while saving and drawing.
        let moment = whole.mul_f64(uniform(11, Purpose::Test, tries, 0) / 6.0);
        tries += 1;
        let mut child = start(&shop, "runs/killed", &more);
        std::thread::sleep(moment);
        if child.try_wait().unwrap().is_none() {
            child.kill().unwrap();
            kills += 1;
        }
        child.wait().unwrap();
    }
    let output = shop.trained("runs/killed", &[&more[..], &["--resume"]].concat());
    assert!(kills == 20 || stderr(&output).contains("finished"), "{kills} kills");
    assert_eq!(shop.checkpoint("runs/unbroken", 400), shop.checkpoint("runs/killed", 400));
    let (unbroken, broken) = (timeless(&shop.log("runs/unbroken")), timeless(&shop.log("runs/killed")));
    for (a, b) in unbroken.iter().zip(&broken) {
        assert_eq!(a, b, "the first event that differs");
    }
    assert_eq!(unbroken.len(), broken.len());
    // A finished run is finished.
    let again = shop.trained("runs/killed", &[&more[..], &["--resume"]].concat());
    assert!(stderr(&again).contains("finished"), "{}", stderr(&again));
}

/// In bf16 the weights that products read are a rounded copy, which a resumed run makes anew from the master weights.
#[test]
fn killed_in_bf16() {
    let shop = Shop::new();
    let bf16 = ["--device", "cpu", "--set", "precision.compute=\"bf16\"", "--set", "checkpoint.keep_last=9"];
    let output = shop.trained("runs/whole", &bf16);
    assert!(stderr(&output).contains("bf16"), "{}", stderr(&output));
    let environment = String::from_utf8(super::common::read(&shop.path("runs/whole/environment.json"))).unwrap();
    assert!(environment.contains(r#""precision": "bf16""#), "{environment}");
    // Killed once the first checkpoint is there.
    let mut child = start(&shop, "runs/killed", &bf16);
    let began = Instant::now();
    while !shop.path("runs/killed/checkpoints/latest").exists() {
        assert!(began.elapsed() < Duration::from_secs(60));
        std::thread::sleep(Duration::from_millis(5));
    }
    child.kill().unwrap();
    child.wait().unwrap();
    for step in [20, 30, 40] {
        std::fs::remove_dir_all(shop.path(&format!("runs/killed/checkpoints/step-{step:08}"))).ok();
    }
    shop.trained("runs/killed", &[&bf16[..], &["--resume"]].concat());
    assert_eq!(shop.checkpoint("runs/whole", 40), shop.checkpoint("runs/killed", 40));
    assert_eq!(timeless(&shop.log("runs/whole")), timeless(&shop.log("runs/killed")));
    // Other numbers than in fp32, and no other text.
    shop.trained("runs/fp32", &["--device", "cpu"]);
    let losses = |run: &str| shop.log(run).steps().map(|step| step.loss).collect::<Vec<f64>>();
    let (narrow, wide) = (losses("runs/whole"), losses("runs/fp32"));
    assert_ne!(narrow, wide);
    assert!(narrow.iter().zip(&wide).all(|(a, b)| (a - b).abs() < 0.05), "{narrow:?}\n{wide:?}");
}

#[test]
fn the_reference_engine_resumes_too() {
    let shop = Shop::new();
    let more = ["--engine", "reference", "--set", "model.dropout=0", "--set", "checkpoint.keep_last=9"];
    shop.trained("runs/whole", &more);
    shop.trained("runs/cut", &more);
    for step in [30, 40] {
        std::fs::remove_dir_all(shop.path(&format!("runs/cut/checkpoints/step-{step:08}"))).unwrap();
    }
    shop.trained("runs/cut", &[&more[..], &["--resume"]].concat());
    assert_eq!(shop.checkpoint("runs/whole", 40), shop.checkpoint("runs/cut", 40));
}

#[cfg(unix)]
#[test]
fn a_signal_saves_and_exits_with_3() {
    let shop = Shop::new();
    let more = ["--set", "train.max_steps=100000", "--set", "checkpoint.every=off", "--set", "eval.every=off"];
    for (signal, run) in [(libc::SIGTERM, "runs/term"), (libc::SIGINT, "runs/int")] {
        let mut child = start(&shop, run, &more);
        // Once the log is there the run has begun; a moment later some steps are done.
        let log = shop.path(run).join("events.jsonl");
        let began = Instant::now();
        while log.metadata().map_or(0, |metadata| metadata.len()) == 0 {
            assert!(began.elapsed() < Duration::from_secs(60) && child.try_wait().unwrap().is_none());
            std::thread::sleep(Duration::from_millis(10));
        }
        std::thread::sleep(Duration::from_millis(200));
        // SAFETY: kill has no memory effects; the child has not been waited for, so its pid is its own.
        assert_eq!(unsafe { libc::kill(child.id() as i32, signal) }, 0);
        assert_eq!(child.wait().unwrap().code(), Some(3));
        let log = shop.log(run);
        let end = log.end().unwrap();
        assert_eq!(end.reason, Reason::Signal);
        assert!(shop.path(run).join(format!("checkpoints/step-{:08}", end.step)).is_dir());
    }
}

#[test]
fn a_damaged_checkpoint_is_passed_over_and_named() {
    let shop = Shop::new();
    shop.trained("runs/whole", &[]);
    shop.trained("runs/torn", &["--set", "checkpoint.keep_last=9"]);
    let newest = shop.path("runs/torn/checkpoints/step-00000040");
    let arena = newest.join("training/arena.safetensors");
    let bytes = std::fs::read(&arena).unwrap();
    std::fs::write(&arena, &bytes[..bytes.len() / 2]).unwrap();
    let output = shop.trained("runs/torn", &["--resume"]);
    let text = stderr(&output);
    assert!(text.contains("step 40 cannot be used") && text.contains("arena.safetensors"), "{text}");
    assert_eq!(shop.checkpoint("runs/whole", 40)[0], shop.checkpoint("runs/torn", 40)[0]);
    // All damaged: refused, with the way on.
    for step in [10, 20, 30, 40] {
        let state = shop.path(&format!("runs/torn/checkpoints/step-{step:08}/training/state.json"));
        if state.is_file() {
            std::fs::write(state, "{").unwrap();
        }
    }
    let output = shop.train("runs/torn", &["--resume"]);
    assert_eq!(output.status.code(), Some(1));
    assert!(stderr(&output).contains("init_from"), "{}", stderr(&output));
}

#[test]
fn a_resumed_run_needs_no_text_and_refuses_other_data() {
    let shop = Shop::new();
    shop.trained("runs/whole", &[]);
    shop.trained("runs/half", &["--set", "checkpoint.keep_last=9"]);
    for step in [30, 40] {
        std::fs::remove_dir_all(shop.path(&format!("runs/half/checkpoints/step-{step:08}"))).unwrap();
    }
    // A torn last line of the log is cut.
    let log = shop.path("runs/half/events.jsonl");
    let mut text = std::fs::read(&log).unwrap();
    text.extend_from_slice(b"{\"event\":\"step\",\"st");
    std::fs::write(&log, text).unwrap();
    std::fs::rename(shop.path("text.txt"), shop.path("away.txt")).unwrap();
    shop.trained("runs/half", &["--resume"]);
    assert_eq!(shop.checkpoint("runs/whole", 40), shop.checkpoint("runs/half", 40));
    assert_eq!(timeless(&shop.log("runs/whole")), timeless(&shop.log("runs/half")));

    std::fs::rename(shop.path("away.txt"), shop.path("text.txt")).unwrap();
    for change in ["model.n_embd=32", "data.val_fraction=0.2"] {
        let output = shop.train("runs/half", &["--resume", "--set", change]);
        assert_eq!(output.status.code(), Some(2), "{change}");
        assert!(stderr(&output).contains(change.split('=').next().unwrap()), "{}", stderr(&output));
    }
    // More steps are allowed, with a word.
    let output = shop.trained("runs/half", &["--resume", "--set", "train.max_steps=50"]);
    assert!(stderr(&output).contains("train.max_steps 40 -> 50"), "{}", stderr(&output));
    assert_eq!(shop.log("runs/half").steps().last().unwrap().step, 50);
}

#[test]
fn a_process_killed_at_the_very_end_is_made_up_for() {
    let shop = Shop::new();
    shop.trained("runs/a", &[]);
    let path = shop.path("runs/a/events.jsonl");
    let whole = std::fs::read_to_string(&path).unwrap();
    let before = timeless(&shop.log("runs/a"));
    // As if killed after the last checkpoint was renamed, and before anything was said about it.
    let cut: Vec<&str> = whole.lines().collect();
    assert!(cut[cut.len() - 1].contains("\"end\"") && cut[cut.len() - 2].contains("\"checkpoint\""));
    std::fs::write(&path, cut[..cut.len() - 2].join("\n") + "\n").unwrap();
    shop.trained("runs/a", &["--resume"]);
    assert_eq!(timeless(&shop.log("runs/a")), before);
    assert_eq!(shop.log("runs/a").end().map(|end| (end.step, end.reason)), Some((40, Reason::Done)));
}
