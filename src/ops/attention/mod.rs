//! Causal self-attention: `softmax(Q K^T / sqrt(D)) V`, each query seeing itself and what is before it.
//!
//! Blockwise with an online softmax (FlashAttention-2, Dao 2023): no T x T matrix exists, so memory is linear in T. The
//! way back keeps the packed rows (shared with whoever made them), the output, and one number for each query, the
//! log-sum-exp of its scores, from which the probabilities are computed again.
//!
//! With [`Documents`], each document of a row is attended to alone: query `i` sees the keys from its document's first token
//! on, and no others.
//!
//! Queries, keys and values come packed, as the one linear layer before makes them: see [`Heads`]. A NaN or an infinity
//! in the input makes the rows that see it NaN; inside a block of queries it may reach earlier rows too, as in any
//! implementation that multiplies masked zeros.

pub mod cost;
pub mod cpu;
pub mod cuda;
pub mod decode;

use crate::error::{Error, Result};
use crate::ops::documents::Documents;
use crate::ops::element::on_cpu;
pub use crate::ops::heads::Heads;
use crate::ops::launch::Past;
use crate::random::Mask;
use crate::tape::{Backward, Context, Tape, Var};
use crate::tensor::{DType, Tensor};

/// Dropout of attention probabilities. The log-sum-exp is that of all of them: those kept are only scaled up.
///
/// Element `(h, q, k)` of a sequence of T tokens is element `(h * T + q) * T8 + k` of its mask, with T8 the next multiple
/// of eight.
#[derive(Clone, Copy, Debug)]
pub struct AttentionDropout<'s> {
    /// The mask of this place in the network.
    pub mask: Mask,
    /// The global index in the step of each of the B sequences of the batch.
    pub sequences: &'s [u32],
}

/// Attention over packed rows `qkv` [B, T, (H + 2K) * D]; gives [B, T, H * D]. With `documents`, within each of them.
///
/// # Errors
/// If memory or the device fails.
///
/// # Panics
/// If the shapes do not fit.
pub fn attention(
    tape: &mut Tape<'_>,
    qkv: &Var,
    heads: Heads,
    dropout: Option<AttentionDropout<'_>>,
    documents: Option<&Documents>,
) -> Result<Var> {
    let (out, lse) = forward(qkv.value(), heads, dropout, documents)?;
    let saved = out.clone();
    let dropout = dropout.map(|dropout| (dropout.mask, dropout.sequences.to_vec()));
    let documents = documents.cloned();
    Ok(tape.record(&[], out, || Box::new(Attention { qkv: qkv.clone(), out: saved, lse, heads, dropout, documents })))
}

/// Attention without a tape: the output [B, T, H * D] and the log-sum-exp of the scores [B, H, T]. See [`attention`].
///
/// # Errors
/// If memory or the device fails.
///
/// # Panics
/// If the shapes do not fit.
pub fn forward(
    qkv: &Tensor,
    heads: Heads,
    dropout: Option<AttentionDropout<'_>>,
    documents: Option<&Documents>,
) -> Result<(Tensor, Tensor)> {
    let (b, t) = heads.batch_and_time(qkv.shape());
    if let Some(dropout) = dropout {
        assert_eq!(dropout.sequences.len(), b, "attention dropout: one sequence index for each sequence");
    }
    let mut out = Tensor::empty(qkv.device(), qkv.dtype(), &[b, t, heads.width()])?;
    let mut lse = Tensor::empty(qkv.device(), DType::F32, &[b, heads.n_head, t])?;
    match qkv.gpu() {
        None => {
            let extent = cpu::Extent { b, t, heads, documents };
            on_cpu!(qkv.dtype(), E => {
                cpu::forward::<E>(out.values_mut(), lse.f32_mut(), qkv.values(), extent, dropout);
            });
        }
        Some(gpu) => cuda::forward(gpu, &mut out, &mut lse, qkv, heads, cuda::Masking { dropout, documents })?,
    }
    Ok((out, lse))
}

/// Attention over a cache, for inference: appends the keys and values of `qkv` [B, T, (H + 2K) * D] to `keys` and `values`
/// [S, K, C, D] at positions `past..past + T` of the sequences `first..first + B`, and writes to `out` [B, T, H * D] the
/// attention of query `t` over positions `0..=past + t`. What lies in the cache beyond is not read.
///
/// # Errors
/// If the cache is too small, or the device fails.
///
/// # Panics
/// If the shapes do not fit.
pub fn forward_cached(
    out: &mut Tensor,
    qkv: &Tensor,
    keys: &mut Tensor,
    values: &mut Tensor,
    heads: Heads,
    (first, past): (usize, usize),
) -> Result<()> {
    let (b, t) = heads.batch_and_time(qkv.shape());
    assert_eq!(out.shape(), [b, t, heads.width()], "cached attention: shape of the output");
    let capacity = keys.shape().get(2).copied().unwrap_or(0);
    assert!(keys.shape().first().is_some_and(|&sequences| first + b <= sequences), "cached attention: sequences");
    let cache = [keys.shape()[0], heads.n_kv_head, capacity, heads.head_dim];
    assert_eq!((keys.shape(), values.shape()), (&cache[..], &cache[..]), "cached attention: shape of the cache");
    if past + t > capacity {
        return Err(Error::Training(format!(
            "the key-value cache holds {capacity} positions, but {} are needed; shorten the text",
            past + t
        )));
    }
    if qkv.is_empty() {
        return Ok(());
    }
    match qkv.gpu() {
        None => {
            let extent = cpu::Extent { b, t, heads, documents: None };
            let from = first * heads.n_kv_head * capacity * heads.head_dim;
            on_cpu!(qkv.dtype(), E => {
                let (keys, values) = (&mut keys.values_mut::<E>()[from..], &mut values.values_mut()[from..]);
                cpu::forward_cached(out.values_mut(), qkv.values(), keys, values, extent, capacity, past);
            });
        }
        Some(gpu) => cuda::forward_cached(gpu, out, qkv, keys, values, heads, (first, past))?,
    }
    Ok(())
}

/// One new token of each sequence on a GPU: appends the keys and values of `qkv` [S, 1, (H + 2K) * D] to the caches
/// [S, K, C, D], each behind its own `pasts` (u32 `[S]` on the device; checked by the caller), and gives the attention
/// [S, 1, H * D] over them. No sequence has more than `longest` keys then.
///
/// # Errors
/// If memory or the device fails.
///
/// # Panics
/// On the CPU.
pub fn forward_each(
    qkv: &Tensor,
    keys: &mut Tensor,
    values: &mut Tensor,
    heads: Heads,
    pasts: &Tensor,
    longest: usize,
) -> Result<Tensor> {
    let gpu = qkv.gpu().expect("a step of many sequences is for a GPU");
    let mut out = Tensor::empty(qkv.device(), qkv.dtype(), &[qkv.shape()[0], 1, heads.width()])?;
    let cache = decode::Cached::new(keys, values, 0);
    cache.append(gpu, qkv, heads, Past::Own(pasts))?;
    cache.decode(gpu, &mut out, qkv, heads, Past::Own(pasts), longest)?;
    Ok(out)
}

struct Attention {
    qkv: Var,
    out: Tensor,
    lse: Tensor,
    heads: Heads,
    dropout: Option<(Mask, Vec<u32>)>,
    documents: Option<Documents>,
}

impl Backward for Attention {
    fn backward(self: Box<Self>, mut douts: Vec<Tensor>, context: &mut Context<'_>) -> Result<()> {
        let dout = douts.pop().expect("one output");
        let (qkv, heads) = (self.qkv.value(), self.heads);
        let (b, t) = heads.batch_and_time(qkv.shape());
        let dropout = self.dropout.as_ref().map(|(mask, sequences)| AttentionDropout { mask: *mask, sequences });
        let documents = self.documents.as_ref();
        let mut dqkv = Tensor::empty(qkv.device(), qkv.dtype(), qkv.shape())?;
        match qkv.gpu() {
            None => {
                let extent = cpu::Extent { b, t, heads, documents };
                let lse = self.lse.f32();
                on_cpu!(qkv.dtype(), E => {
                    let (dout, qkv, out) = (dout.values::<E>(), qkv.values(), self.out.values());
                    cpu::backward(dqkv.values_mut(), dout, qkv, out, lse, extent, dropout);
                });
            }
            Some(gpu) => {
                let saved = cuda::Saved { qkv, out: &self.out, lse: &self.lse };
                cuda::backward(gpu, &mut dqkv, &dout, &saved, heads, cuda::Masking { dropout, documents })?;
            }
        }
        context.add(self.qkv.id(), dqkv)
    }
}
