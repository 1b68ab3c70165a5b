//! `ops::adamw`: twenty updates against the textbook in f64. (The comparison with PyTorch's own AdamW is in the fixtures.)

use super::oracle::normal;
use taper::device::Device;
use taper::ops::adamw::{AdamW, adamw};
use taper::tape::{Gradients, Layout, Params};
use taper::tensor::{DType, Tensor};

#[test]
fn twenty_updates_follow_the_textbook() {
    let mut layout = Layout::default();
    let weight = layout.push("weight", &[50, 401]);
    let bias = layout.push("bias", &[33]);
    let len = layout.len();
    let mut params = Params::zeros(layout, Device::Cpu).unwrap();
    params.set(weight, &normal("w", 20_050)).unwrap();
    params.set(bias, &normal("b", 33)).unwrap();
    let mut grads = Gradients::zeros_like(&params).unwrap();
    let mut m = Tensor::zeros(Device::Cpu, DType::F32, &[len]).unwrap();
    let mut v = Tensor::zeros(Device::Cpu, DType::F32, &[len]).unwrap();
    let (beta1, beta2, eps, weight_decay) = (0.9, 0.95, 1e-8, 0.1);

    let mut truth: Vec<[f64; 3]> = params.flat().f32().iter().map(|&p| [f64::from(p), 0.0, 0.0]).collect();
    for t in 1..=20u64 {
        let lr = 1e-2 / t as f64;
        grads.of_mut(weight).copy_from_slice(&normal(&format!("gw{t}"), 20_050));
        grads.of_mut(bias).copy_from_slice(&normal(&format!("gb{t}"), 33));
        let with = AdamW { lr, beta1, beta2, eps, weight_decay, t, grad_scale: 0.5 };
        adamw(&mut params, &grads, &mut m, &mut v, &with);
        let decayed = 0..20_050;
        for (i, [p, m, v]) in truth.iter_mut().enumerate() {
            let g = 0.5 * f64::from(grads.flat().f32()[i]);
            if decayed.contains(&i) {
                *p -= lr * weight_decay * *p;
            }
            *m = beta1 * *m + (1.0 - beta1) * g;
            *v = beta2 * *v + (1.0 - beta2) * g * g;
            let (m_hat, v_hat) = (*m / (1.0 - beta1.powi(t as i32)), *v / (1.0 - beta2.powi(t as i32)));
            *p -= lr * m_hat / (v_hat.sqrt() + eps);
        }
    }
    for (i, (&ours, [truth, ..])) in params.flat().f32().iter().zip(&truth).enumerate() {
        assert!((f64::from(ours) - truth).abs() < 2e-6, "element {i}: {ours} against {truth}");
    }
    // The gap between the parameters stays zero.
    assert!(params.flat().f32()[20_050..params.layout().info(bias).offset].iter().all(|&p| p == 0.0));
}
