//! Every operator against an independent truth: the composed definition in candle, in f64, with candle's autodiff, itself
//! anchored by finite differences. One file per operator, of the operator's name.

mod adamw;
mod attention;
mod bf16;
mod candidates;
mod classifier;
mod dropout;
mod embedding;
mod gelu;
mod gradnorm;
mod layernorm;
mod linear;
mod low_rank;
mod oracle;
mod relu2;
mod residual;
mod rmsnorm;
mod rope;
mod run;
mod swiglu;
