//! The GPT: embeddings, blocks, output layer, run on a tape.

use crate::arch::config::{ModelConfig, NormPosition, Position};
use crate::arch::lora::{Lora, Place};
use crate::device::Device;
use crate::error::{Error, Result};
pub use crate::nn::Pass;
use crate::nn::{Adapter, Attention, Builder, Cache, Init, MlpLayer, NormLayer, Site, init};
use crate::ops;
pub use crate::ops::classifier::Loss;
use crate::ops::classifier::Scale;
use crate::ops::rope::RopeTable;
use crate::tape::{Layout, ParamId, Params, Tape, Var};
use crate::tensor::{DType, Tensor};

/// Standard deviation of initial weights (GPT-2).
const INIT_STD: f64 = 0.02;

/// A model: its shape and the places of its parameters. The values live in [`Params`].
#[derive(Debug)]
pub struct Gpt {
    config: ModelConfig,
    layout: Layout,
    inits: Vec<Init>,
    wte: ParamId,
    wpe: Option<ParamId>,
    blocks: Vec<Block>,
    norm_f: Option<NormLayer>,
    head: ParamId,
    rope: Option<RopeTable>,
    lora: Option<Lora>,
}

#[derive(Debug)]
struct Block {
    index: usize,
    norm_1: NormLayer,
    attention: Attention,
    norm_2: NormLayer,
    mlp: MlpLayer,
    norm_position: NormPosition,
}

impl Gpt {
    /// Lays out the parameters of a shape.
    ///
    /// # Errors
    /// A `Usage` error if the shape is impossible.
    pub fn new(config: ModelConfig) -> Result<Gpt> {
        Gpt::with_adapters(config, None)
    }

    /// As [`Gpt::new`]; with adapters, they alone are trained, and stand behind all other parameters.
    ///
    /// # Errors
    /// As [`Gpt::new`].
    pub fn with_adapters(config: ModelConfig, lora: Option<Lora>) -> Result<Gpt> {
        config.validate()?;
        let mut builder = Builder::default();
        let (c, v) = (config.n_embd, config.vocab_size);
        let std_residual = INIT_STD / ((2 * config.n_layer) as f64).sqrt();
        let wte = builder.normal("wte.weight", &[v, c], INIT_STD);
        let wpe = (config.position == Position::Learned)
            .then(|| builder.normal("wpe.weight", &[config.context_length, c], INIT_STD));
        let mut blocks: Vec<Block> = (0..config.n_layer)
            .map(|index| Block {
                index,
                norm_1: NormLayer::new(&mut builder, &format!("h.{index}.norm_1"), &config),
                attention: Attention::new(&mut builder, &format!("h.{index}.attn"), &config, INIT_STD, std_residual),
                norm_2: NormLayer::new(&mut builder, &format!("h.{index}.norm_2"), &config),
                mlp: MlpLayer::new(&mut builder, &format!("h.{index}.mlp"), &config, INIT_STD, std_residual),
                norm_position: config.norm_position,
            })
            .collect();
        let norm_f =
            (config.norm_position == NormPosition::Pre).then(|| NormLayer::new(&mut builder, "norm_f", &config));
        let head = if config.tie_embeddings { wte } else { builder.normal("lm_head.weight", &[v, c], INIT_STD) };
        if let Some(lora) = &lora {
            builder.freeze();
            blocks.iter_mut().for_each(|block| block.adapt(&mut builder, &config, lora));
        }
        let (layout, inits) = builder.finish();
        let rope = match config.position {
            Position::Rope => Some(RopeTable::new(config.context_length, config.head_dim, config.rope_theta)?),
            Position::Learned | Position::None => None,
        };
        Ok(Gpt { config, layout, inits, wte, wpe, blocks, norm_f, head, rope, lora })
    }

    /// The shape.
    pub fn config(&self) -> &ModelConfig {
        &self.config
    }

    /// The adapters, if there are any.
    pub fn lora(&self) -> Option<&Lora> {
        self.lora.as_ref()
    }

    /// Names, shapes and places of the parameters.
    pub fn layout(&self) -> &Layout {
        &self.layout
    }

    /// Parameters that are not token or position embeddings (an untied output layer counts).
    pub fn parameters_non_embedding(&self) -> usize {
        let embedding = |id: ParamId| self.layout.info(id).len();
        self.layout.parameters() - embedding(self.wte) - self.wpe.map_or(0, embedding)
    }

    /// Initial values: a function of the seed and the parameters' names.
    ///
    /// # Errors
    /// If memory cannot be had.
    pub fn initialise(&self, seed: u64) -> Result<Params> {
        init::initialise(&self.layout, &self.inits, seed)
    }

    /// Parameters with values by name.
    ///
    /// # Errors
    /// If a name or a shape is not what this model has, or one is missing.
    pub fn with_values<'v>(&self, values: impl Iterator<Item = (&'v str, &'v [f32])>) -> Result<Params> {
        let (params, missing) = self.set(values)?;
        match missing.first() {
            Some(id) => Err(self.no_value(*id)),
            None => Ok(params),
        }
    }

    /// Parameters of a model with adapters: the values of all others by name, and adapters as they start.
    ///
    /// # Errors
    /// As [`Gpt::with_values`].
    pub fn with_base<'v>(&self, values: impl Iterator<Item = (&'v str, &'v [f32])>, seed: u64) -> Result<Params> {
        let (mut params, missing) = self.set(values)?;
        for id in missing {
            if self.lora.is_none() || !self.layout.is_trained(id) {
                return Err(self.no_value(id));
            }
            params.set(id, &init::initial(self.layout.info(id), &self.inits[id.0], seed))?;
        }
        Ok(params)
    }

    /// Sets values by name; gives the parameters that none was given for.
    fn set<'v>(&self, values: impl Iterator<Item = (&'v str, &'v [f32])>) -> Result<(Params, Vec<ParamId>)> {
        let mut params = Params::zeros(self.layout.clone(), Device::Cpu)?;
        let mut missing: Vec<bool> = vec![true; self.layout.infos().len()];
        for (name, values) in values {
            let id = self
                .layout
                .find(name)
                .ok_or_else(|| Error::Training(format!("the model has no parameter named {name}")))?;
            params.set(id, values)?;
            missing[id.0] = false;
        }
        Ok((params, (0..missing.len()).filter(|&index| missing[index]).map(ParamId).collect()))
    }

    fn no_value(&self, id: ParamId) -> Error {
        Error::Training(format!("no value for parameter {}", self.layout.info(id).name))
    }

    /// The last hidden states [B, T, C] of whole sequences; `tokens` is u32 [B, T] with T up to `context_length`.
    ///
    /// # Errors
    /// If a token is outside the vocabulary, a sequence too long, or memory or the device fails.
    pub fn hidden<'a>(&'a self, tape: &mut Tape<'a>, tokens: &Tensor, pass: &Pass) -> Result<Var> {
        if tokens.last() > self.config.context_length {
            return Err(Error::Training(format!(
                "a sequence of {} tokens is longer than the model's context of {}",
                tokens.last(),
                self.config.context_length
            )));
        }
        let mut x = ops::embedding::embedding(tape, tokens, self.wte, self.wpe, 0, pass.documents.as_ref())?;
        if let Some(dropout) = &pass.dropout {
            x = dropout.apply(tape, x, 0, Site::Embedding)?;
        }
        let mut stream = Stream::new(x);
        for block in &self.blocks {
            let rope = self.rope.as_ref();
            stream = if pass.recompute && tape.is_recording() {
                // What is stored between two blocks is one value.
                let (x, pass) = (stream.summed(tape)?, pass.clone());
                Stream::new(
                    tape.recompute(x, move |tape, x| block.forward(tape, Stream::new(x), rope, &pass)?.summed(tape))?,
                )
            } else {
                block.forward(tape, stream, rope, pass)?
            };
        }
        match &self.norm_f {
            Some(norm) => Ok(stream.normed(tape, norm)?.1),
            None => stream.summed(tape),
        }
    }

    /// The cross-entropy of `targets` (B*T ids, `classifier::IGNORE` for none) after `tokens`; on a training tape with
    /// the gradient of `scale` times the sum.
    ///
    /// # Errors
    /// Those of [`Gpt::hidden`] and of the classifier.
    pub fn loss<'a>(
        &'a self,
        tape: &mut Tape<'a>,
        tokens: &Tensor,
        targets: &[u32],
        scale: f32,
        pass: &Pass,
    ) -> Result<Loss> {
        self.loss_weighted(tape, tokens, targets, &[], scale, pass)
    }

    /// [`Gpt::loss`] with a weight for each target (or none: then all are 1).
    ///
    /// # Errors
    /// As [`Gpt::loss`].
    pub fn loss_weighted<'a>(
        &'a self,
        tape: &mut Tape<'a>,
        tokens: &Tensor,
        targets: &[u32],
        weights: &[f32],
        scale: f32,
        pass: &Pass,
    ) -> Result<Loss> {
        let x = self.hidden(tape, tokens, pass)?;
        let scale = Scale { by: scale, loss_scale: pass.loss_scale.as_ref() };
        ops::classifier::classifier_weighted(tape, &x, self.head, targets, weights, scale)
    }

    /// Logits [B, T, V] of whole sequences, without a cache.
    ///
    /// # Errors
    /// Those of [`Gpt::hidden`].
    pub fn logits(&self, params: &Params, tokens: &Tensor) -> Result<Tensor> {
        let mut tape = Tape::inference(params);
        let x = self.hidden(&mut tape, tokens, &Pass::default())?;
        ops::linear::forward(x.value(), &params.weight(self.head), None)
    }

    /// Logits after some of the tokens [B, T] only, given to `take` in the order of `rows` (flat indices below B * T), a few
    /// rows of V at a time. The output layer's product always has the same shape and is made in fp32, so that a row's
    /// logits depend on its hidden state alone.
    ///
    /// # Errors
    /// Those of [`Gpt::hidden`].
    pub fn logits_at(
        &self,
        params: &Params,
        tokens: &Tensor,
        rows: &[usize],
        take: &mut dyn FnMut(&[f32]),
    ) -> Result<()> {
        const BLOCK: usize = 64;
        let mut tape = Tape::inference(params);
        let x = self.hidden(&mut tape, tokens, &Pass::default())?;
        let (x, c, v) = (x.value(), self.config.n_embd, self.config.vocab_size);
        let head = params.weight(self.head).to_dtype(DType::F32)?;
        for rows in rows.chunks(BLOCK) {
            let mut block = Tensor::zeros(x.device(), x.dtype(), &[BLOCK, c])?;
            for (place, &row) in rows.iter().enumerate() {
                block.copy_part(place * c, &x.view(row * c, &[c]))?;
            }
            let logits = ops::linear::forward(&block.to_dtype(DType::F32)?, &head, None)?.to_device(Device::Cpu)?;
            take(&logits.f32()[..rows.len() * v]);
        }
        Ok(())
    }

    /// Logits [B, V] after the last of `tokens` (u32 [B, Tq]), which follow what is in the cache and are added to it.
    ///
    /// # Errors
    /// If they do not fit the cache or the context, or a token is outside the vocabulary.
    pub fn decode(&self, params: &Params, tokens: &Tensor, cache: &mut Cache) -> Result<Tensor> {
        let new = tokens.shape()[1];
        cache.check_room(new)?;
        let logits = self.decode_at(params, tokens, cache, (0, cache.len()))?;
        cache.advance(new);
        Ok(logits)
    }

    /// [`Gpt::decode`] for the sequences `first..first + B` of a cache whose user counts their tokens: `past` of each before.
    ///
    /// # Errors
    /// If they do not fit the cache or the context, or a token is outside the vocabulary.
    pub fn decode_at(
        &self,
        params: &Params,
        tokens: &Tensor,
        cache: &mut Cache,
        (first, past): (usize, usize),
    ) -> Result<Tensor> {
        let (batch, new) = (tokens.shape()[0], tokens.shape()[1]);
        let mut tape = Tape::inference(params);
        let x = ops::embedding::embedding(&mut tape, tokens, self.wte, self.wpe, past, None)?;
        let mut stream = Stream::new(x);
        for block in &self.blocks {
            let layer = &mut cache.layers[block.index];
            stream = block.combine(&mut tape, stream, &Pass::default(), |tape, x| {
                block.attention.forward_cached(tape, x, self.rope.as_ref(), layer, (first, past))
            })?;
        }
        let x = stream.summed(&mut tape)?;
        // Only the last position's logits are wanted, and norms act row by row: take those rows out first.
        let c = self.config.n_embd;
        let mut last = Tensor::empty(x.value().device(), x.value().dtype(), &[batch, c])?;
        for sequence in 0..batch {
            let row = x.value().view(((sequence + 1) * new - 1) * c, &[c]);
            last.copy_part(sequence * c, &row)?;
        }
        let mut last = Var::constant(last);
        if let Some(norm) = &self.norm_f {
            last = norm.forward(&mut tape, &last)?;
        }
        ops::linear::forward_f32(last.value(), &params.weight(self.head))
    }

    /// Logits f32 [S, V] after one new token of each sequence of a cache, on a GPU: `tokens` u32 [S, 1], which follow the
    /// `pasts` u32 [S] tokens that the sequences have ([`ops::launch::ABSENT`] for one that has no new token: its logits mean
    /// nothing). Both are on the device, and the caller has checked them; no sequence has more than `longest` tokens then.
    ///
    /// # Errors
    /// If memory or the device fails.
    pub fn decode_each(
        &self,
        params: &Params,
        tokens: &Tensor,
        cache: &mut Cache,
        pasts: &Tensor,
        longest: usize,
    ) -> Result<Tensor> {
        let mut tape = Tape::inference(params);
        let x = ops::embedding::embed_each(params, tokens, self.wte, self.wpe, pasts)?;
        let mut stream = Stream::new(Var::constant(x));
        for block in &self.blocks {
            let layer = &mut cache.layers[block.index];
            stream = block.combine(&mut tape, stream, &Pass::default(), |tape, x| {
                block.attention.forward_each(tape, x, self.rope.as_ref(), layer, pasts, longest)
            })?;
        }
        let x = match &self.norm_f {
            Some(norm) => stream.normed(&mut tape, norm)?.1,
            None => stream.summed(&mut tape)?,
        };
        ops::linear::forward_f32(x.value(), &params.weight(self.head))
    }
}

/// The residual stream between two layers: a value, and what a layer wrote but has not been added yet, so that the next norm
/// can make the sum in its own pass.
struct Stream {
    x: Var,
    delta: Option<Var>,
}

impl Stream {
    fn new(x: Var) -> Stream {
        Stream { x, delta: None }
    }

    /// Its value.
    fn summed(self, tape: &mut Tape<'_>) -> Result<Var> {
        match self.delta {
            Some(delta) => ops::residual::residual(tape, &self.x, delta),
            None => Ok(self.x),
        }
    }

    /// Its value, and the norm of that.
    fn normed(self, tape: &mut Tape<'_>, norm: &NormLayer) -> Result<(Var, Var)> {
        match self.delta {
            Some(delta) => norm.forward_sum(tape, &self.x, delta).map(|[x, normed]| (x, normed)),
            None => norm.forward(tape, &self.x).map(|normed| (self.x, normed)),
        }
    }
}

impl Block {
    /// Adds the adapters of this block.
    fn adapt(&mut self, builder: &mut Builder, config: &ModelConfig, lora: &Lora) {
        for (site, module) in lora.family.modules().iter().enumerate() {
            if !lora.targets.iter().any(|target| target == module.name) {
                continue;
            }
            let path = lora.family.path(self.index, module);
            let (first, rows, inputs) = lora.family.extent(config, module);
            let bound = 1.0 / (inputs as f64).sqrt();
            let adapter = Adapter {
                down: builder.uniform(&format!("{path}.lora_A.weight"), &[lora.rank, inputs], bound),
                up: builder.zeros(&format!("{path}.lora_B.weight"), &[rows, lora.rank]),
                first,
                scale: lora.scale() as f32,
                site: site as u32,
            };
            let layer = match module.place {
                Place::Qkv => &mut self.attention.qkv,
                Place::Proj => &mut self.attention.proj,
                Place::Up => &mut self.mlp.up,
                Place::Down => &mut self.mlp.down,
            };
            layer.adapters.push(adapter);
        }
    }

    fn forward(&self, tape: &mut Tape<'_>, stream: Stream, rope: Option<&RopeTable>, pass: &Pass) -> Result<Stream> {
        self.combine(tape, stream, pass, |tape, x| self.attention.forward(tape, x, rope, self.index, pass))
    }

    /// The block's structure, whatever kind of attention runs inside.
    fn combine<'t>(
        &self,
        tape: &mut Tape<'t>,
        stream: Stream,
        pass: &Pass,
        attend: impl FnOnce(&mut Tape<'t>, &Var) -> Result<Var>,
    ) -> Result<Stream> {
        let drop_out = |tape: &mut Tape<'t>, x: Var, site| match &pass.dropout {
            Some(dropout) => dropout.apply(tape, x, self.index, site),
            None => Ok(x),
        };
        match self.norm_position {
            NormPosition::Pre => {
                let (x, normed) = stream.normed(tape, &self.norm_1)?;
                let attended = attend(tape, &normed)?;
                drop(normed);
                let attended = drop_out(tape, attended, Site::AttentionOut)?;
                let (x, normed) = Stream { x, delta: Some(attended) }.normed(tape, &self.norm_2)?;
                let out = self.mlp.forward(tape, &normed, self.index, pass)?;
                drop(normed);
                let delta = Some(drop_out(tape, out, Site::MlpOut)?);
                Ok(Stream { x, delta })
            }
            NormPosition::Post => {
                let x = stream.summed(tape)?;
                let attended = attend(tape, &x)?;
                let delta = Some(drop_out(tape, attended, Site::AttentionOut)?);
                let (_, x) = Stream { x, delta }.normed(tape, &self.norm_1)?;
                let out = self.mlp.forward(tape, &x, self.index, pass)?;
                let delta = Some(drop_out(tape, out, Site::MlpOut)?);
                Stream { x, delta }.normed(tape, &self.norm_2).map(|(_, normed)| Stream::new(normed))
            }
        }
    }
}
