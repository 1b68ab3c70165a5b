//! Writing the tokens of a split into shards, and moving the held-out tail from one split to the other.

use crate::data::Encode;
use crate::data::prepare::options::PrepareOptions;
use crate::data::shards::Split;
use crate::data::shards::journal::{Cut, Journal, SplitState, remove, shard_name, sync_folder};
use crate::data::shards::manifest::ShardRecord;
use crate::data::shards::shard::{Layout, Shard, ShardFormat, ShardWriter};
use crate::data::shards::stream::TokenStream;
use crate::data::text::Piece;
use crate::error::{Error, Result};

/// Tokens that are moved at a time when the tail is held out.
const BLOCK: u64 = 1 << 20;

/// Cuts a stream of tokens into the shards of a split.
pub(in crate::data) struct SplitWriter<'a> {
    options: &'a PrepareOptions,
    split: Split,
    layout: Layout,
    vocab_size: usize,
    eot: Option<u32>,
    shard: Option<ShardWriter>,
    /// End-of-text tokens in the current shard.
    marks: u64,
    state: SplitState,
    /// All tokens of the split so far, those of the current shard included.
    tokens: u64,
}

impl<'a> SplitWriter<'a> {
    /// Continues from a state of the journal.
    pub fn new(options: &'a PrepareOptions, encoder: &dyn Encode, split: Split, state: SplitState) -> Self {
        SplitWriter {
            options,
            split,
            layout: Layout::for_vocab(encoder.vocab_size()),
            vocab_size: encoder.vocab_size(),
            eot: encoder.eot(),
            shard: None,
            marks: 0,
            tokens: state.tokens,
            state,
        }
    }

    pub fn tokens(&self) -> u64 {
        self.tokens
    }

    /// Writes the ids of a piece, after an end-of-text token if it begins a document that is not the first.
    pub fn piece(&mut self, piece: &Piece, ids: &[u32], journal: &mut Journal) -> Result<()> {
        if let Some(&id) = ids.iter().find(|&&id| id as usize >= self.vocab_size) {
            let size = self.vocab_size;
            return Err(Error::usage(format!(
                "the tokenizer gave the id {id}, beyond its own vocabulary of {size} ids: it is damaged"
            )));
        }
        let resumed = (piece.source, piece.piece) == (self.state.source, self.state.piece);
        let skip = if resumed { std::mem::take(&mut self.state.skip) } else { 0 };
        let begun = piece.starts_document || self.state.begun;
        self.state.begun = begun && ids.is_empty();
        if ids.is_empty() {
            return Ok(());
        }
        // What precedes this piece decides on the mark, also when part of the piece itself was written before a kill.
        let mark = self.eot.filter(|_| begun && self.tokens > skip);
        self.state.documents += u64::from(begun && skip == 0);
        let tokens: Vec<u32> = mark.into_iter().chain(ids.iter().copied()).collect();
        let mut at = skip as usize;
        while at < tokens.len() {
            let taken = self.write(&tokens[at..])?;
            at += taken;
            if self.shard.as_ref().is_some_and(|shard| shard.tokens() == self.options.shard_tokens) {
                let whole = at == tokens.len();
                (self.state.source, self.state.piece) = (piece.source, piece.piece + u64::from(whole));
                self.state.skip = if whole { 0 } else { at as u64 };
                // If the document began in this piece, the next start must know it.
                self.state.begun = begun && !whole;
                self.close(journal)?;
                (self.state.skip, self.state.begun) = (0, false);
            }
        }
        Ok(())
    }

    /// Writes as many of `tokens` as the current shard takes.
    fn write(&mut self, tokens: &[u32]) -> Result<usize> {
        let shard = match &mut self.shard {
            Some(shard) => shard,
            None => {
                let name = shard_name(self.split.name(), self.state.shards.len());
                self.marks = 0;
                self.shard.insert(ShardWriter::create(&self.options.out.join(name), self.layout)?)
            }
        };
        let room = self.options.shard_tokens - shard.tokens();
        let count = tokens.len().min(usize::try_from(room).unwrap_or(usize::MAX));
        shard.write(&tokens[..count])?;
        self.marks += tokens[..count].iter().filter(|&&id| Some(id) == self.eot).count() as u64;
        self.tokens += count as u64;
        Ok(count)
    }

    /// Finishes the current shard, if there is one, and records it.
    fn close(&mut self, journal: &mut Journal) -> Result<()> {
        if let Some(shard) = self.shard.take() {
            let number = self.state.shards.len();
            let tokens = shard.tokens();
            let record = ShardRecord {
                file: shard_name(self.split.name(), number),
                split: self.split,
                tokens,
                documents: self.eot.map(|_| self.marks + u64::from(number == 0)),
                xxh3: shard.finish()?,
            };
            self.state.shards.push(record);
            self.state.tokens += tokens;
        }
        *journal.split_mut(self.split) = self.state.clone();
        journal.save(&self.options.out)
    }

    /// Finishes the last shard and the split.
    pub fn finish(mut self, journal: &mut Journal) -> Result<()> {
        self.state.finished = true;
        self.close(journal)
    }
}

/// Where to cut a finished training stream, `None` if nothing is held out. As in nanoGPT, training keeps the whole part of
/// `total * (1 - val_fraction)`; an end-of-text token right at the cut belongs to neither side, for it is between documents
/// of one split only.
pub(in crate::data) fn cut_of(
    options: &PrepareOptions,
    encoder: &dyn Encode,
    train: &SplitState,
) -> Result<Option<Cut>> {
    if options.val_fraction == 0.0 {
        return Ok(None);
    }
    let total = train.tokens;
    let at = (total as f64 * (1.0 - options.val_fraction)).floor() as u64;
    let mut cut = Cut { train: at, val: at, total };
    if at > 0 && at < total {
        let stream = open_train(options, encoder, train)?;
        let token = |position| {
            let mut token = [0];
            stream.read(position, &mut token).map(|()| Some(token[0]))
        };
        let eot = encoder.eot();
        if eot.is_some() && token(at)? == eot {
            cut.val += 1;
        } else if eot.is_some() && token(at - 1)? == eot {
            cut.train -= 1;
        }
    }
    if cut.train == 0 || cut.val >= total {
        let fraction = options.val_fraction;
        return Err(Error::usage(format!(
            "the text has only {total} tokens: holding out {fraction} of them leaves a split empty; give more text, or set val_fraction to 0"
        )));
    }
    Ok(Some(cut))
}

fn open_train(options: &PrepareOptions, encoder: &dyn Encode, train: &SplitState) -> Result<TokenStream> {
    let open = |record: &ShardRecord| Shard::open(&options.out.join(&record.file), ShardFormat::Llmc);
    let shards = train.shards.iter().map(open).collect::<Result<Vec<_>>>()?;
    Ok(TokenStream::new(shards, encoder.vocab_size()))
}

/// Copies tokens from one stream to a writer.
fn copy(stream: &TokenStream, from: u64, to: u64, mut write: impl FnMut(&[u32]) -> Result<()>) -> Result<()> {
    let mut block = vec![0; (to - from).min(BLOCK) as usize];
    let mut at = from;
    while at < to {
        let count = (to - at).min(BLOCK) as usize;
        stream.read(at, &mut block[..count])?;
        write(&block[..count])?;
        at += count as u64;
    }
    Ok(())
}

/// Copies the held-out tail into validation shards. Repeatable: the training shards are not touched.
pub(in crate::data) fn hold_out(options: &PrepareOptions, encoder: &dyn Encode, journal: &mut Journal) -> Result<()> {
    let Some(cut) = journal.cut else { return Ok(()) };
    let stream = open_train(options, encoder, &journal.train)?;
    let mut writer = SplitWriter::new(options, encoder, Split::Val, SplitState::default());
    // Saved with every shard, but of no use before the last: a restart begins the copy anew.
    copy(&stream, cut.val, cut.total, |mut tokens| {
        while !tokens.is_empty() {
            let count = writer.write(tokens)?;
            tokens = &tokens[count..];
            if writer.shard.as_ref().is_some_and(|shard| shard.tokens() == options.shard_tokens) {
                writer.close(journal)?;
            }
        }
        Ok(())
    })?;
    writer.finish(journal)
}

/// Cuts the held-out tail off the training shards. Repeatable: a shard that is already cut, or gone, is left so, and the
/// journal keeps the uncut records until the manifest is written.
pub(in crate::data) fn trim(options: &PrepareOptions, encoder: &dyn Encode, journal: &mut Journal) -> Result<()> {
    let Some(cut) = journal.cut else { return Ok(()) };
    let mut kept = Vec::new();
    let mut start = 0;
    for (number, record) in journal.train.shards.iter().enumerate() {
        let path = options.out.join(&record.file);
        let keep = cut.train.saturating_sub(start).min(record.tokens);
        start += record.tokens;
        if keep == record.tokens {
            kept.push(record.clone());
            continue;
        }
        if keep == 0 {
            remove(&path)?;
            continue;
        }
        let mut shard = Shard::open(&path, ShardFormat::Llmc)?;
        if shard.tokens() != keep {
            let mut writer = ShardWriter::create(&path, shard.layout())?;
            let stream = TokenStream::new(vec![shard], encoder.vocab_size());
            copy(&stream, 0, keep, |tokens| writer.write(tokens))?;
            drop(stream);
            writer.finish()?;
            shard = Shard::open(&path, ShardFormat::Llmc)?;
        }
        let documents = encoder.eot().map(|eot| shard.count(eot) + u64::from(number == 0));
        kept.push(ShardRecord { tokens: keep, documents, xxh3: shard.checksum(), ..record.clone() });
    }
    journal.train.shards = kept;
    sync_folder(&options.out)
}
