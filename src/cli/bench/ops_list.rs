//! The operators of a training step of GPT-2 at the shapes at which the step has them, with what each must move and compute at
//! least; and operators of other architectures beside them.
//!
//! Bytes: every tensor once for each time that the operator must read or write it, in the dtype in which it is stored;
//! gradients of parameters, to which is added, are read and written. FLOPs: those of matrix products (two for each
//! multiply-add); what is done element by element is not counted, because memory limits it.

use crate::arch::ModelConfig;
use crate::cli::bench::ops_time::{Operator, Pass};
use crate::error::Result;
use crate::ops::attention::cpu::{KEYS, QUERIES};
use crate::ops::attention::{Heads, attention};
use crate::ops::classifier::{Scale, classifier};
use crate::ops::rope::RopeTable;
use crate::ops::{dropout, embedding, gelu, layernorm, linear, low_rank, relu2, residual, rmsnorm, rope, swiglu};
use crate::random::Mask;
use crate::tape::Var;
use crate::tensor::{DType, Tensor};

/// Rank of the low-rank correction that is timed.
const RANK: usize = 16;
/// The epsilon of the norms.
const EPS: f32 = 1e-5;

/// One micro-batch's step of a model of GPT-2's architecture, in a compute dtype.
pub(crate) struct StepShape {
    model: ModelConfig,
    batch: usize,
    dtype: DType,
    ids: Vec<u32>,
    tokens: Tensor,
    rope: RopeTable,
}

impl StepShape {
    /// # Errors
    /// If memory cannot be had.
    pub fn new(model: ModelConfig, batch: usize, dtype: DType) -> Result<StepShape> {
        let (t, v) = (model.context_length, model.vocab_size);
        // A prime number apart: as many different tokens as there can be, in no order.
        let ids: Vec<u32> = (0..batch * t).map(|i| (i * 7919 % v) as u32).collect();
        let tokens = Tensor::from_u32(&ids, &[batch, t])?;
        let rope = RopeTable::new(t, model.head_dim, model.rope_theta)?;
        Ok(StepShape { model, batch, dtype, ids, tokens, rope })
    }

    /// Stored elements, as bytes.
    fn stored(&self, elements: usize) -> f64 {
        (self.dtype.size() * elements) as f64
    }

    /// A pass that moves stored elements and elements in f32, and does some FLOPs.
    fn pass(&self, name: &'static str, stored: usize, f32: usize, flops: usize) -> Pass {
        Pass { name, bytes: self.stored(stored) + 4.0 * f32 as f64, flops: flops as f64 }
    }

    fn forward_and_backward(&self, forward: [usize; 3], backward: [usize; 3]) -> Vec<Pass> {
        let [stored, f32, flops] = forward;
        let first = self.pass("forward", stored, f32, flops);
        let [stored, f32, flops] = backward;
        vec![first, self.pass("backward", stored, f32, flops)]
    }

    /// The passes of what moves only stored elements.
    fn moves(&self, forward: usize, backward: usize) -> Vec<Pass> {
        self.forward_and_backward([forward, 0, 0], [backward, 0, 0])
    }

    /// Every operator of the step with how often it is in it; then those that GPT-2 does not have, with a count of 0.
    pub fn operators(&self) -> Vec<Operator<'_>> {
        let mut operators = self.around_blocks();
        operators.extend(self.of_blocks());
        operators.extend(self.of_other_models());
        operators
    }

    fn heads(&self) -> Heads {
        Heads { n_head: self.model.n_head, n_kv_head: self.model.n_kv_head, head_dim: self.model.head_dim }
    }

    /// Embeddings, norms, output layer.
    fn around_blocks(&self) -> Vec<Operator<'_>> {
        let (b, t, c, v) = (self.batch, self.model.context_length, self.model.n_embd, self.model.vocab_size);
        let (n, l) = (b * t, self.model.n_layer);
        let x = || vec![b, t, c];
        // Two numbers a row, and the weight's and bias's gradients, which are small.
        let stats = 2 * n;
        vec![
            Operator {
                passes: self.forward_and_backward([2 * n * c + t * c, n, 0], [n * c, n + 2 * (n.min(v) + t) * c, 0]),
                params: vec![vec![v, c], vec![t, c]],
                ..Operator::new("embedding", 1, |tape, _, p| {
                    embedding::embedding(tape, &self.tokens, p[0], Some(p[1]), 0, None).map(|y| vec![y])
                })
            },
            Operator {
                inputs: vec![x()],
                passes: self.forward_and_backward([2 * n * c, stats, 0], [3 * n * c, stats, 0]),
                params: vec![vec![c], vec![c]],
                ..Operator::new("layernorm", 1, |tape, x, p| {
                    layernorm::layernorm(tape, &x[0], p[0], Some(p[1]), EPS).map(|y| vec![y])
                })
            },
            Operator {
                inputs: vec![x(), x()],
                passes: self.forward_and_backward([4 * n * c, stats, 0], [4 * n * c, stats, 0]),
                params: vec![vec![c], vec![c]],
                ..Operator::new("add_layernorm", 2 * l, |tape, mut x, p| {
                    let delta = x.pop().expect("two inputs");
                    layernorm::add_layernorm(tape, &x[0], delta, p[0], Some(p[1]), EPS).map(Vec::from)
                })
            },
            Operator {
                inputs: vec![x()],
                params: vec![vec![v, c]],
                // The logits stay in the cache at best.
                passes: vec![self.pass("both", 2 * n * c + v * c, n + 2 * v * c, 6 * n * c * v)],
                product: Some([n, v, c]),
                ..Operator::new("classifier", 1, |tape, x, p| {
                    let scale = Scale { by: 1.0 / self.ids.len() as f32, loss_scale: None };
                    classifier(tape, &x[0], p[0], &self.ids, scale).map(|loss| vec![loss.root])
                })
            },
        ]
    }

    /// What every block has once.
    fn of_blocks(&self) -> Vec<Operator<'_>> {
        let (b, t, c, m) = (self.batch, self.model.context_length, self.model.n_embd, self.model.mlp_dim);
        let (n, l, heads) = (b * t, self.model.n_layer, self.heads());
        let (packed, width) = (heads.packed(), heads.width());
        let linear = |name, outs: usize, ins: usize| Operator {
            inputs: vec![vec![b, t, ins]],
            params: vec![vec![outs, ins], vec![outs]],
            passes: self.forward_and_backward(
                [n * (ins + outs) + outs * ins, 0, 2 * n * outs * ins],
                [n * (2 * ins + outs) + outs * ins, 2 * outs * ins, 4 * n * outs * ins],
            ),
            product: Some([n, outs, ins]),
            ..Operator::new(name, l, |tape, x, p| linear::linear(tape, &x[0], p[0], Some(p[1])).map(|y| vec![y]))
        };
        // Products of causal pairs only: two forward; backward the scores again, and four for the gradients.
        let pairs = b * width * (t * (t + 1) / 2);
        vec![
            linear("linear qkv", packed, c),
            Operator {
                inputs: vec![vec![b, t, packed]],
                passes: self.forward_and_backward(
                    [n * (packed + width), n * heads.n_head, 4 * pairs],
                    [2 * n * (packed + width), n * heads.n_head, 10 * pairs],
                ),
                product: Some([QUERIES.min(t), KEYS.min(t), heads.head_dim]),
                ..Operator::new("attention", l, move |tape, x, _| {
                    attention(tape, &x[0], heads, None, None).map(|y| vec![y])
                })
            },
            linear("linear proj", c, width),
            linear("linear up", m, c),
            Operator {
                inputs: vec![vec![b, t, m]],
                passes: self.moves(2 * n * m, 3 * n * m),
                ..Operator::new("gelu", l, |tape, x, _| gelu::gelu(tape, &x[0], gelu::Kind::Tanh).map(|y| vec![y]))
            },
            linear("linear down", c, m),
        ]
    }

    /// What GPT-2 does not have, at the same widths.
    fn of_other_models(&self) -> Vec<Operator<'_>> {
        let (b, t, c, m) = (self.batch, self.model.context_length, self.model.n_embd, self.model.mlp_dim);
        let (n, heads) = (b * t, self.heads());
        let x = || vec![b, t, c];
        let last = |mut x: Vec<Var>| x.pop().expect("an input");
        let packed = heads.packed();
        let turned = n * (heads.n_head + heads.n_kv_head) * heads.head_dim;
        let factors = RANK * (c + packed);
        vec![
            Operator {
                inputs: vec![x(), x()],
                // The gradient is handed on as it is.
                passes: vec![self.pass("forward", 3 * n * c, 0, 0)],
                ..Operator::new("residual", 0, |tape, mut x, _| {
                    let delta = x.pop().expect("two inputs");
                    residual::residual(tape, &x[0], delta).map(|y| vec![y])
                })
            },
            Operator {
                inputs: vec![x()],
                passes: self.forward_and_backward([2 * n * c, n, 0], [3 * n * c, n, 0]),
                params: vec![vec![c]],
                ..Operator::new("rmsnorm", 0, |tape, x, p| rmsnorm::rmsnorm(tape, &x[0], p[0], EPS).map(|y| vec![y]))
            },
            Operator {
                inputs: vec![vec![b, t, 2 * m]],
                passes: self.moves(3 * n * m, 5 * n * m),
                ..Operator::new("swiglu", 0, |tape, x, _| swiglu::swiglu(tape, &x[0]).map(|y| vec![y]))
            },
            Operator {
                inputs: vec![vec![b, t, m]],
                passes: self.moves(2 * n * m, 3 * n * m),
                ..Operator::new("relu2", 0, |tape, x, _| relu2::relu2(tape, &x[0]).map(|y| vec![y]))
            },
            Operator {
                inputs: vec![vec![b, t, packed]],
                passes: self.moves(2 * turned, 2 * turned),
                ..Operator::new("rope", 0, move |tape, x, _| {
                    rope::rope(tape, last(x), heads, &self.rope, 0, None).map(|y| vec![y])
                })
            },
            Operator {
                inputs: vec![x()],
                passes: self.moves(2 * n * c, 2 * n * c),
                ..Operator::new("dropout", 0, move |tape, x, _| {
                    let sequences: Vec<u32> = (0..b as u32).collect();
                    dropout::dropout(tape, last(x), Mask::new(1, 0, 0, 1, 0.1), &sequences).map(|y| vec![y])
                })
            },
            Operator {
                inputs: vec![x(), vec![b, t, packed]],
                params: vec![vec![RANK, c], vec![packed, RANK]],
                passes: self.forward_and_backward(
                    [n * (c + 2 * packed + RANK) + factors, 0, 2 * n * factors],
                    [n * (2 * c + packed + RANK) + factors, 2 * factors, 4 * n * factors],
                ),
                product: Some([n, RANK, c]),
                ..Operator::new("low_rank", 0, |tape, mut x, p| {
                    let y = x.pop().expect("two inputs");
                    low_rank::low_rank(tape, y, &x[0], (p[0], p[1]), 0, 2.0).map(|y| vec![y])
                })
            },
        ]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn products_of_the_step_are_those_of_the_accounting() {
        let (layers, heads, c, t, batch, v) = (3, 2, 32, 48, 2, 101);
        let model = ModelConfig::gpt2(layers, heads, c, t, v);
        let (tokens, per_token) = ((batch * t) as u64, model.flops_per_token());
        // 12 L H D T for attention, without the causal half.
        let attention = 12 * (layers * c * t) as u64;
        let shape = StepShape::new(model, batch, DType::F32).unwrap();
        let flops = |of: &dyn Fn(&Operator<'_>) -> bool| -> u64 {
            let operators = shape.operators();
            let sums = operators.iter().filter(|operator| of(operator));
            let of_one = |operator: &Operator<'_>| operator.passes.iter().map(|pass| pass.flops).sum::<f64>() as u64;
            sums.map(|operator| operator.count as u64 * of_one(operator)).sum()
        };
        let is_attention = |operator: &Operator<'_>| operator.name == "attention";
        assert_eq!(flops(&|operator| !is_attention(operator)), tokens * (per_token - attention));
        // Seven products where the accounting has six, of (T + 1) / 2 keys on the mean instead of T.
        let causal = tokens * attention * 14 / 12 * (t as u64 + 1) / (2 * t as u64);
        assert_eq!(flops(&is_attention), causal);
    }

    #[test]
    fn everything_that_is_not_of_gpt2_has_a_count_of_zero() {
        let shape = StepShape::new(ModelConfig::gpt2(3, 2, 32, 16, 11), 1, DType::BF16).unwrap();
        let count = |name: &str| shape.operators().iter().find(|operator| operator.name == name).unwrap().count;
        assert_eq!(["embedding", "layernorm", "classifier"].map(count), [1; 3]);
        // Two in a block; the first makes no sum, and one stands behind the blocks.
        assert_eq!(count("add_layernorm"), 6);
        assert_eq!(["linear qkv", "attention", "linear proj", "linear up", "gelu", "linear down"].map(count), [3; 6]);
        assert_eq!(["residual", "rmsnorm", "swiglu", "relu2", "rope", "dropout", "low_rank"].map(count), [0; 7]);
    }
}
