//! The command line as a user meets it: what it prints, how it exits, what it says to bad input.
//!
//! Models are made by `taper model init` from the configs below; their numbers are compared with the library's uncached
//! forward pass and with the reference engine (candle), which shares no code with the engine.

use std::path::{Path, PathBuf};

use crate::program::{taper, told, told_by, told_with};
use serde_json::Value;
use taper::checkpoint::read_model_folder;
use taper::model::Gpt;
use taper::tensor::Tensor;

const GPT2: &str = "\
[model]\nn_layer = 2\nn_head = 4\nn_embd = 32\ncontext_length = 48\n[tokenizer]\nkind = \"bytes\"\n\
[data]\ntext = [\"none.txt\"]\n[train]\nmicro_batch = 2\nmax_steps = 1\n";
const LLAMA: &str = "\
[model]\nn_layer = 2\nn_head = 4\nn_kv_head = 2\nn_embd = 32\nmlp_dim = 48\ncontext_length = 48\nnorm = \"rmsnorm\"\n\
position = \"rope\"\nmlp = \"swiglu\"\nbias = false\ntie_embeddings = false\n[tokenizer]\nkind = \"bytes\"\n\
[data]\ntext = [\"none.txt\"]\n[train]\nmicro_batch = 2\nmax_steps = 1\n";

/// Standard output, standard error and exit code.
fn run(args: &[&str]) -> (String, String, i32) {
    let (code, out, err) = told(taper(".").args(args));
    (out, err, code)
}

/// The one JSON object on standard output of a command that succeeds.
fn json(args: &[&str]) -> Value {
    let (out, err, code) = run(args);
    assert_eq!(code, 0, "{args:?}: {err}");
    assert_eq!(out.lines().count(), 1, "{args:?}: {out}");
    serde_json::from_str(&out).unwrap()
}

/// A command that fails: one `error:` line of these words, nothing on standard output, no panic.
fn fails(args: &[&str], code: i32, words: &[&str]) {
    let (out, err, found) = run(args);
    assert_eq!(found, code, "{args:?}: {err}");
    assert_eq!(out, "", "{args:?}");
    assert!(!err.contains("panicked"), "{err}");
    for word in words {
        assert!(err.contains(word), "{args:?} should say {word:?}: {err}");
    }
}

struct Bench {
    folder: tempfile::TempDir,
}

impl Bench {
    fn new() -> Bench {
        Bench { folder: tempfile::tempdir().unwrap() }
    }

    fn path(&self, name: &str) -> String {
        self.folder.path().join(name).to_string_lossy().into_owned()
    }

    fn write(&self, name: &str, content: impl AsRef<[u8]>) -> String {
        std::fs::write(self.folder.path().join(name), content).unwrap();
        self.path(name)
    }

    /// A model folder made by `taper model init`.
    fn model(&self, name: &str, config: &str) -> String {
        let toml = self.write(&format!("{name}.toml"), config);
        let folder = self.path(name);
        let (_, err, code) = run(&["model", "init", &toml, "--out", &folder]);
        assert_eq!(code, 0, "{err}");
        folder
    }
}

fn fixture(name: &str) -> String {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures").join(name).to_string_lossy().into_owned()
}

#[test]
fn help_of_every_command_has_an_example() {
    fn walk(path: &mut Vec<String>, seen: &mut Vec<String>) {
        let mut args: Vec<&str> = path.iter().map(String::as_str).collect();
        args.push("--help");
        let (help, err, code) = run(&args);
        assert_eq!(code, 0, "{args:?}: {err}");
        let commands: Vec<String> = help
            .lines()
            .skip_while(|line| *line != "Commands:")
            .skip(1)
            .take_while(|line| line.starts_with("  "))
            .filter_map(|line| line.strip_prefix("  ")?.split(' ').next().filter(|w| !w.is_empty() && *w != "help"))
            .map(str::to_string)
            .collect();
        if commands.is_empty() {
            assert!(help.contains("Example"), "{args:?} shows no example:\n{help}");
            seen.push(path.join(" "));
        }
        for command in commands {
            path.push(command);
            walk(path, seen);
            path.pop();
        }
    }
    let mut seen = Vec::new();
    walk(&mut Vec::new(), &mut seen);
    for command in ["sample", "eval", "model info", "model init", "doctor", "bench step", "tokenizer encode", "report"]
    {
        assert!(seen.iter().any(|found| found == command), "{command} is missing among {seen:?}");
    }
    assert!(run(&["--help"]).0.contains("Examples:"));
}

/// The most likely of the first `ids` tokens, one after the other, each by a forward pass over the whole text.
fn greedy_without_cache(folder: &str, prompt: &[u32], count: usize, ids: usize) -> Vec<u32> {
    let found = read_model_folder(Path::new(folder)).unwrap();
    let model = Gpt::new(found.config).unwrap();
    let params = model.with_values(found.params.iter().map(|(name, _, v)| (name.as_str(), v.as_slice()))).unwrap();
    let mut history = prompt.to_vec();
    for _ in 0..count {
        let logits = model.logits(&params, &Tensor::from_u32(&history, &[1, history.len()]).unwrap()).unwrap();
        let last = &logits.f32()[(history.len() - 1) * model.config().vocab_size..][..ids];
        let best = (0..ids).reduce(|best, id| if last[id] > last[best] { id } else { best }).unwrap();
        history.push(best as u32);
    }
    history.split_off(prompt.len())
}

#[test]
fn greedy_text_is_that_of_the_uncached_model_and_of_the_reference_engine() {
    let bench = Bench::new();
    // Models of transformers have no tokenizer here: one token for each printable ASCII character, 95 of their 97 ids.
    let printable = bench.write("printable.txt", (b' '..=b'~').collect::<Vec<u8>>());
    let chars = bench.model("chars", &GPT2.replace("none.txt", &printable).replace("\"bytes\"", "\"chars\""));
    let prompt = "fn main() {";
    let by_byte: Vec<u32> = prompt.bytes().map(u32::from).collect();
    let by_char: Vec<u32> = by_byte.iter().map(|byte| byte - 32).collect();
    let mut most_varied = 0;
    for (model, tokenizer, ids, vocab_size, count) in [
        (bench.model("gpt2", GPT2), None, &by_byte, 257, 30),
        (bench.model("llama", LLAMA), None, &by_byte, 257, 30),
        (fixture("gpt2_tiny"), Some(&chars), &by_char, 95, 14),
        (fixture("llama_tiny"), Some(&chars), &by_char, 95, 14),
        (fixture("llama_tied_bias"), Some(&chars), &by_char, 95, 14),
    ] {
        let expected = greedy_without_cache(&model, ids, count, vocab_size);
        let most = count.to_string();
        let mut common = vec!["sample", &model, "--prompt", prompt, "--temperature", "0", "--max-new-tokens", &most];
        common.extend(tokenizer.iter().flat_map(|folder| ["--tokenizer", folder.as_str()]));
        let native = json(&[&common[..], &["--json"]].concat());
        let sample = &native["samples"][0];
        let found: Vec<u32> =
            sample["tokens"].as_array().unwrap().iter().map(|id| id.as_u64().unwrap() as u32).collect();
        // 256 is end-of-text of bytes (the characters have none): the command stops before it.
        let until = expected.iter().position(|&id| id == 256).unwrap_or(count);
        assert_eq!(found, expected[..until], "{model}");
        assert_eq!(sample["prompt"], prompt);
        assert_eq!(sample["finish_reason"], if until < count { "eos" } else { "length" });
        let logprobs = |value: &Value| -> Vec<f64> {
            value["samples"][0]["logprobs"].as_array().unwrap().iter().map(|p| p.as_f64().unwrap()).collect()
        };
        assert_eq!(logprobs(&native).len(), found.len());
        assert!(logprobs(&native).iter().all(|&p| p <= 0.0));
        most_varied = most_varied.max(found.iter().collect::<std::collections::BTreeSet<_>>().len());

        let oracle = json(&[&common[..], &["--json", "--engine", "reference"]].concat());
        assert_eq!(oracle["samples"][0]["tokens"], sample["tokens"], "{model}");
        for (ours, book) in logprobs(&native).iter().zip(logprobs(&oracle)) {
            assert!((ours - book).abs() < 1e-4, "{model}: {ours} {book}");
        }
        // Without --json standard output is the text and a line break.
        let (out, _, code) = run(&common);
        assert_eq!((out, code), (format!("{}\n", sample["text"].as_str().unwrap()), 0));
    }
    assert!(most_varied >= 4, "texts of at most {most_varied} different tokens show little");
}

#[test]
fn texts_are_the_same_whatever_is_written_beside_them() {
    let bench = Bench::new();
    let model = bench.model("gpt2", GPT2);
    let common = ["sample", &model, "--max-new-tokens", "20", "--seed", "4"];
    let texts = |more: &[&str]| -> Vec<String> {
        let found = json(&[&common[..], &["--json"], more].concat());
        found["samples"].as_array().unwrap().iter().map(|s| s["text"].as_str().unwrap().into()).collect()
    };
    let prompts = ["--prompt", "ab", "--prompt", "c", "--prompt", "hello", "--num-samples", "3"];
    let alone: Vec<String> = ["ab", "c", "hello"]
        .iter()
        .flat_map(|p| texts(&["--prompt", p, "--num-samples", "3", "--batch", "1"]))
        .collect();
    for batch in ["2", "4", "64"] {
        assert_eq!(texts(&[&prompts[..], &["--batch", batch]].concat()), alone, "--batch {batch}");
    }
    let (out, err, code) = run(&[&common[..], &prompts].concat());
    assert_eq!((out, code), (format!("{}\n", alone.join("\n\n")), 0));
    assert!(err.contains("--- sample 9 of 9 ---"), "{err}");
}

#[test]
fn number_formats_and_the_end_of_the_context() {
    let bench = Bench::new();
    let model = bench.model("llama", LLAMA);
    let sample =
        |more: &[&str]| json(&[&["sample", &model, "--prompt", "c", "--json", "--temperature", "0"], more].concat());
    for dtype in ["fp32", "bf16", "fp16", "q8_0", "q4_0"] {
        for cache in ["fp32", "bf16", "fp16", "int8"] {
            let found = sample(&["--max-new-tokens", "5", "--dtype", dtype, "--cache-dtype", cache]);
            let logprob = found["samples"][0]["logprobs"][0].as_f64().unwrap();
            assert!(logprob.is_finite() && logprob < 0.0, "{dtype} {cache}: {found}");
        }
    }
    fails(&["sample", &model, "--dtype", "tf32"], 2, &["GPU", "q8_0"]);
    fails(&["sample", &model, "--engine", "reference", "--dtype", "q8_0"], 2, &["reference", "--dtype"]);
    fails(&["sample", &model, "--engine", "reference", "--cache-dtype", "int8"], 2, &["--cache-dtype"]);
    fails(&["chat", &model, "--engine", "reference", "--cache-dtype", "int8"], 2, &["own engine"]);
    let chat = |more: &[&str]| {
        let words = [&["chat", &model, "--max-new-tokens", "3", "--temperature", "0"], more].concat();
        told_by(&told_with(taper(".").args(&words), b"c\n"))
    };
    let (wide, narrow) = (chat(&[]), chat(&["--cache-dtype", "int8", "--dtype", "bf16"]));
    assert!(wide.0 == 0 && narrow.0 == 0 && wide.1.len() > 1 && narrow.1.len() > 1, "{wide:?} {narrow:?}");
    fails(&["sample", &model, "--engine", "reference", "--slide"], 2, &["--slide"]);
    let text = bench.write(
        "text.txt",
        "a text of some length, to be predicted by a model that knows nothing. ".repeat(4).as_bytes(),
    );
    let loss =
        |more: &[&str]| json(&[&["eval", &model, "--data", &text, "--json"], more].concat())["loss"].as_f64().unwrap();
    // The loss by the engine that generates is that of whole sequences; narrower numbers move it a little, and not to
    // nothing.
    let exact = loss(&[]);
    assert!((loss(&["--cache-dtype", "fp32"]) - exact).abs() < 2e-6);
    for (format, most) in [("bf16", 2e-3), ("fp16", 3e-4), ("q8_0", 2e-3), ("q4_0", 3e-2)] {
        let off = (loss(&["--dtype", format]) - exact).abs();
        assert!(off > 0.0 && off < most, "{format}: {off}");
    }
    let off = (loss(&["--cache-dtype", "int8"]) - exact).abs();
    assert!(off > 0.0 && off < 1e-3, "int8: {off}");
    fails(&["eval", &model, "--task", "lambada", "--data", &text, "--dtype", "q8_0"], 2, &["fp32", "--dtype"]);

    // The context of 48 is full after 47 new tokens and one that is not fed back; the younger half of 24 continues alone.
    let slid = sample(&["--max-new-tokens", "73", "--slide"]);
    let tokens: Vec<u32> = serde_json::from_value(slid["samples"][0]["tokens"].clone()).unwrap();
    assert_eq!(tokens.len(), 73, "the model ends its text by itself: take another");
    assert_eq!(tokens[..48], greedy_without_cache(&model, &[u32::from(b'c')], 48, 257));
    assert_eq!(tokens[48..], greedy_without_cache(&model, &tokens[24..48], 25, 257));
    let (_, err, code) = run(&["sample", &model, "--prompt", "c", "--max-new-tokens", "73", "--slide"]);
    assert!(code == 0 && err.matches("the older half").count() == 1, "{err}");
}

#[test]
fn samples_differ_by_number_and_seed_and_end_with_the_context() {
    let bench = Bench::new();
    let model = bench.model("gpt2", GPT2);
    let sample = |more: &[&str]| {
        json(&[&["sample", &model, "--prompt", "ab", "--json", "--max-new-tokens", "20"], more].concat())
    };
    let three = sample(&["--num-samples", "3", "--seed", "4"]);
    let texts: Vec<&Value> = three["samples"].as_array().unwrap().iter().map(|s| &s["tokens"]).collect();
    assert!(texts[0] != texts[1] && texts[1] != texts[2]);
    assert_eq!(three, sample(&["--num-samples", "3", "--seed", "4"]));
    assert_eq!(&sample(&["--seed", "4"])["samples"][0]["tokens"], texts[0]);
    assert_ne!(&sample(&["--seed", "5"])["samples"][0]["tokens"], texts[0]);
    // With one token to choose from, a draw is greedy.
    assert_eq!(sample(&["--top-k", "1"])["samples"], sample(&["--temperature", "0"])["samples"]);

    let (_, err, code) = run(&["sample", &model, "--prompt", "ab", "--temperature", "0", "--max-new-tokens", "500"]);
    assert_eq!(code, 0, "{err}");
    // 48 positions, 2 of them the prompt's, and one token more that need not be read again.
    assert!(err.contains("after 47 tokens because the model's context of 48 is full"), "{err}");
    let prompt = bench.write("prompt.txt", "ab");
    let from_file =
        json(&["sample", &model, "--prompt-file", &prompt, "--json", "--max-new-tokens", "20", "--seed", "4"]);
    assert_eq!(&from_file["samples"][0]["tokens"], texts[0]);
    // The stop string ends the text and is not part of it.
    let text = three["samples"][0]["text"].as_str().unwrap();
    if let Some(stop) = text.chars().nth(3).map(String::from) {
        let stopped = sample(&["--seed", "4", "--stop", &stop]);
        let expected = text.split(&stop).next().unwrap();
        assert_eq!(stopped["samples"][0]["text"], expected);
        assert_eq!(stopped["samples"][0]["finish_reason"], "stop");
    }
}

#[test]
fn eval_counts_and_agrees_with_the_reference_engine() {
    let bench = Bench::new();
    let text = "All happy families are alike; each unhappy family is unhappy in its own way. ".repeat(3);
    let (first, second) = (bench.write("a.txt", &text), bench.write("b.txt", "Grüße.\n"));
    for (name, config) in [("gpt2", GPT2), ("llama", LLAMA)] {
        let model = bench.model(name, config);
        let found = json(&["eval", &model, "--data", &first, "--json"]);
        let keys: Vec<&String> = found.as_object().unwrap().keys().collect();
        // The contract's five, and since then what tells how sure they are.
        assert_eq!(keys[..5], ["loss", "perplexity", "bits_per_byte", "tokens", "predictions"]);
        assert_eq!(keys[5..], ["windows", "standard_error", "interval"]);
        assert_eq!((found["tokens"].as_u64(), found["predictions"].as_u64()), (Some(231), Some(230)));
        let (loss, number) = (found["loss"].as_f64().unwrap(), |key: &str| found[key].as_f64().unwrap());
        // An untrained model knows nothing: ln 257 nats. One token is one byte.
        assert!((loss - 257f64.ln()).abs() < 0.1, "{loss}");
        assert!((number("perplexity") - loss.exp()).abs() < 1e-9 * loss.exp());
        assert!((number("bits_per_byte") - loss * 230.0 / 2f64.ln() / 231.0).abs() < 1e-12);
        let book = json(&["eval", &model, "--data", &first, "--json", "--engine", "reference"]);
        assert!((book["loss"].as_f64().unwrap() - loss).abs() < 1e-6, "{book} {found}");
        assert_eq!(book["predictions"], found["predictions"]);
        let error = number("standard_error");
        assert_eq!(book["windows"], found["windows"]);
        assert!(error > 0.0 && (book["standard_error"].as_f64().unwrap() - error).abs() < 1e-6, "{book} {found}");
        // The batch does not change the windows.
        let batched = json(&["eval", &model, "--data", &first, "--json", "--batch", "3"]);
        assert!((batched["loss"].as_f64().unwrap() - loss).abs() < 1e-6);
        // Two documents: 231 bytes, end-of-text, 9 bytes ("Grüße." has two letters of two bytes).
        let both = json(&["eval", &model, "--data", &first, &second, "--json"]);
        assert_eq!(both["tokens"], 231 + 1 + 9);
        let sum = both["loss"].as_f64().unwrap() * 240.0;
        assert!((both["bits_per_byte"].as_f64().unwrap() - sum / 2f64.ln() / 240.0).abs() < 1e-9);
        let few = json(&["eval", &model, "--data", &first, &second, "--json", "--max-tokens", "100"]);
        assert_eq!((few["tokens"].as_u64(), few["predictions"].as_u64()), (Some(100), Some(99)));
        let (out, _, _) = run(&["eval", &model, "--data", &first]);
        assert!(out.contains(&format!("{loss:.6}")) && out.contains("bits per byte"), "{out}");
    }
}

#[test]
fn eval_reads_shards() {
    let bench = Bench::new();
    let model = bench.model("gpt2", GPT2);
    let text = bench.write("a.txt", "one two three four five six seven");
    // llm.c's layout: 256 int32, of which magic, version and count; then uint16 tokens.
    let shard = |name: &str, text: &str| {
        let mut bytes: Vec<u8> = [20_240_520, 1, text.len() as i32].iter().flat_map(|n| n.to_le_bytes()).collect();
        bytes.resize(1024, 0);
        bytes.extend(text.bytes().flat_map(|b| u16::from(b).to_le_bytes()));
        bench.write(name, bytes)
    };
    shard("x_train_0.bin", "other words than those");
    let val = shard("x_val_0.bin", "one two three four five six seven");
    let expected = json(&["eval", &model, "--data", &text, "--json"]);
    let folder = bench.path("");
    for data in [val.as_str(), &folder, &bench.path("x_*.bin")] {
        assert_eq!(json(&["eval", &model, "--data", data, "--json"]), expected, "{data}");
    }
    assert_eq!(json(&["eval", &model, "--data", &folder, "--split", "train", "--json"])["tokens"], 22);
    fails(&["eval", &model, "--data", &val, &text], 2, &["mixes"]);
    fails(&["eval", &model, "--data", &val, "--split", "train"], 2, &["no train shards"]);
}

#[test]
fn info_of_configs_and_folders() {
    let bench = Bench::new();
    let gpt2 = bench.write("gpt2.toml", "[data]\ntext = [\"none.txt\"]\n[train]\nmax_steps = 1\n");
    let found = json(&["model", "info", &gpt2, "--json"]);
    // GPT-2 small: 124,439,808 parameters, 85,056,000 without its embeddings (transformers' own counts).
    assert_eq!(found["parameters"], 124_439_808);
    assert_eq!(found["parameters_non_embedding"], 85_056_000);
    assert_eq!((&found["architecture"], &found["loads_in_transformers"]), (&"GPT2LMHeadModel".into(), &true.into()));
    // 6 (85,056,000 - norms and biases 121,344 + 768 * 50,257) + 12 * 12 * 768 * 1024, by hand.
    assert_eq!(found["flops_per_token"], 6 * (84_934_656u64 + 38_597_376) + 113_246_208);
    assert_eq!((&found["n_layer"], &found["mlp"]), (&12.into(), &"gelu".into()));

    let model = bench.model("llama", LLAMA);
    let found = json(&["model", "info", &model, "--json"]);
    assert_eq!(found["architecture"], "LlamaForCausalLM");
    assert_eq!(found["n_kv_head"], 2);
    let (out, _, code) = run(&["model", "info", &model]);
    assert!(code == 0 && out.contains("loads in transformers  yes") && out.contains("decayed"), "{out}");
    let own = ["model", "info", &gpt2, "--set", "model.norm=rmsnorm"];
    let (out, _, _) = run(&own);
    assert!(out.contains("loads in transformers  no") && out.contains("rmsnorm"), "{out}");
    assert_eq!(json(&[&own[..], &["--json"]].concat())["loads_in_transformers"], false);
    // Fixtures that transformers saved.
    assert_eq!(json(&["model", "info", &fixture("gpt2_tiny"), "--json"])["vocab_size"], 97);
    fails(&["model", "info", &bench.path("nothing.toml")], 1, &["nothing.toml", "no such file"]);
    fails(&["model", "info", &gpt2, "--set", "model.n_layers=3"], 2, &["n_layer"]);
}

#[test]
fn init_makes_a_folder_once_and_the_same_each_time() {
    let bench = Bench::new();
    let text = bench.write("text.txt", "hello world, hello words");
    let config = GPT2.replace("none.txt", &text).replace("\"bytes\"", "\"chars\"");
    let (one, two) = (bench.model("one", &config), bench.model("two", &config));
    for file in
        ["config.json", "generation_config.json", "model.safetensors", "tokenizer.json", "tokenizer_config.json"]
    {
        let read = |folder: &str| std::fs::read(Path::new(folder).join(file)).unwrap();
        assert!(!read(&one).is_empty() && read(&one) == read(&two), "{file}");
    }
    // The distinct characters of the text.
    assert_eq!(json(&["model", "info", &one, "--json"])["vocab_size"], 10);
    let toml = bench.path("one.toml");
    fails(&["model", "init", &toml, "--out", &one], 2, &["exists already"]);
    let left: Vec<_> = std::fs::read_dir(bench.folder.path()).unwrap().map(|e| e.unwrap().file_name()).collect();
    assert!(left.iter().all(|name| !name.to_string_lossy().starts_with('.')), "{left:?}");
    // A character that the text has not.
    fails(&["sample", &one, "--prompt", "hello Z"], 1, &["Z"]);
}

#[test]
fn bad_models_get_one_clear_sentence() {
    let bench = Bench::new();
    fails(&["sample", &bench.path("missing")], 2, &["missing", "there is no folder"]);
    fails(&["sample", "someone/some-model"], 1, &["no folder", "cache", "HF_HUB_OFFLINE"]);
    fails(&["sample", &fixture("gpt2_tiny")], 2, &["tokenizer.json", "--tokenizer"]);
    fails(&["sample", &fixture("gpt2_tiny"), "--tokenizer", "bytes"], 2, &["257", "97"]);
    fails(&["sample", &bench.path("")], 2, &["not a model"]);
    let model = bench.model("gpt2", GPT2);
    fails(&["sample", &model, "--device", "cuda"], 1, &["--device cpu"]);
    fails(&["sample", &model, "--temperature", "-1"], 2, &["temperature"]);
    fails(&["sample", &model, "--prompt", &"x".repeat(49)], 2, &["49 tokens", "48"]);
    let inside = |file: &str| Path::new(&model).join(file);
    let spoil = |file: &str, content: &[u8]| {
        let whole = std::fs::read(inside(file)).unwrap();
        std::fs::write(inside(file), content).unwrap();
        whole
    };
    let whole = spoil("tokenizer.json", b"{\"model\": ");
    fails(&["sample", &model], 1, &["tokenizer.json"]);
    std::fs::write(inside("tokenizer.json"), whole).unwrap();
    let weights = std::fs::read(inside("model.safetensors")).unwrap();
    for length in [0, 5, 100, weights.len() - 1] {
        let whole = spoil("model.safetensors", &weights[..length]);
        fails(&["eval", &model, "--data", "Cargo.toml"], 1, &["model.safetensors"]);
        std::fs::write(inside("model.safetensors"), whole).unwrap();
    }
    let whole = spoil("config.json", b"{\"model_type\": \"bert\"}");
    fails(&["model", "info", &model], 1, &["bert"]);
    std::fs::write(inside("config.json"), whole).unwrap();
    assert_eq!(run(&["sample", &model, "--max-new-tokens", "1"]).2, 0, "as before");
}

#[test]
fn bad_texts_get_one_clear_sentence() {
    let bench = Bench::new();
    let model = bench.model("gpt2", GPT2);
    let (empty, one) = (bench.write("empty.txt", ""), bench.write("one.txt", "x"));
    fails(&["eval", &model, "--data", &empty], 2, &["nothing to predict", "no tokens"]);
    fails(&["eval", &model, "--data", &one], 2, &["nothing to predict", "1 token"]);
    fails(&["eval", &model, "--data", &bench.path("missing.txt")], 1, &["missing.txt"]);
    fails(&["eval", &model, "--data", &bench.write("bad.txt", b"abc\xff")], 1, &["bad.txt", "UTF-8"]);
    fails(&["sample", &model, "--prompt-file", &bench.write("bad.txt", b"abc\xff")], 1, &["bad.txt", "offset 3"]);
    fails(&["eval", &model, "--data", &one, "--batch", "0"], 2, &["--batch"]);
    fails(&["eval", &model], 2, &["--data"]);
}

#[test]
fn a_reader_that_goes_away_is_no_failure() {
    let bench = Bench::new();
    let model = bench.model("gpt2", GPT2);
    let args = ["sample", &model, "--num-samples", "50", "--max-new-tokens", "40"];
    let mut child = taper(".")
        .args(args)
        .stdout(std::process::Stdio::piped())
        .stderr(std::process::Stdio::piped())
        .spawn()
        .unwrap();
    drop(child.stdout.take());
    let output = child.wait_with_output().unwrap();
    let err = String::from_utf8_lossy(&output.stderr).into_owned();
    assert_eq!(output.status.code(), Some(0), "{err}");
    assert!(!err.contains("error") && !err.contains("panicked"), "{err}");
}

#[test]
fn doctor_says_what_there_is_and_checks_the_numbers() {
    let found = json(&["doctor", "--json"]);
    assert!(found["gemm_gflops"].as_f64().unwrap() > 0.0 && found["copy_gb_per_s"].as_f64().unwrap() > 0.0);
    assert!(found["cpu"]["cores"].as_u64().unwrap() >= 1);
    assert_eq!(found["cuda"]["usable"], false);
    let (out, err, code) = run(&["doctor"]);
    assert_eq!(code, 0, "{err}");
    for word in ["CPU", "GFLOP/s", "GB/s", "libcuda.so", "quickstart text", "disk here"] {
        assert!(out.contains(word), "{word}: {out}");
    }
    let found = json(&["doctor", "--numerics", "--json"]);
    assert_eq!(found["ok"], true, "{found:#}");
    // Eleven operators with output and gradients, two models with logits, loss and gradients.
    assert_eq!(found["checks"].as_array().unwrap().len(), 11 * 2 + 2 * 3);
    let (out, _, code) = run(&["doctor", "--numerics"]);
    assert!(code == 0 && out.contains("attention") && !out.contains("FAIL"), "{out}");
}

#[test]
fn bench_sample_tells_rates_and_their_ceiling() {
    let short = ["bench", "sample", "--shape", "10m", "--rounds", "1", "--tokens", "4", "--prompt", "20", "--json"];
    let found = json(&[&short[..], &["--dtype", "fp32,q8_0", "--batch", "1,3", "--threads", "2"]].concat());
    assert!(found["read_gb_per_s"].as_f64().unwrap() > 0.0);
    let results = found["results"].as_array().unwrap();
    assert_eq!(results.len(), 2);
    for result in results {
        assert!(result["prefill_tokens_per_s"].as_f64().unwrap() > 0.0);
        let decode = result["decode"].as_array().unwrap();
        assert_eq!(decode.iter().map(|of| of["batch"].as_u64().unwrap()).collect::<Vec<_>>(), [1, 3]);
        // The share is what the rate reads of the ceiling.
        let rate = decode[0]["tokens_per_s"].as_f64().unwrap() * result["bytes_per_token"].as_f64().unwrap() / 1e9;
        assert!(
            (decode[0]["share"].as_f64().unwrap() * found["read_gb_per_s"].as_f64().unwrap() - rate).abs()
                < 1e-6 * rate
        );
    }
    // Weights of 8 bits and a scale, norms and biases as they were.
    let bytes = |at: usize| results[at]["bytes_per_token"].as_f64().unwrap();
    assert!((bytes(0) / bytes(1) - 32.0 / 8.5).abs() < 0.05, "{} and {}", bytes(0), bytes(1));
    fails(&["bench", "sample", "--shape", "10m", "--tokens", "1000"], 2, &["--tokens", "256"]);
}

#[test]
fn bench_step_times_a_config() {
    let bench = Bench::new();
    let config = bench.write("tiny.toml", GPT2);
    let found = json(&["bench", "step", "--config", &config, "--steps", "5", "--json"]);
    assert_eq!(
        (found["batch"].as_u64(), found["context_length"].as_u64(), found["steps"].as_u64()),
        (Some(2), Some(48), Some(5))
    );
    for key in ["tokens_per_s", "step_ms", "flops_per_s", "peak_resident_mib", "peak_pool_mib"] {
        assert!(found[key].as_f64().unwrap() > 0.0, "{key}: {found}");
    }
    // tokens/s and FLOP/s follow from the median time.
    let seconds = found["step_ms"].as_f64().unwrap() / 1e3;
    assert!((found["tokens_per_s"].as_f64().unwrap() * seconds - 96.0).abs() < 1e-6);
    fails(&["bench", "step", "--config", &config, "--set", "train.micro_batch=auto"], 2, &["micro_batch"]);
}

#[test]
fn bench_ops_sets_operators_beside_floors_and_the_step_beside_their_sum() {
    let found =
        json(&["bench", "ops", "--shape", "10m", "--patience", "1", "--steps", "1", "--device", "cpu", "--json"]);
    let number = |of: &Value, key: &str| of[key].as_f64().unwrap_or_else(|| panic!("{key}: {of:#}"));
    let positive =
        |of: &Value, keys: &[&str]| keys.iter().for_each(|key| assert!(number(of, key) > 0.0, "{key}: {of}"));
    positive(&found, &["step_ms", "step_ms_best", "sum_ms", "floor_sum_ms", "explained_share", "threads"]);
    let ceilings = &found["ceilings"];
    positive(ceilings, &["copy_gb_per_s", "fma_gflop_per_s", "product_gflop_per_s"]);
    let has_unit = ceilings["bf16_unit"].is_string();
    assert_eq!(has_unit, ceilings["bf16_unit_gflop_per_s"].as_f64().is_some_and(|rate| rate > 0.0), "{ceilings}");
    let (mut sums, mut parameter_bytes) = ([0.0; 2], 0.0);
    for row in found["ops"].as_array().unwrap() {
        positive(row, &["bytes", "floor_ms", "ms", "share"]);
        assert!(number(row, "flops") >= 0.0 && row["pass"].is_string(), "{row}");
        assert!((number(row, "share") * number(row, "ms") / number(row, "floor_ms") - 1.0).abs() < 1e-9, "{row}");
        let seconds = number(row, "bytes") / number(ceilings, "copy_gb_per_s") / 1e9;
        assert!(number(row, "floor_ms") >= seconds * 1e3 * (1.0 - 1e-9), "{row}");
        let count = row["count"].as_u64().unwrap() as f64;
        sums[0] += count * number(row, "ms");
        sums[1] += count * number(row, "floor_ms");
        if row["op"] == "gradient norm" {
            parameter_bytes = number(row, "bytes");
        }
    }
    for (key, sum) in ["sum_ms", "floor_sum_ms"].iter().zip(sums) {
        assert!((number(&found, key) / sum - 1.0).abs() < 1e-9, "{key}: {sum}");
    }
    let explained = number(&found, "sum_ms") / number(&found, "step_ms_best");
    assert!((number(&found, "explained_share") - explained).abs() < 1e-9);
    // Four bytes for each of 10,770,816 parameters.
    assert_eq!(parameter_bytes, 4.0 * 10_770_816.0);
    fails(&["bench", "ops", "--precision", "fp16", "--device", "cpu"], 2, &["fp16"]);
}
