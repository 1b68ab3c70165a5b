//! What a run says of itself before the first step: what was resolved.

use crate::checkpoint::FolderKind;
use crate::data::Sequences;
use crate::run::hardware::device_words;
use crate::run::prepare::Prepared;

/// What was resolved, before the first step.
pub fn summary(prepared: &Prepared, probe_seconds: f64, done: u64) -> String {
    let max_steps = prepared.max_steps;
    let (config, model) = (&prepared.config, prepared.model.config());
    let layout = prepared.model.layout();
    let group = |decays: bool| {
        let of: Vec<_> = layout.trained_infos().map(|(info, _)| info).filter(|info| info.decays() == decays).collect();
        format!("{} in {} tensors", count(of.iter().map(|info| info.len()).sum::<usize>() as f64), of.len())
    };
    let (global, micro) = (config.train.global_batch(), prepared.micro_batch());
    let tokens_per_step = (global * model.context_length) as u64;
    let train_tokens = prepared.streams.train.len();
    let tokens_per_epoch = match &prepared.streams.train {
        Sequences::Stream(stream) => stream.len(),
        Sequences::Packed(packed) => packed.rows() * model.context_length as u64,
    };
    let epochs = (max_steps * tokens_per_step) as f64 / tokens_per_epoch.max(1) as f64;
    let seconds = probe_seconds * (global / micro) as f64 * max_steps.saturating_sub(done) as f64;
    let predicted = prepared.predicted_bytes();
    let schedule = &config.schedule;
    let mut lines = vec![
        format!("run         {}", prepared.run.display()),
        format!(
            "model       {} parameters: {} layers, {} heads ({} key-value), width {}, context {}, vocabulary {}",
            count(prepared.model.layout().parameters() as f64),
            model.n_layer,
            model.n_head,
            model.n_kv_head,
            model.n_embd,
            model.context_length,
            model.vocab_size
        ),
        format!("decay       {} on {}; none on {}", config.optimizer.weight_decay, group(true), group(false)),
        format!(
            "data        {} training {what}, {} validation {what} ({})",
            count(train_tokens as f64),
            count(prepared.streams.val.as_ref().map_or(0, |val| val.len()) as f64),
            prepared.streams.description.join("; "),
            what = prepared.streams.unit
        ),
        format!(
            "batch       {tokens_per_step} tokens a step: {global} sequences in {} micro-batch(es) of {micro}",
            global / micro
        ),
        format!(
            "steps       {max_steps}: {} tokens, {epochs:.2} epochs, {} FLOPs a token",
            count((max_steps * tokens_per_step) as f64),
            count(model.flops_per_token() as f64)
        ),
        format!(
            "schedule    {}, {} warmup steps, lr {} down to {}",
            serde_json::to_value(schedule.kind)
                .ok()
                .and_then(|kind| kind.as_str().map(String::from))
                .unwrap_or_default(),
            schedule.warmup_steps,
            config.optimizer.lr,
            // As f32, which prints 0.0003 and not the last bits of a product.
            (config.optimizer.lr * schedule.min_lr_ratio) as f32
        ),
        format!(
            "device      {} ({}), {}, about {} MiB",
            prepared.device,
            device_words(prepared.device),
            prepared.precision().name(),
            predicted >> 20
        ),
        format!("time        about {} for what is left, validation and samples not counted", duration(seconds)),
    ];
    if let Some(lora) = prepared.model.lora() {
        let trained = layout.trained_infos().map(|(info, _)| info.len()).sum::<usize>() as f64;
        let part = 100.0 * trained / (layout.parameters() as f64 - trained);
        lines.insert(
            2,
            format!(
                "adapters    {} parameters are trained ({part:.2}% of the model's): rank {}, alpha {}, on {}",
                count(trained),
                lora.rank,
                lora.alpha,
                lora.targets.join(", ")
            ),
        );
    }
    if let FolderKind::Own { reasons } = FolderKind::of(model) {
        lines.push(format!("NOTE        checkpoints will NOT load in transformers: {}", reasons.join("; ")));
    }
    if prepared.streams.val.is_none() {
        lines.push("NOTE        there is no validation data, so no validation loss".into());
    }
    lines.join("\n")
}

/// A large number in words, four digits of it: 3.712M.
pub fn count(value: f64) -> String {
    for (unit, size) in [("T", 1e12), ("G", 1e9), ("M", 1e6), ("K", 1e3)] {
        if value >= size {
            let scaled = value / size;
            let decimals = if scaled >= 100.0 { 1 } else { 2 + usize::from(scaled < 10.0) };
            return format!("{scaled:.decimals$}{unit}");
        }
    }
    format!("{value}")
}

/// Seconds in words: 2 min 5 s.
pub fn duration(seconds: f64) -> String {
    let seconds = seconds.round() as u64;
    match seconds {
        0..60 => format!("{seconds} s"),
        60..3600 => format!("{} min {} s", seconds / 60, seconds % 60),
        _ => format!("{} h {} min", seconds / 3600, seconds % 3600 / 60),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_in_words() {
        assert_eq!(
            [999.0, 1_000.0, 3_712_345.0, 124_439_808.0, 1e9].map(count),
            ["999", "1.000K", "3.712M", "124.4M", "1.000G"]
        );
        assert_eq!([5.2, 125.0, 3_725.0].map(duration), ["5 s", "2 min 5 s", "1 h 2 min"]);
    }
}
