//! A model's parameters, packed.

use super::matrix::Matrix;
use crate::arch::ModelConfig;
use crate::arch::config::{Mlp, NormPosition, Position};
use crate::decode::WeightFormat;
use crate::error::{Error, Result};
use crate::ops::rope::RopeTable;
use crate::tape::Params;

/// A linear layer.
#[derive(Debug)]
pub struct Linear {
    pub matrix: Matrix,
    pub bias: Option<Vec<f32>>,
}

/// A norm.
#[derive(Debug)]
pub struct Norm {
    pub weight: Vec<f32>,
    pub bias: Option<Vec<f32>>,
}

/// A block.
#[derive(Debug)]
pub struct Block {
    pub norm_1: Norm,
    pub qkv: Linear,
    pub proj: Linear,
    pub norm_2: Norm,
    pub up: Linear,
    pub down: Linear,
}

/// Refuses what fp16, as weights or as scales of blocks, cannot hold: it would become infinite, or vanish in its block.
fn check_range(name: &str, values: &[f32], format: WeightFormat) -> Result<()> {
    const MAX: f32 = 65_504.0;
    let most = match format {
        WeightFormat::Fp32 | WeightFormat::Bf16 => return Ok(()),
        WeightFormat::Fp16 => MAX,
        WeightFormat::Q8_0 => MAX * 127.0,
        WeightFormat::Q4_0 => MAX * 8.0,
    };
    match values.iter().position(|x| !x.is_finite() || x.abs() > most) {
        None => Ok(()),
        Some(at) => Err(Error::usage(format!(
            "{name} holds {} (element {at}), which this number format cannot; take fp32 or bf16",
            values[at]
        ))),
    }
}

/// The whole model. Matrices, the embeddings of tokens included, are in the format asked for; norms, biases and learned
/// positions in f32.
#[derive(Debug)]
pub struct Weights {
    /// [V, C].
    pub tokens: Matrix,
    /// [T, C].
    pub positions: Option<Vec<f32>>,
    pub blocks: Vec<Block>,
    pub norm_f: Option<Norm>,
    /// The output layer, where it is not `tokens`.
    pub head: Option<Matrix>,
    pub rope: Option<RopeTable>,
}

impl Weights {
    /// Packs parameters in host memory.
    ///
    /// # Errors
    /// If a parameter of the shape is missing, or memory cannot be had.
    pub fn pack(config: &ModelConfig, params: &Params, format: WeightFormat) -> Result<Weights> {
        let flat = params.flat().f32();
        let find = |name: &str| params.layout().find(name).map(|id| params.layout().info(id));
        let need = |name: &str| find(name).ok_or_else(|| Error::Training(format!("there is no parameter {name}")));
        let matrix = |name: &str| -> Result<Matrix> {
            let info = need(name)?;
            check_range(name, &flat[info.range()], format)?;
            Ok(Matrix::pack(format, &flat[info.range()], info.shape[0], info.shape[1]))
        };
        let vector = |name: &str| find(name).map(|info| flat[info.range()].to_vec());
        let norm = |name: &str| -> Result<Norm> {
            let weight = flat[need(&format!("{name}.weight"))?.range()].to_vec();
            Ok(Norm { weight, bias: vector(&format!("{name}.bias")) })
        };
        let linear = |name: String| -> Result<Linear> {
            Ok(Linear { matrix: matrix(&format!("{name}.weight"))?, bias: vector(&format!("{name}.bias")) })
        };
        let up = if config.mlp == Mlp::Swiglu { "gate_up" } else { "up" };
        let block = |i: usize| -> Result<Block> {
            Ok(Block {
                norm_1: norm(&format!("h.{i}.norm_1"))?,
                qkv: linear(format!("h.{i}.attn.qkv"))?,
                proj: linear(format!("h.{i}.attn.proj"))?,
                norm_2: norm(&format!("h.{i}.norm_2"))?,
                up: linear(format!("h.{i}.mlp.{up}"))?,
                down: linear(format!("h.{i}.mlp.down"))?,
            })
        };
        let rope = match config.position {
            Position::Rope => Some(RopeTable::new(config.context_length, config.head_dim, config.rope_theta)?),
            Position::Learned | Position::None => None,
        };
        Ok(Weights {
            tokens: matrix("wte.weight")?,
            positions: (config.position == Position::Learned).then(|| vector("wpe.weight")).flatten(),
            blocks: (0..config.n_layer).map(block).collect::<Result<_>>()?,
            norm_f: (config.norm_position == NormPosition::Pre).then(|| norm("norm_f")).transpose()?,
            head: (!config.tie_embeddings).then(|| matrix("lm_head.weight")).transpose()?,
            rope,
        })
    }

    /// The output layer.
    pub fn head(&self) -> &Matrix {
        self.head.as_ref().unwrap_or(&self.tokens)
    }

    /// Bytes of weights that one token reads: every matrix once, of embeddings only its rows.
    pub fn bytes_per_token(&self) -> usize {
        let vector = |bias: &Option<Vec<f32>>| bias.as_ref().map_or(0, |bias| bias.len() * 4);
        let linear = |linear: &Linear| linear.matrix.bytes() + vector(&linear.bias);
        let norm = |norm: &Norm| norm.weight.len() * 4 + vector(&norm.bias);
        let block = |b: &Block| {
            let linears = linear(&b.qkv) + linear(&b.proj) + linear(&b.up) + linear(&b.down);
            linears + norm(&b.norm_1) + norm(&b.norm_2)
        };
        let rows = self.positions.is_some() as usize * self.tokens.k() * 4;
        self.head().bytes() + rows + self.norm_f.as_ref().map_or(0, norm) + self.blocks.iter().map(block).sum::<usize>()
    }
}
