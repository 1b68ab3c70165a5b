//! The report as one self-contained page: charts as inline SVG, numbers, samples, incidents, config. No script, nothing
//! fetched; light or dark as the reader prefers; each chart in two shapes, of which a style rule shows the one that fits
//! the screen.

use super::Run;
use super::draw::{NARROW, WIDE, inline_svg};
use super::figure::Figure;
use super::paint::{Paint, dark_rules, hex};
use super::summary::{Summary, summary};
use crate::error::Result;
use crate::events::{Event, number_to_string};
use std::fmt::Write;

/// Incidents and samples that are listed at most: the first and the newest of a long run say what is to be said.
const LISTED: usize = 100;

/// Text as HTML.
pub fn escape(text: &str) -> String {
    let mut escaped = String::with_capacity(text.len());
    for c in text.chars() {
        match c {
            '&' => escaped.push_str("&amp;"),
            '<' => escaped.push_str("&lt;"),
            '>' => escaped.push_str("&gt;"),
            '"' => escaped.push_str("&quot;"),
            // Not allowed in HTML, nor in the XML of an SVG.
            c if c.is_control() && !matches!(c, '\n' | '\t') => escaped.push('\u{FFFD}'),
            c => escaped.push(c),
        }
    }
    escaped
}

/// The page of one run.
pub fn page(run: &Run, figures: &[Figure]) -> Result<String> {
    let mut html = String::new();
    let name = escape(&run.name);
    // Writing to a String cannot fail.
    let _ = write!(
        html,
        "<!DOCTYPE html>\n<html lang=\"en\">\n<head>\n<meta charset=\"utf-8\">\n<meta name=\"viewport\" \
         content=\"width=device-width, initial-scale=1\">\n<title>{name} · taper report</title>\n<style>\n{}</style>\n\
         </head>\n<body>\n<main>\n<h1>{name}</h1>\n",
        style()
    );
    numbers(&mut html, &summary(&run.log));
    for figure in figures {
        let wide = inline_svg(figure, WIDE, "wide")?;
        let narrow = inline_svg(figure, NARROW, "narrow")?;
        let _ = write!(html, "<figure>\n{wide}{narrow}</figure>\n");
    }
    incidents(&mut html, run);
    samples(&mut html, run);
    if let Some(config) = &run.config {
        let _ = write!(html, "<h2>Config</h2>\n<pre class=\"config\">{}</pre>\n", escape(config));
    }
    html.push_str("</main>\n</body>\n</html>\n");
    Ok(html)
}

fn numbers(html: &mut String, summary: &Summary) {
    html.push_str("<table>\n");
    for (name, value) in summary.rows() {
        let _ = writeln!(html, "<tr><th scope=\"row\">{}</th><td>{}</td></tr>", escape(&name), escape(&value));
    }
    html.push_str("</table>\n");
}

/// What went wrong, and where: steps that were not finite, jumps of the loss, restarts.
fn incidents(html: &mut String, run: &Run) {
    let told = run.log.events.iter().filter_map(|event| match event {
        Event::Nonfinite(e) => {
            let by = e.parameter.as_ref().map_or(String::new(), |name| format!(", first in {name}"));
            let action = format!("{:?}", e.action).to_lowercase();
            Some((e.step, format!("{}{by}; action: {action}", e.class.name().replace('_', " "))))
        }
        Event::Spike(e) => {
            let (loss, z) = (number_to_string(e.loss), number_to_string(e.z_score));
            Some((e.step, format!("loss spike to {loss}, {z} standard deviations above the losses before")))
        }
        Event::Resume(e) => Some((e.step, "training went on from here".into())),
        _ => None,
    });
    let told: Vec<(u64, String)> = told.collect();
    if told.is_empty() {
        return;
    }
    html.push_str("<h2>Incidents</h2>\n<table>\n");
    for (step, what) in told.iter().take(LISTED) {
        let _ = writeln!(html, "<tr><th scope=\"row\">step {step}</th><td>{}</td></tr>", escape(what));
    }
    html.push_str("</table>\n");
    if let Some(more) = told.len().checked_sub(LISTED + 1) {
        let _ = writeln!(html, "<p>And {} more; all are in events.jsonl.</p>", more + 1);
    }
}

/// The generated texts, newest first and open; the older ones behind a click.
fn samples(html: &mut String, run: &Run) {
    let samples: Vec<_> = run.log.samples().collect();
    let Some(newest) = samples.last().map(|sample| sample.step) else { return };
    html.push_str("<h2>Samples over time</h2>\n");
    for sample in samples.iter().rev().take(LISTED) {
        let open = if sample.step == newest { " open" } else { "" };
        let _ = writeln!(
            html,
            "<details{open}><summary>step {}</summary><pre><b>{}</b>{}</pre></details>",
            sample.step,
            escape(&sample.prompt),
            escape(&sample.text)
        );
    }
    if let Some(more) = samples.len().checked_sub(LISTED + 1) {
        let _ = writeln!(html, "<p>And {} earlier ones; all are in events.jsonl.</p>", more + 1);
    }
}

pub(super) fn style() -> String {
    let variables = |dark: bool| {
        let pick = |paint: Paint| hex(if dark { paint.versions().1 } else { paint.versions().0 });
        format!(
            ":root{{--surface:{};--text:{};--muted:{};--grid:{}}}",
            pick(Paint::Surface),
            pick(Paint::Text),
            pick(Paint::Muted),
            pick(Paint::Grid)
        )
    };
    format!(
        ":root{{color-scheme:light dark}}\n{}\n@media (prefers-color-scheme:dark){{\n{}\n{}}}\n{}",
        variables(false),
        variables(true),
        dark_rules("figure"),
        PLAIN_STYLE
    )
}

/// The part of the style that no colour is in.
const PLAIN_STYLE: &str = "\
body{margin:0;background:var(--surface);color:var(--text);font:16px/1.5 system-ui,sans-serif}
main{max-width:960px;margin:0 auto;padding:1rem}
h1{font-size:1.5rem;margin:.5rem 0 1rem;overflow-wrap:anywhere}
h2{font-size:1.15rem;margin:2rem 0 .5rem}
table{border-collapse:collapse;width:100%;font-variant-numeric:tabular-nums}
th,td{text-align:left;vertical-align:top;padding:.25rem .75rem .25rem 0;border-bottom:1px solid var(--grid);\
overflow-wrap:anywhere}
th{font-weight:normal;color:var(--muted);width:12rem}
figure{margin:1.5rem 0}
figure svg{display:block;width:100%;height:auto}
figure svg text{font-family:system-ui,sans-serif}
figure svg.narrow{display:none}
details{border-bottom:1px solid var(--grid);padding:.4rem 0}
summary{cursor:pointer;color:var(--muted)}
pre{font:13px/1.45 ui-monospace,monospace;white-space:pre-wrap;overflow-wrap:anywhere;margin:.5rem 0}
@media (max-width:640px){th{width:38%}figure svg.wide{display:none}figure svg.narrow{display:block}}
";
