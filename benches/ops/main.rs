//! Benchmarks of the operators. Each names its ceiling: run `cargo bench --bench ops -- NAME`.

mod attention;
mod rope;

criterion::criterion_group!(attention_benches, attention::bench);
criterion::criterion_group!(rope_benches, rope::bench);
criterion::criterion_main!(attention_benches, rope_benches);
