//! The config contract: names, messages with their places, overrides, defaults, round trips, and that nothing panics.
//!
//! Expected messages and values are written by hand from `docs/config.md`'s contract; the names are the list of the design.

use crate::models;
use std::path::{Path, PathBuf};

use taper::arch::config::{Mlp, ModelConfig, Norm, Position};
use taper::config::{Config, docs, schema};
use taper::data::tokenizer::config::TokenizerKind;
use taper::setting::{Interval, Limit};
use taper::train::config::{DeviceChoice, MicroBatch, Precision, PrecisionConfig};

const MINIMAL: &str = "[data]\ntext = \"a.txt\"\n[train]\nmax_steps = 10\n";

fn parse(text: &str, overrides: &[&str]) -> Result<Config, String> {
    let overrides: Vec<String> = overrides.iter().map(|text| text.to_string()).collect();
    Config::from_str(text, "my.toml", &overrides).map_err(|error| {
        assert_eq!(error.exit_code(), 2, "a config error is bad usage: {error}");
        error.to_string()
    })
}

fn good(text: &str, overrides: &[&str]) -> Config {
    parse(text, overrides).unwrap_or_else(|error| panic!("{error}"))
}

#[track_caller]
fn bad(text: &str, overrides: &[&str], expected: &str) {
    let error = parse(text, overrides).err().unwrap_or_else(|| panic!("accepted, but expected: {expected}"));
    assert!(error.contains(expected), "expected: {expected}\n     got: {error}");
}

/// MINIMAL with one more line at its end, in `section`: line 6 of the text.
fn with(section: &str, line: &str) -> String {
    format!("{MINIMAL}[{section}]\n{line}\n")
}

fn shipped() -> Vec<PathBuf> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("configs");
    let mut files: Vec<PathBuf> = std::fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path()).collect();
    files.retain(|path| path.extension().is_some_and(|extension| extension == "toml"));
    files.sort();
    files
}

#[test]
fn shipped_configs_load_and_say_what_their_comments_say() {
    let files = shipped();
    assert!(files.len() >= 4);
    for path in &files {
        let mut config = Config::load(path, &[]).unwrap_or_else(|error| panic!("{error}"));
        assert_eq!(config.notes(), Vec::<String>::new(), "{}", path.display());
        assert_eq!(config.run_dir(), Path::new("runs").join(path.file_stem().unwrap()));
        config.resolve_model(257, None).unwrap();
        assert_eq!(good(&config.to_toml(), &[]), config, "{}", path.display());
    }
    let load = |name: &str| Config::load(&files[0].with_file_name(name), &[]).unwrap();

    // nanoGPT's CPU setting.
    let mut config = load("shakespeare_char.toml");
    let shape = config.resolve_model(65, None).unwrap();
    assert_eq!((shape.n_layer, shape.n_head, shape.n_embd, shape.context_length), (4, 4, 128, 64));
    assert_eq!((shape.vocab_size, shape.bias, shape.qkv_bias, shape.dropout), (65, false, false, 0.0));
    assert_eq!((config.train.global_batch(), config.train.steps(64, 0).unwrap()), (12, 2000));
    assert_eq!(config.data.val_fraction(), 0.1);

    // The recipe in gpt2_124m.toml: 10^10 / (512 * 1024) = 19073.48..., whole steps.
    let mut config = load("gpt2_124m.toml");
    let shape = config.resolve_model(50_257, None).unwrap();
    assert_eq!((shape.head_dim, shape.mlp_dim, shape.vocab_size), (64, 3072, 50_257));
    assert_eq!(config.train.steps(shape.context_length, 0).unwrap(), 19_073);

    let mut config = load("llama_30m.toml");
    let shape = config.resolve_model(50_257, None).unwrap();
    assert_eq!((shape.norm, shape.position, shape.mlp), (Norm::Rmsnorm, Position::Rope, Mlp::Swiglu));
    assert_eq!((shape.mlp_dim, shape.n_kv_head, shape.qkv_bias), (1024, 2, false));
}

#[test]
fn every_name_of_the_contract_exists() {
    // Section 6 of the design, word for word, plus the sections' order and what came after it ([lora]).
    let contract = [
        ("run", "seed seed_init seed_data seed_dropout"),
        (
            "model",
            "n_layer n_head n_kv_head n_embd context_length vocab_size norm norm_position position mlp qkv_bias bias \
             tie_embeddings dropout init_from head_dim mlp_dim rope_theta norm_eps",
        ),
        ("tokenizer", "kind path vocab_size"),
        ("data", "text shards val_fraction val shuffle format parse_special"),
        ("lora", "rank alpha targets dropout"),
        ("train", "micro_batch global_batch max_steps max_tokens log_every recompute epochs"),
        ("optimizer", "kind lr beta1 beta2 eps weight_decay"),
        ("schedule", "kind warmup_steps min_lr_ratio"),
        ("precision", "compute"),
        ("stability", "clip_norm nonfinite max_consecutive_skips"),
        ("eval", "every max_tokens tasks"),
        ("checkpoint", "every keep_last keep_every"),
        ("dist", "lanes reduction shard_optimizer"),
        ("sample", "every prompt"),
        ("push", "every repo private"),
    ];
    let order: Vec<&str> = schema::sections().iter().map(|section| &section.name[..]).collect();
    assert_eq!(order, contract.map(|(name, _)| name));
    for (name, keys) in contract {
        let section = schema::find(name).unwrap();
        for key in keys.split_whitespace() {
            assert!(section.key(key).is_some(), "{name}.{key}");
        }
        assert!(!section.about.is_empty() && section.keys.iter().all(|key| !key.about.is_empty()), "[{name}]");
    }
    // And their words.
    let words = |section: &str, key: &str| -> Vec<String> {
        let key = schema::find(section).unwrap().key(key).unwrap();
        key.words.iter().map(|(word, _)| word.clone()).collect()
    };
    assert_eq!(words("model", "mlp"), ["gelu", "gelu_erf", "swiglu", "relu2"]);
    assert_eq!(words("model", "norm"), ["layernorm", "rmsnorm"]);
    assert_eq!(words("model", "norm_position"), ["pre", "post"]);
    assert_eq!(words("model", "position"), ["learned", "rope", "none"]);
    assert_eq!(words("tokenizer", "kind"), ["gpt2", "bytes", "chars", "train", "file"]);
    assert_eq!(words("schedule", "kind"), ["cosine", "wsd", "linear", "constant"]);
    assert_eq!(words("precision", "compute"), ["fp32", "tf32", "bf16", "fp16"]);
    assert_eq!(words("stability", "nonfinite"), ["skip", "error"]);
}

#[test]
fn an_unknown_key_is_named_with_its_place_and_the_nearest() {
    let text = with("optimizer", "learning_rate = 3e-4");
    let error = parse(&text, &[]).unwrap_err();
    assert_eq!(
        error,
        "my.toml:6:1: unknown key \"learning_rate\" in [optimizer]; did you mean \"lr\"?\n   |\n 6 | learning_rate = \
         3e-4\n   | ^^^^^^^^^^^^^"
    );
    for (section, line, expected) in [
        (
            "optimizer",
            "weigth_decay = 0.1",
            "my.toml:6:1: unknown key \"weigth_decay\" in [optimizer]; did you mean \"weight_decay\"?",
        ),
        ("model", "  n_layers = 4", "my.toml:6:3: unknown key \"n_layers\" in [model]; did you mean \"n_layer\"?"),
        ("model", "block_size = 4", "did you mean \"context_length\"?"),
        ("model", "N-HEAD = 4", "did you mean \"n_head\"?"),
        ("model", "hidden_size = 4", "did you mean \"n_embd\"?"),
        ("model", "lr = 4", "\"lr\" belongs to [optimizer]"),
        ("model", "every = 4", "\"every\" belongs to [eval] or [checkpoint] or [sample] or [push]"),
        ("model", "batch_size = 4", "did you mean \"micro_batch\" in [train]?"),
        ("eval", "batch_size = 4", "did you mean \"batch\"?"),
        ("model", "warmup_stepz = 4", "did you mean \"warmup_steps\" in [schedule]?"),
        ("schedule", "zzz = 4", "its keys are kind, warmup_steps, min_lr_ratio, decay_steps, decay_fraction"),
        ("schedule", "kind.x = 4", "schedule.kind = { x = 4 }: expected one of \"cosine\""),
        ("optimiser", "lr = 4", "my.toml:5:2: unknown section \"[optimiser]\"; did you mean [optimizer]?"),
        ("training", "x = 4", "unknown section \"[training]\"; did you mean [train]?"),
        ("xyzzy", "x = 4", "the sections are [run] [model] [tokenizer]"),
        ("model.sub", "x = 4", "my.toml:5:8: unknown key \"sub\" in [model]"),
    ] {
        bad(&with(section, line), &[], expected);
    }
    bad("lr = 4\n", &[], "my.toml:1:1: the key \"lr\" stands in no section; \"lr\" belongs to [optimizer]");
    bad("model = 4\n", &[], "my.toml:1:1: model is a section; write [model] and its keys below it");
    bad("[[model]]\nn_layer = 4\n", &[], "[model] is not a list of sections");
}

#[test]
fn a_value_of_the_wrong_kind_says_what_was_expected() {
    for (section, line, expected) in [
        ("optimizer", "lr = \"abc\"", "my.toml:6:6: optimizer.lr = \"abc\": expected a number"),
        ("optimizer", "lr = \"3e-4\"", "optimizer.lr = \"3e-4\": expected a number; write it without quotes"),
        ("model", "n_layer = -1", "model.n_layer = -1: expected a whole number"),
        ("model", "n_layer = 12.0", "model.n_layer = 12.0: expected a whole number; write 12"),
        ("model", "n_layer = 1.5", "model.n_layer = 1.5: expected a whole number\n"),
        ("model", "bias = 1", "model.bias = 1: expected true or false"),
        ("model", "bias = \"true\"", "expected true or false; write it without quotes"),
        ("model", "norm = \"rms_norm\"", "expected one of \"layernorm\", \"rmsnorm\"; did you mean \"rmsnorm\"?"),
        ("train", "", "max_steps"),
        ("eval", "every = \"never\"", "eval.every = \"never\": expected a whole number of at least 1, or \"off\""),
        ("eval", "every = -1", "eval.every = -1: expected a whole number of at least 1, or \"off\""),
        ("stability", "clip_norm = \"none\"", "expected a number above 0, or \"off\""),
        ("run", "device = \"gpu\"", "run.device = \"gpu\": expected \"auto\", \"cpu\", \"cuda\" or \"cuda:N\""),
        ("run", "device = \"cuda:x\"", "expected \"auto\", \"cpu\", \"cuda\" or \"cuda:N\""),
        ("sample", "prompt = [1]", "sample.prompt = [1]: expected a list of strings, or one string"),
        ("dist", "reduction = \"ring\"", "dist.reduction = \"ring\": expected one of \"ordered\", \"fast\""),
        ("run", "seed = 99999999999999999999", "my.toml:6:8"),
    ] {
        if line.is_empty() {
            bad("[data]\ntext=\"a\"\n[train]\nmax_steps = \"many\"\n", &[], expected);
        } else {
            bad(&with(section, line), &[], expected);
        }
    }
    bad("[model\n", &[], "my.toml:1:7: ");
    bad(&with("model", "n_layer = 1\nn_layer = 2"), &[], "my.toml:7:1: duplicate key");
    bad(&with("model", "n_layer = "), &[], "my.toml:6:");
}

#[test]
fn numbers_out_of_range_name_key_value_and_range() {
    for (line, expected) in [
        ("optimizer.lr=0", "optimizer.lr = 0: expected a finite number above 0"),
        ("optimizer.lr=inf", "optimizer.lr = inf: expected a finite number above 0"),
        ("optimizer.lr=nan", "optimizer.lr = NaN: expected a finite number above 0"),
        ("optimizer.beta1=1", "optimizer.beta1 = 1: expected a number of at least 0 and below 1"),
        ("optimizer.beta2=-0.1", "optimizer.beta2 = -0.1: expected a number of at least 0 and below 1"),
        ("optimizer.eps=0.0", "optimizer.eps = 0: expected a finite number above 0"),
        ("optimizer.weight_decay=-1", "optimizer.weight_decay = -1: expected a finite number of at least 0"),
        ("schedule.min_lr_ratio=1.1", "schedule.min_lr_ratio = 1.1: expected a number from 0 to 1"),
        ("stability.clip_norm=-1", "stability.clip_norm = -1: expected a finite number above 0"),
        ("stability.spike_window=1", "stability.spike_window = 1: expected a whole number from 2 to 1000000"),
        ("stability.max_consecutive_skips=0", "expected a whole number from 1 to 2147483648"),
        ("model.n_layer=0", "model.n_layer = 0: expected a whole number from 1"),
        ("model.n_embd=9223372036854775807", "model.n_embd = 9223372036854775807: expected a whole number from 1"),
        ("model.n_head=7", "model.n_embd = 768 is not a multiple of model.n_head = 7"),
        ("model.n_kv_head=5", "model.n_kv_head = 5 does not divide model.n_head = 12"),
        ("model.dropout=1", "model.dropout = 1 must be at least 0 and below 1"),
        ("train.max_steps=0", "train.max_steps = 0: expected a whole number from 1"),
        ("train.micro_batch=0", "train.micro_batch = 0: expected a whole number from 1"),
        ("train.log_every=0", "train.log_every = 0: expected a whole number from 1"),
        ("train.epochs=0", "train.epochs = 0: expected a finite number above 0"),
        ("data.val_fraction=1", "data.val_fraction = 1: expected a number of at least 0 and below 1"),
        ("data.text=[\"a\", \"\"]", "data.text holds an empty path"),
        ("tokenizer.vocab_size=256", "tokenizer.vocab_size = 256: expected a whole number from 257"),
        ("tokenizer.kind=file", "tokenizer.kind = \"file\" needs tokenizer.path"),
        ("eval.max_tokens=1", "eval.max_tokens = 1: expected a whole number from 2"),
        ("checkpoint.keep_last=0", "checkpoint.keep_last = 0: expected a whole number from 1"),
        ("sample.temperature=-1", "sample.temperature = -1: expected a finite number of at least 0"),
        ("sample.top_k=0", "sample.top_k = 0: expected a whole number of at least 1"),
        ("sample.top_p=0", "sample.top_p = 0: expected a number above 0 and at most 1"),
        ("sample.prompt=[]", "sample.prompt is an empty list"),
        ("run.name=a/b", "run.name = \"a/b\": expected a folder's name"),
        ("run.name=..", "run.name = \"..\": expected a folder's name"),
    ] {
        bad(MINIMAL, &[line], expected);
        bad(MINIMAL, &[line], &format!("--set {line}: "));
    }
    // In a file the place is the value's.
    bad(&with("optimizer", "lr = -1.0"), &[], "my.toml:6:6: optimizer.lr = -1: expected a finite number above 0");
    bad(&with("model", "n_kv_head = 5"), &[], "my.toml:6:13: model.n_kv_head = 5 does not divide");
}

#[test]
fn contradictions_are_refused() {
    bad("[train]\nmax_steps = 1\n", &[], "my.toml: nothing says what to train on; write data.text");
    bad("[data]\ntext = \"a\"\n", &[], "my.toml: nothing says when the run ends; write train.max_steps");
    let two = "[data]\ntext = \"a\"\nshards = \"b\"\n[train]\nmax_steps = 1\n";
    bad(two, &[], "my.toml:3:10: data.text and data.shards both say what to train on");
    let two = "[data]\ntext = \"a\"\n[train]\nmax_steps = 1\nmax_tokens = 5\n";
    bad(two, &[], "my.toml:5:14: train.max_steps and train.max_tokens both say when the run ends");
    let two = "[data]\ntext = \"a\"\nval = \"b\"\nval_fraction = 0.5\n[train]\nmax_steps = 1\n";
    bad(two, &[], "my.toml:4:16: data.val and data.val_fraction = 0.5 both say what to validate on");
    let uneven = "[data]\ntext = \"a\"\n[train]\nmax_steps = 1\nmicro_batch = 8\nglobal_batch = 12\n";
    bad(uneven, &[], "my.toml:5:15: train.micro_batch = 8 does not divide train.global_batch = 12");
    bad(&with("schedule", "decay_steps = 1\ndecay_fraction = 0.1"), &[], "say the same thing twice");
}

#[test]
fn defaults_may_be_written_out_and_adapters_are_not_sharded() {
    good(MINIMAL, &["data.format=text", "eval.tasks=[]"]);
    let adapters = "[model]\ninit_from = \"a\"\n[data]\ntext = \"a\"\n[lora]\nrank = 4\n[train]\nmax_steps = 1\n";
    good(adapters, &[]);
    bad(
        adapters,
        &["dist.shard_optimizer=true"],
        "--set dist.shard_optimizer=true: dist.shard_optimizer = true divides",
    );
}

#[test]
fn lanes_are_a_power_of_two_and_made_of_whole_micro_batches() {
    let batch = ["train.micro_batch=4", "train.global_batch=32"];
    let lanes = |lanes: &'static str| [batch[0], batch[1], lanes];
    assert_eq!(good(MINIMAL, &lanes("dist.lanes=8")).dist.lanes, Some(8));
    bad(MINIMAL, &lanes("dist.lanes=3"), "dist.lanes = 3: expected a power of two");
    bad(MINIMAL, &lanes("dist.lanes=16"), "dist.lanes = 16 does not divide the 8 micro-batches of a step");
    bad(MINIMAL, &["dist.timeout=0"], "dist.timeout = 0: expected a finite number above 0");
    // How long one waits is no part of the result; the order of sums is.
    let hash = |line| good(MINIMAL, &[line]).hash();
    assert_eq!(hash("dist.timeout=5"), hash("dist.shard_optimizer=true"));
    assert_ne!(hash("dist.timeout=5"), hash("dist.reduction=fast"));
    assert!(!good(MINIMAL, &["dist.communication=bf16"]).notes().is_empty());
}

#[test]
fn tasks_name_a_benchmark_and_its_file() {
    let tasks = ["eval.tasks=[\"hellaswag:a.jsonl\", \"multiple-choice:C:b.jsonl\"]"];
    let config = good(MINIMAL, &tasks);
    let written: Vec<String> = config.eval.tasks.iter().map(ToString::to_string).collect();
    assert_eq!(written, ["hellaswag:a.jsonl", "multiple-choice:C:b.jsonl"]);
    assert_eq!(good(MINIMAL, &["eval.tasks=lambada:l.jsonl"]).eval.tasks[0].path, "l.jsonl");
    for wrong in ["hellaswag", "lambada:", "mmlu:x.jsonl", "[5]"] {
        bad(MINIMAL, &[&format!("eval.tasks={wrong}")], "expected a list of TASK:FILE");
    }
    bad(MINIMAL, &["eval.tasks=[\"lambada:a\", \"lambada:a\"]"], "names lambada:a twice");
    bad(MINIMAL, &["eval.max_examples=0"], "eval.max_examples = 0: expected");
}

#[test]
fn overrides_reach_every_key_and_win() {
    let config = good(
        MINIMAL,
        &[
            "model.n_layer=3",
            "optimizer.lr=1e-3",
            "schedule.kind=wsd",
            "tokenizer.kind=\"bytes\"",
            "run.name=2024",
            "sample.prompt=Once upon = a time",
            "train.micro_batch=auto",
            "train.global_batch = 64",
            "eval.every=off",
            "stability.clip_norm=0",
            "run.device=cuda:1",
            "data.text=my.txt",
            "model.n_layer=5",
        ],
    );
    assert_eq!(config.model.n_layer, Some(5));
    assert_eq!(config.optimizer.lr, 1e-3);
    assert_eq!(config.schedule.decay_fraction, Some(0.2));
    assert_eq!(config.tokenizer.kind(), TokenizerKind::Bytes);
    assert_eq!(config.run_dir(), Path::new("runs/2024"));
    assert_eq!(config.sample.prompt, ["Once upon = a time"]);
    assert_eq!((config.train.micro_batch, config.train.global_batch()), (MicroBatch::Auto, 64));
    assert_eq!((config.eval.every, config.stability.clip_norm), (Interval::Off, Limit::Off));
    assert_eq!(config.run.device, DeviceChoice::Cuda(1));
    assert_eq!(config.data.text, ["my.txt"]);
    assert_eq!(good(MINIMAL, &["data.text=[\"a\", 'b']"]).data.text, ["a", "b"]);

    // An alternative takes the place of what the file says, not of another override.
    let config = good(MINIMAL, &["train.max_tokens=4096", "data.shards=dir"]);
    assert_eq!((config.train.max_steps, config.train.max_tokens), (None, Some(4096)));
    assert_eq!((config.data.text.len(), config.data.shards.as_deref()), (0, Some("dir")));
    bad(MINIMAL, &["train.max_tokens=4096", "train.epochs=1"], "both say when the run ends");

    for (line, expected) in [
        ("optimizer.lr", "--set optimizer.lr: an override is written section.key=value"),
        (
            "optimizer.learning_rate=1",
            "--set optimizer.learning_rate=1: unknown key \"learning_rate\" in [optimizer]; did you mean \"lr\"?",
        ),
        ("optim.lr=1", "unknown section \"[optim]\"; did you mean [optimizer]?"),
        ("lr=1", "--set lr=1: the key \"lr\" stands in no section; \"lr\" belongs to [optimizer]"),
        ("optimizer=1", "[optimizer] is a section, and an override sets one of its keys: kind, lr"),
        ("optimizer.lr=abc", "--set optimizer.lr=abc: optimizer.lr = \"abc\": expected a number"),
        ("optimizer.lr=1\nweight_decay=3", "expected a number"),
        ("optimizer.lr.x=1", "unknown key \"lr.x\" in [optimizer]"),
        ("optimizer.lr=", "expected a number"),
        ("train.max_steps=1e3", "train.max_steps = 1000.0: expected a whole number; write 1000"),
        ("=", "stands in no section"),
    ] {
        bad(MINIMAL, &[line], expected);
    }
}

#[test]
fn defaults_that_depend_on_others_are_filled_in() {
    let config = good(MINIMAL, &[]);
    assert_eq!(
        (config.run.seed_init, config.run.seed_data, config.run.seed_dropout),
        (Some(1337), Some(1337), Some(1337))
    );
    assert_eq!((config.tokenizer.kind, config.data.val_fraction), (Some(TokenizerKind::Gpt2), Some(0.1)));
    assert_eq!((config.train.micro_batch, config.train.global_batch), (MicroBatch::Auto, Some(32)));
    assert_eq!((config.model.n_kv_head, config.model.head_dim, config.model.mlp_dim), (Some(12), Some(64), Some(3072)));
    assert_eq!((config.model.qkv_bias, config.model.vocab_size), (Some(true), None));
    assert_eq!(good(MINIMAL, &["train.micro_batch=12"]).train.global_batch, Some(12));
    assert_eq!(good(MINIMAL, &["run.seed=5"]).run.seed_data, Some(5));
    assert_eq!(good(MINIMAL, &["data.val=b"]).data.val_fraction, Some(0.0));
    assert_eq!(good(MINIMAL, &["data.shards=d"]).data.val_fraction, None);
    assert_eq!(good(MINIMAL, &["tokenizer.path=t.json"]).tokenizer.kind, Some(TokenizerKind::File));
    assert_eq!(good(MINIMAL, &["tokenizer.kind=train"]).tokenizer.vocab_size, Some(4096));
    let config = good(MINIMAL, &["model.mlp=swiglu", "model.n_embd=320", "model.n_head=5", "model.bias=false"]);
    // 8/3 * 320 = 853.3..., and the next multiple of 64 is 896.
    assert_eq!((config.model.mlp_dim, config.model.qkv_bias), (Some(896), Some(false)));
    assert!(!good(MINIMAL, &["tokenizer.vocab_size=300"]).notes().is_empty());
    assert!(!good(MINIMAL, &["schedule.warmup_steps=10"]).notes().is_empty());
}

#[test]
fn defaults_in_words_are_the_defaults() {
    let config = good(MINIMAL, &["tokenizer.kind=train"]);
    let values: toml::Table = config.to_toml().parse().unwrap();
    let mut compared = 0;
    for section in schema::sections() {
        for key in &section.keys {
            // Words that are a value by themselves, such as 12 or "gelu"; not "the tokenizer's".
            let Some(words) = key.default.as_ref().and_then(|words| format!("x = {words}").parse::<toml::Table>().ok())
            else {
                continue;
            };
            assert_eq!(values[&section.name].get(&key.name), Some(&words["x"]), "{}.{}", section.name, key.name);
            compared += 1;
        }
    }
    assert!(compared >= 12, "{compared}");
}

#[test]
fn steps_come_from_whichever_key_says() {
    let steps =
        |overrides: &[&str], sequences| good(MINIMAL, overrides).train.steps(8, sequences).map_err(|e| e.to_string());
    assert_eq!(steps(&[], 0), Ok(10));
    // Steps of 4 * 8 = 32 tokens.
    assert_eq!(steps(&["train.micro_batch=4", "train.max_tokens=95"], 0), Ok(2));
    assert_eq!(steps(&["train.micro_batch=4", "train.max_tokens=96"], 0), Ok(3));
    assert!(steps(&["train.micro_batch=4", "train.max_tokens=31"], 0).unwrap_err().contains("less than one step"));
    assert_eq!(steps(&["train.micro_batch=4", "train.epochs=1"], 9), Ok(3));
    assert_eq!(steps(&["train.micro_batch=4", "train.epochs=2.5"], 8), Ok(5));
    assert!(steps(&["train.micro_batch=4", "train.epochs=1"], 0).unwrap_err().contains("0 steps"));
    assert!(steps(&["train.epochs=1e300"], 9).unwrap_err().contains("expected 1 to"));
}

fn folder_shape() -> ModelConfig {
    ModelConfig {
        mlp_dim: 64,
        norm_eps: 1e-6,
        rope_theta: 5e5,
        dropout: 0.1,
        ..models::llama(&ModelConfig::gpt2(2, 4, 32, 16, 300))
    }
}

#[test]
fn init_from_brings_shape_and_tokenizer_and_bears_no_contradiction() {
    let mut config = good(MINIMAL, &["model.init_from=base", "model.n_layer=2", "model.dropout=0.2"]);
    assert_eq!((config.tokenizer.kind(), config.tokenizer.path.as_deref()), (TokenizerKind::File, Some("base")));
    assert_eq!(config.model.n_head, None, "the folder decides");
    let shape = config.resolve_model(300, Some(&folder_shape())).unwrap();
    assert_eq!(shape, ModelConfig { dropout: 0.2, ..folder_shape() });
    let reread = good(&config.to_toml(), &[]);
    assert_eq!(reread, config);
    assert_eq!(reread.model.resolve(300, Some(&folder_shape())).unwrap(), shape);

    for (line, expected) in [
        ("model.n_layer=3", "model.n_layer = 3 contradicts the model in base, which has 2"),
        ("model.norm=layernorm", "model.norm = \"layernorm\" contradicts the model in base, which has \"rmsnorm\""),
        ("model.tie_embeddings=true", "model.tie_embeddings = true contradicts the model in base, which has false"),
        ("model.norm_eps=1e-5", "model.norm_eps = 0.00001 contradicts the model in base, which has 1e-6"),
        ("model.context_length=8", "model.context_length = 8 contradicts the model in base, which has 16"),
    ] {
        let error =
            good(MINIMAL, &["model.init_from=base", line]).model.resolve(300, Some(&folder_shape())).unwrap_err();
        assert!(error.to_string().contains(expected), "{error}");
        assert_eq!(error.exit_code(), 2);
    }
    let config = good(MINIMAL, &["model.init_from=base"]);
    assert!(config.model.resolve(301, Some(&folder_shape())).unwrap_err().to_string().contains("vocabulary of 301"));
    assert!(good(MINIMAL, &["model.vocab_size=99"]).model.resolve(100, None).is_err());
    assert_eq!(good(MINIMAL, &["model.vocab_size=128"]).model.resolve(100, None).unwrap().vocab_size, 128);
}

#[test]
fn the_hash_follows_what_determines_the_weights() {
    let hash = |overrides: &[&str]| good(MINIMAL, overrides).hash();
    let base = hash(&[]);
    assert_eq!(base.len(), 64);
    for same in [
        "run.name=x",
        "run.dir=y",
        "run.device=cpu",
        "train.log_every=3",
        "train.recompute=true",
        "eval.every=7",
        "checkpoint.every=off",
        "sample.prompt=x",
        "stability.spike_window=9",
        "run.seed_init=1337",
        "train.global_batch=32",
        "model.n_layer=12",
    ] {
        assert_eq!(hash(&[same]), base, "{same}");
    }
    for other in [
        "run.seed_data=1",
        "model.n_layer=11",
        "optimizer.lr=0.00030000000000000003",
        "train.max_steps=11",
        "data.text=b.txt",
        "data.shuffle=false",
        "stability.clip_norm=off",
        "stability.nonfinite=error",
        "schedule.warmup_steps=1",
        "train.micro_batch=32",
        "tokenizer.kind=bytes",
    ] {
        assert_ne!(hash(&[other]), base, "{other}");
    }
    // Where a run goes back after spikes, when and where to matters.
    let back = "stability.spike=rollback";
    assert_ne!(hash(&[back]), base);
    for other in ["stability.spike_window=9", "stability.spike_threshold=9", "checkpoint.every=9"] {
        assert_ne!(hash(&[back, other]), hash(&[back]), "{other}");
    }
    let changed = good(MINIMAL, &["optimizer.lr=0.5", "run.name=x"]);
    let differences = good(MINIMAL, &[]).differences(&changed);
    let seen: Vec<_> =
        differences.iter().map(|d| (&d.key[..], d.before.as_deref(), d.after.as_deref(), d.determines)).collect();
    assert_eq!(seen, [("run.name", None, Some("\"x\""), false), ("optimizer.lr", Some("0.0003"), Some("0.5"), true)]);
}

#[test]
fn files_that_are_no_configs_are_told_apart() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("my run.toml");
    std::fs::write(&path, MINIMAL).unwrap();
    assert_eq!(Config::load(&path, &[]).unwrap().run_dir(), Path::new("runs/my run"));
    std::fs::write(&path, b"[data]\ntext = \"\xff\xfe\"\n").unwrap();
    let error = Config::load(&path, &[]).unwrap_err();
    assert!(error.to_string().contains("my run.toml:2: this is not UTF-8 text"), "{error}");
    let error = Config::load(&folder.path().join("none.toml"), &[]).unwrap_err();
    assert!(error.to_string().contains("no such file"), "{error}");
    assert!(Config::load(folder.path(), &[]).is_err());
    // A byte order mark and Windows line ends are no mistakes.
    good(&format!("\u{feff}{}", MINIMAL.replace('\n', "\r\n")), &[]);
    bad(&with("model", "n_lay = 1").replace('\n', "\r\n"), &[], "my.toml:6:1: unknown key \"n_lay\"");
    bad(&with("model", "\"ключ\" = 1"), &[], "unknown key \"ключ\"");
    bad("", &[], "nothing says what to train on");
    let deep = format!("[data]\ntext = {}", "[".repeat(100_000));
    assert!(parse(&deep, &[]).is_err());
    assert!(
        parse(MINIMAL, &[&format!("data.text={}", "[".repeat(100_000))]).is_ok(),
        "a strange file name, but a name"
    );
}

#[test]
fn the_documentation_is_current() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/config.md");
    let page = docs::markdown();
    if std::env::var_os("TAPER_UPDATE_DOCS").is_some() {
        std::fs::write(&path, &page).unwrap();
    }
    let committed = std::fs::read_to_string(&path).unwrap().replace("\r\n", "\n");
    assert_eq!(committed, page, "docs/config.md is stale: run with TAPER_UPDATE_DOCS=1 and commit it");
}

#[test]
fn precisions_are_refused_where_nothing_computes_in_them() {
    let resolve = |compute, gpu| PrecisionConfig { compute, ..PrecisionConfig::default() }.resolve(gpu);
    assert_eq!(resolve(None, false).unwrap(), Precision::Fp32);
    assert_eq!(resolve(None, true).unwrap(), Precision::Bf16);
    for precision in [Precision::Fp32, Precision::Bf16] {
        assert_eq!(resolve(Some(precision), false).unwrap(), precision);
    }
    for (precision, name) in [(Precision::Tf32, "tf32"), (Precision::Fp16, "fp16")] {
        assert_eq!(resolve(Some(precision), true).unwrap(), precision);
        let error = resolve(Some(precision), false).unwrap_err().to_string();
        let place = format!("precision.compute = \"{name}\" needs a GPU");
        for words in [place.as_str(), "\"bf16\"", "--device cuda"] {
            assert!(error.contains(words), "{words} is missing in {error}");
        }
    }
}
