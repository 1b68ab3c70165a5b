//! Sweeps: what a sweep file means, runs that are killed, fail and continue, and the report of results that were made up so
//! that the right answer is known.
//!
//! Truths: verdicts follow from losses chosen here (differences far larger or smaller than their spread); laws of size are
//! read back from losses computed by the law; a sweep that was killed must end with the same bits as one that was not.

use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::{Duration, Instant};

use crate::program::taper;
use taper::events::{End, Eval, Event, EventWriter, Reason, Start, Step};
use taper::random::{Purpose, fill_normal};
use taper::sweep::Sweep;
use taper::sweep::ablation::{Verdict, ablation};
use taper::sweep::jobs::jobs;
use taper::sweep::plan::estimate;
use taper::sweep::report::report;
use taper::sweep::results::{Entry, Outcome, State, outcomes, record};

/// A base config of a model that trains in a blink.
fn base(text: &Path, steps: u64) -> String {
    format!(
        "[model]\nn_layer = 1\nn_head = 2\nn_embd = 16\ncontext_length = 16\n[tokenizer]\nkind = \"bytes\"\n\
         [data]\ntext = [{:?}]\nval_fraction = 0.2\n[train]\nmicro_batch = 2\nglobal_batch = 2\nmax_steps = {steps}\nlog_every = 1\n\
         [schedule]\nwarmup_steps = 1\n[eval]\nevery = \"off\"\n[checkpoint]\nevery = 15\nkeep_last = 1\n[sample]\nevery = \"off\"\n",
        text.display().to_string()
    )
}

fn parse(text: &str) -> Result<Sweep, String> {
    Sweep::parse(text, "S.toml", "S").map_err(|error| error.to_string())
}

/// A sweep over made-up results: `arms` are lines of `[[arm]]` tables or a grid, after other keys.
fn made_up(out: &Path, keys: &str, arms: &str) -> Sweep {
    let base = "[base.train]\nmax_steps = 100\n[base.data]\ntext = [\"no-such-file.txt\"]\nval_fraction = 0.1\n";
    let mut sweep = parse(&format!("name = \"made-up\"\n{keys}\n{arms}\n{base}")).unwrap();
    sweep.out = out.to_path_buf();
    sweep
}

/// Writes the log of a finished run.
fn finish(folder: PathBuf, loss: f64, parameters: u64, tokens: u64) {
    std::fs::create_dir_all(&folder).unwrap();
    let mut log = EventWriter::create(folder.join("events.jsonl")).unwrap();
    let start =
        Start { parameters, max_steps: Some(1), flops_per_token: Some(6.0 * parameters as f64), ..Start::default() };
    let eval =
        |step, loss| Event::Eval(Eval { step, tokens: step * tokens, split: "val".into(), loss, standard_error: None });
    let step = Step {
        step: 1,
        tokens,
        loss,
        lr: 1e-3,
        grad_norm: 1.0,
        grad_norm_clipped: 1.0,
        class: taper::events::Class::Finite,
        step_ms: 1.0,
        tokens_per_s: 1.0,
        mfu: None,
    };
    let end = Event::End(End { step: 1, reason: Reason::Done, message: None, elapsed_s: None });
    for event in [Event::Start(Box::new(start)), eval(0, 8.0), Event::Step(step), eval(1, loss), end] {
        log.write(&event).unwrap();
    }
    log.flush().unwrap();
}

#[test]
fn a_sweep_file_says_what_is_wrong_with_it() {
    let arm = "[[arm]]\nname = \"a\"\nset = { \"optimizer.lr\" = 1e-3 }\n[base.data]\ntext = [\"x.txt\"]\n[base.train]\nmax_steps = 9\n";
    for (text, expected) in [
        (format!("seed = 3\n{arm}"), "S.toml:1: unknown key \"seed\" in a sweep file; did you mean \"seeds\"?"),
        (arm.replace("set =", "sets ="), "S.toml:3: unknown key \"sets\" in [[arm]]; did you mean \"set\"?"),
        (arm.replace("optimizer.lr", "optimizer.lrr"), "did you mean \"lr\"?"),
        (arm.replace("1e-3", "\"fast\""), "optimizer.lr"),
        (format!("baseline = \"b\"\n{arm}"), "no arm is called that"),
        (format!("vary = \"dat\"\n{arm}"), "did you mean \"data\"?"),
        (format!("seeds = [1, 1]\n{arm}"), "different seeds"),
        (format!("seeds = 2\nnoise_split = 3\n{arm}"), "more than the 2 seeds"),
        (format!("vary = \"init\"\nnoise_split = 2\n{arm}"), "vary = \"all\""),
        (format!("min_effect = 0\n{arm}"), "min_effect"),
        (format!("confidence = 95\n{arm}"), "between 0 and 1"),
        (arm.replace("\"a\"", "\"../a\""), "names a folder"),
        (arm.replace("optimizer.lr\" = 1e-3", "run.seed\" = 5"), "the sweep's own"),
        (format!("[[arm]]\nname = \"b\"\nset.optimizer.lr = 0.001\n{arm}"), "are the same config"),
        ("[base]\ndata.text = [\"x\"]\ntrain.max_steps = 9\n".into(), "nothing to compare"),
        (arm.replace("text = [", "val_fraction = 0.0\ntext = ["), "holds no validation data out"),
        ("base = \"no-such-config.toml\"\n".into(), "no-such-config.toml"),
        ("seeds = = 3".into(), "S.toml:1"),
    ] {
        let error = parse(&text).expect_err(&text);
        assert!(error.contains(expected), "{text}\n-> {error}");
    }
}

#[test]
fn arms_grids_and_seeds_become_runs() {
    let text = "seeds = [7, 9]\nnoise_split = 2\n[grid]\n\"optimizer.lr\" = [1e-3, 2e-3]\nmodel.mlp = [\"gelu\", \"swiglu\"]\n\
                [[arm]]\nname = \"wide\"\nset.model = { n_embd = 96 }\n[base.data]\ntext = [\"x.txt\"]\n[base.optimizer]\nlr = 1e-3\n[base.train]\nmax_steps = 9\n";
    let sweep = parse(text).unwrap();
    let names: Vec<&str> = sweep.arms.iter().map(|arm| &arm.name[..]).collect();
    assert_eq!(names, ["wide", "lr=0.001,mlp=gelu", "lr=0.001,mlp=swiglu", "lr=0.002,mlp=gelu", "lr=0.002,mlp=swiglu"]);
    assert_eq!(sweep.baseline, 1, "the point of the grid that is the base config");
    let jobs = jobs(&sweep);
    assert_eq!(jobs.len(), 5 * 2 + 2);
    assert_eq!(jobs[0].overrides, ["model.n_embd=96", "run.seed_init=7", "run.seed_data=7", "run.seed_dropout=7"]);
    assert_eq!(jobs[5].name, "wide/seed-9", "all arms with the first seed come first");
    let apart = &jobs[10];
    assert_eq!(apart.name, "lr=0.001,mlp=gelu/seed-7-training-9");
    assert!(apart.overrides.ends_with(&[
        "run.seed_init=7".into(),
        "run.seed_data=9".into(),
        "run.seed_dropout=9".into()
    ]));

    let only = parse("seeds = 2\nvary = [\"data\"]\n[[arm]]\nname = \"a\"\nset = { optimizer.lr = 1e-4 }\n[base.data]\ntext = [\"x\"]\n[base.train]\nmax_steps = 9\n").unwrap();
    assert_eq!(only.arms[only.baseline].name, "baseline");
    assert_eq!(taper::sweep::jobs::jobs(&only)[3].overrides, ["optimizer.lr=0.0001", "run.seed_data=2"]);
}

#[test]
fn verdicts_follow_from_the_losses() {
    let folder = tempfile::tempdir().unwrap();
    let out = folder.path();
    let arm = |name: &str, lr: f64| format!("[[arm]]\nname = \"{name}\"\nset = {{ \"optimizer.lr\" = {lr:?} }}\n");
    let names = ["better", "worse", "same", "open", "exploded", "empty", "lonely"];
    let arms: String = names.iter().enumerate().map(|(i, name)| arm(name, 0.001 + 0.0001 * i as f64)).collect();
    let sweep = made_up(out, "seeds = 4\nmin_effect = 0.05\nnoise_split = 2", &arms);
    // Seeds matter much more than arms, which only pairs can see through.
    let seeds = [3.0, 3.4, 2.9, 3.2];
    let wiggle = [0.001, -0.001, 0.0005, -0.0005];
    for (i, seed_loss) in seeds.iter().enumerate() {
        let run = |name: &str, loss: f64| finish(out.join(format!("{name}/seed-{}", i + 1)), loss, 1000, 100);
        run("baseline", *seed_loss);
        run("better", seed_loss - 0.1 + wiggle[i]);
        run("worse", seed_loss + 0.2 + wiggle[i]);
        run("same", seed_loss + 0.002 + 10.0 * wiggle[i]);
        run("open", seed_loss + 100.0 * wiggle[i] + 0.01);
        run("exploded", if i == 2 { f64::NAN } else { *seed_loss });
    }
    finish(out.join("lonely/seed-1"), 2.0, 1000, 100);
    // Initialisation adds 0.4 to the second seed in the diagonal runs; training adds nothing.
    finish(out.join("baseline/seed-1-training-2"), 3.0, 1000, 100);
    finish(out.join("baseline/seed-2-training-1"), 3.4, 1000, 100);
    let failed = Entry {
        job: "empty/seed-1".into(),
        ended: "failed".into(),
        code: Some(1),
        message: Some("no disk | left".into()),
        seconds: 1.0,
    };
    record(out, &failed).unwrap();

    let found = outcomes(&sweep).unwrap();
    let report = report(&sweep, &found);
    let order: Vec<&str> = report.ablation.rows.iter().map(|row| &row.arm[..]).collect();
    assert_eq!(order[..5], ["better", "baseline", "same", "open", "worse"], "sorted by effect");
    let row = |name: &str| report.ablation.rows.iter().find(|row| row.arm == name).unwrap();
    assert_eq!(row("better").verdict, Verdict::Better);
    assert_eq!(row("worse").verdict, Verdict::Worse);
    assert_eq!(row("same").verdict, Verdict::WithinNoise);
    assert_eq!(row("baseline").verdict, Verdict::Baseline);
    assert_eq!(row("exploded").verdict, Verdict::Diverged { runs: 1 });
    assert_eq!(row("empty").verdict, Verdict::Missing);
    assert_eq!(row("lonely").verdict, Verdict::Undecided { more_seeds: Some(1) });
    let Verdict::Undecided { more_seeds: Some(more) } = row("open").verdict else { panic!("{:?}", row("open")) };
    assert!(more > 4, "{more}");
    let c = row("better").comparison.as_ref().unwrap();
    assert_eq!((c.method, c.pairs.len()), ("paired", 4));
    assert!((c.difference + 0.1).abs() < 1e-12 && (row("better").mean.unwrap() - 3.025).abs() < 1e-12);
    assert_eq!(report.ablation.comparisons, 4);
    assert!(c.p_corrected >= c.p && c.smallest_effect > 0.0);

    let noise = report.ablation.noise.as_ref().unwrap();
    assert!((noise.variance_init - 0.08).abs() < 1e-12, "half the square of 0.4: {noise:?}");
    assert!(noise.variance_training.abs() < 1e-12 && noise.variance_interaction.abs() < 1e-12);

    let text = report.text();
    assert!(text.contains("\narm       verdict "), "what one wants to know first: {text}");
    assert!(text.contains("3.025000") && text.contains("-0.100000"), "six decimals: {text}");
    assert!(text.contains("Failed: empty/seed-1: no disk | left"), "{text}");
    let files = report.write(&sweep, &out.join("report")).unwrap();
    assert!(files.iter().any(|file| file.ends_with("effects.png")) && files.iter().all(|file| file.is_file()));
    let page = std::fs::read_to_string(out.join("report/index.html")).unwrap();
    assert!(page.contains("<svg") && page.contains("within noise") && page.contains("no disk | left"));
    assert!(
        !page.contains("<script") && !page.contains("src=\"http") && !page.contains("href=\"http"),
        "nothing is fetched"
    );
    let json: serde_json::Value =
        serde_json::from_slice(&std::fs::read(out.join("report/report.json")).unwrap()).unwrap();
    let first = &json["ablation"]["rows"][0];
    assert_eq!((first["arm"].as_str(), first["verdict"].as_str()), (Some("better"), Some("better")));
    assert_eq!(json["ablation"]["rows"][0]["comparison"]["pairs"].as_array().unwrap().len(), 4);
}

/// A/A sweeps through the whole report: three copies of the baseline, three seeds, normal noise of seed and run.
#[test]
fn a_report_of_copies_calls_no_difference_in_nineteen_of_twenty_sweeps() {
    const SIMULATIONS: u64 = 600;
    let arms: String = (1..=3)
        .map(|i| format!("[[arm]]\nname = \"a{i}\"\nset = {{ \"optimizer.lr\" = {} }}\n", 1e-4 * f64::from(i)))
        .collect();
    let sweep = made_up(Path::new("unused"), "seeds = 3", &arms);
    let blank = |job| Outcome {
        job,
        state: State::Done,
        message: None,
        progress: 1.0,
        loss: None,
        initial: Some(8.0),
        split: Some("val".into()),
        parameters: Some(1000.0),
        flops_per_token: Some(6000.0),
        tokens: 100.0,
        seconds: None,
    };
    let blanks: Vec<Outcome> = jobs(&sweep).into_iter().map(blank).collect();
    let wrong = (0..SIMULATIONS).filter(|&simulation| {
        let mut noise = [0.0f32; 16];
        fill_normal(3, Purpose::Test, "copies", 16 * simulation, &mut noise);
        let mut runs = blanks.clone();
        for (i, run) in runs.iter_mut().enumerate() {
            run.loss = Some(3.0 + 0.02 * f64::from(noise[12 + run.job.seed as usize]) + 0.01 * f64::from(noise[i]));
        }
        let rows = ablation(&sweep, &runs).rows;
        rows.iter().any(|row| matches!(row.verdict, Verdict::Better | Verdict::Worse))
    });
    let rate = wrong.count() as f64 / SIMULATIONS as f64;
    // 5% and 3.1 standard errors of a count out of 600; and not zero, or it would never call anything.
    assert!(rate <= 0.05 + 3.1 * (0.05f64 * 0.95 / SIMULATIONS as f64).sqrt() && rate > 0.01, "{rate}");
}

#[test]
fn arms_without_common_seeds_are_compared_as_groups() {
    let folder = tempfile::tempdir().unwrap();
    let sweep =
        made_up(folder.path(), "seeds = [1, 2, 3, 4]", "[[arm]]\nname = \"a\"\nset = { \"optimizer.lr\" = 1e-4 }\n");
    for (arm, seed, loss) in [("baseline", 1, 3.0), ("baseline", 2, 3.01), ("a", 3, 3.5), ("a", 4, 3.52)] {
        finish(folder.path().join(format!("{arm}/seed-{seed}")), loss, 1000, 100);
    }
    let report = report(&sweep, &outcomes(&sweep).unwrap());
    let row = report.ablation.rows.iter().find(|row| row.arm == "a").unwrap();
    let c = row.comparison.as_ref().unwrap();
    assert_eq!(c.method, "welch");
    // scipy.stats.ttest_ind([3.5, 3.52], [3.0, 3.01], equal_var=False): p = 0.0033..., df = 1.4706.
    assert!((c.df - 25.0 / 17.0).abs() < 1e-6, "(v0 + v1)^2 / (v0^2 + v1^2) with v1 = 4 v0: {}", c.df);
    assert_eq!(row.verdict, Verdict::Worse);
}

#[test]
fn learning_rates_are_drawn_with_divergence_marked() {
    let folder = tempfile::tempdir().unwrap();
    let sweep = made_up(folder.path(), "seeds = 2", "[grid]\n\"optimizer.lr\" = [1e-4, 1e-3, 1e-2, 1e-1]\n");
    for (lr, loss) in [("0.0001", 3.5), ("0.001", 3.0), ("0.01", 2.8), ("0.1", 9.0)] {
        for seed in [1, 2] {
            finish(folder.path().join(format!("lr={lr}/seed-{seed}")), loss + 0.01 * f64::from(seed), 1000, 100);
        }
    }
    let report = report(&sweep, &outcomes(&sweep).unwrap());
    let view = report.views.iter().find(|view| view.stem == "learning_rate").unwrap();
    let (label, at) = view.plot.beyond.as_ref().unwrap();
    assert_eq!((&label[..], &at[..]), ("diverged (2 runs)", &[0.1][..]), "more than the untrained model's 8.0");
    let means = view.plot.groups.iter().find(|group| group.label.starts_with("mean")).unwrap();
    let rates: Vec<f64> = means.spots.iter().map(|spot| spot.x).collect();
    assert_eq!(rates, [1e-4, 1e-3, 1e-2]);
    assert!((means.spots[1].y - 3.015).abs() < 1e-12 && view.plot.x_log);
}

#[test]
fn laws_of_size_are_read_back() {
    let folder = tempfile::tempdir().unwrap();
    let arms: String = (0..12)
        .map(|i| format!("[[arm]]\nname = \"a{i}\"\nset = {{ \"optimizer.lr\" = {} }}\n", 1e-4 * (i + 1) as f64))
        .collect();
    let sweep = made_up(folder.path(), "seeds = 1\nbaseline = \"a0\"\nbudgets = [1e15, 1e16]", &arms);
    let law = |n: f64, d: f64| 1.8 + 60.0 * n.powf(-0.34) + 250.0 * d.powf(-0.28);
    let sizes = [50_000u64, 200_000, 800_000, 3_000_000];
    let tokens = [5_000_000u64, 20_000_000, 100_000_000];
    for (i, (n, d)) in sizes.iter().flat_map(|n| tokens.iter().map(move |d| (*n, *d))).enumerate() {
        finish(folder.path().join(format!("a{i}/seed-1")), law(n as f64, d as f64), n, d);
    }
    let report = report(&sweep, &outcomes(&sweep).unwrap());
    let scaling = report.scaling.as_ref().unwrap();
    let fitted = scaling.law.as_ref().unwrap();
    let beta = fitted.beta.unwrap();
    assert!((fitted.alpha.value - 0.34).abs() < 1e-3 && (beta.value - 0.28).abs() < 1e-3, "{fitted:?}");
    assert!((fitted.e.value - 1.8).abs() < 5e-3 && fitted.rms < 1e-6 && !fitted.at_bound);
    assert!((scaling.flops_per_parameter_token - 6.0).abs() < 1e-9);
    // By brute force: no size does better at that compute.
    let prediction = &scaling.predictions[0];
    let cost = |n: f64| law(n, 1e15 / (6.0 * n));
    let best = (0..4000).map(|i| 1e4 * 1.003f64.powi(i)).min_by(|a, b| cost(*a).total_cmp(&cost(*b))).unwrap();
    assert!((prediction.parameters.value / best - 1.0).abs() < 0.02, "{prediction:?} {best}");
    assert!(report.views.iter().any(|view| view.stem == "residuals"));
}

#[test]
fn isoflop_groups_give_the_best_size_of_each_budget() {
    let folder = tempfile::tempdir().unwrap();
    let arms: String = (0..10)
        .map(|i| format!("[[arm]]\nname = \"a{i}\"\nset = {{ \"optimizer.lr\" = {} }}\n", 1e-4 * (i + 1) as f64))
        .collect();
    let sweep = made_up(folder.path(), "seeds = 1\nbaseline = \"a0\"\nbudgets = [6e16]", &arms);
    // The best size is the root of C / 6 by construction: 1e6 at 6e12, 1e7 at 6e14, so 1e8 at 6e16.
    for (b, (flops, best)) in [(6e12, 1e6f64), (6e14, 1e7)].into_iter().enumerate() {
        for (i, factor) in [0.25, 0.5, 1.0, 2.0, 4.0].into_iter().enumerate() {
            let n = best * factor;
            let loss = 3.0 - 0.5 * b as f64 + 0.1 * (n / best).ln().powi(2);
            finish(folder.path().join(format!("a{}/seed-1", 5 * b + i)), loss, n as u64, (flops / (6.0 * n)) as u64);
        }
    }
    let report = report(&sweep, &outcomes(&sweep).unwrap());
    let scaling = report.scaling.as_ref().unwrap();
    assert_eq!(scaling.budgets.len(), 2);
    assert!((scaling.budgets[0].best_parameters.unwrap() / 1e6 - 1.0).abs() < 1e-3);
    assert!((scaling.best_size.unwrap().1 - 0.5).abs() < 1e-3);
    let prediction = scaling.predictions.iter().find(|p| p.method == "isoflop").unwrap();
    assert!((prediction.parameters.value / 1e8 - 1.0).abs() < 0.01, "{prediction:?}");
}

#[test]
fn finished_runs_say_how_long_the_rest_takes() {
    let folder = tempfile::tempdir().unwrap();
    let sweep = made_up(folder.path(), "seeds = 2", "[[arm]]\nname = \"a\"\nset = { \"optimizer.lr\" = 1e-4 }\n");
    let rest = |fallback: f64| estimate(&sweep, &outcomes(&sweep).unwrap(), || fallback).unwrap();
    let guess = rest(1e9);
    assert!(!guess.speed.measured && guess.runs == (4, 0, 0));
    assert!((guess.seconds.unwrap() - guess.flops / 1e9).abs() < 1e-9);
    finish(folder.path().join("baseline/seed-1"), 3.0, 1000, 100);
    let entry =
        Entry { job: "baseline/seed-1".into(), ended: "done".into(), code: Some(0), message: None, seconds: 2.0 };
    record(folder.path(), &entry).unwrap();
    let told = rest(1e9);
    // 100 tokens of 6000 operations in two seconds.
    assert!(told.speed.measured && (told.speed.flops_per_second - 300_000.0).abs() < 1e-6 && told.runs == (4, 1, 0));
}

/// A program in the place of training: it fails if another run is on its device, and waits until the other device is at
/// work too.
#[cfg(unix)]
#[test]
fn one_run_at_a_time_on_each_device() {
    use std::os::unix::fs::PermissionsExt;
    use std::sync::atomic::AtomicBool;
    use taper::sweep::runner::{self, Folder, News, Options};

    let place = tempfile::tempdir().unwrap();
    let program = place.path().join("train.sh");
    let script = format!(
        "#!/bin/sh\ncd {}\nwhile [ $# -gt 0 ]; do case $1 in --device) device=$2;; esac; shift; done\n\
         mkdir busy-$device || exit 9\ntouch seen-$device\ni=0\n\
         while [ ! -e seen-cuda:0 ] || [ ! -e seen-cuda:1 ]; do sleep 0.05; i=$((i+1)); [ $i -lt 600 ] || exit 8; done\n\
         sleep 0.02\nrmdir busy-$device\n",
        place.path().display()
    );
    std::fs::write(&program, script).unwrap();
    std::fs::set_permissions(&program, std::fs::Permissions::from_mode(0o755)).unwrap();
    let sweep =
        made_up(&place.path().join("out"), "seeds = 3", "[[arm]]\nname = \"a\"\nset = { \"optimizer.lr\" = 1e-4 }\n");
    let before = outcomes(&sweep).unwrap();
    let options = Options { program, devices: runner::devices("cuda:0,cuda:1").unwrap(), retry_failed: false };
    let folder = Folder::open(&sweep).unwrap();
    let (mut started, mut ended) = (Vec::new(), Vec::new());
    runner::run(&folder, &sweep, &before, &options, &AtomicBool::new(false), &mut |news| match news {
        News::Started(job, device) => started.push((job.name.clone(), device.unwrap().to_owned())),
        News::Ended(job, entry) => ended.push((job.name.clone(), entry.code)),
    })
    .unwrap();
    assert_eq!(started.len(), 6);
    assert!(["cuda:0", "cuda:1"].iter().all(|device| started.iter().any(|(_, on)| on == device)));
    ended.sort();
    let all: Vec<_> = (0..6).map(|i| (format!("{}/seed-{}", ["a", "baseline"][i / 3], i % 3 + 1), Some(0))).collect();
    assert_eq!(ended, all);
    assert_eq!(std::fs::read_to_string(place.path().join("out/jobs.jsonl")).unwrap().lines().count(), 6);
    // Six runs that take a minute each are done in three on two devices, and in one minute on ten.
    let minutes = |devices| {
        let estimate = estimate(&sweep, &before, || 1e9).unwrap();
        let one = estimate.seconds.unwrap();
        (6.0 * estimate.at_once(devices).seconds.unwrap() / one * 1e9).round() / 1e9
    };
    assert_eq!((minutes(0), minutes(2), minutes(10)), (6.0, 3.0, 1.0));
    // Asked to stop before it began, it starts nothing.
    let stopped = runner::run(&folder, &sweep, &before, &options, &AtomicBool::new(true), &mut |_| panic!("nothing"));
    assert_eq!(stopped.unwrap_err().exit_code(), 3);
}

/// A folder with a text, a base config and a sweep of two arms, one of which can be made to fail.
fn real(steps: u64, second: &str) -> tempfile::TempDir {
    let folder = tempfile::tempdir().unwrap();
    let text = folder.path().join("text.txt");
    let words: String = (0..1500u32).map(|i| format!("{} ", i.wrapping_mul(2_654_435_761) % 97)).collect();
    std::fs::write(&text, words).unwrap();
    std::fs::write(folder.path().join("base.toml"), base(&text, steps)).unwrap();
    let sweep = format!("base = \"base.toml\"\nout = \"out\"\nseeds = 2\n[[arm]]\nname = \"a\"\n{second}\n");
    std::fs::write(folder.path().join("s.toml"), sweep).unwrap();
    folder
}

/// The final losses of all runs, bit for bit.
fn losses(folder: &Path, out: &str) -> Vec<u64> {
    let sweep = |path: &Path| {
        let text = std::fs::read_to_string(path.join("s.toml")).unwrap();
        let base = path.join("base.toml").display().to_string();
        let mut sweep = parse(&text.replace("\"base.toml\"", &format!("{base:?}"))).unwrap();
        sweep.out = path.join(out);
        sweep
    };
    outcomes(&sweep(folder)).unwrap().iter().map(|o| o.final_loss().map_or(0, f64::to_bits)).collect()
}

#[test]
fn a_sweep_runs_to_its_end_and_a_failure_stays_in_its_run() {
    let folder = real(3, "set = { data.text = [\"missing.txt\"] }");
    let plan = taper(folder.path())
        .args(["sweep", "s.toml", "--dry-run", "--json", "--price-per-hour", "3600"])
        .output()
        .unwrap();
    let plan: serde_json::Value = serde_json::from_slice(&plan.stdout).unwrap();
    assert_eq!(plan["runs"].as_array().unwrap().len(), 4);
    assert!((plan["cost"].as_f64().unwrap() - plan["seconds"].as_f64().unwrap()).abs() < 1e-9, "a second costs one");
    assert!(!folder.path().join("out").exists(), "a dry run writes nothing");

    let output = taper(folder.path()).args(["sweep", "s.toml", "--json"]).output().unwrap();
    let words = String::from_utf8_lossy(&output.stderr).into_owned();
    assert_eq!(output.status.code(), Some(1), "{words}");
    assert!(words.contains("2 of 4 runs failed") && words.contains("missing.txt"), "{words}");
    let report: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(report["ablation"]["runs"], serde_json::json!([2, 4]));
    assert!(folder.path().join("out/report/index.html").is_file());
    // The folder says what it is: `report` makes the same report of it, and hands on the measurements of its runs.
    let alone = taper(folder.path()).args(["report", "out", "--json", "--csv", "all.csv"]).output().unwrap();
    assert!(alone.status.success(), "{}", String::from_utf8_lossy(&alone.stderr));
    let alone: serde_json::Value = serde_json::from_slice(&alone.stdout).unwrap();
    assert_eq!((&alone["sweep"], &alone["ablation"]), (&"s".into(), &report["ablation"]));
    let table = std::fs::read_to_string(folder.path().join("all.csv")).unwrap();
    let rows = |run: &str| table.lines().filter(|line| line.starts_with(run)).count();
    // Step 0 and three steps.
    assert_eq!((rows("baseline/seed-1,"), rows("baseline/seed-2,"), table.lines().count()), (4, 4, 9));
    let mixed = taper(folder.path()).args(["report", "out", "out/baseline/seed-1"]).output().unwrap();
    assert_eq!(mixed.status.code(), Some(2));
    assert!(String::from_utf8_lossy(&mixed.stderr).contains("out/ARM/seed-N"));

    let journal = || std::fs::read_to_string(folder.path().join("out/jobs.jsonl")).unwrap();
    let before = journal();
    assert_eq!(before.lines().count(), 4);

    // Nothing is due: finished and failed runs are left as they are.
    let again = taper(folder.path()).args(["sweep", "s.toml"]).output().unwrap();
    assert_eq!((again.status.code(), journal()), (Some(1), before));
    // With the mistake mended in the world, the failed ones are tried again.
    std::fs::copy(folder.path().join("text.txt"), folder.path().join("missing.txt")).unwrap();
    let mended = taper(folder.path()).args(["sweep", "s.toml", "--retry-failed"]).output().unwrap();
    assert_eq!(mended.status.code(), Some(0), "{}", String::from_utf8_lossy(&mended.stderr));
    // The same folder for another config is refused before anything is trained.
    let text = std::fs::read_to_string(folder.path().join("base.toml")).unwrap();
    std::fs::write(folder.path().join("base.toml"), format!("{text}[optimizer]\nlr = 0.5\n")).unwrap();
    let other = taper(folder.path()).args(["sweep", "s.toml"]).output().unwrap();
    let words = String::from_utf8_lossy(&other.stderr).into_owned();
    assert_eq!(other.status.code(), Some(2), "{words}");
    assert!(words.contains("optimizer.lr"), "{words}");
}

#[test]
fn a_killed_sweep_ends_with_the_same_bits() {
    let folder = real(40, "set = { optimizer.lr = 1e-3 }");
    let whole = taper(folder.path()).args(["sweep", "s.toml", "--out", "whole"]).output().unwrap();
    assert!(whole.status.success(), "{}", String::from_utf8_lossy(&whole.stderr));
    // Killed twice, each time once another run has begun to write; where a run is too fast to be met, the sweep is merely
    // over sooner.
    for run in ["a/seed-1", "baseline/seed-2"] {
        let mut sweep =
            taper(folder.path()).args(["sweep", "s.toml"]).stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
        let begun = Instant::now();
        let log = folder.path().join("out").join(run).join("events.jsonl");
        while !log.exists() && sweep.try_wait().unwrap().is_none() && begun.elapsed() < Duration::from_secs(120) {
            std::thread::sleep(Duration::from_millis(2));
        }
        sweep.kill().unwrap();
        sweep.wait().unwrap();
    }
    let end = taper(folder.path()).args(["sweep", "s.toml"]).output().unwrap();
    assert!(end.status.success(), "{}", String::from_utf8_lossy(&end.stderr));
    let (broken, unbroken) = (losses(folder.path(), "out"), losses(folder.path(), "whole"));
    assert!(broken.len() == 4 && broken.iter().all(|bits| *bits != 0));
    assert_eq!(broken, unbroken);
}
