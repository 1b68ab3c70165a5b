//! The model card of a push: what training wrote, completed with what only the run's folder and its owner know.
//!
//! Time, cost, energy, the picture of the loss and the repository's name come in here, apart from the checkpoint itself,
//! which stays as it is. A README.md that its owner has edited is theirs, and goes up as it stands.

use std::path::{Path, PathBuf};

use crate::card::{CardFacts, CardPower, CardPrice, render, render_with};
use crate::cli::ui::Terminal;
use crate::config::Config;
use crate::error::{Error, Result};
use crate::hub::Repo;
use crate::hub::config::PushConfig;
use crate::model::Gpt;
use crate::open;
use crate::report;
use crate::run::card::{Recorded, card_sample, hash, of_model, task_results};
use crate::run::folder::EVENTS;
use crate::train::save::CARD_FACTS;

/// README.md in a model folder.
const CARD: &str = "README.md";

/// The picture of the loss in the repository, next to the card.
const PICTURE: &str = "report/loss.png";

/// What the owner says for the card.
#[derive(Clone, Debug, Default, clap::Args)]
pub(crate) struct CardArgs {
    /// Write the card by this template (Markdown with placeholders such as {{training}}; docs/interchange.md lists them).
    #[arg(long, value_name = "FILE")]
    pub card_template: Option<PathBuf>,
    /// The licence of the weights, as the Hub spells it: mit, apache-2.0, cc-by-4.0.
    #[arg(long, value_name = "ID")]
    pub license: Option<String>,
    /// What an hour of the hardware costs; the card then tells the cost.
    #[arg(long, value_name = "PRICE")]
    pub price_per_hour: Option<f64>,
    /// The currency of that price [default: USD].
    #[arg(long, value_name = "CODE", requires = "price_per_hour")]
    pub currency: Option<String>,
    /// The power that training drew, in watts, for the estimate of its energy [default for CPUs: 10 for each thread].
    #[arg(long, value_name = "WATTS")]
    pub watts: Option<f64>,
}

impl CardArgs {
    /// What a run's config says.
    pub fn of(config: &PushConfig) -> CardArgs {
        CardArgs {
            card_template: config.card_template.clone().map(PathBuf::from),
            license: config.license.clone(),
            price_per_hour: config.price_per_hour,
            currency: config.currency.clone(),
            watts: config.watts,
        }
    }

    /// These, and where they say nothing what a run's config says.
    pub fn or(self, config: &PushConfig) -> CardArgs {
        let theirs = CardArgs::of(config);
        CardArgs {
            card_template: self.card_template.or(theirs.card_template),
            license: self.license.or(theirs.license),
            currency: self.currency.or(theirs.currency.filter(|_| self.price_per_hour.is_none())),
            price_per_hour: self.price_per_hour.or(theirs.price_per_hour),
            watts: self.watts.or(theirs.watts),
        }
    }

    fn check(&self) -> Result<()> {
        for (name, value) in [("--price-per-hour", self.price_per_hour), ("--watts", self.watts)] {
            if value.is_some_and(|value| !value.is_finite() || value < 0.0) {
                return Err(Error::usage(format!("{name} must be a number of at least 0")));
            }
        }
        Ok(())
    }
}

/// A checkpoint's own card, as training left it.
#[derive(Debug)]
pub(crate) struct ReadCard {
    readme: Option<String>,
    recorded: Option<Recorded>,
}

impl ReadCard {
    /// Reads the card of a model folder; facts that cannot be read are none.
    pub fn read(folder: &Path) -> ReadCard {
        let text = |name: &str| std::fs::read_to_string(folder.join(name)).ok();
        ReadCard { readme: text(CARD), recorded: text(CARD_FACTS).and_then(|json| serde_json::from_str(&json).ok()) }
    }
}

/// The run that a checkpoint lies in, if it lies in one.
pub(crate) fn run_of(checkpoint: &Path) -> Option<PathBuf> {
    let checkpoint = checkpoint.canonicalize().ok()?;
    let run = checkpoint.parent()?.parent()?;
    run.join(EVENTS).is_file().then(|| run.to_path_buf())
}

/// The config of a run, as far as it can be read.
pub(crate) fn config_of(run: &Path) -> Option<Config> {
    let path = run.join("config.toml");
    Config::from_str(&std::fs::read_to_string(&path).ok()?, &path.to_string_lossy(), &[]).ok()
}

/// Writes into `overlay` what a push of `folder` sends in place of the folder's own files, or besides them: the completed
/// card and the picture of the loss. Gives what a person should know.
///
/// # Errors
/// `Usage` for a template that is wrong or arguments out of range; `Io` if the disk refuses.
pub(crate) fn complete(
    folder: &Path,
    source: &ReadCard,
    run: Option<&Path>,
    repo: &Repo,
    args: &CardArgs,
    overlay: &Path,
) -> Result<Vec<String>> {
    args.check()?;
    let template = match &args.card_template {
        Some(path) => Some(std::fs::read_to_string(path).map_err(Error::io("read", path))?),
        None => None,
    };
    let mut notes = Vec::new();
    let own_text = match (&source.readme, &source.recorded) {
        (Some(readme), Some(recorded)) => hash(readme) != recorded.readme_xxh3,
        (readme, None) => readme.is_some(),
        (None, Some(_)) => false,
    };
    if own_text && template.is_none() {
        if source.recorded.is_some() {
            notes.push(
                "README.md was edited by hand and goes up as it stands; --card-template renders a new one".into(),
            );
        }
        return Ok(notes);
    }
    let mut facts = match &source.recorded {
        Some(recorded) => recorded.facts.clone(),
        None => match of_folder(folder) {
            Ok(facts) => facts,
            // What taper cannot read it can still push.
            Err(error) if template.is_none() => {
                notes.push(format!("there is no README.md, and none can be made: {error}"));
                return Ok(notes);
            }
            Err(error) => return Err(error),
        },
    };
    let loaded = run.map(report::Run::load).transpose().unwrap_or_else(|error| {
        notes.push(format!("the card tells neither time nor cost, and has no picture: {error}"));
        None
    });
    if let Some(run) = &loaded {
        of_run(run, &mut facts);
        if let Some(picture) = report::picture(run, "loss")? {
            write(&overlay.join(PICTURE), &picture)?;
            facts.loss_curve = Some(PICTURE.into());
        }
    }
    facts.repository = Some(repo.id());
    facts.name = repo.name().into();
    facts.license = args.license.clone().or(facts.license);
    if let Some(watts) = args.watts {
        facts.power = Some(CardPower { watts, basis: "as the author states".into() });
    }
    facts.price = args
        .price_per_hour
        .map(|per_hour| CardPrice { per_hour, currency: args.currency.clone().unwrap_or_else(|| "USD".into()) });
    let card = match &template {
        Some(template) => render_with(template, &facts)?,
        None => render(&facts),
    };
    write(&overlay.join(CARD), card.as_bytes())?;
    Ok(notes)
}

/// What the event log of a run tells besides.
fn of_run(run: &report::Run, facts: &mut CardFacts) {
    let steps = run.log.steps().filter(|step| step.step <= facts.step);
    let seconds: f64 = steps.map(|step| step.step_ms / 1e3).filter(|seconds| seconds.is_finite()).sum();
    facts.training_seconds = (seconds > 0.0).then_some(seconds);
    // Benchmarks that were scored since: the newest score of each counts.
    for task in run.log.tasks().filter(|task| task.step == facts.step) {
        let rows = task_results(task);
        facts
            .results
            .retain(|old| rows.iter().all(|new| (&new.benchmark, &new.metric) != (&old.benchmark, &old.metric)));
        facts.results.extend(rows);
    }
    // A checkpoint between two samplings: the texts of the last one before it.
    if facts.samples.is_empty() {
        let before = || run.log.samples().filter(|sample| sample.step <= facts.step);
        let last = before().map(|sample| sample.step).max();
        let config = run.config.as_ref().and_then(|text| Config::from_str(text, "config.toml", &[]).ok());
        if let Some(config) = config {
            facts.samples = before().filter(|s| Some(s.step) == last).map(|s| card_sample(&config, s)).collect();
        }
    }
}

/// What the model folder of another program tells.
fn of_folder(folder: &Path) -> Result<CardFacts> {
    let found = open::read(folder, &Terminal::new())?;
    let has = |name: &str| folder.join(name).is_file();
    Ok(CardFacts {
        has_tokenizer: has("tokenizer.json") || has("vocab.json") && has("merges.txt"),
        ..of_model(&Gpt::new(found.config)?)
    })
}

fn write(path: &Path, bytes: &[u8]) -> Result<()> {
    let folder = path.parent().unwrap_or(path);
    std::fs::create_dir_all(folder).map_err(Error::io("create", folder))?;
    std::fs::write(path, bytes).map_err(Error::io("write", path))
}
