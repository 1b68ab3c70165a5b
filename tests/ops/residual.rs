//! `ops::residual`.

use super::oracle::{activation, check};
use taper::ops::residual::residual;

#[test]
fn residual_adds_and_passes_the_gradient_to_both() {
    for shape in [[1, 1], [3, 70], [40, 1000]] {
        check(
            &[activation("x", &shape), activation("delta", &shape)],
            |t| &t[0] + &t[1],
            |tape, vars, _| residual(tape, &vars[0], vars[1].clone()),
        );
    }
}

#[test]
fn a_value_used_twice_gets_both_gradients() {
    check(
        &[activation("x", &[5, 9])],
        |t| (&t[0] + &t[0])? + &t[0],
        |tape, vars, _| {
            let twice = residual(tape, &vars[0], vars[0].clone())?;
            residual(tape, &vars[0], twice)
        },
    );
}
