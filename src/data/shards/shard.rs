//! Token shards on disk: three layouts, read through memory maps and written whole or not at all.
//!
//! | layout | header | tokens |
//! |---|---|---|
//! | llm.c / modded-nanogpt | 256 int32, little-endian: 20240520, 1, token count | uint16 |
//! | llm.c, large vocabularies | 256 int32, little-endian: 20240801, 7, token count | uint32 |
//! | nanoGPT | none | uint16 |
//!
//! We write the first two, so that shards made here work there, and the published FineWeb shards work here. The count in
//! the header must agree with the size of the file to the byte: every truncation and most corruptions show on opening,
//! without reading the tokens. What size cannot show, the checksums of a manifest do.

use std::fs::File;
use std::io::{BufWriter, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};

use memmap2::Mmap;
use xxhash_rust::xxh3::Xxh3;

use crate::error::{Error, Result};

const HEADER_WORDS: usize = 256;
const HEADER_BYTES: usize = 4 * HEADER_WORDS;
const MAGIC_U16: i32 = 20_240_520;
const VERSION_U16: i32 = 1;
const MAGIC_U32: i32 = 20_240_801;
const VERSION_U32: i32 = 7;

/// The most tokens a shard may hold: the header counts them in a signed 32-bit word.
pub const MAX_SHARD_TOKENS: u64 = (1 << 31) - 1;

/// How the tokens of a shard are laid out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Layout {
    /// llm.c and modded-nanogpt: a header, then uint16.
    LlmcU16,
    /// llm.c for vocabularies beyond 65,536: a header, then uint32.
    LlmcU32,
    /// nanoGPT's `train.bin` and `val.bin`: uint16 and nothing else.
    NanoGpt,
}

impl Layout {
    /// The layout that is written for a vocabulary.
    pub fn for_vocab(vocab_size: usize) -> Layout {
        if vocab_size <= 1 << 16 { Layout::LlmcU16 } else { Layout::LlmcU32 }
    }

    /// Bytes of a token.
    pub fn token_bytes(self) -> usize {
        if self == Layout::LlmcU32 { 4 } else { 2 }
    }

    /// Bytes before the first token.
    pub fn header_bytes(self) -> usize {
        if self == Layout::NanoGpt { 0 } else { HEADER_BYTES }
    }

    /// The name of the token type, as manifests record it.
    pub fn dtype(self) -> &'static str {
        if self == Layout::LlmcU32 { "uint32" } else { "uint16" }
    }
}

/// Which layouts are expected when a shard is opened (`data.format`).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum ShardFormat {
    /// By the header; files called train.bin or val.bin without one are nanoGPT's.
    #[default]
    Auto,
    /// With llm.c's header.
    Llmc,
    /// Headerless uint16, whatever the name.
    NanoGpt,
}

/// An open shard: its tokens are mapped, not read.
#[derive(Debug)]
pub struct Shard {
    path: PathBuf,
    layout: Layout,
    tokens: u64,
    map: Option<Mmap>,
}

impl Shard {
    /// Opens a shard and checks its header against its size.
    ///
    /// # Errors
    /// `Data` names what is wrong: foreign magic, unknown version, impossible count, too short or too long, odd length.
    pub fn open(path: &Path, format: ShardFormat) -> Result<Shard> {
        let file = File::open(path).map_err(Error::io("read", path))?;
        let meta = file.metadata().map_err(Error::io("read", path))?;
        if !meta.is_file() {
            return Err(Error::data(path, "this is not a file, so it is no token shard"));
        }
        let map = if meta.len() == 0 {
            None
        } else {
            // SAFETY: the map is read-only and private to this struct. The one hazard of a file map is that another process
            // truncates the file while it is read (a bus error, not a wrong answer); shards are written under a temporary
            // name and renamed, so no program of ours ever changes one in place.
            Some(unsafe { Mmap::map(&file) }.map_err(Error::io("map", path))?)
        };
        let bytes = map.as_deref().unwrap_or_default();
        let (layout, tokens) = parse_header(path, bytes, format)?;
        Ok(Shard { path: path.to_path_buf(), layout, tokens, map })
    }

    /// The file.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// How its tokens are laid out.
    pub fn layout(&self) -> Layout {
        self.layout
    }

    /// How many tokens it holds.
    pub fn tokens(&self) -> u64 {
        self.tokens
    }

    /// The bytes of the tokens.
    pub fn payload(&self) -> &[u8] {
        self.map.as_deref().map_or(&[], |map| &map[self.layout.header_bytes()..])
    }

    /// Copies the tokens from `at` on into `out`.
    ///
    /// # Panics
    /// If the shard has fewer than `at + out.len()` tokens.
    pub fn read(&self, at: u64, out: &mut [u32]) {
        let size = self.layout.token_bytes();
        let start = at as usize * size;
        let bytes = &self.payload()[start..start + out.len() * size];
        if size == 2 {
            for (token, pair) in out.iter_mut().zip(bytes.chunks_exact(2)) {
                *token = u32::from(u16::from_le_bytes([pair[0], pair[1]]));
            }
        } else {
            for (token, word) in out.iter_mut().zip(bytes.chunks_exact(4)) {
                *token = u32::from_le_bytes([word[0], word[1], word[2], word[3]]);
            }
        }
    }

    /// The checksum that manifests record: XXH3 (64 bits) of the token bytes, in hexadecimal.
    pub fn checksum(&self) -> String {
        format!("{:016x}", xxhash_rust::xxh3::xxh3_64(self.payload()))
    }

    /// How often `token` occurs.
    pub fn count(&self, token: u32) -> u64 {
        let mut block = vec![0u32; 1 << 16];
        let (mut at, mut count) = (0, 0);
        while at < self.tokens {
            let len = (self.tokens - at).min(block.len() as u64) as usize;
            self.read(at, &mut block[..len]);
            count += block[..len].iter().filter(|&&id| id == token).count() as u64;
            at += len as u64;
        }
        count
    }
}

fn parse_header(path: &Path, bytes: &[u8], format: ShardFormat) -> Result<(Layout, u64)> {
    let wrong = |message: String| Err(Error::data(path, message));
    let word = |i: usize| bytes.get(4 * i..4 * i + 4).map(|b| i32::from_le_bytes([b[0], b[1], b[2], b[3]]));
    let magic = word(0).filter(|&word| word == MAGIC_U16 || word == MAGIC_U32);
    let called_nanogpt = matches!(path.file_name().and_then(|name| name.to_str()), Some("train.bin" | "val.bin"));
    // 20240520 and 20240801 read as uint16 begin with 55432 and 55713: no GPT-2 token, so a header is never mistaken.
    if format == ShardFormat::NanoGpt || (format == ShardFormat::Auto && magic.is_none() && called_nanogpt) {
        if !bytes.len().is_multiple_of(2) {
            return wrong(format!("{} bytes is no whole number of uint16 tokens: the file is truncated", bytes.len()));
        }
        return Ok((Layout::NanoGpt, bytes.len() as u64 / 2));
    }
    if bytes.len() < HEADER_BYTES {
        let have = bytes.len();
        return wrong(format!(
            "{have} bytes is less than the {HEADER_BYTES} of a shard's header: the file is truncated"
        ));
    }
    let Some(magic) = magic else {
        return wrong(format!(
            "not a token shard: it begins with {}, not with the magic number {MAGIC_U16} (uint16) or {MAGIC_U32} (uint32); \
             if it is nanoGPT's headerless format, say data.format = \"nanogpt\"",
            word(0).unwrap_or_default()
        ));
    };
    let (layout, expected) =
        if magic == MAGIC_U16 { (Layout::LlmcU16, VERSION_U16) } else { (Layout::LlmcU32, VERSION_U32) };
    let version = word(1).unwrap_or_default();
    if version != expected {
        return wrong(format!(
            "shard version {version} with magic {magic} is unknown; version {expected} is what can be read"
        ));
    }
    let count = word(2).unwrap_or_default();
    let Ok(tokens) = u64::try_from(count) else {
        return wrong(format!("the header promises {count} tokens: it is damaged"));
    };
    let promised = HEADER_BYTES as u64 + tokens * layout.token_bytes() as u64;
    let actual = bytes.len() as u64;
    if actual != promised {
        let what = if actual < promised { "the file is truncated" } else { "the file is damaged or was written twice" };
        return wrong(format!(
            "the header promises {tokens} tokens ({promised} bytes), but there are {actual} bytes: {what}"
        ));
    }
    Ok((layout, tokens))
}

/// Writes a shard under a temporary name; [`ShardWriter::finish`] makes it appear, whole, under its own.
pub struct ShardWriter {
    path: PathBuf,
    temporary: PathBuf,
    file: BufWriter<File>,
    layout: Layout,
    tokens: u64,
    hash: Xxh3,
    bytes: Vec<u8>,
    /// How many bytes the disk was asked to begin with.
    started: u64,
}

/// After so many bytes the disk is asked to begin with them.
const START_BYTES: u64 = 8 << 20;

impl ShardWriter {
    /// Begins a shard in a layout with a header.
    pub fn create(path: &Path, layout: Layout) -> Result<ShardWriter> {
        let temporary = temporary_name(path);
        let file = File::create(&temporary).map_err(Error::io("create", &temporary))?;
        let mut file = BufWriter::with_capacity(1 << 20, file);
        file.write_all(&vec![0; layout.header_bytes()]).map_err(Error::io("write", &temporary))?;
        let path = path.to_path_buf();
        Ok(ShardWriter { path, temporary, file, layout, tokens: 0, hash: Xxh3::new(), bytes: Vec::new(), started: 0 })
    }

    /// How many tokens were written so far.
    pub fn tokens(&self) -> u64 {
        self.tokens
    }

    /// Appends tokens, which must fit the layout and [`MAX_SHARD_TOKENS`].
    pub fn write(&mut self, tokens: &[u32]) -> Result<()> {
        self.bytes.clear();
        if self.layout.token_bytes() == 2 {
            debug_assert!(tokens.iter().all(|&token| token <= u32::from(u16::MAX)));
            self.bytes.resize(2 * tokens.len(), 0);
            let (pairs, _) = self.bytes.as_chunks_mut();
            pairs.iter_mut().zip(tokens).for_each(|(bytes, &token)| *bytes = (token as u16).to_le_bytes());
        } else {
            self.bytes.resize(4 * tokens.len(), 0);
            let (words, _) = self.bytes.as_chunks_mut();
            words.iter_mut().zip(tokens).for_each(|(bytes, token)| *bytes = token.to_le_bytes());
        }
        self.hash.update(&self.bytes);
        self.tokens += tokens.len() as u64;
        self.file.write_all(&self.bytes).map_err(Error::io("write", &self.temporary))?;
        let written = self.tokens * self.layout.token_bytes() as u64;
        if written >= self.started + START_BYTES {
            start_writing(self.file.get_ref(), self.started, written - self.started);
            self.started = written;
        }
        Ok(())
    }

    /// Writes the header, forces everything to the disk and gives the file its name. Returns the checksum of the tokens.
    pub fn finish(mut self) -> Result<String> {
        let failed = |error| Error::io("write", &self.temporary)(error);
        if self.layout != Layout::NanoGpt {
            let (magic, version) =
                if self.layout == Layout::LlmcU16 { (MAGIC_U16, VERSION_U16) } else { (MAGIC_U32, VERSION_U32) };
            let count = i32::try_from(self.tokens)
                .map_err(|_| Error::data(&self.path, "a shard holds fewer than 2^31 tokens; write smaller shards"))?;
            let header: Vec<u8> = [magic, version, count].iter().flat_map(|word| word.to_le_bytes()).collect();
            self.file.seek(SeekFrom::Start(0)).map_err(failed)?;
            self.file.write_all(&header).map_err(failed)?;
        }
        self.file.flush().map_err(failed)?;
        self.file.get_ref().sync_all().map_err(failed)?;
        std::fs::rename(&self.temporary, &self.path).map_err(Error::io("write", &self.path))?;
        Ok(format!("{:016x}", self.hash.digest()))
    }
}

/// Asks the disk to begin with a part of a file, without waiting: the end of the file then has little left to wait for,
/// and the processor continues meanwhile. Only a hint: what is not begun here, or fails, is seen to by the `sync_all`
/// at the end.
#[cfg(target_os = "linux")]
fn start_writing(file: &File, offset: u64, bytes: u64) {
    use std::os::fd::AsRawFd;
    // SAFETY: the descriptor is open while `file` is borrowed, and no memory is passed.
    unsafe { libc::sync_file_range(file.as_raw_fd(), offset as i64, bytes as i64, libc::SYNC_FILE_RANGE_WRITE) };
}

#[cfg(not(target_os = "linux"))]
fn start_writing(_: &File, _: u64, _: u64) {}

/// The name under which a file of ours is written before it is whole: hidden, and matched by no `*.bin`.
pub(in crate::data) fn temporary_name(path: &Path) -> PathBuf {
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    path.with_file_name(format!(".{name}.tmp"))
}

/// Writes a small file whole or not at all: temporary name, forced to disk, renamed.
pub(in crate::data) fn write_whole(path: &Path, bytes: &[u8]) -> Result<()> {
    let temporary = temporary_name(path);
    let write = || {
        let mut file = File::create(&temporary)?;
        file.write_all(bytes)?;
        file.sync_all()
    };
    write().map_err(Error::io("write", &temporary))?;
    std::fs::rename(&temporary, path).map_err(Error::io("write", path))
}
