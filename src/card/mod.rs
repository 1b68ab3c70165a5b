//! The model card: the README.md of a checkpoint folder, as the Hugging Face Hub shows it.
//!
//! One pure function, [`render`], from facts that the caller hands over to text. It knows no files, no clock and no
//! config: what is not handed over is left out, never guessed, and there is nothing in a card to fill in by hand. The
//! same facts give the same bytes.
//!
//! A card is a template whose placeholders stand for whole sections ([`DEFAULT_TEMPLATE`]); users may bring their own
//! ([`render_with`]).
//!
//! Unusual: the text of samples, prompts and configs is whatever a model or a user wrote. It goes into code fences longer
//! than any run of backticks in it, and into the YAML front matter only between double quotes, with everything escaped
//! that YAML would not take as it is.

mod escape;
mod facts;
mod front;
mod sections;

pub use facts::{CardEvaluation, CardFacts, CardPower, CardPrice, CardResult, CardSample, Loading};

use crate::error::{Error, Result};
use escape::inline;

/// The template that [`render`] fills.
pub const DEFAULT_TEMPLATE: &str = "\
{{front_matter}}

# {{name}}

{{introduction}}

{{loading}}

{{architecture}}

{{training}}

{{loss_curve}}

{{evaluation}}

{{samples}}

{{limitations}}

{{licence}}

{{reproduction}}
";

/// Every placeholder of a template and what it stands for. The first eleven are whole sections, with their headings.
pub const PLACEHOLDERS: [(&str, &str); 20] = [
    ("front_matter", "the YAML that the Hub reads, with its rows of dashes; it must come first"),
    ("introduction", "one paragraph: what the model is"),
    ("loading", "how to load it, with code"),
    ("architecture", "the table of the shape"),
    ("training", "data, hyperparameters, hardware, time, cost, energy"),
    ("loss_curve", "the picture of the loss"),
    ("evaluation", "the table of results with intervals"),
    ("samples", "texts that the model wrote"),
    ("limitations", "what it cannot do"),
    ("licence", "the licence of the weights"),
    ("reproduction", "command, seeds, versions, config"),
    ("name", "the name of the model"),
    ("repository", "OWNER/NAME on the Hub, or nothing"),
    ("license", "the licence as the Hub spells it, or nothing"),
    ("parameters", "the number of parameters"),
    ("step", "the optimizer step"),
    ("tokens", "tokens seen in training"),
    ("loss", "the validation loss, or nothing"),
    ("perplexity", "its exponential, or nothing"),
    ("taper_version", "the version of taper"),
];

/// The card as Markdown with YAML front matter.
pub fn render(facts: &CardFacts) -> String {
    fill(DEFAULT_TEMPLATE, &|name| value(name, facts))
}

/// The card by a template of the user's: its text with each `{{placeholder}}` of [`PLACEHOLDERS`] replaced. Where a section
/// is empty, so is its place. Braces that hold no single word are text.
///
/// # Errors
/// `Usage` for a word between double braces that is no placeholder, with its line and the ones there are.
pub fn render_with(template: &str, facts: &CardFacts) -> Result<String> {
    for (index, line) in template.lines().enumerate() {
        for word in words(line) {
            if !PLACEHOLDERS.iter().any(|(name, _)| *name == word) {
                let known = PLACEHOLDERS.map(|(name, _)| name).join(", ");
                return Err(Error::usage(format!(
                    "line {} of the card's template: {{{{{word}}}}} is no placeholder; there are {known}",
                    index + 1
                )));
            }
        }
    }
    Ok(fill(template, &|name| value(name, facts)))
}

/// The words between double braces on a line.
fn words(line: &str) -> Vec<&str> {
    let mut found = Vec::new();
    let mut rest = line;
    while let Some((_, word, after)) = next_word(rest) {
        found.push(word);
        rest = after;
    }
    found
}

/// The next `{{word}}`: the text before it, the word, and the text after.
fn next_word(text: &str) -> Option<(&str, &str, &str)> {
    let mut from = 0;
    while let Some(at) = text[from..].find("{{").map(|at| from + at) {
        let inner = &text[at + 2..];
        if let Some(end) = inner.find("}}") {
            let word = inner[..end].trim();
            if !word.is_empty() && word.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'_') {
                return Some((&text[..at], word, &inner[end + 2..]));
            }
        }
        from = at + 2;
    }
    None
}

/// The template with its words replaced. A place that stays empty takes the blank line after it along, so that sections
/// stay one blank line apart. What is put in is not looked at again.
fn fill(template: &str, value: &dyn Fn(&str) -> Option<String>) -> String {
    let mut card = String::new();
    let mut rest = template;
    while let Some((before, word, after)) = next_word(rest) {
        card.push_str(before);
        let text = value(word).unwrap_or_default();
        let alone = (card.is_empty() || card.ends_with('\n')) && (after.is_empty() || after.starts_with('\n'));
        rest = match alone && text.is_empty() {
            true => after.strip_prefix("\n\n").or(after.strip_prefix('\n')).unwrap_or(after),
            false => after,
        };
        card.push_str(text.trim_end_matches('\n'));
    }
    card.push_str(rest);
    let end = card.trim_end_matches('\n').len();
    card.truncate(end);
    card.push('\n');
    card
}

/// What a placeholder stands for; `None` for a name that is none.
fn value(name: &str, facts: &CardFacts) -> Option<String> {
    let loss = facts.evaluation.as_ref().map(|evaluation| evaluation.loss);
    Some(match name {
        "front_matter" => front::front_matter(facts),
        "introduction" => sections::introduction(facts),
        "loading" => sections::loading(facts),
        "architecture" => sections::architecture(facts),
        "training" => sections::training(facts),
        "loss_curve" => sections::loss_curve(facts),
        "evaluation" => sections::evaluation(facts),
        "samples" => sections::samples(facts),
        "limitations" => sections::limitations(facts),
        "licence" => sections::licence(facts),
        "reproduction" => sections::reproduction(facts),
        "name" => inline(&facts.name),
        "repository" => facts.repository.as_deref().map(inline).unwrap_or_default(),
        "license" => facts.license.as_deref().map(inline).unwrap_or_default(),
        "parameters" => facts.parameters.to_string(),
        "step" => facts.step.to_string(),
        "tokens" => facts.tokens.to_string(),
        "loss" => loss.map(|loss| format!("{loss:.4}")).unwrap_or_default(),
        "perplexity" => loss.map(|loss| format!("{:.2}", loss.exp())).unwrap_or_default(),
        "taper_version" => inline(&facts.taper_version),
        _ => return None,
    })
}
