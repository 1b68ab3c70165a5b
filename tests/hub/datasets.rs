//! Data sets by name: streamed into a preparation, wherever a path of text or shards is accepted, and not where a path was
//! mistyped. Token counts are worked out by hand: a byte is a token, an end stands between two documents.

use super::command::taper;
use super::server::{Fault, Wrong};
use super::{World, assert_token_is_safe};
use serde_json::{Value, json};
use std::path::Path;
use std::sync::atomic::{AtomicUsize, Ordering};
use taper::data::{PrepareOptions, ShardOptions, Shards, Split, Tokenizer, prepare_sources};
use taper::hub::{Repo, Selection, Streamed, stream_dataset};
use taper::ui::{Level, Ui};

fn line(text: &str) -> String {
    format!("{}\n", json!({ "id": 1, "story": text }))
}

/// Seven files of two documents each, and two of validation.
fn stories(world: &World) -> Vec<String> {
    let text = |i: usize| (format!("story {i} begins. ").repeat(40), format!("and story {i} ends"));
    let mut files = vec![("README.md".to_string(), "about".to_string())];
    for i in 0..7 {
        let (one, two) = text(i);
        files.push((format!("data/train-{i:05}-of-00007.jsonl"), line(&one) + &line(&two)));
    }
    for i in 0..2 {
        files.push((format!("data/validation-{i:05}-of-00002.jsonl"), line(&format!("held out {i}"))));
    }
    let list: Vec<(&str, &[u8])> = files.iter().map(|(path, text)| (&path[..], text.as_bytes())).collect();
    world.hub.put_as("datasets", "owner/stories", &list);
    (0..7).flat_map(|i| <[String; 2]>::from(text(i))).collect()
}

fn selection(split: &str) -> Selection {
    Selection { split: split.into(), ..Selection::default() }
}

fn streamed(world: &World, spool: &Path) -> Streamed {
    let repo = Repo::dataset("owner/stories").unwrap();
    stream_dataset(world.client(), &repo, &[selection("train"), selection("val")], spool).unwrap()
}

/// Looks at how many files are on disk at once.
struct Watch<'a> {
    spool: &'a Path,
    most: AtomicUsize,
}

impl Ui for Watch<'_> {
    fn tokenized(&self, _: u64, _: u64, _: u64) {
        let there = std::fs::read_dir(self.spool).into_iter().flatten().count();
        self.most.fetch_max(there, Ordering::Relaxed);
    }

    fn message(&self, _: Level, _: &str) {}
}

fn prepared(world: &World, out: &Path) -> taper::Result<usize> {
    let spool = out.join(".fetch");
    let mut sources = streamed(world, &spool).sources.into_iter();
    let (train, val) = (sources.next().unwrap(), sources.next().unwrap());
    let options = PrepareOptions {
        val_inputs: Some(vec!["validation".into()]),
        text_column: "story".into(),
        shard_tokens: 500,
        threads: 1,
        ..PrepareOptions::new(vec!["train".into()], out, "bytes")
    };
    let watch = Watch { spool: &spool, most: AtomicUsize::new(0) };
    prepare_sources(&options, train, val, &Tokenizer::bytes(), &watch)?;
    Ok(watch.most.into_inner())
}

/// The text that shards hold, by the tokenizer of bytes.
fn text_of(folder: &Path, split: Split) -> Vec<String> {
    let tokenizer = Tokenizer::bytes();
    let (train, val) = Shards::open(&folder.to_string_lossy(), &ShardOptions::default()).unwrap().into_streams(257);
    let stream = if split == Split::Train { train } else { val.unwrap() };
    let mut ids = vec![0; stream.len() as usize];
    stream.read(0, &mut ids).unwrap();
    let documents = ids.split(|&id| Some(id) == tokenizer.eot());
    documents.map(|ids| tokenizer.decode(ids).unwrap()).collect()
}

#[test]
fn a_data_set_flows_through_the_disk() {
    let world = World::start();
    let documents = stories(&world);
    let out = world.home.path().join("shards");
    let most = prepared(&world, &out).unwrap();
    assert!(most <= 3, "{most} files at once: the one that is read, the next, and that one's unfinished twin");
    assert_eq!(text_of(&out, Split::Train), documents);
    assert_eq!(text_of(&out, Split::Val), ["held out 0", "held out 1"]);
    assert_eq!(std::fs::read_dir(out.join(".fetch")).unwrap().count(), 0);
    assert!(world.names("hub").is_empty(), "nothing stays in the cache");
    assert_token_is_safe(&world.hub, &[]);
}

#[test]
fn a_streamed_preparation_that_broke_goes_on_where_it_was() {
    let world = World::start();
    let documents = stories(&world);
    let out = world.home.path().join("shards");
    let wrong = Wrong::Status(503, &[], "");
    world.hub.faults(Fault { method: "GET", path: "train-00005", after: 0, times: 999, wrong });
    let error = prepared(&world, &out).unwrap_err().to_string();
    assert!(error.contains("out of order"), "{error}");
    world.hub.disarm();
    world.hub.forget();
    prepared(&world, &out).unwrap();
    assert_eq!(text_of(&out, Split::Train), documents);
    let again = |file: &str| world.hub.asked("GET", file).iter().filter(|asked| asked.path.contains("cache")).count();
    assert_eq!([again("train-00000"), again("train-00001"), again("train-00006")], [0, 0, 1]);
    // A flipped bit never becomes a token.
    let world = World::start();
    let documents = stories(&world);
    world.hub.fault("GET", "resolve-cache", Wrong::Corrupt);
    prepared(&world, &world.home.path().join("shards")).unwrap();
    assert_eq!(text_of(&world.home.path().join("shards"), Split::Train), documents);
}

#[test]
fn the_command_streams_and_says_what_it_made() {
    let world = World::start();
    let documents = stories(&world);
    let pull = ["data", "pull", "owner/stories", "--tokenizer", "bytes", "--out", "shards", "--text-column", "story"];
    let made = taper(&world, &[&pull[..], &["--val-split", "validation", "--json"]].concat(), &[]).json();
    assert_eq!(made["documents"], 16);
    let source = made["sources"][0]["input"].as_str().unwrap();
    assert!(source.starts_with("owner/stories@") && source.ends_with("(train)"), "{source}");
    let tokens: usize = documents.iter().map(String::len).sum::<usize>() + documents.len() - 1;
    let told = taper(&world, &["data", "inspect", "shards", "--json", "--verify"], &[]).json();
    assert_eq!((&told["train_tokens"], &told["val_tokens"]), (&json!(tokens), &json!(21)));
    assert!(!world.home.path().join("shards/.fetch").exists() && !world.home.path().join("hf/hub").exists());
    // Once more: it is there already.
    world.hub.forget();
    let told = taper(&world, &[&pull[..], &["--val-split", "validation"]].concat(), &[]);
    assert!(told.code == 0 && told.err.contains("already prepared"), "{}", told.err);
    assert!(world.hub.asked("GET", "/resolve").is_empty());
    // A column that is not there is named with those that are.
    let wrong = ["data", "pull", "owner/stories", "--tokenizer", "bytes", "--out", "other"];
    let told = taper(&world, &wrong, &[]);
    assert!(told.code == 1 && told.err.contains("story") && told.err.contains("train-00000"), "{}", told.err);
}

const CONFIG: &str = "[model]\nn_layer = 1\nn_head = 2\nn_embd = 16\ncontext_length = 16\n[tokenizer]\nkind = \"bytes\"\n\
    [train]\nmicro_batch = 2\nmax_steps = 2\n[schedule]\nwarmup_steps = 1\n";

fn train(world: &World, data: &str, run: &str, more: &[&str], env: &[(&str, &str)]) -> super::command::Told {
    std::fs::write(world.home.path().join("c.toml"), format!("{CONFIG}{data}")).unwrap();
    taper(world, &[&["train", "c.toml", "--device", "cpu", "--run", run][..], more].concat(), env)
}

#[test]
fn a_run_trains_on_a_data_set_by_its_name() {
    let world = World::start();
    stories(&world);
    let data = "[data]\ntext = \"owner/stories\"\nval = \"owner/stories\"\ntext_column = \"story\"\n";
    let told = train(&world, data, "run", &[], &[]);
    assert_eq!(told.code, 0, "{}", told.err);
    let told = taper(&world, &["data", "inspect", "run/data/tokens", "--json"], &[]).json();
    assert_eq!(told["val_tokens"], 21);
    let card =
        String::from_utf8(super::read(world.home.path().join("run/checkpoints/step-00000002/README.md"))).unwrap();
    assert!(card.contains("\ndatasets:\n- \"owner/stories\"\n"), "{card}");
    // A run that continues asks nobody.
    world.hub.forget();
    let told = train(&world, data, "run", &["--resume", "--set", "train.max_steps=3"], &[]);
    assert_eq!(told.code, 0, "{}", told.err);
    assert!(world.hub.all_asked().is_empty());
    // Nor does a new one without a connection: the cache has the files.
    let offline = [("HF_HUB_OFFLINE", "1")];
    let told = train(&world, data, "other", &[], &offline);
    assert!(told.code == 0 && told.err.contains("7 files of owner/stories"), "{}", told.err);
    // Measuring on it takes the validation split. Text is read by its column "text" there.
    let told = taper(&world, &["eval", "run", "--data", "owner/nothing", "--json"], &[]);
    assert!(told.code == 1 && told.err.contains("no file or folder owner/nothing here"), "{}", told.err);
}

#[test]
fn a_run_trains_on_shards_by_their_name() {
    let world = World::start();
    // The layout of kjj0/fineweb10B-gpt2: a header of 256 int32 (magic, version, count), then uint16 tokens.
    let shard = |count: usize| {
        let mut bytes: Vec<u8> = [20240520i32, 1, count as i32].iter().flat_map(|word| word.to_le_bytes()).collect();
        bytes.resize(1024, 0);
        bytes.extend((0..count).flat_map(|i| ((i * 7 % 256) as u16).to_le_bytes()));
        bytes
    };
    let (train_1, train_2, val) = (shard(300), shard(200), shard(50));
    let files: [(&str, &[u8]); 3] = [
        ("fineweb_train_000001.bin", &train_1),
        ("fineweb_train_000002.bin", &train_2),
        ("fineweb_val_000000.bin", &val),
    ];
    world.hub.put_as("datasets", "owner/shards", &files);
    let told = train(&world, "[data]\nshards = \"owner/shards\"\n", "run", &[], &[]);
    assert_eq!(told.code, 0, "{}", told.err);
    assert!(told.err.contains("500 training tokens, 50 validation tokens"), "{}", told.err);
    let pulled =
        taper(&world, &["data", "pull", "owner/shards", "--files", "*_train_000001.bin", "--json"], &[]).json();
    assert_eq!(pulled["files"], json!(["fineweb_train_000001.bin"]));
    let loss = taper(&world, &["eval", "run", "--data", "owner/shards", "--json"], &[]).json();
    // 50 tokens in windows of 16: 49 predictions in 4 windows.
    assert_eq!((&loss["predictions"], &loss["windows"]), (&Value::from(49), &Value::from(4)));
    let interval = [0, 1].map(|i| loss["interval"][i].as_f64().unwrap());
    let (mean, error) = (loss["loss"].as_f64().unwrap(), loss["standard_error"].as_f64().unwrap());
    assert!(interval[0] < mean && mean < interval[1] && error > 0.0);
    assert!((interval[1] - interval[0] - 2.0 * 1.959_964 * error).abs() < 1e-9);
    let told = taper(&world, &["data", "pull", "owner/shards", "--tokenizer", "bytes", "--out", "x"], &[]);
    assert!(told.code == 2 && told.err.contains("holds tokens already"), "{}", told.err);
}

#[test]
fn a_mistyped_path_is_not_asked_of_the_hub() {
    let world = World::start();
    std::fs::create_dir_all(world.home.path().join("runs/quickstart")).unwrap();
    std::fs::create_dir_all(world.home.path().join("texts")).unwrap();
    let both = |told: &super::command::Told, name: &str| {
        assert_eq!(told.code, 2, "{}", told.err);
        assert!(
            told.err.contains(&format!("there is no {name} here")) && told.err.contains("on the Hub"),
            "{}",
            told.err
        );
    };
    both(&taper(&world, &["sample", "runs/quickstrat"], &[]), "runs/quickstrat");
    both(&taper(&world, &["eval", "runs/quickstrat", "--data", "x.txt"], &[]), "runs/quickstrat");
    both(&train(&world, "[data]\ntext = \"texts/boks\"\n", "r1", &[], &[]), "texts/boks");
    both(&train(&world, "[data]\nshards = \"texts/shrads\"\n", "r2", &[], &[]), "texts/shrads");
    both(&train(&world, "[data]\ntext = \"data/books.txt\"\n", "r3", &[], &[]), "data/books.txt");
    both(&taper(&world, &["data", "prepare", "texts/boks", "--tokenizer", "bytes", "--out", "o"], &[]), "texts/boks");
    let tokenizer = "[data]\ntext = \"a.txt\"\n";
    std::fs::write(world.home.path().join("a.txt"), "text").unwrap();
    let told =
        train(&world, tokenizer, "r4", &["--set", "tokenizer.kind=file", "--set", "tokenizer.path=texts/tok"], &[]);
    both(&told, "texts/tok");
    for path in ["./runs/quickstrat", "/nowhere/model", "runs/a/b"] {
        let told = taper(&world, &["sample", path], &[]);
        assert!(told.code == 2 && !told.err.contains("Hub"), "{}", told.err);
    }
    assert!(world.hub.all_asked().is_empty(), "{:?}", world.hub.all_asked());
    // What can only be a name is asked, and the answer names both readings.
    let told = train(&world, "[data]\ntext = \"no/where\"\n", "r5", &[], &[]);
    assert!(
        told.err.contains("no file or folder no/where here") && told.err.contains("no dataset no/where"),
        "{}",
        told.err
    );
}
