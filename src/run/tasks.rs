//! The benchmarks of a run.

use crate::arch::ModelConfig;
use crate::data::tokenizer::Tokenizer;
use crate::error::{Result, ResultExt};
use crate::eval::config::EvalConfig;
use crate::eval::tasks::Task;
use crate::ui::Ui;

/// The benchmarks of a run, read and tokenized: a bad line is found before the run, not in the middle of it.
///
/// # Errors
/// As [`Task::load`].
pub fn load_all(config: &EvalConfig, tokenizer: &Tokenizer, shape: &ModelConfig, ui: &dyn Ui) -> Result<Vec<Task>> {
    let load = |spec| Task::load(spec, tokenizer, shape, config.max_examples);
    let tasks: Result<Vec<Task>> = config.tasks.iter().map(load).collect();
    let tasks = tasks.context(|| "preparing eval.tasks".into())?;
    tasks.iter().flat_map(Task::notes).for_each(|text| ui.note(&text));
    Ok(tasks)
}
