//! Gradients that are not finite: classified, skipped or stopped at, counted.

use super::common::{Shop, stderr};
use taper::events::{Action, Class, Reason};

/// A rate that blows the model up within a few steps, without clipping or warmup.
const BLOW_UP: [&str; 8] = [
    "--set",
    "optimizer.lr=1e30",
    "--set",
    "schedule.warmup_steps=0",
    "--set",
    "stability.clip_norm=off",
    "--set",
    "stability.max_consecutive_skips=5",
];

#[test]
fn a_run_that_blows_up_says_so_and_stops_after_many_skips() {
    let shop = Shop::new();
    let output = shop.train("runs/a", &BLOW_UP);
    assert_eq!(output.status.code(), Some(1), "{}", stderr(&output));
    assert!(stderr(&output).contains("max_consecutive_skips"), "{}", stderr(&output));
    let log = shop.log("runs/a");
    assert_eq!(log.nonfinites().count(), 5);
    assert!(log.nonfinites().all(|event| event.action == Action::Skip));
    let last = log.steps().last().unwrap();
    assert!(matches!(last.class, Class::LossNonfinite | Class::Nonfinite | Class::Overflow), "{last:?}");
    assert_eq!(log.end().map(|end| end.reason), Some(Reason::Error));
    // The state is saved: a run that stops can continue.
    let step = log.end().unwrap().step;
    assert!(shop.path("runs/a").join(format!("checkpoints/step-{step:08}/training/state.json")).is_file());
}

#[test]
fn the_error_policy_saves_the_state_before_the_step() {
    let shop = Shop::new();
    let output = shop.train("runs/a", &[&BLOW_UP[..], &["--set", "stability.nonfinite=error"]].concat());
    assert_eq!(output.status.code(), Some(1));
    let log = shop.log("runs/a");
    let event = log.nonfinites().next().unwrap();
    assert_eq!(event.action, Action::Error);
    let (taken, saved) = (log.steps().last().unwrap().step, event.step - 1);
    assert_eq!(taken, saved);
    assert!(shop.path("runs/a").join(format!("checkpoints/step-{saved:08}")).is_dir());
    assert!(stderr(&output).contains(&format!("step {} is not finite", event.step)), "{}", stderr(&output));
}

#[test]
fn clipping_is_counted() {
    let shop = Shop::new();
    shop.trained("runs/a", &["--set", "stability.clip_norm=0.5", "--set", "train.max_steps=10"]);
    let log = shop.log("runs/a");
    let clipped: Vec<_> = log.steps().filter(|step| step.class == Class::Clipped).collect();
    assert!(!clipped.is_empty());
    for step in log.steps() {
        assert_eq!(step.class == Class::Clipped, step.grad_norm > 0.5);
        let expected = if step.grad_norm > 0.5 { 0.5 } else { step.grad_norm };
        assert_eq!(step.grad_norm_clipped, expected);
    }
}
