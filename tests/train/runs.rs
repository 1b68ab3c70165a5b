//! What a run leaves behind, and what makes two runs equal.

use super::common::{Shop, stderr, timeless};
use taper::events::Reason;

#[test]
fn a_run_learns_and_leaves_everything_behind() {
    let shop = Shop::new();
    let output = shop.trained("runs/a", &["--set", "train.max_steps=120"]);
    let log = shop.log("runs/a");
    let losses: Vec<f64> = log.steps().map(|step| step.loss).collect();
    assert_eq!(losses.len(), 120);
    // A uniform guess over 257 tokens costs 5.549; the text has 12 words.
    assert!((losses[0] - 5.549).abs() < 0.2, "{}", losses[0]);
    assert!(losses[119] < 2.6, "{}", losses[119]);
    let evals: Vec<u64> = log.evals().map(|eval| eval.step).collect();
    assert_eq!(evals, (0..=12).map(|i| i * 10).collect::<Vec<_>>());
    assert_eq!(log.samples().map(|sample| sample.step).collect::<Vec<_>>(), [20, 40, 60, 80, 100, 120]);
    assert_eq!(log.end().map(|end| (end.step, end.reason)), Some((120, Reason::Done)));
    assert_eq!(log.steps().last().map(|step| step.tokens), Some(120 * 8 * 16));
    for file in ["config.toml", "environment.json", "report/loss.png", "report/loss.svg", "report/index.html"] {
        assert!(shop.path("runs/a").join(file).is_file(), "{file}");
    }
    let steps = taper::checkpoint::store::Store::of_run(&shop.path("runs/a")).steps().unwrap();
    assert!(steps.len() == 2 || steps.len() == 3, "{steps:?}");
    let text = stderr(&output);
    for word in ["parameters", "decay", "FLOPs a token", "schedule", "cosine", "fp32", "about", "taper sample"] {
        assert!(text.contains(word), "{word} is missing in:\n{text}");
    }
    assert!(output.stdout.is_empty());
}

#[test]
fn equal_configs_give_equal_bytes_whatever_the_threads() {
    let shop = Shop::new();
    shop.trained("runs/a", &[]);
    let more = shop.taper(&["train", "tiny.toml", "--run", "runs/b"]).env("RAYON_NUM_THREADS", "5").output().unwrap();
    assert!(more.status.success(), "{}", stderr(&more));
    assert_eq!(timeless(&shop.log("runs/a")), timeless(&shop.log("runs/b")));
    for ((name, a), (_, b)) in shop.checkpoint("runs/a", 40).iter().zip(&shop.checkpoint("runs/b", 40)) {
        // The card names the threads it was trained with.
        assert!(a == b || name == "README.md", "{name} differs");
    }
}

#[test]
fn each_seed_changes_its_own_thing() {
    let shop = Shop::new();
    let run = |name: &str, more: &[&str]| {
        let mut arguments = vec!["--set", "train.max_steps=2", "--set", "sample.every=off"];
        arguments.extend_from_slice(more);
        shop.trained(name, &arguments);
        let log = shop.log(name);
        let start = log.evals().next().unwrap().loss;
        let losses: Vec<f64> = log.steps().map(|step| step.loss).collect();
        (start, losses)
    };
    let base = run("runs/base", &[]);
    let init = run("runs/init", &["--set", "run.seed_init=6"]);
    let data = run("runs/data", &["--set", "run.seed_data=6"]);
    let dropout = run("runs/dropout", &["--set", "run.seed_dropout=6"]);
    assert_ne!(init.0, base.0);
    assert!(data.0 == base.0 && data.1[0] != base.1[0]);
    assert!(dropout.0 == base.0 && dropout.1[0] != base.1[0]);
    let still = run("runs/still", &["--set", "model.dropout=0", "--set", "run.seed_dropout=6"]);
    let again = run("runs/again", &["--set", "model.dropout=0"]);
    assert_eq!(still, again);
}

#[test]
fn the_micro_batch_changes_only_rounding_and_recomputation_nothing() {
    let shop = Shop::new();
    let run = |name: &str, more: &[&str]| {
        let mut arguments = vec!["--set", "train.max_steps=5", "--set", "sample.every=off"];
        arguments.extend_from_slice(more);
        shop.trained(name, &arguments);
        shop.log(name).steps().map(|step| step.loss).collect::<Vec<f64>>()
    };
    let two = run("runs/two", &[]);
    let eight = run("runs/eight", &["--set", "train.micro_batch=8"]);
    assert!(two.iter().zip(&eight).all(|(a, b)| (a - b).abs() < 1e-5), "{two:?} {eight:?}");
    assert_eq!(two, run("runs/recompute", &["--set", "train.recompute=true"]));
    let auto = run("runs/auto", &["--set", "train.micro_batch=auto"]);
    assert_eq!(auto, eight);
    let config = std::fs::read_to_string(shop.path("runs/auto/config.toml")).unwrap();
    assert!(config.contains("micro_batch = 8"), "{config}");
}

#[test]
fn the_reference_engine_trains_alike() {
    let shop = Shop::new();
    let more = ["--set", "train.max_steps=10", "--set", "model.dropout=0", "--set", "checkpoint.every=5"];
    shop.trained("runs/native", &more);
    shop.trained("runs/reference", &[&more[..], &["--engine", "reference"]].concat());
    let losses = |run: &str| shop.log(run).steps().map(|step| step.loss).collect::<Vec<f64>>();
    let (native, reference) = (losses("runs/native"), losses("runs/reference"));
    assert_eq!(native.len(), 10);
    for (a, b) in native.iter().zip(&reference) {
        assert!((a - b).abs() < 2e-5, "{native:?}\n{reference:?}");
    }
    // It resumes, too, from the native engine's checkpoint or its own.
    let error = shop.train("runs/x", &["--engine", "reference"]);
    assert!(stderr(&error).contains("dropout"), "{}", stderr(&error));
}

#[test]
fn a_run_starts_from_a_model_folder() {
    let shop = Shop::new();
    shop.trained("runs/a", &[]);
    let from = format!("model.init_from={}", shop.path("runs/a/checkpoints/step-00000040").display());
    let keys = ["n_layer", "n_head", "n_embd", "context_length"];
    let config: String = super::common::CONFIG
        .lines()
        .filter(|line| !keys.iter().any(|key| line.starts_with(key)))
        .map(|line| format!("{line}\n"))
        .collect();
    std::fs::write(shop.path("more.toml"), config).unwrap();
    let output = shop.taper(&["train", "more.toml", "--run", "runs/b", "--set", &from]).output().unwrap();
    assert!(output.status.success(), "{}", stderr(&output));
    let end = shop.log("runs/a").evals().last().unwrap().loss;
    assert_eq!(shop.log("runs/b").evals().next().unwrap().loss, end);
    // A key that contradicts the folder is an error that names both.
    let output = shop.train("runs/c", &["--set", &from, "--set", "model.n_layer=3"]);
    assert_eq!(output.status.code(), Some(2));
    assert!(stderr(&output).contains("n_layer"), "{}", stderr(&output));
}
