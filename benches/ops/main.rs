//! The speed of every operator: `cargo bench --bench ops -- attention`. Each file says what the ceiling is.

mod attention;
mod rope;

criterion::criterion_group!(ops, attention::bench, rope::bench,);
criterion::criterion_main!(ops);
