//! What is answered: the texts of `taper sample`, in OpenAI's forms.

use serde_json::{Value, json};
use taper::sample::{FinishReason, Sample};

use super::client::{ask, complete, end, get, receive, sampled, send, server};

/// Why a text ended, in OpenAI's words.
fn reason(sample: &Sample) -> &'static str {
    if sample.finish_reason == FinishReason::Length { "length" } else { "stop" }
}

#[test]
fn completions_are_the_texts_of_sample() {
    let server = server(3, 0, |_| {});
    let body = json!({
        "model": "tiny", "prompt": ["abc", "de"], "max_tokens": 12, "n": 2, "seed": 5, "logprobs": 3, "user": "x"
    });
    let answer = ask(&server, "/v1/completions", body).json();
    assert_eq!((&answer["object"], &answer["model"]), (&json!("text_completion"), &json!("tiny")));
    let mut tokens = 0;
    for (index, (prompt, number)) in [("abc", 0), ("abc", 1), ("de", 0), ("de", 1)].into_iter().enumerate() {
        let (choice, expected) = (&answer["choices"][index], sampled(prompt, 12, 5, number, &[]));
        assert_eq!((&choice["index"], &choice["text"]), (&json!(index), &json!(expected.text)));
        assert_eq!(choice["finish_reason"], reason(&expected));
        assert_eq!(choice["logprobs"]["token_logprobs"], json!(expected.logprobs));
        let top = choice["logprobs"]["top_logprobs"].as_array().unwrap();
        assert!(
            top.len() == expected.tokens.len()
                && top.iter().all(|top| (3..=4).contains(&top.as_object().unwrap().len()))
        );
        assert_eq!(choice["logprobs"]["text_offset"][1], 1);
        tokens += expected.tokens.len();
    }
    assert_eq!(answer["usage"], json!({"prompt_tokens": 5, "completion_tokens": tokens, "total_tokens": 5 + tokens}));

    // Token ids and a text are the same prompt; an echo stands before the text; a stop string ends it.
    let plain = complete(&server, "abc", 12, 5);
    let body = json!({"prompt": [97, 98, 99], "max_tokens": 12, "seed": 5, "echo": true});
    assert_eq!(ask(&server, "/v1/completions", body).json()["choices"][0]["text"], format!("abc{plain}"));
    let stop: String = plain.chars().skip(3).take(1).collect();
    let expected = sampled("abc", 12, 5, 0, std::slice::from_ref(&stop));
    let body = json!({"prompt": "abc", "max_tokens": 12, "seed": 5, "stop": [stop]});
    let choice = &ask(&server, "/v1/completions", body).json()["choices"][0];
    assert_eq!((&choice["text"], &choice["finish_reason"]), (&json!(expected.text), &json!("stop")));
    // Without a seed every request draws anew.
    let texts: std::collections::BTreeSet<String> = (0..3)
        .map(|_| ask(&server, "/v1/completions", json!({"prompt": "abc"})).json()["choices"][0]["text"].to_string())
        .collect();
    assert!(texts.len() > 1);
    end(server);
}

#[test]
fn streams_carry_the_same_answer_in_pieces() {
    let server = server(2, 0, |_| {});
    let mut body = json!({
        "prompt": "abc", "max_tokens": 20, "n": 2, "seed": 9, "logprobs": 1, "echo": false, "stream": true,
        "stream_options": {"include_usage": true}
    });
    let reply = ask(&server, "/v1/completions", body.clone());
    assert!(reply.head.contains("content-type: text/event-stream"), "{}", reply.head);
    let chunks = reply.chunks();
    body["stream"] = json!(false);
    let whole = ask(&server, "/v1/completions", body).json();
    for index in 0..2 {
        let of = |chunk: &&Value| chunk["choices"][0]["index"] == index;
        let own: Vec<&Value> = chunks.iter().filter(of).map(|chunk| &chunk["choices"][0]).collect();
        let text: String = own.iter().map(|choice| choice["text"].as_str().unwrap()).collect();
        assert_eq!(text, whole["choices"][index]["text"].as_str().unwrap());
        let tokens: Vec<&Value> =
            own.iter().flat_map(|choice| choice["logprobs"]["tokens"].as_array().into_iter().flatten()).collect();
        assert_eq!(json!(tokens), whole["choices"][index]["logprobs"]["tokens"]);
        assert_eq!(own.last().unwrap()["finish_reason"], whole["choices"][index]["finish_reason"]);
        assert!(own[..own.len() - 1].iter().all(|choice| choice["finish_reason"].is_null()));
    }
    let usage = chunks.last().unwrap();
    assert_eq!((&usage["choices"], &usage["usage"]), (&json!([]), &whole["usage"]));

    let messages = json!([{"role": "user", "content": "hello"}]);
    let body = json!({"messages": messages, "max_tokens": 9, "seed": 1, "stream": true});
    let chunks = ask(&server, "/v1/chat/completions", body).chunks();
    assert_eq!(chunks[0]["choices"][0]["delta"], json!({"role": "assistant", "content": ""}));
    let text: String = chunks.iter().filter_map(|chunk| chunk["choices"][0]["delta"]["content"].as_str()).collect();
    assert_eq!(text, sampled("user: hello\nassistant:", 9, 1, 0, &[]).text);
    assert!(chunks.iter().all(|chunk| chunk["object"] == "chat.completion.chunk" && chunk.get("usage").is_none()));
    end(server);
}

#[test]
fn chats_are_written_as_the_template_says() {
    let server = server(1, 0, |_| {});
    let messages = json!([
        {"role": "system", "content": "s"},
        {"role": "user", "content": [{"type": "text", "text": "hel"}, {"type": "text", "text": "lo"}]}
    ]);
    let body = json!({
        "model": "tiny", "messages": messages, "max_completion_tokens": 9, "seed": 1, "logprobs": true, "top_logprobs": 2
    });
    let answer = ask(&server, "/v1/chat/completions", body).json();
    let expected = sampled("system: s\nuser: hello\nassistant:", 9, 1, 0, &[]);
    let choice = &answer["choices"][0];
    assert_eq!(choice["message"], json!({"role": "assistant", "content": expected.text, "refusal": null}));
    let content = choice["logprobs"]["content"].as_array().unwrap();
    for ((entry, &id), &logprob) in content.iter().zip(&expected.tokens).zip(&expected.logprobs) {
        assert_eq!((&entry["bytes"], &entry["logprob"]), (&json!([id]), &json!(logprob)));
        assert_eq!(entry["top_logprobs"].as_array().unwrap().len(), 2);
    }
    assert_eq!((content.len(), &answer["object"]), (expected.tokens.len(), &json!("chat.completion")));
    // Without a limit an answer continues to its end, or to the context's.
    let expected = sampled("user: x\nassistant:", 1000, 2, 0, &[]);
    let body = json!({"messages": [{"role": "user", "content": "x"}], "seed": 2});
    let answer = ask(&server, "/v1/chat/completions", body).json();
    assert_eq!(answer["choices"][0]["finish_reason"], reason(&expected));
    assert_eq!(answer["usage"]["completion_tokens"], expected.tokens.len());
    assert!(expected.tokens.len() > 16);
    end(server);
}

#[test]
fn the_other_endpoints() {
    let server = server(1, 0, |_| {});
    let fetch = |path: &str| receive(send(server.address(), &get(path)));
    let list = fetch("/v1/models").json();
    assert_eq!((&list["data"][0]["id"], &list["data"][0]["max_model_len"]), (&json!("tiny"), &json!(128)));
    assert_eq!(fetch("/v1/models/tiny").json()["object"], "model");
    assert_eq!(fetch("/health").json()["status"], "ok");
    assert_eq!(fetch("/v1/models/other").status, 404);
    assert_eq!(fetch("/").status, 404);
    assert_eq!(fetch("/v1/completions").status, 405);
    assert!(fetch("/metrics").body.contains("taper_requests_total{endpoint=\"completions\",status=\"405\"} 1"));
    end(server);
}
