//! The table of `taper bench ops` on a GPU: what each operator reached next to the ceiling that limits it.

use serde_json::{Value, json};

use crate::cli::ui::{print_json, print_line};
use crate::error::Result;

/// What limits an operator.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Limit {
    Bytes,
    Flops,
}

/// One measurement.
pub(crate) struct Row {
    pub op: &'static str,
    pub pass: &'static str,
    pub limit: Limit,
    /// Bytes or operations.
    pub amount: f64,
    pub seconds: f64,
}

/// The measurements of one machine and its ceilings, in operations and bytes per second.
pub(crate) struct Table {
    pub rows: Vec<Row>,
    pub flops: f64,
    pub bytes: f64,
}

impl Table {
    /// Rate in the unit of its limit, the unit for people and for programs, and the share of the ceiling.
    fn rate(&self, row: &Row) -> (f64, &'static str, &'static str, f64) {
        let per_second = row.amount / row.seconds;
        let ((unit, key, scale), ceiling) = match row.limit {
            Limit::Bytes => (("GB/s", "gb_per_s", 1e9), self.bytes),
            Limit::Flops => (("TFLOP/s", "tflop_per_s", 1e12), self.flops),
        };
        (per_second / scale, unit, key, per_second / ceiling)
    }

    /// One JSON object: the device, the ceilings, the operators.
    pub fn print_json(&self, device: &Value) -> Result<()> {
        let ops: Vec<Value> = self
            .rows
            .iter()
            .map(|row| {
                let (rate, _, key, share) = self.rate(row);
                json!({"op": row.op, "pass": row.pass, "ms": row.seconds * 1e3, key: rate, "share": share})
            })
            .collect();
        let ceilings = json!({"tflop_per_s": self.flops / 1e12, "gb_per_s": self.bytes / 1e9});
        print_json(&json!({"device": device, "ceilings": ceilings, "ops": ops}))
    }

    /// A line for each operator.
    pub fn print(&self) -> Result<()> {
        let width = self.rows.iter().map(|row| row.op.len()).max().unwrap_or(0);
        self.rows.iter().try_for_each(|row| {
            let (rate, unit, _, share) = self.rate(row);
            let (op, pass, ms, percent) = (row.op, row.pass, row.seconds * 1e3, 100.0 * share);
            print_line(&format!("{op:<width$} {pass:<18} {ms:>9.3} ms {rate:>8.1} {unit:<7} {percent:>4.0}%"))
        })
    }
}
