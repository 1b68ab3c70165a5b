//! What is measured while a run trains: the validation loss and the benchmarks of `eval.tasks`.

use super::Trainer;
use crate::data::Sequences;
use crate::error::Result;
use crate::eval::tasks::{Metric, Task, TaskScore};
use crate::eval::{Share, evaluate_rows, evaluate_shared};
use crate::events::{self, Event};

impl Trainer<'_> {
    /// The validation loss, over the whole split unless `eval.max_tokens`, and the benchmarks.
    pub(super) fn evaluate(&mut self) -> Result<()> {
        let batch = self.job.eval.batch.unwrap_or(self.job.micro_batch);
        self.validate(batch)?;
        let ranks = self.job.ranks.clone();
        // Benchmarks may take long, and only rank 0 has their examples.
        ranks.on_root_for_long("benchmarks", || self.score(batch)).map(|_| ())
    }

    fn score(&mut self, batch: usize) -> Result<()> {
        self.last_tasks.clear();
        for task in self.job.tasks {
            let found = task.score(self.model, self.engine.params(), batch, &mut |_, _| {})?;
            let found = score_event(task, &found, self.state.step, self.state.tokens);
            self.last_tasks.push(found.clone());
            self.record(Event::Task(found))?;
        }
        Ok(())
    }

    fn validate(&mut self, batch: usize) -> Result<()> {
        let Some(val) = self.job.val else { return Ok(()) };
        let ranks = self.job.ranks.clone();
        let gather = &mut |mine: &[f32]| -> Result<Vec<Vec<f32>>> {
            let all = ranks.gather_after_work("validation losses", bytemuck::cast_slice(mine))?;
            Ok(all.iter().map(|bytes| bytemuck::pod_collect_to_vec(bytes)).collect())
        };
        let share = Share { rank: ranks.rank(), size: ranks.size(), gather };
        let (params, most) = (self.engine.params(), self.job.eval.max_tokens);
        let found = match val {
            Sequences::Stream(val) => {
                evaluate_shared(self.model, params, val, most, batch, Some(share), &mut |_, _| {})?
            }
            // Every rank measures all of them: conversations are few.
            Sequences::Packed(val) => evaluate_rows(self.model, params, val, most, batch)?,
        };
        let loss = found.loss();
        self.last_val = Some((self.state.step, found));
        let (step, tokens) = (self.state.step, self.state.tokens);
        self.record(Event::Eval(events::Eval {
            step,
            tokens,
            split: "val".into(),
            loss,
            standard_error: found.standard_error,
        }))
    }
}

/// The scores of a benchmark, as the event log tells them.
pub fn score_event(task: &Task, score: &TaskScore, step: u64, tokens: u64) -> events::Task {
    let of = |metric: &Metric| events::TaskMetric {
        name: metric.name.into(),
        value: metric.value,
        standard_error: metric.standard_error,
    };
    events::Task {
        step,
        tokens,
        task: task.kind.name().into(),
        data: task.path.clone(),
        examples: task.examples(),
        metrics: score.metrics.iter().map(of).collect(),
    }
}
