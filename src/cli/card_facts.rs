//! The facts of a run for the model card of its checkpoints.

use super::train::{Ready, device_words};
use crate::card::{CardEvaluation, CardFacts, CardSample, Loading, render};
use crate::checkpoint::Layout;
use crate::checkpoint::state::TrainingState;
use crate::events::Sample;

/// README.md of a checkpoint.
pub(super) fn readme(ready: &Ready, state: &TrainingState, val_loss: Option<f64>, samples: &[Sample]) -> String {
    let (config, model) = (&ready.config, ready.model.config());
    let loading = match Layout::of(model) {
        Layout::Gpt2 => Loading::Transformers { class: "GPT2LMHeadModel".into() },
        Layout::Llama => Loading::Transformers { class: "LlamaForCausalLM".into() },
        Layout::Own { reasons } => Loading::TaperOnly { because: reasons },
    };
    let row = |name: &str, value: String| (name.to_string(), value);
    let architecture = vec![
        row("layers", model.n_layer.to_string()),
        row("heads", model.n_head.to_string()),
        row("key-value heads", model.n_kv_head.to_string()),
        row("head size", model.head_dim.to_string()),
        row("width", model.n_embd.to_string()),
        row("feed-forward width", model.mlp_dim.to_string()),
        row("context length", model.context_length.to_string()),
        row("vocabulary", model.vocab_size.to_string()),
        row("normalisation", format!("{} ({})", word(&model.norm), word(&model.norm_position))),
        row("positions", word(&model.position)),
        row("feed-forward", word(&model.mlp)),
        row("tied embeddings", model.tie_embeddings.to_string()),
        row("dropout", model.dropout.to_string()),
    ];
    let hyperparameters = vec![
        row("optimizer", format!("AdamW, betas {} and {}", config.optimizer.beta1, config.optimizer.beta2)),
        row("learning rate", config.optimizer.lr.to_string()),
        row("schedule", format!("{}, {} warmup steps", word(&config.schedule.kind), config.schedule.warmup_steps)),
        row("weight decay", config.optimizer.weight_decay.to_string()),
        row("global batch", format!("{} sequences", config.train.global_batch())),
        row("steps", state.step.to_string()),
    ];
    let mut settings = format!("temperature {}", config.sample.temperature);
    settings.extend(config.sample.top_k.map(|k| format!(", top-k {k}")));
    settings.extend(config.sample.top_p.map(|p| format!(", top-p {p}")));
    let of = |sample: &Sample| CardSample {
        prompt: sample.prompt.clone(),
        text: sample.text.clone(),
        settings: Some(settings.clone()),
    };
    let val = ready.streams.val.as_ref();
    let predictions = val.map(|val| val.len().min(config.eval.max_tokens.unwrap_or(u64::MAX)) - 1);
    render(&CardFacts {
        name: config.run.name.clone().unwrap_or_else(|| "model".into()),
        license: None,
        languages: Vec::new(),
        datasets: Vec::new(),
        base_model: None,
        tags: Vec::new(),
        loading,
        has_tokenizer: true,
        repository: None,
        parameters: ready.model.layout().parameters() as u64,
        parameters_non_embedding: Some(ready.model.parameters_non_embedding() as u64),
        architecture,
        tokenizer: Some(format!("{}, {} tokens", ready.tokenizer.kind(), ready.tokenizer.vocab_size())),
        data: ready.streams.description.clone(),
        step: state.step,
        tokens: state.tokens,
        data_tokens: Some(ready.streams.train.len()),
        flops: Some(state.tokens as f64 * model.flops_per_token() as f64),
        hyperparameters,
        hardware: Some(device_words(ready.device)),
        precision: Some(ready.precision().name().into()),
        evaluation: val_loss.map(|loss| CardEvaluation {
            data: "the validation split of the training data".into(),
            dataset: None,
            loss,
            standard_error: None,
            predictions,
            bits_per_byte: None,
        }),
        samples: samples.iter().map(of).collect(),
        seeds: ["seed_init", "seed_data", "seed_dropout"].map(String::from).into_iter().zip(state.seeds).collect(),
        command: Some("taper train config.toml".into()),
        config_toml: Some(config.to_toml()),
        taper_version: env!("CARGO_PKG_VERSION").into(),
        ..CardFacts::default()
    })
}

/// The word that a config file uses for a choice.
fn word(value: &impl serde::Serialize) -> String {
    serde_json::to_value(value).ok().and_then(|value| value.as_str().map(String::from)).unwrap_or_default()
}
