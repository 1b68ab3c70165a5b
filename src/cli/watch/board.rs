//! What a dashboard shows of a run, made out of its event log: numbers, curves, the newest events and samples.

use crate::events::{Class, Event, EventLog, Ranks, Step, number_to_string};
use crate::report::figure::{Average, median, smooth, smoothing_window};
use crate::report::{State, Summary, summary};
use std::time::Duration;

/// Steps over which speed and loss are averaged for the numbers: recent enough to be now, enough to be calm.
const RECENT: usize = 50;
/// Events and samples that are kept for the lists.
const LISTED: usize = 50;

/// How a run stands.
#[derive(Clone, Debug)]
pub struct Board {
    /// The name of its folder.
    pub name: String,
    /// The run's numbers.
    pub summary: Summary,
    /// The last step that is planned.
    pub max_steps: Option<u64>,
    /// What it runs on.
    pub device: Option<String>,
    /// Memory on the device in bytes, as planned or measured at the start.
    pub memory_bytes: Option<u64>,
    /// The clip norm.
    pub clip_norm: Option<f64>,
    /// The newest step.
    pub last: Option<Step>,
    /// Mean loss of the newest steps.
    pub recent_loss: Option<f64>,
    /// Median of the newest steps, in tokens per second.
    pub tokens_per_s: Option<f64>,
    /// Time that is left at the pace of the newest steps; what is done between steps is not counted.
    pub left: Option<Duration>,
    /// How long ago the log was written.
    pub age: Option<Duration>,
    /// Training losses by step.
    pub loss: Vec<(f64, f64)>,
    /// The same, smoothed; empty where there are too few.
    pub smooth_loss: Vec<(f64, f64)>,
    /// Validation losses by step.
    pub val_loss: Vec<(f64, f64)>,
    /// The spread of the ranks' times, where there are several.
    pub ranks: Option<Ranks>,
    /// Gradient norms by step, before clipping.
    pub grad_norm: Vec<(f64, f64)>,
    /// Tokens per second by step.
    pub throughput: Vec<(f64, f64)>,
    /// The newest events in words, oldest first.
    pub events: Vec<String>,
    /// The newest sample: step, prompt and text.
    pub sample: Option<(u64, String, String)>,
}

impl Board {
    /// What the log says now; `age` is the time since it was written.
    pub fn new(name: String, log: &EventLog, age: Option<Duration>) -> Self {
        let summary = summary(log);
        let steps: Vec<&Step> = log.steps().collect();
        let recent = &steps[steps.len().saturating_sub(RECENT)..];
        let losses = recent.iter().map(|e| e.loss).filter(|loss| loss.is_finite());
        let count = losses.clone().count();
        let step_ms = median(recent.iter().map(|e| e.step_ms));
        let start = log.start();
        let max_steps = start.and_then(|start| start.max_steps);
        let left = max_steps.zip(step_ms).filter(|_| summary.state == State::Unfinished).and_then(|(max, ms)| {
            Duration::try_from_secs_f64(max.saturating_sub(summary.steps) as f64 * ms / 1e3).ok()
        });
        let points = |of: fn(&Step) -> f64| steps.iter().map(|e| (e.step as f64, of(e))).collect::<Vec<_>>();
        let loss = points(|e| e.loss);
        let smooth_loss =
            smoothing_window(loss.len()).map_or_else(Vec::new, |window| smooth(&loss, window, Average::Mean));
        let mut events: Vec<String> = log.events.iter().rev().filter_map(in_words).take(LISTED).collect();
        events.reverse();
        let split = summary.split.clone();
        Board {
            name,
            max_steps,
            device: start.and_then(|start| start.device.clone()),
            memory_bytes: start.and_then(|start| start.memory_bytes),
            clip_norm: start.and_then(|start| start.clip_norm),
            last: steps.last().map(|step| (*step).clone()),
            recent_loss: (count > 0).then(|| losses.sum::<f64>() / count as f64),
            tokens_per_s: median(recent.iter().map(|e| e.tokens_per_s)),
            left,
            age,
            loss,
            smooth_loss,
            val_loss: log
                .evals()
                .filter(|e| Some(&e.split) == split.as_ref())
                .map(|e| (e.step as f64, e.loss))
                .collect(),
            ranks: log.ranks().last().cloned(),
            grad_norm: points(|e| e.grad_norm),
            throughput: points(|e| e.tokens_per_s),
            events,
            sample: log.samples().last().map(|e| (e.step, e.prompt.clone(), e.text.clone())),
            summary,
        }
    }

    /// How the run stands, in a few words.
    pub fn state(&self) -> String {
        let age = self.age.map_or(String::new(), |age| format!(", last written {} ago", duration(age)));
        match self.summary.state {
            State::Done => "done".into(),
            State::Stopped => "stopped, state saved".into(),
            State::Failed => format!("failed: {}", self.summary.message.as_deref().unwrap_or("see events.jsonl")),
            State::Unfinished if self.last.is_none() => format!("no step yet{age}"),
            State::Unfinished => format!("training{age}"),
        }
    }

    /// `step 120/2000`.
    pub fn progress(&self) -> String {
        match self.max_steps {
            Some(max) => format!("step {}/{max}", self.summary.steps),
            None => format!("step {}", self.summary.steps),
        }
    }

    /// The share that is done, from 0 to 1.
    pub fn share(&self) -> f64 {
        self.max_steps.map_or(0.0, |max| (self.summary.steps as f64 / max.max(1) as f64).clamp(0.0, 1.0))
    }

    /// The numbers, each with its name; what is not known is left out.
    pub fn numbers(&self) -> Vec<(&'static str, String)> {
        let at = |at: &crate::report::LossAt| format!("{:.4} at step {}", at.loss, at.step);
        let s = &self.summary;
        let c = &s.classes;
        let bad = c.overflow + c.nonfinite + c.loss_nonfinite;
        let troubles = (bad + s.spikes + c.clipped > 0)
            .then(|| format!("{} clipped, {bad} not finite, {} spikes", c.clipped, s.spikes));
        let all = [
            ("loss", self.recent_loss.map(|loss| format!("{loss:.4}"))),
            ("validation", s.last_val_loss.as_ref().map(at)),
            ("best", s.best_val_loss.as_ref().map(at)),
            ("grad norm", self.last.as_ref().map(|e| short(e.grad_norm))),
            ("lr", self.last.as_ref().map(|e| format!("{:.3e}", e.lr))),
            ("tokens", Some(short(s.tokens as f64))),
            ("speed", self.tokens_per_s.map(|v| format!("{} tokens/s", short(v)))),
            ("MFU", s.median_mfu.map(|mfu| format!("{:.1}%", 100.0 * mfu))),
            ("ranks", self.ranks.as_ref().map(stragglers)),
            ("left", self.left.map(duration)),
            ("memory", self.memory_bytes.map(|bytes| format!("{} MiB planned", bytes >> 20))),
            ("device", self.device.clone()),
            ("steps", troubles),
        ];
        all.into_iter().filter_map(|(name, value)| Some((name, value?))).collect()
    }
}

/// An event in words; `None` for those that the curves and the sample show.
pub(super) fn in_words(event: &Event) -> Option<String> {
    Some(match event {
        Event::Step(e) if e.class == Class::Overflow => format!("step {}: gradient norm overflowed", e.step),
        Event::Start(_) | Event::Step(_) | Event::Sample(_) | Event::Ranks(_) => return None,
        Event::Eval(e) => format!("step {}: {} loss {}", e.step, e.split, short(e.loss)),
        Event::Task(e) => format!("step {}: {} {}", e.step, e.task, e.in_words()),
        Event::Nonfinite(e) => {
            let by = e.parameter.as_ref().map_or(String::new(), |name| format!(" in {name}"));
            format!("step {}: {}{by}", e.step, e.class.name().replace('_', " "))
        }
        Event::Spike(e) => format!("step {}: loss spike to {} (z {})", e.step, short(e.loss), short(e.z_score)),
        Event::Rollback(e) => format!("step {}: back to step {} after a spike to {}", e.from, e.step, short(e.loss)),
        Event::Checkpoint(e) => format!("step {}: saved {}", e.step, e.path),
        Event::Resume(e) => format!("step {}: resumed", e.step),
        Event::End(e) => format!("step {}: ended ({:?})", e.step, e.reason).to_lowercase(),
    })
}

/// The slowest rank, and how much longer than the fastest it takes: `rank 2 +50% (450 ms)`.
fn stragglers(ranks: &Ranks) -> String {
    let more = 100.0 * (ranks.slowest_ms / ranks.fastest_ms - 1.0);
    format!("rank {} +{more:.0}% ({} ms)", ranks.slowest, short(ranks.slowest_ms))
}

/// A number for people: four significant digits or so.
pub(super) fn short(value: f64) -> String {
    match value.abs() {
        _ if !value.is_finite() => number_to_string(value),
        v if v >= 1e9 => format!("{:.2}B", value / 1e9),
        v if v >= 1e6 => format!("{:.2}M", value / 1e6),
        v if v >= 1e4 => format!("{:.1}k", value / 1e3),
        v if v >= 100.0 => format!("{value:.0}"),
        v if v >= 0.01 || v == 0.0 => format!("{value:.4}"),
        _ => format!("{value:.2e}"),
    }
}

/// `42 s`, `3 min 20 s`, `5 h 03 min`, `2 d 4 h`.
pub(super) fn duration(time: Duration) -> String {
    match time.as_secs() {
        s @ 0..60 => format!("{s} s"),
        s @ 60..3600 => format!("{} min {:02} s", s / 60, s % 60),
        s @ 3600..172_800 => format!("{} h {:02} min", s / 3600, s / 60 % 60),
        s => format!("{} d {} h", s / 86_400, s / 3600 % 24),
    }
}
