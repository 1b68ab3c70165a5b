//! One operator, forward and backward, on a GPU and on the CPU.

use taper::device::{DType, Device};
use taper::random::{Purpose, fill_normal};
use taper::tape::{Gradients, Layout, ParamId, Params, Tape, Var};
use taper::tensor::Tensor;

use super::devices;

/// An input of an operator.
#[derive(Clone)]
pub struct Input {
    pub values: Vec<f32>,
    pub shape: Vec<usize>,
    pub is_param: bool,
}

/// Normal values.
pub fn activation(name: &str, shape: &[usize]) -> Input {
    let mut values = vec![0.0; shape.iter().product()];
    fill_normal(5, Purpose::Test, name, 0, &mut values);
    Input { values, shape: shape.to_vec(), is_param: false }
}

/// Normal values, as a parameter.
pub fn param(name: &str, shape: &[usize]) -> Input {
    Input { is_param: true, ..activation(name, shape) }
}

/// The relative distance of neighbouring numbers.
pub fn epsilon(dtype: DType) -> f32 {
    match dtype {
        DType::BF16 => 1.0 / 128.0,
        DType::F16 => 1.0 / 1024.0,
        DType::F32 | DType::U32 => f32::EPSILON,
    }
}

type Operator<'o> = dyn Fn(&mut Tape<'_>, &[Var], &[ParamId]) -> taper::Result<Var> + 'o;

/// The output, then the gradients of all inputs.
fn run(inputs: &[Input], device: Device, dtype: DType, operator: &Operator<'_>) -> taper::Result<Vec<Vec<f32>>> {
    let mut layout = Layout::default();
    let ids: Vec<ParamId> =
        inputs.iter().filter(|input| input.is_param).map(|input| layout.push("p", &input.shape)).collect();
    let mut host = Params::zeros(layout, Device::Cpu)?;
    for (id, input) in ids.iter().zip(inputs.iter().filter(|input| input.is_param)) {
        host.set(*id, &rounded(&input.values, dtype))?;
    }
    let on_device = |values: &[f32], shape: &[usize]| -> taper::Result<Tensor> {
        let tensor = Tensor::from_f32(&rounded(values, dtype), shape)?.to_device(device)?;
        if device == Device::Cpu { Ok(tensor) } else { tensor.to_dtype(dtype) }
    };
    let params = host.to_device(device, if device == Device::Cpu { DType::F32 } else { dtype })?;
    let (mut grads, mut unused) = (Gradients::zeros_like(&params)?, Gradients::zeros_like(&params)?);
    let mut tape = Tape::training(&params, &mut unused);
    let mut vars = Vec::new();
    for input in inputs.iter().filter(|input| !input.is_param) {
        vars.push(tape.input(on_device(&input.values, &input.shape)?));
    }
    let out = operator(&mut tape, &vars, &ids)?;
    let mut dout = vec![0.0; out.value().len()];
    fill_normal(6, Purpose::Test, "dout", 0, &mut dout);
    let dout = on_device(&dout, out.value().shape())?;
    let mut all = vec![out.value().to_vec_f32()?];
    let references: Vec<&Var> = vars.iter().collect();
    let mut found = tape.backward_from(&out, dout, &mut grads, &references, None)?.into_iter();
    let flat = grads.flat().to_vec_f32()?;
    let mut params = ids.iter();
    for input in inputs {
        all.push(if input.is_param {
            flat[grads.layout().info(*params.next().unwrap()).range()].to_vec()
        } else {
            match found.next().unwrap() {
                Some(grad) => grad.to_vec_f32()?,
                None => vec![0.0; input.values.len()],
            }
        });
    }
    Ok(all)
}

/// Values that the dtype can hold.
pub fn rounded(values: &[f32], dtype: DType) -> Vec<f32> {
    let tensor = Tensor::from_f32(values, &[values.len()]).unwrap();
    tensor.to_dtype(dtype).unwrap().to_dtype(DType::F32).unwrap().f32().to_vec()
}

/// Checks an operator in each dtype on every device: no element of the output or of a gradient may be further from the
/// CPU's (computed in f32 from the same rounded inputs) than `factor` times the dtype's epsilon, relative to the element
/// or, where sums cancel, to the root mean square of the whole result.
pub fn check(what: &str, inputs: &[Input], dtypes: &[DType], factor: f32, operator: &Operator<'_>) {
    for &dtype in dtypes {
        check_in(devices(), what, inputs, dtype, factor, operator);
    }
}

/// [`check`] in every dtype on given devices.
pub fn check_on(devices: &[(String, Device)], what: &str, inputs: &[Input], factor: f32, operator: &Operator<'_>) {
    for dtype in [DType::F32, DType::BF16, DType::F16] {
        check_in(devices, what, inputs, dtype, factor, operator);
    }
}

fn check_in(
    devices: &[(String, Device)],
    what: &str,
    inputs: &[Input],
    dtype: DType,
    factor: f32,
    operator: &Operator<'_>,
) {
    let expected = run(inputs, Device::Cpu, dtype, operator).unwrap();
    for (name, device) in devices {
        let found = run(inputs, *device, dtype, operator).unwrap_or_else(|error| panic!("{what} {dtype:?}: {error}"));
        let again = run(inputs, *device, dtype, operator).unwrap();
        for (place, (found, expected)) in found.iter().zip(&expected).enumerate() {
            let part = if place == 0 { "output".into() } else { format!("gradient of input {}", place - 1) };
            close(&format!("{what}, {name} {dtype:?}, {part}"), found, expected, factor * epsilon(dtype));
        }
        let bits = |all: &[Vec<f32>]| all.iter().flatten().map(|value| value.to_bits()).collect::<Vec<_>>();
        assert!(bits(&found) == bits(&again), "{what}, {name} {dtype:?}: two runs differ");
    }
}

/// Checks two lists of numbers; NaN stands only where NaN is expected.
pub fn close(what: &str, found: &[f32], expected: &[f32], tolerance: f32) {
    assert_eq!(found.len(), expected.len(), "{what}: lengths");
    let finite = expected.iter().filter(|value| value.is_finite());
    let square: f64 = finite.map(|&value| f64::from(value).powi(2)).sum::<f64>() / expected.len().max(1) as f64;
    let typical = square.sqrt() as f32;
    for (i, (&found, &expected)) in found.iter().zip(expected).enumerate() {
        if expected.is_nan() || found.is_nan() {
            assert!(expected.is_nan() && found.is_nan(), "{what}: element {i} is {found}, expected {expected}");
            continue;
        }
        let allowed = tolerance * (typical + expected.abs());
        assert!(
            (found - expected).abs() <= allowed || found == expected,
            "{what}: element {i} is {found}, expected {expected}, allowed {allowed:e}"
        );
    }
}
