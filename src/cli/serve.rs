//! `taper serve`: a model behind an HTTP address, as programs that know OpenAI's API expect it.

use std::net::SocketAddr;
use std::sync::atomic::Ordering;
use std::time::Duration;

use crate::cli::args::model::ModelArgs;
use crate::cli::signals::stop_flag;
use crate::cli::ui::say;
use crate::data::ChatTemplate;
use crate::data::chat::end_tokens;
use crate::error::{Error, Result};
use crate::serve::{Model, Options, Server};

/// Arguments of `taper serve`.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  taper serve runs/quickstart
  curl http://127.0.0.1:8000/v1/completions -d '{\"prompt\": \"pub fn \", \"max_tokens\": 50}'
  TAPER_API_KEY=... taper serve OWNER/NAME --bind 0.0.0.0:8000 --slots 16

Endpoints: /v1/completions, /v1/chat/completions (for models with a chat template), /v1/models, /health, /metrics.
SIGTERM or Ctrl-C ends it: requests under way may finish within --grace, then it exits with 0. See docs/serve.md.")]
pub struct Args {
    #[command(flatten)]
    model: ModelArgs,
    /// The address; one that other machines can reach needs an API key.
    #[arg(long, value_name = "ADDRESS:PORT", default_value = "127.0.0.1:8000")]
    bind: SocketAddr,
    /// What clients must send as `Authorization: Bearer KEY`; better given by the environment, where no list of processes
    /// shows it.
    #[arg(long, value_name = "KEY", env = "TAPER_API_KEY", hide_env_values = true)]
    api_key: Option<String>,
    /// The name that requests call the model by [default: MODEL as given].
    #[arg(long, value_name = "NAME")]
    name: Option<String>,
    /// How many texts are written side by side; each takes a key-value cache.
    #[arg(long, value_name = "N", default_value_t = 8, value_parser = clap::value_parser!(u16).range(1..))]
    slots: u16,
    /// Tokens of prompt and text together that a slot holds [default: the model's context].
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
    context: Option<u32>,
    /// How many texts may wait for a slot; further requests get 429.
    #[arg(long, value_name = "N", default_value_t = 256)]
    queue: usize,
    /// The most tokens of a prompt [default: the context].
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
    max_prompt_tokens: Option<u32>,
    /// The most new tokens of a text [default: the context].
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
    max_new_tokens: Option<u32>,
    /// The most bytes of a request's body; more get 413.
    #[arg(long, value_name = "BYTES", default_value_t = 1 << 20)]
    max_body: usize,
    /// The most connections; further ones wait.
    #[arg(long, value_name = "N", default_value_t = 512, value_parser = clap::value_parser!(u32).range(1..))]
    max_connections: u32,
    /// Seconds that requests may continue after SIGTERM or Ctrl-C.
    #[arg(long, value_name = "S", default_value_t = 10)]
    grace: u32,
}

/// Runs `taper serve` until a signal ends it.
///
/// # Errors
/// `Usage` for an address without its key; if the model cannot be opened, the address not be had, or the engine fails.
pub fn run(args: Args) -> Result<()> {
    let tokens = |limit: Option<u32>| limit.map_or(usize::MAX, |limit| limit as usize);
    let options = Options {
        address: args.bind,
        api_key: args.api_key,
        queue: args.queue,
        body_bytes: args.max_body,
        connections: args.max_connections as usize,
        prompt_tokens: tokens(args.max_prompt_tokens),
        new_tokens: tokens(args.max_new_tokens),
        grace: Duration::from_secs(args.grace.into()),
        ..Options::default()
    };
    // Before gigabytes are read.
    options.validate()?;
    let guarded = options.api_key.is_some();
    let mut opened = args.model.open_native()?;
    let context = opened.model.config().context_length.min(tokens(args.context));
    let template = ChatTemplate::load(&opened.folder)?;
    let end = end_tokens(&opened.folder, &opened.tokenizer)?;
    let name = args.name.unwrap_or(args.model.model);
    let tokenizer = opened.tokenizer.clone();
    let engine = opened.decoder(args.slots.into(), context)?;
    let chats = if template.is_some() { "completions and chat" } else { "completions (it has no chat template)" };
    let model = Model { name: name.clone(), engine, tokenizer, template, end };
    let stop = stop_flag()?;
    let server = Server::start(options, model)?;
    say(&format!("serving {name} on http://{}: {chats}, {} slots of {context} tokens", server.address(), args.slots));
    if guarded {
        say("requests need the API key");
    }
    while !server.is_finished() {
        if stop.load(Ordering::Relaxed) {
            say(&format!("ending; requests under way have {} s (another signal ends at once)", args.grace));
            server.stop();
            return server.wait();
        }
        std::thread::sleep(Duration::from_millis(50));
    }
    server.wait()?;
    Err(Error::Device("the server ended by itself".into()))
}
