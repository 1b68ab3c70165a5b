//! Training in several processes: the same bytes for any number of them, and no failure that hangs or changes the result.

use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use crate::common::{Shop, read, stderr, timeless};

/// A model of several shards of the optimizer's state and several buckets of gradients, with accumulation.
pub const WIDER: &[&str] = &[
    "--set",
    "model.n_embd=64",
    "--set",
    "model.n_layer=2",
    "--set",
    "train.micro_batch=1",
    "--set",
    "train.max_steps=24",
    "--set",
    "eval.every=8",
    "--set",
    "checkpoint.every=8",
    "--set",
    "sample.every=12",
    "--set",
    "dist.timeout=20",
    "--set",
    "dist.bucket_mb=0.05",
    "--device",
    "cpu",
];

fn with<'a>(more: &[&'a str]) -> Vec<&'a str> {
    [WIDER, more].concat()
}

/// The event log without what tells one number of ranks from another.
fn story(shop: &Shop, run: &str) -> Vec<String> {
    timeless(&shop.log(run)).into_iter().filter(|line| !line.contains(r#""event":"ranks""#)).collect()
}

fn the_same(shop: &Shop, run: &str, expected: &str) {
    for ((name, found), (_, wanted)) in shop.checkpoint(run, 24).iter().zip(&shop.checkpoint(expected, 24)) {
        assert!(found == wanted, "{run}: {name} differs from {expected}");
    }
    assert_eq!(story(shop, run), story(shop, expected), "{run}");
}

#[test]
fn the_number_of_processes_changes_no_byte() {
    let shop = Shop::new();
    shop.trained("one", &with(&[]));
    for processes in ["2", "4"] {
        shop.trained(processes, &with(&["--processes", processes]));
        the_same(&shop, processes, "one");
    }
    let ranks = shop.log("4");
    assert!(ranks.ranks().all(|spread| spread.ranks == 4 && spread.slowest_ms >= spread.fastest_ms));
    assert!(ranks.ranks().count() > 0 && ranks.ranks().all(|spread| spread.overlap));
    let environment = read(&shop.path("4").join("environment.json"));
    assert!(String::from_utf8_lossy(&environment).contains(r#""world_size": 4"#));

    // ZeRO-1, begun by two, stopped by a signal, continued by four that keep no parts, and by one.
    shop.trained("sharded", &with(&["--processes", "4", "--set", "dist.shard_optimizer=true"]));
    for name in ["model.safetensors", "training/arena.safetensors", "training/state.json"] {
        let of = |run: &str| read(&shop.path(run).join("checkpoints/step-00000024").join(name));
        assert!(of("sharded") == of("one"), "sharded: {name}");
    }
    assert_eq!(story(&shop, "sharded"), story(&shop, "one"));
}

/// With parts of the optimizer's state as well, where each rank must round the weights that others have updated.
#[test]
fn the_number_of_processes_changes_no_byte_in_bf16() {
    let shop = Shop::new();
    let bf16 = |more: &[&'static str]| with(&[&["--set", "precision.compute=\"bf16\""], more].concat());
    shop.trained("one", &bf16(&[]));
    shop.trained("two", &bf16(&["--processes", "2"]));
    the_same(&shop, "two", "one");
    shop.trained("sharded", &bf16(&["--processes", "4", "--set", "dist.shard_optimizer=true"]));
    for name in ["model.safetensors", "training/arena.safetensors", "training/state.json"] {
        let of = |run: &str| read(&shop.path(run).join("checkpoints/step-00000024").join(name));
        assert!(of("sharded") == of("one"), "sharded: {name}");
    }
    assert_eq!(story(&shop, "sharded"), story(&shop, "one"));
}

#[test]
fn a_signal_stops_all_at_one_step_and_another_number_goes_on() {
    let shop = Shop::new();
    shop.trained("unbroken", &with(&[]));
    let arguments = with(&["--processes", "4", "--set", "dist.shard_optimizer=true"]);
    let mut child = shop
        .taper(&[&["train", "tiny.toml", "--run", "broken"], &arguments[..]].concat())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    wait_for(|| shop.path("broken/checkpoints/latest").exists());
    signal(child.id(), libc::SIGTERM);
    let status = child.wait().unwrap();
    assert!(matches!(status.code(), Some(3 | 0)), "{status}");
    let output = shop.train("broken", &with(&["--resume", "--processes", "2"]));
    assert!(output.status.success(), "{}", stderr(&output));
    for name in ["model.safetensors", "training/arena.safetensors"] {
        let of = |run: &str| read(&shop.path(run).join("checkpoints/step-00000024").join(name));
        assert!(of("broken") == of("unbroken"), "{name}");
    }
}

#[test]
fn a_rank_that_is_killed_panics_or_stalls_is_named_and_the_run_ends_in_the_same_bytes() {
    let shop = Shop::new();
    shop.trained("calm", &with(&[]));
    // Moments of every kind: before the first step, within a step, around a checkpoint.
    let faults = [
        ("1@70:kill", "rank 1 was killed by signal 9"),
        ("0@stop flag/0:panic", "rank 0 panicked"),
        ("3@gradients/9:stall", "rank 3 does not answer"),
    ];
    for (number, (fault, words)) in faults.into_iter().enumerate() {
        let run = format!("run{number}");
        let began = Instant::now();
        let arguments = with(&["--processes", "4", "--set", "dist.timeout=2"]);
        let output = shop
            .taper(&[&["train", "tiny.toml", "--run", &run], &arguments[..]].concat())
            .env("TAPER_FAULT", fault)
            .output()
            .unwrap();
        let text = stderr(&output);
        assert!(output.status.success(), "{fault}: {text}");
        assert!(text.contains(words) && text.contains("(restart 1 of at most 3)"), "{fault}: {text}");
        assert!(began.elapsed() < Duration::from_secs(120), "{fault} took {:?}", began.elapsed());
        for name in ["model.safetensors", "training/arena.safetensors"] {
            let of = |run: &str| read(&shop.path(run).join("checkpoints/step-00000024").join(name));
            assert!(of(&run) == of("calm"), "{fault}: {name}");
        }
    }
    // Without restarts the run fails, and its log says why.
    let arguments = with(&["--processes", "2", "--restarts", "0"]);
    let output = shop
        .taper(&[&["train", "tiny.toml", "--run", "given-up"], &arguments[..]].concat())
        .env("TAPER_FAULT", "1@gradients/3:kill")
        .output()
        .unwrap();
    assert_eq!(output.status.code(), Some(1));
    let end = shop.log("given-up").end().and_then(|end| end.message.clone()).unwrap_or_default();
    assert!(end.contains("rank 1 is gone") && end.contains("of step"), "{end}");
}

/// Random numbers below each limit. The seed stands in the messages; TAPER_TEST_SEED repeats what it gave.
pub struct Moments {
    pub seed: u64,
    drawn: u64,
}

impl Moments {
    pub fn new() -> Moments {
        let since = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap();
        let given = std::env::var("TAPER_TEST_SEED").ok().and_then(|seed| seed.parse().ok());
        let seed = given.unwrap_or(since.as_nanos() as u64 % 1_000_000_007);
        println!("TAPER_TEST_SEED={seed}");
        Moments { seed, drawn: 0 }
    }

    fn below(&mut self, limit: u64) -> u64 {
        self.drawn += 1;
        (taper::random::uniform(self.seed, taper::random::Purpose::Test, 0, self.drawn) * limit as f64) as u64
    }

    /// A fault of one of so many ranks within a time.
    pub fn fault(&mut self, ranks: u64, kind: &str, within: Duration) -> String {
        format!("{}@{}ms:{kind}", self.below(ranks), self.below(within.as_millis() as u64))
    }
}

#[test]
fn faults_at_random_moments_hang_nothing_and_change_no_byte() {
    let shop = Shop::new();
    let mut moments = Moments::new();
    // Not so long that a test waits for it, and not so short that a busy machine looks like a fault.
    let arguments = with(&["--processes", "4", "--set", "dist.timeout=4", "--set", "dist.shard_optimizer=true"]);
    let began = Instant::now();
    shop.trained("calm", &arguments);
    let calm = began.elapsed();
    for (number, kind) in ["kill", "panic", "stall", "kill"].into_iter().enumerate() {
        let (run, fault) = (format!("run{number}"), moments.fault(4, kind, calm));
        let what = format!("TAPER_TEST_SEED={}: {fault}", moments.seed);
        println!("{fault}");
        let began = Instant::now();
        let output = shop
            .taper(&[&["train", "tiny.toml", "--run", &run], &arguments[..]].concat())
            .env("TAPER_FAULT", &fault)
            .output()
            .unwrap();
        assert!(output.status.success(), "{what}: {}", stderr(&output));
        assert!(began.elapsed() < Duration::from_secs(120), "{what} took {:?}", began.elapsed());
        for name in ["model.safetensors", "training/arena.safetensors", "training/state.json"] {
            let of = |run: &str| read(&shop.path(run).join("checkpoints/step-00000024").join(name));
            assert!(of(&run) == of("calm"), "{what}: {name}");
        }
        let left = std::fs::read_dir(shop.path(&run).join("checkpoints")).unwrap().flatten();
        let left: Vec<_> =
            left.map(|entry| entry.file_name()).filter(|name| name.to_string_lossy().starts_with('.')).collect();
        assert!(left.is_empty(), "{what}: {left:?}");
    }
}

#[test]
fn ranks_that_do_not_share_a_folder_leave_checkpoints_to_rank_0() {
    let shop = Shop::new();
    shop.trained("one", &with(&[]));
    // Two machines, each with a folder of its own: the contract of torchrun.
    let train = || {
        let port = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port().to_string();
        let start = |rank: &str, run: &str| {
            let more = with(&["--resume", "--set", "dist.shard_optimizer=true"]);
            let mut command = shop.taper(&[&["train", "tiny.toml", "--run", run], &more[..]].concat());
            command.envs([("RANK", rank), ("WORLD_SIZE", "2"), ("LOCAL_RANK", "0")]);
            command.envs([("MASTER_ADDR", "127.0.0.1"), ("MASTER_PORT", port.as_str())]);
            command.stderr(Stdio::piped()).spawn().unwrap()
        };
        let ranks = [start("0", "here"), start("1", "there")];
        let outputs = ranks.map(|rank| rank.wait_with_output().unwrap());
        assert!(outputs.iter().all(|output| output.status.success()), "{}", outputs.each_ref().map(stderr).join("\n"));
        assert!(stderr(&outputs[0]).contains("rank 0 writes checkpoints alone"), "{}", stderr(&outputs[0]));
    };
    let of = |run: &str, name: &str| read(&shop.path(run).join("checkpoints/step-00000024").join(name));
    train();
    assert!(!shop.path("there/checkpoints").exists());
    for name in ["model.safetensors", "training/arena.safetensors", "training/state.json"] {
        assert!(of("here", name) == of("one", name), "{name}");
    }
    // On from rank 0's checkpoint, which rank 1 does not see.
    for newer in ["step-00000024", "latest"] {
        let path = shop.path("here/checkpoints").join(newer);
        if path.is_dir() { std::fs::remove_dir_all(path).unwrap() } else { std::fs::remove_file(path).unwrap() }
    }
    train();
    for name in ["model.safetensors", "training/arena.safetensors"] {
        assert!(of("here", name) == of("one", name), "resumed: {name}");
    }
}

#[test]
fn ranks_that_do_not_agree_are_named() {
    let shop = Shop::new();
    let port = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port().to_string();
    let start = |rank: &str, more: &[&str]| {
        let mut command: Command =
            shop.taper(&[&["train", "tiny.toml", "--run", "r", "--device", "cpu"], more].concat());
        // The contract of torchrun.
        command.envs([("RANK", rank), ("WORLD_SIZE", "2"), ("LOCAL_RANK", rank)]);
        command.envs([("MASTER_ADDR", "127.0.0.1"), ("MASTER_PORT", port.as_str())]);
        command.stderr(Stdio::piped()).spawn().unwrap()
    };
    let ranks = [start("0", &[]), start("1", &["--set", "optimizer.lr=2e-2"])];
    for rank in ranks {
        let output = rank.wait_with_output().unwrap();
        assert_eq!(output.status.code(), Some(2));
        let text = stderr(&output);
        assert!(text.contains("optimizer.lr is 0.02 on rank 1 and 0.01 on rank 0"), "{text}");
    }
    assert!(!shop.path("r/events.jsonl").exists());
}

#[test]
fn what_cannot_be_shared_is_refused_and_other_sums_are_near() {
    let shop = Shop::new();
    // One micro-batch, one lane.
    let output = shop.train("narrow", &with(&["--processes", "2", "--set", "train.micro_batch=8"]));
    assert_eq!(output.status.code(), Some(2), "{}", stderr(&output));
    assert!(stderr(&output).contains("2 processes cannot share 1 lane"), "{}", stderr(&output));
    let output = shop.train("lanes", &with(&["--set", "dist.lanes=16"]));
    assert!(stderr(&output).contains("dist.lanes = 16 does not divide the 8 micro-batches"), "{}", stderr(&output));
    let output = shop.train("both", &["--processes", "2", "--gpus", "2"]);
    assert_eq!(output.status.code(), Some(2));

    shop.trained("exact", &with(&[]));
    let bf16 = with(&["--processes", "2", "--set", "dist.communication=bf16", "--set", "dist.reduction=fast"]);
    let output = shop.trained("bf16", &bf16);
    assert!(stderr(&output).contains("depends on the number of processes"), "{}", stderr(&output));
    let last = |run: &str| shop.log(run).steps().last().map(|step| (step.step, step.loss)).unwrap();
    let ((steps, exact), (_, near)) = (last("exact"), last("bf16"));
    assert!(steps == 24 && (exact - near).abs() < 0.05 && exact != near, "{exact} and {near}");
}

fn wait_for(ready: impl Fn() -> bool) {
    let began = Instant::now();
    while !ready() {
        assert!(began.elapsed() < Duration::from_secs(60), "nothing happened");
        std::thread::sleep(Duration::from_millis(5));
    }
}

fn signal(process: u32, signal: i32) {
    // SAFETY: a child of this test that has not been waited for.
    unsafe { libc::kill(process as libc::pid_t, signal) };
}
