//! A run in several processes: joining the others, agreeing with them, and starting all of them on this machine.

use std::path::Path;
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::time::Duration;

use crate::checkpoint::store::Store;
use crate::collective::ranks::{EndProcess, Summation};
use crate::collective::{Collective, Ranks, Wire, fault, launch, rendezvous, supervisor};
use crate::config::Config;
use crate::data::{Batch, Sequences};
use crate::error::{Error, Result};
use crate::run::folder::binary_hash;
use crate::train::config::{Communication, Reduction};
use crate::train::engine::Team;
use crate::train::lanes;
use crate::ui::Ui;

/// How long ranks wait for each other to start.
const RENDEZVOUS: Duration = Duration::from_secs(300);
/// How long the other ranks may take to end by themselves after one has failed, at most (`dist.timeout`, if that is less).
const GRACE: Duration = Duration::from_secs(10);

/// This process among its ranks, as its launcher tells; a run on its own where there is none. `end` ends the process
/// when a rank hangs or panics, and nothing else can.
///
/// # Errors
/// If the launcher's variables are wrong, or the others do not come.
pub fn join(end: EndProcess) -> Result<Ranks> {
    let Some(place) = launch::place()? else { return Ok(Ranks::alone()) };
    fault::arm()?;
    let ranks = Ranks::of(connect(&place)?, place.local_rank);
    fault::start_clock(place.rank);
    let ranks = ranks.ending_by(end);
    ranks.end_on_panic();
    Ok(ranks)
}

/// The engine between ranks in host memory: MPI where mpiexec has started them and this build has it, else TCP.
fn connect(place: &launch::Place) -> Result<Arc<dyn Collective>> {
    #[cfg(feature = "mpi")]
    if place.is_mpi {
        return Ok(Arc::new(crate::collective::mpi::Mpi::start()?));
    }
    Ok(Arc::new(rendezvous::connect(place, RENDEZVOUS)?))
}

/// How the ranks of a run share its work.
pub(super) fn team(ranks: &Ranks, config: &Config) -> Team {
    let wire = match config.dist.communication {
        Communication::Fp32 => Wire::F32,
        Communication::Bf16 => Wire::Bf16,
    };
    let summation = Summation { ordered: config.dist.reduction == Reduction::Ordered, wire };
    // Four bytes each. Something that is not 0 does not become 0.
    let bucket = (config.dist.bucket_mb * f64::from(1 << 18)).ceil() as usize;
    Team { ranks: ranks.clone(), summation, shard_optimizer: config.dist.shard_optimizer, bucket }
}

/// Before anything is done: the same program and the same config everywhere, key by key.
///
/// # Errors
/// `Usage` that names ranks and keys.
pub(super) fn agree_on_config(ranks: &Ranks, config: &Config) -> Result<()> {
    let toml = config.to_toml();
    let mut fields = vec![
        ("the version of taper".to_string(), env!("CARGO_PKG_VERSION").to_string()),
        ("the program (its XXH3)".to_string(), binary_hash().unwrap_or_default()),
    ];
    let mut section = "";
    for line in toml.lines() {
        if let Some(name) = line.strip_prefix('[').and_then(|rest| rest.strip_suffix(']')) {
            section = name;
        } else if let Some((key, value)) = line.split_once(" = ") {
            fields.push((format!("{section}.{key}"), value.to_string()));
        } else if let Some(key) = line.strip_prefix("# ").and_then(|rest| rest.strip_suffix(" is not set")) {
            fields.push((format!("{section}.{key}"), "not set".to_string()));
        }
    }
    let fields: Vec<(&str, String)> = fields.iter().map(|(name, value)| (name.as_str(), value.clone())).collect();
    ranks.agree(&fields)
}

/// `dist.lanes`, where the config leaves it open: a run that is `resuming` keeps its own; a new one on more ranks than there are
/// lanes by default gets one for each.
///
/// # Errors
/// If the run's config cannot be read, or a rank is gone.
pub(super) fn resolve_lanes(config: &mut Config, ranks: &Ranks, run: &Path, resuming: bool, ui: &dyn Ui) -> Result<()> {
    if config.dist.lanes.is_some() {
        return Ok(());
    }
    let micro_batches = config.train.global_batch() / config.train.micro_batch.sequences().unwrap_or(1);
    let lanes = ranks.from_root("lanes", || {
        let lanes = if resuming {
            let path = run.join("config.toml");
            let text = std::fs::read_to_string(&path).map_err(Error::io("read", &path))?;
            Config::from_str(&text, &path.to_string_lossy(), &[])?.dist.lanes
        } else {
            lanes::lanes_of_many(micro_batches, ranks.size())
        };
        Ok(lanes.map_or(String::new(), |lanes| lanes.to_string()))
    })?;
    config.dist.lanes = lanes.parse().ok();
    if let (Some(lanes), false) = (config.dist.lanes, resuming) {
        ui.note(&format!(
            "dist.lanes = {lanes}, one for each process; fewer processes give the same bits only with the same dist.lanes"
        ));
    }
    Ok(())
}

/// Before the first step: the same tokenizer and tokens everywhere.
///
/// # Errors
/// `Usage` that names ranks and fields.
pub(super) fn agree_on_data(ranks: &Ranks, tokenizer: &str, train: &Sequences) -> Result<()> {
    if ranks.size() == 1 {
        return Ok(());
    }
    ranks.agree(&[
        ("the tokenizer's hash", tokenizer.to_string()),
        ("the number of training tokens", train.len().to_string()),
        ("the hash of the training data", fingerprint(train)?),
    ])
}

/// A hash of 64 pieces of the data, evenly spread: it finds other data and other shards, without reading all of it.
fn fingerprint(train: &Sequences) -> Result<String> {
    const PIECES: u64 = 64;
    const LENGTH: u64 = 1024;
    let mut hash = xxhash_rust::xxh3::Xxh3::new();
    let stream = match train {
        Sequences::Stream(stream) => stream,
        Sequences::Packed(packed) => {
            let last = packed.rows().saturating_sub(1);
            for index in 0..PIECES {
                let mut rows = Batch::default();
                packed.append(last * index / (PIECES - 1), &mut rows);
                [&rows.inputs, &rows.targets, &rows.begins]
                    .into_iter()
                    .for_each(|part| hash.update(bytemuck::cast_slice(part)));
            }
            return Ok(format!("{:016x}", hash.digest()));
        }
    };
    let length = LENGTH.min(stream.len());
    let mut piece = vec![0u32; length as usize];
    for index in 0..PIECES {
        stream.read((stream.len() - length) / (PIECES - 1) * index, &mut piece)?;
        hash.update(bytemuck::cast_slice(&piece));
    }
    Ok(format!("{:016x}", hash.digest()))
}

/// Processes of a run that are started and watched here.
#[derive(Clone, Copy, Debug)]
pub struct Supervision {
    /// How many.
    pub processes: usize,
    /// How often in a row all may start again without a newer checkpoint.
    pub restarts: usize,
}

/// Trains `run` in several processes on this machine and watches them; `start(resume)` is the command of one.
///
/// # Errors
/// As [`supervisor::run`].
pub fn supervise(
    asked: Supervision,
    config: &Config,
    run: &Path,
    start: &dyn Fn(bool) -> Command,
    stop: &AtomicBool,
    ui: &dyn Ui,
) -> Result<()> {
    let Supervision { processes, restarts } = asked;
    // The machine's cores are divided; how many threads a rank has does not change its bits.
    let cores = std::thread::available_parallelism().map_or(1, usize::from);
    let threads = std::env::var_os("RAYON_NUM_THREADS").is_none().then(|| (cores / processes).max(1));
    let command = |attempt: usize| {
        let mut command = start(attempt > 0);
        if attempt > 0 {
            command.env_remove(fault::VARIABLE);
        }
        if let Some(threads) = threads {
            command.env("RAYON_NUM_THREADS", threads.to_string());
        }
        command
    };
    let newest = || newest_checkpoint(run);
    let grace = GRACE.min(Duration::from_secs_f64(config.dist.timeout.min(1e9)));
    let policy = supervisor::Policy { processes, restarts, grace };
    supervisor::run(policy, &command, &newest, stop, ui)
}

fn newest_checkpoint(run: &Path) -> Option<u64> {
    Store::of_run(run).steps().ok()?.last().copied()
}
