//! Checkpoints: rank 0 writes the model, and every rank its part of the training state, side by side.
//!
//! Where ranks do not see one run folder (machines without a common file system), rank 0 gathers everything and writes
//! it alone. The files are the same either way, and for any number of ranks.

use std::ops::Range;
use std::path::Path;

use super::{Findings, Trainer};
use crate::checkpoint::arena_file::{self, ArenaFile, WrittenPart};
use crate::checkpoint::store::{Keep, Store};
use crate::collective::ordered;
use crate::device::{DType, Device};
use crate::error::{Error, Result};
use crate::events::EventWriter;
use crate::optim::{OptimizerState, rule};
use crate::train::save::{self, Snapshot};

// What a rank writes on a CPU is made of whole chunks of the file.
const _: () = assert!(ordered::ALIGN.is_multiple_of(arena_file::CHUNK));

impl Trainer<'_> {
    /// Writes a checkpoint of the state as it is. All ranks call it together.
    pub(super) fn save(&mut self) -> Result<()> {
        let ranks = self.job.ranks.clone();
        let store = Store::of_run(self.job.folder);
        let len = self.engine.params().layout().stored();
        let slots = rule::of(self.job.optimizer).slots();
        let mut draft = None;
        ranks.on_root("checkpoint", || {
            // The log must not end before the state that it leads to.
            self.log.as_mut().map_or(Ok(()), EventWriter::sync)?;
            let begun = store.begin(self.state.step)?;
            ArenaFile::of(begun.path(), len, slots).create()?;
            draft = Some(begun);
            Ok(())
        })?;
        let arena = ArenaFile::of(&store.draft(self.state.step), len, slots);
        let mut model_sha256 = Vec::new();
        let written = self.part_to_write(len).and_then(|(part, optimizer)| {
            let written = self.write_part(&arena, part, &optimizer)?;
            if let Some(draft) = &draft {
                self.take_findings(&optimizer);
                model_sha256 = self.write_model(draft.path())?;
            }
            Ok(written.to_bytes())
        });
        let parts = ranks.gather_results("checkpoint parts", written)?;
        ranks.on_root("checkpoint", || {
            let parts = parts.iter().map(|part| WrittenPart::from_bytes(part)).collect::<Result<Vec<_>>>()?;
            let draft = draft.take().ok_or_else(|| Error::Training("no checkpoint was begun".into()))?;
            let every = self.job.checkpoint.keep_every;
            let keep = Keep { last: self.job.checkpoint.keep_last, every, pinned: self.pinned() };
            let checksum = arena.checksum(&parts)?;
            let path = save::publish(&store, draft, &self.state, &checksum, &model_sha256, keep)?;
            self.record(self.saved())?;
            self.log.as_mut().map_or(Ok(()), EventWriter::sync)?;
            let run = self.job.folder;
            self.observers.iter_mut().for_each(|observer| observer.checkpoint(run, &path));
            Ok(())
        })?;
        Ok(())
    }

    /// The stored elements of the arena that this rank writes, and their optimizer state.
    fn part_to_write(&self, len: usize) -> Result<(Range<usize>, OptimizerState)> {
        let (ranks, layout) = (&self.job.ranks, self.engine.params().layout());
        let of_all = |part: Range<usize>| {
            let state = self.engine.state()?.pieces(&layout.pieces(part.clone()));
            Ok((part, state))
        };
        if !self.job.is_shared {
            return of_all(if ranks.is_root() { 0..len } else { 0..0 });
        }
        let own = ranks.shards(len).range(ranks.rank());
        // A rule that wants whole parameters leaves parts that are no whole chunks of the file; and with spare rows the
        // buffers are divided elsewhere than the file is.
        if layout.trained() != len || !self.engine.holds_chunks(arena_file::chunk(len)) {
            return of_all(own);
        }
        let held = self.engine.held();
        let part = if held == (0..len) { own } else { held };
        Ok((part.clone(), self.engine.state_of(part)?))
    }

    fn write_part(&self, arena: &ArenaFile, part: Range<usize>, optimizer: &OptimizerState) -> Result<WrittenPart> {
        if part.is_empty() && !self.job.ranks.is_root() {
            return Ok(WrittenPart::default());
        }
        let (params, mut weights) = (self.engine.params(), Vec::with_capacity(part.len()));
        for piece in params.layout().pieces(part.clone()) {
            weights.extend(params.trained().view(piece.start, &[piece.len()]).to_vec_f32()?);
        }
        let slots = optimizer.slots.iter().map(|(_, values)| values.as_slice());
        arena.write(part, &std::iter::once(weights.as_slice()).chain(slots).collect::<Vec<_>>())
    }

    /// What was found out at this very step becomes part of the state.
    fn take_findings(&mut self, optimizer: &OptimizerState) {
        let step = self.state.step;
        // Nothing measured earlier counts, so that a resumed run decides alike.
        let val_loss = self.last_val.filter(|(at, _)| *at == step).map(|(_, found)| found.loss());
        self.state.val_loss = val_loss;
        self.state.loss_scale = optimizer.scale.map(|scale| (scale.loss_scale, scale.good_steps));
        self.last_samples.retain(|sample| sample.step == step);
        self.last_tasks.retain(|task| task.step == step);
        if let Some(loss) = val_loss.filter(|loss| loss.is_finite())
            && self.state.best.is_none_or(|(best, lowest)| loss < lowest || best == step)
        {
            self.state.best = Some((step, loss));
        }
    }

    /// Writes the model's files; gives the SHA-256 of its weights by name.
    fn write_model(&self, folder: &Path) -> Result<Vec<(String, String)>> {
        let val = self.last_val.filter(|(at, _)| *at == self.state.step).map(|(_, found)| found);
        let findings = Findings { val: val.as_ref(), tasks: &self.last_tasks, samples: &self.last_samples };
        let snapshot = Snapshot {
            model: self.model,
            params: &self.engine.params().to_device(Device::Cpu, DType::F32)?,
            tokenizer: self.job.tokenizer,
            base: self.job.base.as_ref(),
            card: (self.job.card)(&self.state, findings)?,
        };
        save::write_model(folder, &snapshot)
    }
}
