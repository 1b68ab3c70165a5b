//! Reading text: documents in order, in pieces, with memory bounded whatever the input.
//!
//! A plain file is one document; in JSON lines every line is one, in Parquet every row. A document longer than a piece
//! comes in several, cut where GPT-2's pattern cannot see the cut (see `crate::data::pieces`). Documents without any
//! text are passed over. Plain files are streamed through a buffer of a few pieces; a line of JSON is held whole (at most
//! [`MAX_LINE_BYTES`](crate::data::text::jsonl::MAX_LINE_BYTES)), and so is a page of a Parquet column.

pub mod corpus;
pub mod inputs;
pub mod jsonl;
mod parquet;
pub mod pieces;
mod reader;

use std::fs::File;
use std::io::{BufReader, Read};
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use crate::data::text::inputs::{Compression, Format, Source};
use crate::data::text::jsonl::LineReader;
use crate::data::text::parquet::ParquetReader;
use crate::data::text::pieces::{PIECE_BYTES, next_cut};
use crate::data::text::reader::{Reader, read_error};
use crate::error::{Error, Result};

/// How text is read.
#[derive(Clone, Debug)]
pub struct TextOptions {
    /// The field of JSON lines, or column of Parquet, that holds the text.
    pub text_column: String,
    /// Documents longer than this many bytes come in pieces; `usize::MAX` keeps every document whole.
    pub piece_bytes: usize,
    /// Special tokens spelled out in the text will be looked for, so they must not be cut.
    pub parse_special: bool,
}

impl Default for TextOptions {
    fn default() -> Self {
        TextOptions { text_column: "text".into(), piece_bytes: PIECE_BYTES, parse_special: false }
    }
}

/// A document, or a part of a long one. Never empty.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Piece {
    /// The text.
    pub text: String,
    /// Whether a document begins here; otherwise the piece continues the one before.
    pub starts_document: bool,
    /// Which of [`Documents::sources`] it is from.
    pub source: usize,
    /// The number of this piece within its source, from 0.
    pub piece: u64,
    /// Where it begins: the line (from 1) of JSON lines, the row (from 0) of Parquet, the byte of (unpacked) plain text.
    pub place: u64,
}

/// The documents of some inputs, in order, as an iterator of pieces.
pub struct Documents {
    sources: Vec<Source>,
    options: TextOptions,
    next_source: usize,
    next_piece: u64,
    reader: Option<Box<dyn Reader>>,
    /// A long document, what of it was given out already, and its place.
    rest: Option<(String, usize, u64)>,
    consumed: Arc<AtomicU64>,
}

impl Documents {
    /// Finds the files behind `inputs` (files, folders, globs, or the word `cargo-sources`); see [`inputs::resolve`].
    pub fn open(inputs: &[String], options: &TextOptions) -> Result<Documents> {
        Ok(Documents::of(inputs::resolve(inputs)?, options))
    }

    /// The documents of sources that were found before.
    pub fn of(sources: Vec<Source>, options: &TextOptions) -> Documents {
        Documents {
            sources,
            options: options.clone(),
            next_source: 0,
            next_piece: 0,
            reader: None,
            rest: None,
            consumed: Arc::default(),
        }
    }

    /// The files, in the order in which they are read.
    pub fn sources(&self) -> &[Source] {
        &self.sources
    }

    /// The size of all files on disk, in bytes.
    pub fn total_bytes(&self) -> u64 {
        self.sources.iter().map(|source| source.bytes).sum()
    }

    /// How many of those bytes were read so far (an estimate within Parquet files).
    pub fn consumed_bytes(&self) -> u64 {
        self.consumed.load(Ordering::Relaxed)
    }

    /// Continues from a piece of a source: earlier sources are not read, earlier pieces are read and passed over.
    pub fn skip_to(&mut self, source: usize, piece: u64) -> Result<()> {
        self.consumed.store(self.sources[..source].iter().map(|s| s.bytes).sum(), Ordering::Relaxed);
        (self.next_source, self.next_piece, self.reader, self.rest) = (source, 0, None, None);
        while self.next_source == source && self.next_piece < piece {
            // Ends early only if the source has no more pieces; the cursor then stands at the next source.
            if self.next_of_source()?.is_none() {
                self.finish_source();
            }
        }
        Ok(())
    }

    fn finish_source(&mut self) {
        // Its reader goes first: a file that is open may not be removable.
        self.reader = None;
        if let Some(remote) = self.sources.get(self.next_source).and_then(|source| source.remote.as_ref()) {
            remote.release();
        }
        self.next_source += 1;
        (self.next_piece, self.reader, self.rest) = (0, None, None);
        let done = self.sources[..self.next_source].iter().map(|source| source.bytes).sum();
        self.consumed.store(done, Ordering::Relaxed);
    }

    /// The next piece of the current source, `None` at its end.
    fn next_of_source(&mut self) -> Result<Option<Piece>> {
        let (text, starts_document, place) = match self.rest.take() {
            Some((document, from, place)) => (self.cut(document, from, place), false, place),
            None => {
                if self.reader.is_none() {
                    self.reader = Some(open(&self.sources[self.next_source], &self.options, &self.consumed)?);
                }
                match self.reader.as_mut().map_or(Ok(None), |reader| reader.next_text())? {
                    None => return Ok(None),
                    Some((text, starts, place)) => (self.cut(text, 0, place), starts, place),
                }
            }
        };
        let piece = self.next_piece;
        self.next_piece += 1;
        Ok(Some(Piece { text, starts_document, source: self.next_source, piece, place }))
    }

    /// The next piece of a document, keeping the rest for later.
    fn cut(&mut self, document: String, from: usize, place: u64) -> String {
        let end = next_cut(&document[from..], self.options.piece_bytes, true, self.options.parse_special);
        let end = from + end.unwrap_or(document.len() - from);
        if from == 0 && end == document.len() {
            return document;
        }
        let text = document[from..end].to_string();
        if end < document.len() {
            self.rest = Some((document, end, place));
        }
        text
    }
}

impl Iterator for Documents {
    type Item = Result<Piece>;

    fn next(&mut self) -> Option<Result<Piece>> {
        while self.next_source < self.sources.len() {
            match self.next_of_source() {
                Ok(Some(piece)) => return Some(Ok(piece)),
                Ok(None) => self.finish_source(),
                Err(error) => {
                    // An error ends the iteration: what follows it could not be in its right place.
                    self.next_source = self.sources.len();
                    return Some(Err(error));
                }
            }
        }
        None
    }
}

/// The lines of a file of JSON lines.
///
/// # Errors
/// If it cannot be opened.
pub(in crate::data) fn json_lines(source: &Source) -> Result<LineReader> {
    let path = &source.path;
    let here = source.remote.as_ref().map(|remote| remote.fetch()).transpose()?;
    let here = here.as_ref().unwrap_or(path);
    let file = File::open(here).map_err(Error::io("read", here))?;
    Ok(LineReader::new(path, unpacked(source, file, &Arc::default())?, ""))
}

/// The content of a file that may be compressed.
fn unpacked(source: &Source, file: File, consumed: &Arc<AtomicU64>) -> Result<Box<dyn Read + Send>> {
    let counted = BufReader::with_capacity(256 << 10, Counted { file, consumed: consumed.clone() });
    Ok(match source.compression {
        Compression::None => Box::new(counted),
        Compression::Gzip => Box::new(flate2::bufread::MultiGzDecoder::new(counted)),
        Compression::Zstd => {
            Box::new(zstd::stream::read::Decoder::with_buffer(counted).map_err(Error::io("read", &source.path))?)
        }
    })
}

fn open(source: &Source, options: &TextOptions, consumed: &Arc<AtomicU64>) -> Result<Box<dyn Reader>> {
    let path = &source.path;
    let here = source.remote.as_ref().map(|remote| remote.fetch()).transpose()?;
    let here = here.as_ref().unwrap_or(path);
    let file = File::open(here).map_err(Error::io("read", here))?;
    if source.format == Format::Parquet {
        return Ok(Box::new(ParquetReader::open(path, file, &options.text_column, source.bytes, consumed.clone())?));
    }
    let input = unpacked(source, file, consumed)?;
    Ok(match source.format {
        Format::JsonLines => Box::new(LineReader::new(path, input, &options.text_column)),
        _ => Box::new(PlainReader {
            input,
            path: path.clone(),
            piece_bytes: options.piece_bytes,
            special: options.parse_special,
            raw: Vec::new(),
            text: String::new(),
            given: 0,
            read: 0,
            ended: false,
        }),
    })
}

/// Counts the bytes read from a file, for progress.
struct Counted {
    file: File,
    consumed: Arc<AtomicU64>,
}

impl Read for Counted {
    fn read(&mut self, buffer: &mut [u8]) -> std::io::Result<usize> {
        let count = self.file.read(buffer)?;
        self.consumed.fetch_add(count as u64, Ordering::Relaxed);
        Ok(count)
    }
}

/// A plain file: one document, streamed.
struct PlainReader {
    input: Box<dyn Read + Send>,
    path: PathBuf,
    piece_bytes: usize,
    special: bool,
    /// Bytes read but not yet decoded: at most the head of a character, between calls.
    raw: Vec<u8>,
    text: String,
    /// Bytes of text given out so far, and bytes decoded so far.
    given: u64,
    read: u64,
    ended: bool,
}

impl Reader for PlainReader {
    fn next_text(&mut self) -> Result<Option<(String, bool, u64)>> {
        loop {
            if let Some(cut) = next_cut(&self.text, self.piece_bytes, self.ended, self.special) {
                if cut == 0 {
                    return Ok(None);
                }
                let rest = self.text.split_off(cut);
                let piece = std::mem::replace(&mut self.text, rest);
                let place = self.given;
                self.given += piece.len() as u64;
                return Ok(Some((piece, place == 0, place)));
            }
            self.fill()?;
        }
    }
}

impl PlainReader {
    /// Reads and decodes some more.
    fn fill(&mut self) -> Result<()> {
        let have = self.raw.len();
        self.raw.resize(have + (256 << 10), 0);
        let count = loop {
            match self.input.read(&mut self.raw[have..]) {
                Err(error) if error.kind() == std::io::ErrorKind::Interrupted => {}
                other => break other.map_err(|error| read_error(&self.path, error))?,
            }
        };
        self.raw.truncate(have + count);
        self.ended = count == 0;
        let valid = match std::str::from_utf8(&self.raw) {
            Ok(text) => text,
            Err(error) if error.error_len().is_none() && !self.ended => {
                // A character continues in the next read; up to here all is valid.
                std::str::from_utf8(&self.raw[..error.valid_up_to()]).unwrap_or_default()
            }
            Err(error) => {
                let at = error.valid_up_to();
                return Err(Error::data(
                    &self.path,
                    format!(
                        "not UTF-8 text: byte {} (0x{:02x}) begins no valid character; convert the file to UTF-8 first",
                        self.read + at as u64,
                        self.raw[at]
                    ),
                ));
            }
        };
        let first = self.read == 0 && !valid.is_empty();
        self.text.push_str(if first { valid.strip_prefix('\u{feff}').unwrap_or(valid) } else { valid });
        let decoded = valid.len();
        self.read += decoded as u64;
        self.raw.drain(..decoded);
        Ok(())
    }
}
