//! `ops::gelu`, both kinds. The definitions are those of the paper, over candle's tanh and erf.

use super::oracle::{Input, check};
use super::run::{activation_of, nan_comes_out, same_bits_on_any_number_of_threads, scaled};
use candle_core::{Result, Tensor};
use taper::ops::gelu::{Kind, gelu};

fn tanh_form(x: &Tensor) -> Result<Tensor> {
    let u = ((x + (x.powf(3.0)? * 0.044715)?)? * (2.0 / std::f64::consts::PI).sqrt())?;
    (x * 0.5)? * (u.tanh()? + 1.0)?
}

fn erf_form(x: &Tensor) -> Result<Tensor> {
    (x * 0.5)? * ((x * std::f64::consts::FRAC_1_SQRT_2)?.erf()? + 1.0)?
}

fn check_both(inputs: &[Input]) {
    check(inputs, |t| tanh_form(&t[0]), |tape, vars, _| gelu(tape, &vars[0], Kind::Tanh));
    check(inputs, |t| erf_form(&t[0]), |tape, vars, _| gelu(tape, &vars[0], Kind::Erf));
}

#[test]
fn gelu_in_awkward_shapes() {
    for shape in [&[1, 1][..], &[1, 7], &[3, 65], &[2, 5, 33], &[1000, 48]] {
        check_both(&[scaled("x", shape, 2.0, 0.0)]);
    }
}

#[test]
fn gelu_of_extreme_values_and_zero() {
    check_both(&[activation_of(vec![30.0, -30.0, 0.0, -0.0, 12.0, -12.0, 5.5, -5.5, 1e-20], &[9])]);
}

#[test]
fn gelu_element_by_element() {
    // One element alone must be right relative to itself, not only to the largest of many. (Far in the left tail even f64
    // loses the composed definition: 1 + erf is all rounding there.)
    for i in 0..=60 {
        check_both(&[activation_of(vec![(i - 30) as f32 / 6.0], &[1])]);
    }
}

#[test]
fn gelu_in_the_far_left_tail() {
    // x Phi(x) to 8 digits, from the asymptotic series -phi(x) (1 - 1/x^2 + 3/x^4 - 15/x^6 + 105/x^8 - ...), f64.
    for x in [-8.0f32, -9.5, -11.0] {
        let wide = f64::from(x);
        let (mut term, mut sum) = (1.0, 1.0);
        for n in 1..12 {
            term *= -f64::from(2 * n - 1) / (wide * wide);
            sum += term;
        }
        let truth = -(-0.5 * wide * wide).exp() / (2.0 * std::f64::consts::PI).sqrt() * sum;
        let mut y = [0.0f32];
        taper::ops::gelu::cpu::forward(&mut y, &[x], Kind::Erf);
        let error = (f64::from(y[0]) - truth).abs() / truth.abs();
        // The exponent -x^2/2 is rounded to f32, which alone moves the result by up to |x^2/2| halves of an epsilon.
        assert!(error < 1e-5, "gelu({x}) = {:e}, truth {truth:e}", y[0]);
    }
}

#[test]
fn gelu_passes_nan_on() {
    for kind in [Kind::Tanh, Kind::Erf] {
        nan_comes_out(vec![scaled("x", &[3, 9], 1.0, 0.0)], 0, 11, 11..12, |tape, vars, _| gelu(tape, &vars[0], kind));
    }
}

#[test]
fn gelu_threads() {
    for kind in [Kind::Tanh, Kind::Erf] {
        let inputs = [scaled("x", &[100, 777], 2.0, 0.0)];
        same_bits_on_any_number_of_threads(&inputs, |tape, vars, _| gelu(tape, &vars[0], kind));
    }
}
