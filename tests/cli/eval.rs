//! Benchmarks: their scores against transformers and PyTorch, the same bits whatever the batch, and what bad files are told.
//!
//! The truth is `tests/fixtures/eval`, made by `scripts/make_eval_fixtures.py` (in float64, each continuation alone):
//! nothing of ours took part in it.

use std::path::{Path, PathBuf};
use std::process::Output;

use serde_json::Value;
use taper::checkpoint::read_model_folder;
use taper::data::tokenizer::Tokenizer;
use taper::error::Error;
use taper::eval::tasks::{Task, TaskKind, TaskScore, TaskSpec};
use taper::events::EventLog;
use taper::model::Gpt;
use taper::tape::Params;

fn fixture(name: &str) -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/eval").join(name)
}

fn expected() -> Value {
    serde_json::from_slice(&std::fs::read(fixture("expected.json")).unwrap()).unwrap()
}

struct Model {
    gpt: Gpt,
    params: Params,
    tokenizer: Tokenizer,
}

impl Model {
    fn load() -> Model {
        let found = read_model_folder(&fixture("")).unwrap();
        let gpt = Gpt::new(found.config).unwrap();
        let params = gpt.with_values(found.params.iter().map(|(n, _, v)| (n.as_str(), v.as_slice()))).unwrap();
        Model { gpt, params, tokenizer: Tokenizer::from_file(&fixture("")).unwrap() }
    }

    fn task(&self, kind: TaskKind, path: &Path, most: Option<u64>) -> Result<Task, Error> {
        let spec = TaskSpec { kind, path: path.to_string_lossy().into_owned() };
        Task::load(&spec, &self.tokenizer, self.gpt.config(), most)
    }

    fn score(&self, kind: TaskKind, most: Option<u64>, batch: usize) -> TaskScore {
        let task = self.task(kind, &fixture(&format!("{}.jsonl", kind.name())), most).unwrap();
        task.score(&self.gpt, &self.params, batch, &mut |_, _| {}).unwrap()
    }
}

#[test]
fn scores_equal_those_of_transformers() {
    let (model, expected) = (Model::load(), expected());
    for kind in TaskKind::ALL {
        let theirs = &expected[kind.name()];
        let task = model.task(kind, &fixture(&format!("{}.jsonl", kind.name())), None).unwrap();
        assert_eq!(
            (task.skipped, task.cut),
            (theirs["skipped"].as_u64().unwrap(), theirs["contexts_cut"].as_u64().unwrap())
        );
        let ours = task.score(&model.gpt, &model.params, 4, &mut |_, _| {}).unwrap();
        let examples = theirs["examples"].as_array().unwrap();
        assert_eq!((ours.examples.len(), task.examples()), (examples.len(), examples.len() as u64));
        for (ours, theirs) in ours.examples.iter().zip(examples) {
            let at = format!("{} line {}", kind.name(), ours.line);
            assert_eq!(
                (Some(ours.line), Some(ours.answer as u64)),
                (theirs["line"].as_u64(), theirs["answer"].as_u64())
            );
            for (index, choice) in ours.choices.iter().enumerate() {
                let of = |name: &str| &theirs[name][index];
                let off = (choice.log_probability - of("log_probabilities").as_f64().unwrap()).abs();
                assert!(off < 1e-4, "{at}, choice {index}: off by {off:e}");
                assert_eq!(Some(choice.tokens as u64), of("tokens").as_u64(), "{at}");
                assert_eq!(Some(choice.bytes as u64), of("bytes").as_u64(), "{at}");
                assert_eq!(Some(choice.greedy), of("greedy").as_bool(), "{at}");
            }
        }
        assert_eq!(ours.metrics.len(), theirs["metrics"].as_object().unwrap().len());
        for metric in &ours.metrics {
            let theirs = &theirs["metrics"][metric.name];
            let (value, error) = (theirs["value"].as_f64().unwrap(), theirs["standard_error"].as_f64().unwrap());
            if metric.name == "perplexity" {
                assert!(
                    (metric.value / value - 1.0).abs() < 1e-4
                        && (metric.standard_error.unwrap() / error - 1.0).abs() < 1e-4
                );
            } else {
                assert_eq!(metric.value, value, "{} {}", kind.name(), metric.name);
                assert!((metric.standard_error.unwrap() - error).abs() < 1e-12);
            }
            let (low, high) = metric.interval.unwrap();
            assert!(low <= metric.value && metric.value <= high);
        }
    }
}

#[test]
fn the_batch_does_not_change_a_bit() {
    let model = Model::load();
    for kind in TaskKind::ALL {
        let whole = model.score(kind, None, 1);
        for batch in [2, 3, 7, 64] {
            assert_eq!(model.score(kind, None, batch), whole, "{} in batches of {batch}", kind.name());
        }
        let some = model.score(kind, Some(5), 4);
        assert_eq!(some.examples, whole.examples[..5], "neighbours change nothing");
    }
}

#[test]
fn a_bad_line_is_named_with_what_is_wrong() {
    let (model, folder) = (Model::load(), tempfile::tempdir().unwrap());
    let path = folder.path().join("bad.jsonl");
    let good = r#"{"ctx": "The miller", "endings": ["sings.", "waits."], "label": 1}"#;
    let told = |kind: TaskKind, content: &str| {
        std::fs::write(&path, content).unwrap();
        model.task(kind, &path, None).unwrap_err().to_string()
    };
    let hellaswag = [
        ("{\"ctx\": \"The", "bad.jsonl:2: not a JSON object"),
        ("[1]", "not a JSON object"),
        (r#"{"ctx": "a", "endings": ["b", "c"]}"#, "no field \"label\"; it has \"ctx\", \"endings\""),
        (
            r#"{"ctx": "a", "endings": ["b", "c"], "label": 2}"#,
            "the answer is 2, counted from 0, and there are 2 choices",
        ),
        (r#"{"ctx": "a", "endings": ["b", "c"], "label": ""}"#, "expected the number of the right choice"),
        (r#"{"ctx": "a", "endings": ["b", "c"], "label": -1}"#, "expected the number of the right choice"),
        (r#"{"ctx": "a", "endings": ["b", " "], "label": 0}"#, "number 1 of \"endings\", counted from 0, is empty"),
        (r#"{"ctx": "a", "endings": ["b"], "label": 0}"#, "not a list of two or more texts"),
        (r#"{"ctx": 5, "endings": ["b", "c"], "label": 0}"#, "\"ctx\" is not a text"),
    ];
    for (line, words) in hellaswag {
        let message = told(TaskKind::Hellaswag, &format!("{good}\n{line}\n"));
        assert!(message.contains(words) && message.contains("bad.jsonl:2"), "{line}: {message}");
    }
    let message = told(TaskKind::Lambada, "{\"text\": \"word\"}\n");
    assert!(message.contains("a single word"), "{message}");
    let both = r#"{"context": "a", "question": "b", "choices": ["c", "d"], "answer": 0}"#;
    assert!(told(TaskKind::MultipleChoice, both).contains("both \"context\" and \"question\""));
    assert!(told(TaskKind::Hellaswag, "\n\n").contains("has no examples"));
    let long = format!(r#"{{"context": "a", "choices": ["c", "{}"], "answer": 0}}"#, "bell ".repeat(99));
    assert!(told(TaskKind::MultipleChoice, &long).contains("longer than the model's context of 40 tokens"));
    let absent = model.task(TaskKind::Lambada, &folder.path().join("none.jsonl"), None).unwrap_err();
    assert!(matches!(absent, Error::Io { .. }), "{absent}");
    // Damage beyond the examples that are asked for is not met.
    std::fs::write(&path, format!("\u{feff}{good}\n\n{{\n")).unwrap();
    assert_eq!(model.task(TaskKind::Hellaswag, &path, Some(1)).unwrap().examples(), 1);
}

fn taper(arguments: &[&str], folder: &Path) -> Output {
    crate::program::taper(folder).args(arguments).output().unwrap()
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

#[test]
fn the_command_prints_a_table_or_one_object_and_writes_details() {
    let (folder, expected) = (tempfile::tempdir().unwrap(), expected());
    let (model, data) = (fixture(""), fixture("multiple-choice.jsonl"));
    let base = ["eval", model.to_str().unwrap(), "--task", "multiple-choice", "--data", data.to_str().unwrap()];
    let with = |more: &[&str]| taper(&[&base[..], more].concat(), folder.path());
    let output = with(&["--json", "--details", "details.jsonl", "--batch", "5"]);
    assert!(output.status.success(), "{}", text(&output.stderr));
    assert!(text(&output.stderr).contains("1 of 20 examples"), "{}", text(&output.stderr));
    let found: Value = serde_json::from_slice(&output.stdout).unwrap();
    let theirs = &expected["multiple-choice"];
    assert_eq!(found["task"], "multiple-choice");
    assert_eq!((&found["skipped"], &found["contexts_cut"]), (&theirs["skipped"], &theirs["contexts_cut"]));
    assert_eq!(found["examples"], 19);
    for (name, metric) in theirs["metrics"].as_object().unwrap() {
        assert_eq!(found["metrics"][name]["value"], metric["value"], "{name}");
        assert_eq!(found["metrics"][name]["interval"].as_array().unwrap().len(), 2);
    }
    let details = std::fs::read_to_string(folder.path().join("details.jsonl")).unwrap();
    let first: Value = serde_json::from_str(details.lines().next().unwrap()).unwrap();
    assert_eq!((details.lines().count(), &first["tokens"]), (19, &theirs["examples"][0]["tokens"]));

    let output = with(&["--max-examples", "3"]);
    let table = text(&output.stdout);
    assert!(output.status.success() && table.contains("acc_norm_tokens") && table.contains("95% interval"), "{table}");
    for (more, words) in [
        (&["--engine", "reference"][..], "native engine"),
        (&["--max-examples", "0"], "at least 1"),
        (&["--max-tokens", "5"], "cannot be used with"),
    ] {
        let output = with(more);
        assert_eq!(output.status.code(), Some(2), "{more:?}");
        assert!(text(&output.stderr).contains(words), "{}", text(&output.stderr));
    }
    let unknown = taper(&["eval", model.to_str().unwrap(), "--task", "mmlu", "--data", "x"], folder.path());
    assert_eq!(unknown.status.code(), Some(2));
    assert!(text(&unknown.stderr).contains("hellaswag, lambada, multiple-choice"), "{}", text(&unknown.stderr));
}

const CONFIG: &str = r#"
[model]
n_layer = 1
n_head = 2
n_embd = 16
context_length = 64
[tokenizer]
kind = "bytes"
[data]
text = ["text.txt"]
val_fraction = 0.1
[train]
micro_batch = 2
max_steps = 4
[eval]
every = 2
tasks = ["hellaswag:hellaswag.jsonl", "lambada:lambada.jsonl"]
max_examples = 6
[checkpoint]
every = 2
"#;

#[test]
fn a_run_scores_its_tasks_into_its_log_and_its_card() {
    let shop = tempfile::tempdir().unwrap();
    let path = |name: &str| shop.path().join(name);
    for name in ["hellaswag.jsonl", "lambada.jsonl"] {
        std::fs::copy(fixture(name), path(name)).unwrap();
    }
    std::fs::write(path("text.txt"), "the lamp burns low and the night is long ".repeat(100)).unwrap();
    std::fs::write(path("run.toml"), CONFIG).unwrap();
    let train = |run: &str, more: &[&str]| {
        let output = taper(&[&["train", "run.toml", "--run", run][..], more].concat(), shop.path());
        (output.status.code(), text(&output.stderr))
    };
    let (code, told) = train("a", &[]);
    assert_eq!(code, Some(0), "{told}");
    assert!(told.contains("hellaswag: acc 0."), "{told}");
    let log = EventLog::read(path("a/events.jsonl")).unwrap();
    let tasks: Vec<_> = log.tasks().collect();
    let places: Vec<_> = tasks.iter().map(|task| (task.step, task.task.as_str(), task.examples)).collect();
    let at = |step| [(step, "hellaswag", 6), (step, "lambada", 6)];
    assert_eq!(places, [at(0), at(2), at(4)].concat());
    let card = std::fs::read_to_string(path("a/checkpoints/step-00000004/README.md")).unwrap();
    let last = &tasks[4].metrics[1];
    let row = format!("| HellaSwag (hellaswag.jsonl, zero-shot) | accuracy, normalised by bytes | {:.4} |", last.value);
    assert_eq!(last.name, "acc_norm");
    assert!(card.contains(&row), "{row}\n{card}");
    assert!(card.contains("name: \"LAMBADA (lambada.jsonl, zero-shot)\""), "{card}");

    // `taper eval` says the same of the checkpoint.
    let output = taper(
        &[
            "eval",
            "a/checkpoints/step-00000004",
            "--task",
            "lambada",
            "--data",
            "lambada.jsonl",
            "--max-examples",
            "6",
            "--json",
        ],
        shop.path(),
    );
    let found: Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(found["metrics"]["perplexity"]["value"].as_f64(), Some(tasks[5].metrics[1].value));

    // What the log knows already is not written twice; a new score is, and the report and the card of a push tell it.
    let scores = || EventLog::read(path("a/events.jsonl")).unwrap().tasks().cloned().collect::<Vec<_>>();
    assert_eq!(scores().len(), 6);
    std::fs::copy(fixture("multiple-choice.jsonl"), path("quiz.jsonl")).unwrap();
    let quiz = ["eval", "a/checkpoints/step-00000004", "--task", "multiple-choice", "--data", "quiz.jsonl"];
    for _ in 0..2 {
        assert_eq!(taper(&quiz, shop.path()).status.code(), Some(0));
        assert_eq!(scores().len(), 7);
    }
    assert_eq!((scores()[6].step, scores()[6].task.as_str()), (4, "multiple-choice"));
    assert_eq!(taper(&["report", "a"], shop.path()).status.code(), Some(0));
    let page = std::fs::read_to_string(path("a/report/index.html")).unwrap();
    let metric = &scores()[6].metrics[0];
    let cell = format!("<td>{:.4} ± {:.4}</td>", metric.value, metric.standard_error.unwrap());
    assert!(page.contains("<h3>multiple-choice (quiz.jsonl)</h3>") && page.contains(&cell), "{cell}");
    // The run is over, and stays so.
    let (code, told) = train("a", &["--resume"]);
    assert!(code == Some(0) && told.contains("finished"), "{told}");
    // Where somebody else writes the log, the score is shown and not written.
    let _training = taper::run::folder::RunFolder::open(&path("a"), true).unwrap();
    let more = [&quiz[..], &["--max-examples", "2"]].concat();
    let output = taper(&more, shop.path());
    assert!(output.status.success() && text(&output.stderr).contains("in use"), "{}", text(&output.stderr));
    assert_eq!(scores().len(), 7);

    // Scoring is no part of training: the weights are those of a run without tasks, and the numbers those of another batch.
    let (code, told) = train("b", &["--set", "eval.tasks=[]"]);
    assert_eq!(code, Some(0), "{told}");
    let weights = |run: &str| std::fs::read(path(run).join("checkpoints/step-00000004/model.safetensors")).unwrap();
    assert!(weights("a") == weights("b"));
    let (code, told) = train("c", &["--set", "eval.batch=1"]);
    assert_eq!(code, Some(0), "{told}");
    let again = EventLog::read(path("c/events.jsonl")).unwrap();
    assert!(again.tasks().eq(tasks.iter().copied()));

    // A file that is not there, or is no benchmark, is found before the first step.
    for (tasks, words) in [("lambada:none.jsonl", "none.jsonl"), ("lambada:hellaswag.jsonl", "no field \"text\"")] {
        let (code, told) = train("d", &["--set", &format!("eval.tasks={tasks}")]);
        assert!(code != Some(0) && told.contains("eval.tasks") && told.contains(words), "{told}");
        assert!(!told.contains("step 1/"), "{told}");
        std::fs::remove_dir_all(path("d")).unwrap();
    }
}
