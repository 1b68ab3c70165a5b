//! Writing the log: lines collected in memory, handed to the file whole lines at a time.
//!
//! Unusual: the buffer is our own rather than a `BufWriter`, so that after a failed write (a full disk) exactly what the
//! file has not yet taken stays in the buffer. A caller that frees space and flushes again leaves no torn line and no gap.

use super::Event;
use crate::error::{Error, Result};
use std::fs::{File, OpenOptions};
use std::io::{ErrorKind, Read, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};

/// Bytes collected before they are handed to the file: a few hundred steps, and one system call.
const FLUSH_AT: usize = 64 << 10;

/// Appends events to an `events.jsonl`.
///
/// A written event is in memory until [`flush`](Self::flush), or until 64 KiB have come together. Call `flush` whenever
/// a reader should see what happened, and [`sync`](Self::sync) before a checkpoint is made visible, so that the log never
/// ends before the state that training continues from.
#[derive(Debug)]
pub struct EventWriter {
    file: File,
    path: PathBuf,
    buffer: Vec<u8>,
}

impl EventWriter {
    /// Starts a new log.
    ///
    /// # Errors
    /// If the file cannot be created, or holds something already: a record is never overwritten.
    pub fn create(path: impl AsRef<Path>) -> Result<Self> {
        let path = path.as_ref();
        let file = OpenOptions::new().append(true).create(true).open(path).map_err(Error::io("create", path))?;
        if file.metadata().map_err(Error::io("read", path))?.len() > 0 {
            return Err(Error::usage(format!(
                "{} already holds the record of a run; continue with --resume, or choose another run folder",
                path.display()
            )));
        }
        Ok(Self { file, path: path.to_path_buf(), buffer: Vec::with_capacity(2 * FLUSH_AT) })
    }

    /// Continues with a log, or starts it where there is none. A torn last line is cut off; nothing else is dropped.
    ///
    /// # Errors
    /// If the file cannot be read or written.
    pub fn append_to(path: impl AsRef<Path>) -> Result<Self> {
        let path = path.as_ref();
        let mut file = OpenOptions::new()
            .read(true)
            .write(true)
            .create(true)
            .truncate(false)
            .open(path)
            .map_err(Error::io("open", path))?;
        let (end_of_lines, tail) = last_line(&mut file).map_err(Error::io("read", path))?;
        let mut buffer = Vec::with_capacity(2 * FLUSH_AT);
        if super::log::is_whole(&tail) {
            // Only the newline is missing (an editor may have taken it): the record counts.
            buffer.push(b'\n');
        } else if !tail.is_empty() {
            file.set_len(end_of_lines).map_err(Error::io("write", path))?;
        }
        file.seek(SeekFrom::End(0)).map_err(Error::io("write", path))?;
        Ok(Self { file, path: path.to_path_buf(), buffer })
    }

    /// The file that is written.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Appends one event.
    ///
    /// # Errors
    /// If the collected lines cannot be written. They are kept, this event included, and written by the next flush.
    pub fn write(&mut self, event: &Event) -> Result<()> {
        let whole = self.buffer.len();
        if let Err(error) = serde_json::to_writer(&mut self.buffer, event) {
            self.buffer.truncate(whole);
            return Err(Error::data(&self.path, format!("an event cannot be written as JSON: {error}")));
        }
        self.buffer.push(b'\n');
        if self.buffer.len() >= FLUSH_AT { self.flush() } else { Ok(()) }
    }

    /// Hands all collected lines to the operating system: they survive the end of this process, however it ends.
    ///
    /// # Errors
    /// If the file takes no more (a full disk). What it has not taken is kept for the next flush.
    pub fn flush(&mut self) -> Result<()> {
        let mut done = 0;
        let outcome = loop {
            if done == self.buffer.len() {
                break Ok(());
            }
            match self.file.write(&self.buffer[done..]) {
                Ok(0) => break Err(std::io::Error::from(ErrorKind::WriteZero)),
                Ok(n) => done += n,
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(error) => break Err(error),
            }
        };
        self.buffer.drain(..done);
        outcome.map_err(Error::io("write", &self.path))
    }

    /// Flushes, and waits until the disk has it: it survives a power cut too.
    ///
    /// # Errors
    /// As [`flush`](Self::flush).
    pub fn sync(&mut self) -> Result<()> {
        self.flush()?;
        self.file.sync_data().map_err(Error::io("write", &self.path))
    }
}

impl Drop for EventWriter {
    fn drop(&mut self) {
        // Nobody is left to hear of a failure; who cares calls `flush` before.
        let _ = self.flush();
    }
}

/// What follows the last newline, and where it begins. Reads backwards in blocks: logs are long and lines are short.
fn last_line(file: &mut File) -> std::io::Result<(u64, Vec<u8>)> {
    const BLOCK: u64 = 16 << 10;
    let mut begin = file.seek(SeekFrom::End(0))?;
    let mut tail = Vec::new();
    while begin > 0 {
        let size = BLOCK.min(begin);
        begin -= size;
        file.seek(SeekFrom::Start(begin))?;
        let mut block = vec![0; size as usize];
        file.read_exact(&mut block)?;
        if let Some(newline) = block.iter().rposition(|&byte| byte == b'\n') {
            let after = block.split_off(newline + 1);
            return Ok((begin + newline as u64 + 1, [after, tail].concat()));
        }
        tail = [block, tail].concat();
    }
    Ok((0, tail))
}
