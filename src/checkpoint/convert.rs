//! Changes to a model that leave what it computes alone: other biases, a smaller vocabulary.
//!
//! Dtype and sharding are no change of the model but of how it is written: [`super::Packing`].

use super::folder::ModelFolder;
use crate::arch::config::ModelConfig;
use crate::arch::layout::{NamedParam, parameter_shapes};
use crate::error::{Error, Result};
use std::collections::BTreeMap;

/// What to do with the biases of a model.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Biases {
    /// Leave them.
    #[default]
    Keep,
    /// Give the model all biases, zero where it had none: it can then be trained on with them.
    Add,
    /// Take away those of the query-key-value projections, and those of everything else, each if all of them are zero.
    DropIfZero,
}

/// Adds or drops biases; says in `model.notes` what could not be dropped.
pub fn change_biases(model: &mut ModelFolder, how: Biases) {
    let is_qkv = |name: &str| name.ends_with("attn.qkv.bias");
    let first_nonzero = |params: &[NamedParam], qkv: bool| {
        let biases = params.iter().filter(|(name, _, _)| name.ends_with(".bias") && is_qkv(name) == qkv);
        biases.filter(|(_, _, values)| values.iter().any(|&v| v != 0.0)).map(|(name, _, _)| name.clone()).next()
    };
    let (qkv_bias, bias) = match how {
        Biases::Keep => return,
        Biases::Add => (true, true),
        Biases::DropIfZero => {
            let nonzero = [first_nonzero(&model.params, true), first_nonzero(&model.params, false)];
            for name in nonzero.iter().flatten() {
                model.notes.push(format!("{name} is not zero, so biases of its kind stay"));
            }
            (nonzero[0].is_some(), nonzero[1].is_some())
        }
    };
    model.config = ModelConfig { qkv_bias, bias, ..model.config.clone() };
    let mut old: BTreeMap<String, Vec<f32>> =
        std::mem::take(&mut model.params).into_iter().map(|(name, _, values)| (name, values)).collect();
    model.params = parameter_shapes(&model.config)
        .into_iter()
        .map(|(name, shape)| {
            // What the old model lacks is a bias.
            let values = old.remove(&name).unwrap_or_else(|| vec![0.0; shape.iter().product()]);
            (name, shape, values)
        })
        .collect();
}

/// Keeps the first `size` rows of the embedding and the output layer: the way back from a vocabulary that was padded for
/// speed. `used` is how many ids the tokenizer has, where one is known.
///
/// # Errors
/// `Usage` if `size` is larger than the vocabulary, or cuts ids off that the tokenizer or the model needs.
pub fn crop_vocabulary(model: &mut ModelFolder, size: usize, used: Option<usize>) -> Result<()> {
    let rows = model.config.vocab_size;
    if size == 0 || size > rows {
        return Err(Error::usage(format!(
            "--vocab-size {size}: the model has {rows} rows, and taper can only take some away; give 1 to {rows}"
        )));
    }
    if let Some(used) = used.filter(|&used| used > size) {
        return Err(Error::usage(format!(
            "--vocab-size {size} would cut off ids that the tokenizer gives, which has {used}; give at least {used}"
        )));
    }
    if let Some(eos) = model.eos.filter(|&eos| eos as usize >= size) {
        return Err(Error::usage(format!("--vocab-size {size} would cut off the end-of-text token, id {eos}")));
    }
    let columns = model.config.n_embd;
    for (name, shape, values) in &mut model.params {
        if name == "wte.weight" || name == "lm_head.weight" {
            values.truncate(size * columns);
            shape[0] = size;
        }
    }
    model.config.vocab_size = size;
    Ok(())
}
