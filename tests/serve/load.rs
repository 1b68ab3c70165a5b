//! Many clients at once: the texts stay the same, slots come back, nothing is left behind.

use std::io::Read;
use std::net::SocketAddr;
use std::time::Duration;

use serde_json::json;

use super::client::{
    Metrics, ask, complete, end, gated, get, long_winded, post, receive, sampled, send, server, until,
};

const PATH: &str = "/v1/completions";

fn finished(metrics: &Metrics) -> f64 {
    metrics.sum("taper_sequences_total{end=\"finished\"}")
}

#[test]
fn a_text_is_the_same_alone_and_under_load() {
    let server = server(5, 0, |_| {});
    let address = server.address();
    let cases: Vec<(String, usize, u64)> =
        (0..24).map(|i| (format!("{}{i}", "prompt ".repeat(i % 5)), 5 + i % 11, i as u64 % 7)).collect();
    std::thread::scope(|scope| {
        for (prompt, tokens, seed) in &cases {
            scope.spawn(move || {
                let body = json!({"prompt": prompt, "max_tokens": tokens, "seed": seed});
                let reply = receive(send(address, &post(PATH, &body)));
                let expected = sampled(prompt, *tokens, *seed, 0, &[]).text;
                assert_eq!(reply.json()["choices"][0]["text"], expected, "{prompt}");
            });
        }
    });
    let metrics = Metrics::of(&server);
    assert_eq!(finished(&metrics), 24.0);
    let written = |(prompt, tokens, seed): &(String, usize, u64)| sampled(prompt, *tokens, *seed, 0, &[]).tokens.len();
    let tokens: usize = cases.iter().map(written).sum();
    assert_eq!(metrics.sum("taper_generated_tokens_total"), tokens as f64);
    let prompts: usize = cases.iter().map(|(prompt, ..)| prompt.len()).sum();
    assert_eq!(metrics.sum("taper_prompt_tokens_total"), prompts as f64);
    end(server);
}

#[test]
fn clients_that_leave_give_their_slots_back() {
    // A text takes 120 steps of 20 ms: long enough to notice that its client has gone.
    let (server, gate) = gated(1, 20, |_| {});
    let seed = long_winded(120);
    let long = |stream: bool| post(PATH, &json!({"prompt": "a", "max_tokens": 120, "seed": seed, "stream": stream}));
    for (round, stream) in [(1.0, true), (2.0, false)] {
        gate.close();
        let running = send(server.address(), &long(stream));
        until(&server, "the text runs", |metrics| metrics.sum("taper_active_sequences") == 1.0);
        // One that leaves while it waits never gets a slot.
        let waiting = send(server.address(), &long(stream));
        until(&server, "another waits", |metrics| metrics.sum("taper_queue_length") == 1.0);
        drop(waiting);
        until(&server, "nobody waits", |metrics| metrics.sum("taper_queue_length") == 0.0);
        drop(running);
        gate.open();
        let metrics = until(&server, "the slot is free", |metrics| metrics.sum("taper_active_sequences") == 0.0);
        assert_eq!(metrics.sum("taper_sequences_total{end=\"cancelled\"}"), round);
        assert_eq!((finished(&metrics), metrics.sum("taper_queue_seconds_count")), (round - 1.0, round * 2.0 - 1.0));
        complete(&server, "b", 2, 0);
    }
    until(&server, "all four are counted", |metrics| {
        metrics.sum("taper_requests_total{endpoint=\"completions\",status=\"499\"}") == 4.0
    });
    end(server);
}

/// What of a client's kinds it is, by its number: reads all, leaves at once, leaves after some bytes, sends nonsense.
fn client(address: SocketAddr, number: usize) {
    let stream = number.is_multiple_of(2);
    let body = json!({"prompt": "x".repeat(1 + number % 40), "max_tokens": 1 + number * 7 % 60, "seed": number, "stream": stream});
    match number % 5 {
        0 | 1 => {
            let reply = receive(send(address, &post(PATH, &body)));
            assert_eq!(reply.status, 200, "{reply:?}");
        }
        2 => drop(send(address, &post(PATH, &body))),
        3 => {
            let mut connection = send(address, &post(PATH, &body));
            let mut some = vec![0; 10 + number];
            let _ = connection.read(&mut some);
        }
        _ => assert_eq!(receive(send(address, &post(PATH, &json!({"prompt": stream})))).status, 400),
    }
}

/// The value of a line of /proc/self/status, where there is one.
fn status(name: &str) -> Option<u64> {
    let text = std::fs::read_to_string("/proc/self/status").ok()?;
    text.lines().find_map(|line| line.strip_prefix(name)?.split_whitespace().nth(1)?.parse().ok())
}

#[test]
fn two_hundred_clients_at_once_leave_nothing_behind() {
    let server = server(4, 1, |_| {});
    let address = server.address();
    let wave = || {
        std::thread::scope(|scope| {
            for number in 0..200 {
                scope.spawn(move || client(address, number));
            }
        });
        until(&server, "all is quiet", |metrics| {
            let busy = metrics.sum("taper_active_sequences") + metrics.sum("taper_queue_length");
            // The one connection is that of this question.
            busy == 0.0 && metrics.sum("taper_connections") == 1.0
        })
    };
    wave();
    let after_one = status("VmRSS");
    wave();
    let metrics = wave();
    // Every request is counted once; whoever sent a request and left may have left before it was read, which is not one.
    let requests =
        |status: &str| metrics.sum(&format!("taper_requests_total{{endpoint=\"completions\",status=\"{status}\"}}"));
    let (ok, bad, left) = (requests("200"), requests("400"), requests("499"));
    assert_eq!(bad, 3.0 * 40.0);
    assert!(ok >= 3.0 * 80.0 && ok + left <= 3.0 * 160.0, "{ok} answered, {left} left");
    assert_eq!(metrics.sum("taper_requests_total{endpoint=\"completions\""), ok + bad + left);
    // Every text that had a slot ended in one way.
    let ended = metrics.sum("taper_sequences_total");
    assert_eq!(ended, metrics.sum("taper_queue_seconds_count"));
    assert_eq!(
        metrics.sum("taper_sequences_total{end=\"failed\"}") + metrics.sum("taper_sequences_total{end=\"cut\"}"),
        0.0
    );
    assert_eq!(
        metrics.sum("taper_generated_tokens_total"),
        metrics.sum("taper_first_token_seconds_count") + metrics.sum("taper_token_seconds_count")
    );
    if let (Some(before), Some(after)) = (after_one, status("VmRSS")) {
        // 400 more clients; the caches of the slots and the stacks of threads are there after the first 200.
        assert!(after < before + 50_000, "memory grew from {before} to {after} kB");
    }
    end(server);
}

#[test]
fn a_stop_lets_texts_end_within_the_grace_and_cuts_the_others() {
    let (patient, gate) = gated(1, 0, |options| options.grace = Duration::from_secs(30));
    gate.close();
    let short = send(patient.address(), &post(PATH, &json!({"prompt": "a", "max_tokens": 30, "seed": 3})));
    let open = send(patient.address(), b"GET /health HTTP/1.1\r\nHost: localhost\r\n");
    until(&patient, "the text runs", |metrics| metrics.sum("taper_active_sequences") == 1.0);
    patient.stop();
    gate.open();
    assert_eq!(receive(short).json()["choices"][0]["text"], sampled("a", 30, 3, 0, &[]).text);
    drop(open);
    patient.wait().unwrap();

    let hasty = server(1, 40, |options| options.grace = Duration::from_millis(100));
    let seed = long_winded(120);
    let body = |stream: bool| json!({"prompt": "a", "max_tokens": 120, "seed": seed, "stream": stream});
    let streamed = send(hasty.address(), &post(PATH, &body(true)));
    until(&hasty, "the text runs", |metrics| metrics.sum("taper_active_sequences") == 1.0);
    let whole = send(hasty.address(), &post(PATH, &body(false)));
    until(&hasty, "another waits", |metrics| metrics.sum("taper_queue_length") == 1.0);
    hasty.stop();
    let streamed = receive(streamed);
    assert!(streamed.body.contains("server ended") && !streamed.body.contains("[DONE]"), "{streamed:?}");
    assert_eq!(receive(whole).status, 503);
    hasty.wait().unwrap();
}

#[test]
fn one_connection_carries_many_requests() {
    let server = server(1, 0, |_| {});
    let request = String::from_utf8(get("/health")).unwrap();
    let kept = request.replace("Connection: close\r\n", "");
    let reply = receive(send(server.address(), format!("{kept}{kept}{request}").as_bytes()));
    assert_eq!(reply.body.matches("{\"status\":\"ok\"}").count(), 3);
    assert_eq!(ask(&server, PATH, json!({"prompt": ""})).status, 200);
    end(server);
}
