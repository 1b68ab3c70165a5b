//! Preparation: text in, token shards and a manifest out, streaming, on all cores, restartable.
//!
//! One thread reads, several encode, and the calling thread writes the ids in order (see `pipeline`).
//! So the bytes depend on neither the thread count nor the timing.
//!
//! The end-of-text token stands only *between* the documents of a split. The last `val_fraction` of the tokens is held out:
//! how many that is shows only at the end, so all tokens are first written as training shards, then the tail is copied
//! into validation shards, then cut off. A journal makes each of these steps repeatable after a
//! kill, and the manifest, written last, makes the folder valid.
//!
//! Memory: text and ids on their way from the reader to the disk are counted, and at most 32 MiB, or 4 MiB for each of more
//! than eight threads; add some pieces in the reader, the write buffer, 2.3 MiB of remembered words a thread and the
//! vocabulary, whatever the input's size. While the tail is cut off, the system maps the pages of one shard besides, and
//! takes them back when it needs them. What is held whole is a line of JSON, a page of a Parquet column, and, with
//! tokenizers that cannot be cut (see [`Encode::cuttable`]), a document; one that is more than the bound travels alone.

pub mod options;
mod pipeline;
mod split;

pub use options::PrepareOptions;

use std::path::Path;

use crate::data::Encode;
use crate::data::prepare::pipeline::{Budget, Encoded, JOB_BYTES, Job};
use crate::data::prepare::split::{SplitWriter, cut_of, hold_out, trim};
use crate::data::shards::journal::{Journal, Phase, lock, remove, sync_folder};
use crate::data::shards::manifest::{MANIFEST, Manifest, SourceRecord, TokenizerRecord};
use crate::data::shards::shard::{Layout, MAX_SHARD_TOKENS, Shard, ShardFormat};
use crate::data::shards::{ShardOptions, Shards, Split, bin_files};
use crate::data::text::inputs::{self, Source};
use crate::data::text::pieces::PIECE_BYTES;
use crate::data::text::{Documents, Piece, TextOptions};
use crate::error::{Error, Result, ResultExt};
use crate::ui::Ui;

/// Fills `options.out` with shards and a manifest, continuing where an interrupted preparation of the same inputs stopped. A
/// folder that is already complete is left as it is.
///
/// # Errors
/// `Usage` for contradictory options, missing inputs, or a folder that holds something else; `Data` for bad text; `Io`
/// when the disk is full or not writable (then the same call continues later).
pub fn prepare(options: &PrepareOptions, encoder: &dyn Encode, ui: &dyn Ui) -> Result<Manifest> {
    check(options)?;
    let train = inputs::resolve(&options.inputs)?;
    let val = options.val_inputs.as_deref().map(inputs::resolve).transpose()?.unwrap_or_default();
    prepare_sources(options, train, val, encoder, ui)
}

/// [`prepare`] for sources that are known already, remote ones among them; `options.inputs` and `val_inputs` are then only
/// their names in the manifest.
///
/// # Errors
/// As [`prepare`], and whatever fetching a remote source fails with.
pub fn prepare_sources(
    options: &PrepareOptions,
    train: Vec<Source>,
    val: Vec<Source>,
    encoder: &dyn Encode,
    ui: &dyn Ui,
) -> Result<Manifest> {
    check(options)?;
    if let Some(both) = val.iter().find(|v| train.iter().any(|t| t.path == v.path)) {
        let message = format!("{} is both training and validation text; name it once", both.path.display());
        return Err(Error::usage(message));
    }
    let out = &options.out;
    std::fs::create_dir_all(out).map_err(Error::io("create", out))?;
    let _lock = lock(out)?;
    let fingerprint = fingerprint(options, encoder, &[&train, &val])?;
    let mut journal = match begin(options, &fingerprint, ui)? {
        Begin::Complete(manifest) => return Ok(manifest),
        Begin::Work(journal) => journal,
    };
    if encoder.eot().is_none() {
        ui.info("this tokenizer has no end-of-text token: documents follow each other without a mark");
    }
    let work = Work { options, encoder, ui };
    let made = run(&work, &mut journal, &train, &val);
    match &made {
        // Whatever the system refused (a full disk, say), what was finished stands.
        Err(Error::Io { .. }) => made.context(|| {
            format!("preparing {} stopped (run the same again later: it continues where it was)", out.display())
        }),
        _ => made,
    }
}

/// All phases from where the journal stands to the manifest.
fn run(work: &Work, journal: &mut Journal, train: &Vec<Source>, val: &Vec<Source>) -> Result<Manifest> {
    let (options, encoder, out) = (work.options, work.encoder, &work.options.out);
    if journal.phase == Phase::Write {
        let total = [train, val].iter().flat_map(|sources| sources.iter()).map(|source| source.bytes).sum();
        let before = train.iter().map(|source| source.bytes).sum();
        work.split(journal, Split::Train, train, 0, total)?;
        work.split(journal, Split::Val, val, before, total)?;
        for (split, state, sources) in [("training", &journal.train, train), ("validation", &journal.val, val)] {
            if state.tokens == 0 && !sources.is_empty() {
                Journal::discard(out)?;
                return Err(Error::usage(format!(
                    "there is no {split} text: the {} input files are all empty",
                    sources.len()
                )));
            }
        }
        journal.cut = cut_of(options, encoder, &journal.train)?;
        journal.phase = if journal.cut.is_some() { Phase::Hold } else { Phase::Done };
        if journal.cut.is_some() {
            journal.save(out)?;
        }
    }
    if journal.phase == Phase::Hold {
        hold_out(options, encoder, journal)?;
        journal.phase = Phase::Trim;
        journal.save(out)?;
    }
    if journal.phase == Phase::Trim {
        trim(options, encoder, journal)?;
    }
    journal.phase = Phase::Done;
    let manifest = manifest(options, encoder, journal, [train, val]);
    manifest.save(out)?;
    journal.save(out)?;
    Ok(manifest)
}

fn check(options: &PrepareOptions) -> Result<()> {
    if !(0.0..1.0).contains(&options.val_fraction) {
        let message = format!("val_fraction is {}: it must be at least 0 and below 1", options.val_fraction);
        return Err(Error::usage(message));
    }
    if options.val_inputs.is_some() && options.val_fraction > 0.0 {
        return Err(Error::usage("validation text and a val_fraction were both given; choose one (val_fraction = 0)"));
    }
    if !(1..=MAX_SHARD_TOKENS).contains(&options.shard_tokens) {
        let message = format!("a shard holds from 1 to {MAX_SHARD_TOKENS} tokens, not {}", options.shard_tokens);
        return Err(Error::usage(message));
    }
    Ok(())
}

/// A hash of everything that decides the tokens. The times of the files are in it, so that an edited file of the same
/// length is noticed; it stands in the journal only, never in the manifest.
fn fingerprint(options: &PrepareOptions, encoder: &dyn Encode, splits: &[&Vec<Source>]) -> Result<String> {
    let mut text = format!(
        "taper-prepare 1 {PIECE_BYTES} {} {} {:?} {} {} {} {:?} {:?}\n",
        encoder.hash(),
        encoder.vocab_size(),
        encoder.eot(),
        encoder.cuttable(options.parse_special),
        options.shard_tokens,
        options.parse_special,
        options.val_fraction.to_bits(),
        options.text_column,
    );
    for (split, source) in splits.iter().enumerate().flat_map(|(i, sources)| sources.iter().map(move |s| (i, s))) {
        if let Some(remote) = &source.remote {
            text.push_str(&format!("{split} {:?} {} {}\n", source.path, source.bytes, remote.identity()));
            continue;
        }
        let time = std::fs::metadata(&source.path)
            .and_then(|meta| meta.modified())
            .map_err(Error::io("read", &source.path))?;
        let since = time.duration_since(std::time::UNIX_EPOCH).unwrap_or_default();
        text.push_str(&format!("{split} {:?} {} {}\n", source.path, source.bytes, since.as_nanos()));
    }
    Ok(format!("{:032x}", xxhash_rust::xxh3::xxh3_128(text.as_bytes())))
}

enum Begin {
    Complete(Manifest),
    Work(Journal),
}

/// Looks at what the folder holds and decides: complete, to continue, to begin, or not ours.
fn begin(options: &PrepareOptions, fingerprint: &str, ui: &dyn Ui) -> Result<Begin> {
    let out = &options.out;
    let journal = Journal::load(out);
    let same = journal.as_ref().is_some_and(|journal| journal.fingerprint == fingerprint);
    let has_manifest = out.join(MANIFEST).exists();
    if has_manifest && same {
        // Opening compares the sizes of all shards with the manifest.
        match Shards::open(&out.to_string_lossy(), &ShardOptions::default()) {
            Ok(Shards { manifest: Some(manifest), .. }) => {
                ui.info(&format!("{}: already prepared from the same inputs", out.display()));
                return Ok(Begin::Complete(manifest));
            }
            Ok(_) => {}
            Err(error) => ui.info(&format!("{error}; preparing the folder anew")),
        }
    }
    if !options.overwrite {
        if has_manifest && !same {
            return Err(Error::usage(format!(
                "{}: this folder holds shards prepared from other inputs, or with another tokenizer or options; choose \
                 another folder, or replace them with --overwrite",
                out.display()
            )));
        }
        if let (None, Some(file)) = (&journal, bin_files(out)?.first()) {
            let message =
                "was not made by `taper data prepare`; choose an empty folder, or replace it with --overwrite";
            return Err(Error::usage(format!("{}: {message}", file.display())));
        }
    }
    let usable = |journal: &&Journal| same && !has_manifest && shards_are_there(out, journal);
    if let Some(journal) = journal.as_ref().filter(usable) {
        Journal::sweep(out)?;
        let tokens = journal.train.tokens + journal.val.tokens;
        ui.info(&format!("{}: continuing after {tokens} tokens prepared before", out.display()));
        return Ok(Begin::Work(journal.clone()));
    }
    if journal.is_some() && !has_manifest {
        let why = if same {
            "the shards that were finished are not all there"
        } else {
            "the inputs, the tokenizer or the options have changed since this folder was begun"
        };
        ui.info(&format!("{}: {why}; starting from the beginning", out.display()));
    }
    // The manifest goes first: from here on the folder is not whole.
    remove(&out.join(MANIFEST))?;
    Journal::discard(out)?;
    let journal = Journal::new(fingerprint.to_string());
    journal.save(out)?;
    Ok(Begin::Work(journal))
}

/// Whether the shards of a journal are as it says. (While the tail is cut off, the training shards are in between.)
fn shards_are_there(out: &Path, journal: &Journal) -> bool {
    let train = journal.train.shards.iter().filter(|_| journal.phase != Phase::Trim);
    train.chain(&journal.val.shards).all(|record| {
        Shard::open(&out.join(&record.file), ShardFormat::Llmc).is_ok_and(|shard| shard.tokens() == record.tokens)
    })
}

fn manifest(options: &PrepareOptions, encoder: &dyn Encode, journal: &Journal, sources: [&Vec<Source>; 2]) -> Manifest {
    let tokenizer = TokenizerRecord {
        name: options.tokenizer_name.clone(),
        hash: encoder.hash().into(),
        vocab_size: encoder.vocab_size(),
        eot: encoder.eot(),
    };
    let dtype = Layout::for_vocab(encoder.vocab_size()).dtype();
    let mut manifest = Manifest::new(tokenizer, dtype, options.val_fraction, options.parse_special);
    manifest.documents = journal.train.documents + if options.val_inputs.is_some() { journal.val.documents } else { 0 };
    manifest.shards = journal.train.shards.iter().chain(&journal.val.shards).cloned().collect();
    let given = [(Split::Train, Some(&options.inputs)), (Split::Val, options.val_inputs.as_ref())];
    for ((split, inputs), sources) in given.into_iter().zip(sources) {
        for (number, input) in inputs.into_iter().flatten().enumerate() {
            let mine = || sources.iter().filter(|source| source.input == number);
            let (files, bytes) = (mine().count() as u64, mine().map(|source| source.bytes).sum());
            manifest.sources.push(SourceRecord { input: input.clone(), split, files, bytes });
        }
    }
    manifest
}

/// What every step of a preparation needs.
struct Work<'a> {
    options: &'a PrepareOptions,
    encoder: &'a dyn Encode,
    ui: &'a dyn Ui,
}

impl Work<'_> {
    /// Writes the tokens of one split's sources. `before` of `total` bytes belong to earlier splits, for progress.
    fn split(&self, journal: &mut Journal, split: Split, sources: &[Source], before: u64, total: u64) -> Result<()> {
        let state = if split == Split::Train { &journal.train } else { &journal.val };
        if state.finished || sources.is_empty() {
            return Ok(());
        }
        let text = TextOptions {
            text_column: self.options.text_column.clone(),
            piece_bytes: if self.encoder.cuttable(self.options.parse_special) { PIECE_BYTES } else { usize::MAX },
            parse_special: self.options.parse_special,
        };
        let mut documents = Documents::of(sources.to_vec(), &text);
        let mut writer = SplitWriter::new(self.options, self.encoder, split, state.clone());
        let mut from = Some((state.source, state.piece));
        let next = || {
            // Done here, because passing over what is written already means reading it.
            let skipped = from.take().map_or(Ok(()), |(source, piece)| documents.skip_to(source, piece));
            let job = match skipped {
                Ok(()) => next_job(&mut documents),
                Err(error) => Job { failed: Some(error), ..Job::default() },
            };
            (!job.pieces.is_empty() || job.failed.is_some()).then_some(job)
        };
        let encode = |piece: &Piece, ids: &mut Vec<u32>| {
            let encoded = self.encoder.encode_into(&piece.text, self.options.parse_special, ids);
            encoded.context(|| format!("encoding {}", sources[piece.source].path.display()))
        };
        let write = |encoded: &Encoded| {
            encoded.pieces().try_for_each(|(piece, ids)| writer.piece(piece, ids, journal))?;
            self.ui.tokenized(before + encoded.consumed, total, writer.tokens());
            Ok(())
        };
        let threads = match self.options.threads {
            0 => rayon::current_num_threads(),
            threads => threads,
        };
        pipeline::run(&Budget::for_threads(threads), threads, next, encode, write)?;
        writer.finish(journal)?;
        sync_folder(&self.options.out)
    }
}

/// Reads pieces up to about [`JOB_BYTES`], or to what cannot be read; an empty job is the end.
fn next_job(documents: &mut Documents) -> Job {
    let (mut job, mut bytes) = (Job::default(), 0);
    while bytes < JOB_BYTES && job.failed.is_none() {
        match documents.next() {
            Some(Ok(piece)) => {
                bytes += piece.text.len() + size_of::<Piece>();
                job.pieces.push(piece);
            }
            Some(Err(error)) => job.failed = Some(error),
            None => break,
        }
    }
    job.consumed = documents.consumed_bytes();
    job
}
