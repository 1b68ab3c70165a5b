//! Candidates on the CPU: the definition.

use super::{CAPACITY, Candidates, STRIPS, WANTED, sorted};
use crate::math;

/// See [`super::candidates`]; `logits` [N, stride].
pub fn candidates(logits: &[f32], stride: usize, vocabulary: usize, inverse_temperatures: &[f32]) -> Vec<Candidates> {
    let rows = logits.chunks_exact(stride).zip(inverse_temperatures);
    rows.map(|(row, &inverse)| of_row(&row[..vocabulary], f64::from(inverse))).collect()
}

fn of_row(row: &[f32], inverse_temperature: f64) -> Candidates {
    let larger = |a: f32, b: f32| if b > a || b.is_nan() { b } else { a };
    let mut strips: Vec<f32> = (0..STRIPS.min(row.len()))
        .map(|strip| row.iter().skip(strip).step_by(STRIPS).copied().fold(f32::NEG_INFINITY, larger))
        .collect();
    let max = strips.iter().copied().fold(f32::NEG_INFINITY, larger);
    strips.sort_unstable_by(|a, b| b.total_cmp(a));
    let least = strips.get(WANTED - 1).copied().unwrap_or(f32::NEG_INFINITY);
    let sum = |inverse: f64| row.iter().map(|&x| math::exp64((f64::from(x) - f64::from(max)) * inverse)).sum();
    let reaching = || row.iter().enumerate().filter(|(_, x)| x.total_cmp(&least).is_ge());
    let whole = reaching().count() <= CAPACITY;
    let list = reaching().take(if whole { CAPACITY } else { 0 }).map(|(id, &x)| (id as u32, x)).collect();
    Candidates { max, sum: sum(1.0), tempered: sum(inverse_temperature), list: sorted(list), whole }
}
