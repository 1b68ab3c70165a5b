//! `taper bench ops`: every operator of a training step at the step's shapes, next to its floor; then the step itself.
//!
//! The floor of an operator is the larger of two times: that of moving the bytes that must move at the rate of copying
//! memory, and that of doing the FLOPs of its products at the peak of the unit that makes them. Both ceilings are
//! measured in the same process. `share` is the floor over the measured time. Operators times their counts make the
//! step; what they leave of the measured step is told. Of all times the best counts, because what else the machine does
//! can only make one longer.

use std::time::{Duration, Instant};

use serde_json::{Value, json};

use crate::cli::bench::args::{Ops, Workload};
use crate::cli::bench::ops_list::StepShape;
use crate::cli::bench::ops_time::{Pass, time, time_arena};
use crate::cli::bench::peaks::Ceilings;
use crate::cli::bench::step;
use crate::cli::ui::{print_json, print_line};
use crate::device::{Device, pool};
use crate::error::{Error, Result};
use crate::model::Gpt;
use crate::ops::matmul::peak::unit_products;
use crate::tensor::DType;
use crate::train::config::{Precision, PrecisionConfig};

/// A pass of an operator, measured.
struct Row {
    op: &'static str,
    pass: Pass,
    count: usize,
    /// Seconds.
    floor: f64,
    measured: f64,
}

impl Row {
    fn json(&self) -> Value {
        json!({
            "op": self.op,
            "pass": self.pass.name,
            "bytes": self.pass.bytes,
            "flops": self.pass.flops,
            "floor_ms": self.floor * 1e3,
            "ms": self.measured * 1e3,
            "share": self.floor / self.measured,
            "count": self.count,
        })
    }
}

pub(crate) fn run(args: &Ops, workload: Workload) -> Result<()> {
    if let Some(gpu) = Device::parse(&args.device)?.gpu()? {
        if args.shape.is_some() || args.precision.is_some() {
            return Err(Error::usage(
                "--shape and --precision are for the CPU; on a GPU the operators are those of GPT-2 small in bf16",
            ));
        }
        return crate::cli::bench::gpu::run(gpu, args.json);
    }
    let precision = PrecisionConfig { compute: args.precision, ..PrecisionConfig::default() }.resolve(false)?;
    let patience = Duration::from_millis(args.patience);
    let ceilings = Ceilings::measure(patience);
    let rows = measure(&workload, precision.dtype(), patience, &ceilings)?;
    // What the operators leave in the pool is no part of the step.
    pool::release();
    let Workload { name, model, batch, .. } = &workload;
    let (name, batch, t) = (name.clone(), *batch, model.context_length);
    let step = step::measure(workload, Device::Cpu, precision, args.steps, Instant::now())?;
    let summary = Summary::new(&rows, step.best());
    let threads = rayon::current_num_threads();
    if args.json {
        return print_json(&json!({
            "shape": name,
            "precision": precision.name(),
            "batch": batch,
            "context_length": t,
            "threads": threads,
            "ceilings": ceilings.json(),
            "ops": rows.iter().map(Row::json).collect::<Vec<Value>>(),
            "sum_ms": summary.measured * 1e3,
            "floor_sum_ms": summary.floor * 1e3,
            "step_ms": step.median() * 1e3,
            "step_ms_best": step.best() * 1e3,
            "explained_share": summary.measured / summary.step,
        }));
    }
    print_line(&format!("{name}: B={batch} T={t}, {}, {threads} thread(s)", precision.name()))?;
    print_line(&format!("ceilings: {}\n", ceilings.words()))?;
    print(&rows, &summary, precision)
}

/// The best step next to its operators, in seconds.
struct Summary {
    measured: f64,
    floor: f64,
    step: f64,
}

impl Summary {
    fn new(rows: &[Row], step: f64) -> Summary {
        let sum = |of: &dyn Fn(&Row) -> f64| rows.iter().map(|row| row.count as f64 * of(row)).sum();
        Summary { measured: sum(&|row| row.measured), floor: sum(&|row| row.floor), step }
    }
}

fn measure(workload: &Workload, dtype: DType, patience: Duration, ceilings: &Ceilings) -> Result<Vec<Row>> {
    let shape = StepShape::new(workload.model.clone(), workload.batch, dtype)?;
    let row = |op, count, pass: Pass, products: Option<u32>, measured| {
        let floor = (pass.bytes / ceilings.copy).max(pass.flops / ceilings.of_product(products));
        Row { op, pass, count, floor, measured }
    };
    let mut rows = Vec::new();
    for operator in shape.operators() {
        let products = operator.product.and_then(|shape| match dtype {
            DType::F32 => unit_products::<f32>(shape),
            _ => unit_products::<half::bf16>(shape),
        });
        let times = time(&operator, dtype, patience)?;
        for (pass, seconds) in operator.passes.iter().zip(times) {
            rows.push(row(operator.name, operator.count, pass.clone(), products, seconds));
        }
    }
    // First what a step has, in its order, then the others.
    let others = rows.iter().position(|row| row.count == 0).unwrap_or(rows.len());
    let arena = time_arena(&Gpt::new(workload.model.clone())?, dtype, patience)?;
    let passes = arena.into_iter().map(|(op, pass, seconds)| row(op, 1, pass, None, seconds));
    rows.splice(others..others, passes);
    Ok(rows)
}

fn print(rows: &[Row], summary: &Summary, precision: Precision) -> Result<()> {
    print_line(&format!(
        "{:<15} {:<8} {:>9} {:>8} {:>9} {:>9} {:>6} {:>6} {:>9}",
        "operator", "pass", "MB", "GFLOP", "floor ms", "ms", "share", "count", "step ms"
    ))?;
    for row in rows {
        let Row { op, pass, count, floor, measured } = row;
        print_line(&format!(
            "{op:<15} {:<8} {:>9.2} {:>8.2} {:>9.3} {:>9.3} {:>5.0}% {count:>6} {:>9.2}",
            pass.name,
            pass.bytes / 1e6,
            pass.flops / 1e9,
            floor * 1e3,
            measured * 1e3,
            100.0 * floor / measured,
            *count as f64 * measured * 1e3,
        ))?;
    }
    let Summary { measured, floor, step } = summary;
    let line = |what: &str, seconds: f64, share: f64| {
        print_line(&format!("{what:<34} {:>9.2} ms {:>6.1}% of the step", seconds * 1e3, 100.0 * share))
    };
    print_line("")?;
    line("operators, times their counts", *measured, measured / step)?;
    line(&format!("the best step, in {}", precision.name()), *step, 1.0)?;
    line("not explained by the operators", step - measured, (step - measured) / step)?;
    line("floors, times the counts", *floor, floor / step)
}
