//! A server with a tiny model, and an HTTP client that does what it is told: it may break off anywhere.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use serde_json::{Value, json};
use taper::Result;
use taper::arch::ModelConfig;
use taper::data::{ChatTemplate, Tokenizer};
use taper::decode::{Decode, Feed, Tensors};
use taper::model::Gpt;
use taper::sample::{Request, Sample, SamplerConfig, generate};
use taper::serve::{Model, Options, Server};
use taper::tape::Params;

pub const CONTEXT: usize = 128;
/// The prompt that the device does not survive.
pub const FATAL: [u32; 3] = [1, 1, 1];
pub const TEMPLATE: &str = "{% for m in messages %}{{ m.role }}: {{ m.content }}\n{% endfor %}assistant:";

/// The model of all servers here: its texts are noise, but always the same noise.
pub fn model() -> (Gpt, Params) {
    let config = ModelConfig::gpt2(2, 2, 32, CONTEXT, 257);
    let model = Gpt::new(config).unwrap();
    let params = model.initialise(7).unwrap();
    (model, params)
}

/// An engine that takes its time, waits while [`Gate::close`] says so, and fails when it is fed [`FATAL`].
struct Slow {
    inner: Tensors,
    pause: Duration,
    gate: Gate,
}

/// Holds the steps of a server, so that a test need not be quick.
#[derive(Clone, Default)]
pub struct Gate(Arc<AtomicBool>);

impl Gate {
    pub fn close(&self) {
        self.0.store(true, Ordering::Relaxed);
    }

    pub fn open(&self) {
        self.0.store(false, Ordering::Relaxed);
    }
}

impl Decode for Slow {
    fn config(&self) -> &ModelConfig {
        self.inner.config()
    }

    fn slots(&self) -> usize {
        self.inner.slots()
    }

    fn capacity(&self) -> usize {
        self.inner.capacity()
    }

    fn len(&self, slot: usize) -> usize {
        self.inner.len(slot)
    }

    fn truncate(&mut self, slot: usize, len: usize) {
        self.inner.truncate(slot, len);
    }

    fn feed(&mut self, feeds: &[Feed<'_>], logits: &mut Vec<f32>) -> Result<()> {
        std::thread::sleep(self.pause);
        while self.gate.0.load(Ordering::Relaxed) {
            std::thread::sleep(Duration::from_millis(1));
        }
        if feeds.iter().any(|feed| feed.tokens == FATAL) {
            return Err(taper::Error::Device("the device has gone".into()));
        }
        self.inner.feed(feeds, logits)
    }
}

/// A server of `slots` whose steps take at least `pause` milliseconds.
pub fn server(slots: usize, pause: u64, change: impl FnOnce(&mut Options)) -> Server {
    gated(slots, pause, change).0
}

/// As [`server`], with its gate.
pub fn gated(slots: usize, pause: u64, change: impl FnOnce(&mut Options)) -> (Server, Gate) {
    let mut options = Options { address: ([127, 0, 0, 1], 0).into(), ..Options::default() };
    change(&mut options);
    let gate = Gate::default();
    let (model, params) = model();
    let inner = Tensors::new(model, params, slots, CONTEXT);
    let template = Some(ChatTemplate::from_source(TEMPLATE, "", "").unwrap());
    let engine = Box::new(Slow { inner, pause: Duration::from_millis(pause), gate: gate.clone() });
    let model = Model { name: "tiny".into(), engine, tokenizer: Tokenizer::bytes(), template, end: vec![256] };
    (Server::start(options, model).unwrap(), gate)
}

/// Stops a server and waits for its end, which must be a clean one.
pub fn end(server: Server) {
    server.stop();
    server.wait().unwrap();
}

/// What `taper sample` writes for this prompt, seed and number.
pub fn sampled(prompt: &str, max_new_tokens: usize, seed: u64, sample: u64, stop: &[String]) -> Sample {
    let (model, params) = model();
    let sampler = SamplerConfig { seed, ..SamplerConfig::default() };
    let request = Request { prompt, max_new_tokens, stop, sampler: &sampler, sample };
    generate(&model, &params, &Tokenizer::bytes(), &request, &mut |_| {}).unwrap()
}

/// A seed with which the model does not end its text after "a" within `tokens`.
pub fn long_winded(tokens: usize) -> u64 {
    (0..).find(|&seed| sampled("a", tokens, seed, 0, &[]).tokens.len() == tokens).unwrap()
}

/// An answer as it came.
#[derive(Debug)]
pub struct Reply {
    pub status: u16,
    pub head: String,
    pub body: String,
}

impl Reply {
    pub fn json(&self) -> Value {
        serde_json::from_str(&self.body).unwrap_or_else(|error| panic!("{error}: {self:?}"))
    }

    /// The chunks of a stream, which must end with `[DONE]`.
    pub fn chunks(&self) -> Vec<Value> {
        let lines: Vec<&str> = self
            .body
            .split("\n\n")
            .filter(|line| !line.is_empty())
            .map(|line| line.strip_prefix("data: ").unwrap())
            .collect();
        let (last, chunks) = lines.split_last().unwrap();
        assert_eq!(*last, "[DONE]");
        chunks.iter().map(|chunk| serde_json::from_str(chunk).unwrap()).collect()
    }
}

/// A connection on which a request was sent.
pub fn send(address: SocketAddr, request: &[u8]) -> TcpStream {
    let mut stream = TcpStream::connect(address).unwrap();
    stream.set_read_timeout(Some(Duration::from_secs(60))).unwrap();
    // A server that refuses early may close before all is written.
    let _ = stream.write_all(request);
    stream
}

/// A request with a JSON body, on a connection of its own.
pub fn post(path: &str, body: &Value) -> Vec<u8> {
    let body = body.to_string();
    let head = format!(
        "POST {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\nContent-Length: {}\r\n\r\n",
        body.len()
    );
    [head.as_bytes(), body.as_bytes()].concat()
}

pub fn get(path: &str) -> Vec<u8> {
    format!("GET {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n").into_bytes()
}

/// Reads an answer to the end of the connection.
pub fn receive(mut stream: TcpStream) -> Reply {
    let mut bytes = Vec::new();
    // What was read before a reset counts.
    let _ = stream.read_to_end(&mut bytes);
    let text = String::from_utf8(bytes).unwrap();
    let (head, body) = text.split_once("\r\n\r\n").unwrap_or_else(|| panic!("no answer: {text:?}"));
    let status = head.split(' ').nth(1).unwrap().parse().unwrap();
    let head = head.to_ascii_lowercase();
    let body = if head.contains("transfer-encoding: chunked") { dechunk(body) } else { body.to_string() };
    Reply { status, head, body }
}

fn dechunk(mut body: &str) -> String {
    let mut out = String::new();
    while let Some((size, rest)) = body.split_once("\r\n") {
        let size = usize::from_str_radix(size, 16).unwrap();
        out.push_str(&rest[..size]);
        body = &rest[size + 2..];
    }
    out
}

pub fn ask(server: &Server, path: &str, body: Value) -> Reply {
    receive(send(server.address(), &post(path, &body)))
}

/// The text of a completion that must succeed.
pub fn complete(server: &Server, prompt: &str, max_tokens: usize, seed: u64) -> String {
    let reply = ask(server, "/v1/completions", json!({"prompt": prompt, "max_tokens": max_tokens, "seed": seed}));
    assert_eq!(reply.status, 200, "{reply:?}");
    reply.json()["choices"][0]["text"].as_str().unwrap().to_string()
}

/// The numbers of `/metrics`, with their labels as they stand.
#[derive(Debug)]
pub struct Metrics(Vec<(String, f64)>);

impl Metrics {
    pub fn of(server: &Server) -> Metrics {
        let reply = receive(send(server.address(), &get("/metrics")));
        assert_eq!(reply.status, 200);
        let lines = reply.body.lines().filter(|line| !line.starts_with('#'));
        let number = |line: &str| line.rsplit_once(' ').map(|(name, value)| (name.to_string(), value.parse().unwrap()));
        Metrics(lines.map(|line| number(line).unwrap()).collect())
    }

    /// The sum over all lines that start with these words.
    pub fn sum(&self, start: &str) -> f64 {
        self.0.iter().filter(|(name, _)| name.starts_with(start)).map(|(_, value)| value).sum()
    }
}

/// Waits until the metrics are as they should be.
pub fn until(server: &Server, what: &str, wanted: impl Fn(&Metrics) -> bool) -> Metrics {
    let start = Instant::now();
    loop {
        let metrics = Metrics::of(server);
        if wanted(&metrics) {
            return metrics;
        }
        assert!(start.elapsed() < Duration::from_secs(30), "never came: {what}: {metrics:?}");
        std::thread::sleep(Duration::from_millis(5));
    }
}
