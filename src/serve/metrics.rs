//! What the server counts, in Prometheus' text format.

use std::collections::BTreeMap;
use std::fmt::Write;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

/// Upper bounds in seconds: of whole requests, of waits, and of single tokens.
const REQUEST: &[f64] = &[0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 120.0];
const WAIT: &[f64] = &[0.001, 0.005, 0.01, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0];
const TOKEN: &[f64] = &[0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0];

/// Counts of durations below bounds.
#[derive(Debug)]
struct Histogram {
    bounds: &'static [f64],
    /// One for each bound and one beyond.
    counts: Vec<AtomicU64>,
    nanoseconds: AtomicU64,
}

impl Histogram {
    fn new(bounds: &'static [f64]) -> Histogram {
        let counts = (0..=bounds.len()).map(|_| AtomicU64::new(0)).collect();
        Histogram { bounds, counts, nanoseconds: AtomicU64::new(0) }
    }

    fn add(&self, duration: Duration) {
        let seconds = duration.as_secs_f64();
        let place = self.bounds.iter().position(|&bound| seconds <= bound).unwrap_or(self.bounds.len());
        self.counts[place].fetch_add(1, Relaxed);
        self.nanoseconds.fetch_add(duration.as_nanos() as u64, Relaxed);
    }

    fn write(&self, out: &mut String, name: &str, help: &str) {
        head(out, name, "histogram", help);
        let mut sum = 0;
        for (place, count) in self.counts.iter().enumerate() {
            sum += count.load(Relaxed);
            let bound = self.bounds.get(place).map_or("+Inf".to_string(), f64::to_string);
            let _ = writeln!(out, "{name}_bucket{{le=\"{bound}\"}} {sum}");
        }
        let _ = writeln!(out, "{name}_sum {}\n{name}_count {sum}", self.nanoseconds.load(Relaxed) as f64 / 1e9);
    }
}

/// Everything that is counted; shared by all threads.
#[derive(Debug)]
pub(super) struct Metrics {
    slots: usize,
    /// By endpoint and status.
    requests: Mutex<BTreeMap<(&'static str, u16), u64>>,
    /// By how they ended.
    sequences: Mutex<BTreeMap<&'static str, u64>>,
    prompt_tokens: AtomicU64,
    generated_tokens: AtomicU64,
    connections: AtomicU64,
    request: Histogram,
    wait: Histogram,
    first: Histogram,
    next: Histogram,
}

impl Metrics {
    pub(super) fn new(slots: usize) -> Metrics {
        Metrics {
            slots,
            requests: Mutex::default(),
            sequences: Mutex::default(),
            prompt_tokens: AtomicU64::new(0),
            generated_tokens: AtomicU64::new(0),
            connections: AtomicU64::new(0),
            request: Histogram::new(REQUEST),
            wait: Histogram::new(WAIT),
            first: Histogram::new(WAIT),
            next: Histogram::new(TOKEN),
        }
    }

    /// A request was answered with `status`, or given up by its client (499), after `duration`.
    pub(super) fn request(&self, endpoint: &'static str, status: u16, duration: Duration) {
        *self.requests.lock().unwrap_or_else(PoisonError::into_inner).entry((endpoint, status)).or_default() += 1;
        self.request.add(duration);
    }

    /// A text left its slot (or never came to be written): `finished`, `cancelled`, `failed` or `cut`.
    pub(super) fn sequence(&self, how: &'static str) {
        *self.sequences.lock().unwrap_or_else(PoisonError::into_inner).entry(how).or_default() += 1;
    }

    /// A text got its slot after waiting for `waited`.
    pub(super) fn began(&self, prompt_tokens: usize, waited: Duration) {
        self.prompt_tokens.fetch_add(prompt_tokens as u64, Relaxed);
        self.wait.add(waited);
    }

    /// A text's first token came `after` it was asked for.
    pub(super) fn first_token(&self, after: Duration) {
        self.generated_tokens.fetch_add(1, Relaxed);
        self.first.add(after);
    }

    /// A further token came `after` the one before.
    pub(super) fn next_token(&self, after: Duration) {
        self.generated_tokens.fetch_add(1, Relaxed);
        self.next.add(after);
    }

    pub(super) fn connected(&self) {
        self.connections.fetch_add(1, Relaxed);
    }

    pub(super) fn disconnected(&self) {
        self.connections.fetch_sub(1, Relaxed);
    }

    /// The text of `/metrics`, given how many texts wait and how many are written.
    pub(super) fn text(&self, (waiting, active): (usize, usize)) -> String {
        let mut out = String::new();
        head(&mut out, "taper_requests_total", "counter", "Requests by endpoint and status; 499: the client left.");
        for ((endpoint, status), count) in &*self.requests.lock().unwrap_or_else(PoisonError::into_inner) {
            let _ = writeln!(out, "taper_requests_total{{endpoint=\"{endpoint}\",status=\"{status}\"}} {count}");
        }
        head(&mut out, "taper_sequences_total", "counter", "Texts that had a slot, by how they ended.");
        for (how, count) in &*self.sequences.lock().unwrap_or_else(PoisonError::into_inner) {
            let _ = writeln!(out, "taper_sequences_total{{end=\"{how}\"}} {count}");
        }
        let counters = [
            ("taper_prompt_tokens_total", "Prompt tokens read.", &self.prompt_tokens),
            ("taper_generated_tokens_total", "Tokens written.", &self.generated_tokens),
        ];
        for (name, help, counter) in counters {
            head(&mut out, name, "counter", help);
            let _ = writeln!(out, "{name} {}", counter.load(Relaxed));
        }
        let gauges = [
            ("taper_queue_length", "Texts that wait for a slot.", waiting as u64),
            ("taper_active_sequences", "Texts that are written.", active as u64),
            ("taper_slots", "Texts that can be written side by side.", self.slots as u64),
            ("taper_connections", "Open connections.", self.connections.load(Relaxed)),
        ];
        for (name, help, value) in gauges {
            head(&mut out, name, "gauge", help);
            let _ = writeln!(out, "{name} {value}");
        }
        self.request.write(&mut out, "taper_request_seconds", "From a request to the end of its answer.");
        self.wait.write(&mut out, "taper_queue_seconds", "From a request to its slot, for each text.");
        self.first.write(&mut out, "taper_first_token_seconds", "From a request to its first token, for each text.");
        self.next.write(&mut out, "taper_token_seconds", "Between two tokens of a text.");
        out
    }
}

fn head(out: &mut String, name: &str, kind: &str, help: &str) {
    let _ = writeln!(out, "# HELP {name} {help}\n# TYPE {name} {kind}");
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn histograms_add_up_and_gauges_go_down() {
        let metrics = Metrics::new(4);
        for milliseconds in [0, 5, 6, 999, 60_000] {
            metrics.first_token(Duration::from_millis(milliseconds));
        }
        metrics.request("completions", 200, Duration::from_millis(1));
        metrics.request("completions", 499, Duration::from_millis(1));
        metrics.request("completions", 200, Duration::from_millis(1));
        metrics.connected();
        metrics.disconnected();
        let text = metrics.text((3, 2));
        for line in [
            "taper_first_token_seconds_bucket{le=\"0.001\"} 1",
            "taper_first_token_seconds_bucket{le=\"0.005\"} 2",
            "taper_first_token_seconds_bucket{le=\"0.01\"} 3",
            "taper_first_token_seconds_bucket{le=\"1\"} 4",
            "taper_first_token_seconds_bucket{le=\"+Inf\"} 5",
            "taper_first_token_seconds_count 5",
            "taper_first_token_seconds_sum 61.01",
            "taper_requests_total{endpoint=\"completions\",status=\"200\"} 2",
            "taper_requests_total{endpoint=\"completions\",status=\"499\"} 1",
            "taper_generated_tokens_total 5",
            "taper_queue_length 3",
            "taper_active_sequences 2",
            "taper_slots 4",
            "taper_connections 0",
        ] {
            assert!(text.lines().any(|found| found == line), "{line}\n{text}");
        }
    }
}
