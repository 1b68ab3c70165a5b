//! Reports: the charts show what the log holds, in files that other programs can read.
//!
//! Truths: extremes and averages are computed again by brute force; PNG files are taken apart by hand after the format's
//! specification; counts and labels are those of runs written here line by line.

use proptest::prelude::*;
use std::path::{Path, PathBuf};
use taper::events::{Action, Class, End, Eval, Event, EventLog, EventWriter, Nonfinite, Reason, Sample, Start, Step};
use taper::report::figure::{Average, envelope, median, smooth, smoothing_window};
use taper::report::{LossAt, Run, State, charts, draw, summary};

/// A step with a smooth loss, never clipped.
fn step(step: u64) -> Step {
    Step {
        step,
        tokens: step * 1000,
        loss: 3.0 + 6.0 / step as f64,
        lr: 1e-3,
        grad_norm: 0.5 + 0.001 * (step % 7) as f64,
        grad_norm_clipped: 0.5,
        class: Class::Finite,
        step_ms: 10.0,
        tokens_per_s: 1e5,
        mfu: None,
    }
}

fn eval(step: u64, loss: f64) -> Event {
    Event::Eval(Eval { step, tokens: step * 1000, split: "val".into(), loss, standard_error: None })
}

fn write_run(dir: &Path, events: &[Event]) {
    std::fs::create_dir_all(dir).unwrap();
    let mut writer = EventWriter::create(dir.join("events.jsonl")).unwrap();
    events.iter().for_each(|event| writer.write(event).unwrap());
    writer.flush().unwrap();
}

/// A run in which everything happens: clipped, overflowed and non-finite steps, evaluations, samples, an end.
fn eventful(dir: &Path) {
    let start = Start { parameters: 1234, clip_norm: Some(1.0), version: "0.1.0".into(), ..Start::default() };
    let mut events = vec![Event::Start(Box::new(start)), eval(0, 9.5)];
    for s in 1..=400 {
        let e = step(s);
        events.push(Event::Step(match s {
            10..20 => Step { grad_norm: 2.0, grad_norm_clipped: 1.0, class: Class::Clipped, ..e },
            100 => Step { grad_norm: f64::INFINITY, class: Class::Overflow, ..e },
            200 | 300 => Step { grad_norm: f64::NAN, class: Class::Nonfinite, ..e },
            333 => Step { loss: f64::NAN, grad_norm: f64::NAN, class: Class::LossNonfinite, ..e },
            _ => e,
        }));
        if s == 200 {
            let parameter = Some("h.0.attn.qkv.weight".into());
            events.push(Event::Nonfinite(Nonfinite {
                step: s,
                class: Class::Nonfinite,
                parameter,
                action: Action::Skip,
            }));
        }
        if s % 100 == 0 {
            events.push(eval(s, if s == 300 { 3.25 } else { 4.0 }));
            events.push(Event::Sample(Sample { step: s, prompt: "a<b".into(), text: format!(" & </pre>{s}") }));
        }
    }
    events.push(Event::End(End { step: 400, reason: Reason::Done, message: None, elapsed_s: None }));
    write_run(dir, &events);
    std::fs::write(dir.join("config.toml"), "[run]\nname = \"<x>\"\n").unwrap();
}

fn values() -> impl Strategy<Value = Vec<f64>> {
    let value =
        prop_oneof![8 => -1e3..1e3, 1 => Just(f64::NAN), 1 => Just(f64::INFINITY), 1 => Just(f64::NEG_INFINITY)];
    prop::collection::vec(value, 1..300)
}

proptest! {
    #[test]
    fn the_envelope_is_the_min_and_max_of_each_column(values in values(), columns in 1usize..40) {
        // Integer steps over columns of a whole number of steps, so that no rounding decides where a point belongs.
        let per = values.len().div_ceil(columns);
        let points: Vec<(f64, f64)> = values.iter().enumerate().map(|(i, &v)| (i as f64, v)).collect();
        let extents = envelope(&points, 0.0, (per * columns) as f64, columns);
        let mut found = extents.iter();
        for (column, part) in values.chunks(per).enumerate() {
            let mut finite: Vec<f64> = part.iter().copied().filter(|v| v.is_finite()).collect();
            finite.sort_by(f64::total_cmp);
            if let (Some(&min), Some(&max)) = (finite.first(), finite.last()) {
                let extent = found.next().unwrap();
                prop_assert_eq!((extent.column, extent.min, extent.max), (column, min, max));
            }
        }
        prop_assert!(found.next().is_none());
    }

    #[test]
    fn smoothing_is_the_average_of_the_window(values in values(), half in 0usize..20) {
        let points: Vec<(f64, f64)> = values.iter().enumerate().map(|(i, &v)| (i as f64, v)).collect();
        for average in [Average::Mean, Average::Median] {
            let smoothed = smooth(&points, 2 * half + 1, average);
            prop_assert_eq!(smoothed.len(), values.len(), "few points are all kept");
            for (i, &(x, y)) in smoothed.iter().enumerate() {
                prop_assert_eq!(x, i as f64);
                let window: Vec<f64> = (0..values.len()).filter(|&j| j.abs_diff(i) <= half).map(|j| values[j]).collect();
                let mut finite: Vec<f64> = window.iter().copied().filter(|v| v.is_finite()).collect();
                finite.sort_by(f64::total_cmp);
                let expected = match average {
                    _ if finite.len() * 2 < window.len() => f64::NAN,
                    Average::Mean => finite.iter().sum::<f64>() / finite.len() as f64,
                    Average::Median => finite[finite.len() / 2],
                };
                prop_assert!((y - expected).abs() < 1e-9 || (y.is_nan() && expected.is_nan()), "{} {} {}", i, y, expected);
            }
        }
    }
}

#[test]
fn long_series_are_thinned_to_a_chart_of_points() {
    let points: Vec<(f64, f64)> = (0..100_000).map(|i| (i as f64, 1.0)).collect();
    let smoothed = smooth(&points, smoothing_window(points.len()).unwrap(), Average::Mean);
    assert!((500..=1001).contains(&smoothed.len()), "{}", smoothed.len());
    assert_eq!(smoothed.last(), Some(&(99_999.0, 1.0)));
    assert_eq!(smoothing_window(100_000), Some(2001));
    assert_eq!(smoothing_window(60), None);
    assert_eq!(median([3.0, f64::NAN, 1.0, 2.0].into_iter()), Some(2.0));
    assert_eq!(median(std::iter::empty()), None);
}

/// The CRC of the PNG specification, bit by bit.
fn crc(bytes: &[u8]) -> u32 {
    !bytes.iter().fold(!0u32, |crc, &byte| {
        (0..8).fold(crc ^ u32::from(byte), |c, _| if c & 1 == 1 { 0xEDB8_8320 ^ (c >> 1) } else { c >> 1 })
    })
}

/// Takes a PNG apart: width, height and the RGB pixels.
fn decode_png(file: &[u8]) -> (usize, usize, Vec<u8>) {
    assert_eq!(&file[..8], b"\x89PNG\r\n\x1a\n");
    let (mut at, mut chunks) = (8, Vec::new());
    while at < file.len() {
        let word = |at: usize| u32::from_be_bytes(file[at..at + 4].try_into().unwrap());
        let length = word(at) as usize;
        assert_eq!(word(at + 8 + length), crc(&file[at + 4..at + 8 + length]), "checksum of a chunk");
        chunks.push((&file[at + 4..at + 8], &file[at + 8..at + 8 + length]));
        at += 12 + length;
    }
    let names: Vec<&[u8]> = chunks.iter().map(|chunk| chunk.0).collect();
    assert_eq!(names, [b"IHDR", b"IDAT", b"IEND"]);
    let header = chunks[0].1;
    let word = |at: usize| u32::from_be_bytes(header[at..at + 4].try_into().unwrap()) as usize;
    let (width, height) = (word(0), word(4));
    assert_eq!(header[8..], [8, 2, 0, 0, 0], "8 bits, RGB, not interlaced");
    let mut rows = Vec::new();
    std::io::Read::read_to_end(&mut flate2::read::ZlibDecoder::new(chunks[1].1), &mut rows).unwrap();
    assert_eq!(rows.len(), height * (1 + 3 * width));
    let mut pixels = Vec::new();
    for row in rows.chunks(1 + 3 * width) {
        assert_eq!(row[0], 0, "no filter");
        pixels.extend_from_slice(&row[1..]);
    }
    (width, height, pixels)
}

/// The number in an attribute of the SVG's root.
fn svg_attribute(svg: &str, name: &str) -> usize {
    svg.split(&format!(" {name}=\"")).nth(1).unwrap().split('"').next().unwrap().parse().unwrap()
}

#[test]
fn every_chart_is_drawn_twice_and_shows_what_happened() {
    let dir = tempfile::tempdir().unwrap();
    let run = dir.path().join("my<run>");
    eventful(&run);
    let files = draw(&run).unwrap();
    let names: Vec<&str> = files.iter().map(|file| file.file_name().unwrap().to_str().unwrap()).collect();
    let stems = ["loss", "grad_norm", "learning_rate", "throughput"];
    let mut expected: Vec<String> = stems.iter().flat_map(|s| [format!("{s}.png"), format!("{s}.svg")]).collect();
    expected.push("index.html".into());
    assert_eq!(names, expected);
    assert_eq!(charts::CHARTS.iter().map(|chart| chart.stem).collect::<Vec<_>>(), stems);
    // Nothing else is left there, such as files written aside.
    assert_eq!(std::fs::read_dir(run.join("report")).unwrap().count(), files.len());

    for stem in stems {
        let svg = std::fs::read_to_string(run.join(format!("report/{stem}.svg"))).unwrap();
        let png = std::fs::read(run.join(format!("report/{stem}.png"))).unwrap();
        let (width, height, pixels) = decode_png(&png);
        assert_eq!((width, height), (2 * svg_attribute(&svg, "width"), 2 * svg_attribute(&svg, "height")), "{stem}");
        assert_eq!(pixels[..3], [0xFF; 3], "white in the corner");
        // Every ink that the SVG uses in an opaque line is somewhere in the picture, unmixed.
        let blue = pixels.chunks(3).filter(|rgb| *rgb == [0x25, 0x63, 0xB0]).count();
        assert!(blue > 500, "{stem}: the line of the first series has {blue} pixels");
        assert!(svg.contains("optimizer step") && svg.contains("my&lt;run&gt; · "), "{stem}");
        assert!(svg.starts_with("<svg width=\"960\" ") && svg.trim_end().ends_with("</svg>"));
    }

    let loss = std::fs::read_to_string(run.join("report/loss.svg")).unwrap();
    for label in ["loss (nats per token)", "training, every step", "training, mean of 9 steps", "validation", "nan"] {
        assert!(loss.contains(label), "{label}");
    }
    assert!(loss.contains("loss not finite (1 step)"));
    assert_eq!(loss.matches("<circle").count(), 5, "one dot for each evaluation");

    let norm = std::fs::read_to_string(run.join("report/grad_norm.svg")).unwrap();
    for label in [
        "clip norm 1",
        "clipped (10 of 400 steps)",
        "norm overflowed (1 of 400 steps)",
        "gradient not finite (2 of 400 steps)",
        "loss not finite (1 of 400 steps)",
    ] {
        assert!(norm.contains(label), "{label}");
    }
    // The words beside the marks: one infinity, three not-a-numbers (two gradients, one loss).
    assert_eq!(norm.matches("\ninf\n").count() + norm.matches(">inf").count(), 1);
    assert_eq!(norm.matches("\nnan\n").count() + norm.matches(">nan").count(), 3);
}

#[test]
fn the_page_stands_alone_and_nothing_breaks_out_of_it() {
    let dir = tempfile::tempdir().unwrap();
    let run = dir.path().join("a&b");
    eventful(&run);
    draw(&run).unwrap();
    let html = std::fs::read_to_string(run.join("report/index.html")).unwrap();
    let without_namespace = html.replace("xmlns=\"http://www.w3.org/2000/svg\"", "");
    for forbidden in ["http:", "https:", "<script", "<link", "@import", "url(", "src="] {
        assert!(!without_namespace.contains(forbidden), "{forbidden}");
    }
    for expected in [
        "<title>a&amp;b · taper report</title>",
        "prefers-color-scheme:dark",
        "width=device-width",
        "<th scope=\"row\">best val loss</th><td>3.2500 at step 300</td>",
        "<pre><b>a&lt;b</b> &amp; &lt;/pre&gt;400</pre>",
        "name = &quot;&lt;x&gt;&quot;",
        "<th scope=\"row\">step 200</th><td>nonfinite, first in h.0.attn.qkv.weight; action: skip</td>",
    ] {
        assert!(html.contains(expected), "{expected}");
    }
    // Each of the four charts in two shapes, all elements closed.
    assert_eq!(html.matches("<svg ").count(), 8);
    for element in ["svg", "figure", "details", "table", "pre", "style", "main"] {
        let opened = html.matches(&format!("<{element}>")).count() + html.matches(&format!("<{element} ")).count();
        assert_eq!(opened, html.matches(&format!("</{element}>")).count(), "{element}");
    }
}

#[test]
fn the_same_log_gives_the_same_bytes() {
    let dir = tempfile::tempdir().unwrap();
    let run = dir.path().join("run");
    eventful(&run);
    let read = |files: &[PathBuf]| files.iter().map(|file| std::fs::read(file).unwrap()).collect::<Vec<_>>();
    let first = read(&draw(&run).unwrap());
    assert!(first == read(&draw(&run).unwrap()));
}

#[test]
fn runs_of_every_size_and_kind_can_be_drawn() {
    let dir = tempfile::tempdir().unwrap();
    let cases: Vec<(&str, Vec<Event>)> = vec![
        ("only an evaluation", vec![eval(0, 9.0)]),
        ("one step", vec![Event::Step(step(1))]),
        ("all equal", (1..=80).map(|s| Event::Step(Step { loss: 2.0, grad_norm: 0.0, lr: 0.0, ..step(s) })).collect()),
        (
            "nothing finite",
            (1..=80)
                .map(|s| {
                    let class = Class::LossNonfinite;
                    Event::Step(Step { loss: f64::NAN, grad_norm: f64::NAN, tokens_per_s: f64::NAN, class, ..step(s) })
                })
                .collect(),
        ),
        (
            "extremes",
            vec![
                Event::Step(Step { loss: f64::MAX, grad_norm: 5e-324, lr: f64::MAX, ..step(1) }),
                Event::Step(Step { loss: -f64::MAX, grad_norm: f64::MAX, lr: 5e-324, ..step(u64::MAX / 2000) }),
            ],
        ),
        ("more steps than pixels", (1..=3000).map(|s| Event::Step(step(s))).collect()),
    ];
    for (name, events) in cases {
        let run = dir.path().join(name);
        write_run(&run, &events);
        let files = draw(&run).unwrap();
        for file in files.iter().filter(|file| file.extension().is_some_and(|e| e == "png")) {
            decode_png(&std::fs::read(file).unwrap());
        }
        for file in files.iter().filter(|file| file.extension().is_some_and(|e| e == "svg")) {
            let svg = std::fs::read_to_string(file).unwrap();
            assert!(
                !svg.contains("NaN") && !svg.contains("inf,") && !svg.contains(",inf"),
                "{name}: {}",
                file.display()
            );
        }
    }
}

#[test]
fn several_runs_can_be_overlaid() {
    let dir = tempfile::tempdir().unwrap();
    let runs: Vec<Run> = ["first", "second"]
        .map(|name| {
            eventful(&dir.path().join(name));
            Run::load(dir.path().join(name)).unwrap()
        })
        .into();
    let figure = (charts::CHARTS[0].figure)(&runs);
    let labels: Vec<&str> = figure.series.iter().map(|series| series.label.as_str()).collect();
    assert!(labels.contains(&"first: validation") && labels.contains(&"second: validation"), "{labels:?}");
    let norms = (charts::CHARTS[1].figure)(&runs);
    assert_eq!(norms.levels.len(), 1, "the same clip norm is one line");
}

#[test]
fn a_run_with_nothing_to_draw_says_so() {
    let dir = tempfile::tempdir().unwrap();
    let missing = draw(&dir.path().join("nowhere")).unwrap_err();
    assert!(missing.to_string().contains("does not exist") && missing.exit_code() == 2, "{missing}");
    let bare = draw(dir.path()).unwrap_err().to_string();
    assert!(bare.contains("holds no events.jsonl"), "{bare}");
    std::fs::write(dir.path().join("events.jsonl"), "").unwrap();
    let empty = draw(dir.path()).unwrap_err().to_string();
    assert!(empty.contains("nothing to draw yet"), "{empty}");
    assert!(!dir.path().join("report").exists());
}

#[test]
fn the_summary_counts_and_finds() {
    let dir = tempfile::tempdir().unwrap();
    eventful(dir.path());
    let s = summary(&EventLog::read(dir.path().join("events.jsonl")).unwrap());
    assert_eq!((s.state, s.steps, s.tokens, s.parameters), (State::Done, 400, 400_000, Some(1234)));
    assert_eq!(s.first_val_loss, Some(LossAt { step: 0, loss: 9.5 }));
    assert_eq!(s.best_val_loss, Some(LossAt { step: 300, loss: 3.25 }));
    assert_eq!(s.last_val_loss, Some(LossAt { step: 400, loss: 4.0 }));
    assert_eq!(s.first_train_loss, Some(LossAt { step: 1, loss: 9.0 }));
    let c = s.classes;
    assert_eq!((c.finite, c.clipped, c.overflow, c.nonfinite, c.loss_nonfinite), (386, 10, 1, 2, 1));
    assert_eq!(s.median_tokens_per_s, Some(1e5));
    assert!((s.training_s - 4.0).abs() < 1e-9, "400 steps of 10 ms");
}

#[test]
fn the_command_prints_paths_or_one_json_object() {
    let dir = tempfile::tempdir().unwrap();
    for name in ["a", "b"] {
        eventful(&dir.path().join(name));
    }
    let taper = |args: &[&str]| {
        let output = std::process::Command::new(env!("CARGO_BIN_EXE_taper"))
            .arg("report")
            .args(args)
            .current_dir(dir.path())
            .output()
            .unwrap();
        (
            output.status.code().unwrap(),
            String::from_utf8(output.stdout).unwrap(),
            String::from_utf8(output.stderr).unwrap(),
        )
    };
    let (code, text, _) = taper(&["a"]);
    assert_eq!(code, 0);
    assert!(text.contains("best val loss") && text.contains("3.2500 at step 300"), "{text}");
    assert!(text.contains("wrote a/report/loss.png"), "{text}");

    let (code, text, errors) = taper(&["a", "b", "--out", "out", "--json"]);
    assert_eq!((code, errors.as_str()), (0, ""));
    let json: serde_json::Value = serde_json::from_str(&text).unwrap();
    assert_eq!(json["runs"][1]["name"], "b");
    assert_eq!(json["runs"][1]["files"][0], "out/b/loss.png");
    assert_eq!(json["runs"][0]["summary"]["best_val_loss"]["loss"], 3.25);
    assert_eq!(json["runs"][0]["summary"]["classes"]["clipped"], 10);
    assert!(dir.path().join("out/a/index.html").is_file());

    assert_eq!(taper(&["nowhere"]).0, 2);
    assert_eq!(taper(&["a", "./a", "--out", "out"]).0, 2, "two reports in one folder");
}
