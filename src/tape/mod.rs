//! The tape: what a training step did, ready to be run backwards.
//!
//! Operators compute their result, then `record` how to go back. Backward walks the record in reverse: each operator
//! takes the gradient of its outputs, adds to the gradients of its inputs, and adds parameter gradients in place into the
//! arena. What an operator saved is dropped as soon as it has been used, because `backward` consumes the record. When a
//! parameter has received its last gradient, the ready hook is called: that is where communication can start.
//! [`Tape::recompute`] stores only a block's input and runs the block again when its gradient is due (Chen et al. 2016).
//! An inference tape records nothing.

pub mod arena;
pub mod layout;
pub mod role;

pub use arena::{Gradients, Params};
pub use layout::{Layout, ParamId, ParamInfo};
pub use role::Role;

use crate::error::Result;
use crate::tensor::Tensor;

/// The place of a value's gradient during backward.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct VarId(usize);

/// A value on the tape.
#[derive(Clone, Debug)]
pub struct Var {
    value: Tensor,
    id: Option<VarId>,
}

impl Var {
    /// A value that no gradient flows to.
    pub fn constant(value: Tensor) -> Var {
        Var { value, id: None }
    }

    /// The value.
    pub fn value(&self) -> &Tensor {
        &self.value
    }

    /// Takes the value out, so that an operator can work in place where it is the only owner.
    pub fn into_value(self) -> Tensor {
        self.value
    }

    /// Where its gradient goes (None for constants and in inference).
    pub fn id(&self) -> Option<VarId> {
        self.id
    }
}

/// The way back through one operator. It owns what the operator saved.
pub trait Backward {
    /// Takes the gradients of the operator's outputs (in the order they were recorded, none missing) and adds those of
    /// its inputs and parameters to `context`.
    ///
    /// # Errors
    /// If memory or the device fails.
    fn backward(self: Box<Self>, douts: Vec<Tensor>, context: &mut Context<'_>) -> Result<()>;

    /// [`Backward::backward`] for an operator with several outputs that knows what to do where one of them was not used (its
    /// gradient is None; at least one is there). By default such a gradient is zero.
    ///
    /// # Errors
    /// As [`Backward::backward`].
    fn backward_some(self: Box<Self>, douts: Vec<Option<Tensor>>, context: &mut Context<'_>) -> Result<()> {
        self.backward(complete(douts)?, context)
    }
}

/// What an operator's backward may touch.
pub struct Context<'c> {
    params: &'c Params,
    grads: &'c mut Gradients,
    var_grads: &'c mut [Option<Tensor>],
}

impl Context<'_> {
    /// The values of the parameters.
    pub fn params(&self) -> &Params {
        self.params
    }

    /// The gradients of the parameters, to be added to.
    pub fn grads(&mut self) -> &mut Gradients {
        self.grads
    }

    /// Takes out what has been added to the gradient of a value so far, for an operator that adds its own share to it in
    /// the same pass, and then hands the sum to [`Context::add`].
    pub fn take(&mut self, var: Option<VarId>) -> Option<Tensor> {
        var.and_then(|VarId(index)| self.var_grads[index].take())
    }

    /// Adds `grad` to the gradient of a value. The first gradient is moved, later ones are added in place, in the order
    /// of the backward walk.
    ///
    /// # Errors
    /// If memory cannot be had.
    pub fn add(&mut self, var: Option<VarId>, grad: Tensor) -> Result<()> {
        let Some(VarId(index)) = var else { return Ok(()) };
        let slot = &mut self.var_grads[index];
        *slot = Some(match slot.take() {
            None => grad,
            Some(sum) => {
                let mut sum = sum.into_sole()?;
                sum.add_assign(&grad)?;
                sum
            }
        });
        Ok(())
    }
}

struct Node<'a> {
    op: Box<dyn Backward + 'a>,
    /// The ids of its outputs: consecutive.
    outs: std::ops::Range<usize>,
    /// The parameters it adds to, once for each use.
    params: Vec<ParamId>,
}

/// Called with each parameter that is trained as soon as its gradient is complete, and with the gradients so far. Its error
/// ends the backward pass.
pub type ReadyHook<'a> = Box<dyn FnMut(ParamId, &mut Gradients) -> Result<()> + 'a>;

/// The record of a forward pass. `'a` is the life of the parameters (and of the model that recomputation refers to).
pub struct Tape<'a> {
    params: &'a Params,
    grads: Option<&'a mut Gradients>,
    recording: bool,
    nodes: Vec<Node<'a>>,
    vars: usize,
    /// Every use of a parameter, in order; what recomputation needs to know about a block it does not record.
    uses: Vec<ParamId>,
    hook: Option<ReadyHook<'a>>,
}

impl<'a> Tape<'a> {
    /// A tape that records nothing.
    pub fn inference(params: &'a Params) -> Tape<'a> {
        Tape { params, grads: None, recording: false, nodes: Vec::new(), vars: 0, uses: Vec::new(), hook: None }
    }

    /// A tape for a training step that adds to `grads`.
    pub fn training(params: &'a Params, grads: &'a mut Gradients) -> Tape<'a> {
        Tape { grads: Some(grads), recording: true, ..Tape::inference(params) }
    }

    /// Calls `hook` during backward for every parameter whose gradient is complete.
    pub fn on_ready(&mut self, hook: ReadyHook<'a>) {
        self.hook = Some(hook);
    }

    /// The values of the parameters.
    pub fn params(&self) -> &'a Params {
        self.params
    }

    /// Whether operators must save what their backward needs (also inside a recomputed block, where `grads` is absent).
    pub fn is_recording(&self) -> bool {
        self.recording
    }

    /// The gradients, for an operator at the end of the forward pass that computes its gradient right away. None in
    /// inference.
    pub fn grads(&mut self) -> Option<&mut Gradients> {
        self.grads.as_deref_mut()
    }

    /// Records an operator with one output. `params` are those that its backward adds to, one entry for each time;
    /// `op` is only called when the tape records.
    pub fn record(&mut self, params: &[ParamId], out: Tensor, op: impl FnOnce() -> Box<dyn Backward + 'a>) -> Var {
        self.record_many(params, [out], op).into_iter().next().expect("one output goes in and comes out")
    }

    /// Records an operator with several outputs; see [`Tape::record`].
    pub fn record_many<const N: usize>(
        &mut self,
        params: &[ParamId],
        outs: [Tensor; N],
        op: impl FnOnce() -> Box<dyn Backward + 'a>,
    ) -> [Var; N] {
        self.uses.extend_from_slice(params);
        if !self.recording {
            return outs.map(Var::constant);
        }
        let first = self.vars;
        self.vars += N;
        self.nodes.push(Node { op: op(), outs: first..first + N, params: params.to_vec() });
        let mut next = first;
        outs.map(|value| {
            next += 1;
            Var { value, id: Some(VarId(next - 1)) }
        })
    }

    /// A value whose gradient is wanted at the end of [`Tape::backward_from`]: a block's input, or a test's.
    pub fn input(&mut self, value: Tensor) -> Var {
        self.vars += 1;
        Var { value, id: Some(VarId(self.vars - 1)) }
    }

    /// Runs `block` on `x`, storing only `x`: the block is run again when its gradient is due. `block` must be a pure
    /// function of its input and the parameters (dropout is one here, since masks are functions of their place).
    ///
    /// # Errors
    /// Those of the block.
    pub fn recompute<F>(&mut self, x: Var, block: F) -> Result<Var>
    where
        F: for<'t> Fn(&mut Tape<'t>, Var) -> Result<Var> + 'a,
    {
        let mut forward = Tape::inference(self.params);
        let out = block(&mut forward, Var::constant(x.value.clone()))?.into_value();
        let params = forward.uses;
        Ok(self.record(&params, out, || Box::new(Recompute { x, block })))
    }

    /// Runs the record backwards from `root`, whose gradient is `dout`.
    ///
    /// # Errors
    /// Those of the operators.
    ///
    /// # Panics
    /// On an inference tape.
    pub fn backward(mut self, root: &Var, dout: Tensor) -> Result<()> {
        let grads = self.grads.take().expect("backward on a tape that records nothing");
        let hook = self.hook.take();
        self.backward_from(root, dout, grads, &[], hook).map(|_| ())
    }

    /// [`Tape::backward`] into given gradients; returns the gradients of `inputs` (None where none arrived).
    ///
    /// # Errors
    /// Those of the operators.
    pub fn backward_from(
        self,
        root: &Var,
        dout: Tensor,
        grads: &mut Gradients,
        inputs: &[&Var],
        mut hook: Option<ReadyHook<'_>>,
    ) -> Result<Vec<Option<Tensor>>> {
        let mut pending = vec![0u32; self.params.layout().infos().len()];
        self.nodes.iter().flat_map(|node| &node.params).for_each(|id| pending[id.0] += 1);
        let mut var_grads: Vec<Option<Tensor>> = vec![None; self.vars];
        if let Some(VarId(root)) = root.id {
            var_grads[root] = Some(dout);
        }
        let params = self.params;
        for node in self.nodes.into_iter().rev() {
            let douts: Vec<Option<Tensor>> = var_grads[node.outs].iter_mut().map(Option::take).collect();
            // An operator whose result nobody used has no gradient to pass on, but its parameters are done all the same.
            if douts.iter().any(Option::is_some) {
                node.op.backward_some(douts, &mut Context { params, grads: &mut *grads, var_grads: &mut var_grads })?;
            }
            for id in node.params {
                pending[id.0] -= 1;
                if let (0, true, Some(hook)) = (pending[id.0], params.layout().is_trained(id), &mut hook) {
                    hook(id, grads)?;
                }
            }
        }
        Ok(inputs.iter().map(|input| input.id.and_then(|VarId(index)| var_grads[index].take())).collect())
    }
}

/// Gradients of all outputs; one that nobody used is zero. Outputs of one operator have one shape here.
fn complete(douts: Vec<Option<Tensor>>) -> Result<Vec<Tensor>> {
    let like = douts.iter().flatten().next().map(|tensor| (tensor.device(), tensor.dtype(), tensor.shape().to_vec()));
    let (device, dtype, shape) = like.expect("called with at least one gradient");
    douts.into_iter().map(|dout| dout.map_or_else(|| Tensor::zeros(device, dtype, &shape), Ok)).collect()
}

struct Recompute<F> {
    x: Var,
    block: F,
}

impl<F> Backward for Recompute<F>
where
    F: for<'t> Fn(&mut Tape<'t>, Var) -> Result<Var>,
{
    fn backward(self: Box<Self>, mut douts: Vec<Tensor>, context: &mut Context<'_>) -> Result<()> {
        let mut tape = Tape { recording: true, ..Tape::inference(context.params) };
        let x = tape.input(self.x.value);
        let out = (self.block)(&mut tape, x.clone())?;
        let dout = douts.pop().expect("one output");
        let dx = tape.backward_from(&out, dout, context.grads, &[&x], None)?.pop().flatten();
        match dx {
            Some(dx) => context.add(self.x.id, dx),
            None => Ok(()),
        }
    }
}
