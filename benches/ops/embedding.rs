//! `ops::embedding`.

use super::operator::{self, B, C, T};
use taper::ops::cost::Counting;
use taper::ops::embedding::{cost::cost, embedding};
use taper::tensor::Tensor;

/// Measures tokens that repeat as in text: half of all places hold one of a hundred tokens.
pub fn bench(c: &mut criterion::Criterion) {
    let vocabulary = 50_257;
    let id = |i: usize| (i * 7919 % if i.is_multiple_of(2) { 100 } else { vocabulary }) as u32;
    let ids: Vec<u32> = (0..B * T).map(id).collect();
    let tokens = Tensor::from_u32(&ids, &[B, T]).expect("a host tensor");
    operator::bench(
        c,
        "embedding",
        &[],
        &[&[vocabulary, C], &[T, C]],
        cost(B, T, C, vocabulary, true, Counting::EachUse),
        |tape, _, params| embedding(tape, &tokens, params[0], Some(params[1]), 0, None),
    );
}
