//! What is refused, and how: never with more than a 4xx, never with a crash.

use std::io::Write;
use std::time::Duration;

use serde_json::json;

use super::client::{FATAL, Metrics, ask, complete, end, gated, get, post, receive, sampled, send, server, until};
use taper::serve::Options;

const PATH: &str = "/v1/completions";

#[test]
fn malformed_requests_get_4xx_and_do_no_harm() {
    let server = server(1, 0, |options| {
        options.body_bytes = 2000;
        options.new_tokens = 40;
        options.prompt_tokens = 30;
    });
    for (body, param) in [
        (json!({"prompt": "a", "max_tokens": 41}), "max_tokens"),
        (json!({"prompt": "a".repeat(31)}), "prompt"),
        (json!({"prompt": "a", "temperature": "hot"}), "temperature"),
        (json!({"prompt": {"a": 1}}), "prompt"),
    ] {
        let reply = ask(&server, PATH, body);
        assert_eq!((reply.status, &reply.json()["error"]["param"]), (400, &json!(param)), "{reply:?}");
    }
    assert_eq!(ask(&server, PATH, json!([])).status, 400);
    let unknown = ask(&server, PATH, json!({"model": "gpt-4"}));
    assert_eq!((unknown.status, &unknown.json()["error"]["code"]), (404, &json!("model_not_found")));
    // Too large: as announced, and as it comes.
    let large = ask(&server, PATH, json!({"prompt": "a".repeat(3000)}));
    assert_eq!(large.status, 413);
    let chunked = format!(
        "POST {PATH} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\nTransfer-Encoding: chunked\r\n\r\nbb8\r\n"
    );
    let chunked = [chunked.as_bytes(), &[b' '; 3000], b"\r\n0\r\n\r\n"].concat();
    assert_eq!(receive(send(server.address(), &chunked)).status, 413);
    // What is no HTTP, or no JSON, or breaks off.
    for garbage in [&b"\x16\x03\x01\x02\x00 not http\r\n\r\n"[..], b"GET / HTTP/9.9\r\n\r\n", b"POST\r\n\r\n"] {
        let reply = receive(send(server.address(), garbage));
        assert!((400..500).contains(&reply.status), "{reply:?}");
    }
    for body in ["{", "{\"prompt\": \"\\ud800\"}", "\u{0}", &"[".repeat(1500)] {
        let head = format!(
            "POST {PATH} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\nContent-Length: {}\r\n\r\n",
            body.len()
        );
        assert_eq!(receive(send(server.address(), format!("{head}{body}").as_bytes())).status, 400, "{body}");
    }
    drop(send(
        server.address(),
        format!("POST {PATH} HTTP/1.1\r\nHost: localhost\r\nContent-Length: 50\r\n\r\n{{").as_bytes(),
    ));
    drop(send(server.address(), b"POST /v1/comp"));
    // Ten were refused: nine above, and the body that broke off.
    until(&server, "the client that left is counted", |metrics| {
        metrics.sum("taper_requests_total{endpoint=\"completions\",status=\"400\"}") == 10.0
    });
    assert_eq!(complete(&server, "still there", 3, 0), sampled("still there", 3, 0, 0, &[]).text);
    end(server);
}

#[test]
fn a_body_that_does_not_come_is_not_waited_for() {
    let server = server(1, 0, |options| options.patience = Duration::from_millis(100));
    let head = format!("POST {PATH} HTTP/1.1\r\nHost: localhost\r\nContent-Length: 50\r\n\r\n");
    let stream = send(server.address(), head.as_bytes());
    assert_eq!(receive(stream).status, 408);
    // Nor is the end of a header.
    let mut stream = send(server.address(), b"GET /health HT");
    let mut rest = Vec::new();
    let _ = std::io::Read::read_to_end(&mut stream, &mut rest);
    assert!(rest.is_empty() || rest.starts_with(b"HTTP/1.1 408"), "{rest:?}");
    end(server);
}

#[test]
fn the_key_is_asked_of_everyone_and_told_to_nobody() {
    let key = "a-key-for-testing";
    let server = server(1, 0, |options| options.api_key = Some(key.into()));
    let with = |header: &str| {
        let request = String::from_utf8(get("/v1/models")).unwrap();
        receive(send(server.address(), request.replace("Connection", &format!("{header}\r\nConnection")).as_bytes()))
    };
    assert_eq!(with(&format!("Authorization: Bearer {key}")).status, 200);
    assert_eq!(with(&format!("authorization: bearer  {key}")).status, 200);
    for header in [
        "X: y",
        "Authorization: Bearer",
        "Authorization: Bearer a-key-for-testin",
        "Authorization: Basic a-key-for-testing",
    ] {
        let reply = with(header);
        assert_eq!((reply.status, &reply.json()["error"]["code"]), (401, &json!("invalid_api_key")), "{header}");
    }
    assert_eq!(receive(send(server.address(), &get("/health"))).status, 200);
    assert_eq!(receive(send(server.address(), &get("/metrics"))).status, 401);
    assert_eq!(ask(&server, PATH, json!({"prompt": "a"})).status, 401);
    end(server);

    let others = Options { address: ([0, 0, 0, 0], 0).into(), ..Options::default() };
    assert_eq!(others.validate().unwrap_err().exit_code(), 2);
    let keyed = Options { api_key: Some(key.into()), ..others.clone() };
    assert!(keyed.validate().is_ok() && !format!("{keyed:?}").contains(key));
    for bad in ["", "two words", "é"] {
        assert!(Options { api_key: Some(bad.into()), ..others.clone() }.validate().is_err());
    }
}

#[test]
fn pages_of_strangers_are_not_answered() {
    let server = server(1, 0, |_| {});
    let with = |host: &str, origin: &str| {
        let request = format!("GET /v1/models HTTP/1.1\r\nHost: {host}\r\n{origin}Connection: close\r\n\r\n");
        receive(send(server.address(), request.as_bytes())).status
    };
    assert_eq!(with("127.0.0.1:8000", ""), 200);
    assert_eq!(with("localhost:8000", "Origin: http://localhost:3000\r\n"), 200);
    assert_eq!(with("evil.example:8000", ""), 403);
    assert_eq!(with("localhost", "Origin: https://evil.example\r\n"), 403);
    assert_eq!(with("localhost", "Origin: null\r\n"), 403);
    end(server);
}

#[test]
fn a_full_queue_sends_clients_away_and_serves_the_others() {
    let (server, gate) = gated(1, 0, |options| options.queue = 2);
    gate.close();
    let body = |seed: u64| json!({"prompt": "a", "max_tokens": 100, "seed": seed, "stream": true});
    let running: Vec<_> = (0..3).map(|seed| send(server.address(), &post(PATH, &body(seed)))).collect();
    until(&server, "one text runs and two wait", |metrics| {
        metrics.sum("taper_active_sequences") == 1.0 && metrics.sum("taper_queue_length") == 2.0
    });
    let refused = ask(&server, PATH, body(3));
    assert_eq!(refused.status, 429, "{refused:?}");
    assert!(refused.head.contains("retry-after: 2") && refused.json()["error"]["type"] == "rate_limit_error");
    gate.open();
    // More texts than can ever be under way are no matter of waiting.
    assert_eq!(ask(&server, PATH, json!({"prompt": "a", "n": 4})).status, 400);
    for stream in running {
        assert!(receive(stream).chunks().last().unwrap()["choices"][0]["finish_reason"].is_string());
    }
    assert_eq!(Metrics::of(&server).sum("taper_sequences_total{end=\"finished\"}"), 3.0);
    end(server);
}

#[test]
fn a_failing_device_is_told_and_the_server_goes_on() {
    let server = server(2, 0, |_| {});
    let expected = complete(&server, "abc", 5, 1);
    let reply = ask(&server, PATH, json!({"prompt": FATAL}));
    assert_eq!((reply.status, &reply.json()["error"]["type"]), (500, &json!("server_error")));
    assert!(reply.body.contains("the device has gone"));
    let reply = ask(&server, PATH, json!({"prompt": FATAL, "stream": true}));
    assert!(reply.status == 200 && reply.body.contains("\"server_error\"") && !reply.body.contains("[DONE]"));
    assert_eq!(complete(&server, "abc", 5, 1), expected);
    assert_eq!(Metrics::of(&server).sum("taper_sequences_total{end=\"failed\"}"), 2.0);
    end(server);
}

#[test]
fn connections_beyond_the_limit_wait_their_turn() {
    let server = server(1, 0, |options| options.connections = 1);
    let mut first = send(server.address(), b"GET /health HTTP/1.1\r\nHost: localhost\r\n");
    let second = send(server.address(), &get("/health"));
    first.write_all(b"Connection: close\r\n\r\n").unwrap();
    assert_eq!((receive(first).status, receive(second).status), (200, 200));
    end(server);
}
