//! The sections of a card, each a function from the facts to Markdown; empty where there is nothing to say.

use super::escape::{code_span, fence, inline, python_string};
use super::facts::{CardFacts, Loading};
use std::fmt::Write;

pub(super) fn introduction(facts: &CardFacts) -> String {
    let mut text = String::new();
    let card = &mut text;
    let kind = match &facts.loading {
        Loading::Transformers { class } => format!("It loads in `transformers` as `{class}`."),
        Loading::TaperOnly { because } if because.is_empty() => "It does not load in `transformers`.".into(),
        Loading::TaperOnly { because } => {
            let options: Vec<String> = because.iter().map(|option| code_span(option)).collect();
            format!("It does not load in `transformers`, which has no model of this shape ({}).", options.join(", "))
        }
    };
    let origin = match &facts.base_model {
        Some(base) => format!("trained further from {}", inline(base)),
        None => "trained from scratch".into(),
    };
    let _ = write!(
        card,
        "A decoder-only transformer language model with {} parameters, {origin} with taper {} on {} tokens. {kind}\n\n",
        count(facts.parameters),
        inline(&facts.taper_version),
        count(facts.tokens)
    );
    text
}

pub(super) fn loading(facts: &CardFacts) -> String {
    let mut text = String::new();
    let card = &mut text;
    card.push_str("## How to load it\n\n");
    let place = facts.repository.as_deref().unwrap_or(".");
    let comment = if facts.repository.is_none() { "  # this folder" } else { "" };
    let prompt = facts.samples.iter().map(|s| s.prompt.as_str()).find(|p| !p.trim().is_empty()).unwrap_or("\n");
    match &facts.loading {
        Loading::Transformers { .. } if facts.has_tokenizer => {
            let code = format!(
                "from transformers import AutoModelForCausalLM, AutoTokenizer\n\n\
                 folder = {}{comment}\n\
                 tokenizer = AutoTokenizer.from_pretrained(folder)\n\
                 model = AutoModelForCausalLM.from_pretrained(folder)\n\
                 inputs = tokenizer({}, return_tensors=\"pt\")\n\
                 output = model.generate(**inputs, max_new_tokens=50, do_sample=True, temperature=0.8)\n\
                 print(tokenizer.decode(output[0]))\n",
                python_string(place),
                python_string(prompt)
            );
            fence(card, "python", &code);
        }
        Loading::Transformers { .. } => {
            card.push_str("There is no tokenizer in the folder; the model takes and gives token ids.\n\n");
            let code = format!(
                "import torch\nfrom transformers import AutoModelForCausalLM\n\n\
                 model = AutoModelForCausalLM.from_pretrained({}){comment}\n\
                 output = model.generate(torch.tensor([[0]]), max_new_tokens=50, do_sample=True, temperature=0.8)\n\
                 print(output[0].tolist())\n",
                python_string(place)
            );
            fence(card, "python", &code);
        }
        Loading::TaperOnly { .. } => {
            card.push_str("This shape does not load in `transformers`. `taper` samples from it:\n\n");
        }
    }
    if let Loading::TaperOnly { .. } = facts.loading {
        fence(card, "sh", &format!("taper sample {place} --max-new-tokens 50 --temperature 0.8\n"));
    } else {
        card.push_str("Or, with `taper`:\n\n");
        fence(card, "sh", &format!("taper sample {place} --max-new-tokens 50\n"));
    }
    text
}

pub(super) fn architecture(facts: &CardFacts) -> String {
    let mut rows = vec![("parameters".to_owned(), facts.parameters.to_string())];
    rows.extend(facts.parameters_non_embedding.map(|n| ("without embeddings".to_owned(), n.to_string())));
    rows.extend(facts.architecture.iter().cloned());
    rows.extend(facts.tokenizer.iter().map(|tokenizer| ("tokenizer".to_owned(), tokenizer.clone())));
    let mut text = String::from("## Architecture\n\n");
    rows_of(&mut text, &rows);
    text
}

pub(super) fn training(facts: &CardFacts) -> String {
    let mut text = String::new();
    let card = &mut text;
    card.push_str("## Training\n\n");
    if !facts.data.is_empty() {
        card.push_str("Data:\n\n");
        for source in &facts.data {
            let _ = writeln!(card, "- {}", inline(source));
        }
        card.push('\n');
    }
    let mut rows = vec![
        ("optimizer steps".to_owned(), facts.step.to_string()),
        ("training tokens".to_owned(), facts.tokens.to_string()),
    ];
    let mut row = |name: &str, value: Option<String>| rows.extend(value.map(|value| (name.to_owned(), value)));
    row("tokens in the data", facts.data_tokens.map(|n| n.to_string()));
    let epochs = facts.data_tokens.filter(|&n| n > 0).map(|n| facts.tokens as f64 / n as f64);
    row("epochs", epochs.map(|epochs| format!("{epochs:.2}")));
    row("training FLOPs", facts.flops.map(|flops| format!("{flops:.3e}")));
    row("hardware", facts.hardware.clone());
    let hours = facts.training_seconds.map(|seconds| seconds / 3600.0);
    row("time", facts.training_seconds.map(duration));
    let cost = hours.zip(facts.price.as_ref()).map(|(hours, price)| {
        let (cost, per_hour) = (hours * price.per_hour, price.per_hour);
        format!("{cost:.2} {} (at {per_hour:.2} {} an hour)", price.currency, price.currency)
    });
    row("cost", cost);
    let energy = hours.zip(facts.power.as_ref()).map(|(hours, power)| hours * power.watts / 1000.0);
    row("energy, estimated", energy.map(|energy| format!("{} kWh", significant(energy))));
    row("precision", facts.precision.clone());
    rows.extend(facts.hyperparameters.iter().cloned());
    rows_of(card, &rows);
    if facts.flops.is_some() {
        card.push_str(
            "FLOPs are counted, not measured: for each token 6 for every weight that multiplies an activation, and \
             12 x layers x heads x head size x context length for attention (Chowdhery et al. 2022, appendix B).\n\n",
        );
    }
    if facts.training_seconds.is_some() {
        card.push_str("Time is that of the optimizer steps; validation, samples and checkpoints are not in it.\n\n");
    }
    if let Some(power) = facts.power.as_ref().filter(|_| hours.is_some()) {
        let _ = write!(
            card,
            "Energy is {} W times the time, where the power is {}; the rest of the machine, cooling and losses of the \
             power supply are not in it.\n\n",
            power.watts,
            inline(&power.basis)
        );
    }
    text
}

pub(super) fn loss_curve(facts: &CardFacts) -> String {
    let Some(picture) = &facts.loss_curve else { return String::new() };
    // In angle brackets a path may hold blanks and parentheses; only these four end it.
    let mut path = String::new();
    for c in picture.chars() {
        match c {
            '<' | '>' | '\\' => path.extend(['\\', c]),
            c if c.is_control() => path.push(' '),
            c => path.push(c),
        }
    }
    format!("![The loss in training and validation, by step](<{path}>)\n\n")
}

/// How many standard errors a 95% interval of the normal distribution reaches to each side.
const NORMAL_95: f64 = 1.959_964;

pub(super) fn evaluation(facts: &CardFacts) -> String {
    // Data, metric, value, the interval's ends, and how many make the mean.
    type Row = (String, String, String, Option<(f64, f64)>, usize, Option<u64>);
    let mut rows: Vec<Row> = Vec::new();
    if let Some(evaluation) = &facts.evaluation {
        let loss = evaluation.loss;
        let interval = evaluation.standard_error.map(|error| (loss - NORMAL_95 * error, loss + NORMAL_95 * error));
        let mut row = |metric: &str, value: String, of: &dyn Fn(f64) -> f64, digits: usize| {
            let ends = interval.map(|(low, high)| (of(low), of(high)));
            rows.push((evaluation.data.clone(), metric.into(), value, ends, digits, evaluation.predictions));
        };
        row("loss (nats per token)", format!("{loss:.4}"), &|loss| loss, 4);
        row("perplexity", format!("{:.2}", loss.exp()), &f64::exp, 2);
        if let Some(bits) = evaluation.bits_per_byte {
            row("bits per byte", format!("{bits:.4}"), &|end| bits * end / loss, 4);
        }
    }
    for result in &facts.results {
        let ends = result.standard_error.map(|error| NORMAL_95 * error);
        let ends = ends.map(|half| (result.value - half, result.value + half));
        let value = format!("{:.4}", result.value);
        rows.push((result.benchmark.clone(), result.metric.clone(), value, ends, 4, result.count));
    }
    if rows.is_empty() {
        return String::new();
    }
    let (intervals, counts) = (rows.iter().any(|row| row.3.is_some()), rows.iter().any(|row| row.5.is_some()));
    let mut text = String::from("## Evaluation\n\n| data | metric | value |");
    text.push_str(if intervals { " 95% interval |" } else { "" });
    text.push_str(if counts { " mean of |" } else { "" });
    text.push_str("\n|---|---|---|");
    text.push_str(if intervals { "---|" } else { "" });
    text.push_str(if counts { "---|" } else { "" });
    text.push('\n');
    for (data, metric, value, ends, digits, count) in rows {
        let _ = write!(text, "| {} | {} | {value} |", inline(&data), inline(&metric));
        if intervals {
            let ends = ends.map(|(low, high)| format!("{low:.digits$} to {high:.digits$}"));
            let _ = write!(text, " {} |", ends.unwrap_or_default());
        }
        if counts {
            let _ = write!(text, " {} |", count.map(|count| count.to_string()).unwrap_or_default());
        }
        text.push('\n');
    }
    if intervals {
        text.push_str(
            "\nThe intervals are the mean and 1.96 standard errors to each side. They tell how another sample of the same \
             kind of data would vary, not another training run.\n",
        );
    }
    text.push('\n');
    text
}

pub(super) fn samples(facts: &CardFacts) -> String {
    let mut text = String::new();
    let card = &mut text;
    if facts.samples.is_empty() {
        return text;
    }
    card.push_str("## Samples\n\nWhat the model wrote, the prompt included.\n\n");
    for sample in &facts.samples {
        let how = sample.settings.as_ref().map_or(String::new(), |settings| format!(" ({})", inline(settings)));
        let prompt = if sample.prompt.is_empty() {
            "no prompt".into()
        } else {
            format!("prompt {}", code_span(&beginning(&sample.prompt)))
        };
        let _ = write!(card, "With {prompt}{how}:\n\n");
        fence(card, "text", &format!("{}{}", sample.prompt, sample.text));
    }
    text
}

pub(super) fn limitations(facts: &CardFacts) -> String {
    let mut text = format!(
        "## Limitations\n\nThis is a pretrained model of {} parameters: it continues text. It was not trained to follow \
         instructions or to be safe, it repeats what is in its data, biases included, and what it writes may be false.\n\n",
        count(facts.parameters)
    );
    for limitation in &facts.limitations {
        let _ = writeln!(text, "- {}", inline(limitation));
    }
    text
}

pub(super) fn licence(facts: &CardFacts) -> String {
    match &facts.license {
        Some(license) => format!("## Licence\n\nThe weights are under the licence {}.\n\n", code_span(license)),
        None => "## Licence\n\nThe author has named no licence for the weights.\n\n".into(),
    }
}

pub(super) fn reproduction(facts: &CardFacts) -> String {
    let mut text = String::new();
    let card = &mut text;
    card.push_str("## How to make it again\n\n");
    if let Some(command) = &facts.command {
        fence(card, "sh", &format!("{command}\n"));
    }
    let seeds: Vec<String> = facts.seeds.iter().map(|(name, seed)| format!("{} = {seed}", code_span(name))).collect();
    let seeds = if seeds.is_empty() { String::new() } else { format!(" Seeds: {}.", seeds.join(", ")) };
    let _ = write!(card, "Made with taper {}.{seeds}\n\n", inline(&facts.taper_version));
    if !facts.versions.is_empty() {
        let versions: Vec<String> =
            facts.versions.iter().map(|(name, version)| format!("{} {}", inline(name), inline(version))).collect();
        let _ = write!(card, "With {}.\n\n", versions.join(", "));
    }
    if let Some(config) = &facts.config_toml {
        card.push_str("The resolved config:\n\n");
        fence(card, "toml", config);
    }
    text
}

fn rows_of(card: &mut String, rows: &[(String, String)]) {
    card.push_str("| | |\n|---|---|\n");
    for (name, value) in rows.iter().filter(|(_, value)| !value.is_empty()) {
        let _ = writeln!(card, "| {} | {} |", inline(name), inline(value));
    }
    card.push('\n');
}

/// The first part of a prompt, to name a sample by; the sample itself shows all of it.
fn beginning(prompt: &str) -> String {
    const SHOWN: usize = 60;
    let mut part: String = prompt.chars().take(SHOWN).collect();
    if prompt.chars().nth(SHOWN).is_some() {
        part.push('…');
    }
    part
}

/// A number for a sentence: `12`, `3.5 million`, `1.21 billion`.
fn count(n: u64) -> String {
    match n {
        0..10_000 => n.to_string(),
        10_000..1_000_000 => format!("{:.1} thousand", n as f64 / 1e3),
        1_000_000..1_000_000_000 => format!("{:.2} million", n as f64 / 1e6),
        1_000_000_000..1_000_000_000_000 => format!("{:.2} billion", n as f64 / 1e9),
        _ => format!("{:.2} trillion", n as f64 / 1e12),
    }
}

/// A time for a table: `42 s`, `12 min 5 s`, `3 h 20 min`, `2 d 4 h`.
fn duration(seconds: f64) -> String {
    let s = seconds.max(0.0).round() as u64;
    match s {
        0..60 => format!("{s} s"),
        60..3600 => format!("{} min {} s", s / 60, s % 60),
        3600..86_400 => format!("{} h {} min", s / 3600, s % 3600 / 60),
        _ => format!("{} d {} h", s / 86_400, s % 86_400 / 3600),
    }
}

/// A quantity with three significant digits, written out.
fn significant(value: f64) -> String {
    if value <= 0.0 || !value.is_finite() {
        return "0".into();
    }
    let digits = (2 - value.log10().floor() as i64).max(0) as usize;
    format!("{value:.digits$}")
}
