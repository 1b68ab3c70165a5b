//! Fits of loss against size: power laws with an irreducible part, parabolas in the logarithm, and bootstrap intervals.
//!
//! The one idea of the power-law fit: for given exponents `L = E + A / N^alpha + B / D^beta` is linear in E, A and B, so
//! those are solved for exactly (with none of them negative), and the search runs over the exponents alone (variable
//! projection, Golub and Pereyra 1973). Chinchilla (Hoffmann et al. 2022, appendix D.3) searches all five at once, with a
//! Huber loss on the logarithm and many starting points; for losses within a factor of two of each other the two agree.

use crate::math;
use crate::random::{Purpose, uniform};

/// The exponents that are searched; a fit that ends at a bound has not determined its exponent.
pub const EXPONENTS: (f64, f64) = (0.02, 4.0);
/// Points of the first grid over each exponent.
const GRID: usize = 24;

/// A measured loss: `parameters`, `tokens` and loss in nats per token.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Point {
    /// N.
    pub parameters: f64,
    /// D.
    pub tokens: f64,
    /// L.
    pub loss: f64,
}

/// Which terms a law has.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Terms {
    /// `E + A / N^alpha`: all at the same number of tokens.
    Parameters,
    /// `E + A / N^alpha + B / D^beta`.
    Both,
}

/// `L = e + a / N^alpha + b / D^beta`.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct PowerLaw {
    /// The loss that no size removes.
    pub e: f64,
    /// The weight of the size term.
    pub a: f64,
    /// The exponent of the size.
    pub alpha: f64,
    /// The weight of the data term; 0 without one.
    pub b: f64,
    /// The exponent of the data.
    pub beta: f64,
    /// The root of the mean squared residual, in nats.
    pub rms: f64,
}

impl PowerLaw {
    /// The loss that the law gives.
    pub fn loss(&self, parameters: f64, tokens: f64) -> f64 {
        let data = if self.b == 0.0 { 0.0 } else { self.b * math::powf(tokens, -self.beta) };
        self.e + self.a * math::powf(parameters, -self.alpha) + data
    }

    /// The size and tokens of least loss where `flops = per_parameter * N * D` is given: `N = G (C / k)^(beta / (alpha +
    /// beta))` with `G = (alpha A / (beta B))^(1 / (alpha + beta))` (Hoffmann et al. 2022, equation 4). `None` if either
    /// term is absent.
    pub fn best_size(&self, flops: f64, per_parameter: f64) -> Option<(f64, f64)> {
        if self.a <= 0.0 || self.b <= 0.0 {
            return None;
        }
        let sum = self.alpha + self.beta;
        let g = math::powf(self.alpha * self.a / (self.beta * self.b), 1.0 / sum);
        let product = flops / per_parameter;
        let parameters = g * math::powf(product, self.beta / sum);
        Some((parameters, product / parameters))
    }

    /// Whether an exponent ended at the bound of the search, which says that the data do not determine it.
    pub fn at_bound(&self) -> bool {
        let near = |x: f64| x < EXPONENTS.0 * 1.001 || x > EXPONENTS.1 * 0.999;
        near(self.alpha) || (self.b > 0.0 && near(self.beta))
    }
}

/// Least-squares coefficients of `columns` for `y`; `None` if the columns are dependent.
fn linear(columns: &[Vec<f64>], y: &[f64]) -> Option<Vec<f64>> {
    let k = columns.len();
    let dot = |a: &[f64], b: &[f64]| a.iter().zip(b).map(|(x, y)| x * y).sum::<f64>();
    let mut m: Vec<Vec<f64>> =
        columns.iter().map(|a| columns.iter().map(|b| dot(a, b)).chain([dot(a, y)]).collect()).collect();
    for i in 0..k {
        let pivot = (i..k).max_by(|&p, &q| m[p][i].abs().total_cmp(&m[q][i].abs()))?;
        m.swap(i, pivot);
        if m[i][i].abs() < 1e-13 * dot(&columns[i], &columns[i]).max(1e-300) {
            return None;
        }
        let pivot_row = m[i].clone();
        for (_, row) in m.iter_mut().enumerate().filter(|(row, _)| *row != i) {
            let factor = row[i] / pivot_row[i];
            row.iter_mut().zip(&pivot_row).skip(i).for_each(|(value, pivot)| *value -= factor * pivot);
        }
    }
    Some((0..k).map(|i| m[i][k] / m[i][i]).collect())
}

/// The best coefficients of which none is negative: all subsets of the columns are tried, which three columns allow.
fn nonnegative(columns: &[Vec<f64>], y: &[f64]) -> Option<(Vec<f64>, f64)> {
    let mut best: Option<(Vec<f64>, f64)> = None;
    for subset in 1u32..1 << columns.len() {
        let chosen: Vec<usize> = (0..columns.len()).filter(|i| subset >> i & 1 == 1).collect();
        let part: Vec<Vec<f64>> = chosen.iter().map(|&i| columns[i].clone()).collect();
        let Some(values) = linear(&part, y).filter(|values| values.iter().all(|v| *v >= 0.0)) else { continue };
        let mut coefficients = vec![0.0; columns.len()];
        chosen.iter().zip(values).for_each(|(&i, value)| coefficients[i] = value);
        let squares = (0..y.len())
            .map(|i| {
                let fitted: f64 = columns.iter().zip(&coefficients).map(|(column, c)| c * column[i]).sum();
                (y[i] - fitted) * (y[i] - fitted)
            })
            .sum::<f64>();
        if best.as_ref().is_none_or(|(_, least)| squares < *least) {
            best = Some((coefficients, squares));
        }
    }
    best
}

/// Fits a power law by least squares of the loss. `None` if there are fewer points than coefficients, or too few different
/// sizes to tell an exponent.
pub fn power_law(points: &[Point], terms: Terms) -> Option<PowerLaw> {
    let distinct = |value: fn(&Point) -> f64| {
        let mut values: Vec<f64> = points.iter().map(value).collect();
        values.sort_by(f64::total_cmp);
        values.dedup();
        values.len()
    };
    let enough = match terms {
        Terms::Parameters => distinct(|p| p.parameters) >= 3,
        Terms::Both => distinct(|p| p.parameters) >= 3 && distinct(|p| p.tokens) >= 3 && points.len() >= 5,
    };
    enough.then(|| search(points, terms, None)).flatten()
}

/// The search over the exponents, from a grid or from a given start.
fn search(points: &[Point], terms: Terms, start: Option<(f64, f64)>) -> Option<PowerLaw> {
    let centre =
        |value: fn(&Point) -> f64| points.iter().map(|p| math::ln(value(p))).sum::<f64>() / points.len() as f64;
    // Sizes relative to their geometric mean: the columns then have about the same length.
    let (n0, d0) = (centre(|p| p.parameters), centre(|p| p.tokens));
    let y: Vec<f64> = points.iter().map(|p| p.loss).collect();
    let solve = |alpha: f64, beta: f64| {
        let sizes = points.iter().map(|p| math::exp64(-alpha * (math::ln(p.parameters) - n0))).collect();
        let data = || points.iter().map(|p| math::exp64(-beta * (math::ln(p.tokens) - d0))).collect();
        let mut columns = vec![vec![1.0; y.len()], sizes];
        if terms == Terms::Both {
            columns.push(data());
        }
        nonnegative(&columns, &y)
    };
    let (low, high) = (math::ln(EXPONENTS.0), math::ln(EXPONENTS.1));
    let cost =
        |at: (f64, f64)| solve(math::exp64(at.0), math::exp64(at.1)).map_or(f64::INFINITY, |(_, squares)| squares);
    let both = terms == Terms::Both;
    let mut best = match start {
        Some((alpha, beta)) => (math::ln(alpha), math::ln(beta)),
        None => {
            let grid = (0..GRID).map(|i| low + (high - low) * (i as f64 + 0.5) / GRID as f64);
            let pairs = grid.clone().flat_map(|a| grid.clone().take(if both { GRID } else { 1 }).map(move |b| (a, b)));
            pairs.min_by(|a, b| cost(*a).total_cmp(&cost(*b)))?
        }
    };
    let mut least = cost(best);
    let mut step = if start.is_some() { 0.2 } else { (high - low) / GRID as f64 };
    // Compass search: to the best of the neighbours, or closer in.
    while step > 1e-7 {
        let directions: &[(f64, f64)] = match both {
            true => &[(1., 0.), (-1., 0.), (0., 1.), (0., -1.), (1., 1.), (-1., -1.), (1., -1.), (-1., 1.)],
            false => &[(1., 0.), (-1., 0.)],
        };
        let near = directions.iter().map(|d| {
            let at = ((best.0 + step * d.0).clamp(low, high), (best.1 + step * d.1).clamp(low, high));
            (cost(at), at)
        });
        match near.min_by(|a, b| a.0.total_cmp(&b.0)).filter(|(value, _)| *value < least) {
            Some((value, at)) => (least, best) = (value, at),
            None => step *= 0.5,
        }
    }
    let (alpha, beta) = (math::exp64(best.0), math::exp64(best.1));
    let (c, squares) = solve(alpha, beta)?;
    let data = c.get(2).copied().unwrap_or(0.0);
    Some(PowerLaw {
        e: c[0],
        a: c[1] * math::exp64(alpha * n0),
        alpha,
        b: data * math::exp64(beta * d0),
        beta: if both { beta } else { 0.0 },
        rms: (squares / points.len() as f64).sqrt(),
    })
}

/// A parabola `c0 + c1 u + c2 u^2` with `u = ln N`, through the losses of one compute budget.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Parabola {
    /// The coefficients.
    pub c: [f64; 3],
    /// The size of least loss.
    pub best: f64,
    /// The loss there.
    pub least: f64,
    /// Whether the best size lies between the smallest and the largest size that were trained.
    pub inside: bool,
}

/// The isoFLOP fit (Hoffmann et al. 2022, approach 2). `None` for fewer than three sizes, or if the loss has no minimum.
pub fn parabola(sizes_and_losses: &[(f64, f64)]) -> Option<Parabola> {
    let u: Vec<f64> = sizes_and_losses.iter().map(|(size, _)| math::ln(*size)).collect();
    let y: Vec<f64> = sizes_and_losses.iter().map(|(_, loss)| *loss).collect();
    let centre = super::mean(&u);
    let shifted: Vec<f64> = u.iter().map(|u| u - centre).collect();
    let columns = [vec![1.0; u.len()], shifted.clone(), shifted.iter().map(|u| u * u).collect()];
    let c = linear(&columns, &y)?;
    if c[2].is_nan() || c[2] <= 0.0 {
        return None;
    }
    let at = -c[1] / (2.0 * c[2]);
    let (low, high) = shifted.iter().fold((f64::INFINITY, f64::NEG_INFINITY), |(l, h), u| (l.min(*u), h.max(*u)));
    let plain = [c[0] - c[1] * centre + c[2] * centre * centre, c[1] - 2.0 * c[2] * centre, c[2]];
    let least = c[0] + c[1] * at + c[2] * at * at;
    Some(Parabola { c: plain, best: math::exp64(at + centre), least, inside: (low..=high).contains(&at) })
}

impl Parabola {
    /// The loss that the parabola gives.
    pub fn loss(&self, size: f64) -> f64 {
        let u = math::ln(size);
        self.c[0] + self.c[1] * u + self.c[2] * u * u
    }
}

/// `y = k x^exponent` through positive points, by least squares of the logarithms: (k, exponent).
pub fn log_line(points: &[(f64, f64)]) -> Option<(f64, f64)> {
    let u: Vec<f64> = points.iter().map(|p| math::ln(p.0)).collect();
    let y: Vec<f64> = points.iter().map(|p| math::ln(p.1)).collect();
    let centre = super::mean(&u);
    let c = linear(&[vec![1.0; u.len()], u.iter().map(|u| u - centre).collect()], &y)?;
    Some((math::exp64(c[0] - c[1] * centre), c[1]))
}

/// The numbers `0..n` drawn `n` times with replacement, for the `round`-th resample under `seed`.
pub fn resample(n: usize, seed: u64, round: u64) -> Vec<usize> {
    (0..n).map(|i| ((uniform(seed, Purpose::Resample, round, i as u64) * n as f64) as usize).min(n - 1)).collect()
}

/// The law fitted again to `rounds` data sets made of its own predictions and residuals drawn with replacement (Efron
/// 1979), the residuals widened by `sqrt(n / (n - coefficients))` because a fit makes them too small. Fits that fail are
/// left out.
pub fn bootstrap(points: &[Point], law: &PowerLaw, terms: Terms, seed: u64, rounds: u64) -> Vec<PowerLaw> {
    let n = points.len();
    let free = n.saturating_sub(if terms == Terms::Both { 5 } else { 3 }).max(1) as f64;
    let widen = (n as f64 / free).sqrt();
    let fitted: Vec<f64> = points.iter().map(|p| law.loss(p.parameters, p.tokens)).collect();
    let start = (law.alpha, if terms == Terms::Both { law.beta } else { 1.0 });
    let again = |round| {
        let chosen = resample(n, seed, round);
        let drawn: Vec<Point> = (0..n)
            .map(|i| Point { loss: fitted[i] + widen * (points[chosen[i]].loss - fitted[chosen[i]]), ..points[i] })
            .collect();
        search(&drawn, terms, Some(start))
    };
    (0..rounds).filter_map(again).collect()
}

/// The central interval that holds the share `level` of the values (percentiles, linear between neighbours).
pub fn percentile_interval(values: impl Iterator<Item = f64>, level: f64) -> Option<(f64, f64)> {
    let mut values: Vec<f64> = values.filter(|value| value.is_finite()).collect();
    values.sort_by(f64::total_cmp);
    let last = values.len().checked_sub(1)?;
    let at = |share: f64| {
        let place = share * last as f64;
        let below = (place.floor() as usize).min(last);
        values[below] + (place - below as f64) * (values[(below + 1).min(last)] - values[below])
    };
    Some((at(0.5 - 0.5 * level), at(0.5 + 0.5 * level)))
}
