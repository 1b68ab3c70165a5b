//! The ablation: each arm against the baseline, with the uncertainty that its seeds leave, and a verdict.
//!
//! docs/statistics.md says what every column is. In short: differences of runs that share a seed where arms do (t test of
//! the pairs), else Welch's test; p values corrected after Holm for the number of arms; and four verdicts, each of which
//! can be checked from the other columns of its row.

use serde::Serialize;

use super::config::Sweep;
use super::results::{Outcome, State};
use crate::stats::compare::{Difference, Method, holm, independent, paired};
use crate::stats::noise::{Components, components};
use crate::stats::power::{seeds_needed, smallest_effect};
use crate::stats::{deviation, mean};

/// What can be said about an arm.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
#[serde(rename_all = "snake_case", tag = "verdict")]
pub enum Verdict {
    /// It is what the others are compared with.
    Baseline,
    /// A lower loss: corrected p at most alpha.
    Better,
    /// A higher loss: corrected p at most alpha.
    Worse,
    /// No difference that matters: the confidence interval lies within the smallest effect of interest on both sides.
    WithinNoise,
    /// Neither; that many more seeds would decide with the wanted power (`None`: more than anybody trains).
    Undecided {
        /// Further seeds for this arm (and the baseline).
        more_seeds: Option<usize>,
    },
    /// So many of its runs diverged; their losses mean nothing, and the arm is not compared.
    Diverged {
        /// How many.
        runs: usize,
    },
    /// No run of it is finished.
    Missing,
}

impl Verdict {
    /// In words.
    pub fn words(&self) -> String {
        match self {
            Verdict::Baseline => "baseline".into(),
            Verdict::Better => "better".into(),
            Verdict::Worse => "worse".into(),
            Verdict::WithinNoise => "within noise".into(),
            Verdict::Undecided { more_seeds: Some(1) } => "undecided: needs 1 more seed".into(),
            Verdict::Undecided { more_seeds: Some(n) } => format!("undecided: needs {n} more seeds"),
            Verdict::Undecided { more_seeds: None } => "undecided: needs more seeds than anybody trains".into(),
            Verdict::Diverged { runs: 1 } => "diverged: 1 run".into(),
            Verdict::Diverged { runs } => format!("diverged: {runs} runs"),
            Verdict::Missing => "no result".into(),
        }
    }
}

/// An arm against the baseline.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Comparison {
    /// "paired", "welch" or "pooled".
    pub method: &'static str,
    /// Mean loss minus that of the baseline, in nats.
    pub difference: f64,
    /// Its standard error.
    pub standard_error: f64,
    /// Degrees of freedom.
    pub df: f64,
    /// The confidence interval, not corrected for the number of arms.
    pub interval: (f64, f64),
    /// Two-sided p value.
    pub p: f64,
    /// The same after Holm's correction.
    pub p_corrected: f64,
    /// The smallest true difference that this comparison would call with the wanted power, at the level that Bonferroni's
    /// correction leaves it.
    pub smallest_effect: f64,
    /// The differences of the pairs with their seeds; empty where there are no pairs.
    pub pairs: Vec<(u64, f64)>,
}

/// A row of the table.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Row {
    /// The arm.
    pub arm: String,
    /// What it changes, as `key = value`.
    pub changes: Vec<String>,
    /// Seeds and final losses of its finished runs that did not diverge.
    pub losses: Vec<(u64, f64)>,
    /// Runs that are not finished.
    pub unfinished: usize,
    /// The mean loss in nats per token.
    pub mean: Option<f64>,
    /// The standard deviation over seeds.
    pub deviation: Option<f64>,
    /// Against the baseline.
    pub comparison: Option<Comparison>,
    /// What follows.
    #[serde(flatten)]
    pub verdict: Verdict,
}

/// The noise of the baseline, split.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct NoiseSplit {
    /// Seeds of each kind.
    pub seeds: Vec<u64>,
    /// `losses[i][j]`: initialised with the i-th, trained with the j-th.
    pub losses: Vec<Vec<f64>>,
    /// Variances from initialisation, from training (data order and dropout), and from both together; negative estimates
    /// as they are.
    pub variance_init: f64,
    /// See above.
    pub variance_training: f64,
    /// See above.
    pub variance_interaction: f64,
    /// Their sum, negative ones as zero.
    pub variance_total: f64,
}

/// The whole comparison.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Ablation {
    /// Sorted by effect, the best first; arms without a number last.
    pub rows: Vec<Row>,
    /// How many comparisons the correction counts.
    pub comparisons: usize,
    /// The validation split.
    pub split: Option<String>,
    /// Runs that failed, with their messages.
    pub failures: Vec<(String, String)>,
    /// Finished runs, and all.
    pub runs: (usize, usize),
    /// Noise by source, where the sweep has the runs for it.
    pub noise: Option<NoiseSplit>,
    /// What to keep in mind when reading the table.
    pub notes: Vec<String>,
}

/// Keys that change what a loss per token means.
const OTHER_LOSS: &[&str] = &[
    "tokenizer.",
    "data.text",
    "data.shards",
    "data.val",
    "data.val_fraction",
    "eval.max_tokens",
    "model.context_length",
];

/// Seeds with the differences of their pairs.
type Pairs = Vec<(u64, f64)>;

/// Compares the arms of a sweep.
pub fn ablation(sweep: &Sweep, outcomes: &[Outcome]) -> Ablation {
    let of = |arm: usize| outcomes.iter().filter(move |o| o.job.arm == arm && o.job.training.is_none());
    let losses: Vec<Vec<(u64, f64)>> = (0..sweep.arms.len())
        .map(|arm| of(arm).filter(|o| !o.diverged()).filter_map(|o| Some((o.job.seed, o.final_loss()?))).collect())
        .collect();
    let diverged = |arm: usize| of(arm).filter(|o| o.diverged()).count();
    let base = sweep.baseline;
    let found: Vec<Option<(Difference, Pairs)>> = (0..sweep.arms.len())
        .map(|arm| match arm == base || diverged(arm) > 0 || diverged(base) > 0 {
            true => None,
            false => compare(&losses[base], &losses[arm]),
        })
        .collect();
    let compared: Vec<usize> = (0..sweep.arms.len()).filter(|&arm| found[arm].is_some()).collect();
    let p: Vec<f64> = compared.iter().filter_map(|&arm| Some(found[arm].as_ref()?.0.p)).collect();
    let corrected = holm(&p);
    // Every arm that was meant to be compared counts, whether or not it has its two runs yet.
    let share = sweep.alpha / (sweep.arms.len() - 1).max(1) as f64;
    let mut rows: Vec<Row> = (0..sweep.arms.len())
        .map(|arm| {
            let comparison =
                found[arm].as_ref().zip(compared.iter().position(|&a| a == arm)).map(|((d, pairs), at)| Comparison {
                    method: match d.method {
                        Method::Paired => "paired",
                        Method::Welch => "welch",
                        Method::Pooled => "pooled",
                    },
                    difference: d.difference,
                    standard_error: d.standard_error,
                    df: d.df,
                    interval: d.interval(sweep.alpha),
                    p: d.p,
                    p_corrected: corrected[at],
                    smallest_effect: smallest_effect(d.standard_error, d.df, share, sweep.power),
                    pairs: pairs.clone(),
                });
            let values: Vec<f64> = losses[arm].iter().map(|(_, loss)| *loss).collect();
            let verdict = match (&comparison, diverged(arm)) {
                (_, runs) if runs > 0 => Verdict::Diverged { runs },
                _ if values.is_empty() => Verdict::Missing,
                _ if arm == base => Verdict::Baseline,
                (None, _) => Verdict::Undecided {
                    more_seeds: Some(2usize.saturating_sub(values.len().min(losses[base].len())).max(1)),
                },
                (Some(c), _) => decide(sweep, c, share, values.len().min(losses[base].len())),
            };
            Row {
                arm: sweep.arms[arm].name.clone(),
                changes: sweep.arms[arm].set.iter().map(|(key, value)| format!("{key} = {value}")).collect(),
                unfinished: of(arm).filter(|o| o.state != State::Done).count(),
                mean: (!values.is_empty()).then(|| mean(&values)),
                deviation: (values.len() > 1).then(|| deviation(&values)),
                losses: losses[arm].clone(),
                comparison,
                verdict,
            }
        })
        .collect();
    let effect = |row: &Row| match row.verdict {
        Verdict::Baseline => 0.0,
        _ => row.comparison.as_ref().map_or(f64::INFINITY, |c| c.difference),
    };
    rows.sort_by(|a, b| effect(a).total_cmp(&effect(b)));
    let failures = outcomes.iter().filter(|o| o.state == State::Failed);
    Ablation {
        comparisons: compared.len(),
        split: outcomes.iter().find_map(|o| o.split.clone()),
        failures: failures.map(|o| (o.job.name.clone(), o.message.clone().unwrap_or_default())).collect(),
        runs: (outcomes.iter().filter(|o| o.state == State::Done).count(), outcomes.len()),
        noise: noise(sweep, outcomes),
        notes: notes(sweep, &rows),
        rows,
    }
}

/// Pairs where the two share at least two seeds, else two groups.
fn compare(baseline: &[(u64, f64)], treated: &[(u64, f64)]) -> Option<(Difference, Pairs)> {
    let partner = |seed: u64| baseline.iter().find(|(other, _)| *other == seed).map(|(_, loss)| *loss);
    let pairs: Vec<(u64, f64, f64)> =
        treated.iter().filter_map(|&(seed, loss)| Some((seed, partner(seed)?, loss))).collect();
    if pairs.len() >= 2 {
        let both: Vec<(f64, f64)> = pairs.iter().map(|&(_, before, after)| (before, after)).collect();
        return Some((paired(&both)?, pairs.iter().map(|(seed, before, after)| (*seed, after - before)).collect()));
    }
    let values = |group: &[(u64, f64)]| group.iter().map(|(_, loss)| *loss).collect::<Vec<_>>();
    Some((independent(&values(baseline), &values(treated))?, Vec::new()))
}

/// The verdict of a comparison; see docs/statistics.md.
fn decide(sweep: &Sweep, c: &Comparison, share: f64, seeds: usize) -> Verdict {
    if c.p_corrected <= sweep.alpha {
        return if c.difference < 0.0 { Verdict::Better } else { Verdict::Worse };
    }
    if c.interval.0 > -sweep.min_effect && c.interval.1 < sweep.min_effect {
        return Verdict::WithinNoise;
    }
    // As large as seen, but not smaller than anybody cares about.
    let effect = c.difference.abs().max(sweep.min_effect);
    let n = if c.pairs.is_empty() { seeds } else { c.pairs.len() };
    let one = c.standard_error * (n as f64).sqrt();
    let df = |n: usize| if c.pairs.is_empty() { 2.0 * n as f64 - 2.0 } else { n as f64 - 1.0 }.max(0.5);
    let needed = seeds_needed(effect, one, share, sweep.power, df);
    // Where the effect seen would be found more often than not and was not, one more seed is the honest answer.
    Verdict::Undecided { more_seeds: needed.map(|needed| needed.saturating_sub(n).max(1)) }
}

/// The noise split of the baseline, if all its runs are there.
fn noise(sweep: &Sweep, outcomes: &[Outcome]) -> Option<NoiseSplit> {
    let seeds = &sweep.seeds[..sweep.noise_split];
    let loss = |init: u64, training: u64| {
        let is = |o: &&Outcome| {
            o.job.arm == sweep.baseline && o.job.seed == init && o.job.training.unwrap_or(o.job.seed) == training
        };
        outcomes.iter().find(is).filter(|o| !o.diverged())?.final_loss()
    };
    let losses: Option<Vec<Vec<f64>>> =
        seeds.iter().map(|&init| seeds.iter().map(|&training| loss(init, training)).collect()).collect();
    let losses = losses?;
    let Components { rows, columns, interaction, total } = components(&losses)?;
    Some(NoiseSplit {
        seeds: seeds.to_vec(),
        losses,
        variance_init: rows,
        variance_training: columns,
        variance_interaction: interaction,
        variance_total: total,
    })
}

fn notes(sweep: &Sweep, rows: &[Row]) -> Vec<String> {
    let mut notes = Vec::new();
    for arm in &sweep.arms {
        let other: Vec<&str> = arm
            .set
            .iter()
            .map(|(key, _)| &key[..])
            .filter(|key| {
                OTHER_LOSS.iter().any(|part| if part.ends_with('.') { key.starts_with(part) } else { key == part })
            })
            .collect();
        if !other.is_empty() {
            notes.push(format!(
                "{} changes {}: its loss is over other tokens than the baseline's, and the two cannot be compared as they stand",
                arm.name,
                other.join(", ")
            ));
        }
    }
    let (v, mut held) = (sweep.vary, Vec::new());
    let parts = [(v.init, "initial weights"), (v.data, "data order"), (v.dropout, "dropout")];
    parts.iter().filter(|(varies, _)| !varies).for_each(|(_, name)| held.push(*name));
    if !held.is_empty() {
        notes.push(format!(
            "the seeds of {} were held fixed: the intervals hold for these very seeds, and are narrower than for new ones",
            held.join(" and ")
        ));
    }
    if rows
        .iter()
        .any(|row| row.arm == sweep.arms[sweep.baseline].name && matches!(row.verdict, Verdict::Diverged { .. }))
    {
        notes.push("the baseline itself diverged: nothing can be compared with it".into());
    }
    notes
}
