//! `training/arena.safetensors`: the fp32 master weights and the optimizer's slots (of AdamW: m and v) as flat tensors,
//! written by several processes side by side.
//!
//! One file, whatever the number of processes: each writes its range of every tensor at its place. The checksum is made
//! of the checksums of fixed chunks, so that it is put together from what the writers tell, without reading the file
//! again, and does not depend on who wrote what.

use std::borrow::Cow;
use std::fs::File;
use std::io::{Seek, SeekFrom, Write};
use std::ops::Range;
use std::path::{Path, PathBuf};

use xxhash_rust::xxh3::xxh3_64;

use crate::error::{Error, Result};
use crate::tape::Layout;

/// The folder of the training state within a checkpoint.
pub const TRAINING: &str = "training";
/// The name of the file within the folder of the training state.
pub(super) const ARENA: &str = "arena.safetensors";
/// The tensor of the master weights; those of the slots follow under their own names.
const WEIGHTS: &str = "weights";
/// Elements of a chunk in an arena of 2^20 elements or more.
pub const CHUNK: usize = 1 << 14;
/// The prefix of a checksum over chunks. One over the whole file, as version 1 wrote it, begins with "xxh3:".
const CHUNKED: &str = "xxh3-chunks:";

/// Elements of a chunk of a tensor: what a process writes starts at a multiple of this. Small arenas have small chunks,
/// so that they, too, can be divided.
pub fn chunk(len: usize) -> usize {
    if len < 1 << 20 { crate::tape::arena::ALIGN } else { CHUNK }
}

/// The flat buffers, in arena layout, of the parameters that are trained.
#[derive(Clone, Debug, PartialEq)]
pub struct ArenaData {
    /// fp32 master weights.
    pub weights: Vec<f32>,
    /// The optimizer's slots: names and values.
    pub slots: Vec<(String, Vec<f32>)>,
}

impl ArenaData {
    /// As the buffers of `layout` hold it: with zeros in spare rows, which files leave out. Data of another length
    /// stays as it is.
    pub fn in_buffers_of(&self, layout: &Layout) -> Cow<'_, ArenaData> {
        let stored = layout.stored();
        if stored == layout.trained() || self.weights.len() != stored {
            return Cow::Borrowed(self);
        }
        let pieces = layout.pieces(0..stored);
        let spread = |values: &[f32]| {
            let (mut all, mut rest) = (vec![0.0; layout.trained()], values);
            for piece in &pieces {
                let (own, after) = rest.split_at(piece.len().min(rest.len()));
                all[piece.start..piece.start + own.len()].copy_from_slice(own);
                rest = after;
            }
            all
        };
        let slots = self.slots.iter().map(|(name, values)| (name.clone(), spread(values))).collect();
        Cow::Owned(ArenaData { weights: spread(&self.weights), slots })
    }
}

/// The arena file of a checkpoint in the making.
#[derive(Clone, Debug)]
pub struct ArenaFile {
    path: PathBuf,
    /// Elements of each tensor.
    len: usize,
    /// Names of the tensors, in the file's order.
    tensors: Vec<String>,
}

/// What a process has written: its range, and the checksums of its chunks.
#[derive(Clone, Debug, PartialEq, Default)]
pub struct WrittenPart {
    /// The range's first element.
    first: usize,
    /// XXH3 of each chunk, for each tensor.
    chunks: Vec<Vec<u64>>,
}

impl ArenaFile {
    /// The arena of `len` elements, with an optimizer that keeps `slots`, within a checkpoint's folder.
    pub fn of<S: ToString>(checkpoint: &Path, len: usize, slots: &[S]) -> ArenaFile {
        let tensors = std::iter::once(WEIGHTS.to_string()).chain(slots.iter().map(S::to_string)).collect();
        ArenaFile { path: checkpoint.join(TRAINING).join(ARENA), len, tensors }
    }

    /// Makes the file, with room for everything, and its folder.
    ///
    /// # Errors
    /// If the disk refuses.
    pub fn create(&self) -> Result<()> {
        if let Some(folder) = self.path.parent() {
            std::fs::create_dir_all(folder).map_err(Error::io("create", folder))?;
        }
        let head = self.head();
        let mut file = File::create(&self.path).map_err(Error::io("create", &self.path))?;
        let bytes = (head.len() + self.tensors.len() * self.len * 4) as u64;
        file.write_all(&head).and_then(|()| file.set_len(bytes)).map_err(Error::io("write", &self.path))
    }

    /// Writes a range of each tensor (the weights first) and makes it durable. Ranges of several processes start at
    /// multiples of
    /// [`chunk`].
    ///
    /// # Errors
    /// If the file is not there, or the disk refuses.
    ///
    /// # Panics
    /// If there is not a buffer for each tensor, as long as the range.
    pub fn write(&self, range: Range<usize>, buffers: &[&[f32]]) -> Result<WrittenPart> {
        assert_eq!(buffers.len(), self.tensors.len(), "a buffer for each tensor of the arena");
        let mut part = WrittenPart { first: range.start, chunks: vec![Vec::new(); buffers.len()] };
        let mut file = File::options().write(true).open(&self.path).map_err(Error::io("write", &self.path))?;
        let head = self.head().len();
        for (index, values) in buffers.iter().enumerate() {
            assert_eq!(values.len(), range.len(), "the elements of a range of the arena");
            let at = head + (index * self.len + range.start) * 4;
            file.seek(SeekFrom::Start(at as u64)).map_err(Error::io("write", &self.path))?;
            // Written in larger pieces than are summed.
            for piece in values.chunks(1 << 18) {
                let swapped: Vec<u8>;
                let bytes: &[u8] = if cfg!(target_endian = "little") {
                    bytemuck::cast_slice(piece)
                } else {
                    swapped = piece.iter().flat_map(|value| value.to_le_bytes()).collect();
                    &swapped
                };
                part.chunks[index].extend(bytes.chunks(4 * chunk(self.len)).map(xxh3_64));
                file.write_all(bytes).map_err(Error::io("write", &self.path))?;
            }
        }
        file.sync_all().map_err(Error::io("write", &self.path))?;
        Ok(part)
    }

    /// The checksum of the file that these parts make, in the order of their ranges.
    ///
    /// # Errors
    /// If they do not cover it.
    pub fn checksum(&self, parts: &[WrittenPart]) -> Result<String> {
        let mut chunks = 0;
        let written = |part: &&WrittenPart| part.chunks.iter().any(|chunks| !chunks.is_empty());
        let parts: Vec<&WrittenPart> = parts.iter().filter(written).collect();
        for part in &parts {
            if part.first != chunks * chunk(self.len) {
                return Err(Error::Training(format!(
                    "the parts of {} do not fit: element {} follows {}",
                    self.path.display(),
                    part.first,
                    chunks * chunk(self.len)
                )));
            }
            chunks += part.chunks[0].len();
        }
        if chunks != self.len.div_ceil(chunk(self.len)) {
            return Err(Error::Training(format!("the parts of {} do not cover it", self.path.display())));
        }
        let all = (0..self.tensors.len()).flat_map(|tensor| parts.iter().flat_map(move |part| &part.chunks[tensor]));
        Ok(combine(&self.head(), all.copied()))
    }

    /// The length and header of the safetensors file.
    fn head(&self) -> Vec<u8> {
        let (mut header, len) = (serde_json::Map::new(), self.len);
        for (index, name) in self.tensors.iter().enumerate() {
            let offsets = [index * len * 4, (index + 1) * len * 4];
            header.insert(name.clone(), serde_json::json!({"dtype": "F32", "shape": [len], "data_offsets": offsets}));
        }
        let mut header = serde_json::Value::Object(header).to_string().into_bytes();
        // The data starts at a multiple of eight bytes; blanks are legal at the end of the header.
        header.resize(header.len().next_multiple_of(8), b' ');
        [&(header.len() as u64).to_le_bytes(), &header[..]].concat()
    }
}

impl WrittenPart {
    /// As bytes, for another process.
    pub fn to_bytes(&self) -> Vec<u8> {
        let counts = [self.first as u64, self.chunks.len() as u64];
        let numbers = counts.into_iter().chain(self.chunks.iter().flatten().copied());
        numbers.flat_map(u64::to_le_bytes).collect()
    }

    /// What [`WrittenPart::to_bytes`] gave.
    ///
    /// # Errors
    /// If it did not.
    pub fn from_bytes(bytes: &[u8]) -> Result<WrittenPart> {
        let numbers: Vec<u64> = bytes.as_chunks::<8>().0.iter().map(|&number| u64::from_le_bytes(number)).collect();
        match numbers.as_slice() {
            [0, 0] => Ok(WrittenPart::default()),
            &[first, tensors, ref chunks @ ..] if tensors > 0 && (chunks.len() as u64).is_multiple_of(tensors) => {
                let each = chunks.len() / tensors as usize;
                let of = |tensor: usize| chunks[tensor * each..(tensor + 1) * each].to_vec();
                Ok(WrittenPart { first: first as usize, chunks: (0..tensors as usize).map(of).collect() })
            }
            _ => Err(Error::Training(format!("{} bytes tell of no part of the arena", bytes.len()))),
        }
    }
}

fn combine(head: &[u8], chunks: impl Iterator<Item = u64>) -> String {
    let numbers: Vec<u8> = std::iter::once(xxh3_64(head)).chain(chunks).flat_map(u64::to_le_bytes).collect();
    format!("{CHUNKED}{:016x}", xxh3_64(&numbers))
}

/// Reads the file and checks it against what was recorded.
pub(super) fn read(path: &Path, recorded: &str) -> Result<ArenaData> {
    let bytes = std::fs::read(path).map_err(Error::io("read", path))?;
    let found = match recorded.starts_with(CHUNKED) {
        true => checksum_of(&bytes),
        // Version 1.
        false => Some(format!("xxh3:{:016x}", xxh3_64(&bytes))),
    };
    if found.as_deref() != Some(recorded) {
        return Err(Error::data(path, "was changed or torn: its checksum is not the one that was recorded"));
    }
    let tensors =
        safetensors::SafeTensors::deserialize(&bytes).map_err(|error| Error::data(path, error.to_string()))?;
    let mut slots = tensors.tensors();
    // In the order of the file.
    slots.sort_by_key(|(_, view)| view.data().as_ptr());
    let values =
        |data: &[u8]| data.chunks_exact(4).map(|b| f32::from_le_bytes([b[0], b[1], b[2], b[3]])).collect::<Vec<f32>>();
    let weights = slots.iter().position(|(name, _)| name == WEIGHTS);
    let weights = weights.ok_or_else(|| Error::data(path, "has no tensor of weights"))?;
    let weights = values(slots.remove(weights).1.data());
    Ok(ArenaData { weights, slots: slots.iter().map(|(name, view)| (name.clone(), values(view.data()))).collect() })
}

/// The checksum of a file's bytes; `None` if they are too few for their header.
fn checksum_of(bytes: &[u8]) -> Option<String> {
    let header = u64::from_le_bytes(*bytes.first_chunk()?);
    let (head, data) = bytes.split_at_checked(usize::try_from(header).ok()?.checked_add(8)?)?;
    let tensors = serde_json::from_slice::<serde_json::Map<String, serde_json::Value>>(head.get(8..)?).ok()?.len();
    if tensors == 0 || !data.len().is_multiple_of(4 * tensors) {
        return None;
    }
    let each = data.len() / tensors;
    let tensors = data.chunks(each.max(1));
    Some(combine(head, tensors.flat_map(|tensor| tensor.chunks(4 * chunk(each / 4)).map(xxh3_64))))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_file_and_its_checksum_do_not_depend_on_who_wrote_what() {
        for len in [0, 5, 100, (1 << 20) + 40_000] {
            let value = |i: usize| (i as f32).sin();
            let buffers: [Vec<f32>; 3] = [0, 1, 2].map(|tensor| (0..len).map(|i| value(i * 3 + tensor)).collect());
            let mut found = Vec::new();
            for writers in [1, 2, 4] {
                let folder = tempfile::tempdir().unwrap();
                let file = ArenaFile::of(folder.path(), len, &["m", "v"]);
                file.create().unwrap();
                let each = len.div_ceil(writers).next_multiple_of(chunk(len));
                let range = |writer: usize| (writer * each).min(len)..((writer + 1) * each).min(len);
                // The last one first: order is of no matter.
                let mut parts: Vec<WrittenPart> = (0..writers)
                    .rev()
                    .map(|writer| {
                        let own = [0, 1, 2].map(|tensor| &buffers[tensor][range(writer)]);
                        let part = file.write(range(writer), &own).unwrap();
                        WrittenPart::from_bytes(&part.to_bytes()).unwrap()
                    })
                    .collect();
                if writers > 1 && len > 100 {
                    assert!(file.checksum(&parts).is_err() && file.checksum(&parts[1..]).is_err());
                }
                parts.reverse();
                let checksum = file.checksum(&parts).unwrap();
                let read_back = read(&file.path, &checksum).unwrap();
                assert!(read_back.weights == buffers[0], "{len} elements");
                for (name, values) in [("m", &buffers[1]), ("v", &buffers[2])] {
                    assert!(read_back.slots.contains(&(name.into(), values.clone())), "{len} elements of {name}");
                }
                found.push((checksum, std::fs::read(&file.path).unwrap()));
            }
            assert!(found.iter().all(|one| *one == found[0]), "{len} elements");
        }
        assert!(WrittenPart::from_bytes(&[0; 24]).is_err() && WrittenPart::from_bytes(&[]).is_err());
        assert_eq!(WrittenPart::from_bytes(&WrittenPart::default().to_bytes()).unwrap(), WrittenPart::default());
    }
}
