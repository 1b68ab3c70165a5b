//! The benchmarks of runs on the page: what each scored last, with the error of its examples, and how it came there.

use std::fmt::Write;

use super::Run;
use super::escape::escape;
use crate::events::{Task, TaskMetric};

/// The tables, where any run has a score: one for each benchmark, a row for each run and step.
pub(super) fn section(html: &mut String, runs: &[Run]) {
    let mut kinds: Vec<(&str, &str)> = Vec::new();
    for task in runs.iter().flat_map(|run| run.log.tasks()) {
        if !kinds.contains(&(&task.task, file(task))) {
            kinds.push((&task.task, file(task)));
        }
    }
    if kinds.is_empty() {
        return;
    }
    html.push_str("<h2>Benchmarks</h2>\n");
    for (kind, data) in kinds {
        table(html, runs, kind, data);
    }
    html.push_str(
        "<p>± is the standard error over the examples: how another set of questions of the same kind would vary.</p>\n",
    );
}

fn table(html: &mut String, runs: &[Run], kind: &str, data: &str) {
    let is_it = |task: &&Task| task.task == kind && file(task) == data;
    let scores = || runs.iter().flat_map(|run| run.log.tasks().filter(is_it));
    let mut names: Vec<&str> = Vec::new();
    for metric in scores().flat_map(|task| &task.metrics) {
        if !names.contains(&metric.name.as_str()) {
            names.push(&metric.name);
        }
    }
    // Writing to a String cannot fail.
    let _ = writeln!(html, "<h3>{} ({})</h3>\n<div class=\"scroll\"><table>", escape(kind), escape(data));
    let of_run = if runs.len() > 1 { "<th scope=\"col\">run</th>" } else { "" };
    let heads: String = names.iter().map(|name| format!("<th scope=\"col\">{}</th>", escape(name))).collect();
    let _ = writeln!(html, "<tr>{of_run}<th scope=\"col\">step</th>{heads}<th scope=\"col\">examples</th></tr>");
    for run in runs {
        let mut steps: Vec<&Task> = Vec::new();
        for task in run.log.tasks().filter(is_it) {
            // Scored again at the same step: the newer counts.
            steps.retain(|known| known.step != task.step);
            steps.push(task);
        }
        steps.sort_by_key(|task| task.step);
        for task in steps {
            let name = if runs.len() > 1 { format!("<td>{}</td>", escape(&run.name)) } else { String::new() };
            let value =
                |name: &&str| task.metrics.iter().find(|metric| metric.name == **name).map_or("–".into(), words);
            let cells: String = names.iter().map(|name| format!("<td>{}</td>", value(name))).collect();
            let _ = writeln!(html, "<tr>{name}<td>{}</td>{cells}<td>{}</td></tr>", task.step, task.examples);
        }
    }
    html.push_str("</table></div>\n");
}

fn words(metric: &TaskMetric) -> String {
    match metric.standard_error {
        Some(error) => format!("{:.4} ± {error:.4}", metric.value),
        None => format!("{:.4}", metric.value),
    }
}

/// The file's name: where it lies is nobody's business but its owner's.
fn file(task: &Task) -> &str {
    task.data.rsplit(['/', '\\']).next().unwrap_or_default()
}
