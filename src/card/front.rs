//! The YAML front matter: what the Hub sorts, searches and shows next to the card.
//!
//! Results go into `model-index`, in the form that the Hub's own library checks: a task, a data set with type and name,
//! metrics with type and value. Numbers that are not finite are left out, since no reader takes them.

use super::escape::yaml_string;
use super::facts::{CardFacts, Loading};

/// The front matter, with its rows of dashes.
pub(super) fn front_matter(facts: &CardFacts) -> String {
    let mut yaml = String::from("---\n");
    let mut scalar = |key: &str, value: &str| yaml += &format!("{key}: {}\n", yaml_string(value));
    if let Some(license) = &facts.license {
        scalar("license", license);
    }
    if let Loading::Transformers { .. } = facts.loading {
        scalar("library_name", "transformers");
    }
    scalar("pipeline_tag", "text-generation");
    if let Some(base) = &facts.base_model {
        scalar("base_model", base);
    }
    let mut list = |key: &str, values: &mut dyn Iterator<Item = &str>| {
        let mut lines: Vec<String> = values.map(|value| format!("- {}\n", yaml_string(value))).collect();
        let mut seen = Vec::new();
        lines.retain(|line| {
            !seen.contains(line) && {
                seen.push(line.clone());
                true
            }
        });
        if !lines.is_empty() {
            yaml += &format!("{key}:\n{}", lines.concat());
        }
    };
    list("language", &mut facts.languages.iter().map(String::as_str));
    list("datasets", &mut facts.datasets.iter().map(String::as_str));
    list("tags", &mut std::iter::once("taper").chain(facts.tags.iter().map(String::as_str)));
    yaml + &model_index(facts) + "---\n"
}

/// One result of `model-index`.
struct Entry {
    dataset_type: String,
    dataset_name: String,
    metrics: Vec<(String, String, f64)>,
}

fn model_index(facts: &CardFacts) -> String {
    let mut entries = Vec::new();
    // The Hub wants a type; "text" says that the data are no data set of its own.
    let kind = |dataset: &Option<String>| dataset.clone().unwrap_or_else(|| "text".into());
    if let Some(evaluation) = &facts.evaluation {
        let metric = |kind: &str, name: &str, value: f64| (kind.to_string(), name.to_string(), value);
        let mut metrics = vec![
            metric("loss", "loss (nats per token)", evaluation.loss),
            metric("perplexity", "perplexity", evaluation.loss.exp()),
        ];
        metrics.extend(evaluation.bits_per_byte.map(|bits| metric("bits_per_byte", "bits per byte", bits)));
        let name = if evaluation.data.is_empty() { "validation text" } else { &evaluation.data };
        entries.push(Entry { dataset_type: kind(&evaluation.dataset), dataset_name: name.to_string(), metrics });
    }
    for result in &facts.results {
        entries.push(Entry {
            dataset_type: kind(&result.dataset),
            dataset_name: result.benchmark.clone(),
            metrics: vec![(result.metric.clone(), result.metric.clone(), result.value)],
        });
    }
    entries.iter_mut().for_each(|entry| entry.metrics.retain(|(_, _, value)| value.is_finite()));
    entries.retain(|entry| !entry.metrics.is_empty());
    if entries.is_empty() {
        return String::new();
    }
    let mut yaml = format!("model-index:\n- name: {}\n  results:\n", yaml_string(&facts.name));
    for entry in entries {
        yaml += &format!(
            "  - task:\n      type: \"text-generation\"\n      name: \"Text Generation\"\n    dataset:\n      type: {}\n      \
             name: {}\n    metrics:\n",
            yaml_string(&entry.dataset_type),
            yaml_string(&entry.dataset_name)
        );
        for (kind, name, value) in entry.metrics {
            yaml += &format!(
                "    - type: {}\n      name: {}\n      value: {}\n",
                yaml_string(&kind),
                yaml_string(&name),
                number(value)
            );
        }
    }
    yaml
}

/// A number as YAML 1.1 reads it: with a point, never with an exponent.
fn number(value: f64) -> String {
    let text = format!("{value}");
    if text.contains('.') { text } else { format!("{text}.0") }
}
