//! The report as one self-contained page: charts as inline SVG, numbers, samples, incidents, config. No script, nothing
//! fetched; light or dark as the reader prefers; each chart in two shapes, of which a style rule shows the one that fits
//! the screen.

use super::Run;
use super::benchmarks;
use super::charts::Chart;
use super::differences::differences;
use super::draw::{NARROW, WIDE, inline_svg};
use super::escape::escape;
use super::figure::Figure;
use super::incidents::incidents;
use super::paint::{Paint, dark_rules, hex};
use super::summary::summary;
use crate::error::Result;
use crate::events::Sample;
use std::fmt::Write;

/// Incidents and samples that are listed at most: the first and the newest of a long run say what is to be said.
const LISTED: usize = 100;

/// The page of one run, or of several overlaid.
pub fn page(runs: &[Run], figures: &[(&Chart, Figure)]) -> Result<String> {
    let mut html = String::new();
    let name = match runs {
        [one] => one.name.clone(),
        several => format!("{} runs", several.len()),
    };
    let name = escape(&name);
    // Writing to a String cannot fail.
    let _ = write!(
        html,
        "<!DOCTYPE html>\n<html lang=\"en\">\n<head>\n<meta charset=\"utf-8\">\n<meta name=\"viewport\" \
         content=\"width=device-width, initial-scale=1\">\n<title>{name} · taper report</title>\n\
         <link rel=\"icon\" href=\"data:,\">\n<style>\n{}</style>\n\
         </head>\n<body>\n<main>\n<h1>{name}</h1>\n",
        style(figures)
    );
    numbers(&mut html, runs);
    if runs.len() > 1 {
        differing(&mut html, runs);
    }
    charts(&mut html, figures)?;
    benchmarks::section(&mut html, runs);
    for run in runs {
        troubles(&mut html, run, runs.len() > 1);
    }
    samples(&mut html, runs);
    for run in runs {
        let Some(config) = &run.config else { continue };
        let config = escape(config);
        let _ = match runs.len() {
            1 => write!(html, "<h2>Config</h2>\n<pre class=\"config\">{config}</pre>\n"),
            _ => writeln!(
                html,
                "<details><summary>Config of {}</summary><pre class=\"config\">{config}</pre></details>",
                escape(&run.name)
            ),
        };
    }
    html.push_str("</main>\n</body>\n</html>\n");
    Ok(html)
}

/// The summary: a column for each run.
fn numbers(html: &mut String, runs: &[Run]) {
    let tables: Vec<Vec<(String, String)>> = runs.iter().map(|run| summary(&run.log).rows()).collect();
    let mut names: Vec<&str> = Vec::new();
    for (name, _) in tables.iter().flatten() {
        if !names.contains(&name.as_str()) {
            names.push(name);
        }
    }
    let value = |table: &Vec<(String, String)>, name: &str| {
        table.iter().find(|(key, _)| key == name).map(|(_, value)| value.clone())
    };
    let rows = names.iter().map(|name| (name.to_string(), tables.iter().map(|table| value(table, name)).collect()));
    columns(html, runs, rows.collect());
}

/// A table with a row for each name and a column for each run.
fn columns(html: &mut String, runs: &[Run], rows: Vec<(String, Vec<Option<String>>)>) {
    html.push_str("<div class=\"scroll\"><table>\n");
    if runs.len() > 1 {
        let heads: String = runs.iter().map(|run| format!("<th scope=\"col\">{}</th>", escape(&run.name))).collect();
        let _ = writeln!(html, "<tr><td></td>{heads}</tr>");
    }
    for (name, values) in rows {
        let cell = |value: &Option<String>| format!("<td>{}</td>", value.as_deref().map_or("–".into(), escape));
        let cells: String = values.iter().map(cell).collect();
        let _ = writeln!(html, "<tr><th scope=\"row\">{}</th>{cells}</tr>", escape(&name));
    }
    html.push_str("</table></div>\n");
}

fn differing(html: &mut String, runs: &[Run]) {
    html.push_str("<h2>What differs</h2>\n");
    let rows: Vec<_> = differences(runs).into_iter().map(|d| (d.key, d.values)).collect();
    if rows.is_empty() {
        html.push_str("<p>Nothing: the configs and environments of these runs are the same.</p>\n");
        return;
    }
    columns(html, runs, rows);
}

/// The charts, in groups of which one is shown at a time. No script: the choice is a set of radio buttons, and a style rule
/// shows the figure that belongs to the chosen one.
fn charts(html: &mut String, figures: &[(&Chart, Figure)]) -> Result<()> {
    for group in figures.chunk_by(|a, b| a.0.group == b.0.group) {
        if let [(_, figure)] = group {
            let _ = writeln!(html, "<figure>\n{}</figure>", both_shapes(figure)?);
            continue;
        }
        html.push_str("<div class=\"choice\">\n<span>against</span>\n");
        for (i, (chart, _)) in group.iter().enumerate() {
            let checked = if i == 0 { " checked" } else { "" };
            let Chart { stem, group, choice, .. } = chart;
            let _ = writeln!(
                html,
                "<input type=\"radio\" name=\"{group}\" id=\"{stem}\"{checked}><label for=\"{stem}\">{choice}</label>"
            );
        }
        for (chart, figure) in group {
            let _ = writeln!(html, "<figure class=\"of-{}\">\n{}</figure>", chart.stem, both_shapes(figure)?);
        }
        html.push_str("</div>\n");
    }
    Ok(())
}

fn both_shapes(figure: &Figure) -> Result<String> {
    Ok(inline_svg(figure, WIDE, "wide")? + &inline_svg(figure, NARROW, "narrow")?)
}

/// What went wrong, and where.
fn troubles(html: &mut String, run: &Run, named: bool) {
    let told = incidents(run);
    if told.is_empty() {
        return;
    }
    let of = if named { format!(" of {}", escape(&run.name)) } else { String::new() };
    let _ = write!(html, "<h2>Incidents{of}</h2>\n<table>\n");
    for incident in told.iter().take(LISTED) {
        let (step, text) = (incident.step, escape(&incident.text));
        let _ = write!(html, "<tr><th scope=\"row\">step {step}</th><td>{text}");
        if let Some(data) = &incident.data {
            let last = data.first_sequence + data.sequences.max(1) - 1;
            let commands = escape(&incident.commands.join("\n"));
            let _ = write!(
                html,
                "<details><summary>data: sequences {} to {last}</summary><pre>{commands}</pre></details>",
                data.first_sequence
            );
        }
        html.push_str("</td></tr>\n");
    }
    html.push_str("</table>\n");
    if let Some(more) = told.len().checked_sub(LISTED + 1) {
        let _ = writeln!(html, "<p>And {} more; all are in events.jsonl.</p>", more + 1);
    }
}

/// The generated texts, newest step first and open, the older ones behind a click; those of one step side by side.
fn samples(html: &mut String, runs: &[Run]) {
    let mut steps: Vec<u64> = runs.iter().flat_map(|run| run.log.samples().map(|sample| sample.step)).collect();
    steps.sort_unstable_by(|a, b| b.cmp(a));
    steps.dedup();
    if steps.is_empty() {
        return;
    }
    let of: Vec<Vec<&Sample>> = runs.iter().map(|run| run.log.samples().collect()).collect();
    html.push_str("<h2>Samples over time</h2>\n");
    for (i, step) in steps.iter().take(LISTED).enumerate() {
        let open = if i == 0 { " open" } else { "" };
        let _ = write!(html, "<details{open}><summary>step {step}</summary><div class=\"side\">");
        for (run, samples) in runs.iter().zip(&of) {
            let name = match runs.len() {
                1 => String::new(),
                _ => format!("<i>{}</i>\n", escape(&run.name)),
            };
            for sample in samples.iter().filter(|sample| sample.step == *step) {
                let _ = write!(html, "<pre>{name}<b>{}</b>{}</pre>", escape(&sample.prompt), escape(&sample.text));
            }
        }
        html.push_str("</div></details>\n");
    }
    if let Some(more) = steps.len().checked_sub(LISTED + 1) {
        let _ = writeln!(html, "<p>And those of {} earlier steps; all are in events.jsonl.</p>", more + 1);
    }
}

/// The style of a page with these charts.
pub(super) fn style(figures: &[(&Chart, Figure)]) -> String {
    let shown = |(chart, _): &(&Chart, Figure)| format!("#{0}:checked~.of-{0}{{display:block}}\n", chart.stem);
    let shown: String = figures.iter().map(shown).collect();
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
        ":root{{color-scheme:light dark}}\n{}\n@media (prefers-color-scheme:dark){{\n{}\n{}}}\n{}{shown}",
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
h3{font-size:1rem;margin:1rem 0 .25rem}
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
.scroll{overflow-x:auto}
th[scope=col]{color:var(--text);font-weight:600;min-width:8rem}
.scroll th[scope=row]{min-width:7rem;overflow-wrap:break-word}
.choice{margin:1.5rem 0}
.choice>span{color:var(--muted);padding-right:.5rem}
.choice>input{position:absolute;opacity:0}
.choice>label{display:inline-block;padding:.2rem .7rem;border:1px solid var(--grid);border-radius:1rem;cursor:pointer;\
color:var(--muted)}
.choice>input:checked+label{color:var(--text);border-color:var(--text)}
.choice>input:focus-visible+label{outline:2px solid var(--muted)}
.choice>figure{display:none;margin:.5rem 0}
.side{display:grid;grid-template-columns:repeat(auto-fit,minmax(min(17rem,100%),1fr));gap:0 1.5rem}
.side i{color:var(--muted)}
@media (max-width:640px){th{width:38%}figure svg.wide{display:none}figure svg.narrow{display:block}}
";
