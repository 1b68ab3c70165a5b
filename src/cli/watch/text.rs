//! A run in lines of text: how it stands, and what is new. No colours, no cursor.

use super::board::{Board, in_words, short};
use crate::cli::ui::print_line;
use crate::error::Result;
use crate::events::EventTail;
use crate::report::State;
use std::time::{Duration, Instant};

/// A line of progress at most this often.
const LINE_EVERY: Duration = Duration::from_secs(10);

/// Prints how the run stands.
pub fn snapshot(board: &Board) -> Result<()> {
    print_line(&format!("{}: {}, {}", board.name, board.progress(), board.state()))?;
    for (name, value) in board.numbers() {
        print_line(&format!("  {name:<10}  {value}"))?;
    }
    for event in board.events.iter().rev().take(5).rev() {
        print_line(&format!("  event       {event}"))?;
    }
    if let Some((step, prompt, text)) = &board.sample {
        print_line(&format!("  sample of step {step}:"))?;
        for line in format!("{prompt}{text}").lines() {
            print_line(&format!("  | {line}"))?;
        }
    }
    Ok(())
}

/// Prints how the run stands, and then what is new, until the run has ended.
pub fn follow(tail: &mut EventTail, every: Duration, look: &dyn Fn(&EventTail) -> Board) -> Result<()> {
    let mut board = look(tail);
    snapshot(&board)?;
    let mut last_line = Instant::now();
    while board.summary.state == State::Unfinished {
        std::thread::sleep(every);
        if !tail.poll()? {
            continue;
        }
        board = look(tail);
        for event in tail.news().iter().filter_map(in_words) {
            print_line(&event)?;
        }
        if last_line.elapsed() >= LINE_EVERY {
            last_line = Instant::now();
            let value = |value: Option<f64>| value.map_or("-".into(), short);
            let (loss, speed) = (value(board.recent_loss), value(board.tokens_per_s));
            print_line(&format!("{} loss {loss} {speed} tokens/s", board.progress()))?;
        }
    }
    Ok(())
}
