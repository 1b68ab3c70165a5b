//! `ops::embedding`.

use super::operator::{self, B, C, Moved, T};
use taper::ops::embedding::embedding;
use taper::tensor::Tensor;

/// Measures tokens that repeat as in text: half of all places hold one of a hundred tokens.
pub fn bench(c: &mut criterion::Criterion) {
    let (n, vocabulary) = (B * T * C, 50_257);
    let id = |i: usize| (i * 7919 % if i.is_multiple_of(2) { 100 } else { vocabulary }) as u32;
    let ids: Vec<u32> = (0..B * T).map(id).collect();
    let tokens = Tensor::from_u32(&ids, &[B, T]).expect("a host tensor");
    let moved = Moved { forward: 3 * n, backward: 3 * n };
    operator::bench(c, "embedding", &[], &[&[vocabulary, C], &[T, C]], moved, |tape, _, params| {
        embedding(tape, &tokens, params[0], Some(params[1]), 0, None)
    });
}
