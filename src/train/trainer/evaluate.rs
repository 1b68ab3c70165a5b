//! What is measured while a run trains: the validation loss and the benchmarks of `eval.tasks`.

use super::Trainer;
use crate::error::Result;
use crate::eval::tasks::Metric;
use crate::eval::{Share, evaluate_shared};
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
            let of = |m: Metric| events::TaskMetric {
                name: m.name.into(),
                value: m.value,
                standard_error: m.standard_error,
            };
            let found = events::Task {
                step: self.state.step,
                tokens: self.state.tokens,
                task: task.kind.name().into(),
                data: task.path.clone(),
                examples: task.examples(),
                metrics: found.metrics.into_iter().map(of).collect(),
            };
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
        let found = evaluate_shared(self.model, params, val, most, batch, Some(share), &mut |_, _| {})?;
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
