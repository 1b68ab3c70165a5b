//! The engine against `transformers` and `torch.optim.AdamW`.
//!
//! The models come in by the way a user's do, `checkpoint::read_model_folder`; the expected gradients and weights are in
//! Hugging Face names and layouts, translated by hand in `tests/common/fixtures.rs`. So a mistake in our table of tensors
//! shows here as well.
//!
//! Tolerances: the truth is float64, and the fixture says how far torch's own float32 was from it. The engine may be
//! twice as far, plus a few roundings of the largest value, since torch may have been lucky.

use super::common::{Batch, distance, engine, largest, loss_and_grads, wide};
use super::fixtures::{ALL, Fixture, folder};
use taper::arch::config::Position;
use taper::checkpoint::read_model_folder;
use taper::model::Gpt;
use taper::model::gpt::Pass;
use taper::optim::{Class, Hyper, Optimizer};
use taper::tape::Params;

/// A rounding of float32.
const EPSILON: f64 = f32::EPSILON as f64;

fn load(name: &str) -> (Fixture, Gpt, Params) {
    let fixture = Fixture::load(name);
    let found = read_model_folder(&folder(name)).unwrap();
    assert_eq!(found.config, fixture.config, "{name}");
    let (model, params) = engine(&found.config, &found.params);
    (fixture, model, params)
}

fn batch(f: &Fixture, tokens: &[u32], targets: &[u32]) -> Batch {
    Batch { b: f.b, t: f.t, tokens: tokens.to_vec(), targets: targets.to_vec() }
}

#[test]
fn logits_loss_and_every_gradient() {
    for name in ALL {
        let (f, model, params) = load(name);
        let batch = batch(&f, &f.tokens, &f.targets);
        let logits = model.logits(&params, &batch.tensor()).unwrap();
        assert_eq!(logits.shape(), [f.b, f.t, f.config.vocab_size]);
        let off = distance(wide(logits.f32()), f.logits.iter().copied());
        let slack = 2.0 * f.torch_error("logits") + 2.0 * EPSILON * largest(&f.logits);
        assert!(off < slack, "{name}: logits are off by {off:e}, at most {slack:e}");

        let (loss, grads) = loss_and_grads((&model, &params), &batch, &Pass::default());
        let (off, slack) = ((loss - f.loss).abs(), 2.0 * f.torch_error("loss") + 2.0 * EPSILON * f.loss);
        assert!(off < slack, "{name}: the loss is off by {off:e}, at most {slack:e}");

        let infos = params.layout().infos();
        assert_eq!(infos.len(), f.grads.len(), "{name}: parameters");
        for info in infos {
            let expected = &f.grads[&info.name];
            let grad = &grads.flat().f32()[info.range()];
            let off = distance(wide(grad), expected.iter().copied());
            let slack = 2.0 * f.torch_error("grads") + 2.0 * EPSILON * largest(expected);
            assert!(off < slack, "{name}: the gradient of {} is off by {off:e}, at most {slack:e}", info.name);
        }
    }
}

/// Whether an element is of a key bias of a model without rotary positions. Its gradient is zero in exact arithmetic, so
/// AdamW divides rounding noise by rounding noise (see scripts/make_fixtures.py): nothing to compare.
fn is_noise(f: &Fixture, parameter: &str, index: usize) -> bool {
    let (first, width) = (f.config.attn_dim(), f.config.n_kv_head * f.config.head_dim);
    f.config.position != Position::Rope
        && parameter.ends_with("attn.qkv.bias")
        && (first..first + width).contains(&index)
}

/// torch's own distance after the 20 steps, over the parameters that mean something.
fn torch_weight_error(f: &Fixture) -> f64 {
    let errors = f.float32_error["weights"].as_object().unwrap().iter();
    let meaningful = errors.filter(|(name, _)| !name.ends_with("attn.c_attn.bias"));
    meaningful.map(|(_, error)| error.as_f64().unwrap()).fold(0.0, f64::max)
}

#[test]
fn twenty_adamw_steps() {
    for name in ALL {
        let (f, model, mut params) = load(name);
        let hyper = Hyper {
            optimizer: taper::optim::config::OptimizerConfig {
                beta1: f.optimizer["beta1"],
                beta2: f.optimizer["beta2"],
                eps: f.optimizer["eps"],
                weight_decay: f.optimizer["weight_decay"],
                ..Default::default()
            },
            clip_norm: Some(f.optimizer["clip_norm"]),
        };
        let mut optimizer = Optimizer::new(hyper, &params).unwrap();
        let mut clipped = 0;
        // What 20 steps of rounding may add where torch was lucky: each step of Adam moves a weight by up to the learning
        // rate, relative to which a gradient's rounding counts.
        let luck = 20.0 * 10.0 * EPSILON;
        for (step, (x, y)) in f.train_tokens.iter().zip(&f.train_targets).enumerate() {
            let (loss, grads) = loss_and_grads((&model, &params), &batch(&f, x, y), &Pass::default());
            let outcome = optimizer.step(&mut params, &grads, loss, f.optimizer["lr"]);
            assert!(outcome.class.is_applied());
            clipped += usize::from(outcome.class == Class::Clipped);
            let (off, slack) = ((loss - f.losses[step]).abs(), 2.0 * f.torch_error("losses") + luck);
            assert!(off < slack, "{name} step {step}: the loss is off by {off:e}, at most {slack:e}");
            let off = (f64::from(outcome.norm) - f.grad_norms[step]).abs();
            let slack = 2.0 * f.torch_error("grad_norms") + luck;
            assert!(off < slack, "{name} step {step}: the gradient norm is off by {off:e}, at most {slack:e}");
        }
        assert!(clipped > 0, "{name}: nothing was clipped, so clipping was not tested");
        assert_eq!(optimizer.state().unwrap().updates, 20);
        let slack = 2.0 * torch_weight_error(&f) + luck;
        for info in params.layout().infos() {
            let weights = &params.flat().f32()[info.range()];
            for (index, (ours, theirs)) in wide(weights).zip(&f.weights_after[&info.name]).enumerate() {
                let off = (ours - theirs).abs();
                let fine = off < slack || is_noise(&f, &info.name, index);
                assert!(fine, "{name}: {}[{index}] is off by {off:e}, at most {slack:e}", info.name);
            }
        }
    }
}
