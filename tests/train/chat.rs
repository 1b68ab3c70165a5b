//! Training on conversations: what is learned, from where, and what is refused.

use super::common::{Shop, read, stderr, timeless};
use std::fmt::Write;
use std::path::Path;
use taper::events::Event;

/// Fine-tunes the GPT-2 of the fixtures, whose context is 40 and whose vocabulary has 320 ids.
const CONFIG: &str = r#"
[run]
name = "chat"
seed = 5
[model]
init_from = "base"
[data]
text = ["chat.jsonl"]
format = "chat"
val_fraction = 0.1
[train]
micro_batch = 2
global_batch = 4
max_steps = 40
log_every = 5
[optimizer]
lr = 1e-2
[schedule]
warmup_steps = 2
[eval]
every = 20
[checkpoint]
every = 10
keep_last = 9
"#;

const TEMPLATE: &str = "{% for m in messages %}{% if m.role == 'user' %}{{ m.content }}>{% else %}{{ m.content }}{{ eos_token }}\
                        {% endif %}{% endfor %}";

pub fn shop() -> Shop {
    let shop = Shop::new();
    let base = shop.path("base");
    std::fs::create_dir(&base).unwrap();
    let fixture = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/eval");
    for file in ["config.json", "model.safetensors", "tokenizer.json"] {
        std::fs::copy(fixture.join(file), base.join(file)).unwrap();
    }
    let mut lines = String::new();
    for i in 0..60 {
        let word = ["red", "blue", "green"][i % 3];
        match i % 2 {
            0 => writeln!(lines, "{{\"prompt\": \"{i}\", \"completion\": \"{word}\"}}").unwrap(),
            _ => writeln!(
                lines,
                "{{\"messages\": [{{\"role\": \"user\", \"content\": \"{i}\"}}, {{\"role\": \"assistant\", \"content\": \
                 \"{word}\"}}]}}"
            )
            .unwrap(),
        }
    }
    std::fs::write(shop.path("chat.jsonl"), lines).unwrap();
    std::fs::write(shop.path("template.jinja"), TEMPLATE).unwrap();
    std::fs::write(shop.path("tiny.toml"), CONFIG).unwrap();
    shop
}

const WITH: [&str; 2] = ["--set", "data.chat_template=template.jinja"];

#[test]
fn a_model_learns_to_answer_and_to_stop() {
    let shop = shop();
    let output = shop.trained("runs/a", &WITH);
    assert!(stderr(&output).contains("60 conversation(s)"), "{}", stderr(&output));
    let log = shop.log("runs/a");
    let losses: Vec<f64> = log
        .events
        .iter()
        .filter_map(|event| if let Event::Step(step) = event { Some(step.loss) } else { None })
        .collect();
    assert!(losses[0] > 4.0 && losses[39] < 1.5, "{losses:?}");
    let vals: Vec<f64> = log
        .events
        .iter()
        .filter_map(|event| if let Event::Eval(eval) = event { Some(eval.loss) } else { None })
        .collect();
    assert!(vals.len() == 3 && vals[2] < vals[0] / 2.0, "{vals:?}");

    // The folder says how it is to be spoken to.
    let folder = shop.path("runs/a/checkpoints/step-00000040");
    let config: serde_json::Value = serde_json::from_slice(&read(&folder.join("tokenizer_config.json"))).unwrap();
    assert_eq!(config["chat_template"], TEMPLATE);
    // It answers with one of the three words, and then stops by itself.
    let arguments = ["sample", "runs/a", "--prompt", "7>", "--temperature", "0", "--max-new-tokens", "20", "--json"];
    let output = shop.taper(&arguments).output().unwrap();
    assert!(output.status.success(), "{}", stderr(&output));
    let found: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
    let sample = &found["samples"][0];
    assert_eq!(sample["finish_reason"], "eos", "{sample}");
    assert!(["red", "blue", "green"].contains(&sample["text"].as_str().unwrap()), "{sample}");
}

#[test]
fn a_run_goes_on_with_the_same_bits_without_its_files() {
    let shop = shop();
    shop.trained("runs/whole", &WITH);
    shop.trained("runs/cut", &WITH);
    for step in [20, 30, 40] {
        std::fs::remove_dir_all(shop.path(&format!("runs/cut/checkpoints/step-{step:08}"))).unwrap();
    }
    std::fs::remove_file(shop.path("chat.jsonl")).unwrap();
    std::fs::remove_file(shop.path("template.jinja")).unwrap();
    shop.trained("runs/cut", &[&WITH[..], &["--resume"]].concat());
    assert_eq!(shop.checkpoint("runs/whole", 40), shop.checkpoint("runs/cut", 40));
    assert_eq!(timeless(&shop.log("runs/whole")), timeless(&shop.log("runs/cut")));
}

#[test]
fn how_the_step_is_cut_changes_nothing_but_roundings() {
    let shop = shop();
    let losses = |run: &str, micro: &str| {
        shop.trained(run, &[&WITH[..], &["--set", micro, "--set", "train.max_steps=3"]].concat());
        let of = |event: &Event| if let Event::Step(step) = event { Some((step.loss, step.grad_norm)) } else { None };
        shop.log(run).events.iter().filter_map(of).collect::<Vec<_>>()
    };
    let (one, four) = (losses("runs/one", "train.micro_batch=1"), losses("runs/four", "train.micro_batch=4"));
    for (a, b) in one.iter().zip(&four) {
        assert!((a.0 - b.0).abs() < 1e-5 && (a.1 - b.1).abs() < 1e-4, "{a:?} {b:?}");
    }
}

#[test]
fn without_a_template_it_is_chatml_and_says_so() {
    let shop = shop();
    // ChatML needs more tokens than the fixture's context has: a model of its own, from the beginning.
    let config = CONFIG.replace("init_from = \"base\"", "n_layer = 1\nn_head = 2\nn_embd = 16\ncontext_length = 128");
    std::fs::write(shop.path("tiny.toml"), config.replace("[data]", "[tokenizer]\nkind = \"bytes\"\n[data]")).unwrap();
    let output = shop.trained("runs/b", &["--set", "train.max_steps=1", "--set", "data.val_fraction=0"]);
    assert!(stderr(&output).contains("ChatML"), "{}", stderr(&output));
    let config = read(&shop.path("runs/b/checkpoints/step-00000001/tokenizer_config.json"));
    assert!(String::from_utf8_lossy(&config).contains("<|im_start|>"));
}

#[test]
fn what_is_no_conversation_is_named_by_file_and_line() {
    let shop = shop();
    let good = "{\"prompt\": \"a\", \"completion\": \"b\"}\n";
    let cases = [
        ("{\"prompt\": \"a\"", "not a line of JSON"),
        ("[1]", "not a JSON object"),
        ("{\"text\": \"a\"}", "neither \"messages\" nor"),
        ("{\"prompt\": \"a\"}", "has no \"completion\""),
        ("{\"messages\": 3}", "not a list"),
        (
            "{\"messages\": [{\"role\": \"assistant\", \"content\": [1]}]}",
            "message 1 has a \"content\" that is not a string",
        ),
        ("{\"messages\": [{\"role\": \"user\", \"content\": \"a\"}]}", "nothing to learn"),
        ("{\"prompt\": \"a<|endoftext|>\", \"completion\": \"b\"}", "spells out a special token"),
    ];
    for (line, words) in cases {
        std::fs::write(shop.path("chat.jsonl"), format!("{good}\n{line}\n{good}")).unwrap();
        let output = shop.train("runs/bad", &WITH);
        let text = stderr(&output);
        assert_eq!(output.status.code(), Some(1), "{text}");
        assert!(text.contains("chat.jsonl:3") && text.contains(words) && !text.contains("panicked"), "{line}: {text}");
    }
    // A template that writes a message differently once another follows.
    std::fs::write(
        shop.path("chat.jsonl"),
        good.repeat(3)
            + "{\"messages\": [{\"role\": \"assistant\", \"content\": \"a\"}, \
        {\"role\": \"user\", \"content\": \"b\"}]}\n",
    )
    .unwrap();
    std::fs::write(shop.path("template.jinja"), "{{ messages[0].content }}{{ messages | length }}").unwrap();
    let text = stderr(&shop.train("runs/bad", &WITH));
    assert!(text.contains("chat.jsonl:1") && text.contains("does not begin the text"), "{text}");
    std::fs::write(shop.path("template.jinja"), "{% if %}").unwrap();
    assert!(stderr(&shop.train("runs/bad", &WITH)).contains("line 1"));
    std::fs::write(shop.path("template.jinja"), TEMPLATE).unwrap();
    let long = format!("{{\"prompt\": \"{}\", \"completion\": \"b\"}}\n", "many words ".repeat(40));
    std::fs::write(shop.path("chat.jsonl"), long.repeat(3)).unwrap();
    assert!(stderr(&shop.train("runs/bad", &WITH)).contains("within model.context_length"));
    std::fs::write(shop.path("chat.jsonl"), good.repeat(3)).unwrap();
    let more = [&WITH[..], &["--engine", "reference"]].concat();
    assert!(stderr(&shop.train("runs/bad", &more)).contains("native engine"));
}
