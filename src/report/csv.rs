//! A run's measurements as a table for other programs: comma-separated values, one row for each run and step.
//!
//! Columns, in this order: `run`, `step`, `tokens`, `flops`, `time_s`, `train_loss`, `val_loss`, one `<split>_loss` for
//! each further split, `learning_rate`, `grad_norm`, `grad_norm_clipped`, `class`, `step_ms`, `tokens_per_s`, `mfu`. A
//! cell is empty where nothing was measured; numbers have all the digits that bring back the same bits; `nan`, `inf`
//! and `-inf` stand for what they say. Step 0 is the untrained model. docs/report.md describes the columns to users.

use super::{Run, summary};
use crate::events::{Eval, Step, number_to_string};
use std::collections::BTreeMap;
use std::fmt::Write;

/// The table of these runs, with a line of column names.
pub fn csv(runs: &[Run]) -> String {
    let mut splits: Vec<String> = Vec::new();
    for split in runs.iter().flat_map(|run| summary::splits(&run.log)) {
        if split != "val" && !splits.contains(&split) {
            splits.push(split);
        }
    }
    splits.insert(0, "val".into());
    let mut out = String::from("run,step,tokens,flops,time_s,train_loss");
    for split in &splits {
        out.push(',');
        out.push_str(&field(&format!("{split}_loss")));
    }
    out.push_str(",learning_rate,grad_norm,grad_norm_clipped,class,step_ms,tokens_per_s,mfu\n");
    for run in runs {
        let mut rows: BTreeMap<u64, (Option<&Step>, Vec<&Eval>)> = BTreeMap::new();
        for step in run.log.steps() {
            rows.entry(step.step).or_default().0 = Some(step);
        }
        for eval in run.log.evals() {
            rows.entry(eval.step).or_default().1.push(eval);
        }
        let name = field(&run.name);
        for (at, (step, evals)) in rows {
            let tokens = step.map(|e| e.tokens).or_else(|| evals.first().map(|e| e.tokens)).unwrap_or(0);
            let flops = cell(run.flops_at(tokens));
            // Writing to a String cannot fail.
            let _ = write!(out, "{name},{at},{tokens},{flops},{}", cell(run.seconds_at(at)));
            let _ = write!(out, ",{}", cell(step.map(|e| e.loss)));
            for split in &splits {
                let _ = write!(out, ",{}", cell(evals.iter().find(|e| e.split == *split).map(|e| e.loss)));
            }
            match step {
                None => out.push_str(",,,,,,,\n"),
                Some(e) => {
                    let timing = |value: f64| cell((!value.is_nan()).then_some(value));
                    let (lr, norm, clipped) =
                        (cell(Some(e.lr)), cell(Some(e.grad_norm)), cell(Some(e.grad_norm_clipped)));
                    let (ms, rate) = (timing(e.step_ms), timing(e.tokens_per_s));
                    let _ = writeln!(out, ",{lr},{norm},{clipped},{},{ms},{rate},{}", e.class.name(), cell(e.mfu));
                }
            }
        }
    }
    out
}

fn cell(value: Option<f64>) -> String {
    value.map_or_else(String::new, number_to_string)
}

/// A text as a field: in quotes where it holds what separates (RFC 4180).
fn field(text: &str) -> String {
    match text.contains([',', '"', '\n', '\r']) {
        true => format!("\"{}\"", text.replace('"', "\"\"")),
        false => text.to_owned(),
    }
}
