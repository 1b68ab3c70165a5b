//! `ops::rmsnorm`.

use super::oracle::{Input, check, param};
use super::run::{activation_of, nan_comes_out, same_bits_on_any_number_of_threads, scaled};
use candle_core::D;
use taper::ops::rmsnorm::rmsnorm;

fn check_rmsnorm(x: Input, eps: f32) {
    let width = *x.shape.last().unwrap();
    check(
        &[x, param("w", &[width])],
        |t| {
            let square = (t[0].sqr()?.mean_keepdim(D::Minus1)? + f64::from(eps))?;
            t[0].broadcast_div(&square.sqrt()?)?.broadcast_mul(&t[1])
        },
        |tape, vars, params| rmsnorm(tape, &vars[0], params[0], eps),
    );
}

#[test]
fn rmsnorm_in_awkward_shapes() {
    for shape in [&[1, 7][..], &[40, 1], &[3, 65], &[2, 5, 33], &[64, 16], &[1000, 48], &[3, 1600]] {
        check_rmsnorm(scaled("x", shape, 2.0, 0.5), 1e-5);
    }
    // One number alone: with an eps of its size the gradient is not the difference of two equal numbers.
    check_rmsnorm(scaled("x", &[1, 1], 1.0, 0.0), 0.5);
}

#[test]
fn rmsnorm_of_extreme_values_offsets_and_zeros() {
    let extreme = |i: usize| [30.0, -30.0, 0.0, 1e-3][i * 7 % 4] + (i % 5) as f32;
    check_rmsnorm(activation_of((0..6 * 33).map(extreme).collect(), &[6, 33]), 1e-5);
    check_rmsnorm(scaled("x", &[20, 64], 0.1, 100.0), 1e-5);
    check_rmsnorm(activation_of(vec![0.0; 3 * 9], &[3, 9]), 1e-2);
}

#[test]
fn rmsnorm_passes_nan_on() {
    let inputs = vec![scaled("x", &[3, 9], 1.0, 0.0), param("w", &[9])];
    nan_comes_out(inputs, 0, 11, 9..18, |tape, vars, params| rmsnorm(tape, &vars[0], params[0], 1e-5));
}

#[test]
fn rmsnorm_threads() {
    let inputs = [scaled("x", &[333, 97], 2.0, 0.5), param("w", &[97])];
    same_bits_on_any_number_of_threads(&inputs, |tape, vars, params| rmsnorm(tape, &vars[0], params[0], 1e-5));
}
