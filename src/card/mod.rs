//! The model card: the README.md of a checkpoint folder, as the Hugging Face Hub shows it.
//!
//! One pure function, [`render`], from facts that the caller hands over to text. It knows no files, no clock and no
//! config: what is not handed over is left out, never guessed, and there is nothing in a card to fill in by hand. The
//! same facts give the same bytes.
//!
//! Unusual: the text of samples, prompts and configs is whatever a model or a user wrote. It goes into code fences longer
//! than any run of backticks in it, and into the YAML front matter only between double quotes, with everything escaped
//! that YAML would not take as it is.

mod escape;

use escape::{code_span, fence, inline, python_string, yaml_string};
use std::fmt::Write;

/// Whether, and as what, `transformers` loads the folder.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Loading {
    /// It loads as it is.
    Transformers {
        /// The class: "GPT2LMHeadModel", "LlamaForCausalLM".
        class: String,
    },
    /// No class of `transformers` expresses the shape; `taper` loads it.
    TaperOnly {
        /// The options that cause it, as in the config: `mlp = "relu2"`.
        because: Vec<String>,
    },
}

/// A text that the model wrote.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct CardSample {
    /// What it was given.
    pub prompt: String,
    /// What it wrote after that.
    pub text: String,
    /// How: "temperature 0.8, top-k 50, seed 1".
    pub settings: Option<String>,
}

/// The validation of the model that the folder holds.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct CardEvaluation {
    /// What was measured on: "the last 5% of the training text".
    pub data: String,
    /// Mean loss in nats per token. Perplexity is derived from it.
    pub loss: f64,
    /// Number of predicted tokens that it is the mean of.
    pub predictions: Option<u64>,
    /// Bits per byte of text, where the bytes are known.
    pub bits_per_byte: Option<f64>,
}

/// Everything a card tells. Empty lists, empty strings and `None` are left out, with the sentence around them.
#[derive(Clone, Debug, PartialEq)]
pub struct CardFacts {
    /// The headline: the name of the run or of the repository.
    pub name: String,
    /// The licence of the weights, as the Hub spells it ("mit", "apache-2.0"); only the user can know it.
    pub license: Option<String>,
    /// Languages of the data as ISO codes ("en").
    pub languages: Vec<String>,
    /// Data sets by their id on the Hub ("HuggingFaceFW/fineweb").
    pub datasets: Vec<String>,
    /// The model on the Hub that training started from.
    pub base_model: Option<String>,
    /// Further tags, besides "taper".
    pub tags: Vec<String>,
    /// Whether, and as what, `transformers` loads the folder.
    pub loading: Loading,
    /// Whether tokenizer files lie in the folder.
    pub has_tokenizer: bool,
    /// OWNER/NAME on the Hub, where it is known; loading snippets then name it, else the folder itself.
    pub repository: Option<String>,
    /// Number of parameters (tied ones counted once).
    pub parameters: u64,
    /// The same without token and position embeddings.
    pub parameters_non_embedding: Option<u64>,
    /// Rows of the architecture table, name and value: ("layers", "12").
    pub architecture: Vec<(String, String)>,
    /// The tokenizer in words: "GPT-2 byte-level BPE, 50257 tokens".
    pub tokenizer: Option<String>,
    /// What it was trained on, one entry for each source.
    pub data: Vec<String>,
    /// The optimizer step of the checkpoint.
    pub step: u64,
    /// Tokens consumed in training until then, repeated ones counted each time.
    pub tokens: u64,
    /// Tokens in the training data, where known; with `tokens` it gives the number of epochs.
    pub data_tokens: Option<u64>,
    /// Floating-point operations of the whole training.
    pub flops: Option<f64>,
    /// Rows of the hyperparameter table, name and value: ("learning rate", "6e-4").
    pub hyperparameters: Vec<(String, String)>,
    /// What it was trained on and with, in words: "CPU, 16 threads", "1 x NVIDIA H200".
    pub hardware: Option<String>,
    /// The arithmetic: "fp32", "bf16".
    pub precision: Option<String>,
    /// How good it is.
    pub evaluation: Option<CardEvaluation>,
    /// What it writes.
    pub samples: Vec<CardSample>,
    /// The seeds by name: ("seed_init", 1).
    pub seeds: Vec<(String, u64)>,
    /// The command that makes this model again: "taper train config.toml".
    pub command: Option<String>,
    /// The resolved config.
    pub config_toml: Option<String>,
    /// Version of `taper`, with the commit where known.
    pub taper_version: String,
}

/// The card as Markdown with YAML front matter.
pub fn render(facts: &CardFacts) -> String {
    let mut card = front_matter(facts);
    let _ = write!(card, "# {}\n\n", inline(&facts.name)); // writing to a String cannot fail
    introduction(&mut card, facts);
    loading(&mut card, facts);
    let mut rows = vec![("parameters".to_owned(), facts.parameters.to_string())];
    rows.extend(facts.parameters_non_embedding.map(|n| ("without embeddings".to_owned(), n.to_string())));
    rows.extend(facts.architecture.iter().cloned());
    rows.extend(facts.tokenizer.iter().map(|tokenizer| ("tokenizer".to_owned(), tokenizer.clone())));
    table(&mut card, "Architecture", &rows);
    training(&mut card, facts);
    evaluation(&mut card, facts);
    samples(&mut card, facts);
    limitations(&mut card, facts);
    reproduction(&mut card, facts);
    card
}

fn front_matter(facts: &CardFacts) -> String {
    let mut yaml = String::from("---\n");
    let mut scalar = |key: &str, value: &str| yaml += &format!("{key}: {}\n", yaml_string(value));
    if let Some(license) = &facts.license {
        scalar("license", license);
    }
    if let Loading::Transformers { .. } = facts.loading {
        scalar("library_name", "transformers");
    }
    scalar("pipeline_tag", "text-generation");
    if let Some(base) = &facts.base_model {
        scalar("base_model", base);
    }
    let mut list = |key: &str, values: &mut dyn Iterator<Item = &str>| {
        let mut lines: Vec<String> = values.map(|value| format!("- {}\n", yaml_string(value))).collect();
        let mut seen = Vec::new();
        lines.retain(|line| {
            !seen.contains(line) && {
                seen.push(line.clone());
                true
            }
        });
        if !lines.is_empty() {
            yaml += &format!("{key}:\n{}", lines.concat());
        }
    };
    list("language", &mut facts.languages.iter().map(String::as_str));
    list("datasets", &mut facts.datasets.iter().map(String::as_str));
    list("tags", &mut std::iter::once("taper").chain(facts.tags.iter().map(String::as_str)));
    yaml + "---\n\n"
}

fn introduction(card: &mut String, facts: &CardFacts) {
    let kind = match &facts.loading {
        Loading::Transformers { class } => format!("It loads in `transformers` as `{class}`."),
        Loading::TaperOnly { because } if because.is_empty() => "It does not load in `transformers`.".into(),
        Loading::TaperOnly { because } => {
            let options: Vec<String> = because.iter().map(|option| code_span(option)).collect();
            format!("It does not load in `transformers`, which has no model of this shape ({}).", options.join(", "))
        }
    };
    let origin = match &facts.base_model {
        Some(base) => format!("trained further from {}", inline(base)),
        None => "trained from scratch".into(),
    };
    let _ = write!(
        card,
        "A decoder-only transformer language model with {} parameters, {origin} with taper {} on {} tokens. {kind}\n\n",
        count(facts.parameters),
        inline(&facts.taper_version),
        count(facts.tokens)
    );
}

fn loading(card: &mut String, facts: &CardFacts) {
    card.push_str("## How to load it\n\n");
    let place = facts.repository.as_deref().unwrap_or(".");
    let comment = if facts.repository.is_none() { "  # this folder" } else { "" };
    let prompt = facts.samples.iter().map(|s| s.prompt.as_str()).find(|p| !p.trim().is_empty()).unwrap_or("\n");
    match &facts.loading {
        Loading::Transformers { .. } if facts.has_tokenizer => {
            let code = format!(
                "from transformers import AutoModelForCausalLM, AutoTokenizer\n\n\
                 folder = {}{comment}\n\
                 tokenizer = AutoTokenizer.from_pretrained(folder)\n\
                 model = AutoModelForCausalLM.from_pretrained(folder)\n\
                 inputs = tokenizer({}, return_tensors=\"pt\")\n\
                 output = model.generate(**inputs, max_new_tokens=50, do_sample=True, temperature=0.8)\n\
                 print(tokenizer.decode(output[0]))\n",
                python_string(place),
                python_string(prompt)
            );
            fence(card, "python", &code);
        }
        Loading::Transformers { .. } => {
            card.push_str("There is no tokenizer in the folder; the model takes and gives token ids.\n\n");
            let code = format!(
                "import torch\nfrom transformers import AutoModelForCausalLM\n\n\
                 model = AutoModelForCausalLM.from_pretrained({}){comment}\n\
                 output = model.generate(torch.tensor([[0]]), max_new_tokens=50, do_sample=True, temperature=0.8)\n\
                 print(output[0].tolist())\n",
                python_string(place)
            );
            fence(card, "python", &code);
        }
        Loading::TaperOnly { .. } => {
            card.push_str("This shape does not load in `transformers`. `taper` samples from it:\n\n");
        }
    }
    if let Loading::TaperOnly { .. } = facts.loading {
        fence(card, "sh", &format!("taper sample {place} --max-new-tokens 50 --temperature 0.8\n"));
    } else {
        card.push_str("Or, with `taper`:\n\n");
        fence(card, "sh", &format!("taper sample {place} --max-new-tokens 50\n"));
    }
}

fn training(card: &mut String, facts: &CardFacts) {
    card.push_str("## Training\n\n");
    if !facts.data.is_empty() {
        card.push_str("Data:\n\n");
        for source in &facts.data {
            let _ = writeln!(card, "- {}", inline(source));
        }
        card.push('\n');
    }
    let mut rows = vec![
        ("optimizer steps".to_owned(), facts.step.to_string()),
        ("training tokens".to_owned(), facts.tokens.to_string()),
    ];
    let mut row = |name: &str, value: Option<String>| rows.extend(value.map(|value| (name.to_owned(), value)));
    row("tokens in the data", facts.data_tokens.map(|n| n.to_string()));
    let epochs = facts.data_tokens.filter(|&n| n > 0).map(|n| facts.tokens as f64 / n as f64);
    row("epochs", epochs.map(|epochs| format!("{epochs:.2}")));
    row("training FLOPs", facts.flops.map(|flops| format!("{flops:.3e}")));
    row("hardware", facts.hardware.clone());
    row("precision", facts.precision.clone());
    rows.extend(facts.hyperparameters.iter().cloned());
    rows_of(card, &rows);
}

fn evaluation(card: &mut String, facts: &CardFacts) {
    let Some(evaluation) = &facts.evaluation else { return };
    let mut rows = vec![("data".to_owned(), evaluation.data.clone())];
    rows.retain(|(_, value)| !value.is_empty());
    rows.push(("validation loss (nats per token)".into(), format!("{:.4}", evaluation.loss)));
    rows.push(("perplexity".into(), format!("{:.2}", evaluation.loss.exp())));
    rows.extend(evaluation.bits_per_byte.map(|bits| ("bits per byte".to_owned(), format!("{bits:.4}"))));
    rows.extend(evaluation.predictions.map(|n| ("predicted tokens".to_owned(), n.to_string())));
    table(card, "Evaluation", &rows);
}

fn samples(card: &mut String, facts: &CardFacts) {
    if facts.samples.is_empty() {
        return;
    }
    card.push_str("## Samples\n\nWhat the model wrote, the prompt included.\n\n");
    for sample in &facts.samples {
        let how = sample.settings.as_ref().map_or(String::new(), |settings| format!(" ({})", inline(settings)));
        let prompt = if sample.prompt.is_empty() {
            "no prompt".into()
        } else {
            format!("prompt {}", code_span(&beginning(&sample.prompt)))
        };
        let _ = write!(card, "With {prompt}{how}:\n\n");
        fence(card, "text", &format!("{}{}", sample.prompt, sample.text));
    }
}

fn limitations(card: &mut String, facts: &CardFacts) {
    let _ = write!(
        card,
        "## Limitations\n\nThis is a pretrained model of {} parameters: it continues text. It was not trained to follow \
         instructions or to be safe, it repeats what is in its data, biases included, and what it writes may be false.\n\n",
        count(facts.parameters)
    );
}

fn reproduction(card: &mut String, facts: &CardFacts) {
    card.push_str("## How to make it again\n\n");
    if let Some(command) = &facts.command {
        fence(card, "sh", &format!("{command}\n"));
    }
    let seeds: Vec<String> = facts.seeds.iter().map(|(name, seed)| format!("{} = {seed}", code_span(name))).collect();
    let seeds = if seeds.is_empty() { String::new() } else { format!(" Seeds: {}.", seeds.join(", ")) };
    let _ = write!(card, "Made with taper {}.{seeds}\n\n", inline(&facts.taper_version));
    if let Some(config) = &facts.config_toml {
        card.push_str("The resolved config:\n\n");
        fence(card, "toml", config);
    }
}

fn table(card: &mut String, heading: &str, rows: &[(String, String)]) {
    let _ = write!(card, "## {heading}\n\n");
    rows_of(card, rows);
}

fn rows_of(card: &mut String, rows: &[(String, String)]) {
    card.push_str("| | |\n|---|---|\n");
    for (name, value) in rows.iter().filter(|(_, value)| !value.is_empty()) {
        let _ = writeln!(card, "| {} | {} |", inline(name), inline(value));
    }
    card.push('\n');
}

/// The first part of a prompt, to name a sample by; the sample itself shows all of it.
fn beginning(prompt: &str) -> String {
    const SHOWN: usize = 60;
    let mut part: String = prompt.chars().take(SHOWN).collect();
    if prompt.chars().nth(SHOWN).is_some() {
        part.push('…');
    }
    part
}

/// A number for a sentence: `12`, `3.5 million`, `1.21 billion`.
fn count(n: u64) -> String {
    match n {
        0..10_000 => n.to_string(),
        10_000..1_000_000 => format!("{:.1} thousand", n as f64 / 1e3),
        1_000_000..1_000_000_000 => format!("{:.2} million", n as f64 / 1e6),
        1_000_000_000..1_000_000_000_000 => format!("{:.2} billion", n as f64 / 1e9),
        _ => format!("{:.2} trillion", n as f64 / 1e12),
    }
}
