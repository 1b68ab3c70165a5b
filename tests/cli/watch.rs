//! `taper watch`: the dashboard drawn into a buffer, the text where there is no terminal, and a run that continues.
//!
//! Truths are the numbers of the logs that are written here.

use crate::program::{taper, told};
use ratatui::Terminal;
use ratatui::backend::TestBackend;
use std::path::Path;
use std::process::Stdio;
use std::time::Duration;
use taper::cli::watch::board::Board;
use taper::cli::watch::view;
use taper::events::{Class, End, Eval, Event, EventLog, EventWriter, Ranks, Reason, Sample, Start, Step};

fn step(step: u64) -> Step {
    Step {
        step,
        tokens: step * 1000,
        loss: 3.0 + 6.0 / step as f64,
        lr: 1e-3,
        grad_norm: 0.5,
        grad_norm_clipped: 0.5,
        class: Class::Finite,
        step_ms: 500.0,
        tokens_per_s: 2000.0,
        mfu: None,
    }
}

/// A run of `done` of 400 steps.
fn events(done: u64) -> Vec<Event> {
    let start = Start {
        max_steps: Some(400),
        clip_norm: Some(1.0),
        memory_bytes: Some(300 << 20),
        device: Some("a \u{1b}[31mdevice".into()),
        ..Start::default()
    };
    let mut events = vec![Event::Start(Box::new(start))];
    for s in 1..=done {
        let lost = Step { loss: f64::NAN, grad_norm: f64::INFINITY, class: Class::LossNonfinite, ..step(s) };
        events.push(Event::Step(if s == 50 { lost } else { step(s) }));
        if s % 50 == 0 {
            events.push(Event::Eval(Eval {
                step: s,
                tokens: s * 1000,
                split: "val".into(),
                loss: 4.0,
                standard_error: None,
            }));
        }
    }
    let spread = Ranks { step: done, ranks: 4, slowest: 2, slowest_ms: 450.0, fastest_ms: 300.0, overlap: true };
    events.push(Event::Ranks(spread));
    events.push(Event::Sample(Sample { step: done, prompt: "Once".into(), text: " upon\u{7} a\ntime".into() }));
    events
}

fn append(dir: &Path, events: &[Event]) {
    let mut writer = EventWriter::append_to(dir.join("events.jsonl")).unwrap();
    events.iter().for_each(|event| writer.write(event).unwrap());
}

fn shown(board: &Board, width: u16, height: u16) -> String {
    let mut terminal = Terminal::new(TestBackend::new(width, height)).unwrap();
    terminal.draw(|frame| view::draw(frame, board)).unwrap();
    let buffer = terminal.backend().buffer();
    let rows = buffer.content().chunks(width as usize);
    rows.map(|row| row.iter().map(|cell| cell.symbol()).collect::<String>() + "\n").collect()
}

fn board(events: Vec<Event>) -> Board {
    Board::new("my run".into(), &EventLog { events, ..EventLog::default() }, Some(Duration::from_secs(3)))
}

#[test]
fn the_dashboard_shows_the_run() {
    let board = board(events(200));
    // 200 steps of half a second are left.
    assert_eq!(board.left, Some(Duration::from_secs(100)));
    // The mean of 3 + 6/s over the last fifty steps, 151 to 200.
    let mean = (151..=200).map(|s| 3.0 + 6.0 / f64::from(s)).sum::<f64>() / 50.0;
    assert!((board.recent_loss.unwrap() - mean).abs() < 1e-12);
    let text = shown(&board, 120, 40);
    for expected in [
        "my run  training, last written 3 s ago",
        "step 200/400, 1 min 40 s left",
        "loss (nats per token), • 1 not finite",
        "gradient norm, • 1 not finite",
        "tokens per second",
        "validation 4.0000 at step 200",
        "300 MiB planned",
        "rank 2 +50% (450 ms)",
        "0 clipped, 1 not finite",
        "step 200: val loss 4.0000",
        "sample of step 200",
        "Once upon",
        "time",
        "q quits",
    ] {
        assert!(
            text.contains(expected) || text.replace("  ", " ").contains(expected),
            "{expected} is missing in\n{text}"
        );
    }
    assert!(!text.contains(['\u{1b}', '\u{7}']), "nothing of a log reaches the terminal as a command");
    // Curves are drawn in Braille.
    assert!(text.chars().filter(|c| ('\u{2801}'..='\u{28FF}').contains(c)).count() > 100, "{text}");
}

#[test]
fn every_size_and_every_log_can_be_drawn() {
    let logs = [vec![], events(0), events(1), events(200), events(3000)];
    for log in logs {
        let board = board(log);
        for (width, height) in [(1, 1), (10, 3), (40, 12), (80, 24), (89, 60), (90, 10), (250, 80)] {
            assert_eq!(shown(&board, width, height).lines().count(), height as usize);
        }
    }
}

#[test]
fn without_a_terminal_it_is_text() {
    let dir = tempfile::tempdir().unwrap();
    append(dir.path(), &events(200));
    let watch = |more: &[&str]| {
        let (code, text, _) = told(taper(dir.path()).args(["watch", "."]).args(more));
        (code, text)
    };
    let (code, text) = watch(&["--once"]);
    assert_eq!(code, 0);
    for expected in ["step 200/400, training", "  left        1 min 40 s", "  | Once upon", "  | time"] {
        assert!(text.contains(expected), "{expected} is missing in\n{text}");
    }
    append(dir.path(), &[Event::End(End { step: 200, reason: Reason::Done, message: None, elapsed_s: None })]);
    let (code, text) = watch(&[]);
    assert_eq!(code, 0, "a finished run is told, and that is all");
    assert!(text.starts_with(".: step 200/400, done\n") && !text.contains("left"), "{text}");
    assert_eq!(watch(&["--every", "0"]).0, 2);
    assert_eq!(told(taper(dir.path()).args(["watch", "/nowhere"])).0, 2);
}

#[test]
fn a_run_that_goes_on_is_followed_to_its_end() {
    let dir = tempfile::tempdir().unwrap();
    append(dir.path(), &events(100));
    let mut command = taper(dir.path());
    let child = command.args(["watch", ".", "--every", "0.05"]).stdout(Stdio::piped()).spawn().unwrap();
    // Half a line first: it is read when it is whole.
    let eval = serde_json::to_string(&Event::Eval(Eval {
        step: 100,
        tokens: 1,
        split: "val".into(),
        loss: 2.25,
        standard_error: Some(0.125),
    }))
    .unwrap();
    let log = dir.path().join("events.jsonl");
    let write = |text: &str| {
        use std::io::Write;
        std::fs::OpenOptions::new().append(true).open(&log).unwrap().write_all(text.as_bytes()).unwrap();
    };
    write(&eval[..20]);
    std::thread::sleep(Duration::from_millis(200));
    write(&format!("{}\n", &eval[20..]));
    write("{\"event\":\"end\",\"step\":100,\"reason\":\"signal\"}\n");
    let output = child.wait_with_output().unwrap();
    assert!(output.status.success());
    let text = String::from_utf8(output.stdout).unwrap();
    assert!(text.contains("step 100: val loss 2.2500") && text.ends_with("step 100: ended (signal)\n"), "{text}");
}
