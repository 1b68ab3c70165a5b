//! `stability.spike = "rollback"`: back to the checkpoint, past the data, with the same bits however often the run is
//! stopped.
//!
//! The spikes are planted: a text of twelve words with a stretch of noise in it, read in order.

use super::common::{Shop, stderr, timeless};
use std::process::Stdio;
use std::time::Duration;
use taper::events::Event;
use taper::random::{Purpose, uniform};

/// Tokens of a step of the shop's config: 8 sequences of 16 bytes.
const STEP: usize = 8 * 16;
/// Steps whose data is noise (the first of them counted from 1), and how many.
const NOISE: (usize, usize) = (35, 2);

const MORE: [&str; 18] = [
    "--set",
    "data.shuffle=false",
    "--set",
    "train.max_steps=50",
    "--set",
    "train.log_every=1",
    "--set",
    "stability.spike=rollback",
    "--set",
    "stability.spike_window=20",
    "--set",
    "stability.spike_threshold=15",
    "--set",
    "checkpoint.keep_last=1",
    "--set",
    "sample.every=off",
    "--set",
    "schedule.kind=constant",
];

fn shop() -> Shop {
    let shop = Shop::new();
    let words = ["the ", "lamp ", "burns ", "low ", "and ", "night ", "is ", "long ", "but ", "day ", "will ", "come "];
    // Words drawn at random: no period that steps could fall in with.
    let mut text: String = (0..12_000).map(|i| words[(uniform(3, Purpose::Test, i, 0) * 12.0) as usize]).collect();
    let (first, steps) = NOISE;
    let noise: String =
        (0..(steps * STEP) as u64).map(|i| char::from(33 + (uniform(4, Purpose::Test, i, 0) * 90.0) as u8)).collect();
    let from = (first - 1) * STEP;
    text.replace_range(from..from + noise.len(), &noise);
    std::fs::write(shop.path("text.txt"), text).unwrap();
    shop
}

fn start(shop: &Shop, run: &str) -> std::process::Child {
    let arguments = [&["train", "tiny.toml", "--run", run, "--resume"], &MORE[..]].concat();
    shop.taper(&arguments).stderr(Stdio::null()).stdout(Stdio::null()).spawn().unwrap()
}

#[test]
fn a_spike_is_taken_back_and_its_data_left_out() {
    let shop = shop();
    shop.trained("runs/a", &MORE);
    let log = shop.log("runs/a");
    // Data of steps 35 and 36 is noise: each makes the run go back to step 30, with the data of six steps, and then
    // with that of the next six left out.
    let found: Vec<_> = log.rollbacks().map(|e| (e.step, e.from, e.data.first_sequence, e.data.sequences)).collect();
    let (step, from, first, sequences) = found[0];
    assert_eq!((step, from, first, sequences), (30, 35, 30 * 8, 5 * 8));
    assert_eq!(log.rollbacks().next().unwrap().data.positions[1], 30 * STEP as u64 + 16, "read in order");
    assert!(log.rollbacks().next().unwrap().loss > 4.0);
    // The second step of noise comes first now.
    assert_eq!(found[1..], [(30, 31, 35 * 8, 8)]);
    let steps: Vec<u64> = log.steps().map(|e| e.step).collect();
    assert_eq!(steps, (1..=50).collect::<Vec<_>>(), "what was taken back does not count");
    assert!(log.steps().skip(30).all(|e| e.loss < 3.0), "no noise in what counts");
    assert_eq!(log.steps().last().unwrap().tokens, 50 * STEP as u64);
    let state: serde_json::Value = serde_json::from_slice(&shop.checkpoint("runs/a", 50)[5].1).unwrap();
    // 50 steps that count, 5 and 1 that were taken back.
    assert_eq!(state["next_sequence"], 56 * 8);
    // Without it the noise is only noted.
    shop.trained("runs/log", &[&MORE[..], &["--set", "stability.spike=log"]].concat());
    let log = shop.log("runs/log");
    assert_eq!(log.rollbacks().count(), 0);
    let spike = log.spikes().next().unwrap();
    assert_eq!((spike.step, spike.data.as_ref().unwrap().first_sequence), (35, 34 * 8));
    // The number leads to the text.
    let number = (34 * 8).to_string();
    let output =
        shop.taper(&["data", "inspect", "runs/log", "--sequence", &number, "--count", "2", "--json"]).output().unwrap();
    assert!(output.status.success(), "{}", stderr(&output));
    let shown: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
    let text = std::fs::read_to_string(shop.path("text.txt")).unwrap();
    assert_eq!(shown["sequences"][0]["text"], text[34 * STEP..34 * STEP + 16]);
    assert_eq!(shown["sequences"][1]["position"], 34 * STEP + 16);
}

#[cfg(unix)]
#[test]
fn stopped_and_killed_around_a_rollback() {
    let shop = shop();
    shop.trained("runs/unbroken", &MORE);
    // Stopped with its state saved before the spike, so that another checkpoint than the scheduled one is the newest;
    // killed before, between and after the rollbacks.
    for (run, signal, word, times) in [
        ("runs/before", libc::SIGTERM, "\"step\":32,", 1),
        ("runs/killed", libc::SIGKILL, "\"step\":33,", 1),
        ("runs/between", libc::SIGTERM, "\"event\":\"rollback\"", 1),
        ("runs/after", libc::SIGKILL, "\"event\":\"rollback\"", 2),
        ("runs/later", libc::SIGTERM, "\"event\":\"rollback\"", 2),
    ] {
        let mut child = start(&shop, run);
        let log = shop.path(run).join("events.jsonl");
        while child.try_wait().unwrap().is_none()
            && std::fs::read_to_string(&log).unwrap_or_default().matches(word).count() < times
        {
            std::thread::sleep(Duration::from_millis(1));
        }
        if child.try_wait().unwrap().is_none() {
            // SAFETY: kill has no memory effects; the child has not been waited for, so its pid is its own.
            unsafe { libc::kill(child.id() as i32, signal) };
        }
        child.wait().unwrap();
        shop.trained(run, &[&MORE[..], &["--resume"]].concat());
        assert_eq!(shop.checkpoint("runs/unbroken", 50), shop.checkpoint(run, 50), "{run}");
        let told = |name: &str| {
            let mut log = shop.log(name);
            // A checkpoint that a signal asked for is one more.
            log.events.retain(|event| !matches!(event, Event::Checkpoint(_)));
            timeless(&log)
        };
        assert_eq!(told("runs/unbroken"), told(run), "{run}");
    }
}

#[test]
fn a_run_that_spikes_again_and_again_gives_up() {
    let shop = shop();
    // A loss above the mean of the two before it is a spike already.
    let more = [&MORE[..], &["--set", "stability.spike_threshold=1e-9", "--set", "stability.spike_window=2"]].concat();
    let output = shop.train("runs/a", &more);
    assert_eq!(output.status.code(), Some(1), "{}", stderr(&output));
    assert!(stderr(&output).contains("10 times"), "{}", stderr(&output));
    assert!(shop.log("runs/a").rollbacks().count() >= 10);
}
