//! `ops::low_rank`.

use super::oracle::{activation, check, param};
use taper::ops::linear::linear;
use taper::ops::low_rank::low_rank;

#[test]
fn the_correction_is_two_products_on_some_columns() {
    // Rows, inputs, rank, outputs, first column, columns.
    for (n, ins, rank, outs, first, rows) in [(1, 3, 1, 5, 0, 5), (7, 16, 2, 12, 4, 4), (130, 33, 8, 47, 40, 7)] {
        let inputs = [
            activation("x", &[n, ins]),
            activation("y", &[n, outs]),
            param("a", &[rank, ins]),
            param("b", &[rows, rank]),
        ];
        check(
            &inputs,
            |t| {
                let part = (t[0].matmul(&t[2].t()?)?.matmul(&t[3].t()?)? * 1.5)?;
                &t[1] + part.pad_with_zeros(1, first, outs - first - rows)?
            },
            |tape, vars, params| low_rank(tape, vars[1].clone(), &vars[0], (params[0], params[1]), first, 1.5),
        );
    }
}

#[test]
fn beside_the_layer_that_it_corrects() {
    // `x` has two readers, whose gradients meet.
    let inputs = [activation("x", &[9, 8]), param("w", &[10, 8]), param("a", &[2, 8]), param("b", &[10, 2])];
    check(
        &inputs,
        |t| t[0].matmul(&t[1].t()?)? + (t[0].matmul(&t[2].t()?)?.matmul(&t[3].t()?)? * 0.5)?,
        |tape, vars, params| {
            let y = linear(tape, &vars[0], params[0], None)?;
            low_rank(tape, y, &vars[0], (params[1], params[2]), 0, 0.5)
        },
    );
}
