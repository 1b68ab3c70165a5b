//! One forward and backward of an operator outside of the oracle: for NaNs, for errors, for the number of threads.

use super::oracle::{Input, normal};
use taper::device::Device;
use taper::tape::{Gradients, Layout, ParamId, Params, Tape, Var};
use taper::tensor::{DType, Tensor};

/// The output, then the gradients of the inputs in order (zeros where none arrived). The arguments are those of
/// `oracle::check`.
pub fn run(
    inputs: &[Input],
    ours: impl Fn(&mut Tape<'_>, &[Var], &[ParamId]) -> taper::Result<Var>,
) -> taper::Result<Vec<Vec<f32>>> {
    run_in(DType::F32, |len| normal("dout", len), inputs, ours)
}

/// [`run`] with activations and weights in a dtype, to which inputs and the gradient of the output (so many values) are rounded.
pub fn run_in(
    dtype: DType,
    dout: impl Fn(usize) -> Vec<f32>,
    inputs: &[Input],
    ours: impl Fn(&mut Tape<'_>, &[Var], &[ParamId]) -> taper::Result<Var>,
) -> taper::Result<Vec<Vec<f32>>> {
    let mut layout = Layout::default();
    let ids: Vec<ParamId> =
        inputs.iter().filter(|input| input.is_param).map(|input| layout.push("p", &input.shape)).collect();
    let mut params = Params::zeros(layout, Device::Cpu)?;
    for (id, input) in ids.iter().zip(inputs.iter().filter(|input| input.is_param)) {
        params.set(*id, &input.values)?;
    }
    let params = params.with_compute(dtype)?;
    let (mut grads, mut unused) = (Gradients::zeros_like(&params)?, Gradients::zeros_like(&params)?);
    let mut tape = Tape::training(&params, &mut unused);
    let mut vars = Vec::new();
    for input in inputs.iter().filter(|input| !input.is_param) {
        vars.push(tape.input(Tensor::from_f32(&input.values, &input.shape)?.to_dtype(dtype)?));
    }
    let out = ours(&mut tape, &vars, &ids)?;
    let dout = Tensor::from_f32(&dout(out.value().len()), out.value().shape())?;
    // An output in f32, as losses are, has a gradient in f32.
    let dout = dout.to_dtype(out.value().dtype())?;
    let mut all = vec![out.value().to_vec_f32()?];
    let references: Vec<&Var> = vars.iter().collect();
    let mut found = tape.backward_from(&out, dout, &mut grads, &references, None)?.into_iter();
    let mut params = ids.iter();
    for input in inputs {
        all.push(if input.is_param {
            grads.of(*params.next().expect("an id for each parameter")).to_vec()
        } else {
            let grad = found.next().expect("a place for each activation");
            grad.map_or_else(|| Ok(vec![0.0; input.values.len()]), |grad| grad.to_vec_f32())?
        });
    }
    Ok(all)
}

/// Checks that one, two and five threads give the same bits.
pub fn same_bits_on_any_number_of_threads(
    inputs: &[Input],
    ours: impl Fn(&mut Tape<'_>, &[Var], &[ParamId]) -> taper::Result<Var> + Sync,
) {
    for dtype in [DType::F32, DType::BF16] {
        let bits = |threads: usize| -> Vec<Vec<u32>> {
            let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
            let all = pool.install(|| run_in(dtype, |len| normal("dout", len), inputs, &ours)).unwrap();
            all.iter().map(|values| values.iter().map(|value| value.to_bits()).collect()).collect()
        };
        let alone = bits(1);
        assert!(alone.iter().flatten().any(|&bits| bits != 0));
        assert_eq!(alone, bits(2), "{dtype:?}");
        assert_eq!(alone, bits(5), "{dtype:?}");
    }
}

/// An activation with given values.
pub fn activation_of(values: Vec<f32>, shape: &[usize]) -> Input {
    Input { values, shape: shape.to_vec(), is_param: false }
}

/// Normal values times `factor` plus `offset`.
pub fn scaled(name: &str, shape: &[usize], factor: f32, offset: f32) -> Input {
    let values = normal(name, shape.iter().product()).iter().map(|v| v * factor + offset).collect();
    activation_of(values, shape)
}

/// Checks that a NaN in element `place` of input `input` makes NaNs of exactly the elements `expected` of the output.
pub fn nan_comes_out(
    mut inputs: Vec<Input>,
    input: usize,
    place: usize,
    expected: std::ops::Range<usize>,
    ours: impl Fn(&mut Tape<'_>, &[Var], &[ParamId]) -> taper::Result<Var>,
) {
    inputs[input].values[place] = f32::NAN;
    for dtype in [DType::F32, DType::BF16] {
        let all = run_in(dtype, |len| normal("dout", len), &inputs, &ours).unwrap();
        let found: Vec<usize> = (0..all[0].len()).filter(|&i| all[0][i].is_nan()).collect();
        assert!(found.iter().copied().eq(expected.clone()), "{dtype:?}: NaN at {found:?}");
    }
}
