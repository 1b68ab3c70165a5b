//! Tokenizer speed on one thread, against the `tokenizers` and `tiktoken-rs` crates, and BPE training on all threads.
//!
//! Text: the shared Gutenberg shard where it is, else this crate's own sources. `cargo bench --bench tokenizer`.
//!
//! With `TAPER_BENCH_TEXT=FILE` it measures one thing once instead, for scripts that alternate between programs
//! (`scripts/bench_tokenizers.py`): the GPT-2 ids of that text, on one thread. It prints a line of JSON: seconds,
//! bytes, tokens, and the sum of all (id + 1) (position + 1), modulo 2^64, as a check.

use criterion::{Criterion, Throughput, criterion_group};
use std::hint::black_box;
use std::io::Read;
use std::path::Path;
use std::time::Instant;
use taper::data::tokenizer::{Tokenizer, train_bpe};

/// Four megabytes of text, or less.
fn text() -> String {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let shared = std::env::var_os("TAPER_SHARED").map_or_else(|| root.join("../shared"), Into::into);
    let mut text = String::new();
    if let Ok(file) = std::fs::File::open(shared.join("data/gutenberg/train-00.txt.gz")) {
        flate2::read::GzDecoder::new(file).read_to_string(&mut text).unwrap();
    } else {
        let sources = walkdir::WalkDir::new(root.join("src")).sort_by_file_name().into_iter().filter_map(Result::ok);
        sources.for_each(|entry| text.push_str(&std::fs::read_to_string(entry.path()).unwrap_or_default()));
    }
    let mut end = text.len().min(4 << 20);
    while !text.is_char_boundary(end) {
        end -= 1;
    }
    text.truncate(end);
    text
}

fn benches(c: &mut Criterion) {
    let text = text();
    let gpt2 = Tokenizer::gpt2().unwrap();
    let folder = tempfile::tempdir().unwrap();
    gpt2.save(folder.path(), 1024).unwrap();
    let crate_tokenizer = tokenizers::Tokenizer::from_file(folder.path().join("tokenizer.json")).unwrap();
    let tiktoken = tiktoken_rs::r50k_base().unwrap();
    let ids = gpt2.encode(&text, false).unwrap();

    let mut group = c.benchmark_group("tokenizer");
    group.sample_size(10).throughput(Throughput::Bytes(text.len() as u64));
    group.bench_function("encode gpt2: taper", |b| b.iter(|| gpt2.encode(black_box(&text), false).unwrap()));
    group.bench_function("encode gpt2: tiktoken-rs", |b| b.iter(|| tiktoken.encode_ordinary(black_box(&text))));
    // The crate's own work grows faster than the text; lines are how it is used.
    group.bench_function("encode gpt2: tokenizers", |b| {
        b.iter(|| text.lines().map(|l| crate_tokenizer.encode_fast(black_box(l), false).unwrap().len()).sum::<usize>())
    });
    group.bench_function("decode gpt2", |b| b.iter(|| gpt2.decode_bytes(black_box(&ids)).unwrap()));
    group.bench_function("train 8192", |b| {
        b.iter(|| train_bpe(&mut [Ok(text.clone())].into_iter(), 8192, &|_, _| ()).unwrap())
    });
    group.finish();
}

/// See the story of this file.
fn once(path: &Path) {
    let text = std::fs::read_to_string(path).expect("a readable text file");
    let gpt2 = Tokenizer::gpt2().expect("it is in the program");
    let start = Instant::now();
    let ids = gpt2.encode(&text, false).expect("bytes can always be encoded");
    let seconds = start.elapsed().as_secs_f64();
    let weighted = |(i, &id): (usize, &u32)| (u64::from(id) + 1).wrapping_mul(i as u64 + 1);
    let hash = ids.iter().enumerate().map(weighted).fold(0, u64::wrapping_add);
    let (bytes, tokens) = (text.len(), ids.len());
    println!("{{\"seconds\":{seconds},\"bytes\":{bytes},\"tokens\":{tokens},\"hash\":\"{hash:016x}\"}}");
}

criterion_group!(tokenizer, benches);

fn main() {
    match std::env::var_os("TAPER_BENCH_TEXT") {
        Some(path) => once(Path::new(&path)),
        None => {
            tokenizer();
            Criterion::default().configure_from_args().final_summary();
        }
    }
}
