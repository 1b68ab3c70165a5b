//! The data of a run with `data.format = "chat"`: conversations, encoded once and kept in the run folder.

use std::path::Path;
use std::sync::Arc;

use crate::data::chat::ChatTemplate;
use crate::data::chat::conversation::{self, Conversations, Encoding};
use crate::data::chat::store::{self as store, Record};
use crate::data::config::DataConfig;
use crate::data::{Packed, Sequences, Tokenizer};
use crate::error::{Error, Result};
use crate::open;
use crate::run::source::{DATA, Streams};
use crate::ui::Ui;

/// The folder of encoded conversations within a run's data.
const CHAT: &str = "chat";

/// The template of a run that is `resuming`, as it began; else of `data.chat_template`, of the folder that it starts from,
/// or ChatML. Gives it with a word on where it is from.
///
/// # Errors
/// If a file cannot be read or is not a template.
pub fn template(
    run: &Path,
    data: &DataConfig,
    init_from: Option<&Path>,
    tokenizer: &Tokenizer,
    resuming: bool,
) -> Result<(ChatTemplate, String)> {
    let of = |source: &str| {
        let token = |key| tokenizer.special_token(key);
        ChatTemplate::from_source(source, &token("bos_token"), &token("eos_token"))
    };
    if resuming && let Some(record) = store::record(&run.join(DATA).join(CHAT))? {
        return Ok((of(&record.template)?, "chat template: the one that the run began with".into()));
    }
    if let Some(file) = &data.chat_template {
        let source = std::fs::read_to_string(file).map_err(Error::io("read", file))?;
        return Ok((of(&source)?, format!("chat template: {file}")));
    }
    if let Some(folder) = init_from
        && let Some(found) = ChatTemplate::load(folder)?
    {
        return Ok((of(found.source())?, "chat template: that of model.init_from".into()));
    }
    let word = "chat template: ChatML, built in (data.chat_template names another)";
    Ok((of(conversation::built_in(tokenizer)?)?, word.into()))
}

/// How conversations become rows.
#[derive(Clone, Copy, Debug)]
pub struct Packing {
    /// Inputs of a row.
    pub context_length: usize,
    /// The seed of their order; None leaves them in the order of the files.
    pub shuffle: Option<u64>,
}

/// Opens the conversations of a run, encoding them first unless it is `resuming`.
///
/// # Errors
/// Whatever is wrong with the inputs, by file and line.
pub fn streams(
    run: &Path,
    data: &DataConfig,
    (template, tokenizer): (&ChatTemplate, &Tokenizer),
    packing: Packing,
    resuming: bool,
    ui: &dyn Ui,
) -> Result<Streams> {
    let folder = run.join(DATA).join(CHAT);
    if resuming && let Some(record) = store::record(&folder)? {
        if record.tokenizer != tokenizer.hash() {
            return Err(Error::data(&folder, "was made with another tokenizer than the config's"));
        }
        let train = store::load(&folder, &record, "train")?;
        let train = train.ok_or_else(|| Error::data(&folder, "lists no training conversations"))?;
        return pack(train, store::load(&folder, &record, "val")?, packing, record.description);
    }
    let here = open::data_section(data, ui)?;
    let encoding = Encoding { template, tokenizer, parse_special: data.parse_special };
    let mut train = conversation::read(&here.text, encoding)?;
    let read = train.len();
    let val = match (here.val.is_empty(), data.val_fraction()) {
        (false, _) => Some(conversation::read(&here.val, encoding)?),
        (true, 0.0) => None,
        (true, fraction) => {
            let held_out = ((read as f64 * fraction).round() as usize).clamp(1, read.max(1));
            Some(train.split_off(read - held_out.min(read)))
        }
    };
    if train.is_empty() {
        return Err(Error::usage(format!(
            "there are no conversations to train on: {read} were read, and the rest is held out (data.val_fraction)"
        )));
    }
    let description = vec![format!("{read} conversation(s) from {}", data.text.join(", "))];
    let record = Record::new(template.source(), tokenizer.hash(), description.clone());
    let splits: Vec<(&str, &Conversations)> = [("train", Some(&train)), ("val", val.as_ref())]
        .into_iter()
        .filter_map(|(split, conversations)| Some((split, conversations?)))
        .collect();
    store::save(&folder, record, &splits)?;
    pack(train, val, packing, description)
}

fn pack(
    train: Conversations,
    val: Option<Conversations>,
    packing: Packing,
    mut description: Vec<String>,
) -> Result<Streams> {
    let train = Packed::new(Arc::new(train), packing.context_length, packing.shuffle)?;
    let (truncated, dropped) = train.truncated_and_dropped();
    description.push(format!(
        "{} of them in {} rows of {} tokens, {:.1}% filled; {truncated} cut at the end, {dropped} without an answer within \
         the context left out; {} tokens of answers to learn",
        train.conversations(),
        train.rows(),
        packing.context_length,
        100.0 * train.fill_ratio(),
        train.targets()
    ));
    let val = val.map(|val| Packed::new(Arc::new(val), packing.context_length, None)).transpose()?;
    let packed = |packed| Sequences::Packed(Arc::new(packed));
    let held_out = "the answers of the conversations held out for validation";
    Ok(Streams { train: packed(train), val: val.map(packed), description, unit: "targets", held_out })
}
