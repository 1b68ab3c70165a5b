//! `ops::dropout`: multiplication by a constant mask. What the mask's numbers must be like is tested with `random::Mask`.

use super::oracle::{activation, check};
use super::run::{nan_comes_out, run, same_bits_on_any_number_of_threads};
use candle_core::{Device, Tensor as CTensor};
use taper::ops::dropout::dropout;
use taper::random::Mask;
use taper::tape::{Params, Tape, Var};
use taper::tensor::Tensor;

/// The mask of a batch, element by element: element `t C + c` of a sequence is number `e % 8` of block `e / 8`.
fn factors(mask: Mask, sequences: &[u32], elements: usize) -> Vec<f32> {
    let of = |&sequence: &u32| (0..elements).map(move |e| mask.block(sequence, e as u64 / 8)[e % 8]);
    sequences.iter().flat_map(of).collect()
}

#[test]
fn dropout_multiplies_by_the_mask_of_each_sequence() {
    let mask = Mask::new(3, 11, 2, 1, 0.25);
    for (sequences, time, width) in [(&[0u32][..], 1, 1), (&[7], 1, 7), (&[5, 2, 9], 3, 65), (&[1, 0], 130, 96)] {
        let shape = [sequences.len(), time, width];
        let values = factors(mask, sequences, time * width);
        check(
            &[activation("x", &shape)],
            |t| &t[0] * CTensor::from_slice(&values, &shape, &Device::Cpu)?.to_dtype(t[0].dtype())?,
            |tape, vars, _| dropout(tape, vars[0].clone(), mask, sequences),
        );
    }
}

#[test]
fn the_cut_of_the_batch_does_not_matter() {
    let mask = Mask::new(3, 11, 2, 1, 0.25);
    let ours = |sequences: &'static [u32]| {
        move |tape: &mut Tape<'_>, vars: &[Var], _: &[_]| dropout(tape, vars[0].clone(), mask, sequences)
    };
    let ones = |batch| super::run::activation_of(vec![1.0; batch * 45], &[batch, 5, 9]);
    let whole = run(&[ones(3)], ours(&[4, 5, 6])).unwrap();
    let (first, rest) = (run(&[ones(1)], ours(&[4])).unwrap(), run(&[ones(2)], ours(&[5, 6])).unwrap());
    assert_eq!(whole[0], [first[0].clone(), rest[0].clone()].concat());
    assert_ne!(whole[0][..45], whole[0][45..90]);
}

#[test]
fn probability_zero_is_the_identity() {
    let mask = Mask::new(3, 11, 2, 1, 0.0);
    check(
        &[activation("x", &[2, 3, 5])],
        |t| t[0].affine(1.0, 0.0),
        |tape, vars, _| dropout(tape, vars[0].clone(), mask, &[0, 1]),
    );
}

#[test]
fn a_sole_owner_is_changed_in_place() {
    let params = Params::zeros(Default::default(), taper::device::Device::Cpu).unwrap();
    let x = Tensor::from_f32(&[1.0; 24], &[1, 3, 8]).unwrap();
    let address = x.f32().as_ptr();
    let mask = Mask::new(3, 11, 2, 1, 0.5);
    let y = dropout(&mut Tape::inference(&params), Var::constant(x), mask, &[0]).unwrap();
    assert_eq!(y.value().f32().as_ptr(), address);
    let kept = Var::constant(y.value().clone());
    let before = kept.value().f32().to_vec();
    dropout(&mut Tape::inference(&params), y, mask, &[1]).unwrap();
    assert_eq!(kept.value().f32(), before);
}

#[test]
fn dropout_passes_nan_on_even_where_it_drops() {
    let mask = Mask::new(3, 11, 2, 1, 0.9);
    for place in 0..27 {
        let inputs = vec![activation("x", &[1, 3, 9])];
        nan_comes_out(inputs, 0, place, place..place + 1, |tape, vars, _| dropout(tape, vars[0].clone(), mask, &[3]));
    }
}

#[test]
fn dropout_threads() {
    let mask = Mask::new(3, 11, 2, 1, 0.1);
    let inputs = [activation("x", &[2, 100, 197])];
    same_bits_on_any_number_of_threads(&inputs, |tape, vars, _| dropout(tape, vars[0].clone(), mask, &[8, 3]));
}
