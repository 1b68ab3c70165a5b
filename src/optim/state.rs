//! The state of an optimizer: what its rule keeps for each parameter, by name, and its counters.

use std::ops::Range;

use super::guard::ScaleState;
use super::rule::Rule;
use crate::device::{DType, Device};
use crate::error::{Error, Result};
use crate::tensor::Tensor;

/// The optimizer's state, on the host: what a checkpoint keeps of it.
#[derive(Clone, Debug, PartialEq)]
pub struct OptimizerState {
    /// Each slot's name and its values in the layout of the gradients, all of them or a part.
    pub slots: Vec<(String, Vec<f32>)>,
    /// Updates applied (Adam's t).
    pub updates: u64,
    /// The loss scale, with fp16.
    pub scale: Option<ScaleState>,
}

impl OptimizerState {
    /// The values of a slot.
    pub fn slot(&self, name: &str) -> Option<&[f32]> {
        self.slots.iter().find(|(slot, _)| slot == name).map(|(_, values)| values.as_slice())
    }

    /// The state of some of the elements, counted from the first that is here.
    ///
    /// # Panics
    /// If they are not here.
    pub fn part(&self, part: Range<usize>) -> OptimizerState {
        self.pieces(&[part])
    }

    /// The state of several ranges of elements, one after the other.
    ///
    /// # Panics
    /// As [`OptimizerState::part`].
    pub fn pieces(&self, pieces: &[Range<usize>]) -> OptimizerState {
        let of = |values: &[f32]| pieces.iter().flat_map(|piece| &values[piece.clone()]).copied().collect();
        let slots = self.slots.iter().map(|(name, values)| (name.clone(), of(values))).collect();
        OptimizerState { slots, ..*self }
    }
}

/// The slots of a rule for a part of the parameters, on the device that updates them.
#[derive(Debug)]
pub(super) struct Slots {
    names: &'static [&'static str],
    part: Range<usize>,
    /// f32 [part] each.
    tensors: Vec<Tensor>,
}

impl Slots {
    /// Slots that hold zeros.
    pub fn zeros(rule: &dyn Rule, part: Range<usize>, device: Device) -> Result<Slots> {
        let names = rule.slots();
        let zeros = |_: &&str| Tensor::zeros(device, DType::F32, &[part.len()]);
        let tensors = names.iter().map(zeros).collect::<Result<_>>()?;
        Ok(Slots { names, part, tensors })
    }

    /// The elements that are updated here.
    pub fn part(&self) -> Range<usize> {
        self.part.clone()
    }

    /// The buffers, in the rule's order.
    pub fn tensors_mut(&mut self) -> &mut [Tensor] {
        &mut self.tensors
    }

    /// Names and values of some of the elements. From a GPU it waits.
    ///
    /// # Panics
    /// If they are not all updated here.
    pub fn of(&self, part: Range<usize>) -> Result<Vec<(String, Vec<f32>)>> {
        let first = part.start - self.part.start;
        let values = |tensor: &Tensor| match part.is_empty() {
            true => Ok(Vec::new()),
            false => tensor.view(first, &[part.len()]).to_vec_f32(),
        };
        self.names.iter().zip(&self.tensors).map(|(name, tensor)| Ok((name.to_string(), values(tensor)?))).collect()
    }

    /// Takes this part of whole slots.
    ///
    /// # Errors
    /// `Usage` if the names are those of another rule, or the lengths differ.
    pub fn restore(&mut self, slots: &[(String, Vec<f32>)]) -> Result<()> {
        let found = |name: &str| slots.iter().find(|(slot, _)| slot == name).map(|(_, values)| values);
        if slots.len() != self.names.len() || self.names.iter().any(|name| found(name).is_none()) {
            let theirs: Vec<&str> = slots.iter().map(|(name, _)| name.as_str()).collect();
            return Err(Error::usage(format!(
                "the checkpoint holds the state of another optimizer ({}) than optimizer.kind ({}); start a new run with \
                 model.init_from",
                theirs.join(", "),
                self.names.join(", ")
            )));
        }
        for (name, tensor) in self.names.iter().zip(&mut self.tensors) {
            let values = found(name).and_then(|values| values.get(self.part.clone()));
            let values = values.ok_or_else(|| Error::usage("the checkpoint is of a model of another size"))?;
            tensor.copy_from(&Tensor::from_f32(values, &[values.len()])?)?;
        }
        Ok(())
    }
}
