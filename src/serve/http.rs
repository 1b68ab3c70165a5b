//! HTTP: connections, routes, who may ask, and bodies in and out. One thread, on tokio; hyper speaks the protocol.

use std::convert::Infallible;
use std::net::{IpAddr, TcpListener};
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::task::{Context, Poll};
use std::time::{Duration, Instant, SystemTime};

use http_body_util::{BodyExt, Full, LengthLimitError, Limited};
use hyper::body::{Body as _, Bytes, Frame, Incoming};
use hyper::header::{self, HeaderMap, HeaderValue};
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper::{Method, Request, Response, StatusCode};
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::server::graceful::GracefulShutdown;
use serde_json::{Value, json};
use sha2::{Digest, Sha256};
use subtle::ConstantTimeEq;
use tokio::sync::Semaphore;
use tokio::sync::mpsc::{UnboundedReceiver, unbounded_channel};
use tokio::time::timeout;

use super::Options;
use super::answer::Answer;
use super::api::Front;
use super::batch::{Batch, Event, Failure, Job, Refusal};
use super::metrics::Metrics;
use super::refused::{Kind, Refused};
use crate::error::{Error, Result};
use crate::sample::session::Plan;

/// How often the accept loop looks whether the server ends.
const TICK: Duration = Duration::from_millis(50);
/// Threads that check and tokenize bodies.
const CHECKERS: usize = 2;

/// Everything that answering a request needs.
pub(super) struct Site {
    options: Options,
    /// The API key's digest: comparing digests tells nothing of the key, not even its length.
    key: Option<[u8; 32]>,
    front: Arc<Front>,
    batch: Arc<Batch>,
    metrics: Arc<Metrics>,
    started: u64,
    requests: AtomicU64,
}

impl Site {
    pub(super) fn new(options: Options, front: Front, batch: Arc<Batch>, metrics: Arc<Metrics>) -> Site {
        let key = options.api_key.as_ref().map(|key| Sha256::digest(key.as_bytes()).into());
        let (front, started) = (Arc::new(front), unix_seconds());
        Site { options, key, front, batch, metrics, started, requests: AtomicU64::new(0) }
    }
}

fn unix_seconds() -> u64 {
    SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).map_or(0, |time| time.as_secs())
}

/// Serves until the batch stops, and then until connections are done or the grace is over.
pub(super) fn run(listener: TcpListener, site: Site) -> Result<()> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_io()
        .enable_time()
        .max_blocking_threads(CHECKERS)
        .thread_keep_alive(Duration::from_secs(1))
        .build()
        .map_err(|error| Error::Device(format!("cannot start the server: {error}")))?;
    let result = runtime.block_on(serve(listener, Arc::new(site)));
    runtime.shutdown_background();
    result
}

async fn serve(listener: TcpListener, site: Arc<Site>) -> Result<()> {
    let listener = tokio::net::TcpListener::from_std(listener)
        .map_err(|error| Error::Device(format!("cannot listen: {error}")))?;
    let room = Arc::new(Semaphore::new(site.options.connections));
    let graceful = GracefulShutdown::new();
    let mut protocol = http1::Builder::new();
    protocol.timer(TokioTimer::new()).header_read_timeout(site.options.patience);
    let mut permit = None;
    while !site.batch.is_stopping() {
        if permit.is_none() {
            permit = timeout(TICK, room.clone().acquire_owned()).await.ok().and_then(|permit| permit.ok());
            if permit.is_none() {
                continue;
            }
        }
        let stream = match timeout(TICK, listener.accept()).await {
            Ok(Ok((stream, _))) => stream,
            Ok(Err(_)) => {
                // Out of file descriptors, most likely: others must leave first.
                tokio::time::sleep(TICK).await;
                continue;
            }
            Err(_) => continue,
        };
        // Tokens are small packets that should not wait for each other; a refusal costs speed only.
        let _ = stream.set_nodelay(true);
        let connection = Connected::new(site.metrics.clone(), permit.take());
        let site = site.clone();
        let service = service_fn(move |request| handle(site.clone(), request));
        let watched = graceful.watch(protocol.serve_connection(TokioIo::new(stream), service));
        tokio::spawn(async move {
            let _connection = connection;
            // A connection that broke concerns nobody else.
            let _ = watched.await;
        });
    }
    drop(listener);
    // The batch cuts what is left at the end of the grace; a moment more to tell the clients.
    let _ = timeout(site.options.grace + Duration::from_secs(1), graceful.shutdown()).await;
    Ok(())
}

/// Counts a connection while it is there.
struct Connected {
    metrics: Arc<Metrics>,
    _permit: Option<tokio::sync::OwnedSemaphorePermit>,
}

impl Connected {
    fn new(metrics: Arc<Metrics>, permit: Option<tokio::sync::OwnedSemaphorePermit>) -> Connected {
        metrics.connected();
        Connected { metrics, _permit: permit }
    }
}

impl Drop for Connected {
    fn drop(&mut self) {
        self.metrics.disconnected();
    }
}

/// Counts a request when it is over, however that comes about.
struct Tracked {
    metrics: Arc<Metrics>,
    endpoint: &'static str,
    since: Instant,
    status: Option<StatusCode>,
}

impl Drop for Tracked {
    fn drop(&mut self) {
        // Dropped before there was an answer: the client has left (nginx's 499).
        let status = self.status.map_or(499, |status| status.as_u16());
        self.metrics.request(self.endpoint, status, self.since.elapsed());
    }
}

enum Reply {
    Json(Value),
    Text(&'static str, String),
    Stream(Answer, UnboundedReceiver<Event>),
}

async fn handle(site: Arc<Site>, request: Request<Incoming>) -> Result<Response<Body>, Infallible> {
    let endpoint = match request.uri().path() {
        "/v1/completions" => "completions",
        "/v1/chat/completions" => "chat_completions",
        "/health" => "health",
        "/metrics" => "metrics",
        path if path == "/v1/models" || path.starts_with("/v1/models/") => "models",
        _ => "other",
    };
    let mut tracked = Tracked { metrics: site.metrics.clone(), endpoint, since: Instant::now(), status: None };
    let reply = route(&site, endpoint, request).await;
    let (status, kind, body) = match reply {
        Ok(Reply::Stream(answer, events)) => {
            let body = Body::Events(Box::new(Events::new(answer, events, tracked)));
            return Ok(respond(StatusCode::OK, "text/event-stream", body));
        }
        Ok(Reply::Json(value)) => (StatusCode::OK, "application/json", value.to_string()),
        Ok(Reply::Text(kind, text)) => (StatusCode::OK, kind, text),
        Err(refused) => {
            let status = StatusCode::from_u16(refused.status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
            (status, "application/json", refused.body().to_string())
        }
    };
    tracked.status = Some(status);
    Ok(respond(status, kind, Body::Whole(Full::new(body.into()))))
}

fn respond(status: StatusCode, kind: &'static str, body: Body) -> Response<Body> {
    let mut response = Response::new(body);
    *response.status_mut() = status;
    let headers = response.headers_mut();
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static(kind));
    headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
    match status {
        StatusCode::TOO_MANY_REQUESTS | StatusCode::SERVICE_UNAVAILABLE => {
            headers.insert(header::RETRY_AFTER, HeaderValue::from_static("2"));
        }
        StatusCode::UNAUTHORIZED => {
            headers.insert(header::WWW_AUTHENTICATE, HeaderValue::from_static("Bearer"));
        }
        StatusCode::METHOD_NOT_ALLOWED => {
            headers.insert(header::ALLOW, HeaderValue::from_static("GET, POST"));
        }
        _ => {}
    }
    response
}

async fn route(site: &Site, endpoint: &'static str, request: Request<Incoming>) -> Result<Reply, Refused> {
    let expected = match endpoint {
        "completions" | "chat_completions" => Method::POST,
        "other" => return Err(Refused::new(404, format!("there is nothing at {}", request.uri().path()))),
        _ => Method::GET,
    };
    if request.method() != expected {
        return Err(Refused::new(405, format!("this takes {expected}, not {}", request.method())));
    }
    if endpoint == "health" {
        return match site.batch.is_stopping() {
            true => Err(Refused::new(503, "the server ends")),
            false => Ok(Reply::Json(json!({ "status": "ok" }))),
        };
    }
    admit(site, request.headers())?;
    match endpoint {
        "metrics" => Ok(Reply::Text("text/plain; version=0.0.4", site.metrics.text(site.batch.load()))),
        "models" => models(site, request.uri().path()),
        "completions" => generate(site, Kind::Completion, request).await,
        _ => generate(site, Kind::Chat, request).await,
    }
}

/// Who may ask: with a key, whoever has it; without, programs of this machine, and not the pages of strangers in its browser
/// (which reach a loopback address by their own `Origin`, or by a name of theirs that resolves to it).
fn admit(site: &Site, headers: &HeaderMap) -> Result<(), Refused> {
    let value = |name: header::HeaderName| headers.get(name).and_then(|value| value.to_str().ok());
    let Some(key) = &site.key else {
        let origin = value(header::ORIGIN).map(|origin| origin.split_once("://").map_or(origin, |(_, host)| host));
        return match [value(header::HOST), origin].into_iter().flatten().all(is_loopback) {
            true => Ok(()),
            false => Err(Refused::new(
                403,
                "without an API key this server answers programs of its own machine, under localhost or 127.0.0.1",
            )),
        };
    };
    let given = value(header::AUTHORIZATION).and_then(|value| value.split_once(' '));
    let given = given.filter(|(scheme, _)| scheme.eq_ignore_ascii_case("bearer")).map_or("", |(_, key)| key.trim());
    let digest: [u8; 32] = Sha256::digest(given.as_bytes()).into();
    match bool::from(digest.ct_eq(key)) {
        true => Ok(()),
        false => Err(Refused {
            code: Some("invalid_api_key"),
            ..Refused::new(401, "the API key is missing or wrong; send it as Authorization: Bearer KEY")
        }),
    }
}

/// Whether `host`, with or without a port, is this machine's own name.
fn is_loopback(host: &str) -> bool {
    let host = match host.strip_prefix('[').and_then(|rest| rest.split_once(']')) {
        Some((address, _)) => address,
        None => host.split(':').next().unwrap_or_default(),
    };
    host.eq_ignore_ascii_case("localhost") || host.parse::<IpAddr>().is_ok_and(|address| address.is_loopback())
}

fn models(site: &Site, path: &str) -> Result<Reply, Refused> {
    let model = site.front.describe(site.started);
    match path.strip_prefix("/v1/models/") {
        None => Ok(Reply::Json(json!({ "object": "list", "data": [model] }))),
        // A name with a slash may come as it is or as %2F.
        Some(name) if name.replace("%2F", "/").replace("%2f", "/") == site.front.name => Ok(Reply::Json(model)),
        Some(name) => Err(Refused {
            code: Some("model_not_found"),
            ..Refused::new(404, format!("there is no model {name:?} here"))
        }),
    }
}

async fn generate(site: &Site, kind: Kind, request: Request<Incoming>) -> Result<Reply, Refused> {
    let since = Instant::now();
    let body = read(site, request.into_body()).await?;
    // Long prompts take a while to tokenize; other connections shall not wait.
    let front = site.front.clone();
    let ask = tokio::task::spawn_blocking(move || front.ask(kind, &body)).await;
    let ask = ask.map_err(|_| Refused::new(500, "the request could not be checked"))??;
    let (out, mut events) = unbounded_channel();
    let jobs = ask.prompts.iter().enumerate().flat_map(|(place, prompt)| {
        let (ask, out) = (&ask, &out);
        (0..ask.n).map(move |sample| Job {
            index: place * ask.n + sample,
            prompt: prompt.clone(),
            plan: Plan { sample: sample as u64, ..ask.plan.clone() },
            out: out.clone(),
            since,
        })
    });
    let jobs = jobs.collect();
    drop(out);
    site.batch.submit(jobs).map_err(|refusal| match refusal {
        Refusal::Full => Refused::new(429, "too many requests wait already; come again in a moment"),
        Refusal::Stopping => Refused::new(503, "the server ends"),
    })?;
    let number = site.requests.fetch_add(1, Ordering::Relaxed);
    let mut answer = Answer::new(&ask, &site.front, number, unix_seconds());
    if ask.stream {
        return Ok(Reply::Stream(answer, events));
    }
    while !answer.is_over() {
        match events.recv().await {
            Some(Event::Step(index, step)) => drop(answer.take(index, &step)),
            Some(Event::Failed(failure)) => return Err(broken(&failure)),
            None => return Err(broken(&Failure::Engine("the engine has stopped".into()))),
        }
    }
    Ok(Reply::Json(answer.whole()))
}

fn broken(failure: &Failure) -> Refused {
    match failure {
        Failure::Engine(message) => Refused::new(500, message),
        Failure::Stopping => Refused::new(503, "the server ended before the text did"),
    }
}

async fn read(site: &Site, body: Incoming) -> Result<Bytes, Refused> {
    let most = site.options.body_bytes;
    let too_large = || Refused::new(413, format!("the body has more than the {most} bytes that this server reads"));
    if body.size_hint().lower() > most as u64 {
        return Err(too_large());
    }
    match timeout(site.options.patience, Limited::new(body, most).collect()).await {
        Err(_) => Err(Refused::new(408, "the body did not come in time")),
        Ok(Err(error)) if error.is::<LengthLimitError>() => Err(too_large()),
        Ok(Err(error)) => Err(Refused::new(400, format!("the body cannot be read: {error}"))),
        Ok(Ok(collected)) => Ok(collected.to_bytes()),
    }
}

/// The body of a response.
pub(super) enum Body {
    Whole(Full<Bytes>),
    Events(Box<Events>),
}

/// Server-sent events: a chunk for each step, until all texts are over.
pub(super) struct Events {
    answer: Answer,
    events: UnboundedReceiver<Event>,
    tracked: Tracked,
    begun: bool,
}

impl Events {
    fn new(answer: Answer, events: UnboundedReceiver<Event>, tracked: Tracked) -> Events {
        Events { answer, events, tracked, begun: false }
    }

    /// The next piece of the stream; none at its end.
    fn poll(&mut self, context: &mut Context<'_>) -> Poll<Option<Bytes>> {
        if !self.begun {
            self.begun = true;
            let first: String = self.answer.first_chunks().iter().map(line).collect();
            if !first.is_empty() {
                return Poll::Ready(Some(first.into()));
            }
        }
        while self.tracked.status.is_none() {
            let event = match self.events.poll_recv(context) {
                Poll::Pending => return Poll::Pending,
                Poll::Ready(event) => event,
            };
            match event {
                Some(Event::Step(index, step)) => {
                    let mut text = self.answer.next_chunk(index, &step).as_ref().map_or(String::new(), line);
                    if self.answer.is_over() {
                        text.extend(self.answer.last_chunk().as_ref().map(line));
                        text.push_str("data: [DONE]\n\n");
                        self.tracked.status = Some(StatusCode::OK);
                    }
                    if !text.is_empty() {
                        return Poll::Ready(Some(text.into()));
                    }
                }
                failed => {
                    let refused = match failed {
                        Some(Event::Failed(failure)) => broken(&failure),
                        _ => broken(&Failure::Engine("the engine has stopped".into())),
                    };
                    self.tracked.status = StatusCode::from_u16(refused.status).ok();
                    return Poll::Ready(Some(line(&refused.body()).into()));
                }
            }
        }
        Poll::Ready(None)
    }
}

fn line(value: &Value) -> String {
    format!("data: {value}\n\n")
}

impl hyper::body::Body for Body {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        match self.get_mut() {
            Body::Whole(full) => Pin::new(full).poll_frame(context),
            Body::Events(events) => events.poll(context).map(|text| text.map(|text| Ok(Frame::data(text)))),
        }
    }

    fn size_hint(&self) -> hyper::body::SizeHint {
        match self {
            Body::Whole(full) => full.size_hint(),
            Body::Events(_) => hyper::body::SizeHint::default(),
        }
    }
}

#[cfg(test)]
mod tests {
    #[test]
    fn loopback_is_known_by_its_names() {
        for host in ["localhost", "LOCALHOST:8000", "127.0.0.1:80", "127.9.9.9", "[::1]:8000", "[::1]"] {
            assert!(super::is_loopback(host), "{host}");
        }
        for host in ["example.org", "localhost.example.org:8000", "10.0.0.1", "[::2]", "", "127.0.0.1.example.org"] {
            assert!(!super::is_loopback(host), "{host}");
        }
    }
}
