//! Reports: the charts show what the log holds, in files that other programs can read.
//!
//! Truths: extremes and averages are computed again by brute force; PNG files are taken apart by hand after the format's
//! specification; counts and labels are those of runs written here line by line.

use crate::program::{taper, told};
use proptest::prelude::*;
use std::path::{Path, PathBuf};
use taper::events::{
    Action, Class, DataRange, End, Eval, Event, EventLog, EventWriter, Nonfinite, Reason, Rollback, Sample, Spike,
    Start, Step,
};
use taper::report::csv::csv;
use taper::report::differences::differences;
use taper::report::figure::{Average, envelope, median, smooth, smoothing_window};
use taper::report::incidents::incidents;
use taper::report::{LossAt, Run, State, draw, draw_often, draw_runs, figures_of, summary, tensorboard};

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
                data: None,
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
        for average in [Average::Mean, Average::Median, Average::Max] {
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
                    Average::Max => finite[finite.len() - 1],
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
    // No FLOPs are known for this run, and no MFU.
    let stems = ["loss", "loss_tokens", "loss_time", "grad_norm", "learning_rate", "throughput"];
    let mut expected: Vec<String> = stems.iter().flat_map(|s| [format!("{s}.png"), format!("{s}.svg")]).collect();
    expected.push("index.html".into());
    assert_eq!(names, expected);
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
        let x = match stem {
            "loss_tokens" => "training tokens",
            "loss_time" => "time in optimizer steps (seconds)",
            _ => "optimizer step",
        };
        assert!(svg.contains(x) && svg.contains("my&lt;run&gt; · "), "{stem}");
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
        "gradient norm, mean of 9 steps",
        "largest, max of 9 steps",
        "clipped (10 of 400 steps)",
        "norm overflowed (1 of 400 steps)",
        "gradient not finite (2 of 400 steps)",
        "loss not finite (1 of 400 steps)",
    ] {
        assert!(norm.contains(label), "{label}");
    }
    // The words next to the marks: one infinity, three not-a-numbers (two gradients, one loss).
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
    // A name, and an empty icon in the page itself, for want of which a browser would ask the server for one.
    let without_namespace = html.replace("xmlns=\"http://www.w3.org/2000/svg\"", "");
    let without_namespace = without_namespace.replacen("<link rel=\"icon\" href=\"data:,\">", "", 1);
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
    // Each of the six charts in two shapes, all elements closed.
    assert_eq!(html.matches("<svg ").count(), 12);
    for element in ["div", "label", "td", "tr", "svg", "figure", "details", "table", "pre", "style", "main"] {
        let opened = html.matches(&format!("<{element}>")).count() + html.matches(&format!("<{element} ")).count();
        assert_eq!(opened, html.matches(&format!("</{element}>")).count(), "{element}");
    }
}

#[test]
fn a_run_that_goes_on_gets_the_whole_page_and_fewer_files() {
    let dir = tempfile::tempdir().unwrap();
    eventful(dir.path());
    let files = draw_often(dir.path()).unwrap();
    assert_eq!(files.iter().filter(|file| file.extension().is_some_and(|e| e == "png")).count(), 4);
    let page = std::fs::read(dir.path().join("report/index.html")).unwrap();
    draw(dir.path()).unwrap();
    assert!(page == std::fs::read(dir.path().join("report/index.html")).unwrap());
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
fn several_runs_are_overlaid_in_one_report() {
    let dir = tempfile::tempdir().unwrap();
    let paths: Vec<PathBuf> = ["first", "second"].map(|name| dir.path().join(name)).into();
    for (path, lr) in paths.iter().zip(["1e-3", "2e-3"]) {
        eventful(path);
        let config = format!("[run]\nname = \"{}\"\n[optimizer]\nlr = {lr}\nbeta1 = 0.9\n", path.display());
        std::fs::write(path.join("config.toml"), config).unwrap();
    }
    std::fs::write(paths[1].join("environment.json"), "{\"threads\": 7, \"cpu\": {\"model\": \"x\"}}").unwrap();
    let runs = Run::load_all(&paths).unwrap();
    let figures = figures_of(&runs);
    let figure = |stem: &str| &figures.iter().find(|(chart, _)| chart.stem == stem).unwrap().1;
    assert!(figures.iter().all(|(chart, _)| chart.group != "loss"), "each loss has a chart of its own");
    let labels = |stem: &str| figure(stem).series.iter().map(|series| series.label.clone()).collect::<Vec<_>>();
    assert_eq!(labels("val_loss"), ["first", "second"]);
    // What every step was stands behind the lines and is not in the legend.
    assert_eq!(labels("train_loss"), ["", "first, mean of 9 steps", "", "second, mean of 9 steps"]);
    assert_eq!(figure("grad_norm").levels, [(1.0, "clip norm 1".to_string(), 2)], "the same clip norm is one line");
    // By the log's own numbers: 1000 tokens and 10 ms a step.
    assert_eq!(figure("val_loss_tokens").series[0].points[1], (100_000.0, 4.0));
    let (x, y) = figure("val_loss_time").series[0].points[1];
    assert!((x - 1.0).abs() < 1e-9 && y == 4.0, "{x}");

    let found = differences(&runs);
    let expected = [("optimizer.lr", [Some("0.001"), Some("0.002")]), ("environment.threads", [None, Some("7")])];
    assert_eq!(found.len(), expected.len());
    for (found, (key, values)) in found.iter().zip(expected) {
        assert_eq!(found.key, key);
        assert_eq!(found.values.iter().map(|v| v.as_deref()).collect::<Vec<_>>(), values);
    }

    let files = draw_runs(&runs, &dir.path().join("both")).unwrap();
    let html = std::fs::read_to_string(files.last().unwrap()).unwrap();
    for expected in [
        "<th scope=\"row\">optimizer.lr</th><td>0.001</td><td>0.002</td>",
        "<th scope=\"col\">second</th>",
        "<i>first</i>",
        "<summary>Config of second</summary>",
        "<h2>Incidents of first</h2>",
    ] {
        assert!(html.contains(expected), "{expected}");
    }
    // Two runs of one name are told apart, and one run is not compared with itself.
    let deeper = dir.path().join("deeper/first");
    eventful(&deeper);
    let runs = Run::load_all(&[paths[0].clone(), deeper.clone()]).unwrap();
    let above = dir.path().file_name().unwrap().to_string_lossy();
    assert_eq!((&runs[0].name, &*runs[1].name), (&format!("{above}/first"), "deeper/first"));
    let twice = Run::load_all(&[paths[0].clone(), dir.path().join("second/../first")]).unwrap_err();
    assert_eq!(twice.exit_code(), 2);
}

#[test]
fn incidents_name_the_data_and_the_command_that_shows_it() {
    let dir = tempfile::tempdir().unwrap();
    let run = dir.path().join("it's");
    let data = |first| DataRange { first_sequence: first, sequences: 2, context_length: 64, positions: vec![640, 0] };
    let spike = Spike { step: 2, loss: 11.0, z_score: 6.5, data: Some(data(4)) };
    let back = Rollback { step: 0, from: 3, loss: 12.0, z_score: 7.5, data: data(0) };
    let bad = Nonfinite {
        step: 1,
        class: Class::Nonfinite,
        parameter: Some("wte.weight".into()),
        action: Action::Skip,
        data: Some(data(2)),
    };
    let tail =
        [Event::Rollback(back), Event::Step(step(1)), Event::Nonfinite(bad), Event::Step(step(2)), Event::Spike(spike)];
    write_run(&run, &[vec![Event::Step(step(1)), Event::Step(step(2)), Event::Step(step(3))], tail.into()].concat());
    std::fs::write(run.join("config.toml"), "[data]\nshards = \"my shards\"\n[tokenizer]\nkind = \"gpt2\"\n").unwrap();
    let run = Run::load(&run).unwrap();
    let found = incidents(&run);
    let kinds: Vec<_> = found.iter().map(|i| (i.step, i.kind, i.action.unwrap())).collect();
    assert_eq!(kinds, [(3, "rollback", "rollback"), (1, "nonfinite", "skip"), (2, "spike", "none")]);
    assert_eq!(
        found[0].text.split("; ").last(),
        Some("went back to the checkpoint of step 0 and left out 2 sequences")
    );
    assert_eq!(found[1].parameter.as_deref(), Some("wte.weight"));
    let path = dir.path().display();
    assert_eq!(
        found[2].commands,
        [
            format!("taper data inspect '{path}/it'\\''s' --sequence 4 --count 2"),
            "taper data inspect 'my shards' --tokenizer gpt2 --at 640 --tokens 64".into(),
            "taper data inspect 'my shards' --tokenizer gpt2 --at 0 --tokens 64".into(),
        ]
    );
    draw_runs(&[run], &dir.path().join("out")).unwrap();
    let html = std::fs::read_to_string(dir.path().join("out/index.html")).unwrap();
    assert!(html.contains("<summary>data: sequences 4 to 5</summary>"));
}

#[test]
fn the_table_has_every_measurement() {
    let dir = tempfile::tempdir().unwrap();
    let run = dir.path().join("a,b");
    let start = Start { flops_per_token: Some(6.0), ..Start::default() };
    let mut events = vec![Event::Start(Box::new(start)), eval(0, 9.5)];
    events.push(Event::Step(Step { mfu: Some(0.25), ..step(1) }));
    events.push(Event::Step(Step { loss: f64::NAN, grad_norm: f64::INFINITY, class: Class::LossNonfinite, ..step(2) }));
    events.push(eval(2, f64::NEG_INFINITY));
    events.push(Event::Eval(Eval { step: 2, tokens: 2000, split: "books".into(), loss: 1.5, standard_error: None }));
    write_run(&run, &events);
    let table = csv(&[Run::load(&run).unwrap()]);
    let expected = "\
run,step,tokens,flops,time_s,train_loss,val_loss,books_loss,learning_rate,grad_norm,grad_norm_clipped,class,step_ms,tokens_per_s,mfu
\"a,b\",0,0,0,0,,9.5,,,,,,,,
\"a,b\",1,1000,6000,0.01,9,,,0.001,0.501,0.5,finite,10,100000,0.25
\"a,b\",2,2000,12000,0.02,nan,-inf,1.5,0.001,inf,0.5,loss_nonfinite,10,100000,
";
    assert_eq!(table, expected);
}

/// Truth: records and checksums taken apart by the description in TensorFlow's record_writer.h, CRC-32C bit by bit after
/// RFC 3720; the protobuf fields by hand. (TensorBoard's own EventAccumulator reads these files too; see docs/report.md.)
#[test]
fn tensorboard_files_hold_the_scalars() {
    fn masked(bytes: &[u8]) -> u32 {
        let crc = !bytes.iter().fold(!0u32, |crc, &byte| {
            (0..8).fold(crc ^ u32::from(byte), |c, _| if c & 1 == 1 { 0x82F6_3B78 ^ (c >> 1) } else { c >> 1 })
        });
        crc.rotate_left(17).wrapping_add(0xA282_EAD8)
    }
    let dir = tempfile::tempdir().unwrap();
    let run = dir.path().join("run");
    let start = Start { time: Some(1_700_000_000), ..Start::default() };
    let unknown = Step { tokens_per_s: f64::NAN, loss: 2.5, ..step(300) };
    write_run(&run, &[Event::Start(Box::new(start)), Event::Step(unknown), eval(300, 3.25)]);
    let files = tensorboard::write(&[Run::load(&run).unwrap()], &dir.path().join("tb")).unwrap();
    assert_eq!(files, [dir.path().join("tb/run/events.out.tfevents.1700000000.taper")]);
    let file = std::fs::read(&files[0]).unwrap();
    let (mut at, mut records) = (0, Vec::new());
    while at < file.len() {
        let word = |at: usize| u32::from_le_bytes(file[at..at + 4].try_into().unwrap());
        let length = u64::from_le_bytes(file[at..at + 8].try_into().unwrap()) as usize;
        let message = &file[at + 12..at + 12 + length];
        assert_eq!(word(at + 8), masked(&file[at..at + 8]));
        assert_eq!(word(at + 12 + length), masked(message));
        records.push(message.to_vec());
        at += 16 + length;
    }
    assert_eq!(records.len(), 3);
    let time = |seconds: f64| [&[0x09][..], &seconds.to_le_bytes()].concat();
    assert_eq!(records[0], [time(1.7e9), b"\x1a\x0dbrain.Event:2".to_vec()].concat());
    // Step 300 is 0b10_0101100: two bytes, the lower seven bits first. The value: tag of 8 bytes, then 3.25 as a float.
    let value = [&b"\x0a\x08loss/val\x15"[..], &3.25f32.to_le_bytes()].concat();
    let summary = [&[0x2a, 17, 0x0a, 15][..], &value].concat();
    assert_eq!(records[2], [time(1.7e9 + 0.01), vec![0x10, 0xAC, 0x02], summary].concat());
    let text = String::from_utf8_lossy(&records[1]).into_owned();
    assert!(text.contains("loss/train") && text.contains("optimizer/grad_norm_clipped"));
    assert!(!text.contains("tokens_per_s") && !text.contains("mfu"), "what was not measured is not there");
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
    let taper = |args: &[&str]| told(taper(dir.path()).arg("report").args(args));
    let (code, text, _) = taper(&["a"]);
    assert_eq!(code, 0);
    assert!(text.contains("best val loss") && text.contains("3.2500 at step 300"), "{text}");
    assert!(text.contains("wrote a/report/loss.png"), "{text}");

    let (code, text, errors) = taper(&["a", "b", "--out", "out", "--csv", "t.csv", "--tensorboard", "tb", "--json"]);
    assert_eq!((code, errors.as_str()), (0, ""));
    let json: serde_json::Value = serde_json::from_str(&text).unwrap();
    assert_eq!(json["schema"], 1);
    assert_eq!(json["runs"][1]["name"], "b");
    assert_eq!(json["files"][0], "out/val_loss.png");
    let summary = &json["runs"][0]["summary"];
    assert_eq!((&summary["best_val_loss"]["loss"], &summary["classes"]["clipped"]), (&3.25.into(), &10.into()));
    let seconds = json["runs"][0]["evals"][4]["time_s"].as_f64().unwrap();
    assert!((seconds - 4.0).abs() < 1e-9, "400 steps of 10 ms: {seconds}");
    assert_eq!(json["runs"][0]["incidents"][0]["parameter"], "h.0.attn.qkv.weight");
    assert_eq!(json["charts"][0]["series"][1]["points"][0], serde_json::json!([0.0, 9.5]));
    assert!(dir.path().join("out/index.html").is_file() && dir.path().join("tb/b").is_dir());
    assert_eq!(std::fs::read_to_string(dir.path().join("t.csv")).unwrap().lines().count(), 1 + 2 * 401);
    assert_eq!(taper(&["a", "b"]).0, 0);
    assert!(dir.path().join("report/val_loss.svg").is_file());

    assert_eq!(taper(&["nowhere"]).0, 2);
    assert_eq!(taper(&["a", "./a", "--out", "out"]).0, 2, "one run twice");
}
