//! `ops::gradnorm`: the norm against f64, and every class with planted values.

use super::oracle::normal;
use taper::device::Device;
use taper::ops::gradnorm::{GradNorm, gradnorm};
use taper::tape::{Gradients, Layout, Params};

#[test]
fn norms_and_classes() {
    let mut layout = Layout::default();
    let first = layout.push("first", &[100, 333]);
    let second = layout.push("second", &[7]);
    let params = Params::zeros(layout, Device::Cpu).unwrap();
    let mut grads = Gradients::zeros_like(&params).unwrap();
    assert_eq!(gradnorm(&grads, 1.0), GradNorm::Finite(0.0));

    let values = normal("g", 33_300);
    grads.of_mut(first).copy_from_slice(&values);
    let truth = values.iter().map(|&v| f64::from(v).powi(2)).sum::<f64>().sqrt();
    for scale in [1.0, 0.25] {
        let GradNorm::Finite(norm) = gradnorm(&grads, scale) else { panic!("finite gradients") };
        assert!((f64::from(norm) - truth * f64::from(scale)).abs() < 1e-6 * truth);
    }

    grads.of_mut(first)[5] = 1e25;
    assert_eq!(gradnorm(&grads, 1.0), GradNorm::Overflow);
    grads.of_mut(second)[6] = f32::NAN;
    assert_eq!(gradnorm(&grads, 1.0), GradNorm::NonFinite(second));
    grads.of_mut(first)[33_299] = f32::NEG_INFINITY;
    assert_eq!(gradnorm(&grads, 1.0), GradNorm::NonFinite(first));
}
