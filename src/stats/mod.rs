//! Statistics of a few numbers: is a difference between two handfuls of losses more than chance?
//!
//! Pure functions over slices, with no knowledge of runs. [`compare`] holds the paired and the Welch t test and Holm's
//! correction; [`power`] says how small an effect a design can see and how many seeds a decision needs; [`noise`] splits
//! variance into its sources; [`fit`] fits power laws and parabolas and bootstraps them; [`special`] is the bottom: gamma,
//! incomplete beta, normal and t distributions, in our own arithmetic, so that every machine prints the same digits.
//!
//! docs/statistics.md has the formulas; `tests/cli/stats.rs` holds them against values from SciPy.

pub mod compare;
pub mod fit;
pub mod noise;
pub mod power;
pub mod special;

/// The arithmetic mean; NaN of nothing.
pub fn mean(values: &[f64]) -> f64 {
    values.iter().sum::<f64>() / values.len() as f64
}

/// The unbiased variance (divided by n - 1), in two passes; NaN for fewer than two values.
pub fn variance(values: &[f64]) -> f64 {
    if values.len() < 2 {
        return f64::NAN;
    }
    let centre = mean(values);
    values.iter().map(|value| (value - centre) * (value - centre)).sum::<f64>() / (values.len() - 1) as f64
}

/// The standard deviation (the root of [`variance`]).
pub fn deviation(values: &[f64]) -> f64 {
    variance(values).sqrt()
}
