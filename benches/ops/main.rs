//! The speed of every operator, forward alone and forward with backward: `cargo bench --bench ops -- gelu`.
//!
//! Throughput counts the bytes that have to move at least: each tensor that is read or written, once. For the speed of one
//! core, set `RAYON_NUM_THREADS=1`. The shapes are those of GPT-2 small at 4 sequences of 256 tokens.

mod dropout;
mod embedding;
mod gelu;
mod layernorm;
mod linear;
mod operator;
mod relu2;
mod residual;
mod rmsnorm;
mod swiglu;

criterion::criterion_group!(
    ops,
    dropout::bench,
    embedding::bench,
    gelu::bench,
    layernorm::bench,
    linear::bench,
    relu2::bench,
    residual::bench,
    rmsnorm::bench,
    swiglu::bench,
);
criterion::criterion_main!(ops);
