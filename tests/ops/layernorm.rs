//! `ops::layernorm`, with and without bias.

use super::oracle::{Input, check, param};
use super::run::{activation_of, nan_comes_out, run, same_bits_on_any_number_of_threads, scaled};
use candle_core::{D, Result, Tensor};
use taper::ops::layernorm::{add_layernorm, layernorm};
use taper::ops::residual::residual;
use taper::tape::{Tape, Var};

fn definition(t: &[Tensor], eps: f64) -> Result<Tensor> {
    let centred = t[0].broadcast_sub(&t[0].mean_keepdim(D::Minus1)?)?;
    let variance = centred.sqr()?.mean_keepdim(D::Minus1)?;
    let y = centred.broadcast_div(&(variance + eps)?.sqrt()?)?.broadcast_mul(&t[1])?;
    if t.len() > 2 { y.broadcast_add(&t[2]) } else { Ok(y) }
}

fn check_layernorm(x: impl Fn() -> Input, eps: f32) {
    let width = *x().shape.last().unwrap();
    let inputs = [x(), param("w", &[width]), param("b", &[width])];
    check(
        &inputs,
        |t| definition(t, f64::from(eps)),
        |tape, vars, params| layernorm(tape, &vars[0], params[0], Some(params[1]), eps),
    );
    check(
        &inputs[..2],
        |t| definition(t, f64::from(eps)),
        |tape, vars, params| layernorm(tape, &vars[0], params[0], None, eps),
    );
}

#[test]
fn layernorm_in_awkward_shapes() {
    for shape in [&[1, 1][..], &[5, 1], &[1, 7], &[3, 65], &[2, 5, 33], &[64, 16], &[1000, 48], &[3, 1600]] {
        check_layernorm(|| scaled("x", shape, 2.0, 0.5), 1e-5);
    }
}

#[test]
fn layernorm_of_a_large_offset() {
    for shape in [[1, 65], [200, 64], [9, 768]] {
        check_layernorm(|| scaled("x", &shape, 0.1, 100.0), 1e-5);
    }
}

#[test]
fn layernorm_of_extreme_values_and_zeros() {
    let extreme = |i: usize| [30.0, -30.0, 0.0, 1e-3][i * 7 % 4] + (i % 5) as f32;
    check_layernorm(|| activation_of((0..6 * 33).map(extreme).collect(), &[6, 33]), 1e-5);
    // A constant row is all curvature (the second derivative goes with 1/eps): eps is larger here, so that the finite
    // difference that anchors the oracle stays on it.
    check_layernorm(|| activation_of(vec![0.0; 3 * 9], &[3, 9]), 1e-2);
}

#[test]
fn layernorm_passes_nan_on() {
    let inputs = vec![scaled("x", &[3, 9], 1.0, 0.0), param("w", &[9])];
    nan_comes_out(inputs, 0, 11, 9..18, |tape, vars, params| layernorm(tape, &vars[0], params[0], None, 1e-5));
}

#[test]
fn layernorm_threads() {
    let inputs = [scaled("x", &[333, 97], 2.0, 0.5), param("w", &[97]), param("b", &[97])];
    same_bits_on_any_number_of_threads(&inputs, |tape, vars, params| {
        layernorm(tape, &vars[0], params[0], Some(params[1]), 1e-5)
    });
}

/// The sum inside the norm is the sum before it, whatever of the two results is used.
#[test]
fn layernorm_of_a_sum_has_the_bits_of_the_two_operators() {
    let inputs =
        [scaled("x", &[70, 33], 2.0, 0.5), scaled("delta", &[70, 33], 1.0, 0.0), param("w", &[33]), param("b", &[33])];
    for used in ["both", "the norm", "the sum"] {
        let finish = |tape: &mut Tape<'_>, sum: Var, normed: Var| match used {
            "both" => residual(tape, &sum, normed),
            "the norm" => Ok(normed),
            _ => Ok(sum),
        };
        let fused = run(&inputs, |tape, v, p| {
            let [sum, normed] = add_layernorm(tape, &v[0], v[1].clone(), p[0], Some(p[1]), 1e-5)?;
            finish(tape, sum, normed)
        });
        let apart = run(&inputs, |tape, v, p| {
            let sum = residual(tape, &v[0], v[1].clone())?;
            let normed = layernorm(tape, &sum, p[0], Some(p[1]), 1e-5)?;
            finish(tape, sum, normed)
        });
        assert_eq!(fused.unwrap(), apart.unwrap(), "{used}");
    }
}
