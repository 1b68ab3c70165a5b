//! The oracle of the operator tests.
//!
//! An operator is described twice: by a composed definition over candle tensors, and by a run of ours. The definition is
//! evaluated in f64 (the truth) and in f32 (the plain implementation). Ours may be at most twice as far from the truth as
//! the plain implementation is, plus a few units in the last place of the largest value. The truth's gradient is itself
//! checked by a central difference along a random direction.

use candle_core::{DType, Device as CandleDevice, Result as CandleResult, Tensor as CTensor, Var as CVar};
use taper::device::Device;
use taper::random::{Purpose, fill_normal};
use taper::tape::{Gradients, Layout, ParamId, Params, Tape, Var};
use taper::tensor::Tensor;

/// Normal test data: a function of its name.
pub fn normal(name: &str, len: usize) -> Vec<f32> {
    let mut values = vec![0.0; len];
    fill_normal(7, Purpose::Test, name, 0, &mut values);
    values
}

/// A named input with its shape.
pub struct Input {
    pub values: Vec<f32>,
    pub shape: Vec<usize>,
    pub is_param: bool,
}

/// An activation.
pub fn activation(name: &str, shape: &[usize]) -> Input {
    Input { values: normal(name, shape.iter().product()), shape: shape.to_vec(), is_param: false }
}

/// A parameter.
pub fn param(name: &str, shape: &[usize]) -> Input {
    Input { is_param: true, ..activation(name, shape) }
}

struct Evaluated {
    out: Vec<f64>,
    grads: Vec<Vec<f64>>,
}

fn evaluate(
    inputs: &[Input],
    dout: &[f32],
    dtype: DType,
    f: &dyn Fn(&[CTensor]) -> CandleResult<CTensor>,
) -> Evaluated {
    let run = || -> CandleResult<Evaluated> {
        let vars: Vec<CVar> = inputs
            .iter()
            .map(|input| {
                let tensor = CTensor::from_slice(&input.values, input.shape.as_slice(), &CandleDevice::Cpu)?;
                CVar::from_tensor(&tensor.to_dtype(dtype)?)
            })
            .collect::<CandleResult<_>>()?;
        let tensors: Vec<CTensor> = vars.iter().map(|var| var.as_tensor().clone()).collect();
        let out = f(&tensors)?;
        let dout = CTensor::from_slice(dout, out.shape(), &CandleDevice::Cpu)?.to_dtype(dtype)?;
        let store = (&out * &dout)?.sum_all()?.backward()?;
        let flat = |tensor: &CTensor| tensor.to_dtype(DType::F64)?.flatten_all()?.to_vec1::<f64>();
        let grads = vars
            .iter()
            .map(|var| store.get(var.as_tensor()).map_or_else(|| Ok(vec![0.0; var.elem_count()]), flat))
            .collect::<CandleResult<_>>()?;
        Ok(Evaluated { out: flat(&out)?, grads })
    };
    run().expect("the oracle's own computation")
}

/// The derivative of `sum(f * dout)` along a random direction, by central differences in f64, and the direction.
fn directional(
    inputs: &[Input],
    dout: &[f32],
    f: &dyn Fn(&[CTensor]) -> CandleResult<CTensor>,
) -> (f64, Vec<Vec<f64>>) {
    let directions: Vec<Vec<f64>> = inputs
        .iter()
        .enumerate()
        .map(|(i, input)| normal(&format!("direction {i}"), input.values.len()).iter().map(|&v| f64::from(v)).collect())
        .collect();
    let at = |h: f64| -> CandleResult<f64> {
        let tensors: Vec<CTensor> = inputs
            .iter()
            .zip(&directions)
            .map(|(input, d)| {
                let moved: Vec<f64> = input.values.iter().zip(d).map(|(&v, &d)| f64::from(v) + h * d).collect();
                CTensor::from_slice(&moved, input.shape.as_slice(), &CandleDevice::Cpu)
            })
            .collect::<CandleResult<_>>()?;
        let out = f(&tensors)?.flatten_all()?.to_vec1::<f64>()?;
        Ok(out.iter().zip(dout).map(|(&o, &d)| o * f64::from(d)).sum())
    };
    let h = 1e-5;
    ((at(h).unwrap() - at(-h).unwrap()) / (2.0 * h), directions)
}

/// Largest distance from the truth.
fn distance(values: &[f64], truth: &[f64]) -> f64 {
    assert_eq!(values.len(), truth.len());
    let far = |(value, truth): (&f64, &f64)| if value.is_nan() { f64::INFINITY } else { (value - truth).abs() };
    values.iter().zip(truth).map(far).fold(0.0, f64::max)
}

fn judge(what: &str, ours: &[f32], plain: &[f64], truth: &[f64]) {
    let ours: Vec<f64> = ours.iter().map(|&value| f64::from(value)).collect();
    let largest = truth.iter().fold(0.0f64, |largest, value| largest.max(value.abs()));
    let (error, plain) = (distance(&ours, truth), distance(plain, truth));
    let allowed = 2.0 * plain + 4.0 * f64::from(f32::EPSILON) * largest;
    assert!(
        error <= allowed,
        "{what}: error {error:.3e}, a plain f32 implementation has {plain:.3e} (largest {largest:.3e})"
    );
}

/// Checks an operator's output, the gradients of all inputs, and that parameter gradients are *added*.
///
/// `ours` gets the tape, the activations in order, and the parameters in order.
pub fn check(
    inputs: &[Input],
    f: impl Fn(&[CTensor]) -> CandleResult<CTensor>,
    ours: impl Fn(&mut Tape<'_>, &[Var], &[ParamId]) -> taper::Result<Var>,
) {
    let mut layout = Layout::default();
    let params_in: Vec<&Input> = inputs.iter().filter(|input| input.is_param).collect();
    let ids: Vec<ParamId> =
        params_in.iter().enumerate().map(|(i, input)| layout.push(format!("p{i}"), &input.shape)).collect();
    let mut params = Params::zeros(layout, Device::Cpu).unwrap();
    for (id, input) in ids.iter().zip(&params_in) {
        params.set(*id, &input.values).unwrap();
    }
    // Gradients start at one, so that an operator that overwrites instead of adding is found.
    let mut grads = Gradients::zeros_like(&params).unwrap();
    grads.flat_mut().f32_mut().fill(1.0);
    let mut scratch = Gradients::zeros_like(&params).unwrap();
    let mut tape = Tape::training(&params, &mut scratch);
    let vars: Vec<Var> = inputs
        .iter()
        .filter(|input| !input.is_param)
        .map(|input| tape.input(Tensor::from_f32(&input.values, &input.shape).unwrap()))
        .collect();
    let out = ours(&mut tape, &vars, &ids).unwrap();
    let out_values = out.value().f32().to_vec();
    let dout = normal("dout", out_values.len());

    let truth = evaluate(inputs, &dout, DType::F64, &f);
    let plain = evaluate(inputs, &dout, DType::F32, &f);
    let (slope, directions) = directional(inputs, &dout, &f);
    let along: f64 = truth.grads.iter().flatten().zip(directions.iter().flatten()).map(|(g, d)| g * d).sum();
    assert!((slope - along).abs() <= 1e-5 * along.abs().max(1.0), "the oracle's gradient: {along} against {slope}");
    judge("output", &out_values, &plain.out, &truth.out);

    // Inference gives the same bits.
    let mut silent = Tape::inference(&params);
    let constants: Vec<Var> = vars.iter().map(|var| Var::constant(var.value().clone())).collect();
    let again = ours(&mut silent, &constants, &ids).unwrap();
    assert_eq!(again.value().f32(), out_values, "inference differs from training");
    drop(silent);

    let references: Vec<&Var> = vars.iter().collect();
    let dout = Tensor::from_f32(&dout, out.value().shape()).unwrap();
    let found = tape.backward_from(&out, dout, &mut grads, &references, None).unwrap();
    let (mut next_var, mut next_param) = (0, 0);
    for (i, input) in inputs.iter().enumerate() {
        let what = format!("gradient of input {i}");
        if input.is_param {
            let ours: Vec<f32> = grads.of(ids[next_param]).iter().map(|&g| g - 1.0).collect();
            // Adding to one and taking it off again costs half a unit of the sum.
            let sized: Vec<f64> = truth.grads[i].iter().map(|g| g.abs() + 1.0).collect();
            let largest = sized.iter().copied().fold(0.0, f64::max);
            let error = distance(&ours.iter().map(|&g| f64::from(g)).collect::<Vec<_>>(), &truth.grads[i]);
            let plain = distance(&plain.grads[i], &truth.grads[i]);
            let allowed = 2.0 * plain + 4.0 * f64::from(f32::EPSILON) * largest;
            assert!(error <= allowed, "{what}: error {error:.3e}, plain {plain:.3e}");
            next_param += 1;
        } else {
            let grad = found[next_var].as_ref().unwrap_or_else(|| panic!("{what} is missing"));
            judge(&what, grad.f32(), &plain.grads[i], &truth.grads[i]);
            next_var += 1;
        }
    }
}
