//! `ops::relu2`.

use super::oracle::check;
use super::run::{activation_of, nan_comes_out, same_bits_on_any_number_of_threads, scaled};
use taper::ops::relu2::relu2;

#[test]
fn relu2_of_awkward_shapes_and_values() {
    for shape in [&[1, 1][..], &[1, 7], &[3, 65], &[2, 5, 33], &[1000, 48]] {
        check(&[scaled("x", shape, 2.0, 0.0)], |t| t[0].relu()?.sqr(), |tape, vars, _| relu2(tape, &vars[0]));
    }
    let values = activation_of(vec![30.0, -30.0, 0.0, -0.0, 1e-20, -1e-20], &[6]);
    check(&[values], |t| t[0].relu()?.sqr(), |tape, vars, _| relu2(tape, &vars[0]));
}

#[test]
fn relu2_passes_nan_on() {
    nan_comes_out(vec![scaled("x", &[3, 9], 1.0, 0.0)], 0, 11, 11..12, |tape, vars, _| relu2(tape, &vars[0]));
}

#[test]
fn relu2_threads() {
    same_bits_on_any_number_of_threads(&[scaled("x", &[100, 777], 2.0, 0.0)], |tape, vars, _| relu2(tape, &vars[0]));
}
