//! The tape itself: order, completeness, recomputation, and the memory it gives back on the way.
//!
//! The expectations follow from what backward is (each gradient complete before it is passed on, each record dropped once
//! it is used), not from what the code printed once.

use std::cell::RefCell;
use std::rc::Rc;

use super::alone;

use taper::Result;
use taper::device::Device;
use taper::device::pool::{live_bytes, peak_bytes, reset_peak};
use taper::ops::dropout::dropout;
use taper::ops::gelu::{Kind, gelu};
use taper::ops::linear::linear;
use taper::ops::residual::residual;
use taper::random::{Mask, Purpose, fill_normal};
use taper::tape::{Backward, Context, Gradients, Layout, ParamId, Params, Tape, Var, VarId};
use taper::tensor::{DType, Tensor};

fn normal(name: &str, shape: &[usize]) -> Tensor {
    let mut values = vec![0.0; shape.iter().product()];
    fill_normal(5, Purpose::Test, name, 0, &mut values);
    Tensor::from_f32(&values, shape).unwrap()
}

fn params_of(shapes: &[(&str, &[usize])]) -> (Params, Vec<ParamId>) {
    let mut layout = Layout::default();
    let ids: Vec<ParamId> = shapes.iter().map(|(name, shape)| layout.push(*name, shape)).collect();
    let mut params = Params::zeros(layout, Device::Cpu).unwrap();
    for (id, (name, shape)) in ids.iter().zip(shapes) {
        params.set(*id, normal(name, shape).f32()).unwrap();
    }
    (params, ids)
}

/// What happened, in order.
#[derive(Debug, PartialEq)]
enum Event {
    Backward(&'static str),
    Ready(ParamId),
    Live(usize),
}

type Log = Rc<RefCell<Vec<Event>>>;

/// Passes the value and the gradient on, adds one to the gradients of its parameters, and writes down when.
struct Probe {
    name: &'static str,
    id: Option<VarId>,
    params: Vec<ParamId>,
    measure: bool,
    log: Log,
}

impl Backward for Probe {
    fn backward(self: Box<Self>, mut douts: Vec<Tensor>, context: &mut Context<'_>) -> Result<()> {
        let event = if self.measure { Event::Live(live_bytes()) } else { Event::Backward(self.name) };
        self.log.borrow_mut().push(event);
        for id in &self.params {
            context.grads().of_mut(*id)[0] += 1.0;
        }
        context.add(self.id, douts.pop().unwrap())
    }
}

fn probe(tape: &mut Tape<'_>, name: &'static str, x: &Var, params: &[ParamId], log: &Log) -> Var {
    let (id, log) = (x.id(), log.clone());
    let (params_of_probe, measure) = (params.to_vec(), name == "live");
    tape.record(params, x.value().clone(), || Box::new(Probe { name, id, params: params_of_probe, measure, log }))
}

#[test]
fn the_hook_is_called_once_for_each_parameter_after_its_last_gradient() {
    let _turn = alone();
    let (params, ids) = params_of(&[("tied", &[4]), ("middle", &[4]), ("unused value", &[4]), ("never used", &[4])]);
    let [tied, middle, lost, _] = ids[..] else { panic!() };
    let mut grads = Gradients::zeros_like(&params).unwrap();
    let log = Log::default();
    let mut tape = Tape::training(&params, &mut grads);
    let x = tape.input(normal("x", &[4]));
    let first = probe(&mut tape, "first", &x, &[tied], &log);
    let second = probe(&mut tape, "second", &first, &[middle], &log);
    // Nobody uses this one: its backward is not called, but its parameter is as complete as it will be.
    probe(&mut tape, "lost", &second, &[lost], &log);
    let third = probe(&mut tape, "third", &second, &[tied], &log);
    let seen = log.clone();
    tape.on_ready(Box::new(move |id, _| {
        seen.borrow_mut().push(Event::Ready(id));
        Ok(())
    }));
    tape.backward(&third, normal("dout", &[4])).unwrap();
    let expected = [
        Event::Backward("third"),
        Event::Ready(lost),
        Event::Backward("second"),
        Event::Ready(middle),
        Event::Backward("first"),
        Event::Ready(tied),
    ];
    assert_eq!(*log.borrow(), expected);
    assert_eq!((grads.of(tied)[0], grads.of(middle)[0], grads.of(lost)[0]), (2.0, 1.0, 0.0));
}

#[test]
fn a_parameter_used_twice_by_one_operator_is_reported_once() {
    let _turn = alone();
    let (params, ids) = params_of(&[("w", &[4])]);
    let mut grads = Gradients::zeros_like(&params).unwrap();
    let log = Log::default();
    let mut tape = Tape::training(&params, &mut grads);
    let x = tape.input(normal("x", &[4]));
    let y = probe(&mut tape, "both", &x, &[ids[0], ids[0]], &log);
    let seen = log.clone();
    tape.on_ready(Box::new(move |id, _| {
        seen.borrow_mut().push(Event::Ready(id));
        Ok(())
    }));
    tape.backward(&y, normal("dout", &[4])).unwrap();
    assert_eq!(*log.borrow(), [Event::Backward("both"), Event::Ready(ids[0])]);
}

#[test]
fn a_missing_gradient_of_one_of_several_outputs_is_zero() {
    /// Two outputs, both the input: `dx = douts[0] + 10 douts[1]`.
    struct Fork(Option<VarId>);
    impl Backward for Fork {
        fn backward(self: Box<Self>, douts: Vec<Tensor>, context: &mut Context<'_>) -> Result<()> {
            let both = douts[0].f32().iter().zip(douts[1].f32()).map(|(a, b)| a + 10.0 * b);
            context.add(self.0, Tensor::from_f32(&both.collect::<Vec<f32>>(), douts[0].shape())?)
        }
    }
    let _turn = alone();
    let (params, _) = params_of(&[]);
    for used in [0, 1] {
        let (mut grads, mut unused) =
            (Gradients::zeros_like(&params).unwrap(), Gradients::zeros_like(&params).unwrap());
        let mut tape = Tape::training(&params, &mut unused);
        let x = tape.input(normal("x", &[3]));
        let id = x.id();
        let outs = tape.record_many(&[], [x.value().clone(), x.value().clone()], || Box::new(Fork(id)));
        let dout = Tensor::from_f32(&[1.0, 2.0, 3.0], &[3]).unwrap();
        let dx = tape.backward_from(&outs[used], dout, &mut grads, &[&x], None).unwrap().pop().flatten().unwrap();
        assert_eq!(dx.f32(), if used == 0 { [1.0, 2.0, 3.0] } else { [10.0, 20.0, 30.0] });
    }
}

#[test]
fn inputs_that_the_root_does_not_depend_on_have_no_gradient() {
    let _turn = alone();
    let (params, _) = params_of(&[]);
    let (mut grads, mut unused) = (Gradients::zeros_like(&params).unwrap(), Gradients::zeros_like(&params).unwrap());
    let mut tape = Tape::training(&params, &mut unused);
    let (x, other) = (tape.input(normal("x", &[3])), tape.input(normal("other", &[3])));
    let y = gelu(&mut tape, &x, Kind::Tanh).unwrap();
    gelu(&mut tape, &other, Kind::Tanh).unwrap();
    let found = tape.backward_from(&y, normal("dout", &[3]), &mut grads, &[&x, &other], None).unwrap();
    assert!(found[0].is_some() && found[1].is_none());
}

/// A feed-forward block with everything that recomputation must repeat: `x + dropout(down(gelu(up(x))))`.
fn block(tape: &mut Tape<'_>, x: Var, ids: [ParamId; 3], layer: u32) -> Result<Var> {
    let up = linear(tape, &x, ids[0], Some(ids[1]))?;
    let act = gelu(tape, &up, Kind::Tanh)?;
    drop(up);
    let down = linear(tape, &act, ids[2], None)?;
    drop(act);
    let dropped = dropout(tape, down, Mask::new(1, 2, layer, 0, 0.2), &[4, 9])?;
    residual(tape, &x, dropped)
}

struct Trained {
    out: Vec<f32>,
    dx: Vec<f32>,
    grads: Vec<f32>,
    ready: Vec<ParamId>,
    stored: usize,
}

/// Three blocks, the second of which shares its first matrix with the third.
fn train(recompute: bool) -> Trained {
    const C: usize = 24;
    const M: usize = 100;
    let (params, ids) = params_of(&[
        ("up 0", &[M, C]),
        ("bias 0", &[M]),
        ("down 0", &[C, M]),
        ("up 1", &[M, C]),
        ("bias 1", &[M]),
        ("down 1", &[C, M]),
        ("down 2", &[C, M]),
    ]);
    let layers = [[ids[0], ids[1], ids[2]], [ids[3], ids[4], ids[5]], [ids[3], ids[4], ids[6]]];
    let (mut grads, mut unused) = (Gradients::zeros_like(&params).unwrap(), Gradients::zeros_like(&params).unwrap());
    let mut tape = Tape::training(&params, &mut unused);
    let x = tape.input(normal("x", &[2, 16, C]));
    let before = live_bytes();
    let mut h = x.clone();
    for (i, layer) in layers.into_iter().enumerate() {
        h = if recompute {
            tape.recompute(h, move |tape, x| block(tape, x, layer, i as u32)).unwrap()
        } else {
            block(&mut tape, h, layer, i as u32).unwrap()
        };
    }
    let stored = live_bytes() - before;
    let ready = Rc::new(RefCell::new(Vec::new()));
    let seen = ready.clone();
    let hook = Box::new(move |id, _: &mut Gradients| {
        seen.borrow_mut().push(id);
        Ok(())
    });
    let dout = normal("dout", h.value().shape());
    let dx = tape.backward_from(&h, dout, &mut grads, &[&x], Some(hook)).unwrap().pop().flatten().unwrap();
    let ready = ready.borrow().clone();
    let grads = grads.flat().f32().to_vec();
    Trained { out: h.value().f32().to_vec(), dx: dx.f32().to_vec(), grads, ready, stored }
}

#[test]
fn recomputation_gives_the_same_bits_in_less_memory() {
    let _turn = alone();
    let (stored, again) = (train(false), train(true));
    assert_eq!(stored.out, again.out);
    assert_eq!(stored.dx, again.dx);
    assert_eq!(stored.grads, again.grads);
    assert!(stored.grads.iter().any(|&grad| grad != 0.0));
    // With recomputation only the three results remain; else two tensors of width M in each block as well.
    let (narrow, wide) = (2 * 16 * 24 * 4, 2 * 16 * 100 * 4);
    assert_eq!(again.stored, 3 * round(narrow));
    assert_eq!(stored.stored, 3 * round(narrow) + 6 * round(wide));
    for ready in [&stored.ready, &again.ready] {
        let mut sorted = ready.clone();
        sorted.sort();
        assert_eq!(sorted, (0..7).map(ParamId).collect::<Vec<_>>());
        // What blocks 2 and 1 share is complete only after block 1; block 0 comes last.
        let place = |id: usize| ready.iter().position(|found| found.0 == id).unwrap();
        assert!(place(6) < place(3) && place(6) < place(4) && place(5) < place(0) && place(3) < place(0));
    }
}

/// Bytes that the pool counts for a tensor: it rounds up to 1024.
fn round(bytes: usize) -> usize {
    bytes.next_multiple_of(1024)
}

#[test]
fn backward_frees_activations_as_it_goes() {
    let _turn = alone();
    const DEPTH: usize = 8;
    let (params, _) = params_of(&[]);
    let mut grads = Gradients::zeros_like(&params).unwrap();
    let log = Log::default();
    let len = 1 << 18;
    let bytes = 4 * len;
    let mut tape = Tape::training(&params, &mut grads);
    let mut h = tape.input(normal("x", &[len]));
    for _ in 0..DEPTH {
        h = gelu(&mut tape, &h, Kind::Tanh).unwrap();
        h = probe(&mut tape, "live", &h, &[], &log);
    }
    let dout = Tensor::zeros(Device::Cpu, DType::F32, &[len]).unwrap();
    reset_peak();
    let start = live_bytes();
    tape.backward(&h, dout).unwrap();
    // GELU's backward works in place of the gradient it gets, so no more is ever live than at the start.
    assert_eq!(peak_bytes(), start);
    let live: Vec<usize> = log
        .borrow()
        .iter()
        .map(|event| match event {
            Event::Live(bytes) => *bytes,
            other => panic!("{other:?}"),
        })
        .collect();
    // Each step back drops the input of one GELU.
    assert_eq!(live, (0..DEPTH).map(|i| start - i * bytes).collect::<Vec<_>>());
    drop(h);
    assert_eq!(live_bytes(), start - (DEPTH + 2) * bytes);
}

#[test]
fn an_inference_tape_keeps_nothing() {
    let _turn = alone();
    let (params, ids) = params_of(&[("w", &[64, 64])]);
    let start = live_bytes();
    let mut tape = Tape::inference(&params);
    let mut h = Var::constant(normal("x", &[32, 64]));
    reset_peak();
    for _ in 0..10 {
        h = linear(&mut tape, &h, ids[0], None).unwrap();
        assert!(h.id().is_none());
    }
    assert_eq!(live_bytes() - start, 32 * 64 * 4);
    assert_eq!(peak_bytes() - start, 2 * 32 * 64 * 4);
}
