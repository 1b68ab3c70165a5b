//! Reading the log: fast, forgiving of a torn end, strict about everything before it.
//!
//! The bytes are cut into pieces at line ends and parsed in parallel; a million steps take about a second. What a resumed
//! run superseded is dropped here, so that nobody downstream needs to think of it.

use super::{Checkpoint, End, Eval, Event, Nonfinite, Ranks, Resume, Rollback, Sample, Spike, Start, Step, Task};
use crate::error::{Error, Result};
use rayon::prelude::*;
use serde::Deserialize;
use std::borrow::Cow;
use std::path::Path;

/// The events of a run that count, in the order of writing.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct EventLog {
    /// The events, without those that a `resume` superseded.
    pub events: Vec<Event>,
    /// Whether the file ended in a torn line, as a killed process leaves it.
    pub torn: bool,
    /// Number of events of kinds that this version does not know; they are passed over.
    pub unknown: usize,
}

impl EventLog {
    /// Reads an `events.jsonl`.
    ///
    /// # Errors
    /// If the file cannot be read, or a line before the end is not an event (named by its number).
    pub fn read(path: impl AsRef<Path>) -> Result<Self> {
        let path = path.as_ref();
        let bytes = std::fs::read(path).map_err(Error::io("read", path))?;
        Self::parse(&bytes).map_err(|damage| damage.at(path))
    }

    /// Reads the text of a log.
    fn parse(bytes: &[u8]) -> Result<Self, Damage> {
        let end_of_lines = bytes.iter().rposition(|&byte| byte == b'\n').map_or(0, |at| at + 1);
        let (lines, tail) = bytes.split_at(end_of_lines);
        let mut log = EventLog::default();
        let line_count = log.extend(lines)?;
        if is_whole(tail) {
            match parse_line(tail) {
                Ok(Some(event)) => log.events.push(event),
                Ok(None) => log.unknown += 1,
                Err(what) => return Err(Damage { line: line_count + 1, what }),
            }
        } else {
            log.torn = !tail.is_empty();
        }
        drop_superseded(&mut log.events);
        Ok(log)
    }

    /// Appends the events of whole lines as they stand, and gives the number of lines.
    pub(super) fn extend(&mut self, lines: &[u8]) -> Result<usize, Damage> {
        let pieces: Vec<Result<Piece, Damage>> = pieces(lines).into_par_iter().map(parse_piece).collect();
        self.events.reserve(pieces.iter().flatten().map(|piece| piece.events.len()).sum::<usize>() + 1);
        let mut line_count = 0;
        for piece in pieces {
            let piece = piece.map_err(|damage| Damage { line: line_count + damage.line, ..damage })?;
            line_count += piece.lines;
            self.unknown += piece.unknown;
            self.events.extend(piece.events);
        }
        Ok(line_count)
    }

    /// The optimizer steps.
    pub fn steps(&self) -> impl Iterator<Item = &Step> {
        self.events.iter().filter_map(|event| if let Event::Step(e) = event { Some(e) } else { None })
    }

    /// The losses over held-out splits.
    pub fn evals(&self) -> impl Iterator<Item = &Eval> {
        self.events.iter().filter_map(|event| if let Event::Eval(e) = event { Some(e) } else { None })
    }

    /// The scores of benchmarks.
    pub fn tasks(&self) -> impl Iterator<Item = &Task> {
        self.events.iter().filter_map(|event| if let Event::Task(e) = event { Some(e) } else { None })
    }

    /// The generated texts.
    pub fn samples(&self) -> impl Iterator<Item = &Sample> {
        self.events.iter().filter_map(|event| if let Event::Sample(e) = event { Some(e) } else { None })
    }

    /// The steps that were not finite, and what was done.
    pub fn nonfinites(&self) -> impl Iterator<Item = &Nonfinite> {
        self.events.iter().filter_map(|event| if let Event::Nonfinite(e) = event { Some(e) } else { None })
    }

    /// The jumps of the loss.
    pub fn spikes(&self) -> impl Iterator<Item = &Spike> {
        self.events.iter().filter_map(|event| if let Event::Spike(e) = event { Some(e) } else { None })
    }

    /// The checkpoints that were written (they may have been removed since).
    pub fn checkpoints(&self) -> impl Iterator<Item = &Checkpoint> {
        self.events.iter().filter_map(|event| if let Event::Checkpoint(e) = event { Some(e) } else { None })
    }

    /// The places where training went on.
    pub fn resumes(&self) -> impl Iterator<Item = &Resume> {
        self.events.iter().filter_map(|event| if let Event::Resume(e) = event { Some(e) } else { None })
    }

    /// The places where training went back after a spike.
    pub fn rollbacks(&self) -> impl Iterator<Item = &Rollback> {
        self.events.iter().filter_map(|event| if let Event::Rollback(e) = event { Some(e) } else { None })
    }

    /// The spreads of the ranks' times.
    pub fn ranks(&self) -> impl Iterator<Item = &Ranks> {
        self.events.iter().filter_map(|event| if let Event::Ranks(e) = event { Some(e) } else { None })
    }

    /// What the newest process set out to do.
    pub fn start(&self) -> Option<&Start> {
        self.events.iter().rev().find_map(|event| if let Event::Start(e) = event { Some(&**e) } else { None })
    }

    /// How the run ended; `None` while it continues, and when it was killed without a word.
    pub fn end(&self) -> Option<&End> {
        let newest = self.events.iter().rev().find(|e| matches!(e, Event::Start(_) | Event::Resume(_) | Event::End(_)));
        if let Some(Event::End(end)) = newest { Some(end) } else { None }
    }
}

/// A line that is not an event.
pub(super) struct Damage {
    /// Counted from 1.
    pub line: usize,
    pub what: String,
}

impl Damage {
    /// As an error about a file.
    pub fn at(self, path: &Path) -> Error {
        let Damage { line, what } = self;
        Error::data(
            path,
            format!(
                "line {line} is not an event ({what}); the file is damaged there: restore it from a copy, or remove that line"
            ),
        )
    }
}

struct Piece {
    events: Vec<Event>,
    lines: usize,
    unknown: usize,
}

/// Cuts at line ends into pieces of about equal size, several for each thread.
fn pieces(mut lines: &[u8]) -> Vec<&[u8]> {
    let size = (lines.len() / (4 * rayon::current_num_threads())).max(64 << 10);
    let mut pieces = Vec::new();
    while lines.len() > size {
        let Some(newline) = lines[size..].iter().position(|&byte| byte == b'\n') else { break };
        let (piece, rest) = lines.split_at(size + newline + 1);
        pieces.push(piece);
        lines = rest;
    }
    pieces.push(lines);
    pieces
}

fn parse_piece(bytes: &[u8]) -> Result<Piece, Damage> {
    let mut piece = Piece { events: Vec::with_capacity(bytes.len() / 160), lines: 0, unknown: 0 };
    for line in bytes.split_inclusive(|&byte| byte == b'\n') {
        piece.lines += 1;
        let line = line.trim_ascii();
        if line.is_empty() {
            continue;
        }
        match parse_line(line) {
            Ok(Some(event)) => piece.events.push(event),
            Ok(None) => piece.unknown += 1,
            Err(what) => return Err(Damage { line: piece.lines, what }),
        }
    }
    Ok(piece)
}

/// Parses one line; `None` for an event of an unknown kind.
fn parse_line(line: &[u8]) -> Result<Option<Event>, String> {
    #[derive(Deserialize)]
    struct Kind<'a> {
        #[serde(borrow)]
        event: Cow<'a, str>,
    }
    fn read<'a, T: Deserialize<'a>>(line: &'a [u8]) -> Result<T, String> {
        // serde_json says "at line 1 column 8"; the line is ours to count.
        serde_json::from_slice(line).map_err(|error| error.to_string().replace(" at line 1 column ", " at column "))
    }
    // serde would also take an array for a struct.
    if line.trim_ascii_start().first() != Some(&b'{') {
        return Err("not a JSON object".into());
    }
    // Nearly all lines are steps as our writer writes them: those need not be parsed twice.
    if line.starts_with(br#"{"event":"step","#) {
        return Ok(Some(Event::Step(read(line)?)));
    }
    let kind: Kind = read(line)?;
    Ok(Some(match &*kind.event {
        "start" => Event::Start(read(line)?),
        "step" => Event::Step(read(line)?),
        "eval" => Event::Eval(read(line)?),
        "task" => Event::Task(read(line)?),
        "sample" => Event::Sample(read(line)?),
        "nonfinite" => Event::Nonfinite(read(line)?),
        "spike" => Event::Spike(read(line)?),
        "checkpoint" => Event::Checkpoint(read(line)?),
        "resume" => Event::Resume(read(line)?),
        "rollback" => Event::Rollback(read(line)?),
        "ranks" => Event::Ranks(read(line)?),
        "end" => Event::End(read(line)?),
        _ => return Ok(None),
    }))
}

/// Whether the bytes after the last newline are a whole record all the same. No part of a JSON object is one itself,
/// so a record that was cut anywhere before its closing brace is never taken for whole.
pub(super) fn is_whole(tail: &[u8]) -> bool {
    tail.trim_ascii_start().first() == Some(&b'{') && serde_json::from_slice::<serde::de::IgnoredAny>(tail).is_ok()
}

/// Applies the `resume` events: a record beyond the step of a later `resume` goes, and so does a record *at* that step
/// which the resumed process wrote once more (as it does at step 0, when it had to start from the beginning). A
/// `rollback` takes back what lies beyond its step just so; a process that was resumed from before it writes it once
/// more, and the last one counts.
pub(super) fn drop_superseded(events: &mut Vec<Event>) {
    if !events.iter().any(|event| matches!(event, Event::Resume(_) | Event::Rollback(_))) {
        return;
    }
    let mut limit = u64::MAX; // the smallest step among the resumes and rollbacks that follow
    let mut latest = (u64::MAX, 0); // the smallest step met going backwards, and the kinds of records met at it
    let mut repeated = (u64::MAX, 0); // the step of the next resume, and the kinds that were written again at it
    let mut rollbacks = Vec::new(); // those met
    let mut keep = vec![true; events.len()];
    for (event, keep) in events.iter().zip(&mut keep).rev() {
        let Some(step) = event.step() else { continue };
        let kind = kind_bit(event);
        *keep = step <= limit && !(step == repeated.0 && repeated.1 & kind != 0);
        if !*keep {
            continue;
        }
        if let Event::Resume(_) = event {
            limit = step;
            repeated = (step, if latest.0 == step { latest.1 } else { 0 });
            continue;
        }
        if let Event::Rollback(rollback) = event {
            limit = step;
            // Positions in the data only grow within a run: the same one again is the same rollback again. The step is part
            // of it, so that what takes back the one takes back the other, and a log may be followed piece by piece.
            let this = (step, rollback.from, rollback.data.first_sequence);
            *keep = !rollbacks.contains(&this);
            rollbacks.push(this);
            continue;
        }
        if step == latest.0 {
            latest.1 |= kind;
        } else {
            latest = (step, kind);
        }
    }
    let mut keep = keep.into_iter();
    events.retain(|_| keep.next().unwrap_or(true));
}

/// One bit for each kind of record that a process may write again at the step it resumes from.
fn kind_bit(event: &Event) -> u8 {
    match event {
        Event::Step(_) => 1,
        Event::Eval(_) => 2,
        Event::Sample(_) => 4,
        Event::Nonfinite(_) => 8,
        Event::Spike(_) => 16,
        Event::Checkpoint(_) => 32,
        Event::Task(_) => 64,
        Event::Ranks(_) => 128,
        Event::Start(_) | Event::Resume(_) | Event::Rollback(_) | Event::End(_) => 0,
    }
}
