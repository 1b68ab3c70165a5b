//! What comes back: an answer, or a failure that knows whether another try may help and how to say what is wrong.

use std::io::Read;
use std::time::{Duration, SystemTime};

use serde_json::Value;
use ureq::http;

use super::address::shown;
use super::repo::Repo;
use super::token::Token;
use crate::error::{Error, Result};

/// Statuses that may be otherwise the next time.
pub(super) const TRANSIENT: [u16; 6] = [408, 429, 500, 502, 503, 504];

/// Headers that a redirect may carry in place of its target.
const OF_NOTE: [&str; 3] = ["x-repo-commit", "x-linked-etag", "x-linked-size"];

/// The largest answer that is read as a whole: a listing or a message, never a file.
const MAX_BYTES: u64 = 64 << 20;

/// The head of an answer, and its body still to be read.
pub(super) struct Answer {
    pub status: u16,
    /// Where it came from, after redirects.
    pub url: String,
    headers: Vec<(String, String)>,
    pub body: ureq::Body,
    token: Option<Token>,
}

impl Answer {
    pub fn new(response: http::Response<ureq::Body>, url: &str, token: Option<Token>) -> Answer {
        let (parts, body) = response.into_parts();
        let text = |value: &http::HeaderValue| String::from_utf8_lossy(value.as_bytes()).into_owned();
        let headers = parts.headers.iter().map(|(name, value)| (name.as_str().to_string(), text(value))).collect();
        Answer { status: parts.status.as_u16(), url: url.to_string(), headers, body, token }
    }

    /// A header by its name in lower case.
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.iter().find(|(key, _)| key == name).map(|(_, value)| value.as_str())
    }

    /// What a redirect said about its target; later words win.
    pub fn headers_of_note(&self, before: Vec<(String, String)>) -> Vec<(String, String)> {
        let own = self.headers.iter().filter(|(name, _)| OF_NOTE.contains(&name.as_str())).cloned();
        own.chain(before).collect()
    }

    /// Takes over what redirects said, where this answer says nothing itself.
    pub fn inherit(&mut self, passed: Vec<(String, String)>) {
        self.headers.extend(passed);
    }

    /// This answer, or the failure that it reports.
    pub fn into_result(mut self) -> std::result::Result<Answer, Failure> {
        if self.status < 400 {
            return Ok(self);
        }
        let message = self.message();
        let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).map_or(0, |since| since.as_secs());
        let retry_after = self.header("retry-after").and_then(|text| seconds_of_retry_after(text, now));
        let rate_limit = self.header("ratelimit").and_then(seconds_of_rate_limit);
        let wait = match self.status {
            429 => rate_limit.or(retry_after).map(|seconds| seconds.saturating_add(1)),
            503 => retry_after,
            _ => None,
        };
        Err(Failure::Status {
            status: self.status,
            code: self.header("x-error-code").map(String::from),
            message,
            url: shown(&self.url),
            wait: wait.map(Duration::from_secs),
        })
    }

    /// The server's own words, without the token should it repeat that.
    fn message(&mut self) -> String {
        let mut bytes = Vec::new();
        // What cannot be read is no message; the status speaks.
        let _ = self.body.as_reader().take(16 << 10).read_to_end(&mut bytes);
        let said = serde_json::from_slice::<Value>(&bytes).ok().and_then(|body| {
            let text = |value: &Value| value.as_str().map(String::from);
            text(&body["error"]).or_else(|| text(&body["message"])).or_else(|| text(&body["error"]["message"])).or_else(
                || {
                    let list = body["errors"].as_array()?;
                    Some(list.iter().filter_map(|error| text(&error["message"])).collect::<Vec<_>>().join("; "))
                },
            )
        });
        let said = said.or_else(|| self.header("x-error-message").map(String::from)).unwrap_or_default();
        let said: String = said.chars().filter(|c| !c.is_control()).take(500).collect();
        match &self.token {
            Some(token) => token.hide_in(&said),
            None => said,
        }
    }

    /// The body as a JSON value.
    pub fn json(self) -> std::result::Result<Value, Failure> {
        self.into_json().map(|(_, value)| value)
    }

    /// The head, and the body as a JSON value.
    pub fn into_json(mut self) -> std::result::Result<(Answer, Value), Failure> {
        let mut bytes = Vec::new();
        let url = shown(&self.url);
        self.body
            .as_reader()
            .take(MAX_BYTES)
            .read_to_end(&mut bytes)
            .map_err(|error| Failure::Network(format!("the answer of {url} broke off: {error}")))?;
        match serde_json::from_slice(&bytes) {
            Ok(value) => Ok((self, value)),
            // Without its length nothing else shows that a body was cut.
            Err(error) if error.is_eof() => Err(Failure::Network(format!("the answer of {url} broke off"))),
            Err(_) => Err(Failure::Refused(format!("{url} answers something that is not JSON: is this a Hub?"))),
        }
    }
}

/// The `t` of `"api";r=0;t=55`, if `r` is 0; the longest where several limits are told.
fn seconds_of_rate_limit(header: &str) -> Option<u64> {
    let of_one = |limit: &str| {
        let (mut remaining, mut seconds) = (None, None);
        for (key, value) in limit.split(';').filter_map(|pair| pair.trim().split_once('=')) {
            match key.trim() {
                "r" => remaining = value.trim().parse::<u64>().ok(),
                "t" => seconds = value.trim().parse::<u64>().ok(),
                _ => {}
            }
        }
        seconds.filter(|_| remaining.is_none_or(|left| left == 0))
    };
    header.split(',').filter_map(of_one).max()
}

/// The seconds that `Retry-After` asks for: a number, or a date (RFC 9110, section 10.2.3), `now` being seconds since 1970.
fn seconds_of_retry_after(header: &str, now: u64) -> Option<u64> {
    let header = header.trim();
    if let Ok(seconds) = header.parse::<f64>() {
        return (seconds.is_finite() && seconds >= 0.0).then(|| seconds.ceil() as u64);
    }
    // Sun, 06 Nov 1994 08:49:37 GMT
    let words: Vec<&str> = header.split_whitespace().collect();
    let &[_, day, month, year, time, "GMT"] = &words[..] else { return None };
    const MONTHS: [&str; 12] = ["Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec"];
    let month = MONTHS.iter().position(|name| *name == month)? as i64 + 1;
    let (day, year) = (day.parse::<i64>().ok()?, year.parse::<i64>().ok()?);
    let clock: Vec<i64> = time.split(':').map(|part| part.parse().ok()).collect::<Option<_>>()?;
    let &[hours, minutes, seconds] = &clock[..] else { return None };
    if !(1970..10_000).contains(&year) || !(1..=31).contains(&day) {
        return None;
    }
    // Days since 1970 of a date in the Gregorian calendar, years counted from March so that leap days come last.
    let (y, m) = if month > 2 { (year, month - 3) } else { (year - 1, month + 9) };
    let days = 365 * y + y / 4 - y / 100 + y / 400 + (153 * m + 2) / 5 + day - 1 - 719_468;
    let at = days * 86_400 + hours * 3600 + minutes * 60 + seconds;
    Some(u64::try_from(at).ok()?.saturating_sub(now))
}

/// Why a request came to nothing.
#[derive(Debug)]
pub(super) enum Failure {
    /// The connection could not be made, or broke.
    Network(String),
    /// Not even the host's address could be found: most likely there is no network, so it is tried once more and no more.
    NoHost(String),
    /// The server answered with an error.
    Status { status: u16, code: Option<String>, message: String, url: String, wait: Option<Duration> },
    /// The answer makes no sense, or obeying it would be unsafe.
    Refused(String),
    /// Someone asked to stop.
    Cancelled,
    /// Something on this machine.
    Other(Error),
}

impl Failure {
    /// A failure below HTTP. The text of some errors holds the address, so only their kind is told.
    pub fn network(url: &str, error: &ureq::Error) -> Failure {
        let what = match error {
            ureq::Error::Io(error) => error.to_string(),
            ureq::Error::Timeout(_) => "no answer in time".into(),
            ureq::Error::HostNotFound => "there is no such host".into(),
            ureq::Error::ConnectionFailed => "no connection".into(),
            ureq::Error::Tls(what) => format!("TLS: {what}"),
            ureq::Error::Rustls(error) => format!("TLS: {error}"),
            ureq::Error::Protocol(_) => "the answer is not HTTP".into(),
            _ => "the request failed".into(),
        };
        let message = format!("cannot reach {}: {what}", shown(url));
        let is_lookup = matches!(error, ureq::Error::HostNotFound) || what.contains("lookup");
        if is_lookup { Failure::NoHost(message) } else { Failure::Network(message) }
    }

    /// The failure with each of its texts changed.
    pub fn reworded(self, change: &dyn Fn(&str) -> String) -> Failure {
        match self {
            Failure::Network(text) => Failure::Network(change(&text)),
            Failure::NoHost(text) => Failure::NoHost(change(&text)),
            Failure::Refused(text) => Failure::Refused(change(&text)),
            Failure::Status { status, code, message, url, wait } => {
                Failure::Status { status, code, message: change(&message), url: change(&url), wait }
            }
            failure @ (Failure::Cancelled | Failure::Other(_)) => failure,
        }
    }

    /// Whether the same request may succeed later.
    pub fn is_transient(&self) -> bool {
        match self {
            Failure::Network(_) | Failure::NoHost(_) => true,
            Failure::Status { status, .. } => TRANSIENT.contains(status),
            _ => false,
        }
    }

    /// Whether the server was not reached or is out of order, so that what is in the cache may serve.
    pub fn is_outage(&self) -> bool {
        self.is_transient()
    }

    /// How long the server asked to wait.
    pub fn asked_wait(&self) -> Option<Duration> {
        match self {
            Failure::Status { wait, .. } => *wait,
            _ => None,
        }
    }

    /// The status, if there was an answer.
    pub fn status(&self) -> Option<u16> {
        match self {
            Failure::Status { status, .. } => Some(*status),
            _ => None,
        }
    }

    /// The Hub's own name of the cause, as in `RepoNotFound`.
    pub fn code(&self) -> &str {
        match self {
            Failure::Status { code: Some(code), .. } => code,
            _ => "",
        }
    }

    /// The failure in a few words.
    pub fn into_message(self) -> String {
        Error::from(self).to_string()
    }

    /// The failure in words, for a person who wanted something of `repo`; `has_token` decides what to do about it.
    pub fn about(self, repo: &Repo, has_token: bool) -> Error {
        let Failure::Status { status, code, message, url, .. } = self else { return self.into() };
        let id = repo.id();
        let login = match has_token {
            true => "see that the token in use belongs to an account that may, and has the permission",
            false => "log in first: set HF_TOKEN, or run `hf auth login`",
        };
        let said = if message.is_empty() { String::new() } else { format!(" (the Hub says: {message})") };
        Error::Hub(match (code.as_deref().unwrap_or_default(), status) {
            ("GatedRepo", _) => format!(
                "{id} is gated: its owner wants its terms accepted first. Do that on its page on the Hub, and {login}{said}"
            ),
            ("RevisionNotFound", _) => {
                format!("{id} has no revision {:?}: see its branches and tags{said}", repo.revision())
            }
            ("EntryNotFound", _) => format!("{url} does not exist at revision {:?}{said}", repo.revision()),
            ("RepoNotFound", _) | (_, 404) => format!(
                "the Hub has no {} {id} that you may see: check the name; if it is private, {login}{said}",
                repo.kind()
            ),
            (_, 401) => format!("the Hub does not let you at {id}: it is private or does not exist; {login}{said}"),
            (_, 403) => format!("the Hub refuses this for {id}: {login}{said}"),
            (_, 429) => format!("the Hub takes no more requests for now; wait and try again{said}"),
            (_, 500..) => format!("the Hub is out of order (status {status} from {url}); try again later{said}"),
            _ => format!("the Hub refuses {url} with status {status}{said}"),
        })
    }
}

impl From<Failure> for Error {
    fn from(failure: Failure) -> Error {
        match failure {
            Failure::Network(what) | Failure::NoHost(what) => {
                Error::Hub(format!("{what}; check the connection and HF_ENDPOINT, and try again"))
            }
            Failure::Status { status, message, url, .. } => Error::Hub(
                format!("{url} answers with status {status}: {message}").trim_end_matches([':', ' ']).to_string(),
            ),
            Failure::Refused(what) => Error::Hub(what),
            Failure::Cancelled => Error::Hub("stopped before it was done".into()),
            Failure::Other(error) => error,
        }
    }
}

impl From<Error> for Failure {
    fn from(error: Error) -> Failure {
        Failure::Other(error)
    }
}

/// For `?` after what fails with a [`Failure`], where a repository is meant.
pub(super) trait About<T> {
    fn about(self, repo: &Repo, has_token: bool) -> Result<T>;
}

impl<T> About<T> for std::result::Result<T, Failure> {
    fn about(self, repo: &Repo, has_token: bool) -> Result<T> {
        self.map_err(|failure| failure.about(repo, has_token))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The form is that of huggingface_hub's utils/_http.py.
    #[test]
    fn rate_limits() {
        assert_eq!(seconds_of_rate_limit("\"api\";r=0;t=55"), Some(55));
        assert_eq!(seconds_of_rate_limit("\"api\"; r=0 ; t=7"), Some(7));
        assert_eq!(seconds_of_rate_limit("\"api\";r=3;t=55"), None);
        assert_eq!(seconds_of_rate_limit("nonsense"), None);
        assert_eq!(seconds_of_rate_limit("\"api\";r=0;t=5, \"resolvers\";r=9;t=90, \"pages\";r=0;t=7"), Some(7));
    }

    /// Seconds by `date -u -d "2026-02-28 23:59:50" +%s` and the like.
    #[test]
    fn retry_after_is_a_number_or_a_date() {
        assert_eq!(seconds_of_retry_after(" 7 ", 0), Some(7));
        assert_eq!(seconds_of_retry_after("1.2", 0), Some(2));
        assert_eq!(seconds_of_retry_after("Sun, 06 Nov 1994 08:49:37 GMT", 784_111_770), Some(7));
        assert_eq!(seconds_of_retry_after("Sat, 28 Feb 2026 23:59:50 GMT", 1_772_323_180), Some(10));
        assert_eq!(seconds_of_retry_after("Thu, 29 Feb 2024 00:00:00 GMT", 1_709_164_800), Some(0));
        assert_eq!(seconds_of_retry_after("Sat, 28 Feb 2026 23:59:50 GMT", u64::MAX), Some(0));
        for wrong in ["-1", "soon", "Sat, 28 Foo 2026 23:59:50 GMT", "Sat, 28 Feb 2026 23:59 GMT", "nan"] {
            assert_eq!(seconds_of_retry_after(wrong, 0), None, "{wrong}");
        }
    }
}
