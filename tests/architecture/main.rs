//! The rules of the house, read from the sources: who may import whom, no circles, how long a file may be, one operator one
//! stem, and nothing that is true on one machine only.
//!
//! Modules at the top of `src/` are rooms; [`MAY_IMPORT`] is the table of design and documentation. Code of tests inside
//! `src/` (`#[cfg(test)]`) may use what it wants. The scanner knows comments, strings, character literals and braces, and
//! no more of Rust: it is tested below.

mod circles;
mod scanner;

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

use scanner::{code_only, without_tests};

/// Room, and what it may import: whole rooms, or a single module of one. Rooms stand in layers, lowest first: a room
/// imports only from above its own line (or a module named in full).
const MAY_IMPORT: &[(&str, &[&str])] = &[
    ("error", &[]),
    ("ui", &[]),
    ("math", &[]),
    ("parallel", &[]),
    ("setting", &["error"]),
    ("random", &["math"]),
    ("stats", &["math", "random"]),
    ("device", &["error"]),
    ("collective", &["error", "ui", "device"]),
    ("tensor", &["error", "math", "device"]),
    ("events", &["error"]),
    ("tape", &["error", "device", "tensor"]),
    ("ops", &["error", "math", "parallel", "random", "device", "tensor", "tape"]),
    ("arch", &["error", "setting", "device", "tape", "ops"]),
    ("nn", &["error", "random", "device", "tensor", "tape", "ops", "arch"]),
    ("model", &["error", "device", "tensor", "tape", "ops", "arch", "nn"]),
    ("reference", &["error", "arch"]),
    ("optim", &["error", "math", "setting", "device", "tensor", "tape", "ops"]),
    ("data", &["error", "ui", "random", "setting"]),
    ("card", &["error"]),
    ("eval", &["error", "math", "setting", "tensor", "tape", "ops::documents", "arch", "model", "data"]),
    ("decode", &["error", "math", "parallel", "setting", "device", "tensor", "tape", "ops", "arch", "nn", "model"]),
    (
        "sample",
        &["error", "math", "random", "setting", "tensor", "tape", "ops", "arch", "nn", "model", "data", "decode"],
    ),
    ("serve", &["error", "data", "decode", "sample"]),
    ("checkpoint", &["error", "setting", "tape", "arch", "model"]),
    (
        "train",
        &[
            "error",
            "ui",
            "math",
            "random",
            "setting",
            "device",
            "collective",
            "tensor",
            "events",
            "tape",
            "ops::classifier",
            "ops::documents",
            "arch",
            "nn",
            "model",
            "reference",
            "optim",
            "data",
            "eval",
            "sample",
            "checkpoint",
        ],
    ),
    ("report", &["error", "events"]),
    ("hub", &["error", "ui", "setting", "data", "checkpoint", "card"]),
    (
        "open",
        &[
            "error",
            "ui",
            "device",
            "tape",
            "arch",
            "model",
            "reference",
            "data",
            "decode",
            "checkpoint",
            "hub",
            "train::config",
        ],
    ),
    // The config assembles the rooms' own sections: it knows their config structs, and the rooms do not know it.
    (
        "config",
        &[
            "error",
            "setting",
            "arch",
            "optim::config",
            "data::config",
            "data::tokenizer",
            "eval::config",
            "sample::config",
            "checkpoint::config",
            "train::config",
            "hub::config",
        ],
    ),
    (
        "run",
        &[
            "error",
            "ui",
            "setting",
            "device",
            "collective",
            "tape",
            "events",
            "arch",
            "model",
            "optim",
            "data",
            "card",
            "eval",
            "sample",
            "checkpoint",
            "train",
            "hub",
            "open",
            "config",
        ],
    ),
    ("sweep", &["error", "math", "stats", "events", "report", "config", "data::tokenizer", "run::folder", "hub"]),
    (
        "plan",
        &[
            "error",
            "config::nearest",
            "device::peak",
            "ops",
            "arch",
            "model",
            "train::batch",
            "train::config",
            "train::lanes",
        ],
    ),
];

/// Rooms above the table, which may import everything below them; nobody imports them but `main.rs`.
const TOP: &[&str] = &["cli"];

/// Most lines of a source file, and the length to aim at.
const CAP: usize = 600;
const AIM: usize = 400;

/// What stands among the operators without being one.
const OPERATOR_HELPERS: &[&str] = &["mod", "cost", "documents", "element", "heads", "lanes", "launch", "reduce"];

/// Folders of `src/ops` with what operators are made of: nothing there stands on a tape.
const TOOLS: &[&str] = &["matmul"];

/// Operators whose kernels are not in a file of their own stem: attention needs several, and of a linear layer only the bias
/// is ours, the products are cuBLASLt's; a low-rank correction is nothing but products.
const KERNELS_ELSEWHERE: &[(&str, &[&str])] = &[
    (
        "attention",
        &[
            "attention_backward_keys",
            "attention_backward_queries",
            "attention_decode",
            "attention_forward",
            "attention_generic",
        ],
    ),
    ("linear", &["bias"]),
    ("low_rank", &[]),
];
/// Kernels that serve several operators, or tensors.
const SHARED_KERNELS: &[&str] = &["cast", "reduce"];
const OPERATOR_TEST_HELPERS: &[&str] = &["mod", "bf16", "oracle", "run"];
const OPERATOR_BENCH_HELPERS: &[&str] = &["main", "operator"];

fn root() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR"))
}

/// All files below the folders, as (path from the root with slashes, absolute path), sorted; folders that are absent are
/// empty.
fn files(folders: &[&str]) -> Vec<(String, PathBuf)> {
    let mut found: Vec<(String, PathBuf)> = folders
        .iter()
        .flat_map(|folder| walkdir::WalkDir::new(root().join(folder)).into_iter().filter_map(|entry| entry.ok()))
        .filter(|entry| entry.file_type().is_file())
        .map(|entry| {
            let relative = entry.path().strip_prefix(root()).unwrap().to_string_lossy().replace('\\', "/");
            (relative, entry.into_path())
        })
        .filter(|(relative, _)| !relative.contains("__pycache__"))
        .collect();
    found.sort();
    found
}

/// Every path below the crate's root that the code mentions, as its first two parts: `ops::rope`, or `tape` alone. `depth`
/// is how many `super` lead to the root.
fn mentions(code: &str, depth: usize) -> BTreeSet<String> {
    let mut found = BTreeSet::new();
    let root = ["crate::".to_string(), "super::".repeat(depth)];
    for prefix in root.iter().filter(|prefix| !prefix.is_empty()) {
        for (at, _) in code.match_indices(prefix.as_str()) {
            // Not inside a longer word, nor after more `super` or another path.
            if !code[..at].ends_with(|letter: char| letter.is_alphanumeric() || "_:".contains(letter)) {
                paths(&code[at + prefix.len()..], "", &mut found);
            }
        }
    }
    found
}

/// Reads a path or a group of paths `{a::b, c}` and adds the first two parts of each.
fn paths(text: &str, before: &str, found: &mut BTreeSet<String>) {
    let text = text.trim_start();
    if let Some(group) = text.strip_prefix('{') {
        let mut depth = 0usize;
        let mut start = 0;
        for (i, letter) in group.char_indices() {
            match letter {
                '{' => depth += 1,
                '}' if depth > 0 => depth -= 1,
                ',' | '}' if depth == 0 => {
                    if !group[start..i].trim().is_empty() {
                        paths(&group[start..i], before, found);
                    }
                    start = i + 1;
                    if letter == '}' {
                        return;
                    }
                }
                _ => {}
            }
        }
        return;
    }
    let word: String = text.chars().take_while(|letter| letter.is_alphanumeric() || *letter == '_').collect();
    if word.is_empty() {
        return;
    }
    if !before.is_empty() {
        found.insert(format!("{before}::{word}"));
        return;
    }
    match text[word.len()..].trim_start().strip_prefix("::") {
        Some(rest) => paths(rest, &word, found),
        None => {
            found.insert(word);
        }
    }
}

/// The room of a file in `src/`, and how many `super` lead out of it to the crate's root.
fn room_and_depth(relative: &str) -> (String, usize) {
    let inside = relative.trim_start_matches("src/").trim_end_matches(".rs");
    let mut parts: Vec<&str> = inside.split('/').collect();
    if parts.last() == Some(&"mod") {
        parts.pop();
    }
    (parts[0].to_string(), parts.len())
}

/// What every room mentions outside of itself: room -> (path, file).
fn imports() -> BTreeMap<String, BTreeSet<(String, String)>> {
    let mut all: BTreeMap<String, BTreeSet<(String, String)>> = BTreeMap::new();
    for (relative, path) in files(&["src"]) {
        let (room, depth) = room_and_depth(&relative);
        if !relative.ends_with(".rs") || room == "lib" || room == "main" {
            continue;
        }
        let code = without_tests(&code_only(&std::fs::read_to_string(path).unwrap()));
        let of_room = all.entry(room.clone()).or_default();
        for path in mentions(&code, depth) {
            let other = path.split("::").next().unwrap_or_default();
            // `crate::Error` and `crate::Result` are the error room's, shown at the root.
            if other != room && !["Error", "Result"].contains(&other) {
                of_room.insert((path, relative.clone()));
            }
        }
    }
    all
}

#[test]
fn rooms_import_only_what_the_table_allows() {
    let table: BTreeMap<&str, &[&str]> = MAY_IMPORT.iter().copied().collect();
    let mut wrong = Vec::new();
    for (room, imports) in imports() {
        let Some(allowed) = table.get(room.as_str()) else {
            if TOP.contains(&room.as_str()) {
                continue;
            }
            panic!("src/{room} is a new room: give it a line in MAY_IMPORT of tests/architecture/main.rs");
        };
        for (path, file) in imports {
            let other = path.split("::").next().unwrap_or_default();
            if !allowed.contains(&other) && !allowed.contains(&path.as_str()) {
                wrong.push(format!("{file} imports crate::{path}, and {room} may import only {allowed:?}"));
            }
        }
    }
    assert!(wrong.is_empty(), "imports that the table does not allow:\n{}", wrong.join("\n"));
}

#[test]
fn the_table_has_no_circle_and_no_line_without_a_room() {
    let mut above: Vec<&str> = Vec::new();
    for (room, allowed) in MAY_IMPORT {
        for import in *allowed {
            // A single module may be named from anywhere (a layer's shape is in model::config); a whole room only from
            // above.
            assert!(
                import.contains("::") || above.contains(import),
                "{room} may import {import}, which is not below it"
            );
        }
        above.push(room);
    }
    let rooms: BTreeSet<String> = imports().into_keys().collect();
    let lines: BTreeSet<String> = above.iter().chain(TOP).map(|room| room.to_string()).collect();
    assert_eq!(rooms, lines, "the rooms in src/ and the lines of the table");
}

#[test]
fn the_command_line_is_imported_by_main_alone() {
    for (room, imports) in imports() {
        let found = imports.iter().find(|(path, _)| TOP.contains(&path.split("::").next().unwrap_or_default()));
        assert!(found.is_none(), "{room} imports the command line: {found:?}");
    }
    let main = code_only(&std::fs::read_to_string(root().join("src/main.rs")).unwrap());
    assert!(main.contains("taper::cli::main()") && main.lines().count() < 20, "main.rs only starts the command line");
}

/// What belongs to a program and not to a library: it may stand in `cli` and `main.rs` alone. A library speaks through
/// `ui::Ui`, is handed the way to end the process, and has no command line.
const PROGRAM_ONLY: &[&str] = &["println!", "print!", "eprintln!", "eprint!", "dbg!", "process::exit", "clap"];

#[test]
fn only_the_command_line_prints_exits_and_parses_arguments() {
    let mut found = Vec::new();
    for (relative, path) in files(&["src"]) {
        if relative == "src/main.rs" || TOP.contains(&room_and_depth(&relative).0.as_str()) {
            continue;
        }
        let code = without_tests(&code_only(&std::fs::read_to_string(path).unwrap()));
        // A name alone, and no part of a longer one: `println!` holds `print`, and `eprintln!` holds `println!`.
        let is_part = |letter: char| letter.is_alphanumeric() || letter == '_';
        let stands = |word: &str| {
            code.match_indices(word)
                .any(|(at, _)| !code[..at].ends_with(is_part) && !code[at + word.len()..].starts_with(is_part))
        };
        found.extend(PROGRAM_ONLY.iter().filter(|word| stands(word)).map(|word| format!("{relative}: {word}")));
    }
    assert!(found.is_empty(), "library code that prints, exits or parses arguments:\n{}", found.join("\n"));
}

#[test]
fn files_stay_short() {
    let sources = files(&["src", "tests", "benches", "kernels", "scripts"]);
    let is_source = |name: &str| [".rs", ".cu", ".cuh", ".h", ".py", ".sh"].iter().any(|end| name.ends_with(end));
    let mut too_long = Vec::new();
    let mut long = Vec::new();
    for (relative, path) in sources.iter().filter(|(relative, _)| is_source(relative)) {
        let lines = std::fs::read_to_string(path).unwrap().lines().count();
        if lines > CAP {
            too_long.push(format!("{relative}: {lines} lines"));
        } else if lines > AIM {
            long.push(format!("{relative}: {lines}"));
        }
    }
    if !long.is_empty() {
        println!("longer than the {AIM} lines to aim at: {}", long.join(", "));
    }
    assert!(too_long.is_empty(), "files of more than {CAP} lines; divide them:\n{}", too_long.join("\n"));
}

/// The file stems directly in a folder.
fn stems(folder: &str) -> BTreeSet<String> {
    let own = |(relative, _): &(String, PathBuf)| {
        let inside = relative.strip_prefix(folder)?.strip_prefix('/')?;
        inside.strip_suffix(".rs").filter(|stem| !stem.contains('/')).map(str::to_string)
    };
    files(&[folder]).iter().filter_map(own).collect()
}

#[test]
fn one_operator_has_the_same_stem_everywhere() {
    let folders = std::fs::read_dir(root().join("src/ops")).unwrap().map(|entry| entry.unwrap().path());
    let operators: BTreeSet<String> = folders
        .filter(|path| path.is_dir())
        .map(|path| path.file_name().unwrap().to_string_lossy().into_owned())
        .filter(|name| !TOOLS.contains(&name.as_str()))
        .collect();
    assert!(operators.contains("attention") && operators.len() > 10, "{operators:?}");
    let mut missing = Vec::new();
    for op in &operators {
        // A definition that is too long for one file is a folder.
        let choices: [&[String]; 6] = [
            &[format!("src/ops/{op}/mod.rs")],
            &[format!("src/ops/{op}/cpu.rs"), format!("src/ops/{op}/cpu/mod.rs")],
            &[format!("src/ops/{op}/cuda.rs"), format!("src/ops/{op}/cuda/mod.rs")],
            &[format!("src/ops/{op}/cost.rs")],
            &[format!("tests/ops/{op}.rs")],
            &[format!("benches/ops/{op}.rs")],
        ];
        let absent = choices.iter().filter(|choice| !choice.iter().any(|path| root().join(path).is_file()));
        missing.extend(absent.map(|choice| choice[0].clone()));
    }
    assert!(missing.is_empty(), "operators whose files are missing: {missing:?}");

    let kernels: BTreeSet<String> = files(&["kernels"])
        .iter()
        .filter_map(|(relative, _)| relative.strip_prefix("kernels/")?.strip_suffix(".cu").map(str::to_string))
        .collect();
    let of_operator = |op: &String| -> Vec<String> {
        let elsewhere = KERNELS_ELSEWHERE.iter().find(|(name, _)| name == op);
        elsewhere.map_or_else(|| vec![op.clone()], |(_, stems)| stems.iter().map(|stem| stem.to_string()).collect())
    };
    let shared = SHARED_KERNELS.iter().map(|stem| stem.to_string());
    let expected: BTreeSet<String> = operators.iter().flat_map(of_operator).chain(shared).collect();
    assert_eq!(kernels, expected, "kernels/*.cu and src/ops");

    // And nothing else stands in these folders.
    let with = |names: &[&str]| -> BTreeSet<String> {
        operators.iter().cloned().chain(names.iter().map(|name| name.to_string())).collect()
    };
    let alone: BTreeSet<String> = OPERATOR_HELPERS.iter().map(|name| name.to_string()).collect();
    assert_eq!(stems("src/ops"), alone, "files in src/ops that are no helper of operators");
    assert_eq!(stems("tests/ops"), with(OPERATOR_TEST_HELPERS), "tests/ops and src/ops");
    assert_eq!(stems("benches/ops"), with(OPERATOR_BENCH_HELPERS), "benches/ops and src/ops");
}

/// Files that belong to the project: everything but what git ignores and the lock file, whose format names the registry.
fn project_files() -> Vec<(String, PathBuf)> {
    let folders = ["src", "tests", "benches", "fuzz/fuzz_targets", "kernels", "scripts", "configs", "docs", ".ci"];
    let mut all = files(&folders);
    for entry in std::fs::read_dir(root()).unwrap() {
        let path = entry.unwrap().path();
        let name = path.file_name().unwrap().to_string_lossy().into_owned();
        if path.is_file() && name != "Cargo.lock" && name != ".git" {
            all.push((name, path));
        }
    }
    all
}

#[test]
fn nothing_is_true_on_one_machine_only() {
    // Written in two parts, so that this file does not find itself.
    let hosts = [("crates", ".io"), ("pypi", ".org"), ("pythonhosted", ".org"), ("npmjs", ".com"), ("conda", ".org")];
    let places = [("/ro", "ot/"), ("/ho", "me/"), ("/wo", "rk/"), ("/tm", "p/"), ("/Us", "ers/"), ("C:", "\\Users")];
    let words: Vec<String> = hosts.iter().chain(&places).map(|(start, end)| format!("{start}{end}")).collect();
    let mut found = Vec::new();
    for (relative, path) in project_files() {
        // What is not text holds no names.
        let Ok(text) = std::fs::read_to_string(&path) else { continue };
        for (number, line) in text.lines().enumerate() {
            // "C" and "Makefile/root/" are no places: a path starts after something that is not part of one.
            let starts =
                |at: usize| !line[..at].ends_with(|letter: char| letter.is_alphanumeric() || "._-}".contains(letter));
            let is_place = |word: &str| !word.starts_with(['/', 'C']);
            let hit =
                words.iter().find(|word| line.match_indices(word.as_str()).any(|(at, _)| is_place(word) || starts(at)));
            if let Some(word) = hit {
                found.push(format!("{relative}:{}: {word}", number + 1));
            }
        }
    }
    assert!(found.is_empty(), "registry hosts and absolute paths of one machine:\n{}", found.join("\n"));
}

#[test]
fn the_scanner_reads_rust() {
    let source = r##"
        //! use crate::comment::x;
        /* crate::block /* crate::nested */ crate::still */
        use crate::a::b::C;
        use crate::{d, e::{f, g::h}, i::j as k};
        pub use crate::l;
        fn z<'a>(x: &'a str, q: char) { crate::m::n(); let s = "crate::string \" crate::more"; let c = '"'; }
        fn y() { let s = r#"crate::raw "quoted" crate::raw2"#; super::super::o::p(); super::own::q(); }
        use super::super::{r, s::t};
        macro_rules! u { () => { $crate::v::w } }
        #[cfg(test)]
        use crate::only_test;
        #[cfg(test)]
        mod tests { use crate::tests::x; fn a() { if true { crate::deep::y() } } }
        use crate::after;
    "##;
    let code = without_tests(&code_only(source));
    let found: Vec<String> = mentions(&code, 2).into_iter().collect();
    let expected = ["a::b", "after", "d", "e::f", "e::g", "i::j", "l", "m::n", "o::p", "r", "s::t", "v::w"];
    assert_eq!(found, expected);
    assert_eq!(room_and_depth("src/math.rs"), ("math".into(), 1));
    assert_eq!(room_and_depth("src/ops/mod.rs"), ("ops".into(), 1));
    assert_eq!(room_and_depth("src/ops/rope/mod.rs"), ("ops".into(), 2));
    assert_eq!(room_and_depth("src/ops/rope/cpu.rs"), ("ops".into(), 3));
    assert!(Path::new(&root()).join("src/lib.rs").is_file());
}
