//! What a person sees of a run: a progress bar on a terminal, plain lines elsewhere, charts in the run folder.

use std::io::IsTerminal;
use std::path::{Path, PathBuf};
use std::sync::atomic::AtomicBool;
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use indicatif::ProgressBar;

use crate::cli::ui::terminal::{bar, note, say};
use crate::events::{Class, Event};
use crate::report;
use crate::train::Observer;

/// Steps, losses and samples on standard error.
pub(crate) struct Console {
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
}

impl Observer for Console {
    fn note(&mut self, text: &str) {
        note(text);
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
                say(&format!("step {}/{} validation loss {:.6}", eval.step, self.max_steps, eval.loss));
            }
            Event::Task(task) => {
                say(&format!("step {}/{} {}: {}", task.step, self.max_steps, task.task, task.in_words()));
            }
            Event::Sample(sample) => {
                let text = format!("{}{}", sample.prompt, sample.text);
                let indented: Vec<String> = text.lines().map(|line| format!("  | {line}")).collect();
                say(&format!("step {} sample:\n{}", sample.step, indented.join("\n")));
            }
            Event::Nonfinite(event) => {
                let place = event.parameter.as_ref().map(|name| format!(", first in {name}")).unwrap_or_default();
                let skipped = match event.class {
                    Class::LossNonfinite => "the loss is not finite",
                    Class::Overflow => "the gradient's norm overflowed",
                    _ => "a gradient is not finite",
                };
                say(&format!("step {}: {skipped}{place}; the update is left out", event.step));
            }
            Event::Spike(spike) => {
                let message = format!(
                    "step {}: the loss jumped to {:.4}, {:.1} standard deviations above the last steps",
                    spike.step, spike.loss, spike.z_score
                );
                say(&message);
            }
            Event::Checkpoint(checkpoint) => say(&format!("step {} saved {}", checkpoint.step, checkpoint.path)),
            Event::Rollback(rollback) => say(&format!(
                "step {}: back to the state of step {}; {} sequences are left out",
                rollback.from, rollback.step, rollback.data.sequences
            )),
            Event::Start(_) | Event::Resume(_) => self.bar.reset_eta(),
            Event::Ranks(_) | Event::End(_) => {}
        }
    }

    fn finish(&mut self, _: &Path, _: &AtomicBool) {
        self.bar.finish_and_clear();
    }
}

/// Draws the charts at every checkpoint, on a thread of their own: training does not wait for them. A chart that cannot be
/// drawn is mentioned once and does not disturb the run.
#[derive(Default)]
pub(crate) struct Charts {
    drawing: Option<JoinHandle<crate::Result<()>>>,
    complained: bool,
}

impl Charts {
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
            note(&format!("the charts could not be drawn: {problem}"));
        }
    }
}

impl Observer for Charts {
    fn event(&mut self, _: &Event) {}

    /// Draws once more, when all is written.
    fn finish(&mut self, run: &Path, _: &AtomicBool) {
        self.join();
        self.draw(run, report::draw);
        self.join();
    }

    fn checkpoint(&mut self, run: &Path, _: &Path) {
        // A checkpoint that comes while the last one's charts are still being drawn does without.
        if self.drawing.as_ref().is_none_or(JoinHandle::is_finished) {
            self.join();
            self.draw(run, report::draw_often);
        }
    }
}
