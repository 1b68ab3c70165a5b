//! `taper bench`: how fast this machine trains, measured on random tokens.
//!
//! A step is what training does: forward, backward, gradient norm, clipping, AdamW. The median of some steps counts, after
//! warm-up; memory is what the process had resident at most, so measure one shape in one process to compare it.

mod args;
mod gpu;
mod ops;
mod ops_list;
mod ops_time;
mod peaks;
pub(crate) mod rates;
mod sample;
mod step;
mod table;
mod tune;

use crate::cli::bench::args::{Ops, Shape, Step, Tune, built_in, workload};
use crate::error::Result;

/// Subcommands of `taper bench`.
#[derive(Debug, clap::Subcommand)]
pub enum Command {
    /// Time training steps: tokens per second, FLOP/s, memory.
    #[command(after_help = "\
Examples:
  taper bench step --shape 10m
  taper bench step --config configs/quickstart.toml --json
  RAYON_NUM_THREADS=1 taper bench step --shape 10m --json
  taper bench step --shape 124m --batch 16 --device cuda --precision bf16

scripts/bench_torch.py times the same shapes in PyTorch, alternating with this command.")]
    Step(Step),
    /// Time every operator of a training step next to its floor, and the step next to their sum.
    #[command(after_help = "\
Examples:
  taper bench ops
  taper bench ops --shape 10m --precision bf16 --json

docs/performance.md says what is counted.")]
    Ops(Ops),
    /// Choose matrix product algorithms on a GPU by measurement, for the shapes of a model's training step.
    #[command(after_help = "\
Examples:
  taper bench tune --config configs/gpt2_124m.toml --batch 16 --out matmul.json
  taper train configs/gpt2_124m.toml --set train.micro_batch=16 --set precision.matmul_table=matmul.json

The table holds for this kind of GPU and these library versions, and for one micro-batch size.")]
    Tune(Tune),
    /// Time the generation of text on the CPU: prefill, tokens per second alone and in batches, share of the bandwidth.
    #[command(after_help = "\
Examples:
  taper bench sample
  taper bench sample --shape 124m --dtype q8_0 --cache-dtype int8 --json

scripts/bench_decode.py runs llama.cpp and transformers next to this command.")]
    Sample(sample::Sample),
}

/// Runs `taper bench`.
///
/// # Errors
/// If the config cannot be read, or memory cannot be had.
pub fn run(command: Command) -> Result<()> {
    match command {
        Command::Step(args) => step::run(&args, workload(&args)?),
        Command::Ops(args) => ops::run(&args, built_in(args.shape.unwrap_or(Shape::Gpt2), None)),
        Command::Tune(args) => tune::run(&args, workload(&args.step)?),
        Command::Sample(args) => sample::run(&args),
    }
}
