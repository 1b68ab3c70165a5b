//! `ops::swiglu`.

use super::oracle::{Input, check};
use super::run::{activation_of, nan_comes_out, same_bits_on_any_number_of_threads, scaled};
use candle_core::{D, Result, Tensor};
use taper::ops::swiglu::swiglu;

/// `gate / (1 + e^-gate) * up`, with the gate in the first half.
fn definition(x: &Tensor) -> Result<Tensor> {
    let m = x.dim(D::Minus1)? / 2;
    let (gate, up) = (x.narrow(D::Minus1, 0, m)?, x.narrow(D::Minus1, m, m)?);
    (&gate / (gate.neg()?.exp()? + 1.0)?)? * up
}

fn check_swiglu(inputs: &[Input]) {
    check(inputs, |t| definition(&t[0]), |tape, vars, _| swiglu(tape, &vars[0]));
}

#[test]
fn swiglu_in_awkward_shapes() {
    for shape in [&[1, 2][..], &[1, 14], &[3, 130], &[2, 5, 66], &[1000, 48], &[3, 20_002]] {
        check_swiglu(&[scaled("x", shape, 2.0, 0.0)]);
    }
}

#[test]
fn swiglu_of_extreme_values_and_zero() {
    check_swiglu(&[activation_of(vec![30.0, -30.0, 0.0, -20.0, 5.0, 1.0, -2.0, 30.0, -30.0, 0.0], &[1, 10])]);
    check_swiglu(&[activation_of(vec![0.0; 12], &[2, 6])]);
    // Gates so low that e^-gate is beyond f32: the result is nothing, not NaN.
    let all = super::run::run(&[activation_of(vec![-200.0, -1e30, 3.0, 4.0], &[1, 4])], |tape, vars, _| {
        swiglu(tape, &vars[0])
    });
    assert!(all.unwrap().iter().flatten().all(|value| value.abs() < 1e-2));
}

#[test]
fn swiglu_passes_nan_on() {
    // Row 2, element 3, in the gate half and in the up half: element 3 of row 2 of the result.
    for place in [23, 28] {
        let inputs = vec![scaled("x", &[4, 10], 1.0, 0.0)];
        nan_comes_out(inputs, 0, place, 13..14, |tape, vars, _| swiglu(tape, &vars[0]));
    }
}

#[test]
fn swiglu_threads() {
    let inputs = [scaled("x", &[100, 778], 2.0, 0.0)];
    same_bits_on_any_number_of_threads(&inputs, |tape, vars, _| swiglu(tape, &vars[0]));
}
