//! Loss against size, data and compute: the points of a sweep, the fitted law, and the best size for a budget.
//!
//! Two readings of the same points. Where they span sizes (and amounts of data), a law `L = E + A / N^alpha + B / D^beta` is
//! fitted with bootstrap intervals. Where groups of them share a compute budget, a parabola through each group gives its
//! best size, and a power law through those the best size for any budget (Hoffmann et al. 2022, approaches 3 and 2).

use serde::Serialize;

use super::config::Sweep;
use super::results::Outcome;
use crate::math;
use crate::stats::fit::{
    Parabola, Point, PowerLaw, Terms, bootstrap, log_line, parabola, percentile_interval, power_law,
};
use crate::stats::mean;

/// Resamples of the bootstrap.
const ROUNDS: u64 = 500;
/// Budgets that differ by less than this factor are one.
const SAME_BUDGET: f64 = 1.1;

/// A value with its 95% interval.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct Interval {
    /// The estimate.
    pub value: f64,
    /// Lower end.
    pub low: f64,
    /// Upper end.
    pub high: f64,
}

/// A finished run as a point.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct RunPoint {
    /// Its arm.
    pub arm: String,
    /// N, all trained parameters.
    pub parameters: f64,
    /// D, trained tokens.
    pub tokens: f64,
    /// C, training operations.
    pub flops: f64,
    /// Final validation loss.
    pub loss: f64,
    /// Loss minus what the law gives; `None` without a law.
    pub residual: Option<f64>,
}

/// The fitted law.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Law {
    /// `E`, in nats.
    pub e: Interval,
    /// `A`.
    pub a: Interval,
    /// `alpha`.
    pub alpha: Interval,
    /// `B`, where the data term was fitted.
    pub b: Option<Interval>,
    /// `beta`.
    pub beta: Option<Interval>,
    /// Root mean square of the residuals, in nats.
    pub rms: f64,
    /// Whether an exponent ended at the bound of the search: then the law says little.
    pub at_bound: bool,
    /// The law itself.
    #[serde(skip)]
    pub law: Option<PowerLaw>,
}

/// The runs of one compute budget.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Budget {
    /// Geometric mean of their operations.
    pub flops: f64,
    /// Sizes and losses.
    pub points: Vec<(f64, f64)>,
    /// The size of least loss on the parabola.
    pub best_parameters: Option<f64>,
    /// Whether it lies between sizes that were trained.
    pub inside: bool,
    /// The parabola.
    #[serde(skip)]
    pub parabola: Option<Parabola>,
}

/// The best size for a budget.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Prediction {
    /// Operations.
    pub flops: f64,
    /// "law" or "isoflop".
    pub method: &'static str,
    /// Parameters.
    pub parameters: Interval,
    /// Tokens.
    pub tokens: f64,
    /// The loss there, by the law.
    pub loss: Option<f64>,
}

/// Everything about size.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Scaling {
    /// All finished runs that did not diverge.
    pub points: Vec<RunPoint>,
    /// The law, if the points determine one.
    pub law: Option<Law>,
    /// Groups of at least three sizes at one budget.
    pub budgets: Vec<Budget>,
    /// `k` and the exponent of `N = k C^exponent` through the best sizes of at least two budgets.
    pub best_size: Option<(f64, f64)>,
    /// Mean of `C / (N D)`: 6 in the usual accounting, more where attention or embeddings weigh.
    pub flops_per_parameter_token: f64,
    /// For each budget that was asked for.
    pub predictions: Vec<Prediction>,
}

/// Reads the sizes of a sweep; `None` if there are fewer than three.
pub fn scaling(sweep: &Sweep, outcomes: &[Outcome]) -> Option<Scaling> {
    let runs = outcomes.iter().filter(|o| !o.diverged() && o.job.training.is_none());
    let mut points: Vec<RunPoint> = runs
        .filter_map(|o| {
            Some(RunPoint {
                arm: sweep.arms[o.job.arm].name.clone(),
                parameters: o.parameters?,
                tokens: o.tokens,
                flops: o.flops()?,
                loss: o.final_loss()?,
                residual: None,
            })
        })
        .collect();
    let mut sizes: Vec<f64> = points.iter().map(|p| p.parameters).collect();
    sizes.sort_by(f64::total_cmp);
    sizes.dedup();
    // Changes of a few parameters (a bias more or less) are interventions, not sizes.
    if sizes.len() < 3 || sizes[sizes.len() - 1] < 1.5 * sizes[0] {
        return None;
    }
    let plain: Vec<Point> =
        points.iter().map(|p| Point { parameters: p.parameters, tokens: p.tokens, loss: p.loss }).collect();
    let ratio = geometric_mean(points.iter().map(|p| p.flops / (p.parameters * p.tokens)));
    let both = power_law(&plain, Terms::Both).map(|law| (law, Terms::Both));
    let one_amount = plain.iter().all(|p| p.tokens == plain[0].tokens);
    let fitted =
        both.or_else(|| Some((power_law(&plain, Terms::Parameters).filter(|_| one_amount)?, Terms::Parameters)));
    let again = fitted.map_or(Vec::new(), |(law, terms)| bootstrap(&plain, &law, terms, 1, ROUNDS));
    let interval = |value: f64, of: &dyn Fn(&PowerLaw) -> f64| {
        let (low, high) = percentile_interval(again.iter().map(of), 0.95).unwrap_or((f64::NAN, f64::NAN));
        Interval { value, low, high }
    };
    let law = fitted.map(|(law, terms)| Law {
        e: interval(law.e, &|l| l.e),
        a: interval(law.a, &|l| l.a),
        alpha: interval(law.alpha, &|l| l.alpha),
        b: (terms == Terms::Both).then(|| interval(law.b, &|l| l.b)),
        beta: (terms == Terms::Both).then(|| interval(law.beta, &|l| l.beta)),
        rms: law.rms,
        at_bound: law.at_bound(),
        law: Some(law),
    });
    if let Some((law, _)) = fitted {
        points.iter_mut().for_each(|p| p.residual = Some(p.loss - law.loss(p.parameters, p.tokens)));
    }
    let budgets = budgets(&points);
    let best: Vec<(f64, f64)> =
        budgets.iter().filter(|b| b.inside).filter_map(|b| Some((b.flops, b.best_parameters?))).collect();
    let best_size = if best.len() >= 2 { log_line(&best) } else { None };
    let mut predictions = Vec::new();
    for &flops in &sweep.budgets {
        if let Some((law, Terms::Both)) = fitted
            && let Some((parameters, tokens)) = law.best_size(flops, ratio)
        {
            let of = |l: &PowerLaw| l.best_size(flops, ratio).map_or(f64::NAN, |(n, _)| n);
            let loss = Some(law.loss(parameters, tokens));
            predictions.push(Prediction { flops, method: "law", parameters: interval(parameters, &of), tokens, loss });
        }
        if let Some((k, exponent)) = best_size {
            let value = k * math::powf(flops, exponent);
            // Two budgets determine a line exactly: without residuals there is no interval to give.
            let parameters = Interval { value, low: f64::NAN, high: f64::NAN };
            predictions.push(Prediction {
                flops,
                method: "isoflop",
                parameters,
                tokens: flops / (ratio * value),
                loss: None,
            });
        }
    }
    Some(Scaling { points, law, budgets, best_size, flops_per_parameter_token: ratio, predictions })
}

/// Groups the points by budget.
fn budgets(points: &[RunPoint]) -> Vec<Budget> {
    let mut sorted: Vec<&RunPoint> = points.iter().collect();
    sorted.sort_by(|a, b| a.flops.total_cmp(&b.flops));
    let mut groups: Vec<Vec<&RunPoint>> = Vec::new();
    for point in sorted {
        match groups.last_mut().filter(|group| point.flops <= SAME_BUDGET * group[0].flops) {
            Some(group) => group.push(point),
            None => groups.push(vec![point]),
        }
    }
    let budget = |group: Vec<&RunPoint>| {
        let mut points: Vec<(f64, f64)> = group.iter().map(|p| (p.parameters, p.loss)).collect();
        points.sort_by(|a, b| a.0.total_cmp(&b.0));
        let mut sizes: Vec<f64> = points.iter().map(|p| p.0).collect();
        sizes.dedup();
        if sizes.len() < 3 {
            return None;
        }
        let flops = geometric_mean(group.iter().map(|p| p.flops));
        let parabola = parabola(&points);
        let inside = parabola.is_some_and(|p| p.inside);
        Some(Budget { flops, points, best_parameters: parabola.map(|p| p.best), inside, parabola })
    };
    groups.into_iter().filter_map(budget).collect()
}

fn geometric_mean(values: impl Iterator<Item = f64>) -> f64 {
    let logs: Vec<f64> = values.map(math::ln).collect();
    math::exp64(mean(&logs))
}
