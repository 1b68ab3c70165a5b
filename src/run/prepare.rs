//! What is done before the first step: everything resolved, checked and opened.

use std::path::{Path, PathBuf};
use std::time::Duration;

use crate::checkpoint::ModelFolder;
use crate::checkpoint::state::{ArenaData, TrainingState};
use crate::checkpoint::store::Store;
use crate::collective::Ranks;
use crate::config::Config;
use crate::data::Loader;
use crate::data::config::DataFormat;
use crate::data::tokenizer::Tokenizer;
use crate::device::{Device, gpu};
use crate::error::{Error, Result, ResultExt};
use crate::eval::tasks::Task;
use crate::events::{End, EventLog, EventWriter, Reason};
use crate::model::Gpt;
use crate::open::{self, EngineKind};
use crate::run::finetune::{adapters, conversations};
use crate::run::folder::{EVENTS, MATMUL_TABLE, RunFolder, is_shared, matmul_table, use_matmul_table};
use crate::run::hardware::slow_on_this_cpu;
use crate::run::memory::{memory, resolve_micro_batch};
use crate::run::ranks::{agree_on_config, agree_on_data, resolve_lanes};
use crate::run::resume::{check_same_run, find_state};
use crate::run::source::{self, Streams};
use crate::run::tasks::load_all;
use crate::tape::Params;
use crate::train::config::Precision;
use crate::train::lanes;
use crate::ui::Ui;

/// What a run is asked for besides its config. The default is a new run in the config's own folder, on the config's own
/// device, in one process.
#[derive(Clone)]
pub struct Options {
    /// The run folder; none is the config's.
    pub folder: Option<PathBuf>,
    /// Whether to continue the run in its folder, from its newest whole checkpoint; from the start where there is none.
    pub resume: bool,
    /// cpu, cuda, cuda:N or auto; none is the config's.
    pub device: Option<String>,
    /// What computes.
    pub engine: EngineKind,
    /// The processes that train together ([`crate::run::join`]).
    pub ranks: Ranks,
}

impl Default for Options {
    fn default() -> Options {
        Options { folder: None, resume: false, device: None, engine: EngineKind::Native, ranks: Ranks::alone() }
    }
}

/// A run that is ready for its first step, or its next.
pub struct Prepared {
    /// The run folder.
    pub run: PathBuf,
    /// The config, with everything that it leaves open resolved.
    pub config: Config,
    /// The model's shape and parameters.
    pub model: Gpt,
    /// The tokenizer.
    pub tokenizer: Tokenizer,
    /// Training and validation data.
    pub streams: Streams,
    /// Where it is trained.
    pub device: Device,
    /// The processes that train together.
    pub ranks: Ranks,
    /// The last step.
    pub max_steps: u64,
    /// What computes.
    pub(super) engine: EngineKind,
    /// The folder of `model.init_from`.
    pub(super) init_from: Option<PathBuf>,
    /// Benchmarks of `eval.tasks`.
    pub(super) tasks: Vec<Task>,
    /// Whether all processes see the same run folder.
    pub(super) is_shared: bool,
    /// What training begins with; it is used up by training.
    pub(super) begin: Option<Begin>,
    /// Rank 0 has the folder to itself until this is dropped.
    _folder: Option<RunFolder>,
}

/// What training begins with.
pub(super) struct Begin {
    /// The initial weights.
    pub params: Params,
    /// The state that a resumed run continues from.
    pub found: Option<(TrainingState, ArenaData)>,
    /// The event log of a resumed run so far, on rank 0.
    pub logged: Option<EventLog>,
    /// The event log, on rank 0.
    pub log: Option<EventWriter>,
}

/// Resolves, checks and opens everything that a run needs. All processes of a run call it together.
///
/// # Errors
/// `Usage` for a config that contradicts itself or the machine, a folder that holds a run already, or processes that do
/// not agree; whatever is wrong with files, data and devices.
pub fn prepare(mut config: Config, options: Options, ui: &dyn Ui) -> Result<Prepared> {
    let Options { folder, resume, device: asked, engine, ranks } = options;
    ranks.set_timeout(Duration::from_secs_f64(config.dist.timeout.min(1e9)));
    agree_on_config(&ranks, &config)?;
    let asked = asked.unwrap_or_else(|| config.run.device.to_string());
    let device = device_of(&asked, &ranks)?;
    resolve_precision(&mut config, device, engine, &ranks)?;
    let run = folder.unwrap_or_else(|| config.run_dir());
    let folder = ranks.on_root("run folder", || RunFolder::open(&run, resume))?;
    let is_shared = is_shared(&ranks, &run)?;
    tracing::debug!(run = %run.display(), %device, rank = ranks.rank(), ranks = ranks.size(), is_shared, "run folder taken");
    tell(&config, &run, (&asked, device), is_shared, ui);

    let store = Store::of_run(&run);
    let found = if resume { find_state(&ranks, &run, &store, is_shared, ui)? } else { None };

    let from = config.model.init_from.as_ref();
    let init_from = ranks.root_first("initial model", || from.map(|from| open::locate(from, ui)).transpose())?;
    let init = init_from.as_ref().map(|folder| open::read(folder, ui)).transpose()?;
    init.iter().flat_map(|folder| &folder.notes).for_each(|note| ui.note(note));
    let tokenizer = ranks.root_first("tokenizer", || {
        open::tokenizer_section(&config.tokenizer, ui)
            .and_then(|section| source::tokenizer(&run, &section, &config.data, ui))
            .context(|| "preparing the tokenizer".into())
    })?;
    let shape = config.resolve_model(tokenizer.vocab_size(), init.as_ref().map(|folder| &folder.config))?;
    let lora = adapters(&config, &shape, init_from.as_deref())?;
    let model = Gpt::with_adapters(shape, lora)?;
    resolve_micro_batch(&mut config, &model, device, found.as_ref().map(|(state, _)| state), &ranks)?;
    resolve_lanes(&mut config, &ranks, &run, found.is_some(), ui)?;
    config.check_lanes()?;
    let (streams, tokenizer) = ranks.root_first("data", || {
        // Rank 0 has prepared the tokens that the others open.
        let (vocab_size, resuming) = (model.config().vocab_size, found.is_some() || !ranks.is_root());
        if config.data.format == DataFormat::Chat {
            return conversations(&run, &config, tokenizer, init_from.as_deref(), model.config(), resuming, ui);
        }
        let streams = source::streams(&run, &config.data, &tokenizer, vocab_size, resuming, ui)?;
        Ok((streams, tokenizer))
    })?;
    tracing::debug!(
        micro_batch = config.train.micro_batch.sequences(),
        lanes = config.dist.lanes,
        tokens = streams.train.len(),
        tokenizer = tokenizer.hash(),
        "data opened"
    );
    agree_on_data(&ranks, tokenizer.hash(), &streams.train)?;
    let (given, resuming) = (config.precision.matmul_table.as_deref(), found.is_some());
    let table = ranks.from_root("table of matrix products", || matmul_table(&run, given, resuming))?;
    if let Some(note) = use_matmul_table(device, &table, resuming)? {
        ui.note(&note);
    }
    ranks.on_root("run folder", || {
        let Some(folder) = &folder else { return Ok(()) };
        if let Some((state, _)) = &found {
            check_same_run(&run, &config, state, ui)?;
        }
        if !table.is_empty() {
            folder.write(MATMUL_TABLE, &table)?;
        }
        folder.write("config.toml", &config.to_toml())?;
        let precision = config.precision.compute.unwrap_or(Precision::Fp32);
        folder.write_environment(device, precision.name(), rayon::current_num_threads(), &ranks)
    })?;
    let max_steps = max_steps(&config, &model, &streams, ui)?;
    let (tasks, begin, _folder) = (Vec::new(), None, folder);
    let mut prepared = Prepared {
        run,
        config,
        model,
        tokenizer,
        streams,
        device,
        ranks,
        max_steps,
        engine,
        init_from,
        tasks,
        is_shared,
        begin,
        _folder,
    };
    prepared.begin(found, init.as_ref(), ui)?;
    Ok(prepared)
}

/// The device that is asked for; of several ranks each has the GPU of its own number on its machine.
fn device_of(asked: &str, ranks: &Ranks) -> Result<Device> {
    let own = || Device::parse(&format!("cuda:{}", ranks.local_rank()));
    match asked {
        "cuda" if ranks.size() > 1 => own(),
        "auto" if ranks.size() > 1 && gpu::open(ranks.local_rank()).is_ok() => own(),
        "auto" if ranks.size() > 1 => Ok(Device::Cpu),
        _ => Device::parse(asked),
    }
}

fn resolve_precision(config: &mut Config, device: Device, engine: EngineKind, ranks: &Ranks) -> Result<()> {
    if ranks.size() > 1 && engine == EngineKind::Reference {
        return Err(Error::usage("--engine reference trains in one process"));
    }
    let precision = config.precision.resolve(device != Device::Cpu)?;
    config.precision.compute = Some(precision);
    if engine == EngineKind::Reference && device == Device::Cpu && precision != Precision::Fp32 {
        return Err(Error::usage("--engine reference trains in fp32 on the CPU; remove precision.compute"));
    }
    Ok(())
}

/// What the user should know of what was asked for.
fn tell(config: &Config, run: &Path, (asked, device): (&str, Device), is_shared: bool, ui: &dyn Ui) {
    if !is_shared {
        ui.warn(&format!(
            "not all processes see what rank 0 writes to {}: rank 0 writes checkpoints alone, and sends them to the others \
             when a run continues",
            run.display()
        ));
    }
    config.notes().iter().for_each(|note| ui.note(note));
    if device != Device::Cpu {
        return;
    }
    if let Some(note) = config.precision.compute.and_then(slow_on_this_cpu) {
        ui.warn(note);
    }
    if asked == "auto"
        && let Some(why) = gpu::why_idle()
    {
        ui.warn(&format!("this run is on the CPU, although there is an NVIDIA driver: {why}"));
    }
}

/// The number of steps, with a word on what the last step and the end of the data leave out.
fn max_steps(config: &Config, model: &Gpt, streams: &Streams, ui: &dyn Ui) -> Result<u64> {
    let context = model.config().context_length;
    let loader = Loader::new(streams.train.clone(), context, config.data.shuffle, 0)?;
    if loader.leftover_tokens() > 0 {
        ui.note(&format!(
            "the last {} of {} training tokens do not fill a sequence of {context} and are not read",
            loader.leftover_tokens(),
            streams.train.len()
        ));
    }
    config.train.steps(context, loader.sequences_per_epoch())
}

impl Prepared {
    /// Whether all steps of the run are done already: there is nothing left to train.
    pub fn is_finished(&self) -> bool {
        self.begin.is_none()
    }

    /// The number format of matrix products and activations.
    pub fn precision(&self) -> Precision {
        self.config.precision.compute.unwrap_or(Precision::Fp32)
    }

    /// Sequences of one pass through the model.
    pub fn micro_batch(&self) -> usize {
        self.config.train.micro_batch.sequences().unwrap_or(1)
    }

    /// The lanes that gradients are added up in.
    pub fn lanes(&self) -> usize {
        let micro_batches = self.config.train.global_batch() / self.micro_batch();
        self.config.dist.lanes.unwrap_or_else(|| lanes::default_lanes(micro_batches))
    }

    /// The memory of a training step, as predicted, in bytes.
    pub fn predicted_bytes(&self) -> u64 {
        memory(&self.config, &self.model, self.device).predicted_bytes(self.micro_batch(), lanes::buffers(self.lanes()))
    }

    /// Opens the event log, the benchmarks and the initial weights; nothing of it for a run that is finished.
    fn begin(
        &mut self,
        found: Option<(TrainingState, ArenaData)>,
        init: Option<&ModelFolder>,
        ui: &dyn Ui,
    ) -> Result<()> {
        let log_path = self.run.join(EVENTS);
        let (ranks, max_steps) = (self.ranks.clone(), self.max_steps);
        let mut logged = None;
        let finished = ranks.from_root("event log", || {
            if found.is_some() {
                logged = Some(EventLog::read(&log_path)?);
            }
            // A process that was killed at the very end has saved its last step and not said so: then training says it,
            // with no step left to do.
            let done = |end: &End| end.reason == Reason::Done;
            let said = logged.as_ref().is_some_and(|logged| logged.end().is_some_and(done));
            let over = said && found.as_ref().is_some_and(|(state, _)| state.step >= max_steps);
            Ok(if over { "finished" } else { "" }.to_string())
        })?;
        if !finished.is_empty() {
            ui.info(&format!("the run is finished: all of its {max_steps} steps are done"));
            return Ok(());
        }
        let log = ranks.on_root("event log", || match &found {
            Some(_) => EventWriter::append_to(&log_path),
            None => EventWriter::create(&log_path),
        })?;
        let load = || load_all(&self.config.eval, &self.tokenizer, self.model.config(), ui);
        self.tasks = ranks.on_root_for_long("benchmarks", load)?.unwrap_or_default();
        let params = self.initial(init)?;
        self.check_prompts()?;
        self.begin = Some(Begin { params, found, logged, log });
        Ok(())
    }

    /// The initial weights: those of `model.init_from`, else drawn from `seed_init`.
    fn initial(&self, init: Option<&ModelFolder>) -> Result<Params> {
        match init {
            Some(folder) => {
                let values = folder.params.iter().map(|(name, _, values)| (name.as_str(), values.as_slice()));
                self.model.with_base(values, self.config.run.seed_init())
            }
            None => self.model.initialise(self.config.run.seed_init()),
        }
    }

    /// A prompt that the model cannot be given is found before the run, not in the middle of it.
    fn check_prompts(&self) -> Result<()> {
        if self.config.sample.every == crate::setting::Interval::Off {
            return Ok(());
        }
        let context = self.model.config().context_length;
        for prompt in &self.config.sample.prompt {
            let tokens = crate::sample::prompt_tokens(&self.tokenizer, prompt)
                .context(|| format!("sample.prompt {prompt:?}"))?
                .len();
            if tokens > context {
                return Err(Error::usage(format!(
                    "sample.prompt {prompt:?} has {tokens} tokens, and model.context_length is {context}; shorten it"
                )));
            }
        }
        Ok(())
    }
}
