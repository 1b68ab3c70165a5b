//! `taper sample`: text from a model, shown as it is written.
//!
//! Standard output carries the new text alone (or the JSON object); the prompt is repeated on standard error where both
//! are a terminal, so that a person reads one text and a pipe gets only what is new.

use std::io::{IsTerminal, Read, Write};
use std::path::PathBuf;

use serde_json::json;

use super::models::{Engine, ModelArgs, Opened, reference};
use super::{print_bytes, print_json};
use crate::error::{Error, Result};
use crate::reference::{Precision, Reference};
use crate::sample::{Cached, FinishReason, Request, Sample, SamplerConfig, generate_by};

/// Arguments of `taper sample`.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  taper sample runs/quickstart --prompt \"pub fn \"
  taper sample runs/quickstart --temperature 0 --max-new-tokens 50     always the most likely token
  taper sample runs/quickstart --top-k 50 --num-samples 3 --seed 7 --json

The same seed gives the same text.
The order of the rules: repetition penalty, temperature, top-k, top-p, min-p.")]
pub struct Args {
    #[command(flatten)]
    model: ModelArgs,
    /// The text to continue; without one the model starts a new document.
    #[arg(long, value_name = "TEXT", conflicts_with = "prompt_file", allow_hyphen_values = true)]
    prompt: Option<String>,
    /// A file with the text to continue; `-` is standard input.
    #[arg(long, value_name = "FILE")]
    prompt_file: Option<PathBuf>,
    /// The most tokens to write; end-of-text and the end of the context stop it sooner.
    #[arg(long, value_name = "N", default_value_t = 200)]
    max_new_tokens: usize,
    /// Logits are divided by this; 0 always takes the most likely token.
    #[arg(long, value_name = "X", default_value_t = 0.8, allow_negative_numbers = true)]
    temperature: f64,
    /// Consider only the K most likely tokens.
    #[arg(long, value_name = "K")]
    top_k: Option<usize>,
    /// Consider only the most likely tokens that together reach this probability.
    #[arg(long, value_name = "P", allow_negative_numbers = true)]
    top_p: Option<f64>,
    /// Consider only tokens at least this likely, relative to the most likely one.
    #[arg(long, value_name = "P", allow_negative_numbers = true)]
    min_p: Option<f64>,
    /// Divide the logits of tokens that occurred already by this (multiply, where negative); 1 is off.
    #[arg(long, value_name = "X", default_value_t = 1.0, allow_negative_numbers = true)]
    repetition_penalty: f64,
    /// The seed of the draws.
    #[arg(long, value_name = "S", default_value_t = 0)]
    seed: u64,
    /// How many texts to write.
    #[arg(long, value_name = "N", default_value_t = 1, value_parser = clap::value_parser!(u64).range(1..))]
    num_samples: u64,
    /// End the text before this string; may be given several times.
    #[arg(long, value_name = "TEXT", allow_hyphen_values = true)]
    stop: Vec<String>,
    /// Print one JSON object on standard output, and nothing else there.
    #[arg(long)]
    json: bool,
}

/// Runs `taper sample`.
///
/// # Errors
/// If the model cannot be opened, an option is out of range, or the prompt does not fit the context.
pub fn run(args: Args) -> Result<()> {
    let sampler = SamplerConfig {
        temperature: args.temperature,
        top_k: args.top_k,
        top_p: args.top_p,
        min_p: args.min_p,
        repetition_penalty: args.repetition_penalty,
        seed: args.seed,
    };
    sampler.validate()?;
    let prompt = prompt(&args)?;
    let opened = args.model.open()?;
    let oracle = match args.model.engine {
        Engine::Native => None,
        Engine::Reference => Some(reference(opened.model.config(), &opened.params, Precision::F32)?),
    };
    let mut samples = Vec::new();
    for index in 0..args.num_samples {
        if !args.json {
            announce(&args, &prompt, index)?;
        }
        let request = Request {
            prompt: &prompt,
            max_new_tokens: args.max_new_tokens,
            stop: &args.stop,
            sampler: &sampler,
            sample: index,
        };
        let sample = write_one(&opened, oracle.as_ref(), &request, !args.json)?;
        if !args.json {
            print_bytes(b"\n")?;
        }
        if sample.finish_reason == FinishReason::Length && sample.tokens.len() < args.max_new_tokens {
            eprintln!(
                "note: the text ends after {} tokens because the model's context of {} is full",
                sample.tokens.len(),
                opened.model.config().context_length
            );
        }
        samples.push(sample);
    }
    if args.json { print_json(&json!({ "samples": samples })) } else { Ok(()) }
}

/// Generates one text, written to standard output piece by piece if `show`.
fn write_one(opened: &Opened, oracle: Option<&Reference>, request: &Request<'_>, show: bool) -> Result<Sample> {
    let config = opened.model.config();
    let mut cached = Cached::new(&opened.model, &opened.params, request.max_new_tokens);
    // Shared between the two closures: a reader that has gone away must end the generation.
    let broken: std::cell::RefCell<Option<Error>> = std::cell::RefCell::default();
    let mut logits_after = |history: &[u32]| match broken.take() {
        Some(error) => Err(error),
        None => match oracle {
            None => cached.logits(history),
            Some(oracle) => {
                let logits = oracle.logits(history, 1, history.len())?;
                Ok(logits[logits.len() - config.vocab_size..].iter().map(|&logit| logit as f32).collect())
            }
        },
    };
    let mut on_text = |text: &str| {
        if show && let Err(error) = print_bytes(text.as_bytes()) {
            broken.replace(Some(error));
        }
    };
    let sample = generate_by(config, &opened.tokenizer, request, &mut logits_after, &mut on_text)?;
    match broken.take() {
        Some(error) => Err(error),
        None => Ok(sample),
    }
}

/// What stands between several texts, and the prompt for a person at a terminal.
fn announce(args: &Args, prompt: &str, index: u64) -> Result<()> {
    if args.num_samples > 1 {
        if index > 0 {
            print_bytes(b"\n")?;
        }
        eprintln!("--- sample {} of {} ---", index + 1, args.num_samples);
    }
    let mut terminal = std::io::stderr();
    if terminal.is_terminal() && std::io::stdout().is_terminal() {
        // Only for reading along: nothing is lost if it fails.
        let _ = terminal.write_all(prompt.as_bytes()).and_then(|()| terminal.flush());
    }
    Ok(())
}

fn prompt(args: &Args) -> Result<String> {
    let Some(path) = &args.prompt_file else { return Ok(args.prompt.clone().unwrap_or_default()) };
    let mut bytes = Vec::new();
    if path.as_os_str() == "-" {
        std::io::stdin().lock().read_to_end(&mut bytes).map_err(Error::io("read", "standard input"))?;
    } else {
        bytes = std::fs::read(path).map_err(Error::io("read", path))?;
    }
    String::from_utf8(bytes).map_err(|error| {
        let at = error.utf8_error().valid_up_to();
        Error::data(path, format!("is not UTF-8 text: a wrong byte at offset {at}; convert the file to UTF-8"))
    })
}
