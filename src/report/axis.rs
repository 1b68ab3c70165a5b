//! Axes: a range of values, linear or logarithmic, with ticks at round numbers and labels that fit them.
//!
//! The charting crate's own axes label steps as 20000.0 and learning rates as 0.0; these know what is on them.

/// A range of values laid out along one side of a chart.
#[derive(Clone, Debug, PartialEq)]
pub struct Axis {
    /// The value at the left or bottom end.
    pub lo: f64,
    /// The value at the right or top end.
    pub hi: f64,
    /// Whether equal distances are equal ratios.
    pub log: bool,
    /// Values with their labels.
    pub ticks: Vec<(f64, String)>,
}

/// How the values of an axis should be laid out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Scale {
    /// From somewhat below the smallest value to somewhat above the largest; logarithmic where all are positive and the
    /// largest is more than 100 times the smallest.
    Auto,
    /// Linear, from zero up.
    FromZero,
}

/// What the horizontal axis measures.
#[derive(Clone, Debug, PartialEq)]
pub enum Across {
    /// Optimizer steps, from 0.
    Steps,
    /// An amount that grows from 0, with the name of the axis.
    Amount(String),
    /// Any values, laid out by a scale, with the name of the axis.
    Values(String, Scale),
}

impl Across {
    /// The name of the axis.
    pub fn label(&self) -> &str {
        match self {
            Across::Steps => "optimizer step",
            Across::Amount(label) | Across::Values(label, _) => label,
        }
    }

    /// The axis for these values.
    pub fn axis(&self, values: impl Iterator<Item = f64>, max_ticks: usize) -> Axis {
        match self {
            Across::Steps => Axis::steps(values.fold(0.0, f64::max), max_ticks),
            Across::Amount(_) => Axis::from_zero(values.fold(0.0, f64::max), max_ticks),
            Across::Values(_, scale) => Axis::values(values, *scale, max_ticks),
        }
    }
}

/// A ratio of largest to smallest value beyond which a linear axis shows little but the largest.
const LOG_RATIO: f64 = 100.0;

impl Axis {
    /// The axis of optimizer steps: from 0, with ticks at whole numbers only.
    pub fn steps(last: f64, max_ticks: usize) -> Self {
        let hi = last.max(1.0);
        let step = round_step(hi / max_ticks.max(1) as f64).max(1.0);
        Self { lo: 0.0, hi, log: false, ticks: linear_ticks(0.0, hi, step) }
    }

    /// An axis of amounts that grow from 0: tokens, seconds, floating-point operations.
    pub fn from_zero(last: f64, max_ticks: usize) -> Self {
        let hi = if last > 0.0 { last.min(1e300) } else { 1.0 };
        let step = round_step(hi / max_ticks.max(1) as f64);
        Self { lo: 0.0, hi, log: false, ticks: linear_ticks(0.0, hi, step) }
    }

    /// The axis of measured values.
    pub fn values(values: impl Iterator<Item = f64>, scale: Scale, max_ticks: usize) -> Self {
        let (mut lo, mut hi, mut smallest) = (f64::INFINITY, f64::NEG_INFINITY, f64::INFINITY);
        for value in values.filter(|v| v.is_finite()) {
            // Far beyond any loss, and far enough from the largest number that differences stay finite.
            let value = value.clamp(-1e300, 1e300);
            (lo, hi) = (lo.min(value), hi.max(value));
            if value > 0.0 {
                smallest = smallest.min(value);
            }
        }
        if lo > hi {
            (lo, hi) = (0.0, 1.0);
        }
        if scale == Scale::Auto && lo >= 0.0 && smallest.is_finite() && hi > LOG_RATIO * smallest {
            return Self::logarithmic(smallest, hi, max_ticks);
        }
        if scale == Scale::FromZero {
            (lo, hi) = (lo.min(0.0), hi.max(0.0));
        }
        if hi - lo <= 1e-12 * hi.abs().max(lo.abs()) {
            // All equal: give the line some room to be seen in.
            let room = if hi == 0.0 { 1.0 } else { hi.abs() * 0.05 };
            (lo, hi) = (lo - room, hi + room);
        }
        let span = hi - lo;
        let bottom = if scale == Scale::FromZero && lo == 0.0 { 0.0 } else { 0.04 };
        let (lo, hi) = (lo - bottom * span, hi + 0.04 * span);
        let step = round_step((hi - lo) / max_ticks.max(1) as f64);
        Self { lo, hi, log: false, ticks: linear_ticks(lo, hi, step) }
    }

    /// The logarithmic axis of positive values; of others there is nothing to lay out.
    pub fn log_values(values: impl Iterator<Item = f64>, max_ticks: usize) -> Self {
        let (mut lo, mut hi) = (f64::INFINITY, 0.0f64);
        values.filter(|v| v.is_finite() && *v > 0.0).for_each(|v| (lo, hi) = (lo.min(v), hi.max(v)));
        let (lo, hi) = if lo > hi { (1.0, 10.0) } else { (lo, hi) };
        // A single value stands in the middle of a decade.
        let room = if hi / lo < 1.5 { 10f64.sqrt() } else { 1.0 };
        Self::logarithmic(lo / room, hi * room, max_ticks)
    }

    fn logarithmic(lo: f64, hi: f64, max_ticks: usize) -> Self {
        let (lo, hi) = (lo.log10(), hi.log10());
        let span = hi - lo;
        let (lo, hi) = (lo - 0.04 * span, hi + 0.04 * span);
        let (lo, hi) = (lo.max(-307.0), hi.min(307.0));
        let (first, last) = (lo.ceil() as i32, hi.floor() as i32);
        let decades = (last - first + 1).max(1) as usize;
        let every = decades.div_ceil(max_ticks.max(1)).max(1) as i32;
        let between: &[f64] = if decades * 3 <= max_ticks + 2 { &[1.0, 2.0, 5.0] } else { &[1.0] };
        let mut ticks = Vec::new();
        for decade in first - 1..=last {
            if decade.rem_euclid(every) != 0 {
                continue;
            }
            for factor in between {
                let exponent = f64::from(decade) + factor.log10();
                if (lo..=hi).contains(&exponent) {
                    ticks.push((10f64.powf(exponent), log_label(*factor, decade)));
                }
            }
        }
        Self { lo: 10f64.powf(lo), hi: 10f64.powf(hi), log: true, ticks }
    }

    /// Where a value lies: 0 at `lo`, 1 at `hi`. Values outside are put on the nearer end, NaN on the upper.
    pub fn unit(&self, value: f64) -> f64 {
        let at = match (value.is_nan(), self.log) {
            (true, _) => 1.0,
            (false, true) if value <= 0.0 => 0.0,
            (false, true) => (value.log10() - self.lo.log10()) / (self.hi.log10() - self.lo.log10()),
            (false, false) => (value - self.lo) / (self.hi - self.lo),
        };
        at.clamp(0.0, 1.0)
    }
}

/// The smallest of 1, 2, 5 times a power of ten that is not below `at_least`.
fn round_step(at_least: f64) -> f64 {
    if !(at_least.is_finite() && at_least > 0.0) {
        return 1.0;
    }
    let power = 10f64.powf(at_least.log10().floor());
    let factors = [1.0, 2.0, 5.0, 10.0];
    // A hair of tolerance, so that 0.2 computed as 0.20000000000000001 does not become 0.5.
    power * factors.into_iter().find(|f| f * power >= at_least * (1.0 - 1e-9)).unwrap_or(10.0)
}

fn linear_ticks(lo: f64, hi: f64, step: f64) -> Vec<(f64, String)> {
    let (first, last) = ((lo / step - 1e-9).ceil(), (hi / step + 1e-9).floor());
    if (last - first).is_nan() || last - first > 1000.0 {
        return Vec::new();
    }
    let largest = lo.abs().max(hi.abs());
    // Multiples of the step rather than a running sum, which would drift.
    (0..=(last - first) as i64).map(|k| (first + k as f64) * step).map(|v| (v, tick_label(v, step, largest))).collect()
}

/// The label of a tick on a linear axis: as many digits as tell it from its neighbours.
fn tick_label(value: f64, step: f64, largest: f64) -> String {
    let power_of = |v: f64| (v.log10() + 1e-9).floor() as i32;
    if value == 0.0 {
        return "0".into();
    }
    if !(1e-3..1e15).contains(&largest) {
        let exponent = power_of(largest);
        let unit = 10f64.powi(exponent);
        let decimals = (exponent - power_of(step)).clamp(0, 9) as usize;
        return format!("{:.decimals$}e{exponent}", value / unit);
    }
    let (unit, suffix) = match largest {
        v if v >= 1e12 => (1e12, "T"),
        v if v >= 1e9 => (1e9, "B"),
        v if v >= 1e6 => (1e6, "M"),
        v if v >= 1e4 => (1e3, "k"),
        _ => (1.0, ""),
    };
    let decimals = (-power_of(step / unit)).clamp(0, 12) as usize;
    format!("{:.decimals$}{suffix}", value / unit)
}

fn log_label(factor: f64, decade: i32) -> String {
    match decade {
        -3..=-1 => format!("{:.*}", -decade as usize, factor * 10f64.powi(decade)),
        0..=3 => format!("{}", factor * 10f64.powi(decade)),
        _ => format!("{factor}e{decade}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn labels(axis: &Axis) -> Vec<&str> {
        axis.ticks.iter().map(|(_, label)| label.as_str()).collect()
    }

    // The expected labels are what a person would write on graph paper.
    #[test]
    fn ticks_are_round_numbers() {
        assert_eq!(labels(&Axis::steps(1.0, 10)), ["0", "1"]);
        assert_eq!(labels(&Axis::steps(2.0, 10)), ["0", "1", "2"]);
        assert_eq!(labels(&Axis::steps(100_000.0, 6)), ["0", "20k", "40k", "60k", "80k", "100k"]);
        assert_eq!(labels(&Axis::steps(1_500_000.0, 4)), ["0", "0.5M", "1.0M", "1.5M"]);
        let rate = Axis::values([0.0, 6e-4].into_iter(), Scale::FromZero, 7);
        assert_eq!(labels(&rate), ["0", "1e-4", "2e-4", "3e-4", "4e-4", "5e-4", "6e-4"]);
        let loss = Axis::values([3.9, 10.9].into_iter(), Scale::Auto, 8);
        assert_eq!(labels(&loss), ["4", "5", "6", "7", "8", "9", "10", "11"]);
        let norm = Axis::values([0.02, 4000.0].into_iter(), Scale::Auto, 7);
        assert!(norm.log);
        assert_eq!(labels(&norm), ["0.1", "1", "10", "100", "1000"]);
    }

    #[test]
    fn every_value_has_a_place() {
        let equal = Axis::values([2.5; 3].into_iter(), Scale::Auto, 6);
        assert!((equal.unit(2.5) - 0.5).abs() < 1e-9, "a constant lies in the middle");
        let log = Axis::values([1e-3, 1e5].into_iter(), Scale::Auto, 6);
        assert_eq!(log.unit(0.0), 0.0);
        assert_eq!(log.unit(f64::NAN), 1.0);
        assert_eq!(log.unit(f64::INFINITY), 1.0);
        assert!((log.unit(10.0) - 0.5).abs() < 1e-9, "the geometric middle of 1e-3 and 1e5 is 10");
        for extreme in [f64::MAX, -f64::MAX, f64::MIN_POSITIVE, 5e-324, 0.0] {
            for other in [f64::MAX, 1.0, -1.0, 0.0, 1e-320] {
                let axis = Axis::values([extreme, other].into_iter(), Scale::Auto, 6);
                assert!(axis.unit(extreme).is_finite() && axis.ticks.len() < 50, "{extreme} {other}: {axis:?}");
            }
        }
        assert_eq!(Axis::values(std::iter::empty(), Scale::Auto, 5).unit(0.5).to_bits(), 0.5f64.to_bits());
    }
}
