//! What a sweep will cost: the operations, time and price of its runs.

use super::config::{Arm, Sweep};
use super::results::{Outcome, State};
use crate::config::Config;
use crate::data::Tokenizer;
use crate::data::tokenizer::config::TokenizerKind;
use crate::error::Result;

/// The ids of GPT-2's tokenizer.
const GPT2_VOCABULARY: usize = 50_257;

/// The floating-point operations of a run, as far as its config tells: the vocabulary of a tokenizer that is yet to be made
/// is guessed, and validation is not counted. `None` where the number of steps
/// depends on the data.
pub fn flops(config: &Config) -> Option<f64> {
    let vocabulary = match config.tokenizer.kind() {
        TokenizerKind::Bytes | TokenizerKind::Chars => 256,
        TokenizerKind::Train => config.tokenizer.vocab_size(),
        TokenizerKind::Gpt2 => GPT2_VOCABULARY,
        // One on the Hub is not fetched for an estimate.
        TokenizerKind::File => {
            let path = config.tokenizer.path.as_deref();
            path.and_then(|path| Tokenizer::vocab_size_of(path).ok()).unwrap_or(GPT2_VOCABULARY)
        }
    };
    let shape = config.model.resolve(config.model.vocab_size.unwrap_or(vocabulary), None).ok()?;
    let per_step = (config.train.global_batch() * shape.context_length) as f64;
    let tokens = match (config.train.max_steps, config.train.max_tokens) {
        (Some(steps), _) => steps as f64 * per_step,
        (None, Some(tokens)) => tokens as f64,
        _ => return None,
    };
    Some(tokens * shape.flops_per_token() as f64)
}

/// How long runs take: from those that are finished, else from a rate that was measured.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Speed {
    /// Training operations per second.
    pub flops_per_second: f64,
    /// Whether finished runs say so; else it is a guess from matrix products alone.
    pub measured: bool,
}

/// What is left to do.
#[derive(Clone, Debug, PartialEq)]
pub struct Estimate {
    /// All runs, those that are finished, and those that failed.
    pub runs: (usize, usize, usize),
    /// Training operations of the runs that are left.
    pub flops: f64,
    /// Seconds for them; `None` where the number of steps is not known in advance.
    pub seconds: Option<f64>,
    /// How the seconds were computed.
    pub speed: Speed,
}

impl Estimate {
    /// The same where so many runs are trained at a time, each as fast as if it were alone.
    pub fn at_once(self, runs: usize) -> Self {
        let (all, done, failed) = self.runs;
        let lanes = runs.min(all - done - failed).max(1) as f64;
        Self { seconds: self.seconds.map(|seconds| seconds / lanes), ..self }
    }
}

/// Estimates what is left. `fallback` gives the rate of matrix products, where no run is finished yet.
///
/// # Errors
/// If a config of the sweep is not valid (which [`Sweep::load`] has checked).
pub fn estimate(sweep: &Sweep, outcomes: &[Outcome], fallback: impl FnOnce() -> f64) -> Result<Estimate> {
    let per_arm: Vec<Option<f64>> =
        sweep.arms.iter().map(|arm: &Arm| Ok(flops(&sweep.resolve(arm)?))).collect::<Result<_>>()?;
    let done = |outcome: &&Outcome| outcome.state == State::Done;
    let timed = outcomes.iter().filter(done).filter_map(|o| Some((o.flops()?, o.seconds?)));
    let (made, seconds) = timed.fold((0.0, 0.0), |(f, s), (flops, seconds)| (f + flops, s + seconds));
    let speed = match seconds > 0.0 && made > 0.0 {
        true => Speed { flops_per_second: made / seconds, measured: true },
        false => Speed { flops_per_second: fallback(), measured: false },
    };
    let left: Vec<&Outcome> = outcomes.iter().filter(|o| !matches!(o.state, State::Done | State::Failed)).collect();
    let total: Option<f64> = left.iter().map(|o| per_arm[o.job.arm].map(|flops| flops * (1.0 - o.progress))).sum();
    let failed = outcomes.iter().filter(|o| o.state == State::Failed).count();
    Ok(Estimate {
        runs: (outcomes.len(), outcomes.iter().filter(done).count(), failed),
        flops: total.unwrap_or(0.0),
        seconds: total.map(|flops| flops / speed.flops_per_second),
        speed,
    })
}
