//! The speed of every operator, forward alone and forward with backward: `cargo bench --bench ops -- gelu`.
//!
//! Throughput counts the bytes that have to move at least (each tensor that is read or written, once), or the
//! floating-point operations where those are the ceiling. For the speed of one core, set `RAYON_NUM_THREADS=1`.

mod adamw;
mod attention;
mod candidates;
mod classifier;
mod dropout;
mod embedding;
mod gelu;
mod gradnorm;
mod layernorm;
mod linear;
mod low_rank;
mod operator;
mod relu2;
mod residual;
mod rmsnorm;
mod rope;
mod swiglu;

criterion::criterion_group!(
    ops,
    adamw::bench,
    attention::bench,
    candidates::bench,
    classifier::bench,
    dropout::bench,
    embedding::bench,
    gelu::bench,
    gradnorm::bench,
    layernorm::bench,
    linear::bench,
    low_rank::bench,
    relu2::bench,
    residual::bench,
    rmsnorm::bench,
    rope::bench,
    swiglu::bench,
);
criterion::criterion_main!(ops);
