//! Every numerical operator of the engine, each a fused forward with its own backward.
//!
//! One operator, one stem: `src/ops/<op>/{mod,cpu,cuda}.rs`, `tests/ops/<op>.rs`, `benches/ops/<op>.rs` (and
//! `kernels/<op>.cu` from the CUDA engine on). `mod.rs` checks shapes, allocates, dispatches on the device and records the
//! way back on the tape; `cpu.rs` holds the definition over plain slices; `cuda.rs` the launches.
//!
//! Axes: `B` batch, `T` time, `C` channels, `H` heads, `K` key-value heads, `D` head size, `M` feed-forward width,
//! `V` vocabulary, `N` rows (all leading axes together).
//!
//! Determinism: work is cut into chunks whose size depends on the shape only, never on the number of threads; sums run
//! over fixed virtual lanes (`lanes`) and meet in a fixed order.

pub mod adamw;
pub mod attention;
pub mod candidates;
pub mod classifier;
pub mod documents;
pub mod dropout;
pub mod embedding;
pub mod gelu;
pub mod gradnorm;
pub mod heads;
pub mod lanes;
pub mod launch;
pub mod layernorm;
pub mod linear;
pub mod low_rank;
pub mod matmul;
pub mod reduce;
pub mod relu2;
pub mod residual;
pub mod rmsnorm;
pub mod rope;
pub mod swiglu;

/// Compiles the functions inside for several instruction sets and picks the best at run time. The source has no fused
/// multiply-add and fixes the order of every sum, so that all versions give the same bits.
macro_rules! simd {
    ($($item:item)*) => {
        $(
            #[multiversion::multiversion(targets(
                "x86_64+avx512f+avx512bw+avx512cd+avx512dq+avx512vl+avx2+fma+bmi1+bmi2",
                "x86_64+avx2+fma+bmi1+bmi2",
            ))]
            $item
        )*
    };
}
pub(crate) use simd;
