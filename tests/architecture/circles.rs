//! No circle of imports between the files of a room.
//!
//! An import is a path of code that leads into another file: `use` lines and paths in expressions, followed through
//! `pub use` to the file that defines the name. `mod` lines and `pub use` are the face of a folder, not imports; nor is
//! what a folder's `mod.rs` takes from the files below it, since it stands for them.

use std::collections::{BTreeMap, BTreeSet};

use super::scanner::{code_only, without_tests};
use super::{files, root};

/// The path of a module: `["ops", "rope", "cpu"]`.
type Module = Vec<String>;

/// What a file says about names.
#[derive(Default)]
struct Source {
    file: String,
    code: String,
    /// Paths that the code mentions, from the crate's root.
    mentions: Vec<Module>,
    /// Names that it hands on, and where they are from; `*` hands on all names of a module.
    hands_on: Vec<(String, Module)>,
}

struct House {
    modules: BTreeMap<Module, Source>,
}

impl House {
    fn read() -> House {
        let mut modules = BTreeMap::new();
        for (file, path) in files(&["src"]) {
            let inside = file.trim_start_matches("src/").trim_end_matches(".rs");
            let mut module: Module = inside.split('/').map(String::from).collect();
            if module.last().is_some_and(|name| name == "mod") {
                module.pop();
            }
            if file.ends_with(".rs") && !["lib", "main"].contains(&inside) {
                let code = without_tests(&code_only(&std::fs::read_to_string(path).unwrap()));
                modules.insert(module, Source { file, code, ..Source::default() });
            }
        }
        let mut house = House { modules };
        let names: Vec<Module> = house.modules.keys().cloned().collect();
        for module in names {
            let children = house.children(&module);
            let source = house.modules.get_mut(&module).unwrap();
            read_names(source, &module, &children);
        }
        house
    }

    fn children(&self, module: &[String]) -> BTreeSet<String> {
        let below = |other: &&Module| other.len() == module.len() + 1 && other.starts_with(module);
        self.modules.keys().filter(below).map(|other| other.last().unwrap().clone()).collect()
    }

    /// The module that defines what a path names.
    fn defining(&self, path: &[String], depth: usize) -> Option<Module> {
        let module =
            (1..=path.len()).rev().map(|length| &path[..length]).find(|path| self.modules.contains_key(*path))?;
        let Some(name) = path.get(module.len()).filter(|_| depth < 8) else { return Some(module.to_vec()) };
        let source = &self.modules[module];
        if let Some((_, from)) = source.hands_on.iter().find(|(as_name, _)| as_name == name) {
            return self.defining(from, depth + 1).or_else(|| Some(module.to_vec()));
        }
        let all = source.hands_on.iter().filter(|(as_name, _)| as_name == "*");
        let elsewhere = (!defines(&source.code, name))
            .then(|| all.filter_map(|(_, from)| self.defining(from, depth + 1)).find(|of| self.defines(of, name)));
        Some(elsewhere.flatten().unwrap_or_else(|| module.to_vec()))
    }

    fn defines(&self, module: &[String], name: &str) -> bool {
        defines(&self.modules[module].code, name)
    }

    /// Imports between files of one room: importing module -> imported module -> names.
    fn imports(&self) -> BTreeMap<&Module, BTreeMap<Module, BTreeSet<String>>> {
        let mut all: BTreeMap<&Module, BTreeMap<Module, BTreeSet<String>>> = BTreeMap::new();
        for (module, source) in &self.modules {
            for path in &source.mentions {
                let Some(of) = self.defining(path, 0).filter(|of| of != module && of[0] == module[0]) else { continue };
                let own = source.file.ends_with("/mod.rs") && of.starts_with(module);
                if !own {
                    all.entry(module).or_default().entry(of).or_default().insert(path.last().unwrap().clone());
                }
            }
        }
        all
    }
}

fn defines(code: &str, name: &str) -> bool {
    ["fn", "struct", "enum", "trait", "type", "const", "static", "union", "macro_rules!"].iter().any(|kind| {
        let start = format!("{kind} {name}");
        code.match_indices(&start).any(|(at, _)| !is_word(code[at + start.len()..].chars().next()))
    })
}

fn is_word(letter: Option<char>) -> bool {
    letter.is_some_and(|letter| letter.is_alphanumeric() || letter == '_')
}

/// Fills in what a file mentions and hands on.
fn read_names(source: &mut Source, module: &[String], children: &BTreeSet<String>) {
    let code = source.code.clone();
    let mut rest = String::with_capacity(code.len());
    let mut at = 0;
    while let Some((start, end, text)) = next_use(&code, at) {
        rest.push_str(&code[at..start]);
        rest.push(';');
        at = end;
        let before = code[..start].trim_end();
        let is_public = before.ends_with("pub")
            || before.ends_with(')')
                && before.rfind("pub").is_some_and(|pub_at| !before[pub_at..].contains([';', '{', '}']));
        for (path, name) in leaves(text, &[]) {
            let Some(path) = absolute(&path, module, children) else { continue };
            match is_public {
                true => source.hands_on.push((name, path)),
                false => source.mentions.push(path),
            }
        }
    }
    rest.push_str(&code[at..]);
    for path in paths_in(&rest) {
        source.mentions.extend(absolute(&path, module, children));
    }
}

/// The next `use` item: its start, its end, and what stands between.
fn next_use(code: &str, from: usize) -> Option<(usize, usize, &str)> {
    let mut at = from;
    loop {
        let start = at + code[at..].find("use ")?;
        let end = start + code[start..].find(';')?;
        if !is_word(code[..start].chars().next_back()) {
            return Some((start, end + 1, &code[start + 4..end]));
        }
        at = start + 4;
    }
}

/// The paths of a tree of imports, each with the name that it has here.
fn leaves(text: &str, before: &[String]) -> Vec<(Module, String)> {
    let text = text.trim();
    if let Some(group) = text.strip_prefix('{') {
        let group = &group[..group.rfind('}').unwrap_or(group.len())];
        let (mut depth, mut start, mut all) = (0, 0, Vec::new());
        for (i, letter) in group.char_indices().chain([(group.len(), ',')]) {
            match letter {
                '{' => depth += 1,
                '}' => depth -= 1,
                ',' if depth == 0 => {
                    if !group[start..i].trim().is_empty() {
                        all.extend(leaves(&group[start..i], before));
                    }
                    start = i + 1;
                }
                _ => {}
            }
        }
        return all;
    }
    let word: String = text.chars().take_while(|letter| is_word(Some(*letter)) || *letter == '*').collect();
    let after = text[word.len()..].trim_start();
    let path: Module = before.iter().cloned().chain([word.clone()]).collect();
    match after.strip_prefix("::") {
        Some(after) => leaves(after, &path),
        // `self` names the module itself, and `*` all that is in it.
        None if word == "self" || word == "*" => {
            let name = if word == "*" { "*".into() } else { before.last().cloned().unwrap_or_default() };
            vec![(before.to_vec(), name)]
        }
        None => vec![(path, after.strip_prefix("as ").map_or(word, |name| name.trim().to_string()))],
    }
}

/// Paths in code that is no `use`.
fn paths_in(code: &str) -> Vec<Module> {
    let mut all = Vec::new();
    for (at, _) in code.match_indices("::") {
        let word_start = |end: usize| code[..end].rfind(|c| !is_word(Some(c))).map_or(0, |before| before + 1);
        let start = word_start(at);
        if start == at || code[..start].ends_with("::") {
            continue;
        }
        let text = &code[start..];
        let end = text
            .char_indices()
            .find(|(i, letter)| !is_word(Some(*letter)) && !text[*i..].starts_with(':'))
            .map_or(text.len(), |(i, _)| i);
        let path: Module = text[..end].split("::").filter(|part| !part.is_empty()).map(String::from).collect();
        if path.iter().all(|part| part.chars().all(|letter| is_word(Some(letter)))) {
            all.push(path);
        }
    }
    all
}

/// A path from the crate's root; `None` if it leads out of the crate.
fn absolute(path: &[String], module: &[String], children: &BTreeSet<String>) -> Option<Module> {
    let first = path.first()?;
    match first.as_str() {
        "crate" => Some(path[1..].to_vec()).filter(|path| !path.is_empty()),
        "self" => Some([module, &path[1..]].concat()),
        "super" => {
            let up = path.iter().take_while(|part| *part == "super").count();
            let base = module.get(..module.len().checked_sub(up)?)?;
            Some([base, &path[up..]].concat()).filter(|path| !path.is_empty())
        }
        name if children.contains(name) => Some([module, path].concat()),
        _ => None,
    }
}

/// Groups of modules that import each other in a circle.
fn circles(imports: &BTreeMap<&Module, BTreeMap<Module, BTreeSet<String>>>) -> Vec<BTreeSet<Module>> {
    let reach = |start: &Module| {
        let (mut found, mut left) = (BTreeSet::new(), vec![start.clone()]);
        while let Some(module) = left.pop() {
            for next in imports.get(&module).into_iter().flat_map(|of| of.keys()) {
                if found.insert(next.clone()) {
                    left.push(next.clone());
                }
            }
        }
        found
    };
    let reached: BTreeMap<&Module, BTreeSet<Module>> = imports.keys().map(|module| (*module, reach(module))).collect();
    let mut all: Vec<BTreeSet<Module>> = Vec::new();
    for (module, found) in &reached {
        if found.contains(*module) && !all.iter().any(|circle| circle.contains(*module)) {
            let back = |other: &&Module| reached.get(*other).is_some_and(|reached| reached.contains(*module));
            all.push(found.iter().filter(back).cloned().collect());
        }
    }
    all
}

#[test]
fn files_of_a_room_do_not_import_each_other_in_a_circle() {
    let house = House::read();
    let imports = house.imports();
    let count: usize = imports.values().map(BTreeMap::len).sum();
    assert!(count > 300, "only {count} imports were found in {}: the reader is blind", root().display());
    let mut told = String::new();
    for circle in circles(&imports) {
        told.push_str("a circle:\n");
        for from in &circle {
            for (to, names) in imports[&from].iter().filter(|(to, _)| circle.contains(*to)) {
                told.push_str(&format!("  {} -> {}: {names:?}\n", from.join("/"), to.join("/")));
            }
        }
    }
    assert!(told.is_empty(), "files that import each other; move what they share into a file of its own:\n{told}");
}

#[test]
fn the_reader_of_names_follows_them_to_where_they_are_defined() {
    let module = |path: &str| path.split('/').map(String::from).collect::<Module>();
    let sources = [
        (
            "a",
            "src/a/mod.rs",
            "mod b; mod c; pub use c::{Thing as Other, deep::Far}; pub(super) use b::*; fn f() { b::g(); }",
        ),
        ("a/b", "src/a/b.rs", "use super::Other; pub fn g() { super::c::h(); let reuse = 1; }"),
        ("a/c", "src/a/c/mod.rs", "pub struct Thing; pub mod deep; pub fn h() { crate::a::g(); self::deep::x() }"),
        ("a/c/deep", "src/a/c/deep.rs", "pub struct Far; use std::fmt::Debug; fn y() { crate::a::Far; }"),
    ];
    let new = |(path, file, code): &(&str, &str, &str)| {
        (module(path), Source { file: file.to_string(), code: code.to_string(), ..Source::default() })
    };
    let mut house = House { modules: sources.iter().map(new).collect() };
    for (path, ..) in sources {
        let children = house.children(&module(path));
        read_names(house.modules.get_mut(&module(path)).unwrap(), &module(path), &children);
    }
    let found: Vec<String> = house
        .imports()
        .iter()
        .flat_map(|(from, to)| to.keys().map(|to| format!("{} {}", from.join("/"), to.join("/"))))
        .collect();
    assert_eq!(found, ["a/b a/c", "a/c a/b"]);
    assert_eq!(circles(&house.imports()), [BTreeSet::from([module("a/b"), module("a/c")])]);
}
