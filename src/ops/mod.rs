//! Every numerical operator of the engine, each a fused forward with its own backward.
//!
//! One operator, one stem: `src/ops/<op>/{mod,cpu,cuda,cost}.rs`, `kernels/<op>.cu`, `tests/ops/<op>.rs`,
//! `benches/ops/<op>.rs`. `mod.rs` checks shapes, allocates, dispatches on the device and records the way back on the tape;
//! `cpu.rs` holds the definition over plain slices; `cuda.rs` the launches; `cost.rs` the bytes and FLOPs ([`cost`]).
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
pub mod cost;
pub mod documents;
pub mod dropout;
pub mod element;
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

pub(crate) use crate::math::simd;
