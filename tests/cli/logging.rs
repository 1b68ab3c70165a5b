//! What is told on standard error: messages by default, less with `-q`, and what happens inside with `-v` and `TAPER_LOG`.

use std::path::Path;

use crate::program::{taper, told};

const CONFIG: &str = "\
model = { n_layer = 1, n_head = 1, n_embd = 8, context_length = 8 }\ntokenizer.kind = \"bytes\"\n\
data = { text = [\"text.txt\"], val_fraction = 0.1 }\ntrain = { micro_batch = 2, global_batch = 2, max_steps = 2 }\n";

/// Trains in a folder of its own; gives the exit code and standard error.
fn train(options: &[&str], log: Option<&str>) -> (i32, String) {
    let folder = tempfile::tempdir().unwrap();
    let write = |name: &str, text: &str| std::fs::write(folder.path().join(name), text).unwrap();
    write("text.txt", &"a small text, and another; ".repeat(20));
    write("c.toml", CONFIG);
    let mut command = taper(folder.path());
    command.args(["train", "c.toml"]).args(options).env_remove("TAPER_LOG");
    command.envs(log.map(|log| ("TAPER_LOG", log)));
    let (code, out, err) = told(&mut command);
    assert_eq!(out, "", "{options:?}");
    assert!(code != 0 || Path::new(&folder.path().join("runs/c/checkpoints/step-00000002")).is_dir());
    (code, err)
}

/// The lines that are events, not messages.
fn events(err: &str) -> Vec<&str> {
    err.lines().filter(|line| ["ERROR", "WARN", "INFO", "DEBUG", "TRACE"].iter().any(|l| line.starts_with(l))).collect()
}

#[test]
fn messages_are_told_by_default_and_nothing_of_the_inside() {
    let (code, err) = train(&[], None);
    assert_eq!(code, 0, "{err}");
    for words in ["model       ", "step 2/2 validation loss", "step 2 saved checkpoints/step-00000002", "done. "] {
        assert!(err.contains(words), "{words}: {err}");
    }
    assert!(events(&err).is_empty(), "{err}");
}

#[test]
fn quiet_tells_nothing_of_a_run_that_goes_well() {
    assert_eq!(train(&["-q"], None), (0, String::new()));
    let (code, err) = train(&["--quiet", "--set", "train.max_step=1"], None);
    assert!(code == 2 && err.starts_with("error: ") && err.contains("max_steps"), "{err}");
}

#[test]
fn the_inside_is_told_where_it_is_asked_for() {
    let (code, err) = train(&["-v"], None);
    assert!(code == 0 && err.contains("step 2/2 validation loss"), "{err}");
    assert!(events(&err).iter().any(|line| line.starts_with("DEBUG taper::train::save: checkpoint written step=2")));
    assert!(events(&err).iter().all(|line| line.starts_with("DEBUG taper::")), "{err}");
    let (_, err) = train(&[], Some("taper::run=debug"));
    assert!(!events(&err).is_empty(), "{err}");
    assert!(events(&err).iter().all(|line| line.starts_with("DEBUG taper::run::")), "{err}");
}

#[test]
fn what_cannot_be_asked_for_is_refused() {
    let (code, err) = train(&[], Some("taper=loud"));
    assert!(code == 2 && err.contains("TAPER_LOG"), "{err}");
    assert_eq!(train(&["-v", "-q"], None).0, 2);
}
