//! Embedding of tokens and positions: `y[b, t] = wte[tokens[b, t]] + wpe[first_position + t]`. Where a row holds several
//! documents, positions start again in each.
//!
//! The gradient of a row of `wte` is a sum over all places where its token stands. Places are sorted by token first, so
//! that one task owns one row and adds to it in the order of the places: no atomics, and the same bits always.

pub mod cost;
pub mod cpu;
pub mod cuda;

use crate::error::{Error, Result};
use crate::ops::documents::Documents;
use crate::ops::element::on_cpu;
use crate::ops::launch::Past;
use crate::tape::{Backward, Context, ParamId, Params, Tape, Var};
use crate::tensor::Tensor;

/// Rows of `wte` [V, C] for `tokens` [B, T] (u32), plus rows of `wpe` [T', C] from `first_position` on where there is one;
/// gives [B, T, C].
///
/// # Errors
/// For a token id that is not below V, for positions past the end of `wpe`, and if memory or the device fails.
///
/// # Panics
/// If `tokens` does not have two axes, or the widths of the tables differ.
pub fn embedding(
    tape: &mut Tape<'_>,
    tokens: &Tensor,
    wte: ParamId,
    wpe: Option<ParamId>,
    first_position: usize,
    documents: Option<&Documents>,
) -> Result<Var> {
    let params = tape.params();
    let (table, positions) = (params.weight(wte), wpe.map(|wpe| params.weight(wpe)));
    let [batch, time] = *tokens.shape() else { panic!("embedding: tokens of shape {:?}", tokens.shape()) };
    let (vocabulary, width) = (table.shape()[0], table.shape()[1]);
    check_tokens(tokens, vocabulary)?;
    if let Some(positions) = &positions {
        assert_eq!(positions.shape()[1], width, "embedding: widths of the tables");
        let (end, known) = (first_position + time, positions.shape()[0]);
        if end > known {
            return Err(Error::Training(format!(
                "the text reaches position {}, but the model only knows positions below {known} (its context_length); \
                 use a shorter text",
                end - 1
            )));
        }
    }
    let mut y = Tensor::empty(table.device(), table.dtype(), &[batch, time, width])?;
    match table.gpu() {
        None => on_cpu!(y.dtype(), E => {
            let wpe = positions.as_ref().map(|positions| &positions.values::<E>()[first_position * width..]);
            let places = documents.filter(|_| wpe.is_some()).map(Documents::positions);
            cpu::forward(y.values_mut(), tokens.u32(), table.values(), wpe, time, places.as_deref(), width);
        }),
        Some(gpu) => {
            let from = Past::Same(first_position);
            cuda::forward(gpu, &mut y, tokens, &table, positions.as_ref(), from, documents)?;
        }
    }
    let used: Vec<ParamId> = std::iter::once(wte).chain(wpe).collect();
    let documents = documents.cloned();
    Ok(tape.record(&used, y, || Box::new(Embedding { tokens: tokens.clone(), wte, wpe, first_position, documents })))
}

/// Rows for one token of each sequence, on a GPU, without a tape: `tokens` u32 [B, 1] and `pasts` u32 `[B]` are on the
/// device, and the caller has checked them. Gives [B, 1, C].
///
/// # Errors
/// If memory or the device fails.
///
/// # Panics
/// On the CPU.
pub fn embed_each(
    params: &Params,
    tokens: &Tensor,
    wte: ParamId,
    wpe: Option<ParamId>,
    pasts: &Tensor,
) -> Result<Tensor> {
    let (table, positions) = (params.weight(wte), wpe.map(|wpe| params.weight(wpe)));
    let gpu = table.gpu().expect("a step of many sequences is for a GPU");
    let mut y = Tensor::empty(table.device(), table.dtype(), &[tokens.len(), 1, table.last()])?;
    cuda::forward(gpu, &mut y, tokens, &table, positions.as_ref(), Past::Own(pasts), None)?;
    Ok(y)
}

fn check_tokens(tokens: &Tensor, vocabulary: usize) -> Result<()> {
    let Some(place) = tokens.u32().iter().position(|&id| id as usize >= vocabulary) else { return Ok(()) };
    let (sequence, position) = (place / tokens.last(), place % tokens.last());
    Err(Error::Training(format!(
        "token id {} at position {position} of sequence {sequence} of the batch is outside the vocabulary of {vocabulary} \
         tokens; the data and the model must come from the same tokenizer",
        tokens.u32()[place]
    )))
}

struct Embedding {
    tokens: Tensor,
    wte: ParamId,
    wpe: Option<ParamId>,
    first_position: usize,
    documents: Option<Documents>,
}

impl Backward for Embedding {
    fn backward(self: Box<Self>, mut douts: Vec<Tensor>, context: &mut Context<'_>) -> Result<()> {
        let dy = douts.pop().expect("one output");
        let wpe = self.wpe.filter(|&wpe| context.grads().wants(wpe));
        match dy.gpu() {
            None => on_cpu!(dy.dtype(), E => {
                let (time, width, dy) = (self.tokens.last(), dy.last(), dy.values::<E>());
                if let Some(dwte) = context.grads().wanted(self.wte) {
                    cpu::backward_tokens(dwte, dy, self.tokens.u32(), width);
                }
                let restarted = self.documents.as_ref().map(Documents::positions);
                if let (Some(wpe), Some(positions)) = (wpe, &restarted) {
                    cpu::backward_tokens(context.grads().of_mut(wpe), dy, positions, width);
                } else if let Some(wpe) = wpe {
                    let rows = self.first_position * width..(self.first_position + time) * width;
                    cpu::backward_positions(&mut context.grads().of_mut(wpe)[rows], dy, width);
                }
            }),
            Some(gpu) => {
                let grads = context.grads();
                let (dwte, dwpe) = (grads.wanted_address(self.wte), wpe.map(|wpe| grads.address_mut(wpe)));
                cuda::backward(gpu, (dwte, dwpe), &dy, &self.tokens, (self.first_position, self.documents.as_ref()))?;
            }
        }
        Ok(())
    }
}
