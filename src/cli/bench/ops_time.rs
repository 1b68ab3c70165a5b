//! Timing operators as they run in a step: forward one after the other, each with weights and inputs of its own, then
//! backward in reverse order, so that what was saved has left the nearer caches as it has in a step.

use std::time::{Duration, Instant};

use crate::cli::bench::rates::best_rate;
use crate::device::Device;
use crate::error::Result;
use crate::model::Gpt;
use crate::ops::adamw::cost::{STATE_BYTES, bytes_per_parameter};
use crate::ops::adamw::{AdamW, adamw};
use crate::ops::gradnorm;
use crate::tape::{Backward, Context, Gradients, Layout, ParamId, Params, Tape, Var, VarId};
use crate::tensor::{DType, Tensor};

/// One pass of an operator: what it must do at least.
#[derive(Clone, Debug)]
pub(crate) struct Pass {
    pub name: &'static str,
    pub bytes: f64,
    pub flops: f64,
}

type Run<'o> = Box<dyn Fn(&mut Tape<'_>, Vec<Var>, &[ParamId]) -> Result<Vec<Var>> + 'o>;

/// An operator with the shapes at which it is timed.
pub(crate) struct Operator<'o> {
    pub name: &'static str,
    /// How often a step has it.
    pub count: usize,
    pub inputs: Vec<Vec<usize>>,
    pub params: Vec<Vec<usize>>,
    /// The forward pass, and the backward pass where there is one apart.
    pub passes: Vec<Pass>,
    /// The shape [m, n, k] that decides who makes its matrix products.
    pub product: Option<[usize; 3]>,
    /// Gives its outputs, from inputs that are its own.
    pub run: Run<'o>,
}

impl<'o> Operator<'o> {
    /// An operator without inputs and passes, which are to be filled in; `run` gives its outputs.
    pub fn new(
        name: &'static str,
        count: usize,
        run: impl Fn(&mut Tape<'_>, Vec<Var>, &[ParamId]) -> Result<Vec<Var>> + 'o,
    ) -> Operator<'o> {
        let none = Vec::new;
        Operator { name, count, inputs: none(), params: none(), passes: Vec::new(), product: None, run: Box::new(run) }
    }
}

/// What one of the operators of a round has for itself.
struct Set {
    params: Params,
    ids: Vec<ParamId>,
    grads: Gradients,
    inputs: Vec<Tensor>,
}

impl Set {
    fn new(operator: &Operator<'_>, dtype: DType) -> Result<Set> {
        let mut layout = Layout::default();
        let ids = operator.params.iter().enumerate().map(|(i, shape)| layout.push(format!("p{i}"), shape)).collect();
        let mut params = Params::zeros(layout, Device::Cpu)?;
        fill(params.flat_mut());
        let params = params.with_compute(dtype)?;
        let grads = Gradients::zeros_like(&params)?;
        let input = |shape: &Vec<usize>| {
            let mut input = Tensor::zeros(Device::Cpu, DType::F32, shape)?;
            fill(&mut input);
            input.to_dtype(dtype)
        };
        let inputs = operator.inputs.iter().map(input).collect::<Result<_>>()?;
        Ok(Set { params, ids, grads, inputs })
    }
}

/// Numbers of the size of weights, in no order that matters.
fn fill(tensor: &mut Tensor) {
    for (i, value) in tensor.f32_mut().iter_mut().enumerate() {
        *value = (i as u32).wrapping_mul(7919) as f32 / u32::MAX as f32 * 0.2 - 0.1;
    }
}

/// Stands for what comes after an operator: it hands the outputs the gradients that it has.
struct After {
    outputs: Vec<Option<VarId>>,
    gradients: Vec<Tensor>,
}

impl Backward for After {
    fn backward(self: Box<Self>, _douts: Vec<Tensor>, context: &mut Context<'_>) -> Result<()> {
        let mut pairs = self.outputs.into_iter().zip(self.gradients);
        pairs.try_for_each(|(output, gradient)| context.add(output, gradient))
    }
}

/// A tensor of the same values in memory of its own.
fn copy(tensor: &Tensor) -> Result<Tensor> {
    let mut copy = Tensor::empty(tensor.device(), tensor.dtype(), tensor.shape())?;
    copy.copy_from(tensor)?;
    Ok(copy)
}

/// Seconds of each pass of an operator: the best of some rounds, for about `patience`.
///
/// # Errors
/// Those of the operator.
pub(crate) fn time(operator: &Operator<'_>, dtype: DType, patience: Duration) -> Result<Vec<f64>> {
    /// What the operators of a round move together, about: more than the second-level caches hold.
    const ROUND_BYTES: f64 = 256e6;
    /// Most of them.
    const MAX: usize = 12;
    let bytes: f64 = operator.passes.iter().map(|pass| pass.bytes).sum();
    let most = if operator.count == 0 { MAX } else { operator.count.min(MAX) };
    let wanted = ((ROUND_BYTES / bytes).ceil() as usize).clamp(1, most);
    let mut sets = (0..wanted).map(|_| Set::new(operator, dtype)).collect::<Result<Vec<_>>>()?;
    let mut rounds: Vec<Vec<f64>> = operator.passes.iter().map(|_| Vec::new()).collect();
    let began = Instant::now();
    // The first round warms up.
    while rounds[0].len() < 4 || began.elapsed() < patience {
        let seconds = round(operator, &mut sets)?;
        rounds.iter_mut().zip(seconds).for_each(|(rounds, seconds)| rounds.push(seconds / wanted as f64));
    }
    Ok(rounds.iter().map(|seconds| best(&seconds[1..])).collect())
}

/// Seconds of the forward passes and of the backward passes of all sets.
fn round(operator: &Operator<'_>, sets: &mut [Set]) -> Result<[f64; 2]> {
    let (mut seconds, mut done) = ([0.0; 2], Vec::new());
    for Set { params, ids, grads, inputs } in sets {
        let mut tape = Tape::training(params, grads);
        // As in a step, inputs have just been written, and belong to the operator if it wants to work in place.
        let vars = inputs.iter().map(|input| Ok(tape.input(copy(input)?))).collect::<Result<Vec<Var>>>()?;
        let start = Instant::now();
        let outs = (operator.run)(&mut tape, vars, ids)?;
        seconds[0] += start.elapsed().as_secs_f64();
        done.push((tape, outs));
    }
    if operator.passes.len() == 1 {
        return Ok(seconds);
    }
    while let Some((mut tape, outs)) = done.pop() {
        let outputs: Vec<Option<VarId>> = outs.iter().map(Var::id).collect();
        let gradients = outs.iter().map(|out| copy(out.value())).collect::<Result<Vec<Tensor>>>()?;
        drop(outs);
        let one = Tensor::from_f32(&[1.0], &[1])?;
        let root = tape.record(&[], one.clone(), || Box::new(After { outputs, gradients }));
        let start = Instant::now();
        tape.backward(&root, one)?;
        seconds[1] += start.elapsed().as_secs_f64();
    }
    Ok(seconds)
}

/// The shortest time: what else the machine does can only make one longer.
fn best(seconds: &[f64]) -> f64 {
    seconds.iter().copied().fold(f64::INFINITY, f64::min)
}

/// A pass over the whole arena, and its seconds.
pub(crate) type ArenaPass = (&'static str, Pass, f64);

/// The passes over all parameters of a model that a step makes once, and their seconds.
///
/// # Errors
/// If memory cannot be had.
pub(crate) fn time_arena(model: &Gpt, dtype: DType, patience: Duration) -> Result<Vec<ArenaPass>> {
    let mut params = Params::zeros(model.layout().clone(), Device::Cpu)?.with_compute(dtype)?;
    let mut grads = Gradients::zeros_like(&params)?;
    let len = model.layout().trained();
    let moment = || Tensor::zeros(Device::Cpu, DType::F32, &[len]);
    let (mut m, mut v) = (moment()?, moment()?);
    let pass = |bytes_each: usize| Pass { name: "once", bytes: (bytes_each * len) as f64, flops: 0.0 };
    let seconds = repeat(patience, || grads.clear())?;
    let mut found = vec![("zero gradients", pass(size_of::<f32>()), seconds)];
    fill(grads.flat_mut());
    let seconds = repeat(patience, || {
        std::hint::black_box(gradnorm::gradnorm(&grads, 1.0));
        Ok(())
    })?;
    found.push(("gradient norm", pass(gradnorm::cost::BYTES_PER_PARAMETER), seconds));
    let with = AdamW { lr: 1e-4, beta1: 0.9, beta2: 0.95, eps: 1e-8, weight_decay: 0.1, t: 10, grad_scale: 0.5 };
    let seconds = repeat(patience, || {
        adamw(&mut params, &grads, &mut m, &mut v, &with);
        Ok(())
    })?;
    found.push(("adamw", pass(bytes_per_parameter(STATE_BYTES, dtype)), seconds));
    Ok(found)
}

/// Seconds of a call, the best of several.
fn repeat(patience: Duration, mut work: impl FnMut() -> Result<()>) -> Result<f64> {
    let mut done = Ok(());
    let rate = best_rate(1.0, patience, || {
        if let Err(error) = work() {
            done = Err(error);
        }
    });
    done.map(|()| 1e-9 / rate)
}
