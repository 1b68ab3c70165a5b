//! Following a log that is still being written.
//!
//! Each [`EventTail::poll`] reads what was appended since the last one, whole lines only: a line that is half there is
//! read when it is whole. A log that begins otherwise than before, or has become shorter, is another one (a run that
//! started from the beginning) and is read anew.

use super::log::{Damage, drop_superseded};
use super::{Class, Event, EventLog};
use crate::error::{Error, Result};
use std::fs::File;
use std::io::{Read, Seek, SeekFrom};
use std::path::{Path, PathBuf};

/// Bytes by which a log is known again: its first line tells the time.
const HEAD: usize = 512;

/// The log of a run that may continue.
#[derive(Debug)]
pub struct EventTail {
    path: PathBuf,
    head: Vec<u8>,
    offset: u64,
    lines: usize,
    log: EventLog,
    news: Vec<Event>,
}

impl EventTail {
    /// Follows a file that need not exist yet.
    pub fn new(path: impl AsRef<Path>) -> Self {
        let path = path.as_ref().to_path_buf();
        Self { path, head: Vec::new(), offset: 0, lines: 0, log: EventLog::default(), news: Vec::new() }
    }

    /// What counts so far.
    pub fn log(&self) -> &EventLog {
        &self.log
    }

    /// What the last [`EventTail::poll`] brought, as it was written: with what something later took back, without steps that
    /// were nothing out of the ordinary.
    pub fn news(&self) -> &[Event] {
        &self.news
    }

    /// Reads what is new, and says whether there was anything.
    ///
    /// # Errors
    /// If the file cannot be read, or a whole line in it is not an event. A file that is not there is empty.
    pub fn poll(&mut self) -> Result<bool> {
        self.news.clear();
        let mut file = match File::open(&self.path) {
            Ok(file) => file,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(self.forget()),
            Err(error) => return Err(Error::io("read", &self.path)(error)),
        };
        let mut head = Vec::new();
        let read = |file: &mut File, to: &mut Vec<u8>, most: u64| file.take(most).read_to_end(to).map(|_| ());
        read(&mut file, &mut head, HEAD as u64).map_err(Error::io("read", &self.path))?;
        let length = file.metadata().map_err(Error::io("read", &self.path))?.len();
        let other = length < self.offset || !head.starts_with(&self.head);
        let forgotten = other && self.forget();
        if length == self.offset {
            return Ok(forgotten);
        }
        let mut bytes = Vec::new();
        file.seek(SeekFrom::Start(self.offset))
            .and_then(|_| read(&mut file, &mut bytes, length - self.offset))
            .map_err(Error::io("read", &self.path))?;
        let whole = bytes.iter().rposition(|&byte| byte == b'\n').map_or(0, |at| at + 1);
        if whole == 0 {
            return Ok(forgotten);
        }
        let known = self.log.events.len();
        let lines = self
            .log
            .extend(&bytes[..whole])
            .map_err(|damage| Damage { line: self.lines + damage.line, ..damage }.at(&self.path))?;
        self.offset += whole as u64;
        self.lines += lines;
        // The head must not reach into a line that is still being written, or may be cut off.
        self.head = head;
        self.head.truncate(self.offset.min(HEAD as u64) as usize);
        let ordinary =
            |event: &Event| matches!(event, Event::Step(e) if matches!(e.class, Class::Finite | Class::Clipped));
        self.news = self.log.events[known..].iter().filter(|event| !ordinary(event)).cloned().collect();
        // Each time anew: what a resume takes back may have been read long ago, and what is written once more at its step
        // comes after it.
        drop_superseded(&mut self.log.events);
        Ok(true)
    }

    /// Back to nothing; whether there was anything.
    fn forget(&mut self) -> bool {
        let had = self.offset > 0;
        *self = Self::new(std::mem::take(&mut self.path));
        had
    }
}
