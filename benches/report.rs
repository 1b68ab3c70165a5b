//! Reports of a run of a million steps: reading its log, and drawing it.
//!
//! The log is written first, into the target folder, and stays there for `taper report` and `taper watch` to be tried on.
//! `cargo bench --bench report`.

use criterion::{Criterion, criterion_group, criterion_main};
use std::hint::black_box;
use std::path::{Path, PathBuf};
use taper::events::{Action, Checkpoint, Class, DataRange, End, Eval, Event, EventLog, EventWriter, Nonfinite};
use taper::events::{Reason, Resume, Sample, Spike, Start, Step};
use taper::random::{Purpose, fill_normal};
use taper::report::{Run, draw_often, draw_run};

const STEPS: u64 = 1_000_000;
const TOKENS: u64 = 16_384;

/// The data of a step.
fn data(step: u64) -> Option<DataRange> {
    Some(DataRange { first_sequence: 16 * step, sequences: 16, context_length: 1024, positions: vec![1024 * step; 8] })
}

/// What is written for a step: a loss that falls by a power law with noise, a spike every 50,000 steps, a step that is not
/// finite every 70,000.
fn events(step: u64, noise: &[f32]) -> Vec<Event> {
    let (spikes, lost) = (step.is_multiple_of(50_000), step.is_multiple_of(70_000));
    let falling = 2.8 + 8.0 * (step as f64).powf(-0.35);
    let loss = falling + 0.06 * f64::from(noise[0]) + if spikes { 2.5 } else { 0.0 };
    let norm = 0.6 * f64::from(0.35 * noise[1]).exp();
    let class = match lost {
        true => Class::Nonfinite,
        false if norm > 1.0 => Class::Clipped,
        false => Class::Finite,
    };
    let step_ms = 410.0 * f64::from(0.02 * noise[2]).exp();
    let mut events = vec![Event::Step(Step {
        step,
        tokens: TOKENS * step,
        loss,
        lr: 6e-4 * (step as f64 / 2000.0).min(1.0) * (1.0 - 0.9 * step as f64 / STEPS as f64),
        grad_norm: if lost { f64::INFINITY } else { norm },
        grad_norm_clipped: norm.min(1.0),
        class,
        step_ms,
        tokens_per_s: TOKENS as f64 / step_ms * 1e3,
        mfu: Some(0.4 * 410.0 / step_ms),
    })];
    if lost {
        let parameter = Some("h.3.mlp.c_fc.weight".to_string());
        events.push(Event::Nonfinite(Nonfinite { step, class, parameter, action: Action::Skip, data: data(step) }));
    }
    if spikes {
        events.push(Event::Spike(Spike { step, loss, z_score: 40.0, data: data(step) }));
    }
    if step.is_multiple_of(1000) {
        let (tokens, split) = (TOKENS * step, "val".to_string());
        events.push(Event::Eval(Eval { step, tokens, split, loss: falling + 0.05, standard_error: None }));
        let path = format!("checkpoints/step-{step:08}");
        events.push(Event::Checkpoint(Checkpoint { step, path, val_loss: Some(falling + 0.05) }));
    }
    if step.is_multiple_of(10_000) {
        let text = " there was a lamp that burned low,".repeat(8);
        events.push(Event::Sample(Sample { step, prompt: "Once".into(), text }));
    }
    if step == STEPS / 2 {
        // A restart, and what it took back.
        let again = events.clone();
        events.push(Event::Resume(Resume { step: step - 1, time: None }));
        events.extend(again);
    }
    events
}

/// Writes the run anew, and gives its folder.
fn million() -> PathBuf {
    let folder = Path::new(env!("CARGO_TARGET_TMPDIR")).join("million");
    std::fs::create_dir_all(&folder).unwrap();
    let path = folder.join("events.jsonl");
    std::fs::write(&path, "").unwrap();
    let mut log = EventWriter::create(&path).unwrap();
    let start = Start {
        parameters: 124_439_808,
        tokens_per_step: TOKENS,
        max_steps: Some(STEPS),
        clip_norm: Some(1.0),
        flops_per_token: Some(8.6e8),
        time: Some(1_700_000_000),
        ..Start::default()
    };
    log.write(&Event::Start(Box::new(start))).unwrap();
    let mut noise = vec![0.0f32; 4 * 1000];
    for thousand in 0..STEPS / 1000 {
        fill_normal(1, Purpose::Test, "million", thousand * noise.len() as u64, &mut noise);
        for (i, noise) in noise.chunks(4).enumerate() {
            let events = events(1000 * thousand + i as u64 + 1, noise);
            events.iter().for_each(|event| log.write(event).unwrap());
        }
    }
    log.write(&Event::End(End { step: STEPS, reason: Reason::Done, message: None, elapsed_s: Some(4.1e5) })).unwrap();
    log.flush().unwrap();
    folder
}

fn benches(c: &mut Criterion) {
    let folder = million();
    let log = folder.join("events.jsonl");
    println!("{}: {} bytes", log.display(), std::fs::metadata(&log).unwrap().len());
    let mut group = c.benchmark_group("report of a million steps");
    group.sample_size(10);
    group.bench_function("read the log", |b| b.iter(|| EventLog::read(black_box(&log)).unwrap().events.len()));
    group.bench_function("load the run", |b| b.iter(|| Run::load(black_box(&folder)).unwrap().seconds()));
    let run = Run::load(&folder).unwrap();
    group.bench_function("draw page and all files", |b| b.iter(|| draw_run(&run, &folder.join("report")).unwrap()));
    group.bench_function("load, draw page and main files", |b| b.iter(|| draw_often(&folder).unwrap()));
    group.finish();
}

criterion_group!(all, benches);
criterion_main!(all);
