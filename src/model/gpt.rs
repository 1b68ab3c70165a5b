//! The GPT: embeddings, blocks, output layer, run on a tape.

use crate::arch::config::{ModelConfig, NormPosition, Position};
use crate::arch::layout::{ParamSpec, arena, parameter_specs};
use crate::arch::lora::{Lora, Place};
use crate::device::Device;
use crate::error::{Error, Result};
pub use crate::nn::Pass;
use crate::nn::{Adapter, Attention, Cache, Keys, MlpLayer, NormLayer, Site, init, named};
use crate::ops;
pub use crate::ops::classifier::Loss;
use crate::ops::classifier::Scale;
use crate::ops::rope::RopeTable;
use crate::tape::{Layout, ParamId, Params, Tape, Var};
use crate::tensor::{DType, Tensor};

/// A model: its shape and the places of its parameters. The values live in [`Params`].
///
/// ```
/// use taper::arch::ModelConfig;
/// use taper::model::Gpt;
/// use taper::tensor::Tensor;
///
/// let (layers, heads, width, context, vocabulary) = (2, 2, 32, 16, 100);
/// let model = Gpt::new(ModelConfig::gpt2(layers, heads, width, context, vocabulary))?;
/// let params = model.initialise(7)?;
/// assert_eq!(params.flat().len(), model.layout().parameters());
///
/// let tokens = Tensor::from_u32(&[5, 1, 99], &[1, 3])?;
/// let logits = model.logits(&params, &tokens)?;
/// assert_eq!(logits.shape(), [1, 3, vocabulary]);
/// # Ok::<(), taper::Error>(())
/// ```
#[derive(Debug)]
pub struct Gpt {
    config: ModelConfig,
    layout: Layout,
    specs: Vec<ParamSpec>,
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
        let rows = config.vocab_size;
        Gpt::with_rows(config, lora, rows)
    }

    /// As [`Gpt::with_adapters`], with room for `rows` rows in the token embedding and the output layer (engine rows), so
    /// that the products of the loss are of an aligned size. Rows beyond the vocabulary are zero and stay so, the
    /// probability of their tokens is zero, and names, shapes, counts and files know nothing of them.
    ///
    /// # Errors
    /// As [`Gpt::new`], and if `rows` are fewer than the vocabulary.
    pub fn with_rows(config: ModelConfig, lora: Option<Lora>, rows: usize) -> Result<Gpt> {
        config.validate()?;
        if rows < config.vocab_size {
            return Err(Error::usage(format!("{rows} rows cannot hold a vocabulary of {}", config.vocab_size)));
        }
        let specs = parameter_specs(&config, lora.as_ref());
        let layout = arena(&specs, rows);
        let wte = named(&layout, "wte.weight");
        let wpe = layout.find("wpe.weight");
        let mut blocks: Vec<Block> = (0..config.n_layer)
            .map(|index| Block {
                index,
                norm_1: NormLayer::new(&layout, &format!("h.{index}.norm_1"), &config),
                attention: Attention::new(&layout, &format!("h.{index}.attn"), &config),
                norm_2: NormLayer::new(&layout, &format!("h.{index}.norm_2"), &config),
                mlp: MlpLayer::new(&layout, &format!("h.{index}.mlp"), &config),
                norm_position: config.norm_position,
            })
            .collect();
        let norm_f = (config.norm_position == NormPosition::Pre).then(|| NormLayer::new(&layout, "norm_f", &config));
        let head = layout.find("lm_head.weight").unwrap_or(wte);
        if let Some(lora) = &lora {
            blocks.iter_mut().for_each(|block| block.adapt(&layout, &config, lora));
        }
        let rope = match config.position {
            Position::Rope => Some(RopeTable::new(config.context_length, config.head_dim, config.rope_theta)?),
            Position::Learned | Position::None => None,
        };
        Ok(Gpt { config, layout, specs, wte, wpe, blocks, norm_f, head, rope, lora })
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
        init::initialise(&self.layout, &self.specs, seed)
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
            params.set(id, &init::initial(self.layout.info(id), &self.specs[id.0].init, seed))?;
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
        let stream = self.run(tape, tokens, pass, &mut Keys::Sequence)?;
        self.last_hidden(tape, stream)
    }

    /// The residual stream behind the blocks; `tokens` is u32 [B, T].
    fn run<'a>(&'a self, tape: &mut Tape<'a>, tokens: &Tensor, pass: &Pass, keys: &mut Keys<'_>) -> Result<Stream> {
        let (wte, wpe) = (self.wte, self.wpe);
        let mut x = match keys {
            Keys::Sequence => ops::embedding::embedding(tape, tokens, wte, wpe, 0, pass.documents.as_ref())?,
            Keys::Cache { past, .. } => ops::embedding::embedding(tape, tokens, wte, wpe, *past, None)?,
            Keys::Each { pasts, .. } => {
                Var::constant(ops::embedding::embed_each(tape.params(), tokens, wte, wpe, pasts)?)
            }
        };
        if let Some(dropout) = &pass.dropout {
            x = dropout.apply(tape, x, 0, Site::Embedding)?;
        }
        let mut stream = Stream::new(x);
        for block in &self.blocks {
            let rope = self.rope.as_ref();
            stream = if pass.recompute && tape.is_recording() {
                // What is stored between two blocks is one value. A tape that records is one of whole sequences.
                let (x, pass) = (stream.summed(tape)?, pass.clone());
                Stream::new(tape.recompute(x, move |tape, x| {
                    block.forward(tape, Stream::new(x), rope, &pass, &mut Keys::Sequence)?.summed(tape)
                })?)
            } else {
                block.forward(tape, stream, rope, pass, keys)?
            };
        }
        Ok(stream)
    }

    /// The last hidden states, of the stream behind the blocks.
    fn last_hidden(&self, tape: &mut Tape<'_>, stream: Stream) -> Result<Var> {
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

    /// [`Gpt::decode`] for the sequences `first..first + B` of a cache whose user counts their tokens: `past` of each
    /// before.
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
        let stream = self.run(&mut tape, tokens, &Pass::default(), &mut Keys::Cache { cache, first, past })?;
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
    /// `pasts` u32 `[S]` tokens that the sequences have ([`ops::launch::ABSENT`] for one that has no new token: its logits
    /// mean nothing). Both are on the device, and the caller has checked them; no sequence has more than `longest` tokens
    /// then.
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
        let stream = self.run(&mut tape, tokens, &Pass::default(), &mut Keys::Each { cache, pasts, longest })?;
        let x = self.last_hidden(&mut tape, stream)?;
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
    /// Gives the layers of this block their adapters.
    fn adapt(&mut self, layout: &Layout, config: &ModelConfig, lora: &Lora) {
        for (site, module) in lora.adapted() {
            let path = lora.names.path(self.index, module);
            let (first, _, _) = module.extent(config);
            let adapter = Adapter {
                down: named(layout, &format!("{path}.lora_A.weight")),
                up: named(layout, &format!("{path}.lora_B.weight")),
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

    fn forward(
        &self,
        tape: &mut Tape<'_>,
        stream: Stream,
        rope: Option<&RopeTable>,
        pass: &Pass,
        keys: &mut Keys<'_>,
    ) -> Result<Stream> {
        let attention = &self.attention;
        let mut attend = |tape: &mut Tape<'_>, x: &Var| attention.forward(tape, x, rope, self.index, pass, keys);
        let drop_out = |tape: &mut Tape<'_>, x: Var, site| match &pass.dropout {
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
