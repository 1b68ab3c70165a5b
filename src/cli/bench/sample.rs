//! `taper bench sample`: how fast this machine generates, next to how fast it reads memory.
//!
//! Every token reads all weights once, so with one sequence the speed is at most bandwidth over bytes. Both are measured in
//! the same process. Weights are random: the time does not depend on them.

use std::time::Instant;

use serde_json::{Value, json};

use crate::arch::ModelConfig;
use crate::cli::bench::args::Shape;
use crate::cli::ui::{print_json, print_line};
use crate::decode::cpu::{Isa, Options, Packed, read_bandwidth};
use crate::decode::{CacheFormat, Cpu, Decode, Feed, WeightFormat};
use crate::error::{Error, Result};
use crate::model::Gpt;
use crate::random::{Purpose, uniform};

/// Arguments of `taper bench sample`.
#[derive(Debug, clap::Args)]
pub struct Sample {
    /// A built-in shape.
    #[arg(long, value_enum, default_value_t = Shape::Gpt2)]
    shape: Shape,
    /// Number formats of the weights, one after another.
    #[arg(long, value_enum, value_name = "DTYPE", value_delimiter = ',', default_values = ["fp32", "bf16", "fp16", "q8_0", "q4_0"])]
    dtype: Vec<WeightFormat>,
    /// The number format of keys and values.
    #[arg(long, value_enum, value_name = "DTYPE", default_value = "fp32")]
    cache_dtype: CacheFormat,
    /// Tokens of the prompt whose prefill is timed (at most the context less the generated ones).
    #[arg(long, value_name = "N", default_value_t = 512, value_parser = clap::value_parser!(u32).range(1..))]
    prompt: u32,
    /// Tokens that are generated and timed, after a short prompt.
    #[arg(long, value_name = "N", default_value_t = 64, value_parser = clap::value_parser!(u32).range(4..))]
    tokens: u32,
    /// Sequences side by side: one measurement each.
    #[arg(long, value_name = "B", value_delimiter = ',', default_values_t = [1, 8], value_parser = clap::value_parser!(u32).range(1..=256))]
    batch: Vec<u32>,
    /// How often everything is measured; medians count.
    #[arg(long, value_name = "N", default_value_t = 3, value_parser = clap::value_parser!(u32).range(1..))]
    rounds: u32,
    /// Threads [default: RAYON_NUM_THREADS, or the machine's].
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=256))]
    threads: Option<u32>,
    /// Print one JSON object on standard output, and nothing else there.
    #[arg(long)]
    json: bool,
}

/// Tokens that stand before those that are timed.
const BEFORE: usize = 16;

/// One format's medians.
struct Found {
    dtype: &'static str,
    bytes: usize,
    cache_bytes: usize,
    /// Tokens per second: median and best.
    prefill: (f64, f64),
    /// The same of all sequences together, for each batch.
    decode: Vec<(f64, f64)>,
}

pub(crate) fn run(args: &Sample) -> Result<()> {
    let config = args.shape.model().0;
    let context = config.context_length;
    let tokens = args.tokens as usize;
    if BEFORE + tokens > context {
        return Err(Error::usage(format!("--tokens {tokens} do not fit the context of {context} after {BEFORE}")));
    }
    let prompt = (args.prompt as usize).min(context);
    let threads = args.threads.map_or_else(rayon::current_num_threads, |n| n as usize);
    let ceiling = read_bandwidth(threads);
    let model = Gpt::new(config.clone())?;
    let params = model.initialise(1)?;
    let mut all = Vec::new();
    for &format in &args.dtype {
        let packed = Packed::new(&config, &params, format)?;
        let most = args.batch.iter().copied().max().unwrap_or(1) as usize;
        let options = Options { cache: args.cache_dtype, threads, ..Options::new(most, context) };
        let mut engine = Cpu::new(&packed, options);
        let ids: Vec<u32> =
            (0..prompt).map(|i| (uniform(1, Purpose::Test, 0, i as u64) * config.vocab_size as f64) as u32).collect();
        let mut prefill = Vec::new();
        let mut decode = vec![Vec::new(); args.batch.len()];
        for _ in 0..args.rounds {
            prefill.push(prompt as f64 / time_prefill(&mut engine, &ids)?);
            for (&batch, found) in args.batch.iter().zip(&mut decode) {
                let times = time_tokens(&mut engine, &config, batch as usize, tokens)?;
                found.extend(times.iter().map(|seconds| f64::from(batch) / seconds));
            }
        }
        let found = Found {
            dtype: format.name(),
            bytes: packed.bytes_per_token(),
            cache_bytes: engine.cache_bytes(),
            prefill: median_and_best(&mut prefill),
            decode: decode.iter_mut().map(|found| median_and_best(found)).collect(),
        };
        if !args.json {
            print(&found, args, ceiling, all.is_empty(), prompt, threads)?;
        }
        all.push(found);
    }
    if !args.json {
        return Ok(());
    }
    let results: Vec<Value> = all
        .iter()
        .map(|found| {
            let decode = args.batch.iter().zip(&found.decode);
            let decode: Vec<Value> = decode
                .map(|(&batch, &(rate, best))| {
                    let gb = rate / f64::from(batch) * found.bytes as f64 / 1e9;
                    json!({"batch": batch, "tokens_per_s": rate, "tokens_per_s_best": best, "gb_per_s": gb, "share": gb * 1e9 / ceiling})
                })
                .collect();
            json!({
                "dtype": found.dtype,
                "bytes_per_token": found.bytes,
                "cache_bytes_per_slot": found.cache_bytes,
                "prefill_tokens_per_s": found.prefill.0,
                "prefill_tokens_per_s_best": found.prefill.1,
                "decode": decode,
            })
        })
        .collect();
    print_json(&json!({
        "shape": args.shape.name(),
        "parameters": model.layout().parameters(),
        "threads": threads,
        "instructions": format!("{:?}", Isa::best()).to_lowercase(),
        "cache_dtype": args.cache_dtype.name(),
        "read_gb_per_s": ceiling / 1e9,
        "prompt_tokens": prompt,
        "generated_tokens": tokens,
        "results": results,
    }))
}

fn print(found: &Found, args: &Sample, ceiling: f64, first: bool, prompt: usize, threads: usize) -> Result<()> {
    if first {
        print_line(&format!(
            "{}: {threads} threads, {:?}; reading memory {:.1} GB/s; tokens per second",
            args.shape.name(),
            Isa::best(),
            ceiling / 1e9
        ))?;
        let batches: String = args.batch.iter().map(|batch| format!(" {:>12}", format!("batch {batch}"))).collect();
        print_line(&format!(
            "{:<6} {:>9} {:>12}{batches}  share of reading",
            "dtype",
            "MB/token",
            format!("prefill {prompt}")
        ))?;
    }
    let rates: String = found.decode.iter().map(|(rate, _)| format!(" {rate:>12.1}")).collect();
    let shares =
        args.batch.iter().zip(&found.decode).map(|(&batch, (rate, _))| {
            format!("{:.0}%", 100.0 * rate / f64::from(batch) * found.bytes as f64 / ceiling)
        });
    let shares: Vec<String> = shares.collect();
    let (mb, shares) = (found.bytes as f64 / 1e6, shares.join(", "));
    print_line(&format!("{:<6} {mb:>9.1} {:>12.1}{rates}  {shares}", found.dtype, found.prefill.0))
}

fn time_prefill(engine: &mut Cpu, ids: &[u32]) -> Result<f64> {
    let mut logits = Vec::new();
    engine.truncate(0, 0);
    let began = Instant::now();
    engine.feed(&[Feed { slot: 0, tokens: ids }], &mut logits)?;
    Ok(began.elapsed().as_secs_f64())
}

/// Seconds of each token of all sequences.
fn time_tokens(engine: &mut Cpu, config: &ModelConfig, batch: usize, tokens: usize) -> Result<Vec<f64>> {
    let mut logits = Vec::new();
    let start: Vec<u32> = (0..BEFORE as u32).map(|i| i % config.vocab_size as u32).collect();
    let first: Vec<Feed<'_>> = (0..batch).map(|slot| Feed { slot, tokens: &start }).collect();
    (0..batch).for_each(|slot| engine.truncate(slot, 0));
    engine.feed(&first, &mut logits)?;
    let mut times = Vec::new();
    for step in 0..tokens {
        // Any token does; another for each sequence.
        let ids: Vec<[u32; 1]> = (0..batch).map(|slot| [((step * 31 + slot * 7) % config.vocab_size) as u32]).collect();
        let feeds: Vec<Feed<'_>> = ids.iter().enumerate().map(|(slot, tokens)| Feed { slot, tokens }).collect();
        let began = Instant::now();
        engine.feed(&feeds, &mut logits)?;
        times.push(began.elapsed().as_secs_f64());
    }
    Ok(times)
}

/// Of rates.
fn median_and_best(rates: &mut [f64]) -> (f64, f64) {
    rates.sort_by(f64::total_cmp);
    (rates[rates.len() / 2], rates[rates.len() - 1])
}
