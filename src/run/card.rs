//! The facts of a run for the model card of its checkpoints.
//!
//! Training tells what the run itself decides, and nothing that a clock says, so that identical runs write identical
//! folders. What a push adds (time, cost, the picture) comes in later.

use serde::{Deserialize, Serialize};
use xxhash_rust::xxh3::xxh3_128;

use crate::arch::ModelConfig;
use crate::card::{CardEvaluation, CardFacts, CardPower, CardResult, CardSample, Loading, render};
use crate::checkpoint::FolderKind;
use crate::checkpoint::state::TrainingState;
use crate::config::Config;
use crate::device::Device;
use crate::error::{Error, Result};
use crate::eval::Evaluation;
use crate::eval::config::TaskKind;
use crate::events::{Sample, Task};
use crate::hub;
use crate::model::Gpt;
use crate::run::hardware::device_words;
use crate::run::prepare::Prepared;
use crate::train::Findings;
use crate::train::save::Card;

/// The content of `training/card.json`.
#[derive(Debug, Serialize, Deserialize)]
pub struct Recorded {
    /// The hash of the README.md that was made from the facts: a user's own text is told apart by it.
    pub readme_xxh3: String,
    /// The facts.
    pub facts: CardFacts,
}

/// The hash that [`Recorded`] knows a README.md by.
pub fn hash(readme: &str) -> String {
    format!("{:032x}", xxh3_128(readme.as_bytes()))
}

/// The card of a checkpoint.
///
/// # Errors
/// Never, unless a number cannot be written.
pub fn card(prepared: &Prepared, state: &TrainingState, findings: Findings<'_>) -> Result<Card> {
    let facts = facts(prepared, state, findings);
    let readme = render(&facts);
    let recorded = Recorded { readme_xxh3: hash(&readme), facts };
    let facts =
        serde_json::to_string(&recorded).map_err(|error| Error::Training(format!("the model card: {error}")))?;
    Ok(Card { readme, facts })
}

fn facts(prepared: &Prepared, state: &TrainingState, findings: Findings<'_>) -> CardFacts {
    let (config, model) = (&prepared.config, prepared.model.config());
    let evaluation = |found: &Evaluation| CardEvaluation {
        data: prepared.streams.held_out.into(),
        dataset: None,
        loss: found.loss(),
        standard_error: found.standard_error,
        predictions: Some(found.predictions),
        bits_per_byte: None,
    };
    let on_hub = |name: &&String| hub::names_hub(name);
    let id = |name: &String| name.split('@').next().unwrap_or_default().to_string();
    let data = config.data.text.iter().chain(&config.data.shards).chain(&config.data.val);
    CardFacts {
        name: config.run.name.clone().unwrap_or_else(|| "model".into()),
        license: config.push.license.clone(),
        datasets: data.filter(on_hub).map(id).collect(),
        base_model: config.model.init_from.as_ref().filter(on_hub).map(id),
        tokenizer: Some(format!("{}, {} tokens", prepared.tokenizer.kind(), prepared.tokenizer.vocab_size())),
        data: prepared.streams.description.clone(),
        step: state.step,
        tokens: state.tokens,
        data_tokens: Some(prepared.streams.train.len()),
        flops: Some(state.tokens as f64 * model.flops_per_token() as f64),
        hyperparameters: hyperparameters(config, prepared, state),
        hardware: Some(device_words(prepared.device)),
        power: power(prepared.device),
        precision: Some(prepared.precision().name().into()),
        evaluation: findings.val.filter(|found| found.loss().is_finite()).map(evaluation),
        results: findings.tasks.iter().flat_map(task_results).collect(),
        samples: findings.samples.iter().map(|sample| card_sample(config, sample)).collect(),
        seeds: ["seed_init", "seed_data", "seed_dropout"].map(String::from).into_iter().zip(state.seeds).collect(),
        command: Some("taper train config.toml".into()),
        config_toml: Some(config.to_toml()),
        taper_version: version(),
        ..of_model(&prepared.model)
    }
}

/// The rows of a benchmark. Of its file only the name is told: where it lies is the author's business.
pub fn task_results(task: &Task) -> Vec<CardResult> {
    let title = task.task.parse().map_or_else(|_| task.task.clone(), |kind: TaskKind| kind.title().into());
    let file = std::path::Path::new(&task.data).file_name().unwrap_or_default().to_string_lossy();
    let words = |name: &str| match name {
        "acc" => "accuracy".to_string(),
        "acc_norm" => "accuracy, normalised by bytes".into(),
        "acc_norm_tokens" => "accuracy, normalised by tokens".into(),
        other => other.into(),
    };
    let finite = task.metrics.iter().filter(|metric| metric.value.is_finite());
    let row = |metric: &crate::events::TaskMetric| CardResult {
        benchmark: format!("{title} ({file}, zero-shot)"),
        dataset: None,
        metric: words(&metric.name),
        value: metric.value,
        standard_error: metric.standard_error,
        count: Some(task.examples),
    };
    finite.map(row).collect()
}

/// A text that the model wrote, with how it was drawn.
pub fn card_sample(config: &Config, sample: &Sample) -> CardSample {
    let mut settings = format!("temperature {}", config.sample.temperature);
    settings.extend(config.sample.top_k.map(|k| format!(", top-k {k}")));
    settings.extend(config.sample.top_p.map(|p| format!(", top-p {p}")));
    CardSample { prompt: sample.prompt.clone(), text: sample.text.clone(), settings: Some(settings) }
}

/// What the model alone tells.
pub fn of_model(gpt: &Gpt) -> CardFacts {
    let model = gpt.config();
    let loading = match FolderKind::of(model) {
        FolderKind::Family(family) => Loading::Transformers { class: family.class.into() },
        FolderKind::Own { reasons } => Loading::TaperOnly { because: reasons },
    };
    CardFacts {
        loading,
        has_tokenizer: true,
        parameters: gpt.layout().parameters() as u64,
        parameters_non_embedding: Some(gpt.parameters_non_embedding() as u64),
        architecture: architecture(model),
        taper_version: version(),
        ..CardFacts::default()
    }
}

fn architecture(model: &ModelConfig) -> Vec<(String, String)> {
    vec![
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
    ]
}

fn hyperparameters(config: &Config, prepared: &Prepared, state: &TrainingState) -> Vec<(String, String)> {
    let (optimizer, schedule) = (&config.optimizer, &config.schedule);
    let clip = config.stability.clip_norm.value().map_or("none".into(), |norm| format!("norm {norm}"));
    let context = prepared.model.config().context_length;
    let batch = config.train.global_batch();
    let lora = prepared
        .model
        .lora()
        .map(|lora| row("LoRA", format!("rank {}, alpha {}, on {}", lora.rank, lora.alpha, lora.targets.join(", "))));
    let mut rows = vec![
        row(
            "optimizer",
            format!("AdamW, betas {} and {}, epsilon {}", optimizer.beta1, optimizer.beta2, optimizer.eps),
        ),
        row("learning rate", optimizer.lr.to_string()),
        row(
            "schedule",
            format!(
                "{}, {} warmup steps, down to {} of the rate",
                word(&schedule.kind),
                schedule.warmup_steps,
                schedule.min_lr_ratio
            ),
        ),
        row("weight decay", optimizer.weight_decay.to_string()),
        row("gradient clipping", clip),
        row("global batch", format!("{batch} sequences ({} tokens)", batch * context)),
        row("micro-batch", format!("{} sequences", state.micro_batch)),
    ];
    rows.extend(lora);
    rows
}

/// Watts that a thread of a CPU is taken to draw, its share of the package and of memory included.
const WATTS_A_THREAD: f64 = 10.0;

/// The power of the hardware where nobody has measured it.
fn power(device: Device) -> Option<CardPower> {
    let Device::Cpu = device else { return None };
    let threads = rayon::current_num_threads();
    Some(CardPower {
        watts: WATTS_A_THREAD * threads as f64,
        basis: format!("assumed, {WATTS_A_THREAD} W for each of {threads} CPU threads"),
    })
}

/// The version, with the commit where whoever built it said so.
fn version() -> String {
    let commit = option_env!("TAPER_COMMIT").map_or(String::new(), |commit| format!(" ({commit})"));
    format!("{}{commit}", env!("CARGO_PKG_VERSION"))
}

fn row(name: &str, value: String) -> (String, String) {
    (name.to_string(), value)
}

/// The word that a config file uses for a choice.
fn word(value: &impl serde::Serialize) -> String {
    serde_json::to_value(value).ok().and_then(|value| value.as_str().map(String::from)).unwrap_or_default()
}
