//! The data path at its three widest places: cutting text, reading sequences, and preparing (bytes, so that the tokenizer
//! costs nothing and what is measured is the pipeline). The ceiling of the first two is the memory's bandwidth, of the
//! last the disk's.

use std::hint::black_box;
use std::sync::Arc;

use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use taper::data::text::pieces::{PIECE_BYTES, next_cut};
use taper::data::{Batch, Loader, PrepareOptions, ShardOptions, Shards, Tokenizer, prepare};
use taper::ui::Silent;

fn text(bytes: usize) -> String {
    "Call me Ishmael. Some years ago, never mind how long precisely, I thought I would sail about a little.\n"
        .repeat(bytes / 103 + 1)
}

fn benches(criterion: &mut Criterion) {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let input = folder.path().join("a.txt");
    let text = text(16 << 20);
    std::fs::write(&input, &text).expect("room for 16 MB");
    let options = PrepareOptions::new(vec![input.display().to_string()], folder.path().join("out"), "bytes");
    let tokenizer = Tokenizer::bytes();

    let mut group = criterion.benchmark_group("data");
    group.sample_size(10);
    group.throughput(Throughput::Bytes(text.len() as u64));
    group.bench_function("cut 16 MB into pieces", |bencher| {
        bencher.iter(|| {
            let mut rest = text.as_str();
            while let Some(cut) = next_cut(rest, PIECE_BYTES, true, false).filter(|&cut| cut > 0) {
                rest = &rest[black_box(cut)..];
            }
        })
    });
    group.bench_function("prepare 16 MB of bytes", |bencher| {
        bencher.iter(|| {
            // Otherwise it is complete already.
            let _ = std::fs::remove_dir_all(&options.out);
            prepare(&options, &tokenizer, &Silent).expect("the folder is writable")
        })
    });

    let shards = Shards::open(&options.out.display().to_string(), &ShardOptions::default()).expect("just made");
    let stream = Arc::new(shards.into_streams(257).0);
    let loader = Loader::new(stream, 1024, true, 1).expect("more than one sequence");
    let mut rows = Batch::default();
    let mut index = 0;
    group.throughput(Throughput::Elements(1024));
    group.bench_function("fill a shuffled sequence of 1024", |bencher| {
        bencher.iter(|| {
            index += 1;
            rows.inputs.clear();
            rows.targets.clear();
            loader.append(black_box(index), &mut rows).expect("ids are below 257");
        })
    });
}

criterion_group!(data, benches);
criterion_main!(data);
