//! TensorBoard event files: the scalars of a run, for those who have a TensorBoard open anyway.
//!
//! The format is small enough to write by hand. A file is a sequence of TFRecords (length as u64, masked CRC-32C of the
//! length, the bytes, masked CRC-32C of the bytes; all little-endian); each holds one protobuf message `Event`
//! (event.proto and summary.proto of TensorFlow): field 1 `wall_time` (double), 2 `step` (int64), and 3 `file_version`
//! (string, in the first record) or 5 `summary`, whose repeated field 1 is a value with 1 `tag` (string) and 2
//! `simple_value` (float).
//!
//! Scalars are `float`, so a value has about seven digits there; the CSV has all of them.

use super::Run;
use crate::error::{Error, Result};
use crate::events::Event;
use std::path::{Path, PathBuf};

/// Writes `DIR/<run>/events.out.tfevents.<seconds>.taper` for each run, and gives the files. A file that is there
/// already, of the same run, is replaced.
///
/// # Errors
/// If a file cannot be written.
pub fn write(runs: &[Run], dir: &Path) -> Result<Vec<PathBuf>> {
    runs.iter().map(|run| write_run(run, dir)).collect()
}

fn write_run(run: &Run, dir: &Path) -> Result<PathBuf> {
    // A name that is a path (two runs of one name) must not lead out of the folder.
    let name = run.name.replace(['/', '\\'], "-").replace("..", "-");
    let folder = dir.join(name.trim_start_matches('-'));
    std::fs::create_dir_all(&folder).map_err(Error::io("create", &folder))?;
    let began = run.log.start().and_then(|start| start.time).unwrap_or(0);
    super::write_whole(folder.join(format!("events.out.tfevents.{began}.taper")), &event_file(run, began as f64))
}

/// The bytes of a run's event file; `began` is in seconds since 1970.
fn event_file(run: &Run, began: f64) -> Vec<u8> {
    let mut file = Vec::new();
    let mut first = Vec::new();
    double(&mut first, 1, began);
    bytes(&mut first, 3, b"brain.Event:2");
    record(&mut file, &first);
    for event in &run.log.events {
        let (step, scalars): (u64, Vec<(String, f64)>) = match event {
            Event::Step(e) => {
                let known = |tag: &str, value: Option<f64>| value.map(|value| (tag.to_string(), value));
                let measured = |value: f64| (!value.is_nan()).then_some(value);
                let scalars = [
                    known("loss/train", Some(e.loss)),
                    known("optimizer/learning_rate", Some(e.lr)),
                    known("optimizer/grad_norm", Some(e.grad_norm)),
                    known("optimizer/grad_norm_clipped", Some(e.grad_norm_clipped)),
                    known("speed/tokens_per_s", measured(e.tokens_per_s)),
                    known("speed/mfu", e.mfu),
                    known("progress/tokens", Some(e.tokens as f64)),
                ];
                (e.step, scalars.into_iter().flatten().collect())
            }
            Event::Eval(e) => (e.step, vec![(format!("loss/{}", e.split), e.loss)]),
            Event::Task(e) => (e.step, e.metrics.iter().map(|m| (format!("{}/{}", e.task, m.name), m.value)).collect()),
            _ => continue,
        };
        let mut summary = Vec::new();
        for (tag, value) in scalars {
            let mut entry = Vec::new();
            bytes(&mut entry, 1, tag.as_bytes());
            // Wire type 5: four bytes.
            varint(&mut entry, 2 << 3 | 5);
            entry.extend((value as f32).to_le_bytes());
            bytes(&mut summary, 1, &entry);
        }
        let mut message = Vec::new();
        double(&mut message, 1, began + run.seconds_at(step).unwrap_or(0.0));
        varint(&mut message, 2 << 3);
        varint(&mut message, step);
        bytes(&mut message, 5, &summary);
        record(&mut file, &message);
    }
    file
}

/// Appends a TFRecord.
fn record(file: &mut Vec<u8>, message: &[u8]) {
    let length = (message.len() as u64).to_le_bytes();
    file.extend(length);
    file.extend(masked(&length).to_le_bytes());
    file.extend(message);
    file.extend(masked(message).to_le_bytes());
}

/// The checksum of TFRecords: CRC-32C, rotated and shifted so that a checksum of data that holds checksums stays sound.
fn masked(bytes: &[u8]) -> u32 {
    crc32c::crc32c(bytes).rotate_right(15).wrapping_add(0xA282_EAD8)
}

fn varint(out: &mut Vec<u8>, mut value: u64) {
    while value >= 0x80 {
        out.push(value as u8 | 0x80);
        value >>= 7;
    }
    out.push(value as u8);
}

/// A field of wire type 1: eight bytes.
fn double(out: &mut Vec<u8>, field: u64, value: f64) {
    varint(out, field << 3 | 1);
    out.extend(value.to_le_bytes());
}

/// A field of wire type 2: bytes with their length.
fn bytes(out: &mut Vec<u8>, field: u64, value: &[u8]) {
    varint(out, field << 3 | 2);
    varint(out, value.len() as u64);
    out.extend(value);
}
