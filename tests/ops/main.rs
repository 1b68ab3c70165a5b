//! Every operator against an independent truth: the composed definition in candle, in f64, with candle's autodiff, itself
//! anchored by finite differences. One file per operator, of the operator's name.

mod linear;
mod oracle;
mod residual;
