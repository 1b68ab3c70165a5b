//! `ops::linear`.

use super::oracle::{activation, check, param};
use taper::ops::linear::linear;

#[test]
fn linear_with_and_without_bias() {
    for (rows, ins, outs) in [(1, 3, 5), (2, 16, 16), (65, 33, 47), (130, 64, 192)] {
        let (x, w, b) = (activation("x", &[rows, ins]), param("w", &[outs, ins]), param("b", &[outs]));
        check(
            &[x, w, b],
            |t| t[0].matmul(&t[1].t()?)?.broadcast_add(&t[2]),
            |tape, vars, params| linear(tape, &vars[0], params[0], Some(params[1])),
        );
        let (x, w) = (activation("x", &[rows, ins]), param("w", &[outs, ins]));
        check(&[x, w], |t| t[0].matmul(&t[1].t()?), |tape, vars, params| linear(tape, &vars[0], params[0], None));
    }
}
