//! How much memory a step needs, and the micro-batch that fits.

use crate::checkpoint::state::TrainingState;
use crate::collective::Ranks;
use crate::config::Config;
use crate::device::Device;
use crate::error::{Error, Result};
use crate::model::Gpt;
use crate::optim::rule;
use crate::train::config::{MicroBatch, Precision};
use crate::train::{batch, lanes};

/// What decides the memory of a step.
pub(super) fn memory<'m>(config: &Config, model: &'m Gpt, device: Device) -> batch::Memory<'m> {
    let dtype = config.precision.compute.unwrap_or(Precision::Fp32).dtype();
    batch::Memory {
        model: model.config(),
        parameters: model.layout().parameters(),
        trained: model.layout().trained_infos().map(|(info, _)| info.len()).sum(),
        state_bytes: rule::state_bytes(&config.optimizer),
        recompute: config.train.recompute,
        dtype,
        on_gpu: device != Device::Cpu,
    }
}

/// `micro_batch = "auto"`: what the run resolved before, else the largest that fits memory.
pub(super) fn resolve_micro_batch(
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
