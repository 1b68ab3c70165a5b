//! One request: its headers, its redirects, its repetitions.
//!
//! Redirects are followed by hand, because that is where tokens leak: the `Authorization` header goes out only to the
//! origin (scheme, host and port) of `HF_ENDPOINT`, whatever an answer's `Location` says, and never from https to http.
//! Repetition is for what may pass: 408, 429, 500, 502, 503, 504 and a broken connection, up to five times, after 1 s
//! doubling to 8 s, or after what `RateLimit` or `Retry-After` ask for.

use std::fs::File;
use std::io::{Read, Seek, SeekFrom};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use serde_json::Value;
use ureq::http;

use super::address::{Origin, join, origin, shown};
use super::answer::{Answer, Failure};
use super::settings::Settings;
use crate::ui::Ui;

/// Repetitions of a request that failed.
pub(super) const RETRIES: u32 = 5;

/// A longer wait than this is not waited for.
const LONGEST_WAIT: Duration = Duration::from_secs(900);

const MAX_REDIRECTS: usize = 10;

/// Speaks with the Hub for one settings.
pub struct Client {
    agent: ureq::Agent,
    settings: Settings,
    cancel: Option<Arc<AtomicBool>>,
}

/// What a request carries.
#[derive(Clone, Copy)]
pub(super) enum Body<'a> {
    /// Nothing.
    None,
    /// These bytes, of this content type.
    Bytes(&'a [u8], &'static str),
    /// A part of a file, and who watches it go.
    File { path: &'a Path, offset: u64, len: u64, ui: &'a dyn Ui },
}

/// Whether the token goes along; to the Hub's own origin only, in any case.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Auth {
    /// Never: the address carries its own permission.
    No,
    /// If there is one, and implicit use is not switched off: for reading.
    Reading,
    /// If there is one: for writing.
    Writing,
}

/// Which redirects are followed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Follow {
    /// All, the token staying behind where the origin is another.
    All,
    /// Those within one origin; the answer that leads elsewhere is returned, because it carries the file's metadata.
    OwnOrigin,
}

/// A request.
#[derive(Clone)]
pub(super) struct Request<'a> {
    pub method: &'static str,
    /// A full address, or a path of the Hub.
    pub url: String,
    pub headers: Vec<(&'static str, String)>,
    /// Headers that the server asked for; none of them takes the token along to another origin.
    pub server_headers: Vec<(String, String)>,
    pub body: Body<'a>,
    pub auth: Auth,
    pub follow: Follow,
}

impl<'a> Request<'a> {
    /// A request without a body.
    pub fn new(method: &'static str, url: impl Into<String>) -> Request<'a> {
        Request {
            method,
            url: url.into(),
            headers: Vec::new(),
            server_headers: Vec::new(),
            body: Body::None,
            auth: Auth::Reading,
            follow: Follow::All,
        }
    }

    /// A POST of a JSON value, for writing.
    pub fn json(url: impl Into<String>, body: &'a [u8]) -> Request<'a> {
        let mut request = Request::new("POST", url);
        request.body = Body::Bytes(body, "application/json");
        request.auth = Auth::Writing;
        request
    }

    pub fn header(mut self, name: &'static str, value: impl Into<String>) -> Request<'a> {
        self.headers.push((name, value.into()));
        self
    }
}

impl std::fmt::Debug for Client {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Client").field("endpoint", &self.settings.endpoint).finish_non_exhaustive()
    }
}

impl Client {
    /// A client for these settings; nothing is sent yet.
    pub fn new(settings: Settings) -> Client {
        let config = ureq::Agent::config_builder()
            .http_status_as_error(false)
            .max_redirects(0)
            .user_agent(concat!("taper/", env!("CARGO_PKG_VERSION")))
            .timeout_resolve(Some(Duration::from_secs(20)))
            .timeout_connect(Some(Duration::from_secs(20)))
            // For silence, not for the whole: a large file takes as long as it takes.
            .timeout_per_read(Some(Duration::from_secs(60)))
            .timeout_per_write(Some(Duration::from_secs(60)))
            .build();
        Client { agent: config.into(), settings, cancel: None }
    }

    /// A client that gives up soon after the flag is set.
    pub fn cancelled_by(mut self, flag: Arc<AtomicBool>) -> Client {
        self.cancel = Some(flag);
        self
    }

    /// What it was made with.
    pub fn settings(&self) -> &Settings {
        &self.settings
    }

    /// A text of the server's without the token, should it repeat that.
    pub(super) fn hidden(&self, text: &str) -> String {
        self.settings.token.as_ref().map_or_else(|| text.to_string(), |token| token.hide_in(text))
    }

    /// Whether someone asked to stop.
    pub(super) fn is_cancelled(&self) -> bool {
        self.cancel.as_ref().is_some_and(|flag| flag.load(Ordering::Relaxed))
    }

    /// Sends a request, and again if that may help.
    ///
    /// # Errors
    /// The last failure. An answer of status 400 and more is one, but 304 or 416 and the like are for the caller.
    pub(super) fn send(&self, request: &Request) -> Result<Answer, Failure> {
        let mut tries = Tries::new(self);
        loop {
            match self.send_once(request) {
                Err(failure) => tries.after(failure)?,
                answer => return answer,
            }
        }
    }

    /// Sends a request whose answer is JSON, and again if that may help: an answer that broke off is as good as none.
    ///
    /// # Errors
    /// As [`Client::send`], or an answer that is no JSON.
    pub(super) fn json(&self, request: &Request) -> Result<(Answer, Value), Failure> {
        let mut tries = Tries::new(self);
        loop {
            match self.send_once(request).and_then(Answer::into_json) {
                Err(failure) => tries.after(failure)?,
                answer => return answer,
            }
        }
    }

    /// Sends a request once; redirects are followed.
    ///
    /// # Errors
    /// A failure, for a status of 400 and more too. Whatever it says, the token is not in it.
    pub(super) fn send_once(&self, request: &Request) -> Result<Answer, Failure> {
        self.follow(request).map_err(|failure| failure.reworded(&|text| self.hidden(text)))
    }

    fn follow(&self, request: &Request) -> Result<Answer, Failure> {
        let mut url = match request.url.starts_with('/') {
            true => format!("{}{}", self.settings.endpoint, request.url),
            false => request.url.clone(),
        };
        let mut passed = Vec::new();
        for _ in 0..=MAX_REDIRECTS {
            if self.is_cancelled() {
                return Err(Failure::Cancelled);
            }
            let response = self.one(request, &url)?;
            let mut answer = Answer::new(response, &url, self.settings.token.clone());
            let may_follow = match request.method {
                "GET" | "HEAD" => matches!(answer.status, 301 | 302 | 303 | 307 | 308),
                _ => matches!(answer.status, 307 | 308),
            };
            let target = match answer.header("location") {
                Some(location) if may_follow => join(&url, location),
                _ => None,
            };
            let Some(target) = target else {
                if matches!(answer.status, 301 | 302 | 303 | 307 | 308) {
                    let (status, what) = (answer.status, shown(&url));
                    return Err(Failure::Refused(format!(
                        "{what} answers with a redirect (status {status}) that cannot be followed"
                    )));
                }
                answer.inherit(passed);
                return answer.into_result();
            };
            let (from, to) = (origin(&url), origin(&target));
            if from != to && request.follow == Follow::OwnOrigin {
                answer.inherit(passed);
                return Ok(answer);
            }
            if self.hidden(&target) != target {
                return Err(Failure::Refused(format!(
                    "{} leads to an address that repeats the access token, which would show it to others",
                    shown(&url)
                )));
            }
            let is_protected = |origin: &Option<Origin>| origin.as_ref().is_some_and(|origin| origin.0 == "https");
            if is_protected(&from) && !is_protected(&to) {
                return Err(Failure::Refused(format!("{} leads from https to an unprotected address", shown(&url))));
            }
            passed = answer.headers_of_note(passed);
            url = target;
        }
        Err(Failure::Refused(format!("{} is redirected without end", shown(&request.url))))
    }

    fn one(&self, request: &Request, url: &str) -> Result<http::Response<ureq::Body>, Failure> {
        let broken = |error: ureq::Error| Failure::network(url, &error);
        let mut builder = http::Request::builder().method(request.method).uri(url);
        for (name, value) in &request.headers {
            builder = builder.header(*name, value);
        }
        let own = origin(url) == origin(&self.settings.endpoint);
        for (name, value) in &request.server_headers {
            if own && name == "authorization" && request.auth != Auth::No {
                continue;
            }
            if own || self.hidden(value) == *value {
                builder = builder.header(name, value);
            }
        }
        if let Some(token) = &self.settings.token
            && (request.auth == Auth::Writing || request.auth == Auth::Reading && self.settings.implicit_token)
            && own
        {
            builder = builder.header("authorization", token.header());
        }
        let wrong = |_| Failure::Refused(format!("{} is not an address that can be asked", shown(url)));
        match request.body {
            Body::None => self.agent.run(builder.body(()).map_err(wrong)?).map_err(broken),
            Body::Bytes(bytes, kind) => {
                let request = builder.header("content-type", kind).body(bytes).map_err(wrong)?;
                self.agent.run(request).map_err(broken)
            }
            Body::File { path, offset, len, ui } => {
                let io = |error| Failure::Other(crate::error::Error::io("read", path)(error));
                let mut file = File::open(path).map_err(io)?;
                file.seek(SeekFrom::Start(offset)).map_err(io)?;
                let cancel = self.cancel.as_deref();
                let mut watched = Watched { file: file.take(len), ui, cancel };
                ui.begin("", offset, None);
                // With its length: storage takes no chunked bodies.
                let request = builder
                    .header("content-length", len)
                    .body(ureq::SendBody::from_reader(&mut watched))
                    .map_err(wrong)?;
                self.agent.run(request).map_err(broken)
            }
        }
    }

    /// Waits, unless cancelled.
    fn wait(&self, time: Duration) -> Result<(), Failure> {
        let until = Instant::now() + time;
        loop {
            if self.is_cancelled() {
                return Err(Failure::Cancelled);
            }
            let left = until.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return Ok(());
            }
            std::thread::sleep(left.min(Duration::from_millis(100)));
        }
    }
}

/// Counts failures of one undertaking and waits between them.
pub(super) struct Tries<'a> {
    client: &'a Client,
    failed: u32,
}

impl<'a> Tries<'a> {
    pub fn new(client: &'a Client) -> Tries<'a> {
        Tries { client, failed: 0 }
    }

    /// Something was achieved: the count begins again.
    pub fn reset(&mut self) {
        self.failed = 0;
    }

    /// Waits before the next try, or gives the failure back if there is none.
    pub fn after(&mut self, failure: Failure) -> Result<(), Failure> {
        let most = if matches!(failure, Failure::NoHost(_)) { 1 } else { RETRIES };
        if !failure.is_transient() || self.failed >= most {
            return Err(failure);
        }
        let doubled = self.client.settings.backoff * (1 << self.failed.min(3));
        let wait = failure.asked_wait().unwrap_or(doubled);
        self.failed += 1;
        if wait > LONGEST_WAIT {
            return Err(failure);
        }
        self.client.wait(wait)
    }
}

struct Watched<'a> {
    file: std::io::Take<File>,
    ui: &'a dyn Ui,
    cancel: Option<&'a AtomicBool>,
}

impl Read for Watched<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> std::io::Result<usize> {
        if self.cancel.is_some_and(|flag| flag.load(Ordering::Relaxed)) {
            return Err(std::io::Error::other("stopped"));
        }
        let count = self.file.read(buffer)?;
        self.ui.advance(count as u64);
        Ok(count)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses() {
        let base = "https://hub:8/a/b?x=/y";
        let cases = [
            ("/c?d", Some("https://hub:8/c?d")),
            ("c", Some("https://hub:8/a/c")),
            ("../c/./d?e=../f", Some("https://hub:8/c/d?e=../f")),
            ("?cursor=2", Some("https://hub:8/a/b?cursor=2")),
            (" HTTPS://o/c ", Some("HTTPS://o/c")),
            ("//other/c", Some("https://other/c")),
            ("http://o/c", Some("http://o/c")),
            ("javascript:x", None),
        ];
        for (location, expected) in cases {
            assert_eq!(join(base, location).as_deref(), expected, "{location}");
        }
        assert_eq!(origin("https://Hub/x"), origin("https://hub:443"));
        assert_ne!(origin("https://hub"), origin("http://hub"));
        assert_ne!(origin("https://hub@evil/x"), origin("https://hub/x"));
        assert_eq!(shown("https://u:p@h/x/y?signature=s#f"), "https://h/x/y");
    }
}
