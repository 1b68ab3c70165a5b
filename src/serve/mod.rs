//! An HTTP server for one model, in the manner of OpenAI's API: completions and chat completions, streamed or whole.
//!
//! ```text
//! http (one thread, tokio) ─ request ─ api (checked, tokenized) ─ batch (one thread, owns the engine) ─ answer ─ http
//! ```
//!
//! The one idea: HTTP and arithmetic meet at two queues and nowhere else. A request becomes jobs, one for each text; the
//! batch thread runs all texts it has slots for, a token each per step, and sends what is new through a channel. A client
//! that has gone away is a channel whose other end is closed: the slot is free at the next step. What a text is depends on
//! its request alone, never on the load (the rule of [`crate::decode`]).

mod answer;
mod api;
mod batch;
mod fields;
mod http;
mod metrics;
mod refused;

use std::net::{SocketAddr, TcpListener};
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::Duration;

use crate::data::{ChatTemplate, Tokenizer};
use crate::decode::Decode;
use crate::error::{Error, Result};

/// What is served.
pub struct Model {
    /// The name that requests call it by.
    pub name: String,
    /// The engine; its slots are the texts that are written side by side.
    pub engine: Box<dyn Decode>,
    /// Its tokenizer.
    pub tokenizer: Tokenizer,
    /// Its chat template; without one there are completions only.
    pub template: Option<ChatTemplate>,
    /// The tokens at which a text ends.
    pub end: Vec<u32>,
}

impl std::fmt::Debug for Model {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Model").field("name", &self.name).finish_non_exhaustive()
    }
}

/// How it is served, and how much.
#[derive(Clone)]
pub struct Options {
    /// Where to listen; port 0 takes a free one.
    pub address: SocketAddr,
    /// What clients must know, as `Authorization: Bearer KEY`; required wherever others can reach the address.
    pub api_key: Option<String>,
    /// How many texts may wait for a slot; further requests are told to come again (429).
    pub queue: usize,
    /// The most bytes of a request's body (413).
    pub body_bytes: usize,
    /// The most connections; further ones wait to be accepted.
    pub connections: usize,
    /// The most tokens of a prompt (400); the context may hold fewer.
    pub prompt_tokens: usize,
    /// The most new tokens of a text (400).
    pub new_tokens: usize,
    /// How long requests may continue after [`Server::stop`].
    pub grace: Duration,
    /// How long a client may take to send a request's header, and then its body (408).
    pub patience: Duration,
}

impl Default for Options {
    fn default() -> Self {
        Options {
            address: SocketAddr::from(([127, 0, 0, 1], 8000)),
            api_key: None,
            queue: 256,
            body_bytes: 1 << 20,
            connections: 512,
            prompt_tokens: usize::MAX,
            new_tokens: usize::MAX,
            grace: Duration::from_secs(10),
            patience: Duration::from_secs(30),
        }
    }
}

// Not derived: a key must not end up in a log.
impl std::fmt::Debug for Options {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Options").field("address", &self.address).finish_non_exhaustive()
    }
}

impl Options {
    /// Checks what can be checked before a model is read.
    ///
    /// # Errors
    /// `Usage` for an address that others can reach without a key, and for a key that no header can carry.
    pub fn validate(&self) -> Result<()> {
        match &self.api_key {
            Some(key) if key.is_empty() || !key.bytes().all(|byte| byte.is_ascii_graphic()) => Err(Error::usage(
                "the API key must be one or more visible ASCII characters without blanks, for it travels in a header",
            )),
            None if !self.address.ip().is_loopback() => Err(Error::usage(format!(
                "{} can be reached from other machines, so it needs an API key: set TAPER_API_KEY or --api-key, or serve on 127.0.0.1",
                self.address.ip()
            ))),
            _ => Ok(()),
        }
    }
}

/// A server at work, on threads of its own.
#[derive(Debug)]
pub struct Server {
    address: SocketAddr,
    batch: Arc<batch::Batch>,
    threads: Vec<JoinHandle<Result<()>>>,
}

impl Server {
    /// Binds the address and begins to serve.
    ///
    /// # Errors
    /// Those of [`Options::validate`]; `Device` if the address cannot be had or a thread cannot be started.
    pub fn start(options: Options, model: Model) -> Result<Server> {
        options.validate()?;
        let unusable = |error| Error::Device(format!("cannot listen on {}: {error}", options.address));
        let listener = TcpListener::bind(options.address).map_err(unusable)?;
        listener.set_nonblocking(true).map_err(unusable)?;
        let address = listener.local_addr().map_err(unusable)?;
        let metrics = Arc::new(metrics::Metrics::new(model.engine.slots()));
        let limits = api::Limits::new(&options, &model);
        let Model { name, engine, tokenizer, template, end } = model;
        let batch = Arc::new(batch::Batch::new(engine.slots(), options.queue, options.grace));
        let front = api::Front::new(name, tokenizer.clone(), template, end, limits);
        let (mut threads, thread_error) =
            (Vec::new(), |error| Error::Device(format!("cannot start a thread: {error}")));
        let site = http::Site::new(options, front, batch.clone(), metrics.clone());
        let (in_batch, in_http) = (batch.clone(), batch.clone());
        let http = std::thread::Builder::new().name("serve-http".into()).spawn(move || {
            // However HTTP ends, the batch thread must not wait for it.
            let result = http::run(listener, site);
            in_http.stop();
            result
        });
        threads.push(http.map_err(thread_error)?);
        let run = move || {
            batch::run(&in_batch, engine, &tokenizer, &metrics);
            Ok(())
        };
        match std::thread::Builder::new().name("serve-batch".into()).spawn(run) {
            Ok(thread) => threads.push(thread),
            Err(error) => {
                batch.stop();
                return Err(thread_error(error));
            }
        }
        Ok(Server { address, batch, threads })
    }

    /// Where it listens.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Takes no more requests; those under way may end within [`Options::grace`], then they are cut.
    pub fn stop(&self) {
        self.batch.stop();
    }

    /// Whether it has ended, by [`Server::stop`] or by a failure.
    pub fn is_finished(&self) -> bool {
        self.threads.iter().any(JoinHandle::is_finished)
    }

    /// Waits for the end.
    ///
    /// # Errors
    /// `Device` if a thread of the server failed.
    pub fn wait(self) -> Result<()> {
        let mut result = Ok(());
        for thread in self.threads {
            let ended = thread.join().unwrap_or_else(|_| Err(Error::Device("a thread of the server panicked".into())));
            result = result.and(ended);
        }
        result
    }
}
