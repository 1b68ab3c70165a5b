//! The event log: what is written comes back, torn ends lose nothing else, and resumed runs read as one.
//!
//! Truths: the lines of the contract are written out by hand; positions of line ends are counted on the bytes; resumes are
//! replayed by the slow, obvious program (go forward, drop what a resume takes back).

use proptest::prelude::*;
use std::path::PathBuf;
use taper::events::{
    Action, Checkpoint, Class, DataRange, End, Eval, Event, EventLog, EventTail, EventWriter, Nonfinite, Reason,
    Resume, Rollback, Sample, Spike, Start, Step, Task, TaskMetric, without_timings,
};

fn step(step: u64) -> Step {
    Step {
        step,
        tokens: step * 64,
        loss: 2.5 + 1.0 / step as f64,
        lr: 3e-4,
        grad_norm: 0.75,
        grad_norm_clipped: 0.75,
        class: Class::Finite,
        step_ms: 12.5,
        tokens_per_s: 5120.0,
        mfu: None,
    }
}

fn eval(step: u64, loss: f64) -> Event {
    Event::Eval(Eval { step, tokens: step * 64, split: "val".into(), loss, standard_error: None })
}

/// The data of a step of four sequences.
fn range(step: u64) -> DataRange {
    DataRange { first_sequence: 4 * step, sequences: 4, context_length: 16, positions: vec![64, 0] }
}

fn rollback(step: u64, from: u64) -> Event {
    Event::Rollback(Rollback { step, from, loss: 11.0, z_score: 6.5, data: range(from) })
}

/// A folder that goes away with the test, and the path of a log in it.
fn folder() -> (tempfile::TempDir, PathBuf) {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("events.jsonl");
    (dir, path)
}

fn write_all(path: &PathBuf, events: &[Event]) {
    let mut writer = EventWriter::create(path).unwrap();
    for event in events {
        writer.write(event).unwrap();
    }
    writer.flush().unwrap();
}

fn read_text(text: impl AsRef<[u8]>) -> taper::Result<EventLog> {
    let (_dir, path) = folder();
    std::fs::write(&path, text).unwrap();
    EventLog::read(&path)
}

#[test]
fn lines_are_as_the_contract_spells_them() {
    let (_dir, path) = folder();
    let events = [
        Event::Start(Box::new(Start {
            version: "0.1.0".into(),
            config_hash: "c0ffee".into(),
            parameters: 124,
            tokens_per_step: 64,
            clip_norm: Some(1.0),
            time: Some(1_700_000_000),
            ..Start::default()
        })),
        Event::Step(Step { loss: 10.5, mfu: Some(0.25), ..step(1) }),
        Event::Step(Step {
            loss: f64::NAN,
            grad_norm: f64::INFINITY,
            grad_norm_clipped: f64::NEG_INFINITY,
            class: Class::LossNonfinite,
            ..step(2)
        }),
        Event::Nonfinite(Nonfinite {
            step: 2,
            class: Class::LossNonfinite,
            parameter: None,
            action: Action::Skip,
            data: None,
        }),
        eval(2, 9.25),
        Event::Sample(Sample { step: 2, prompt: "a\"".into(), text: "\n".into() }),
        Event::Spike(Spike { step: 2, loss: 11.0, z_score: 6.5, data: None }),
        Event::Spike(Spike { step: 2, loss: 11.0, z_score: 6.5, data: Some(range(2)) }),
        Event::Checkpoint(Checkpoint { step: 2, path: "checkpoints/step-00000002".into(), val_loss: Some(9.25) }),
        Event::Resume(Resume { step: 2, time: None }),
        rollback(2, 2),
        Event::End(End { step: 2, reason: Reason::Signal, message: None, elapsed_s: None }),
    ];
    write_all(&path, &events);
    let expected = [
        r#"{"event":"start","version":"0.1.0","config_hash":"c0ffee","parameters":124,"tokens_per_step":64,"clip_norm":1.0,"time":1700000000}"#,
        r#"{"event":"step","step":1,"tokens":64,"loss":10.5,"lr":0.0003,"grad_norm":0.75,"grad_norm_clipped":0.75,"class":"finite","step_ms":12.5,"tokens_per_s":5120.0,"mfu":0.25}"#,
        r#"{"event":"step","step":2,"tokens":128,"loss":"nan","lr":0.0003,"grad_norm":"inf","grad_norm_clipped":"-inf","class":"loss_nonfinite","step_ms":12.5,"tokens_per_s":5120.0,"mfu":null}"#,
        r#"{"event":"nonfinite","step":2,"class":"loss_nonfinite","parameter":null,"action":"skip"}"#,
        r#"{"event":"eval","step":2,"tokens":128,"split":"val","loss":9.25}"#,
        r#"{"event":"sample","step":2,"prompt":"a\"","text":"\n"}"#,
        r#"{"event":"spike","step":2,"loss":11.0,"z_score":6.5}"#,
        r#"{"event":"spike","step":2,"loss":11.0,"z_score":6.5,"data":{"first_sequence":8,"sequences":4,"context_length":16,"positions":[64,0]}}"#,
        r#"{"event":"checkpoint","step":2,"path":"checkpoints/step-00000002","val_loss":9.25}"#,
        r#"{"event":"resume","step":2}"#,
        r#"{"event":"rollback","step":2,"from":2,"loss":11.0,"z_score":6.5,"data":{"first_sequence":8,"sequences":4,"context_length":16,"positions":[64,0]}}"#,
        r#"{"event":"end","step":2,"reason":"signal"}"#,
    ];
    let text = std::fs::read_to_string(&path).unwrap();
    assert_eq!(text.lines().collect::<Vec<_>>(), expected);
    let log = EventLog::read(&path).unwrap();
    // NaN is not equal to itself, so the debug forms are compared.
    assert_eq!(format!("{:?}", log.events), format!("{events:?}"));
    assert!(!log.torn && log.unknown == 0);
    assert_eq!(log.end().unwrap().reason, Reason::Signal);
    assert_eq!(log.start().unwrap().clip_norm, Some(1.0));
}

#[test]
fn timings_can_be_set_aside() {
    let line = r#"{"event":"step","step":1,"loss":"nan","step_ms":12.5,"tokens_per_s":5120.0,"mfu":null}"#;
    assert_eq!(without_timings(line).unwrap(), r#"{"event":"step","step":1,"loss":"nan"}"#);
    assert_eq!(without_timings("[1]"), None);
}

proptest! {
    #[test]
    fn every_number_comes_back_with_the_same_bits(bits in prop::collection::vec(any::<u64>(), 1..20)) {
        let (_dir, path) = folder();
        let numbers: Vec<f64> = bits.iter().map(|&b| f64::from_bits(b)).collect();
        let events: Vec<Event> =
            numbers.iter().map(|&n| Event::Step(Step { loss: n, lr: n, mfu: Some(n), ..step(1) })).collect();
        write_all(&path, &events);
        let log = EventLog::read(&path).unwrap();
        prop_assert_eq!(log.steps().count(), numbers.len());
        for (event, number) in log.steps().zip(&numbers) {
            for back in [event.loss, event.lr, event.mfu.unwrap()] {
                prop_assert!(back.to_bits() == number.to_bits() || (back.is_nan() && number.is_nan()));
            }
        }
    }

    /// Cut anywhere, the log holds exactly the lines whose text is whole; continuing keeps exactly those, adds to them, and
    /// leaves no trace of the torn one.
    #[test]
    fn a_cut_loses_the_torn_line_and_nothing_else(texts in prop::collection::vec(".{0,30}", 1..12), at in any::<prop::sample::Index>()) {
        let (_dir, path) = folder();
        let events: Vec<Event> = texts
            .iter()
            .enumerate()
            .map(|(i, text)| Event::Sample(Sample { step: i as u64, prompt: text.clone(), text: format!("{text}\n}}\"") }))
            .collect();
        write_all(&path, &events);
        let bytes = std::fs::read(&path).unwrap();
        let cut = at.index(bytes.len() + 1);
        std::fs::write(&path, &bytes[..cut]).unwrap();
        let line_ends: Vec<usize> = (0..bytes.len()).filter(|&i| bytes[i] == b'\n').collect();
        let whole = line_ends.iter().filter(|&&end| end <= cut).count();
        let log = EventLog::read(&path).unwrap();
        prop_assert_eq!(&log.events, &events[..whole]);
        // Torn: there is something after the last whole line and its newline.
        let kept_bytes = if whole == 0 { 0 } else { line_ends[whole - 1] + 1 };
        prop_assert_eq!(log.torn, cut > kept_bytes);

        let mut writer = EventWriter::append_to(&path).unwrap();
        let last = Event::Resume(Resume { step: 1000, time: None });
        writer.write(&last).unwrap();
        drop(writer);
        let expected = [&bytes[..kept_bytes], b"{\"event\":\"resume\",\"step\":1000}\n"].concat();
        prop_assert_eq!(std::fs::read(&path).unwrap(), expected);
    }

    /// The reader's single pass backwards equals the obvious way forwards; following a log piece by piece equals reading it.
    #[test]
    fn resumes_and_rollbacks_take_back_what_lies_beyond(
        jumps in prop::collection::vec((1u64..30, 0u64..40, any::<bool>()), 1..8),
        cuts in prop::collection::vec(any::<prop::sample::Index>(), 0..6),
    ) {
        let (mut events, mut truth, mut at) = (Vec::new(), Vec::<u64>::new(), 0);
        for (length, back, restart) in jumps {
            for _ in 0..length {
                at += 1;
                events.push(Event::Step(step(at)));
                truth.push(at);
            }
            let from = at;
            at = at.saturating_sub(back);
            events.push(if restart { Event::Resume(Resume { step: at, time: None }) } else { rollback(at, from) });
            events.push(eval(at, 1.0));
            truth.retain(|&s| s <= at);
        }
        let (dir, path) = folder();
        write_all(&path, &events);
        let log = EventLog::read(&path).unwrap();
        prop_assert_eq!(log.steps().map(|e| e.step).collect::<Vec<u64>>(), truth);

        let bytes = std::fs::read(&path).unwrap();
        let mut cuts: Vec<usize> = cuts.iter().map(|cut| cut.index(bytes.len() + 1)).collect();
        cuts.sort();
        cuts.push(bytes.len());
        let growing = dir.path().join("growing.jsonl");
        let mut tail = EventTail::new(&growing);
        prop_assert!(!tail.poll().unwrap(), "no file, no news");
        for cut in cuts {
            std::fs::write(&growing, &bytes[..cut]).unwrap();
            tail.poll().unwrap();
        }
        prop_assert_eq!(&tail.log().events, &log.events);
        prop_assert!(!tail.poll().unwrap());
    }

    #[test]
    fn no_bytes_make_the_reader_panic(bytes in prop::collection::vec(any::<u8>(), 0..300), lead in 0..3) {
        let lead: &[u8] = [b"".as_slice(), b"{\"event\":\"step\",", b"{\"event\":\"eval\",\"step\":1,"][lead as usize];
        let _ = read_text([lead, &bytes].concat());
    }
}

#[test]
fn what_is_written_again_at_the_resumed_step_counts_once() {
    let (_dir, path) = folder();
    let sample = |text: &str| Event::Sample(Sample { step: 0, prompt: "a".into(), text: text.into() });
    // Killed before the first checkpoint, twice: each time the run begins from step 0 and evaluates the untrained model.
    let mut events = vec![eval(0, 9.0), sample("x"), sample("y"), Event::Step(step(1)), Event::Step(step(2))];
    for _ in 0..2 {
        events.push(Event::Resume(Resume { step: 0, time: None }));
        events.extend([eval(0, 9.0), sample("x"), sample("y"), Event::Step(step(1))]);
    }
    write_all(&path, &events);
    let log = EventLog::read(&path).unwrap();
    assert_eq!(log.evals().count(), 1);
    assert_eq!(log.samples().map(|s| s.text.as_str()).collect::<Vec<_>>(), ["x", "y"]);
    assert_eq!(log.steps().map(|s| s.step).collect::<Vec<_>>(), [1]);
    assert_eq!(log.resumes().count(), 2);
    assert!(log.end().is_none());
}

/// The same run with and without a kill reads alike: the resumed process goes back once more, and that counts once.
#[test]
fn a_rollback_that_is_repeated_after_a_resume_counts_once() {
    let steps = |steps: std::ops::RangeInclusive<u64>| steps.map(|s| Event::Step(step(s))).collect::<Vec<_>>();
    let go = [steps(1..=6), vec![rollback(4, 6)], steps(5..=7), vec![rollback(4, 7)], steps(5..=5)].concat();
    let unbroken = [go.clone(), steps(6..=9)].concat();
    let resume = vec![Event::Resume(Resume { step: 4, time: None })];
    let again = [steps(5..=6), vec![rollback(4, 6)], steps(5..=7), vec![rollback(4, 7)], steps(5..=9)].concat();
    let (dir, path) = folder();
    write_all(&path, &unbroken);
    let killed = dir.path().join("killed.jsonl");
    write_all(&killed, &[go, resume.clone(), again].concat());
    let expected = [steps(1..=4), vec![rollback(4, 6), rollback(4, 7)], steps(5..=9)].concat();
    assert_eq!(EventLog::read(&path).unwrap().events, expected);
    let found = EventLog::read(&killed).unwrap();
    assert_eq!(found.rollbacks().count(), 2);
    assert_eq!(found.events, [&expected[..4], &resume, &expected[4..]].concat());
    // Stopped between the two, its state saved: the first rollback is part of that state and is not repeated.
    let stopped = dir.path().join("stopped.jsonl");
    let again = [steps(5..=7), vec![rollback(4, 7)], steps(5..=9)].concat();
    write_all(&stopped, &[steps(1..=6), vec![rollback(4, 6)], resume.clone(), again].concat());
    let found = EventLog::read(&stopped).unwrap();
    assert_eq!(found.events, [&expected[..5], &resume, &expected[5..]].concat());
}

#[test]
fn a_log_that_begins_anew_is_followed_from_its_beginning() {
    let (_dir, path) = folder();
    let start = |time| Event::Start(Box::new(Start { time: Some(time), ..Start::default() }));
    write_all(&path, &[start(1), Event::Step(step(1))]);
    let mut tail = EventTail::new(&path);
    assert!(tail.poll().unwrap());
    std::fs::remove_file(&path).unwrap();
    write_all(&path, &[start(2), Event::Step(step(1)), Event::Step(step(2)), Event::Step(step(3))]);
    assert!(tail.poll().unwrap());
    assert_eq!(tail.log().events.len(), 4);
    assert_eq!(tail.log().start().unwrap().time, Some(2));
    assert_eq!(tail.news(), [start(2)], "steps as they should be are no news");
    // What the next line takes back is told all the same, once.
    let overflow = Event::Step(Step { class: Class::Overflow, ..step(4) });
    let resume = Event::Resume(Resume { step: 3, time: None });
    let mut writer = EventWriter::append_to(&path).unwrap();
    let told = [overflow, eval(4, 1.0), resume];
    told.iter().for_each(|event| writer.write(event).unwrap());
    drop(writer);
    assert!(tail.poll().unwrap());
    assert_eq!(tail.news(), told);
    assert_eq!(tail.log().events.len(), 5);
    assert!(!tail.poll().unwrap() && tail.news().is_empty());
    std::fs::write(&path, "{}\n").unwrap();
    assert!(tail.poll().unwrap_err().to_string().contains("line 1 is not an event"));
}

#[test]
fn a_resumed_run_has_not_ended() {
    let (_dir, path) = folder();
    let end = Event::End(End { step: 1, reason: Reason::Signal, message: None, elapsed_s: None });
    write_all(&path, &[Event::Step(step(1)), end, Event::Resume(Resume { step: 1, time: None })]);
    let log = EventLog::read(&path).unwrap();
    assert!(log.end().is_none());
    assert_eq!(log.steps().count(), 1);
}

#[test]
fn a_whole_last_line_without_its_newline_counts() {
    let (_dir, path) = folder();
    let line = r#"{"event":"resume","step":7}"#;
    std::fs::write(&path, line).unwrap();
    assert_eq!(EventLog::read(&path).unwrap().events.len(), 1);
    EventWriter::append_to(&path).unwrap().write(&eval(8, 1.0)).unwrap();
    assert_eq!(EventLog::read(&path).unwrap().events.len(), 2);
}

#[test]
fn damage_in_the_middle_is_named_by_its_line() {
    let good = |n: u64| format!("{}\n", serde_json::to_string(&Event::Step(step(n))).unwrap());
    // Long enough that several pieces are parsed in parallel; blank lines count as lines.
    let mut text: String = (1..=5000).map(good).collect();
    text.push_str("\n{\"event\":\"step\",\"step\":5001,\"tok\n");
    text.extend((5002..=6000).map(good));
    let message = read_text(text).unwrap_err().to_string();
    assert!(message.contains("line 5002 is not an event"), "{message}");

    for (line, why) in [
        ("{\"event\":\"step\",\"step\":1}", "missing field"),
        ("{\"step\":1}", "missing field `event`"),
        ("[\"step\"]", "not a JSON object"),
        (
            "{\"event\":\"eval\",\"step\":1,\"tokens\":1,\"split\":\"val\",\"loss\":\"NaN\"}",
            "\"nan\", \"inf\" or \"-inf\"",
        ),
        ("{\"event\":\"eval\",\"step\":-1,\"tokens\":1,\"split\":\"val\",\"loss\":1}", "-1"),
        ("\u{0}\u{0}", "not a JSON object"),
    ] {
        let message = read_text(format!("{}{line}\n{}", good(1), good(2))).unwrap_err().to_string();
        assert!(message.contains("line 2 ") && message.contains(why), "{line}: {message}");
    }
}

#[test]
fn newer_logs_are_read_by_older_readers() {
    let text = concat!(
        r#"{"event":"start","version":"9.0","config_hash":"x","parameters":1,"tokens_per_step":1,"colour":{"a":[1]}}"#,
        "\n",
        r#"{"event":"telepathy","step":3,"to":"you"}"#,
        "\n\n",
        // Another order of keys, a new field, an integer where we write a float, Windows line ends.
        r#"{"loss":3,"event":"eval","step":3,"tokens":9,"split":"val","certainty":0.5}"#,
        "\r\n",
    );
    let log = read_text(text).unwrap();
    assert_eq!((log.events.len(), log.unknown, log.torn), (2, 1, false));
    assert_eq!(
        log.events[1],
        Event::Eval(Eval { step: 3, tokens: 9, split: "val".into(), loss: 3.0, standard_error: None })
    );
}

#[test]
fn scores_of_benchmarks_come_back_and_are_superseded_with_their_step() {
    let task = |step: u64, value: f64| {
        let metric = TaskMetric { name: "perplexity".into(), value, standard_error: None };
        let (task, data) = ("lambada".into(), "lambada.jsonl".into());
        Event::Task(Task { step, tokens: step * 64, task, data, examples: 5, metrics: vec![metric] })
    };
    let (_dir, path) = folder();
    let (kept, beyond) = (task(2, f64::INFINITY), task(4, 1.5));
    let resume = Event::Resume(Resume { step: 2, time: None });
    write_all(&path, &[kept.clone(), beyond, resume.clone(), task(4, 2.5)]);
    let text = std::fs::read_to_string(&path).unwrap();
    assert!(text.contains(r#"{"event":"task","step":2,"tokens":128,"task":"lambada""#), "{text}");
    assert!(text.contains(r#"{"name":"perplexity","value":"inf"}"#), "{text}");
    let log = EventLog::read(&path).unwrap();
    assert_eq!(log.events, [kept, resume, task(4, 2.5)]);
    assert_eq!(log.tasks().map(|task| task.step).collect::<Vec<_>>(), [2, 4]);
}

#[test]
fn a_record_is_never_overwritten() {
    let (_dir, path) = folder();
    write_all(&path, &[eval(0, 1.0)]);
    let error = EventWriter::create(&path).unwrap_err();
    assert_eq!(error.exit_code(), 2);
    assert!(error.to_string().contains("--resume"), "{error}");
    assert_eq!(EventLog::read(&path).unwrap().events.len(), 1);
    assert!(read_text("").unwrap().events.is_empty());
}

#[test]
fn lines_go_out_as_they_gather() {
    let (_dir, path) = folder();
    let mut writer = EventWriter::create(&path).unwrap();
    writer.write(&eval(0, 1.0)).unwrap();
    assert_eq!(std::fs::metadata(&path).unwrap().len(), 0, "one line waits in memory");
    for i in 1..2000 {
        writer.write(&Event::Step(step(i))).unwrap();
    }
    let seen = EventLog::read(&path).unwrap();
    assert!(!seen.torn && seen.events.len() > 500, "whole lines only, at {}", seen.events.len());
    writer.sync().unwrap();
    assert_eq!(EventLog::read(&path).unwrap().events.len(), 2000);
}

#[cfg(target_os = "linux")]
#[test]
fn a_full_disk_is_told_and_nothing_is_forgotten() {
    // The kernel's own full disk: every write to it fails with ENOSPC.
    let mut writer = EventWriter::create("/dev/full").unwrap();
    writer.write(&eval(0, 1.0)).unwrap();
    for _ in 0..2 {
        // The second time too: the line is still waiting to be written.
        let error = writer.flush().unwrap_err().to_string();
        assert!(error.contains("/dev/full") && error.contains("the disk is full"), "{error}");
    }
}
