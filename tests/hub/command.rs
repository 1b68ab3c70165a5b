//! The command line: pull, push, and OWNER/NAME where a model or a tokenizer is meant.

use super::server::TOKEN;
use super::{World, assert_token_is_safe, fixtures, read};
use crate::program;
use serde_json::Value;
use taper::data::Tokenizer;

pub struct Told {
    pub code: i32,
    pub out: String,
    pub err: String,
}

impl Told {
    pub fn json(&self) -> Value {
        assert_eq!(self.code, 0, "{}", self.err);
        serde_json::from_str(&self.out).unwrap_or_else(|error| panic!("{error}: {}", self.out))
    }
}

pub fn taper(world: &World, arguments: &[&str], more: &[(&str, &str)]) -> Told {
    let home = world.home.path();
    let mut command = program::taper(home);
    command.args(arguments).env_clear();
    command.env("HOME", home).env("HF_HOME", home.join("hf")).env("HF_ENDPOINT", &world.hub.url);
    command.envs(more.iter().copied());
    let (code, out, err) = program::told(&mut command);
    let told = Told { code, out, err };
    assert_token_is_safe(&world.hub, &[told.out.clone(), told.err.clone()]);
    told
}

/// A hub with a fixture (a model that transformers saved) under its own name, with a tokenizer.
fn with_fixture(name: &str) -> World {
    let world = World::start();
    let folder = fixtures::folder(name);
    let files: Vec<(String, Vec<u8>)> = ["config.json", "generation_config.json", "model.safetensors"]
        .iter()
        .map(|file| (file.to_string(), read(folder.join(file))))
        .collect();
    // As many characters as the fixture's vocabulary has rows, with the end of text: 97.
    let characters: String = (' '..='~').chain(['\n']).collect();
    let file = world.home.path().join("tokenizer.json");
    Tokenizer::chars(std::iter::once(characters.as_str()), true).unwrap().save_file(&file).unwrap();
    let tokenizer = read(file);
    let mut list: Vec<(&str, &[u8])> = files.iter().map(|(path, bytes)| (&path[..], &bytes[..])).collect();
    list.push(("tokenizer.json", &tokenizer));
    world.hub.put(&format!("owner/{name}"), &list);
    world
}

#[test]
fn a_model_on_the_hub_is_a_model() {
    for (name, kind) in [("gpt2_tiny", "GPT2LMHeadModel"), ("llama_tiny", "LlamaForCausalLM")] {
        let world = with_fixture(name);
        let id = format!("owner/{name}");
        let pulled = taper(&world, &["pull", &id, "--json"], &[("HF_TOKEN", TOKEN)]).json();
        assert_eq!(pulled["fetched"], 4);
        let folder = pulled["folder"].as_str().unwrap();
        assert_eq!(read(format!("{folder}/model.safetensors")), read(fixtures::folder(name).join("model.safetensors")));
        assert_eq!(taper(&world, &["pull", &id], &[]).out.trim(), folder);
        // What the command says of the name is what it says of the fixture's folder.
        let here = fixtures::folder(name);
        let (by_name, by_path) = (
            taper(&world, &["model", "info", &id, "--json"], &[("HF_HUB_OFFLINE", "1")]).json(),
            taper(&world, &["model", "info", here.to_str().unwrap(), "--json"], &[]).json(),
        );
        assert_eq!(by_name["architecture"], kind);
        assert_eq!(by_name, by_path);
    }
}

#[test]
fn sampling_and_tokenizing_by_name() {
    let world = with_fixture("gpt2_tiny");
    let id = "owner/gpt2_tiny";
    std::fs::write(world.home.path().join("c.txt"), "hello").unwrap();
    let ids = taper(&world, &["tokenizer", "encode", "--tokenizer", id, "--json", "c.txt"], &[]).json();
    assert_eq!(ids["ids"].as_array().unwrap().len(), 5);
    assert!(world.hub.asked("GET", "/blob/").is_empty(), "the weights are not wanted");
    let sample =
        ["sample", id, "--prompt", "a", "--device", "cpu", "--max-new-tokens", "3", "--temperature", "0", "--json"];
    let told = taper(&world, &sample, &[]).json();
    assert!(!told["samples"][0]["tokens"].as_array().unwrap().is_empty());
    assert_eq!(world.hub.asked("GET", "/blob/").len(), 1);
    std::fs::write(world.home.path().join("c.txt"), "hello world, hello hub. ".repeat(4)).unwrap();
    assert!(
        taper(&world, &["eval", id, "--data", "c.txt", "--device", "cpu", "--json"], &[]).json()["loss"].is_number()
    );
    assert_eq!(world.hub.asked("GET", "/blob/").len(), 1);
    let told = taper(&world, &["model", "info", "no/where"], &[]);
    assert!(
        told.code == 1 && told.err.contains("no folder no/where here") && told.err.contains("the Hub"),
        "{}",
        told.err
    );
}

#[test]
fn a_run_starts_from_a_model_on_the_hub() {
    let world = with_fixture("llama_tiny");
    let config = "[model]\ninit_from = \"owner/llama_tiny\"\n[tokenizer]\nkind = \"file\"\npath = \"owner/llama_tiny\"\n\
        [data]\ntext = \"text.txt\"\nval_fraction = 0\n[train]\nmicro_batch = 1\nmax_steps = 1\n";
    std::fs::write(world.home.path().join("c.toml"), config).unwrap();
    std::fs::write(world.home.path().join("text.txt"), "hello world, hello hub. ".repeat(40)).unwrap();
    let told = taper(&world, &["train", "c.toml", "--device", "cpu", "--run", "run"], &[]);
    assert_eq!(told.code, 0, "{}", told.err);
    assert!(!world.hub.asked("GET", "/blob/").is_empty());
}

#[test]
fn push_dry_run_push_and_pull_again() {
    let world = World::start();
    let folder = world.home.path().join("model");
    std::fs::create_dir(&folder).unwrap();
    for file in ["config.json", "generation_config.json", "model.safetensors"] {
        std::fs::copy(fixtures::folder("gpt2_tiny").join(file), folder.join(file)).unwrap();
    }
    std::fs::write(folder.join("README.md"), "# The card\n").unwrap();
    let token = [("HF_TOKEN", TOKEN)];
    let plan = taper(&world, &["push", "model", "me/m", "--dry-run", "--private"], &token);
    assert!(plan.out.contains("model.safetensors") && plan.out.contains("# The card"), "{}", plan.out);
    assert!(plan.out.contains("would be made, private"), "{}", plan.out);
    assert!(world.hub.state().repos.is_empty());
    let done = taper(&world, &["push", "model", "me/m", "--private", "--json"], &token).json();
    assert_eq!(done["stored"], 1);
    assert!(world.hub.state().repos["models/me/m"].private);
    let plan = taper(&world, &["push", "model", "me/m", "--dry-run", "--json"], &token).json();
    assert_eq!((&plan["bytes"], &plan["exists"]), (&Value::from(0), &Value::from(true)));
    let pulled = taper(&world, &["pull", "me/m", "--json"], &token).json();
    assert_eq!(pulled["commit"], done["commit"]);
    // The token's file serves as well, and what has no token is refused with exit code 2.
    assert_eq!(taper(&world, &["push", "model", "me/m"], &[]).code, 2);
    std::fs::write(world.home.path().join("hf/token"), format!("{TOKEN}\n")).unwrap();
    assert!(taper(&world, &["push", "model", "me/m"], &[]).err.contains("nothing was committed"));
    assert_eq!(taper(&world, &["push", "model", "not-a-name"], &token).code, 2);
    assert_eq!(taper(&world, &["push", "nowhere", "me/m"], &token).code, 2);
}

#[test]
fn a_data_set_is_pulled_and_prepared() {
    let world = World::start();
    let line = |text: &str| format!("{}\n", serde_json::json!({ "id": 1, "story": text }));
    let files = [
        ("README.md", "about".to_string()),
        ("data/train-00000-of-00002.jsonl", line("Once upon a time") + &line("there was")),
        ("data/train-00001-of-00002.jsonl", line("the end")),
        ("data/validation-00000-of-00001.jsonl", line("held out")),
    ];
    let files: Vec<(&str, &[u8])> = files.iter().map(|(path, text)| (*path, text.as_bytes())).collect();
    world.hub.put_as("datasets", "owner/stories", &files);
    let pulled = taper(&world, &["data", "pull", "owner/stories", "--json"], &[]).json();
    assert_eq!(
        pulled["files"],
        serde_json::json!(["data/train-00000-of-00002.jsonl", "data/train-00001-of-00002.jsonl"])
    );
    assert!(pulled["folder"].as_str().unwrap().contains("datasets--owner--stories"));
    let prepare = ["--tokenizer", "bytes", "--out", "shards", "--text-column", "story", "--val-split", "val", "--json"];
    let made = taper(&world, &[&["data", "pull", "owner/stories"], &prepare[..]].concat(), &[]).json();
    assert_eq!(made["documents"], 4);
    // 16 + 9 + 7 bytes and two ends between documents; 8 bytes held out.
    let told = taper(&world, &["data", "inspect", "shards", "--json"], &[]).json();
    assert_eq!((&told["train_tokens"], &told["val_tokens"]), (&Value::from(34), &Value::from(8)));
    let told = taper(&world, &["data", "pull", "owner/stories", "--split", "test"], &[]);
    assert!(told.code == 1 && told.err.contains("train-00000-of-00002.jsonl"), "{}", told.err);
}
