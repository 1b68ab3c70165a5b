//! `ops::classifier`: its gradient comes with the forward pass, so the check is written out here.

use super::oracle::normal;
use candle_core::{DType, Device as CandleDevice, Result as CandleResult, Tensor as CTensor, Var as CVar};
use taper::device::Device;
use taper::ops::classifier::{IGNORE, Scale, classifier, classifier_weighted};
use taper::tape::{Gradients, Layout, Params, Tape, Var};
use taper::tensor::Tensor;

struct Truth {
    losses: Vec<f64>,
    dx: Vec<f64>,
    dw: Vec<f64>,
}

/// Log-softmax and a gather by hand, with candle's autodiff.
fn truth(x: &[f32], w: &[f32], targets: &[u32], weights: &[f32], scale: f64, dtype: DType) -> CandleResult<Truth> {
    let (n, c) = (targets.len(), x.len() / targets.len());
    let v = w.len() / c;
    let cpu = CandleDevice::Cpu;
    let x = CVar::from_tensor(&CTensor::from_slice(x, (n, c), &cpu)?.to_dtype(dtype)?)?;
    let w = CVar::from_tensor(&CTensor::from_slice(w, (v, c), &cpu)?.to_dtype(dtype)?)?;
    let logits = x.matmul(&w.t()?)?;
    let shifted = logits.broadcast_sub(&logits.max_keepdim(1)?.detach())?;
    let log_probabilities = shifted.broadcast_sub(&shifted.exp()?.sum_keepdim(1)?.log()?)?;
    let one_hot: Vec<f32> =
        targets.iter().flat_map(|&t| (0..v).map(move |i| if i as u32 == t { -1.0 } else { 0.0 })).collect();
    let one_hot = CTensor::from_vec(one_hot, (n, v), &cpu)?.to_dtype(dtype)?;
    let losses = (log_probabilities * one_hot)?.sum(1)?;
    let weights = CTensor::from_slice(weights, n, &cpu)?.to_dtype(dtype)?;
    let store = ((&losses * weights)?.sum_all()? * scale)?.backward()?;
    let flat = |tensor: &CTensor| tensor.to_dtype(DType::F64)?.flatten_all()?.to_vec1::<f64>();
    Ok(Truth {
        losses: flat(&losses)?,
        dx: flat(store.get(x.as_tensor()).unwrap())?,
        dw: flat(store.get(w.as_tensor()).unwrap())?,
    })
}

fn distance(ours: &[f32], truth: &[f64]) -> f64 {
    assert_eq!(ours.len(), truth.len());
    ours.iter().zip(truth).map(|(&o, t)| (f64::from(o) - t).abs()).fold(0.0, f64::max)
}

fn close(what: &str, ours: &[f32], plain: &[f64], truth: &[f64]) {
    let plain: Vec<f32> = plain.iter().map(|&value| value as f32).collect();
    let largest = truth.iter().fold(0.0f64, |largest, value| largest.max(value.abs()));
    let (error, plain) = (distance(ours, truth), distance(&plain, truth));
    assert!(error <= 2.0 * plain + 4.0 * f64::from(f32::EPSILON) * largest, "{what}: {error:.2e}, plain {plain:.2e}");
}

/// A factor that the host knows.
fn by(scale: f32) -> Scale<'static> {
    Scale { by: scale, loss_scale: None }
}

#[test]
fn losses_and_gradients_with_ignored_rows() {
    // 2,500 rows of 4,099 words need several chunks; the smaller shapes are awkward.
    for (n, c, v) in [(1, 3, 2), (7, 16, 65), (130, 24, 97), (2_500, 8, 4_099)] {
        let (x, w) = (normal("x", n * c), normal("w", v * c));
        let mut targets: Vec<u32> = (0..n).map(|i| (i * 31 % v) as u32).collect();
        if n > 3 {
            targets[2] = IGNORE;
        }
        let scale = 1.0 / n as f64;
        let exact = truth(&x, &w, &targets, &vec![1.0; n], scale, DType::F64).unwrap();
        let plain = truth(&x, &w, &targets, &vec![1.0; n], scale, DType::F32).unwrap();

        let mut layout = Layout::default();
        let weight = layout.push("w", &[v, c]);
        let mut params = Params::zeros(layout, Device::Cpu).unwrap();
        params.set(weight, &w).unwrap();
        let mut grads = Gradients::zeros_like(&params).unwrap();
        let mut other = Gradients::zeros_like(&params).unwrap();
        let mut tape = Tape::training(&params, &mut grads);
        let input = tape.input(Tensor::from_f32(&x, &[n, c]).unwrap());
        let loss = classifier(&mut tape, &input, weight, &targets, by(scale as f32)).unwrap();
        close("losses", loss.losses.f32(), &plain.losses, &exact.losses);
        let sum = loss.sum().unwrap();
        assert!((sum - exact.losses.iter().sum::<f64>()).abs() < 1e-4 * sum.abs());
        assert_eq!(loss.count, targets.iter().filter(|&&t| t != IGNORE).count());
        let one = Tensor::from_f32(&[1.0], &[1]).unwrap();
        let dx = tape.backward_from(&loss.root, one, &mut other, &[&input], None).unwrap().pop().flatten().unwrap();
        close("dx", dx.f32(), &plain.dx, &exact.dx);
        close("dw", grads.of(weight), &plain.dw, &exact.dw);
        assert!(other.flat().f32().iter().all(|&g| g == 0.0));

        let mut tape = Tape::inference(&params);
        let again = classifier(&mut tape, &input, weight, &targets, by(1.0)).unwrap();
        assert_eq!(
            distance(again.losses.f32(), &loss.losses.f32().iter().map(|&l| f64::from(l)).collect::<Vec<_>>()),
            0.0
        );
    }
}

/// Losses of rows with weights, and the gradient of their weighted sum; and that weights of 1 change no bit.
#[test]
fn weights_count_in_the_sum_and_its_gradient() {
    for (n, c, v) in [(5, 3, 7), (130, 24, 97), (1_100, 8, 4_099)] {
        let (x, w) = (normal("x", n * c), normal("w", v * c));
        let mut targets: Vec<u32> = (0..n).map(|i| (i * 31 % v) as u32).collect();
        targets[1] = IGNORE;
        // Zero, negative and large ones among them.
        let weights: Vec<f32> = (0..n).map(|i| [0.0, 1.0, -0.5, 3.25, 0.125][i % 5]).collect();
        let scale = 1.0 / n as f64;
        let exact = truth(&x, &w, &targets, &weights, scale, DType::F64).unwrap();
        let plain = truth(&x, &w, &targets, &weights, scale, DType::F32).unwrap();
        let mut layout = Layout::default();
        let weight = layout.push("w", &[v, c]);
        let mut params = Params::zeros(layout, Device::Cpu).unwrap();
        params.set(weight, &w).unwrap();
        let run = |weights: &[f32]| {
            let mut grads = Gradients::zeros_like(&params).unwrap();
            let mut other = Gradients::zeros_like(&params).unwrap();
            let mut tape = Tape::training(&params, &mut grads);
            let input = tape.input(Tensor::from_f32(&x, &[n, c]).unwrap());
            let loss = classifier_weighted(&mut tape, &input, weight, &targets, weights, by(scale as f32)).unwrap();
            let one = Tensor::from_f32(&[1.0], &[1]).unwrap();
            let dx = tape.backward_from(&loss.root, one, &mut other, &[&input], None).unwrap().pop().flatten().unwrap();
            (loss, dx.f32().to_vec(), grads.of(weight).to_vec())
        };
        let (loss, dx, dw) = run(&weights);
        close("losses", loss.losses.f32(), &plain.losses, &exact.losses);
        let log_probabilities: Vec<f64> = exact.losses.iter().map(|loss| -loss).collect();
        assert!(distance(&loss.log_probabilities().unwrap(), &log_probabilities) < 1e-5);
        let expected: f64 = exact.losses.iter().zip(&weights).map(|(loss, &weight)| f64::from(weight) * loss).sum();
        assert!((loss.sum().unwrap() - expected).abs() < 1e-4 * expected.abs());
        close("dx", &dx, &plain.dx, &exact.dx);
        close("dw", &dw, &plain.dw, &exact.dw);
        assert!(dx[..c].iter().all(|&value| value == 0.0), "a weight of 0");

        let ((ones, dx, dw), (none, plain_dx, plain_dw)) = (run(&vec![1.0; n]), run(&[]));
        assert_eq!(ones.losses.f32(), none.losses.f32());
        assert_eq!(ones.sum().unwrap().to_bits(), none.sum().unwrap().to_bits());
        assert!(dx == plain_dx && dw == plain_dw, "weights of 1");
    }
}

/// The gradient with weights against central differences of the weighted sum.
#[test]
fn weights_by_finite_differences() {
    let (n, c, v) = (4, 3, 5);
    let (x, w) = (normal("x", n * c), normal("w", v * c));
    let (targets, weights) = ([1, 4, IGNORE, 0], [0.5, -2.0, 3.0, 1.5]);
    let mut layout = Layout::default();
    let weight = layout.push("w", &[v, c]);
    let sum = |w: &[f32]| {
        let mut params = Params::zeros(layout.clone(), Device::Cpu).unwrap();
        params.set(weight, w).unwrap();
        let mut grads = Gradients::zeros_like(&params).unwrap();
        let mut tape = Tape::training(&params, &mut grads);
        let input = tape.input(Tensor::from_f32(&x, &[n, c]).unwrap());
        let loss = classifier_weighted(&mut tape, &input, weight, &targets, &weights, by(1.0)).unwrap();
        let sum = loss.sum().unwrap();
        tape.backward(&loss.root, Tensor::from_f32(&[1.0], &[1]).unwrap()).unwrap();
        (sum, grads.of(weight).to_vec())
    };
    let (_, gradient) = sum(&w);
    for (i, &gradient) in gradient.iter().enumerate() {
        let step = 1.0 / 64.0;
        let moved =
            |by: f32| sum(&w.iter().enumerate().map(|(j, w)| if i == j { w + by } else { *w }).collect::<Vec<_>>()).0;
        let difference = (moved(step) - moved(-step)) / f64::from(2.0 * step);
        assert!((difference - f64::from(gradient)).abs() < 2e-3, "{i}: {difference} against {gradient}");
    }
}

#[test]
fn bad_targets_and_bad_numbers() {
    let mut layout = Layout::default();
    let weight = layout.push("w", &[5, 2]);
    let mut params = Params::zeros(layout, Device::Cpu).unwrap();
    let x = Tensor::from_f32(&[1.0, 2.0, f32::NAN, 1.0], &[2, 2]).unwrap();
    let mut tape = Tape::inference(&params);
    let x = tape.input(x);
    let error = classifier(&mut tape, &x, weight, &[1, 5], by(1.0)).unwrap_err().to_string();
    assert!(error.contains("target 5 at row 1") && error.contains("vocabulary of 5"), "{error}");
    // A uniform distribution costs ln 5; NaN in a row gives NaN there and nowhere else.
    let loss = classifier(&mut tape, &x, weight, &[1, 2], by(1.0)).unwrap();
    assert!((loss.losses.f32()[0] - 5.0f32.ln()).abs() < 1e-6 && loss.losses.f32()[1].is_nan());
    drop(tape);
    // Huge logits do not overflow.
    params.set(weight, &[1e30, 0.0, -1e30, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0]).unwrap();
    let mut tape = Tape::inference(&params);
    let x = Var::constant(Tensor::from_f32(&[1.0, 0.0], &[1, 2]).unwrap());
    assert_eq!(classifier(&mut tape, &x, weight, &[0], by(1.0)).unwrap().losses.f32(), [0.0]);
}
