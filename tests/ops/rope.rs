//! `ops::rope`: the definition is Llama's `q * cos + rotate_half(q) * sin`.

use super::oracle::{activation, check, normal};
use candle_core::{Device as CandleDevice, Result as CandleResult, Tensor as CTensor};
use taper::device::Device;
use taper::ops::heads::Heads;
use taper::ops::rope::{RopeTable, rope};
use taper::tape::{Layout, Params, Tape, Var};
use taper::tensor::Tensor;

/// Angles as the definition says, by the C library in f64, each of [T, D/2]. Rounded to f32 as the table is.
fn angles(first: usize, t: usize, d: usize, theta: f64, f: fn(f64) -> f64) -> Vec<f32> {
    let half = d / 2;
    let angle = |i: usize| (first + i / half) as f64 * theta.powf(-2.0 * (i % half) as f64 / d as f64);
    (0..t * half).map(|i| f(angle(i)) as f32).collect()
}

fn composed(qkv: &CTensor, heads: Heads, first: usize, theta: f64) -> CandleResult<CTensor> {
    let (b, t, packed) = qkv.dims3()?;
    let (d, half) = (heads.head_dim, heads.head_dim / 2);
    let constant = |f: fn(f64) -> f64| {
        let values = angles(first, t, d, theta, f);
        let half = CTensor::from_slice(&values, (1, t, 1, half), &CandleDevice::Cpu)?.to_dtype(qkv.dtype())?;
        CTensor::cat(&[&half, &half], 3)
    };
    let n = heads.n_head + heads.n_kv_head;
    let x = qkv.narrow(2, 0, n * d)?.reshape((b, t, n, d))?;
    let turned = CTensor::cat(&[&x.narrow(3, half, half)?.neg()?, &x.narrow(3, 0, half)?], 3)?;
    let y = (x.broadcast_mul(&constant(f64::cos)?)? + turned.broadcast_mul(&constant(f64::sin)?)?)?;
    CTensor::cat(&[&y.reshape((b, t, n * d))?, &qkv.narrow(2, n * d, packed - n * d)?], 2)
}

#[test]
fn rope_rotates_queries_and_keys() {
    let shapes =
        [(1, 1, 1, 1, 2, 0), (2, 3, 4, 2, 8, 5), (1, 130, 6, 1, 6, 0), (2, 40, 2, 2, 64, 7), (1, 9, 1, 1, 80, 100)];
    for (b, t, n_head, n_kv_head, head_dim, first) in shapes {
        let heads = Heads { n_head, n_kv_head, head_dim };
        let table = RopeTable::new(first + t + 2, head_dim, 10_000.0).unwrap();
        check(
            &[activation("qkv", &[b, t, heads.packed()])],
            |x| composed(&x[0], heads, first, 10_000.0),
            |tape, vars, _| rope(tape, vars[0].clone(), heads, &table, first, None),
        );
    }
}

#[test]
fn the_table_is_that_of_the_c_library() {
    for (d, theta) in [(8, 10_000.0), (64, 500_000.0), (128, 1_000_000.0)] {
        let table = RopeTable::new(2000, d, theta).unwrap();
        assert_eq!(table.positions(), 2000);
        let pairs = [(table.cos(), f64::cos as fn(f64) -> f64), (table.sin(), f64::sin)];
        for (ours, f) in pairs {
            for (ours, truth) in ours.f32().iter().zip(angles(0, 2000, d, theta, f)) {
                // The angle itself is a product of rounded numbers: about 1e-12 for the largest.
                assert!((ours - truth).abs() <= 6e-8, "{ours} {truth}");
            }
        }
    }
}

#[test]
fn rope_works_in_place_and_only_when_alone() {
    let heads = Heads { n_head: 2, n_kv_head: 1, head_dim: 4 };
    let table = RopeTable::new(3, 4, 10_000.0).unwrap();
    let params = Params::zeros(Layout::default(), Device::Cpu).unwrap();
    let mut tape = Tape::inference(&params);
    let values = normal("qkv", 3 * heads.packed());
    let alone = Tensor::from_f32(&values, &[1, 3, heads.packed()]).unwrap();
    let shared = alone.clone().into_sole().unwrap();
    let address = alone.f32().as_ptr();
    let first = rope(&mut tape, Var::constant(shared.clone()), heads, &table, 0, None).unwrap();
    assert_eq!(shared.f32(), values, "a shared tensor was changed");
    drop(shared);
    let kept = alone.f32().as_ptr();
    assert_eq!(kept, address);
    let second = rope(&mut tape, Var::constant(alone), heads, &table, 0, None);
    assert_eq!(second.unwrap().value().f32(), first.value().f32());
}

#[test]
fn scores_depend_on_the_distance_alone() {
    // The product of a query at position a and a key at position b, in f64 over the rotated f32 numbers.
    let heads = Heads { n_head: 1, n_kv_head: 1, head_dim: 16 };
    let table = RopeTable::new(600, 16, 10_000.0).unwrap();
    let params = Params::zeros(Layout::default(), Device::Cpu).unwrap();
    let row = normal("one row", heads.packed());
    let rotated = |position: usize| {
        let x = Var::constant(Tensor::from_f32(&row, &[1, 1, heads.packed()]).unwrap());
        rope(&mut Tape::inference(&params), x, heads, &table, position, None).unwrap().value().f32().to_vec()
    };
    let score = |a: usize, b: usize| -> f64 {
        rotated(a)[..16].iter().zip(&rotated(b)[16..32]).map(|(&q, &k)| f64::from(q) * f64::from(k)).sum()
    };
    assert!((score(20, 3) - score(517, 500)).abs() < 1e-5);
    assert!((score(20, 3) - score(20, 4)).abs() > 1e-3);
}

#[test]
fn positions_beyond_the_table_are_an_error() {
    let heads = Heads { n_head: 1, n_kv_head: 1, head_dim: 2 };
    let table = RopeTable::new(4, 2, 10_000.0).unwrap();
    let params = Params::zeros(Layout::default(), Device::Cpu).unwrap();
    let x = || Var::constant(Tensor::from_f32(&[0.0; 18], &[1, 3, 6]).unwrap());
    assert!(rope(&mut Tape::inference(&params), x(), heads, &table, 1, None).is_ok());
    let error = rope(&mut Tape::inference(&params), x(), heads, &table, 2, None).unwrap_err();
    assert!(error.to_string().contains("positions 2 to 5"), "{error}");
}
