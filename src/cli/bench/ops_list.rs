//! The operators of a training step of GPT-2 at the shapes at which the step has them, with what each must move and
//! compute at least; and operators of other architectures next to them. The list is that of [`crate::arch::step`], the
//! numbers those of
//! [`crate::ops::cost`].

use crate::arch::ModelConfig;
use crate::arch::config::{Mlp, Norm};
use crate::arch::step::{self, Layer};
use crate::cli::bench::ops_time::{Operator, Pass};
use crate::error::Result;
use crate::ops::attention::cpu::{KEYS, QUERIES};
use crate::ops::attention::{Heads, attention};
use crate::ops::classifier::{Scale, classifier};
use crate::ops::cost::Work;
use crate::ops::rope::RopeTable;
use crate::ops::{dropout, embedding, gelu, layernorm, linear, low_rank, relu2, residual, rmsnorm, rope, swiglu};
use crate::random::Mask;
use crate::tape::{ParamId, Tape, Var};
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

    /// An operator of the step: with its count in it, or 0 if it is none of the step's; and what its passes move and
    /// compute.
    fn timed<'o>(
        &self,
        operator: step::Operator,
        run: impl Fn(&mut Tape<'_>, Vec<Var>, &[ParamId]) -> Result<Vec<Var>> + 'o,
    ) -> Operator<'o> {
        let found = step::operators(&self.model).into_iter().find(|(other, _)| *other == operator);
        let passes = operator.passes(self.batch, self.model.context_length);
        let pass =
            |(name, work): (&'static str, Work)| Pass { name, bytes: work.bytes(self.dtype), flops: work.flops as f64 };
        Operator {
            passes: passes.into_iter().map(pass).collect(),
            ..Operator::new(operator.name(), found.map_or(0, |(_, count)| count), run)
        }
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
        let (x, kind) = (|| vec![b, t, c], Norm::Layernorm);
        vec![
            Operator {
                params: vec![vec![v, c], vec![t, c]],
                ..self.timed(step::Operator::Embedding { vocabulary: v, width: c, positions: true }, |tape, _, p| {
                    embedding::embedding(tape, &self.tokens, p[0], Some(p[1]), 0, None).map(|y| vec![y])
                })
            },
            Operator {
                inputs: vec![x()],
                params: vec![vec![c], vec![c]],
                ..self.timed(step::Operator::Norm { kind, width: c }, |tape, x, p| {
                    layernorm::layernorm(tape, &x[0], p[0], Some(p[1]), EPS).map(|y| vec![y])
                })
            },
            Operator {
                inputs: vec![x(), x()],
                params: vec![vec![c], vec![c]],
                ..self.timed(step::Operator::AddNorm { kind, width: c }, |tape, mut x, p| {
                    let delta = x.pop().expect("two inputs");
                    layernorm::add_layernorm(tape, &x[0], delta, p[0], Some(p[1]), EPS).map(Vec::from)
                })
            },
            Operator {
                inputs: vec![x()],
                params: vec![vec![v, c]],
                product: Some([b * t, v, c]),
                ..self.timed(step::Operator::Classifier { vocabulary: v, width: c }, |tape, x, p| {
                    let scale = Scale { by: 1.0 / self.ids.len() as f32, loss_scale: None };
                    classifier(tape, &x[0], p[0], &self.ids, scale).map(|loss| vec![loss.root])
                })
            },
        ]
    }

    /// What every block has once.
    fn of_blocks(&self) -> Vec<Operator<'_>> {
        let (b, t, c, m) = (self.batch, self.model.context_length, self.model.n_embd, self.model.mlp_dim);
        let heads = self.heads();
        let linear = |layer, outs: usize, ins: usize| Operator {
            inputs: vec![vec![b, t, ins]],
            params: vec![vec![outs, ins], vec![outs]],
            product: Some([b * t, outs, ins]),
            ..self.timed(step::Operator::Linear { layer, outs, ins, bias: true }, |tape, x, p| {
                linear::linear(tape, &x[0], p[0], Some(p[1])).map(|y| vec![y])
            })
        };
        vec![
            linear(Layer::Qkv, heads.packed(), c),
            Operator {
                inputs: vec![vec![b, t, heads.packed()]],
                product: Some([QUERIES.min(t), KEYS.min(t), heads.head_dim]),
                ..self.timed(step::Operator::Attention { heads }, move |tape, x, _| {
                    attention(tape, &x[0], heads, None, None).map(|y| vec![y])
                })
            },
            linear(Layer::Proj, c, heads.width()),
            linear(Layer::Up, m, c),
            Operator {
                inputs: vec![vec![b, t, m]],
                ..self.timed(step::Operator::Activation { kind: Mlp::Gelu, width: m }, |tape, x, _| {
                    gelu::gelu(tape, &x[0], gelu::Kind::Tanh).map(|y| vec![y])
                })
            },
            linear(Layer::Down, c, m),
        ]
    }

    /// What GPT-2 does not have, at the same widths.
    fn of_other_models(&self) -> Vec<Operator<'_>> {
        let (b, t, c, m) = (self.batch, self.model.context_length, self.model.n_embd, self.model.mlp_dim);
        let (n, heads) = (b * t, self.heads());
        let x = || vec![b, t, c];
        let last = |mut x: Vec<Var>| x.pop().expect("an input");
        let packed = heads.packed();
        vec![
            Operator {
                inputs: vec![x(), x()],
                ..self.timed(step::Operator::Residual { width: c }, |tape, mut x, _| {
                    let delta = x.pop().expect("two inputs");
                    residual::residual(tape, &x[0], delta).map(|y| vec![y])
                })
            },
            Operator {
                inputs: vec![x()],
                params: vec![vec![c]],
                ..self.timed(step::Operator::Norm { kind: Norm::Rmsnorm, width: c }, |tape, x, p| {
                    rmsnorm::rmsnorm(tape, &x[0], p[0], EPS).map(|y| vec![y])
                })
            },
            Operator {
                inputs: vec![vec![b, t, 2 * m]],
                ..self.timed(step::Operator::Activation { kind: Mlp::Swiglu, width: m }, |tape, x, _| {
                    swiglu::swiglu(tape, &x[0]).map(|y| vec![y])
                })
            },
            Operator {
                inputs: vec![vec![b, t, m]],
                ..self.timed(step::Operator::Activation { kind: Mlp::Relu2, width: m }, |tape, x, _| {
                    relu2::relu2(tape, &x[0]).map(|y| vec![y])
                })
            },
            Operator {
                inputs: vec![vec![b, t, packed]],
                ..self.timed(step::Operator::Rope { heads }, move |tape, x, _| {
                    rope::rope(tape, last(x), heads, &self.rope, 0, None).map(|y| vec![y])
                })
            },
            Operator {
                inputs: vec![x()],
                ..self.timed(step::Operator::Dropout { width: c }, move |tape, x, _| {
                    let sequences: Vec<u32> = (0..b as u32).collect();
                    dropout::dropout(tape, last(x), Mask::new(1, 0, 0, 1, 0.1), &sequences).map(|y| vec![y])
                })
            },
            Operator {
                inputs: vec![x(), vec![b, t, packed]],
                params: vec![vec![RANK, c], vec![packed, RANK]],
                product: Some([n, RANK, c]),
                ..self.timed(step::Operator::LowRank { outs: packed, ins: c, rank: RANK }, |tape, mut x, p| {
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
