//! SWEEP.toml: a base config, arms, seeds.
//!
//! Keys are checked by name first, each with its line, because serde's messages know neither lines nor what was meant. Then
//! every run's whole config is resolved and checked, so that a sweep does not stumble over its seventh run at night.

use std::path::{Path, PathBuf};

use serde::Deserialize;
use toml::de::{DeTable, DeValue};

use crate::config::Config;
use crate::error::{Error, Result, ResultExt};

/// The journal of a sweep: one line for each run that ended, in the sweep's folder.
pub const JOURNAL: &str = "jobs.jsonl";

/// The keys of the file, in the order of the documentation.
const KEYS: &[&str] = &[
    "name",
    "base",
    "out",
    "seeds",
    "vary",
    "baseline",
    "noise_split",
    "min_effect",
    "confidence",
    "power",
    "budgets",
    "arm",
    "grid",
];
const ARM_KEYS: &[&str] = &["name", "set"];
/// The copy of the sweep file in the folder of its runs.
pub const COPY: &str = "sweep.toml";
/// The base config there.
pub const BASE: &str = "base.toml";

/// A sweep, checked.
#[derive(Clone, Debug)]
pub struct Sweep {
    /// Its name: the key, or the stem of the file.
    pub name: String,
    /// The folder of its runs.
    pub out: PathBuf,
    /// The text of the sweep file, with its name.
    pub text: String,
    /// The text of the base config.
    pub base: String,
    /// What messages call the base config.
    pub base_origin: String,
    /// All arms, the baseline among them.
    pub arms: Vec<Arm>,
    /// The place of the baseline in `arms`.
    pub baseline: usize,
    /// The seeds of each arm, in the order in which they are run.
    pub seeds: Vec<u64>,
    /// Which random numbers a seed changes.
    pub vary: Vary,
    /// The baseline is also trained with every pair of an initialisation seed and a training seed out of so many; 0 or at
    /// least 2.
    pub noise_split: usize,
    /// The smallest difference that anybody cares about, in nats.
    pub min_effect: f64,
    /// 1 - confidence: the probability of any false call in the whole sweep.
    pub alpha: f64,
    /// The probability of seeing a true effect for which seed numbers are computed.
    pub power: f64,
    /// Compute budgets (FLOPs) for which the best size is predicted.
    pub budgets: Vec<f64>,
}

/// A variant of the base config.
#[derive(Clone, Debug, PartialEq)]
pub struct Arm {
    /// Its name and folder.
    pub name: String,
    /// What is set: key and value as TOML writes it.
    pub set: Vec<(String, String)>,
}

/// Which random numbers differ between the seeds of an arm; the others stay those of the base config.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Vary {
    /// Initial weights (`run.seed_init`).
    pub init: bool,
    /// The order of the data (`run.seed_data`).
    pub data: bool,
    /// Dropout masks (`run.seed_dropout`).
    pub dropout: bool,
}

#[derive(Deserialize)]
#[serde(untagged)]
enum OneOrMany<T> {
    One(T),
    Many(Vec<T>),
}

#[derive(Deserialize)]
struct File {
    name: Option<String>,
    base: toml::Value,
    out: Option<String>,
    seeds: Option<OneOrMany<u64>>,
    vary: Option<OneOrMany<String>>,
    baseline: Option<String>,
    #[serde(default)]
    noise_split: usize,
    min_effect: Option<f64>,
    confidence: Option<f64>,
    power: Option<f64>,
    budgets: Option<OneOrMany<f64>>,
    #[serde(default)]
    arm: Vec<FileArm>,
    #[serde(default)]
    grid: toml::Table,
}

#[derive(Deserialize)]
struct FileArm {
    name: String,
    #[serde(default)]
    set: toml::Table,
}

impl Sweep {
    /// Reads and checks a sweep file. Paths in it (`base`, `out`, and those in the base config) are relative to the current
    /// folder, as everywhere. `out` in place of the file's own.
    ///
    /// # Errors
    /// `Usage` for everything that is wrong in it, or in the config of any of its runs; `Io` if a file cannot be read.
    pub fn load(path: &Path, out: Option<&Path>) -> Result<Sweep> {
        let text = std::fs::read_to_string(path).map_err(Error::io("read", path))?;
        let stem = path.file_stem().map_or("sweep".into(), |stem| stem.to_string_lossy().into_owned());
        let mut sweep = Self::parse(&text, &path.display().to_string(), &stem)?;
        if let Some(out) = out {
            sweep.out = out.to_path_buf();
        }
        Ok(sweep)
    }

    /// Reads the sweep that a folder of runs belongs to, from the copies that the folder holds; `None` if it is no such
    /// folder.
    ///
    /// # Errors
    /// As [`Sweep::load`]; and if the folder was made by a version that kept no copy.
    pub fn of_folder(folder: &Path) -> Result<Option<Sweep>> {
        let (path, base) = (folder.join(COPY), folder.join(BASE));
        if !path.is_file() {
            let old = base.is_file() && folder.join(JOURNAL).is_file();
            return match old {
                false => Ok(None),
                true => Err(Error::usage(format!(
                    "{} holds runs of a sweep, and no {COPY}; name the sweep's own file: taper sweep FILE --report-only --out {}",
                    folder.display(),
                    folder.display()
                ))),
            };
        }
        let read = |path: &Path| std::fs::read_to_string(path).map_err(Error::io("read", path));
        let (text, base_text) = (read(&path)?, read(&base)?);
        let base = (base_text, base.display().to_string());
        let mut sweep = Self::parse_with(&text, &path.display().to_string(), "sweep", Some(base))?;
        sweep.out = folder.to_path_buf();
        Ok(Some(sweep))
    }

    /// Reads a sweep from text; see [`Sweep::load`]. `origin` is what messages call the text, `stem` its name by default.
    ///
    /// # Errors
    /// As [`Sweep::load`].
    pub fn parse(text: &str, origin: &str, stem: &str) -> Result<Sweep> {
        Self::parse_with(text, origin, stem, None)
    }

    /// As [`Sweep::parse`], with a base config (its text, and what messages call it) in place of the one that `text` names.
    fn parse_with(text: &str, origin: &str, stem: &str, base: Option<(String, String)>) -> Result<Sweep> {
        check_names(text, origin)?;
        let wrong = |message: String| Error::usage(format!("{origin}: {message}"));
        let file: File = toml::from_str(text)
            .map_err(|error| wrong(error.to_string().trim().lines().collect::<Vec<_>>().join("\n  ")))?;
        let (base, base_origin) = match (base, &file.base) {
            (Some(base), _) => base,
            (None, toml::Value::String(base)) => {
                let path = Path::new(base);
                (
                    std::fs::read_to_string(path)
                        .map_err(Error::io("read", path))
                        .context(|| format!("{origin}: base"))?,
                    base.clone(),
                )
            }
            (None, toml::Value::Table(table)) => (table.to_string(), format!("{origin}, [base]")),
            _ => return Err(wrong("base is the path of a config file, or the config itself as tables".into())),
        };
        let mut arms: Vec<Arm> = Vec::new();
        for arm in &file.arm {
            arms.push(Arm { name: arm.name.clone(), set: flatten(&arm.set) });
        }
        arms.extend(grid(&file.grid).map_err(wrong)?);
        let name = file.name.clone().unwrap_or_else(|| stem.into());
        let text = match file.name {
            Some(_) => text.to_owned(),
            // As TOML, which a name need not be in without quotes.
            None => format!("name = {}\n{text}", toml::Value::from(name.as_str())),
        };
        let mut sweep = Sweep {
            text,
            out: file.out.as_ref().map_or_else(|| Path::new("runs").join(&name), PathBuf::from),
            name,
            base,
            base_origin,
            arms,
            baseline: 0,
            seeds: seeds(file.seeds).map_err(wrong)?,
            vary: vary(file.vary).map_err(wrong)?,
            noise_split: file.noise_split,
            min_effect: file.min_effect.unwrap_or(0.01),
            alpha: 1.0 - file.confidence.unwrap_or(0.95),
            power: file.power.unwrap_or(0.8),
            budgets: match file.budgets {
                None => Vec::new(),
                Some(OneOrMany::One(one)) => vec![one],
                Some(OneOrMany::Many(many)) => many,
            },
        };
        sweep.check_numbers().map_err(wrong)?;
        sweep.check_arms(file.baseline.as_deref(), origin)?;
        Ok(sweep)
    }

    fn check_numbers(&self) -> Result<(), String> {
        let within = |name: &str, value: f64| match 0.0 < value && value < 1.0 {
            true => Ok(()),
            false => Err(format!("{name} = {value}: a probability between 0 and 1")),
        };
        within("confidence", 1.0 - self.alpha)?;
        within("power", self.power)?;
        if !(self.min_effect.is_finite() && self.min_effect > 0.0) {
            return Err(format!("min_effect = {}: a difference in nats, above 0", self.min_effect));
        }
        if self.budgets.iter().any(|budget| !(budget.is_finite() && *budget > 0.0)) {
            return Err("budgets: numbers of FLOPs, above 0".into());
        }
        let all = Vary { init: true, data: true, dropout: true };
        match self.noise_split {
            0 => Ok(()),
            1 => Err("noise_split = 1: at least 2 seeds of each kind are needed to tell them apart (0 is off)".into()),
            n if n > self.seeds.len() => {
                Err(format!("noise_split = {n} is more than the {} seeds of the sweep", self.seeds.len()))
            }
            _ if self.vary != all => {
                Err("noise_split needs vary = \"all\": its runs on the diagonal are those of the baseline".into())
            }
            _ => Ok(()),
        }
    }

    /// Finds the baseline, refuses doubles, and resolves the config of every run.
    fn check_arms(&mut self, baseline: Option<&str>, origin: &str) -> Result<()> {
        let wrong = |message: String| Error::usage(format!("{origin}: {message}"));
        let base = Config::from_str(&self.base, &self.base_origin, &[])?;
        if base.data.val.is_empty() && base.data.shards.is_none() && base.data.val_fraction() == 0.0 {
            return Err(wrong("the base config holds no validation data out, and arms are compared by validation loss; set data.val or data.val_fraction".into()));
        }
        let mut configs: Vec<Config> = Vec::new();
        for (i, arm) in self.arms.iter().enumerate() {
            let allowed = |letter: char| letter.is_ascii_alphanumeric() || "._=,+-".contains(letter);
            if arm.name.is_empty() || arm.name.starts_with('.') || !arm.name.chars().all(allowed) {
                return Err(wrong(format!(
                    "the arm {:?} names a folder: letters, digits and . _ = , + - only",
                    arm.name
                )));
            }
            if let Some((key, _)) = arm.set.iter().find(|(key, _)| key.starts_with("run.")) {
                return Err(wrong(format!(
                    "the arm {:?} sets {key}; names, folders and seeds are the sweep's own",
                    arm.name
                )));
            }
            if self.arms[..i].iter().any(|other| other.name == arm.name) {
                return Err(wrong(format!("two arms are called {:?}", arm.name)));
            }
            let config = self.resolve(arm).context(|| format!("{origin}: the arm {:?}", arm.name))?;
            if let Some(j) = configs.iter().position(|other| *other == config) {
                return Err(wrong(format!("the arms {:?} and {:?} are the same config", self.arms[j].name, arm.name)));
            }
            configs.push(config);
        }
        let named = baseline.or_else(|| self.arms.iter().any(|arm| arm.name == "baseline").then_some("baseline"));
        self.baseline = match named {
            Some(name) => match self.arms.iter().position(|arm| arm.name == name) {
                Some(at) => at,
                None => {
                    let near = crate::config::nearest(name, self.arms.iter().map(|arm| &arm.name[..]));
                    let hint = near.map_or(String::new(), |near| format!("; did you mean {near:?}?"));
                    return Err(wrong(format!("baseline = {name:?}, and no arm is called that{hint}")));
                }
            },
            // The base config as it is; a point of a grid may be that already.
            None => match configs.iter().position(|config| *config == base) {
                Some(at) => at,
                None => {
                    self.arms.insert(0, Arm { name: "baseline".into(), set: Vec::new() });
                    0
                }
            },
        };
        if self.arms.len() < 2 {
            return Err(wrong("there is nothing to compare: add [[arm]] tables or a [grid]".into()));
        }
        Ok(())
    }

    /// The config of an arm, with the seeds of the base config.
    ///
    /// # Errors
    /// `Usage` if it is not a valid config.
    pub fn resolve(&self, arm: &Arm) -> Result<Config> {
        Config::from_str(&self.base, &self.base_origin, &arm.overrides())
    }
}

impl Arm {
    /// Its changes as `--set` takes them.
    pub fn overrides(&self) -> Vec<String> {
        self.set.iter().map(|(key, value)| format!("{key}={value}")).collect()
    }
}

/// Refuses keys that do not exist, with the line and the nearest one that does.
fn check_names(text: &str, origin: &str) -> Result<()> {
    let table = DeTable::parse(text).map_err(|error| {
        let line = error.span().map_or(1, |span| line_of(text, span.start));
        Error::usage(format!("{origin}:{line}: {}", error.message().trim()))
    })?;
    let check = |name: &str, at: usize, known: &[&str], what: &str| {
        if known.contains(&name) {
            return Ok(());
        }
        let hint = match crate::config::nearest(name, known.iter().copied()) {
            Some(near) => format!("did you mean {near:?}?"),
            None => format!("there are {}", known.join(", ")),
        };
        Err(Error::usage(format!("{origin}:{}: unknown key {name:?} {what}; {hint}", line_of(text, at))))
    };
    for (name, value) in table.get_ref() {
        check(name.get_ref(), name.span().start, KEYS, "in a sweep file")?;
        let DeValue::Array(arms) = value.get_ref() else { continue };
        for arm in arms.iter().filter(|_| name.get_ref() == "arm") {
            let DeValue::Table(keys) = arm.get_ref() else { continue };
            for key in keys.keys() {
                check(key.get_ref(), key.span().start, ARM_KEYS, "in [[arm]]")?;
            }
        }
    }
    Ok(())
}

fn line_of(text: &str, at: usize) -> usize {
    text.as_bytes()[..at.min(text.len())].iter().filter(|&&byte| byte == b'\n').count() + 1
}

/// `{"optimizer.lr" = 1e-3}`, `{optimizer.lr = 1e-3}` and `{optimizer = {lr = 1e-3}}` are the same.
fn flatten(table: &toml::Table) -> Vec<(String, String)> {
    let mut flat = Vec::new();
    for (key, value) in table {
        match value {
            toml::Value::Table(inner) => {
                flat.extend(flatten(inner).into_iter().map(|(k, v)| (format!("{key}.{k}"), v)))
            }
            other => flat.push((key.clone(), other.to_string())),
        }
    }
    flat
}

/// Every combination of the grid's values as an arm.
fn grid(table: &toml::Table) -> Result<Vec<Arm>, String> {
    // The same three spellings as in `set`, with a list at the end.
    let mut axes: Vec<(String, Vec<toml::Value>)> = Vec::new();
    let mut open: Vec<(String, toml::Value)> = table.iter().rev().map(|(k, v)| (k.clone(), v.clone())).collect();
    while let Some((key, value)) = open.pop() {
        match value {
            toml::Value::Table(inner) => open.extend(inner.into_iter().rev().map(|(k, v)| (format!("{key}.{k}"), v))),
            toml::Value::Array(values) if !values.is_empty() => axes.push((key, values)),
            other => return Err(format!("grid: {key} = {other}: a list of values")),
        }
    }
    let mut arms = vec![Arm { name: String::new(), set: Vec::new() }];
    for (key, values) in axes.iter() {
        let last = key.rsplit('.').next().unwrap_or(key);
        arms = arms
            .iter()
            .flat_map(|arm| {
                values.iter().map(move |value| {
                    let plain = value.as_str().map_or_else(|| value.to_string(), String::from);
                    let plain: String = plain
                        .chars()
                        .map(|c| if c.is_ascii_alphanumeric() || ".-".contains(c) { c } else { '_' })
                        .collect();
                    let comma = if arm.name.is_empty() { "" } else { "," };
                    let mut set = arm.set.clone();
                    set.push((key.clone(), value.to_string()));
                    Arm { name: format!("{}{comma}{last}={plain}", arm.name), set }
                })
            })
            .collect();
    }
    Ok(if axes.is_empty() { Vec::new() } else { arms })
}

/// A number of seeds is 1, 2, ... up to it.
fn seeds(given: Option<OneOrMany<u64>>) -> Result<Vec<u64>, String> {
    let seeds = match given {
        None => vec![1, 2, 3],
        Some(OneOrMany::One(count)) => (1..=count.min(10_000)).collect(),
        Some(OneOrMany::Many(list)) => list,
    };
    let mut sorted = seeds.clone();
    sorted.sort_unstable();
    if seeds.is_empty() || sorted.windows(2).any(|pair| pair[0] == pair[1]) {
        return Err("seeds: a number of at least 1, or a list of different seeds".into());
    }
    Ok(seeds)
}

fn vary(given: Option<OneOrMany<String>>) -> Result<Vary, String> {
    let words = match given {
        None => vec!["all".into()],
        Some(OneOrMany::One(word)) => vec![word],
        Some(OneOrMany::Many(words)) => words,
    };
    let mut vary = Vary { init: false, data: false, dropout: false };
    for word in &words {
        match &word[..] {
            "all" => vary = Vary { init: true, data: true, dropout: true },
            "init" => vary.init = true,
            "data" => vary.data = true,
            "dropout" => vary.dropout = true,
            other => {
                let known = ["all", "init", "data", "dropout"];
                let near = crate::config::nearest(other, known.into_iter());
                let hint = near.map_or(String::new(), |near| format!("; did you mean {near:?}?"));
                return Err(format!(
                    "vary = {other:?}: \"init\", \"data\", \"dropout\", a list of them, or \"all\"{hint}"
                ));
            }
        }
    }
    if words.is_empty() { Err("vary: an empty list would train the same run again and again".into()) } else { Ok(vary) }
}
