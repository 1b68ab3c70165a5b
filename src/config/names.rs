//! What someone meant who wrote a name that does not exist.
//!
//! A slip of the finger is found by edit distance; a name learnt elsewhere (nanoGPT, Hugging Face) is not near ours at all,
//! so those are listed; and a right key in the wrong section is looked up in the others.

use super::schema::{Section, sections};

/// Names of other programs: theirs, our section, our key. One name may stand several times; the section at hand is
/// preferred.
const ALIASES: &[(&str, &str, &str)] = &[
    // nanoGPT
    ("learning_rate", "optimizer", "lr"),
    ("block_size", "model", "context_length"),
    ("batch_size", "train", "micro_batch"),
    ("batch_size", "eval", "batch"),
    ("gradient_accumulation_steps", "train", "global_batch"),
    ("max_iters", "train", "max_steps"),
    ("warmup_iters", "schedule", "warmup_steps"),
    ("lr_decay_iters", "schedule", "decay_steps"),
    ("decay_lr", "schedule", "kind"),
    ("min_lr", "schedule", "min_lr_ratio"),
    ("grad_clip", "stability", "clip_norm"),
    ("eval_interval", "eval", "every"),
    ("eval_iters", "eval", "max_tokens"),
    ("log_interval", "train", "log_every"),
    ("out_dir", "run", "dir"),
    ("dataset", "data", "text"),
    ("dtype", "precision", "compute"),
    ("wandb_run_name", "run", "name"),
    // Hugging Face: models
    ("hidden_size", "model", "n_embd"),
    ("d_model", "model", "n_embd"),
    ("dim", "model", "n_embd"),
    ("embed_dim", "model", "n_embd"),
    ("num_layers", "model", "n_layer"),
    ("num_hidden_layers", "model", "n_layer"),
    ("depth", "model", "n_layer"),
    ("num_heads", "model", "n_head"),
    ("num_attention_heads", "model", "n_head"),
    ("num_key_value_heads", "model", "n_kv_head"),
    ("num_kv_heads", "model", "n_kv_head"),
    ("n_query_groups", "model", "n_kv_head"),
    ("max_position_embeddings", "model", "context_length"),
    ("n_positions", "model", "context_length"),
    ("n_ctx", "model", "context_length"),
    ("seq_len", "model", "context_length"),
    ("seq_length", "model", "context_length"),
    ("sequence_length", "model", "context_length"),
    ("max_seq_len", "model", "context_length"),
    ("intermediate_size", "model", "mlp_dim"),
    ("n_inner", "model", "mlp_dim"),
    ("d_ff", "model", "mlp_dim"),
    ("ffn_dim", "model", "mlp_dim"),
    ("head_size", "model", "head_dim"),
    ("hidden_act", "model", "mlp"),
    ("activation", "model", "mlp"),
    ("activation_function", "model", "mlp"),
    ("rms_norm_eps", "model", "norm_eps"),
    ("layer_norm_epsilon", "model", "norm_eps"),
    ("rope_base", "model", "rope_theta"),
    ("attention_bias", "model", "qkv_bias"),
    ("tie_word_embeddings", "model", "tie_embeddings"),
    ("weight_tying", "model", "tie_embeddings"),
    ("resid_pdrop", "model", "dropout"),
    ("attn_pdrop", "model", "dropout"),
    ("embd_pdrop", "model", "dropout"),
    ("positional_encoding", "model", "position"),
    ("pretrained", "model", "init_from"),
    // Hugging Face: training
    ("per_device_train_batch_size", "train", "micro_batch"),
    ("per_device_eval_batch_size", "eval", "batch"),
    ("total_batch_size", "train", "global_batch"),
    ("num_train_epochs", "train", "epochs"),
    ("num_epochs", "train", "epochs"),
    ("num_steps", "train", "max_steps"),
    ("total_steps", "train", "max_steps"),
    ("total_tokens", "train", "max_tokens"),
    ("gradient_checkpointing", "train", "recompute"),
    ("activation_checkpointing", "train", "recompute"),
    ("logging_steps", "train", "log_every"),
    ("optim", "optimizer", "kind"),
    ("adam_beta1", "optimizer", "beta1"),
    ("adam_beta2", "optimizer", "beta2"),
    ("adam_epsilon", "optimizer", "eps"),
    ("epsilon", "optimizer", "eps"),
    ("wd", "optimizer", "weight_decay"),
    ("lr_scheduler_type", "schedule", "kind"),
    ("lr_scheduler", "schedule", "kind"),
    ("scheduler", "schedule", "kind"),
    ("warmup", "schedule", "warmup_steps"),
    ("warmup_ratio", "schedule", "warmup_steps"),
    ("max_grad_norm", "stability", "clip_norm"),
    ("clip_grad", "stability", "clip_norm"),
    ("gradient_clipping", "stability", "clip_norm"),
    ("precision", "precision", "compute"),
    ("bf16", "precision", "compute"),
    ("fp16", "precision", "compute"),
    ("tf32", "precision", "compute"),
    ("eval_steps", "eval", "every"),
    ("interval", "eval", "every"),
    ("interval", "checkpoint", "every"),
    ("interval", "sample", "every"),
    ("save_steps", "checkpoint", "every"),
    ("save_interval", "checkpoint", "every"),
    ("save_total_limit", "checkpoint", "keep_last"),
    ("output_dir", "run", "dir"),
    ("run_name", "run", "name"),
    ("data_seed", "run", "seed_data"),
    ("random_seed", "run", "seed"),
    ("path", "data", "text"),
    ("files", "data", "text"),
    ("train_file", "data", "text"),
    ("val_split", "data", "val_fraction"),
    ("validation_split", "data", "val_fraction"),
    ("validation_file", "data", "val"),
    ("type", "tokenizer", "kind"),
    ("type", "optimizer", "kind"),
    ("type", "schedule", "kind"),
    ("name", "tokenizer", "kind"),
    ("name", "optimizer", "kind"),
    ("name", "schedule", "kind"),
    ("max_length", "sample", "max_new_tokens"),
    ("prompts", "sample", "prompt"),
];

/// Section names of other programs, and ours.
const SECTION_ALIASES: &[(&str, &str)] = &[
    ("training", "train"),
    ("trainer", "train"),
    ("dataset", "data"),
    ("dataloader", "data"),
    ("optim", "optimizer"),
    ("adamw", "optimizer"),
    ("lr_scheduler", "schedule"),
    ("lr", "schedule"),
    ("gpt", "model"),
    ("network", "model"),
    ("arch", "model"),
    ("validation", "eval"),
    ("evaluation", "eval"),
    ("generation", "sample"),
    ("generate", "sample"),
    ("sampling", "sample"),
    ("distributed", "dist"),
    ("parallel", "dist"),
    ("dtype", "precision"),
    ("amp", "precision"),
    ("hub", "push"),
    ("save", "checkpoint"),
    ("experiment", "run"),
    ("general", "run"),
];

/// The message for a key that `section` does not have.
pub(super) fn unknown_key(section: &Section, name: &str) -> String {
    let hint = match meant(name, Some(section)) {
        Some(hint) => hint,
        None => format!("its keys are {}", keys(section)),
    };
    format!("unknown key {:?} in [{}]; {hint}", shown(name), section.name)
}

/// The message for a key that stands in no section.
pub(super) fn outside(name: &str) -> String {
    let hint = meant(name, None).unwrap_or_else(|| format!("the sections are {}", section_list()));
    format!("the key {:?} stands in no section; {hint}", shown(name))
}

/// The message for a section that does not exist.
pub(super) fn unknown_section(name: &str) -> String {
    let plain = normal(name);
    let alias = SECTION_ALIASES.iter().find(|(theirs, _)| *theirs == plain).map(|(_, ours)| *ours);
    let hint = match alias.or_else(|| nearest(&plain, sections().iter().map(|section| &section.name[..]))) {
        Some(near) => format!("did you mean [{near}]?"),
        None => format!("the sections are {}", section_list()),
    };
    format!("unknown section {:?}; {hint}", format!("[{}]", shown(name)))
}

/// The keys of a section, for reading.
pub(super) fn keys(section: &Section) -> String {
    section.keys.iter().map(|key| &key.name[..]).collect::<Vec<_>>().join(", ")
}

/// A text from the user as part of a message: not longer than a line.
pub(super) fn shown(text: &str) -> String {
    const MAX: usize = 70;
    match text.char_indices().nth(MAX) {
        Some((end, _)) => format!("{}...", &text[..end]),
        None => text.into(),
    }
}

/// The word nearest to `name`, if it is near enough to be a slip: at most a third of its letters differ.
pub fn nearest<'a>(name: &str, words: impl Iterator<Item = &'a str>) -> Option<&'a str> {
    let name = shown(&normal(name));
    let allowed = (name.chars().count() / 3).max(1);
    let near = words.map(|word| (strsim::osa_distance(&name, word), word)).min_by_key(|(distance, _)| *distance);
    near.filter(|(distance, _)| *distance <= allowed).map(|(_, word)| word)
}

/// What was meant by `name`, written in `section` (or in none), as the second half of a sentence.
fn meant(name: &str, section: Option<&Section>) -> Option<String> {
    let plain = normal(name);
    let here = section.map_or("", |section| &section.name[..]);
    let did_you_mean = |section: &str, key: &str| match section == here {
        true => format!("did you mean {key:?}?"),
        false => format!("did you mean {key:?} in [{section}]?"),
    };
    if let Some(section) = section
        && let Some(key) = section.key(&plain)
    {
        return Some(did_you_mean(here, &key.name));
    }
    let aliases = || ALIASES.iter().filter(|(theirs, _, _)| *theirs == plain);
    if let Some((_, section, key)) = aliases().find(|(_, section, _)| *section == here) {
        return Some(did_you_mean(section, key));
    }
    let owners: Vec<String> = sections()
        .iter()
        .filter(|other| other.key(&plain).is_some())
        .map(|other| format!("[{}]", other.name))
        .collect();
    if !owners.is_empty() {
        return Some(format!("{plain:?} belongs to {}", owners.join(" or ")));
    }
    if let Some((_, section, key)) = aliases().next() {
        return Some(did_you_mean(section, key));
    }
    let in_section = section.and_then(|section| nearest(&plain, section.keys.iter().map(|key| &key.name[..])));
    if let Some(key) = in_section {
        return Some(did_you_mean(here, key));
    }
    let everywhere =
        nearest(&plain, sections().iter().flat_map(|section| section.keys.iter().map(|key| &key.name[..])))?;
    let owner = sections().iter().find(|section| section.key(everywhere).is_some())?;
    Some(did_you_mean(&owner.name, everywhere))
}

/// A name in the spelling of our keys.
fn normal(name: &str) -> String {
    name.to_lowercase().replace(['-', ' '], "_")
}

fn section_list() -> String {
    sections().iter().map(|section| format!("[{}]", section.name)).collect::<Vec<_>>().join(" ")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::schema::find;

    #[test]
    fn every_alias_leads_to_a_key_and_hides_none() {
        for (theirs, section, key) in ALIASES {
            let owner = find(section).unwrap_or_else(|| panic!("{theirs}: there is no section [{section}]"));
            assert!(owner.key(key).is_some(), "{theirs}: there is no key {section}.{key}");
            assert!(owner.key(theirs).is_none(), "{theirs} is itself a key of [{section}]");
        }
        for (theirs, section) in SECTION_ALIASES {
            assert!(find(section).is_some() && find(theirs).is_none(), "{theirs}");
        }
    }
}
