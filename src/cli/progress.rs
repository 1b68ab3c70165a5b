//! What a person sees of a run: a progress bar on a terminal, plain lines elsewhere, charts in the run folder.

use std::io::IsTerminal;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};

use crate::data::Progress;
use crate::events::{Class, Event};
use crate::report;
use crate::train::Observer;

/// Whether this process leaves the talking to another.
static SILENT: AtomicBool = AtomicBool::new(false);

/// From now on [`say`] says nothing: of several processes that train together, one speaks.
pub(super) fn silence() {
    SILENT.store(true, Ordering::Relaxed);
}

/// Says something to the user, on standard error.
pub(super) fn say(message: &str) {
    if !SILENT.load(Ordering::Relaxed) {
        eprintln!("{message}");
    }
}

fn style(template: &str) -> ProgressStyle {
    ProgressStyle::with_template(template).unwrap_or_else(|_| ProgressStyle::default_bar())
}

/// A bar on a terminal, nothing elsewhere.
pub(super) fn bar(total: u64, template: &str) -> ProgressBar {
    let target = match std::io::stderr().is_terminal() && !SILENT.load(Ordering::Relaxed) {
        true => ProgressDrawTarget::stderr_with_hz(5),
        false => ProgressDrawTarget::hidden(),
    };
    ProgressBar::with_draw_target(Some(total), target).with_style(style(template))
}

/// Tokenization of a run's text.
pub(super) struct PrepareBar {
    bar: ProgressBar,
}

impl PrepareBar {
    pub fn new() -> PrepareBar {
        PrepareBar { bar: bar(0, "tokenizing {wide_bar} {bytes}/{total_bytes} {msg}") }
    }
}

impl Progress for PrepareBar {
    fn set(&self, done: u64, total: u64, tokens: u64) {
        self.bar.set_length(total);
        self.bar.set_position(done);
        self.bar.set_message(format!("{tokens} tokens"));
        if done >= total {
            self.bar.finish_and_clear();
        }
    }

    fn note(&self, message: &str) {
        self.bar.suspend(|| say(message));
    }
}

/// Steps, losses and samples on standard error.
pub(super) struct Console {
    bar: ProgressBar,
    terminal: bool,
    max_steps: u64,
    last_line: Instant,
    val: Option<f64>,
}

/// Without a terminal, a line of progress at most this often.
const LINE_EVERY: Duration = Duration::from_secs(10);

impl Console {
    pub fn new(max_steps: u64) -> Console {
        let bar = bar(max_steps, "{wide_bar} {pos}/{len} {msg} {eta} left");
        Console { bar, terminal: std::io::stderr().is_terminal(), max_steps, last_line: Instant::now(), val: None }
    }

    pub fn finish(&mut self) {
        self.bar.finish_and_clear();
    }

    fn say(&self, message: &str) {
        self.bar.suspend(|| say(message));
    }
}

impl Observer for Console {
    fn note(&mut self, text: &str) {
        self.say(&format!("note: {text}"));
    }

    fn event(&mut self, event: &Event) {
        match event {
            Event::Step(step) => {
                let val = self.val.map_or(String::new(), |val| format!(" val {val:.4}"));
                let line = format!("loss {:.4}{val} {:.0} tok/s", step.loss, step.tokens_per_s);
                self.bar.set_position(step.step);
                self.bar.set_message(line.clone());
                if !self.terminal && (step.step == 1 || self.last_line.elapsed() >= LINE_EVERY) {
                    self.last_line = Instant::now();
                    say(&format!("step {}/{} {line}", step.step, self.max_steps));
                }
            }
            Event::Eval(eval) => {
                self.val = Some(eval.loss);
                self.say(&format!("step {}/{} validation loss {:.6}", eval.step, self.max_steps, eval.loss));
            }
            Event::Task(task) => {
                self.say(&format!("step {}/{} {}: {}", task.step, self.max_steps, task.task, task.in_words()));
            }
            Event::Sample(sample) => {
                let text = format!("{}{}", sample.prompt, sample.text);
                let indented: Vec<String> = text.lines().map(|line| format!("  | {line}")).collect();
                self.say(&format!("step {} sample:\n{}", sample.step, indented.join("\n")));
            }
            Event::Nonfinite(event) => {
                let place = event.parameter.as_ref().map(|name| format!(", first in {name}")).unwrap_or_default();
                let skipped = match event.class {
                    Class::LossNonfinite => "the loss is not finite",
                    Class::Overflow => "the gradient's norm overflowed",
                    _ => "a gradient is not finite",
                };
                self.say(&format!("step {}: {skipped}{place}; the update is left out", event.step));
            }
            Event::Spike(spike) => {
                let message = format!(
                    "step {}: the loss jumped to {:.4}, {:.1} standard deviations above the last steps",
                    spike.step, spike.loss, spike.z_score
                );
                self.say(&message);
            }
            Event::Checkpoint(checkpoint) => self.say(&format!("step {} saved {}", checkpoint.step, checkpoint.path)),
            Event::Rollback(rollback) => self.say(&format!(
                "step {}: back to the state of step {}; {} sequences are left out",
                rollback.from, rollback.step, rollback.data.sequences
            )),
            Event::Start(_) | Event::Resume(_) => self.bar.reset_eta(),
            Event::Ranks(_) | Event::End(_) => {}
        }
    }
}

/// Draws the charts at every checkpoint, on a thread of their own: training does not wait for them. A chart that cannot be
/// drawn is mentioned once and does not disturb the run.
#[derive(Default)]
pub(super) struct Charts {
    drawing: Option<JoinHandle<crate::Result<()>>>,
    complained: bool,
}

impl Charts {
    /// Draws once more, when all is written.
    pub fn finish(&mut self, run: &Path) {
        self.join();
        self.draw(run, report::draw);
        self.join();
    }

    fn draw(&mut self, run: &Path, draw: fn(&Path) -> crate::Result<Vec<PathBuf>>) {
        let run = run.to_path_buf();
        self.drawing = Some(std::thread::spawn(move || draw(&run).map(|_| ())));
    }

    fn join(&mut self) {
        let Some(drawing) = self.drawing.take() else { return };
        let problem = match drawing.join() {
            Ok(Ok(())) => return,
            Ok(Err(error)) => error.to_string(),
            Err(_) => "the drawing thread panicked".into(),
        };
        if !std::mem::replace(&mut self.complained, true) {
            say(&format!("note: the charts could not be drawn: {problem}"));
        }
    }
}

impl Observer for Charts {
    fn event(&mut self, _: &Event) {}

    fn checkpoint(&mut self, run: &Path, _: &Path) {
        // A checkpoint that comes while the last one's charts are still being drawn does without.
        if self.drawing.as_ref().is_none_or(JoinHandle::is_finished) {
            self.join();
            self.draw(run, report::draw_often);
        }
    }
}
