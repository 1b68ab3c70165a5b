//! `taper eval --task`: how well a model does in a benchmark.

use std::io::Write;
use std::path::{Path, PathBuf};

use serde_json::{Map, Value, json};

use crate::checkpoint::state;
use crate::cli::push::card::run_of;
use crate::cli::ui::{bar, note, print_json, print_line, say};
use crate::error::{Error, Result};
use crate::eval::tasks::{ExampleScore, Task, TaskKind, TaskScore, TaskSpec};
use crate::events::{Event, EventLog, EventWriter, number_to_string};
use crate::open::Opened;
use crate::run::folder::{EVENTS, RunFolder};
use crate::train::score_event;

/// The arguments of `taper eval` that are about benchmarks.
#[derive(Debug, clap::Args)]
pub(crate) struct TaskArgs {
    /// Score a benchmark instead of a text: hellaswag, lambada or multiple-choice. --data is then its file of examples, one
    /// JSON object a line (docs/eval.md).
    #[arg(long, value_name = "TASK", conflicts_with_all = ["split", "max_tokens"])]
    pub task: Option<TaskKind>,
    /// With --task: score only the first N examples.
    #[arg(long, value_name = "N", requires = "task")]
    max_examples: Option<u64>,
    /// With --task: write what came of each example to a file, one JSON object a line.
    #[arg(long, value_name = "FILE", requires = "task")]
    details: Option<PathBuf>,
}

/// Scores `kind` on the file `data`, and prints a table or one JSON object.
///
/// # Errors
/// If the examples cannot be read, or do not fit the model.
pub(crate) fn run(
    args: &TaskArgs,
    kind: TaskKind,
    data: &[String],
    batch: Option<usize>,
    opened: &Opened,
    as_json: bool,
) -> Result<()> {
    let [path] = data else {
        return Err(Error::usage("--task takes one file of examples; score several one after the other"));
    };
    if args.max_examples == Some(0) {
        return Err(Error::usage("--max-examples must be at least 1"));
    }
    let spec = TaskSpec { kind, path: path.clone() };
    let shape = opened.model.config();
    let task = Task::load(&spec, &opened.tokenizer, shape, args.max_examples)?;
    task.notes().iter().for_each(|text| note(text));
    let bar = bar(0, "{bar:40} {pos}/{len} continuations, {eta} left");
    let mut progress = |done: u64, all: u64| {
        bar.set_length(all);
        bar.set_position(done);
    };
    // About 1024 tokens: more are no faster on a CPU.
    let batch = batch.unwrap_or((1024 / shape.context_length).max(4));
    let score = task.score(&opened.model, &opened.params, batch, &mut progress)?;
    bar.finish_and_clear();
    if let Some(path) = &args.details {
        write_details(path, &score.examples)?;
    }
    if let Some(note) = record(&opened.folder, &task, &score)? {
        say(&note);
    }
    if as_json {
        return print_json(&in_json(&task, &score));
    }
    print_line(&format!("{:<16} {:>10}  {:>14}  95% interval", kind.name(), "value", "standard error"))?;
    for metric in &score.metrics {
        let error = metric.standard_error.map_or("unknown".into(), |error| format!("{error:.4}"));
        let interval = metric.interval.map_or("unknown".into(), |(low, high)| format!("{low:.4} to {high:.4}"));
        print_line(&format!("{:<16} {:>10.4}  {error:>14}  {interval}", metric.name, metric.value))?;
    }
    print_line(&format!("{:<16} {:>10}", "examples", task.examples()))
}

/// Writes the scores of a run's checkpoint into the run's event log, where reports and the card of a push find them.
/// Gives a word on what was done; none for a model that lies in no run.
fn record(checkpoint: &Path, task: &Task, score: &TaskScore) -> Result<Option<String>> {
    let Some(run) = run_of(checkpoint) else { return Ok(None) };
    let Ok(state) = state::read_position(checkpoint) else { return Ok(None) };
    let found = score_event(task, score, state.step, state.tokens);
    let log = run.join(EVENTS);
    if EventLog::read(&log)?.tasks().any(|known| *known == found) {
        return Ok(None);
    }
    // A run that is being trained writes its log itself, and alone.
    let Ok(_lock) = RunFolder::open(&run, true) else {
        return Ok(Some(format!("note: {} is in use, and the score is not written into its log", run.display())));
    };
    let mut writer = EventWriter::append_to(&log)?;
    writer.write(&Event::Task(found))?;
    writer.sync()?;
    Ok(Some(format!("written into {}", log.display())))
}

fn in_json(task: &Task, score: &TaskScore) -> Value {
    let metrics = score.metrics.iter().map(|metric| {
        let numbers = json!({
            "value": number(metric.value),
            "standard_error": metric.standard_error.map(number),
            "interval": metric.interval.map(|(low, high)| [number(low), number(high)]),
        });
        (metric.name.to_string(), numbers)
    });
    json!({
        "task": task.kind.name(),
        "data": task.path,
        "examples": task.examples(),
        "skipped": task.skipped,
        "contexts_cut": task.cut,
        "metrics": metrics.collect::<Map<String, Value>>(),
    })
}

/// A number; as the event log writes them, a string where JSON has none.
fn number(value: f64) -> Value {
    if value.is_finite() { value.into() } else { number_to_string(value).into() }
}

fn write_details(path: &PathBuf, examples: &[ExampleScore]) -> Result<()> {
    let mut text = Vec::new();
    for example in examples {
        let of = |by: fn(&crate::eval::tasks::ChoiceScore) -> Value| -> Vec<Value> {
            example.choices.iter().map(by).collect()
        };
        let line = json!({
            "line": example.line,
            "answer": example.answer,
            "log_probabilities": of(|choice| number(choice.log_probability)),
            "tokens": of(|choice| choice.tokens.into()),
            "bytes": of(|choice| choice.bytes.into()),
            "greedy": of(|choice| choice.greedy.into()),
        });
        writeln!(text, "{line}").map_err(Error::io("write", path))?;
    }
    std::fs::write(path, text).map_err(Error::io("write", path))
}
