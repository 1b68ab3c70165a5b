//! `taper train`: from a config file to a run folder.

mod ranks;
mod resume;
mod tune;

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::time::Duration;

use crate::checkpoint::ModelFolder;
use crate::checkpoint::state::{ArenaData, TrainingState};
use crate::checkpoint::store::Store;
use crate::cli::eval::task;
use crate::cli::open;
use crate::cli::push::Pusher;
use crate::cli::push::card_facts;
use crate::cli::train::ranks as together;
use crate::cli::train::resume::{check_same_run, find_state};
use crate::cli::train::tune::{adapters, conversations};
use crate::cli::ui::progress::{Charts, Console, PrepareBar, say};
use crate::cli::ui::summary::{next_commands, summary};
use crate::collective::Ranks;
use crate::config::Config;
use crate::data::Loader;
use crate::data::config::DataFormat;
use crate::data::tokenizer::Tokenizer;
use crate::device::bf16_unit::Bf16Unit;
use crate::device::info::CpuInfo;
use crate::device::{Device, gpu, peak};
use crate::error::{Error, Result, ResultExt};
use crate::events::{Event, EventLog, EventWriter, Reason, Start};
use crate::hub;
use crate::model::Gpt;
use crate::optim::Hyper;
use crate::tape::Params;
use crate::train::config::{MicroBatch, Nonfinite, Precision};
use crate::train::engine::{Native, OnCandle, OnGpu, Setup};
use crate::train::run::{EVENTS, MATMUL_TABLE, RunFolder, is_shared, matmul_table, use_matmul_table};
use crate::train::source::{self, Streams};
use crate::train::{self, Findings, Job, Trainer, batch, lanes, save};

/// Arguments of `taper train`.
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:
  taper train configs/quickstart.toml
  taper train configs/quickstart.toml --set 'data.text=[\"my.txt\"]' --set train.max_steps=1000 --run runs/mine
  taper train configs/quickstart.toml --resume
  taper train configs/gpt2_124m.toml --gpus 8
  torchrun --no-python --nproc-per-node 8 taper train configs/gpt2_124m.toml

Exit codes: 0 done, 1 failed, 2 bad usage or config, 3 stopped by a signal after the state was saved.")]
pub struct Args {
    /// The config file; docs/config.md describes every key.
    pub(crate) config: PathBuf,
    /// Override a key of the config; may be given several times.
    #[arg(long = "set", value_name = "KEY.PATH=VALUE")]
    pub(crate) set: Vec<String>,
    /// The run folder [default: run.dir of the config, else runs/NAME].
    #[arg(long, value_name = "DIR")]
    pub(crate) run: Option<PathBuf>,
    /// Go on with the run in its folder (from its newest whole checkpoint; from the start where there is none).
    #[arg(long)]
    pub(crate) resume: bool,
    /// cpu, cuda, cuda:N or auto [default: run.device of the config].
    #[arg(long, value_name = "DEVICE")]
    pub(crate) device: Option<String>,
    /// Train on N GPUs of this machine, one process each.
    #[arg(long, value_name = "N")]
    pub(crate) gpus: Option<usize>,
    /// Train on the CPU in N processes of this machine.
    #[arg(long, value_name = "N")]
    pub(crate) processes: Option<usize>,
    /// With --gpus and --processes: how often to start all of them again from the last checkpoint after one has failed.
    #[arg(long, value_name = "N", default_value_t = 3)]
    pub(crate) restarts: usize,
    /// The engine that computes: `native`, or `reference`, the slow one on candle that the native one is checked against.
    #[arg(long, value_enum, default_value = "native")]
    engine: Engine,
}

/// Who computes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum Engine {
    /// Our own operators.
    Native,
    /// candle, with its own autodiff.
    Reference,
}

/// Runs `taper train`.
pub fn run(args: Args) -> Result<()> {
    if let Some(processes) = together::asked(&args)?
        && processes > 1
    {
        return together::supervise(&args, processes);
    }
    let ranks = together::join()?;
    let result = run_rank(args, &ranks);
    if let Err(error) = &result
        && error.exit_code() != 3
    {
        ranks.abort(error);
    }
    result
}

/// One process's part of a run.
fn run_rank(args: Args, ranks: &Ranks) -> Result<()> {
    let mut config = Config::load(&args.config, &args.set)?;
    ranks.set_timeout(Duration::from_secs_f64(config.dist.timeout.min(1e9)));
    together::agree_on_config(ranks, &config)?;
    let asked = args.device.clone().unwrap_or_else(|| config.run.device.to_string());
    let device = match asked.as_str() {
        // Each rank has the GPU of its own number on its machine.
        "cuda" if ranks.size() > 1 => Device::parse(&format!("cuda:{}", ranks.local_rank()))?,
        "auto" if ranks.size() > 1 && gpu::open(ranks.local_rank()).is_ok() => {
            Device::parse(&format!("cuda:{}", ranks.local_rank()))?
        }
        "auto" if ranks.size() > 1 => Device::Cpu,
        _ => Device::parse(&asked)?,
    };
    if ranks.size() > 1 && args.engine == Engine::Reference {
        return Err(Error::usage("--engine reference trains in one process"));
    }
    let precision = config.precision.resolve(device != Device::Cpu)?;
    config.precision.compute = Some(precision);
    if args.engine == Engine::Reference && device == Device::Cpu && precision != Precision::Fp32 {
        return Err(Error::usage("--engine reference trains in fp32 on the CPU; remove precision.compute"));
    }
    let run = args.run.clone().unwrap_or_else(|| config.run_dir());
    let folder = ranks.on_root("run folder", || RunFolder::open(&run, args.resume))?;
    let is_shared = is_shared(ranks, &run)?;
    if !is_shared {
        say(&format!(
            "NOTE: not all processes see what rank 0 writes to {}: rank 0 writes checkpoints alone, and sends them to the others \
             when a run goes on",
            run.display()
        ));
    }
    for note in config.notes() {
        say(&format!("note: {note}"));
    }
    if device == Device::Cpu
        && let Some(note) = slow_on_this_cpu(precision)
    {
        say(&format!("NOTE: {note}"));
    }
    if asked == "auto"
        && device == Device::Cpu
        && let Some(why) = gpu::why_idle()
    {
        say(&format!("NOTE: this run is on the CPU, although there is an NVIDIA driver: {why}"));
    }

    let store = Store::of_run(&run);
    let found = if args.resume { find_state(ranks, &run, &store, is_shared)? } else { None };

    let from = config.model.init_from.as_ref();
    let init_from = ranks.root_first("initial model", || from.map(|from| open::locate(from)).transpose())?;
    let init = init_from.as_ref().map(|folder| open::read(folder)).transpose()?;
    for note in init.iter().flat_map(|folder| &folder.notes) {
        say(&format!("note: {note}"));
    }
    let tokenizer = ranks.root_first("tokenizer", || {
        open::tokenizer_section(&config.tokenizer)
            .and_then(|section| source::tokenizer(&run, &section, &config.data, &open::data_section, &|note| say(note)))
            .context(|| "preparing the tokenizer".into())
    })?;
    let shape = config.resolve_model(tokenizer.vocab_size(), init.as_ref().map(|folder| &folder.config))?;
    let lora = adapters(&config, &shape, init_from.as_deref())?;
    let model = Gpt::with_adapters(shape, lora)?;
    resolve_micro_batch(&mut config, &model, device, found.as_ref().map(|(state, _)| state), ranks)?;
    together::resolve_lanes(&mut config, ranks, &run, found.is_some())?;
    config.check_lanes()?;
    let (streams, tokenizer) = ranks.root_first("data", || {
        // Rank 0 has prepared the tokens that the others open.
        let (vocab_size, goes_on) = (model.config().vocab_size, found.is_some() || !ranks.is_root());
        if config.data.format == DataFormat::Chat {
            return conversations(&run, &config, tokenizer, init_from.as_deref(), model.config(), goes_on);
        }
        let bar = PrepareBar::new();
        let streams = source::streams(&run, &config.data, &tokenizer, vocab_size, goes_on, &open::data_section, &bar)?;
        Ok((streams, tokenizer))
    })?;
    together::agree_on_data(ranks, tokenizer.hash(), &streams.train)?;
    let (given, goes_on) = (config.precision.matmul_table.as_deref(), found.is_some());
    let table = ranks.from_root("table of matrix products", || matmul_table(&run, given, goes_on))?;
    if let Some(note) = use_matmul_table(device, &table, goes_on)? {
        say(&format!("note: {note}"));
    }
    ranks.on_root("run folder", || {
        let Some(folder) = &folder else { return Ok(()) };
        if let Some((state, _)) = &found {
            check_same_run(&run, &config, state)?;
        }
        if !table.is_empty() {
            folder.write(MATMUL_TABLE, &table)?;
        }
        folder.write("config.toml", &config.to_toml())?;
        folder.write_environment(device, precision.name(), rayon::current_num_threads(), ranks)
    })?;
    let ready =
        Ready { run, config, model, tokenizer, streams, init, init_from, device, ranks: ranks.clone(), is_shared };
    train(ready, args.engine, found)
}

/// Everything resolved, before the first step.
pub(crate) struct Ready {
    pub run: PathBuf,
    pub config: Config,
    pub model: Gpt,
    pub tokenizer: Tokenizer,
    pub streams: Streams,
    pub init: Option<ModelFolder>,
    pub init_from: Option<PathBuf>,
    pub device: Device,
    pub ranks: Ranks,
    pub is_shared: bool,
}

impl Ready {
    /// The initial weights: those of `model.init_from`, else drawn from `seed_init`.
    pub fn initial(&self) -> Result<Params> {
        match &self.init {
            Some(folder) => {
                let values = folder.params.iter().map(|(name, _, values)| (name.as_str(), values.as_slice()));
                self.model.with_base(values, self.config.run.seed_init())
            }
            None => self.model.initialise(self.config.run.seed_init()),
        }
    }

    fn engine(&self, which: Engine, params: Params) -> Result<Box<dyn train::Engine + '_>> {
        let config = &self.config;
        let hyper = Hyper {
            beta1: config.optimizer.beta1,
            beta2: config.optimizer.beta2,
            eps: config.optimizer.eps,
            weight_decay: config.optimizer.weight_decay,
            clip_norm: config.stability.clip_norm.value(),
        };
        Ok(match which {
            Engine::Native => {
                let (seed_dropout, recompute) = (config.run.seed_dropout(), config.train.recompute);
                let setup = Setup { seed_dropout, recompute, lanes: self.lanes() };
                let team = together::team(&self.ranks, config);
                match self.device.gpu()? {
                    None => {
                        let params = params.with_compute(self.precision().dtype())?;
                        Box::new(Native::in_team(&self.model, params, hyper, setup, team)?)
                    }
                    Some(gpu) => {
                        let stop = config.stability.nonfinite == Nonfinite::Error;
                        let model = &self.model;
                        Box::new(OnGpu::in_team(gpu, model, &params, hyper, setup, self.precision(), stop, team)?)
                    }
                }
            }
            Engine::Reference if config.data.format == DataFormat::Chat => {
                return Err(Error::usage(
                    "--engine reference trains on running text; data.format = \"chat\" needs the native engine",
                ));
            }
            Engine::Reference if self.model.lora().is_some() => {
                return Err(Error::usage(
                    "--engine reference trains all parameters; lora.rank needs the native engine",
                ));
            }
            Engine::Reference => Box::new(OnCandle::new(&self.model, params, hyper)?),
        })
    }

    /// What adapters correct.
    fn base(&self, params: &Params) -> Result<Option<save::Base>> {
        let (Some(folder), Some(name), Some(_)) = (&self.init_from, &self.config.model.init_from, self.model.lora())
        else {
            return Ok(None);
        };
        let name = match hub::names_hub(name) {
            true => name.clone(),
            // The folder must be found from wherever the adapters are opened.
            false => std::path::absolute(folder).map_err(Error::io("find", folder))?.to_string_lossy().into_owned(),
        };
        Ok(Some(save::Base::new(name, params)))
    }

    /// The number format of matrix products and activations.
    pub fn precision(&self) -> Precision {
        self.config.precision.compute.unwrap_or(Precision::Fp32)
    }

    pub fn micro_batch(&self) -> usize {
        self.config.train.micro_batch.sequences().unwrap_or(1)
    }

    pub fn lanes(&self) -> usize {
        let micro_batches = self.config.train.global_batch() / self.micro_batch();
        self.config.dist.lanes.unwrap_or_else(|| lanes::default_lanes(micro_batches))
    }

    /// The memory of a training step, as predicted.
    pub fn predicted_bytes(&self) -> u64 {
        memory(&self.config, &self.model, self.device).predicted_bytes(self.micro_batch(), lanes::buffers(self.lanes()))
    }

    /// The number of steps, with a word on what the last step and the end of the data leave out.
    pub fn max_steps(&self) -> Result<u64> {
        let context = self.model.config().context_length;
        let loader = Loader::new(self.streams.train.clone(), context, self.config.data.shuffle, 0)?;
        if loader.leftover_tokens() > 0 {
            say(&format!(
                "note: the last {} of {} training tokens do not fill a sequence of {context} and are not read",
                loader.leftover_tokens(),
                self.streams.train.len()
            ));
        }
        self.config.train.steps(context, loader.sequences_per_epoch())
    }

    pub fn start_event(&self, max_steps: u64) -> Event {
        Event::Start(Box::new(Start {
            version: env!("CARGO_PKG_VERSION").into(),
            config_hash: self.config.hash(),
            parameters: self.model.layout().parameters() as u64,
            tokens_per_step: (self.config.train.global_batch() * self.model.config().context_length) as u64,
            max_steps: Some(max_steps),
            clip_norm: self.config.stability.clip_norm.value(),
            memory_bytes: Some(self.predicted_bytes()),
            flops_per_token: Some(self.model.config().flops_per_token() as f64),
            device: Some(device_words(self.device)),
            time: now(),
        }))
    }
}

pub(crate) fn now() -> Option<u64> {
    std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).ok().map(|since| since.as_secs())
}

pub(crate) fn device_words(device: Device) -> String {
    match device.gpu() {
        Ok(Some(gpu)) => gpu.driver().facts().name.clone(),
        _ => format!("{}, {} threads", CpuInfo::of_this_machine().model, rayon::current_num_threads()),
    }
}

/// What is to be said about a precision that the CPU at hand is not made for.
pub(crate) fn slow_on_this_cpu(precision: Precision) -> Option<&'static str> {
    (precision == Precision::Bf16 && Bf16Unit::of_this_machine().is_none()).then_some(
        "this CPU has neither AMX-BF16 nor AVX512-BF16: bf16 is computed by converting to fp32, and is slower than \"fp32\"",
    )
}

/// What a device can do at most in a precision, in FLOP/s, where its data sheet is known.
pub(crate) fn peak_flops(device: Device, precision: Precision) -> Option<f64> {
    let gpu = device.gpu().ok().flatten()?;
    let peaks = peak::of(&gpu.driver().facts().name)?;
    Some(match precision {
        Precision::Fp32 => peaks.fp32,
        Precision::Tf32 => peaks.tf32,
        Precision::Bf16 | Precision::Fp16 => peaks.bf16,
    })
}

/// What decides the memory of a step.
fn memory<'m>(config: &Config, model: &'m Gpt, device: Device) -> batch::Memory<'m> {
    let dtype = config.precision.compute.unwrap_or(Precision::Fp32).dtype();
    batch::Memory {
        model: model.config(),
        parameters: model.layout().parameters(),
        trained: model.layout().trained_infos().map(|(info, _)| info.len()).sum(),
        recompute: config.train.recompute,
        dtype,
        on_gpu: device != Device::Cpu,
    }
}

/// `micro_batch = "auto"`: what the run resolved before, else the largest that fits memory.
fn resolve_micro_batch(
    config: &mut Config,
    model: &Gpt,
    device: Device,
    state: Option<&TrainingState>,
    ranks: &Ranks,
) -> Result<()> {
    if config.train.micro_batch.sequences().is_some() {
        return Ok(());
    }
    let found = ranks.from_root("micro-batch", || {
        if let Some(state) = state {
            return Ok(state.micro_batch.to_string());
        }
        let buffers = |micro_batches| lanes::buffers(lanes::default_lanes(micro_batches));
        let memory = memory(config, model, device);
        // Processes on CPUs share the machine's memory.
        let share = if device == Device::Cpu { ranks.size() as u64 } else { 1 };
        let available = batch::available(device)? / share;
        // Both are powers of two.
        let lanes = ranks.size().max(config.dist.lanes.unwrap_or(1));
        let size = memory.largest_that_fits(config.train.global_batch(), available, lanes, buffers)?;
        Ok(size.to_string())
    })?;
    let size = found.parse().map_err(|_| Error::Training(format!("rank 0 sent {found:?} for train.micro_batch")))?;
    config.train.micro_batch = MicroBatch::Sequences(size);
    Ok(())
}

fn train(ready: Ready, engine: Engine, found: Option<(TrainingState, ArenaData)>) -> Result<()> {
    let max_steps = ready.max_steps()?;
    let log_path = ready.run.join(EVENTS);
    let ranks = &ready.ranks;
    let mut logged = None;
    let finished = ranks.from_root("event log", || {
        if found.is_some() {
            logged = Some(EventLog::read(&log_path)?);
        }
        // A process that was killed at the very end has saved its last step and not said so: then the rest of this function
        // says it, with no step left to do.
        let done = |end: &crate::events::End| end.reason == Reason::Done;
        let said = logged.as_ref().is_some_and(|logged| logged.end().is_some_and(done));
        let over = said && found.as_ref().is_some_and(|(state, _)| state.step >= max_steps);
        Ok(if over { "finished" } else { "" }.to_string())
    })?;
    if !finished.is_empty() {
        say(&format!("the run is finished: all of its {max_steps} steps are done"));
        return Ok(());
    }
    let config = &ready.config;
    let log = ranks.on_root("event log", || match &found {
        Some(_) => EventWriter::append_to(&log_path),
        None => EventWriter::create(&log_path),
    })?;
    let card = |state: &TrainingState, findings: Findings<'_>| card_facts::card(&ready, state, findings);
    let load = || task::load_all(&config.eval, &ready.tokenizer, ready.model.config());
    let tasks = ranks.on_root_for_long("benchmarks", load)?.unwrap_or_default();
    let params = ready.initial()?;
    let job = Job {
        folder: &ready.run,
        run: &config.run,
        train: &config.train,
        optimizer: &config.optimizer,
        schedule: &config.schedule,
        stability: &config.stability,
        eval: &config.eval,
        checkpoint: &config.checkpoint,
        sample: &config.sample,
        tokenizer: &ready.tokenizer,
        data: ready.streams.train.clone(),
        shuffle: config.data.shuffle,
        val: ready.streams.val.as_ref(),
        tasks: &tasks,
        micro_batch: ready.micro_batch(),
        global_batch: config.train.global_batch(),
        max_steps,
        config_hash: config.hash(),
        hardware: ready.device.hardware_kind()?,
        base: ready.base(&params)?,
        card: &card,
        peak_flops: peak_flops(ready.device, ready.precision()).map(|peak| peak * ranks.size() as f64),
        ranks: ranks.clone(),
        is_shared: ready.is_shared,
    };
    check_prompts(&ready)?;
    let stop = stop_flag()?;
    let mut console = Console::new(max_steps);
    let mut charts = Charts::default();
    let mut pusher = Pusher::new(&config.push, &ready.run);
    let mut trainer = Trainer::new(job, &ready.model, ready.engine(engine, params)?, log)?;
    if let Some((state, arena)) = found {
        trainer.restore(state, &arena)?;
    }
    say(&summary(&ready, max_steps, trainer.probe()?, trainer.step()));
    if ranks.is_root() {
        trainer.observe(&mut console);
        trainer.observe(&mut charts);
        trainer.observe(&mut pusher);
        match logged {
            Some(logged) => trainer.record_resume(&logged, now())?,
            None => trainer.record(ready.start_event(max_steps))?,
        }
    }
    let result = trainer.run(&stop);
    drop(trainer);
    console.finish();
    if matches!(result, Ok(()) | Err(Error::Stopped { .. })) {
        // Launchers end a job at the first process that exits with 3: rank 0 finishes first.
        ranks.on_root_for_long("the end", || {
            charts.finish(&ready.run);
            pusher.finish(&stop);
            Ok(())
        })?;
    } else if ranks.is_root() {
        charts.finish(&ready.run);
        pusher.finish(&stop);
    }
    result?;
    say(&next_commands(&ready));
    Ok(())
}

/// A prompt that the model cannot be given is found before the run, not in the middle of it.
fn check_prompts(ready: &Ready) -> Result<()> {
    if ready.config.sample.every == crate::setting::Interval::Off {
        return Ok(());
    }
    let context = ready.model.config().context_length;
    for prompt in &ready.config.sample.prompt {
        let tokens = crate::sample::prompt_tokens(&ready.tokenizer, prompt)
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

/// A flag that SIGINT, SIGTERM and SIGUSR1 set; a second SIGINT or SIGTERM ends the process at once.
pub(crate) fn stop_flag() -> Result<Arc<AtomicBool>> {
    let stop = Arc::new(AtomicBool::new(false));
    #[cfg(unix)]
    // Slurm's warning before the time limit (--signal=USR1@90); it may come more than once.
    signal_hook::flag::register(signal_hook::consts::SIGUSR1, stop.clone())
        .map_err(|error| Error::Device(format!("cannot listen for signals: {error}")))?;
    for signal in [signal_hook::consts::SIGINT, signal_hook::consts::SIGTERM] {
        // In this order: the first signal finds the flag unset and passes on to the second handler.
        signal_hook::flag::register_conditional_shutdown(signal, 128 + signal, stop.clone())
            .and_then(|_| signal_hook::flag::register(signal, stop.clone()))
            .map_err(|error| Error::Device(format!("cannot listen for signals: {error}")))?;
    }
    Ok(stop)
}
