//! `ops::embedding`, with and without positions.

use super::oracle::{check, param};
use super::run::{nan_comes_out, run, same_bits_on_any_number_of_threads};
use candle_core::{Device, Tensor as CTensor};
use taper::ops::embedding::embedding;
use taper::tensor::Tensor;

/// Token ids, many of them more than once where there are few.
fn tokens(batch: usize, time: usize, vocabulary: usize) -> Vec<u32> {
    (0..batch * time).map(|i| ((i * 31 + i * i * 7) % vocabulary) as u32).collect()
}

#[test]
fn embedding_in_awkward_shapes() {
    for (batch, time, vocabulary, width, first) in
        [(1, 1, 1, 1, 0), (1, 7, 3, 7, 2), (3, 5, 11, 65, 0), (2, 65, 70, 33, 5), (4, 250, 30, 16, 0)]
    {
        let ids = tokens(batch, time, vocabulary);
        let ours = Tensor::from_u32(&ids, &[batch, time]).unwrap();
        let rows = |table: &CTensor| {
            let ids = CTensor::from_slice(&ids, ids.len(), &Device::Cpu)?;
            table.index_select(&ids, 0)?.reshape((batch, time, width))
        };
        let inputs = [param("wte", &[vocabulary, width]), param("wpe", &[first + time + 3, width])];
        check(
            &inputs,
            |t| rows(&t[0])?.broadcast_add(&t[1].narrow(0, first, time)?),
            |tape, _, params| embedding(tape, &ours, params[0], Some(params[1]), first, None),
        );
        check(&inputs[..1], |t| rows(&t[0]), |tape, _, params| embedding(tape, &ours, params[0], None, first, None));
    }
}

#[test]
fn one_token_everywhere() {
    let ours = Tensor::from_u32(&[2; 1000], &[10, 100]).unwrap();
    let result =
        run(&[param("wte", &[4, 3])], |tape, _, params| embedding(tape, &ours, params[0], None, 0, None)).unwrap();
    // Gradients of one token are summed in the order of the places, starting from zero.
    let dout = super::oracle::normal("dout", 3000);
    let truth: Vec<f32> = (0..3).map(|c| dout[c..].iter().step_by(3).fold(0.0, |sum, d| sum + d)).collect();
    assert_eq!(result[1][6..9], truth);
    assert!(result[1][..6].iter().chain(&result[1][9..]).all(|&grad| grad == 0.0));
}

#[test]
fn ids_outside_the_vocabulary_are_an_error() {
    let ours = Tensor::from_u32(&[0, 1, 2, 3, 70_000, 5], &[2, 3]).unwrap();
    let found = run(&[param("wte", &[6, 4])], |tape, _, params| embedding(tape, &ours, params[0], None, 0, None));
    let message = found.unwrap_err().to_string();
    assert!(message.contains("token id 70000 at position 1 of sequence 1"), "{message}");
    assert!(message.contains("vocabulary of 6"), "{message}");
}

#[test]
fn positions_past_the_end_are_an_error() {
    let ours = &Tensor::from_u32(&[0; 6], &[2, 3]).unwrap();
    let inputs = || [param("wte", &[6, 4]), param("wpe", &[8, 4])];
    let at =
        |first| run(&inputs(), move |tape, _, params| embedding(tape, ours, params[0], Some(params[1]), first, None));
    assert!(at(5).is_ok());
    let message = at(6).unwrap_err().to_string();
    assert!(message.contains("position 8") && message.contains("below 8"), "{message}");
}

#[test]
fn embedding_passes_nan_on() {
    let ours = Tensor::from_u32(&[0, 2, 1, 0, 1, 3], &[2, 3]).unwrap();
    let inputs = vec![param("wte", &[4, 2])];
    nan_comes_out(inputs, 0, 5, 3..4, |tape, _, params| embedding(tape, &ours, params[0], None, 0, None));
}

#[test]
fn embedding_threads() {
    let ours = Tensor::from_u32(&tokens(6, 77, 50), &[6, 77]).unwrap();
    let inputs = [param("wte", &[50, 40]), param("wpe", &[80, 40])];
    same_bits_on_any_number_of_threads(&inputs, |tape, _, params| {
        embedding(tape, &ours, params[0], Some(params[1]), 1, None)
    });
}
