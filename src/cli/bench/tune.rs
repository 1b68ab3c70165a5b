//! `taper bench tune`: which algorithm makes each matrix product of a training step fastest on this GPU.
//!
//! Steps are timed with the library's first choices, with the algorithms that were measured, and with GELU inside the
//! products; the fastest of the three is what the table says.

use std::time::Instant;

use serde_json::json;

use crate::arch::config::Mlp;
use crate::cli::bench::args::{Tune, Workload};
use crate::cli::bench::step::{precision, random_batch};
use crate::cli::ui::{note, print_json, print_line};
use crate::device::products::ProductTable;
use crate::device::{Device, Gpu};
use crate::error::{Error, Result};
use crate::model::Gpt;
use crate::train::engine::{Engine, OnGpu, Setup, StepBatch};

/// Steps that are waited for together.
const TOGETHER: u64 = 4;
/// A step is better only if it takes less than this share of the time: less is within the noise.
const BETTER: f64 = 0.995;

/// Seconds of a step for each way of making its products.
struct Measured {
    first_choice: f64,
    tuned: f64,
    gelu_inside: Option<f64>,
}

pub(crate) fn run(args: &Tune, workload: Workload) -> Result<()> {
    let device = Device::parse(&args.step.device)?;
    let Some(gpu) = device.gpu()? else {
        return Err(Error::usage("bench tune measures a GPU, and the device is the CPU, whose products need no table"));
    };
    let precision = precision(&args.step, true)?;
    let gelu = workload.model.mlp == Mlp::Gelu;
    let (b, t, v) = (workload.batch, workload.model.context_length, workload.model.vocab_size);
    let model = Gpt::new(workload.model)?;
    let params = model.initialise(1)?;
    let setup = Setup { seed_dropout: 1, recompute: workload.recompute, lanes: 1 };
    let mut engine = OnGpu::new(gpu, &model, &params, workload.hyper, setup, precision, false)?;
    let mut steps = Steps { gpu, engine: &mut engine, lr: workload.lr, step: 0, rounds: args.step.steps };
    let batch = random_batch(b, t, v)?;
    let mut table = ProductTable { hardware: gpu.driver().facts().kind(), ..ProductTable::default() };
    gpu.use_products(&table)?;
    let first_choice = steps.seconds(&batch)?;
    table.algorithms = steps.tune(&batch)?;
    gpu.use_products(&table)?;
    let mut measured = Measured { first_choice, tuned: steps.seconds(&batch)?, gelu_inside: None };
    if measured.tuned >= first_choice * BETTER {
        table.algorithms.clear();
    }
    if gelu {
        match gelu_inside(&mut steps, &batch, &table) {
            Ok((with_gelu, seconds)) => {
                measured.gelu_inside = Some(seconds);
                if seconds < first_choice.min(measured.tuned) * BETTER {
                    table = with_gelu;
                }
            }
            // Not every library has these products in every precision.
            Err(error) => note(&format!("GELU is not computed inside products here: {error}")),
        }
    }
    // What comes after in this process starts from the library's choices again.
    gpu.use_products(&ProductTable { hardware: table.hardware.clone(), ..ProductTable::default() })?;
    std::fs::write(&args.out, table.to_text()).map_err(Error::io("write", &args.out))?;
    report(args, &table, &measured)
}

/// The table with GELU inside the products, and the seconds of a step with it.
fn gelu_inside(
    steps: &mut Steps<'_, '_>,
    batch: &dyn Fn(u64) -> StepBatch,
    table: &ProductTable,
) -> Result<(ProductTable, f64)> {
    steps.gpu.set_gelu_epilogue(true);
    let algorithms = steps.tune(batch)?;
    let table = ProductTable { gelu_epilogue: true, algorithms, ..table.clone() };
    steps.gpu.use_products(&table)?;
    let seconds = steps.seconds(batch)?;
    Ok((table, seconds))
}

struct Steps<'s, 'm> {
    gpu: &'static Gpu,
    engine: &'s mut OnGpu<'m>,
    lr: f64,
    step: u64,
    rounds: u32,
}

impl Steps<'_, '_> {
    fn some(&mut self, batch: &dyn Fn(u64) -> StepBatch, count: u64) -> Result<()> {
        for _ in 0..count {
            self.engine.step(&batch(self.step), self.lr)?;
            self.step += 1;
        }
        self.engine.finished().map(|_| ())
    }

    /// Seconds of a step: the median of some rounds, after one that is not counted.
    fn seconds(&mut self, batch: &dyn Fn(u64) -> StepBatch) -> Result<f64> {
        self.some(batch, TOGETHER)?;
        let mut times = Vec::new();
        for _ in 0..self.rounds {
            let began = Instant::now();
            self.some(batch, TOGETHER)?;
            times.push(began.elapsed().as_secs_f64() / TOGETHER as f64);
        }
        times.sort_by(f64::total_cmp);
        Ok(times[times.len() / 2])
    }

    /// A step in which every product is measured; what has been found so far.
    fn tune(&mut self, batch: &dyn Fn(u64) -> StepBatch) -> Result<std::collections::BTreeMap<String, String>> {
        self.gpu.driver().tune(true);
        let done = self.some(batch, 1);
        self.gpu.driver().tune(false);
        done.map(|()| self.gpu.driver().tuned())
    }
}

fn report(args: &Tune, table: &ProductTable, measured: &Measured) -> Result<()> {
    let ms = |seconds: f64| seconds * 1e3;
    if args.step.json {
        return print_json(&json!({
            "out": args.out,
            "hardware": table.hardware,
            "shapes": table.algorithms.len(),
            "gelu_epilogue": table.gelu_epilogue,
            "step_ms_first_choice": ms(measured.first_choice),
            "step_ms_tuned": ms(measured.tuned),
            "step_ms_gelu_inside": measured.gelu_inside.map(ms),
        }));
    }
    print_line(&format!("first choice of the library   {:.2} ms a step", ms(measured.first_choice)))?;
    print_line(&format!("algorithms by measurement     {:.2} ms a step", ms(measured.tuned)))?;
    if let Some(seconds) = measured.gelu_inside {
        print_line(&format!("... with GELU inside products  {:.2} ms a step", ms(seconds)))?;
    }
    let choice = match (table.algorithms.is_empty(), table.gelu_epilogue) {
        (true, _) => "the library's first choice is as good: the table is empty".into(),
        (false, true) => format!("{} shapes, GELU inside products", table.algorithms.len()),
        (false, false) => format!("{} shapes", table.algorithms.len()),
    };
    print_line(&format!("{}: {choice}; train with --set precision.matmul_table={0}", args.out.display()))
}
