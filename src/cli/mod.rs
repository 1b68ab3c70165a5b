//! The command line: a file or folder for each subcommand, which turns arguments into library calls and results into text.
//!
//! Contract: `--json` prints one JSON object on standard output and nothing else there; progress, logs and warnings go to
//! standard error; progress bars appear only on a terminal. Exit codes: 0 done, 1 failed, 2 bad usage or config, 3 stopped
//! by a signal after a clean save. A closed pipe (`taper sample ... | head`) is not a failure.

mod args;
pub mod bench;
pub mod chat;
pub mod data;
pub mod doctor;
pub mod eval;
pub mod model;
pub mod plan;
pub mod push;
pub mod report;
pub mod sample;
pub mod serve;
mod signals;
pub mod sweep;
pub mod tokenizer;
pub mod train;
mod ui;
pub mod watch;

use clap::{CommandFactory, Parser, Subcommand};
use std::process::ExitCode;

use crate::cli::push::pull;
use crate::cli::ui::log::Verbosity;
use crate::cli::ui::print_bytes;
use crate::cli::ui::terminal::write_line;
use crate::error::{Error, Result};

/// Train GPT-2-class language models from scratch, understand the runs, publish and sample the models.
#[derive(Debug, Parser)]
#[command(name = "taper", version, about, arg_required_else_help = true, max_term_width = 110)]
#[command(after_help = "\
Examples:
  taper train configs/quickstart.toml                 a small GPT on real text, in minutes
  taper sample runs/quickstart --prompt \"pub fn \"
  taper eval runs/quickstart --data README.md
  taper train configs/quickstart.toml --set data.text=my.txt --run runs/mine

`taper COMMAND --help` explains a command, with examples.
Exit codes: 0 done, 1 failed, 2 wrong usage or config, 3 stopped by a signal after a clean save.")]
struct Cli {
    #[command(subcommand)]
    command: Command,
    #[command(flatten)]
    verbosity: Verbosity,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Train a model as a config file describes.
    Train(train::Args),
    /// Generate text from a model.
    Sample(sample::Args),
    /// Talk with a model at the terminal.
    Chat(chat::Args),
    /// Serve a model over HTTP, in the manner of OpenAI's API.
    Serve(serve::Args),
    /// Measure loss, perplexity and bits per byte over a text or shards.
    Eval(eval::Args),
    /// Prepare and inspect token shards.
    #[command(subcommand)]
    Data(data::Command),
    /// Train tokenizers; encode and decode text.
    #[command(subcommand)]
    Tokenizer(tokenizer::Command),
    /// Inspect, initialise, convert and export models.
    #[command(subcommand)]
    Model(model::Command),
    /// Put a checkpoint on the Hugging Face Hub.
    Push(push::Args),
    /// Fetch a model from the Hugging Face Hub.
    Pull(pull::Args),
    /// Draw the charts of a run, of several overlaid, or of a sweep; hand their numbers to other programs.
    Report(report::Args),
    /// Train many runs and say which differences are real.
    Sweep(sweep::Args),
    /// Watch a run on the terminal.
    Watch(watch::Args),
    /// Predict memory, time and cost of a run on GPUs that are not at hand.
    Plan(plan::Args),
    /// Say what this machine can do.
    Doctor(doctor::Args),
    /// Time training steps, operators and generation.
    #[command(subcommand)]
    Bench(bench::Command),
    /// Print the shell completions for SHELL.
    #[command(after_help = "Example:\n  taper completions bash > ~/.local/share/bash-completion/completions/taper")]
    Completions {
        /// The shell to write them for.
        shell: clap_complete::Shell,
    },
}

/// Parses the command line, runs the subcommand, prints an error as a chain of causes, and gives the exit code.
pub fn main() -> ExitCode {
    ExitCode::from(run_command_line(std::env::args_os()))
}

/// What the program does with these words (the first is its name); gives the exit code.
pub fn run_command_line(words: impl IntoIterator<Item = std::ffi::OsString>) -> u8 {
    let cli = match Cli::try_parse_from(words) {
        Ok(cli) => cli,
        Err(error) => {
            // clap prints help and version through the same type; those are successes on standard output.
            let code = if error.use_stderr() { 2 } else { 0 };
            let _ = error.print();
            return code;
        }
    };
    match cli.verbosity.start().and_then(|()| run(cli.command, cli.verbosity)) {
        Ok(()) => 0,
        Err(error) if is_broken_pipe(&error) => 0,
        Err(error) => {
            let prefix = if matches!(error.exit_code(), 3) { "" } else { "error: " };
            write_line(&format!("{prefix}{error}"));
            error.exit_code()
        }
    }
}

fn run(command: Command, verbosity: Verbosity) -> Result<()> {
    match command {
        Command::Train(args) => train::run(args, verbosity),
        Command::Sample(args) => sample::run(args),
        Command::Chat(args) => chat::run(args),
        Command::Serve(args) => serve::run(args),
        Command::Eval(args) => eval::run(args),
        Command::Data(command) => data::run(command),
        Command::Tokenizer(command) => tokenizer::run(command),
        Command::Model(command) => model::run(command),
        Command::Push(args) => push::run(args),
        Command::Pull(args) => pull::run(args),
        Command::Report(args) => report::run(args),
        Command::Sweep(args) => sweep::run(args),
        Command::Watch(args) => watch::run(args),
        Command::Plan(args) => plan::run(&args),
        Command::Doctor(args) => doctor::run(args),
        Command::Bench(command) => bench::run(command),
        Command::Completions { shell } => {
            let mut script = Vec::new();
            clap_complete::generate(shell, &mut Cli::command(), "taper", &mut script);
            print_bytes(&script)
        }
    }
}

fn is_broken_pipe(error: &Error) -> bool {
    match error {
        Error::Io { source, .. } => source.kind() == std::io::ErrorKind::BrokenPipe,
        Error::Context { source, .. } => is_broken_pipe(source),
        _ => false,
    }
}
