//! `taper bench step`: training steps on random tokens, by the engine that trains.

use std::sync::Arc;
use std::time::Instant;

use serde_json::json;

use crate::cli::bench::args::{Step, Workload};
use crate::cli::ui::{print_json, print_line, warn};
use crate::data::{Loader, TokenStream};
use crate::device::info::peak_resident_bytes;
use crate::device::{Device, pool};
use crate::error::Result;
use crate::model::Gpt;
use crate::random::{Purpose, uniform};
use crate::run::hardware::{device_words, peak_flops, slow_on_this_cpu};
use crate::train::config::{Precision, PrecisionConfig};
use crate::train::engine::{Engine, Native, OnGpu, Setup, StepBatch};

const WARM_UP: u64 = 2;
/// Steps between two looks at the clock on a GPU, which works on several at once.
const TOGETHER: u64 = 4;

/// The precision that is asked for, or the device's default.
pub(crate) fn precision(args: &Step, gpu: bool) -> Result<Precision> {
    PrecisionConfig { compute: args.precision, ..PrecisionConfig::default() }.resolve(gpu)
}

/// A step of one micro-batch: `b` sequences of `t` random tokens out of `v`.
pub(crate) fn random_batch(b: usize, t: usize, v: usize) -> Result<impl Fn(u64) -> StepBatch> {
    let ids = (0..b * t + 1).map(|i| (uniform(1, Purpose::Test, 0, i as u64) * v as f64) as u32).collect();
    let loader = Loader::new(Arc::new(TokenStream::from_tokens(ids, v)), t, false, 1)?;
    Ok(move |step| StepBatch { loader: loader.clone(), first_sequence: 0, micro_batch: b, micro_batches: 1, step })
}

/// What was measured of some steps.
pub(crate) struct Measured {
    /// Seconds of each step, or on a GPU of some together over their number; sorted.
    times: Vec<f64>,
    /// Steps that they stand for.
    steps: u64,
    /// Seconds until the first step was done, or the first that go together.
    first: f64,
    loss: f64,
    parameters: usize,
}

impl Measured {
    /// Seconds of a step.
    pub fn median(&self) -> f64 {
        self.times[self.times.len() / 2]
    }

    /// Seconds of the fastest.
    pub fn best(&self) -> f64 {
        self.times[0]
    }
}

/// Steps on a device that continues from one to the next without looking at the clock.
fn together(device: Device) -> u64 {
    if device == Device::Cpu { 1 } else { TOGETHER }
}

/// Times at least `steps` steps after the warm-up.
///
/// # Errors
/// If memory or the device fails.
pub(crate) fn measure(
    workload: Workload,
    device: Device,
    precision: Precision,
    steps: u32,
    began: Instant,
) -> Result<Measured> {
    let gpu = device.gpu()?;
    let (b, t, v) = (workload.batch, workload.model.context_length, workload.model.vocab_size);
    let model = Gpt::new(workload.model)?;
    let params = model.initialise(1)?;
    let setup = Setup { seed_dropout: 1, recompute: workload.recompute, lanes: 1 };
    let mut engine: Box<dyn Engine + '_> = match gpu {
        None => Box::new(Native::new(&model, params.with_compute(precision.dtype())?, workload.hyper, setup)?),
        Some(gpu) => Box::new(OnGpu::new(gpu, &model, &params, workload.hyper, setup, precision, false)?),
    };
    let batch = random_batch(b, t, v)?;
    pool::reset_peak();
    let together = together(device);
    let (mut times, mut loss, mut step, mut first) = (Vec::new(), 0.0, 0, 0.0);
    while times.len() < steps as usize {
        let round = Instant::now();
        for _ in 0..together {
            engine.step(&batch(step), workload.lr)?;
            step += 1;
        }
        for (found, _) in engine.finished()? {
            loss = found;
        }
        if step == together {
            first = began.elapsed().as_secs_f64();
            gpu.iter().for_each(|gpu| gpu.reset_peak());
        }
        if step >= WARM_UP + together {
            times.push(round.elapsed().as_secs_f64() / together as f64);
        }
    }
    times.sort_by(f64::total_cmp);
    let steps = times.len() as u64 * together;
    Ok(Measured { times, steps, first, loss, parameters: model.layout().parameters() })
}

pub(crate) fn run(args: &Step, workload: Workload) -> Result<()> {
    let began = Instant::now();
    let device = Device::parse(&args.device)?;
    let gpu = device.gpu()?;
    let precision = precision(args, gpu.is_some())?;
    if let (None, Some(note)) = (gpu, slow_on_this_cpu(precision)) {
        warn(note);
    }
    let (name, b, t, v) =
        (workload.name.clone(), workload.batch, workload.model.context_length, workload.model.vocab_size);
    let flops_per_token = workload.model.flops_per_token();
    let measured = measure(workload, device, precision, args.steps, began)?;
    let Measured { times, steps, first, loss, parameters } = &measured;
    let (median, best) = (measured.median(), measured.best());
    let tokens_per_s = (b * t) as f64 / median;
    let flops = tokens_per_s * flops_per_token as f64;
    let mfu = peak_flops(device, precision).map(|peak| flops / peak);
    let mib = |bytes: usize| bytes as f64 / f64::from(1u32 << 20);
    let resident = mib(peak_resident_bytes() as usize);
    let (tensors, held) = match gpu {
        None => (mib(pool::peak_bytes()), mib(pool::held_bytes())),
        Some(gpu) => (mib(gpu.peak_bytes()), mib(gpu.held_bytes())),
    };
    let threads = rayon::current_num_threads();
    if args.json {
        return print_json(&json!({
            "shape": name,
            "device": device_words(device),
            "precision": precision.name(),
            "parameters": parameters,
            "batch": b,
            "context_length": t,
            "vocab_size": v,
            "threads": threads,
            "steps": steps,
            "start_s": first,
            "step_ms": median * 1e3,
            "step_ms_best": best * 1e3,
            "tokens_per_s": tokens_per_s,
            "tokens_per_s_best": (b * t) as f64 / best,
            "flops_per_s": flops,
            "mfu": mfu,
            "peak_resident_mib": resident,
            "peak_pool_mib": tensors,
            "held_pool_mib": held,
            "loss": loss,
        }));
    }
    print_line(&format!(
        "{name}: {parameters} parameters, B={b}, T={t}, V={v}, {} in {}",
        device_words(device),
        precision.name()
    ))?;
    print_line(&format!("start      {first:.1} s until {} step(s) were done", together(device)))?;
    print_line(&format!("step       {:.2} ms (median of {}), best {:.2} ms", median * 1e3, times.len(), best * 1e3))?;
    print_line(&format!("tokens/s   {tokens_per_s:.0}"))?;
    print_line(&format!("GFLOP/s    {:.1}", flops / 1e9))?;
    if let Some(mfu) = mfu {
        print_line(&format!("MFU        {:.1}% = tokens/s x {flops_per_token} FLOPs a token / peak", 100.0 * mfu))?;
    }
    let of = if gpu.is_some() { "on the GPU" } else { "of them" };
    print_line(&format!(
        "memory     {resident:.0} MiB resident at most, {tensors:.0} MiB {of} in tensors, {held:.0} held"
    ))
}
