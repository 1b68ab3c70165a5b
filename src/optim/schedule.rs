//! The learning rate as a function of the step.
//!
//! There is no scheduler object: [`learning_rate`] is asked before every update and answers from the config, the step and
//! the length of the run. A resumed run needs no saved state to be on the same curve. A new shape is one variant of
//! [`ScheduleKind`] and one `match` arm here.
//!
//! Steps count from 0. The decay is laid out so that the least rate belongs to step `max_steps`, the first one that is *not*
//! done (as in nanoGPT): the last update of a run still moves the model, even with `min_lr_ratio = 0`.

use super::config::{ScheduleConfig, ScheduleKind};
use crate::math;

/// The learning rate of optimizer step `step` (from 0) in a run of `max_steps` steps whose highest rate is `base_lr`.
pub fn learning_rate(schedule: &ScheduleConfig, base_lr: f64, step: u64, max_steps: u64) -> f64 {
    let warmup = schedule.warmup_steps;
    if step < warmup {
        return base_lr * (step + 1) as f64 / (warmup + 1) as f64;
    }
    let least = base_lr * schedule.min_lr_ratio;
    match schedule.kind {
        ScheduleKind::Constant => base_lr,
        ScheduleKind::Linear => between(base_lr, least, 1.0 - progress(step, warmup, max_steps)),
        ScheduleKind::Cosine => {
            let angle = std::f64::consts::PI * progress(step, warmup, max_steps);
            between(base_lr, least, 0.5 * (1.0 + math::cos(angle)))
        }
        ScheduleKind::Wsd => {
            let start = max_steps.saturating_sub(schedule.decay_length(max_steps)).max(warmup);
            between(base_lr, least, 1.0 - progress(step, start, max_steps))
        }
    }
}

/// How far `step` is from `start` (0) to `end` (1). An empty stretch is behind us.
fn progress(step: u64, start: u64, end: u64) -> f64 {
    if step >= end {
        return 1.0;
    }
    step.saturating_sub(start) as f64 / (end - start.min(end)) as f64
}

/// `least` at weight 0 and `base` at weight 1, both exactly, though `least + (base - least)` may round to another number.
fn between(base: f64, least: f64, weight: f64) -> f64 {
    if weight >= 1.0 {
        return base;
    }
    least + (base - least) * weight.max(0.0)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn schedule(kind: ScheduleKind, warmup_steps: u64, min_lr_ratio: f64) -> ScheduleConfig {
        ScheduleConfig { kind, warmup_steps, min_lr_ratio, ..ScheduleConfig::default() }
    }

    fn close(a: f64, b: f64) {
        assert!((a - b).abs() <= 1e-15, "{a} is not {b}");
    }

    // Expected values: worked out by hand from the definitions, with lr 1 and least rate 0.1.
    #[test]
    fn hand_computed_points() {
        let cosine = schedule(ScheduleKind::Cosine, 4, 0.1);
        let rate = |step| learning_rate(&cosine, 1.0, step, 104);
        close(rate(0), 0.2);
        close(rate(3), 0.8);
        assert_eq!(rate(4), 1.0);
        // A quarter of the way: 0.1 + 0.9 * (1 + sqrt(1/2)) / 2.
        close(rate(29), 0.868_198_051_533_946_4);
        // Half way: 0.1 + 0.9 / 2.
        close(rate(54), 0.55);
        // Three quarters: 0.1 + 0.9 * (1 - sqrt(1/2)) / 2.
        close(rate(79), 0.231_801_948_466_053_65);
        close(rate(104), 0.1);
        close(rate(1_000_000), 0.1);

        let linear = schedule(ScheduleKind::Linear, 0, 0.0);
        assert_eq!([0, 1, 3, 4, 5].map(|step| learning_rate(&linear, 8.0, step, 4)), [8.0, 6.0, 2.0, 0.0, 0.0]);

        let constant = schedule(ScheduleKind::Constant, 1, 0.1);
        assert_eq!([0, 1, 9, 99].map(|step| learning_rate(&constant, 3.0, step, 10)), [1.5, 3.0, 3.0, 3.0]);

        let wsd = ScheduleConfig { decay_steps: Some(4), ..schedule(ScheduleKind::Wsd, 1, 0.0) };
        let rates = [0, 1, 6, 7, 9, 10].map(|step| learning_rate(&wsd, 8.0, step, 10));
        assert_eq!(rates, [4.0, 8.0, 8.0, 6.0, 2.0, 0.0]);
        // The default decay is the last fifth: steps 8 and 9 of 10.
        let wsd = schedule(ScheduleKind::Wsd, 0, 0.0);
        assert_eq!([7, 8, 9, 10].map(|step| learning_rate(&wsd, 8.0, step, 10)), [8.0, 8.0, 4.0, 0.0]);
    }

    // The formula of nanoGPT's `get_lr`, evaluated by Python's math module for lr 6e-4, least 6e-5, warmup 2000 of 600000.
    #[test]
    fn nanogpt_points() {
        let cosine = schedule(ScheduleKind::Cosine, 2000, 0.1);
        let points = [
            (0, 2.998500749625187e-07),
            (1999, 0.0005997001499250374),
            (2000, 0.0006),
            (123456, 0.0005468768063375066),
            (599999, 6.00000000037259e-05),
        ];
        for (step, expected) in points {
            let rate = learning_rate(&cosine, 6e-4, step, 600_000);
            assert!((rate - expected).abs() <= 1e-15 * 6e-4 * 4.0, "step {step}: {rate:e} is not {expected:e}");
        }
    }

    #[test]
    fn a_run_shorter_than_its_warmup_only_warms_up() {
        for kind in [ScheduleKind::Cosine, ScheduleKind::Wsd, ScheduleKind::Linear, ScheduleKind::Constant] {
            let schedule = schedule(kind, 100, 0.1);
            let rates: Vec<f64> = (0..5).map(|step| learning_rate(&schedule, 1.01, step, 5)).collect();
            for (step, rate) in rates.into_iter().enumerate() {
                close(rate, 0.01 * (step + 1) as f64);
            }
        }
    }

    fn any_schedule() -> impl Strategy<Value = (ScheduleConfig, u64)> {
        let kinds = [ScheduleKind::Cosine, ScheduleKind::Wsd, ScheduleKind::Linear, ScheduleKind::Constant];
        (0usize..4, 0u64..400, 0.0..=1.0f64, proptest::option::of(0u64..500), 1u64..500).prop_map(
            move |(kind, warmup_steps, min_lr_ratio, decay_steps, max_steps)| {
                let schedule = ScheduleConfig {
                    kind: kinds[kind],
                    warmup_steps,
                    min_lr_ratio,
                    decay_steps,
                    ..ScheduleConfig::default()
                };
                (schedule, max_steps)
            },
        )
    }

    proptest! {
        #[test]
        fn rises_then_never_rises_and_stays_in_bounds((schedule, max_steps) in any_schedule(), base in 1e-6..1.0f64) {
            let rates: Vec<f64> =
                (0..max_steps + 3).map(|step| learning_rate(&schedule, base, step, max_steps)).collect();
            for (step, pair) in rates.windows(2).enumerate() {
                if (step as u64 + 1) < schedule.warmup_steps {
                    prop_assert!(pair[0] < pair[1], "step {step}");
                } else if step as u64 >= schedule.warmup_steps {
                    prop_assert!(pair[0] >= pair[1], "step {step}: {} then {}", pair[0], pair[1]);
                }
            }
            let after = schedule.warmup_steps.max(max_steps);
            let end = learning_rate(&schedule, base, after, max_steps);
            let expected = if schedule.kind == ScheduleKind::Constant { base } else { base * schedule.min_lr_ratio };
            prop_assert_eq!(end, expected);
            prop_assert!(rates.iter().all(|&rate| rate >= 0.0 && rate <= base));
        }

        // No step moves the rate by more than the steepest slope of its shape allows (plus the rounding).
        #[test]
        fn is_continuous((schedule, max_steps) in any_schedule()) {
            // Only where there is room: a decay squeezed to nothing by the warmup is a drop by design.
            prop_assume!(schedule.warmup_steps < max_steps);
            let stretch = match schedule.kind {
                ScheduleKind::Wsd => schedule.decay_length(max_steps).min(max_steps - schedule.warmup_steps),
                _ => max_steps - schedule.warmup_steps,
            };
            prop_assume!(stretch > 0);
            let slope = std::f64::consts::FRAC_PI_2 / stretch as f64;
            let allowed = slope.max(1.0 / (schedule.warmup_steps + 1) as f64) + 1e-12;
            for step in 0..max_steps {
                let change = learning_rate(&schedule, 1.0, step + 1, max_steps)
                    - learning_rate(&schedule, 1.0, step, max_steps);
                prop_assert!(change.abs() <= allowed, "step {step} changes by {change}, more than {allowed}");
            }
        }
    }
}
