//! `taper sample`: text from a model, shown as it is written.
//!
//! Standard output carries the new text alone (or the JSON object); the prompt is repeated on standard error where both
//! are a terminal, so that a person reads one text and a pipe gets only what is new.

use std::io::{IsTerminal, Read, Write};
use std::path::PathBuf;

use serde_json::json;

use crate::cli::args::model::ModelArgs;
use crate::cli::args::sampler::SamplerArgs;
use crate::cli::ui::{note, print_bytes, print_json, say};
use crate::error::{Error, Result};
use crate::open::{EngineKind, Opened, reference};
use crate::reference::Precision;
use crate::sample::{Event, FinishReason, Request, Sample, generate_all, generate_by, prompt_tokens};

/// Arguments of `taper sample`.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  taper sample runs/quickstart --prompt \"pub fn \"
  taper sample runs/quickstart --temperature 0 --max-new-tokens 50     always the most likely token
  taper sample runs/quickstart --top-k 50 --num-samples 3 --seed 7 --json

  taper sample runs/quickstart --prompt \"fn \" --prompt \"struct \" --num-samples 4
  taper sample runs/quickstart --dtype q8_0                            a quarter of the memory, on the CPU

The same seed gives the same text, whatever else is written next to it.
The order of the rules: repetition penalty, temperature, top-k, top-p, min-p.")]
pub struct Args {
    #[command(flatten)]
    model: ModelArgs,
    /// The text to continue; without one the model starts a new document. May be given several times.
    #[arg(long, value_name = "TEXT", conflicts_with = "prompt_file", allow_hyphen_values = true)]
    prompt: Vec<String>,
    /// A file with the text to continue; `-` is standard input.
    #[arg(long, value_name = "FILE")]
    prompt_file: Option<PathBuf>,
    /// The most tokens to write; end-of-text and the end of the context stop it sooner.
    #[arg(long, value_name = "N", default_value_t = 200)]
    max_new_tokens: usize,
    #[command(flatten)]
    sampler: SamplerArgs,
    /// How many texts to write for each prompt.
    #[arg(long, value_name = "N", default_value_t = 1, value_parser = clap::value_parser!(u64).range(1..))]
    num_samples: u64,
    /// End the text before this string; may be given several times.
    #[arg(long, value_name = "TEXT", allow_hyphen_values = true)]
    stop: Vec<String>,
    /// At the end of the context drop the older half of the text and continue; without it the text ends there.
    #[arg(long)]
    slide: bool,
    /// How many texts are written side by side; they are the same for any number.
    #[arg(long, value_name = "B", default_value_t = 8, value_parser = clap::value_parser!(u64).range(1..=1024))]
    batch: u64,
    /// Print one JSON object on standard output, and nothing else there.
    #[arg(long)]
    json: bool,
}

/// Runs `taper sample`.
///
/// # Errors
/// If the model cannot be opened, an option is out of range, or the prompt does not fit the context.
pub fn run(args: Args) -> Result<()> {
    let sampler = args.sampler.config()?;
    let prompts = prompts(&args)?;
    let mut opened = args.model.open_to_decode()?;
    let requests: Vec<Request<'_>> = prompts
        .iter()
        .flat_map(|prompt| (0..args.num_samples).map(move |sample| (prompt, sample)))
        .map(|(prompt, sample)| Request {
            prompt,
            max_new_tokens: args.max_new_tokens,
            stop: &args.stop,
            sampler: &sampler,
            sample,
        })
        .collect();
    let mut screen = Screen::new(&args, &requests, opened.model.config().context_length);
    let samples = match args.model.engine {
        EngineKind::Reference => by_the_book(&args, &opened, &requests, &mut screen)?,
        EngineKind::Native => {
            let slots = requests.len().min(args.batch as usize);
            let mut longest = 0;
            for prompt in &prompts {
                longest = longest.max(prompt_tokens(&opened.tokenizer, prompt)?.len());
            }
            let capacity = longest.saturating_add(args.max_new_tokens).min(opened.model.config().context_length);
            let mut engine = opened.decoder(slots, capacity)?;
            generate_all(&mut *engine, &opened.tokenizer, &requests, args.slide, &mut |index, event| {
                screen.event(index, event)
            })?
        }
    };
    if args.json { print_json(&json!({ "samples": samples })) } else { Ok(()) }
}

/// All texts by the reference engine, one after another, without a cache.
fn by_the_book(args: &Args, opened: &Opened, requests: &[Request<'_>], screen: &mut Screen<'_>) -> Result<Vec<Sample>> {
    if args.slide {
        return Err(Error::usage("--slide is for the native engine; leave --engine reference out"));
    }
    let config = opened.model.config();
    let oracle = reference(config, &opened.params, Precision::F32)?;
    let mut samples = Vec::new();
    for (index, request) in requests.iter().enumerate() {
        // Shared between the two closures: a reader that has gone away must end the generation.
        let broken: std::cell::RefCell<Option<Error>> = std::cell::RefCell::default();
        let mut logits_after = |history: &[u32]| match broken.take() {
            Some(error) => Err(error),
            None => {
                let logits = oracle.logits(history, 1, history.len())?;
                Ok(logits[logits.len() - config.vocab_size..].iter().map(|&logit| logit as f32).collect())
            }
        };
        let mut on_text = |text: &str| {
            if let Err(error) = screen.event(index, Event::Text(text)) {
                broken.replace(Some(error));
            }
        };
        let sample = generate_by(config, &opened.tokenizer, request, &mut logits_after, &mut on_text)?;
        if let Some(error) = broken.take() {
            return Err(error);
        }
        screen.event(index, Event::Done(&sample))?;
        samples.push(sample);
    }
    Ok(samples)
}

/// Texts on standard output, one after another: the first that is not done as it is written, the others when it is
/// their turn.
struct Screen<'a> {
    args: &'a Args,
    requests: &'a [Request<'a>],
    context: usize,
    /// What waits to be shown of each, and which are done.
    texts: Vec<(String, bool)>,
    /// The text that is shown; those before it are done.
    turn: usize,
    announced: bool,
    slid: bool,
}

impl<'a> Screen<'a> {
    fn new(args: &'a Args, requests: &'a [Request<'a>], context: usize) -> Screen<'a> {
        let texts = vec![(String::new(), false); requests.len()];
        Screen { args, requests, context, texts, turn: 0, announced: false, slid: false }
    }

    fn event(&mut self, index: usize, event: Event<'_>) -> Result<()> {
        match event {
            Event::Text(text) => self.texts[index].0.push_str(text),
            Event::Slid if !self.slid => {
                note(&format!(
                    "the context of {} is full: the older half of the text is dropped, and it continues without",
                    self.context
                ));
                self.slid = true;
            }
            Event::Slid => {}
            Event::Done(sample) => {
                self.texts[index].1 = true;
                if sample.finish_reason == FinishReason::Length && sample.tokens.len() < self.args.max_new_tokens {
                    note(&format!(
                        "the text ends after {} tokens because the model's context of {} is full",
                        sample.tokens.len(),
                        self.context
                    ));
                }
            }
        }
        if self.args.json { Ok(()) } else { self.show() }
    }

    /// Prints what may be shown by now.
    fn show(&mut self) -> Result<()> {
        while let Some((text, done)) = self.texts.get_mut(self.turn) {
            if text.is_empty() && !*done {
                return Ok(());
            }
            if !std::mem::replace(&mut self.announced, true) {
                announce(self.requests.len(), self.requests[self.turn].prompt, self.turn)?;
            }
            print_bytes(std::mem::take(text).as_bytes())?;
            if !*done {
                return Ok(());
            }
            print_bytes(b"\n")?;
            (self.turn, self.announced) = (self.turn + 1, false);
        }
        Ok(())
    }
}

/// What stands between several texts, and the prompt for a person at a terminal.
fn announce(count: usize, prompt: &str, index: usize) -> Result<()> {
    if count > 1 {
        if index > 0 {
            print_bytes(b"\n")?;
        }
        say(&format!("--- sample {} of {count} ---", index + 1));
    }
    let mut terminal = std::io::stderr();
    if terminal.is_terminal() && std::io::stdout().is_terminal() {
        // Only for reading along: nothing is lost if it fails.
        let _ = terminal.write_all(prompt.as_bytes()).and_then(|()| terminal.flush());
    }
    Ok(())
}

fn prompts(args: &Args) -> Result<Vec<String>> {
    let Some(path) = &args.prompt_file else {
        return Ok(if args.prompt.is_empty() { vec![String::new()] } else { args.prompt.clone() });
    };
    let mut bytes = Vec::new();
    if path.as_os_str() == "-" {
        std::io::stdin().lock().read_to_end(&mut bytes).map_err(Error::io("read", "standard input"))?;
    } else {
        bytes = std::fs::read(path).map_err(Error::io("read", path))?;
    }
    let text = String::from_utf8(bytes).map_err(|error| {
        let at = error.utf8_error().valid_up_to();
        Error::data(path, format!("is not UTF-8 text: a wrong byte at offset {at}; convert the file to UTF-8"))
    })?;
    Ok(vec![text])
}
