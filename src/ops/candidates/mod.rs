//! What a sampler needs of a row of logits: the largest logits, and the sums of the softmax.
//!
//! On a GPU this replaces the way of 4 V bytes a token to the host by a few kilobytes: top-k and nucleus sampling look
//! at the most likely tokens only, and know by the sums how likely the rest is.

pub mod cost;
pub mod cpu;
pub mod cuda;

use crate::error::Result;
use crate::tensor::Tensor;

/// Strips of a row: strip `i` has the elements `i`, `i + STRIPS`, ...
pub const STRIPS: usize = 1024;
/// At least so many of the largest logits are among the candidates (all, where there are fewer).
pub const WANTED: usize = 256;
/// More candidates than this are not listed: equal logits can be many.
pub const CAPACITY: usize = 768;

/// The candidates of one row.
#[derive(Clone, Debug, PartialEq)]
pub struct Candidates {
    /// The largest logit; NaN if any is one.
    pub max: f32,
    /// The sum of exp(x - max) over the row.
    pub sum: f64,
    /// The sum of exp((x - max) / temperature) over the row.
    pub tempered: f64,
    /// Token ids and logits, most likely first, the lower id first among equals.
    pub list: Vec<(u32, f32)>,
    /// Whether the list has every logit that is as large as its last, so that the first [`WANTED`] of it are the
    /// largest of the row; not so where too many are equal.
    pub whole: bool,
}

/// The candidates of each row of `logits`, f32 [N, S], of which the first `vocabulary` columns count. `inverse_temperatures`
/// f32 `[N]` are on the same device.
///
/// # Errors
/// If memory or the device fails.
///
/// # Panics
/// If the shapes do not fit.
pub fn candidates(logits: &Tensor, vocabulary: usize, inverse_temperatures: &Tensor) -> Result<Vec<Candidates>> {
    assert_eq!(logits.rows(), inverse_temperatures.len(), "candidates: one temperature a row");
    assert!(vocabulary <= logits.last(), "candidates: a vocabulary beyond the row");
    match logits.gpu() {
        None => Ok(cpu::candidates(logits.f32(), logits.last(), vocabulary, inverse_temperatures.f32())),
        Some(gpu) => cuda::Selection::new(gpu, logits.rows())?.select(gpu, logits, vocabulary, inverse_temperatures),
    }
}

/// Brings a list into its order.
fn sorted(mut list: Vec<(u32, f32)>) -> Vec<(u32, f32)> {
    list.sort_unstable_by(|a, b| b.1.total_cmp(&a.1).then(a.0.cmp(&b.0)));
    list
}
