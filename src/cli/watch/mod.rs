//! `taper watch`: a run on a terminal, while it trains or afterwards. It reads the event log and nothing else, so that
//! it can be started and left at any time, from any machine that sees the run folder.
//!
//! [`board`] makes what is shown out of the log, `view` draws it with ratatui, `text` says it in lines where there is no
//! terminal.

pub mod board;
mod text;
pub mod view;

use crate::error::{Error, Result};
use crate::events::EventTail;
use crate::run::folder::EVENTS;
use board::Board;
use ratatui::crossterm::event::{self, Event, KeyCode, KeyEventKind, KeyModifiers};
use std::io::IsTerminal;
use std::path::PathBuf;
use std::time::{Duration, Instant};

/// Arguments of `taper watch`.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  taper watch runs/quickstart                         q quits; the run continues
  taper watch runs/quickstart --once                  says how it stands, and ends
  taper watch runs/quickstart | tee watch.log         without a terminal: a line now and then, until the run ends")]
pub struct Args {
    /// The run folder.
    #[arg(value_name = "RUN")]
    run: PathBuf,
    /// Print how the run stands, and end.
    #[arg(long)]
    once: bool,
    /// Seconds between two looks at the log.
    #[arg(long, value_name = "SECONDS", default_value_t = 1.0)]
    every: f64,
}

/// Runs `taper watch`.
///
/// # Errors
/// If there is no such run, its log is damaged, or the terminal fails.
pub fn run(args: Args) -> Result<()> {
    if !(0.05..=3600.0).contains(&args.every) {
        return Err(Error::usage(format!("--every {}: expected 0.05 to 3600 seconds", args.every)));
    }
    let path = args.run.join(EVENTS);
    if !args.run.is_dir() || (args.once && !path.is_file()) {
        let what = if args.run.is_dir() { "holds no events.jsonl" } else { "does not exist" };
        return Err(Error::usage(format!(
            "{} {what}; watch the folder of a run, such as runs/quickstart",
            args.run.display()
        )));
    }
    let mut tail = EventTail::new(&path);
    tail.poll()?;
    let every = Duration::from_secs_f64(args.every);
    if args.once {
        return text::snapshot(&look(&args, &tail));
    }
    if !std::io::stdout().is_terminal() {
        return text::follow(&mut tail, every, &|tail| look(&args, tail));
    }
    let mut terminal = ratatui::try_init().map_err(Error::io("use", "the terminal"))?;
    let result = dashboard(&mut terminal, &mut tail, every, &|tail| look(&args, tail));
    ratatui::restore();
    result
}

/// How the run stands, and how long ago its log was written.
fn look(args: &Args, tail: &EventTail) -> Board {
    let written = std::fs::metadata(args.run.join(EVENTS)).and_then(|metadata| metadata.modified()).ok();
    let name =
        args.run.file_name().map_or_else(|| args.run.display().to_string(), |n| n.to_string_lossy().into_owned());
    Board::new(name, tail.log(), written.and_then(|written| written.elapsed().ok()))
}

/// Draws until a key ends it.
fn dashboard(
    terminal: &mut ratatui::DefaultTerminal,
    tail: &mut EventTail,
    every: Duration,
    look: &dyn Fn(&EventTail) -> Board,
) -> Result<()> {
    let failed = Error::io("use", "the terminal");
    let mut work = || -> std::result::Result<Result<()>, std::io::Error> {
        loop {
            let board = look(tail);
            terminal.draw(|frame| view::draw(frame, &board))?;
            let next = Instant::now() + every;
            loop {
                if !event::poll(next.saturating_duration_since(Instant::now()))? {
                    break;
                }
                match event::read()? {
                    Event::Key(key) if key.kind == KeyEventKind::Press => match key.code {
                        KeyCode::Char('q') | KeyCode::Esc => return Ok(Ok(())),
                        KeyCode::Char('c') if key.modifiers.contains(KeyModifiers::CONTROL) => return Ok(Ok(())),
                        _ => {}
                    },
                    Event::Resize(..) => {
                        terminal.draw(|frame| view::draw(frame, &board))?;
                    }
                    _ => {}
                }
            }
            if let Err(error) = tail.poll() {
                return Ok(Err(error));
            }
        }
    };
    work().map_err(failed)?
}
