//! `taper chat` through a pipe: one line, one turn; only answers on standard output.

use std::io::Write;
use std::process::Stdio;

use serde_json::Value;

use super::command::{Shop, taper};

const TEMPLATE: &str =
    "{% for m in messages %}[{{ m.role }}]{{ m.content }}{% endfor %}{% if add_generation_prompt %}[a]{% endif %}";

/// A shop whose model has a chat template.
fn chat_shop() -> Shop {
    let shop = Shop::new();
    std::fs::write(shop.path("model/chat_template.jinja"), TEMPLATE).unwrap();
    shop
}

/// Standard output, standard error and exit code of a chat that is told these lines.
fn chat(shop: &Shop, more: &[&str], lines: &str) -> (String, String, Option<i32>) {
    let model = shop.model();
    let arguments = [&["chat", &model, "--max-new-tokens", "6"], more].concat();
    let mut command = taper(&arguments);
    command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).current_dir(shop.0.path());
    let mut child = command.spawn().unwrap();
    // A chat that has failed no longer reads.
    let _ = child.stdin.take().unwrap().write_all(lines.as_bytes());
    let output = child.wait_with_output().unwrap();
    let text = |bytes: Vec<u8>| String::from_utf8(bytes).unwrap();
    (text(output.stdout), text(output.stderr), output.status.code())
}

/// What `taper sample` writes after a prompt.
fn sample(shop: &Shop, prompt: &str) -> String {
    let model = shop.model();
    let arguments = ["sample", &model, "--prompt", prompt, "--max-new-tokens", "6", "--temperature", "0", "--json"];
    let output = taper(&arguments).output().unwrap();
    let json: Value = serde_json::from_slice(&output.stdout).unwrap();
    json["samples"][0]["text"].as_str().unwrap().to_string()
}

#[test]
fn one_line_is_one_turn_and_only_answers_are_on_standard_output() {
    let shop = chat_shop();
    let (out, err, code) = chat(&shop, &["--temperature", "0", "--system", "S"], "one\n\n/save talk.jsonl\n/regen\n");
    assert_eq!(code, Some(0), "{err}");
    let answer = sample(&shop, "[system]S[user]one[a]");
    assert_eq!(out, format!("{answer}\n{answer}\n"));
    let saved: Value = serde_json::from_str(std::fs::read_to_string(shop.path("talk.jsonl")).unwrap().trim()).unwrap();
    let expected = serde_json::json!({"messages": [
        {"role": "system", "content": "S"}, {"role": "user", "content": "one"}, {"role": "assistant", "content": answer}
    ]});
    assert_eq!(saved, expected);
    // The same inputs give the same conversation; another seed another one.
    let talk = |seed: &str| chat(&shop, &["--seed", seed], "one\ntwo\n/regen\n/set temperature=0.5\nthree\n").0;
    assert_eq!(talk("1"), talk("1"));
    assert_ne!(talk("1"), talk("2"));
}

#[test]
fn a_base_model_continues_the_text() {
    let shop = Shop::new();
    let (out, err, code) = chat(&shop, &["--temperature", "0"], "one\n/system S\n");
    // Through a pipe a mistake ends the conversation.
    assert_eq!((out, code), (format!("{}\n", sample(&shop, "one")), Some(2)));
    assert!(err.contains("base model"), "{err}");
    let plain = chat(&chat_shop(), &["--temperature", "0", "--plain"], "one\n");
    assert_eq!((plain.0, plain.2), (format!("{}\n", sample(&shop, "one")), Some(0)));
}

#[test]
fn long_conversations_leave_their_beginning_behind_and_say_so() {
    let shop = chat_shop();
    let (out, err, code) = chat(&shop, &["--temperature", "0"], &"twenty characters...\n".repeat(8));
    assert_eq!(code, Some(0), "{err}");
    assert!(err.contains("oldest") && !out.is_empty(), "{err}");
    let (_, err, code) = chat(&shop, &[], &format!("{}\n", "x".repeat(200)));
    assert_eq!(code, Some(2));
    assert!(err.contains("context holds 120"), "{err}");
}

#[test]
fn what_cannot_be_is_refused_before_the_first_turn() {
    let shop = chat_shop();
    for (more, word) in [
        (&["--temperature", "-1"][..], "temperature"),
        (&["--engine", "reference"], "engine"),
        (&["--template", "absent.jinja"], "absent.jinja"),
    ] {
        let (out, err, code) = chat(&shop, more, "one\n");
        assert!(out.is_empty() && code != Some(0) && err.contains(word), "{err}");
    }
    std::fs::write(shop.path("model/chat_template.jinja"), "{% if %}").unwrap();
    let (_, err, code) = chat(&shop, &[], "one\n");
    assert_eq!(code, Some(1));
    assert!(err.contains("chat_template.jinja") && err.contains("line 1"), "{err}");
}
