//! Single operators in candle, composed so that gradients flow, and [`grad_check`], which makes an oracle of each.
//!
//! Axes: B batch, T time, C channels, H query heads, K key-value heads, D head size, M hidden width, V vocabulary.
//! A tensor's suffix names its axes (`q_bhtd`). Every function works in the dtype of its input and on any device.
//!
//! The rule of the file: only candle operators whose backward is exact. Checked in candle 0.11 and *not* among them:
//! `layer_norm`, `rms_norm`, `softmax_last_dim`, `rope*`, `sigmoid` (no backward, silently), `gelu`, `gelu_erf` (rounded
//! constants in the backward).

use candle_core::{D, DType, Device, Result, Tensor, Var};
use std::f64::consts::{FRAC_2_SQRT_PI, SQRT_2};

/// Layer normalisation over the last axis (Ba et al. 2016): `(x - mean) / sqrt(var + eps) * weight + bias`, where `var` is
/// the biased variance. `weight` and `bias` are `[C]`.
pub fn layernorm(x: &Tensor, weight: &Tensor, bias: Option<&Tensor>, eps: f64) -> Result<Tensor> {
    let centred = x.broadcast_sub(&x.mean_keepdim(D::Minus1)?)?;
    let variance = centred.sqr()?.mean_keepdim(D::Minus1)?;
    let y = centred.broadcast_div(&(variance + eps)?.sqrt()?)?.broadcast_mul(weight)?;
    match bias {
        Some(bias) => y.broadcast_add(bias),
        None => Ok(y),
    }
}

/// Root-mean-square normalisation over the last axis (Zhang and Sennrich 2019): `x / sqrt(mean(x^2) + eps) * weight`.
pub fn rmsnorm(x: &Tensor, weight: &Tensor, eps: f64) -> Result<Tensor> {
    let mean_square = x.sqr()?.mean_keepdim(D::Minus1)?;
    x.broadcast_div(&(mean_square + eps)?.sqrt()?)?.broadcast_mul(weight)
}

/// GELU by its tanh approximation (Hendrycks and Gimpel 2016), as GPT-2 has it.
pub fn gelu(x: &Tensor) -> Result<Tensor> {
    // sqrt(2/pi) = (2/sqrt(pi)) / sqrt(2)
    let inner = ((x + (x.sqr()?.mul(x)? * 0.044715)?)? * (FRAC_2_SQRT_PI / SQRT_2))?;
    (x * 0.5)?.mul(&(inner.tanh()? + 1.0)?)
}

/// The exact GELU, `x * Phi(x)`.
pub fn gelu_erf(x: &Tensor) -> Result<Tensor> {
    (x * 0.5)?.mul(&((x / SQRT_2)?.erf()? + 1.0)?)
}

/// `relu(x)^2` (So et al. 2021).
pub fn relu2(x: &Tensor) -> Result<Tensor> {
    x.relu()?.sqr()
}

/// `silu(gate) * up`, where `gate_up` is `[.., 2M]` with the gate in the first half (Shazeer 2020).
pub fn swiglu(gate_up: &Tensor) -> Result<Tensor> {
    let m = gate_up.dim(D::Minus1)? / 2;
    let gate = gate_up.narrow(D::Minus1, 0, m)?;
    gate.silu()?.mul(&gate_up.narrow(D::Minus1, m, m)?)
}

/// `x w^T + bias` over the last axis; `weight` is `[out, in]`, `x` is `[.., in]`.
pub fn linear(x: &Tensor, weight: &Tensor, bias: Option<&Tensor>) -> Result<Tensor> {
    let mut dims = x.dims().to_vec();
    let inputs = x.dim(D::Minus1)?;
    let y = x.contiguous()?.reshape(((), inputs))?.matmul(&weight.t()?)?;
    if let Some(last) = dims.last_mut() {
        *last = weight.dim(0)?;
    }
    let y = y.reshape(dims)?;
    match bias {
        Some(bias) => y.broadcast_add(bias),
        None => Ok(y),
    }
}

/// Rows of `table` `[V, C]` at `ids` (u32, any shape): `[ids.., C]`.
pub fn embedding(table: &Tensor, ids: &Tensor) -> Result<Tensor> {
    let mut dims = ids.dims().to_vec();
    dims.push(table.dim(1)?);
    table.index_select(&ids.flatten_all()?, 0)?.reshape(dims)
}

/// Splits packed projections `[B, T, (H + 2K) D]` into `q_bhtd`, `k_bktd`, `v_bktd`.
pub fn split_qkv(qkv: &Tensor, n_head: usize, n_kv_head: usize, head_dim: usize) -> Result<(Tensor, Tensor, Tensor)> {
    let (b, t, _) = qkv.dims3()?;
    let part = |first: usize, heads: usize| {
        qkv.narrow(2, first * head_dim, heads * head_dim)?.reshape((b, t, heads, head_dim))?.transpose(1, 2)
    };
    Ok((part(0, n_head)?, part(n_head, n_kv_head)?, part(n_head + n_kv_head, n_kv_head)?))
}

/// Puts heads side by side again: `[B, H, T, D]` to `[B, T, H D]`.
pub fn merge_heads(x_bhtd: &Tensor) -> Result<Tensor> {
    x_bhtd.transpose(1, 2)?.contiguous()?.flatten_from(2)
}

/// Rotary position embedding (Su et al. 2021) of `[B, H, T, D]`, rotate-half: channel `i` turns with channel `i + D/2` by
/// the angle `(first + t) * theta^(-2i/D)`. The table is computed in float64 whatever the dtype of `x`.
pub fn rope(x_bhtd: &Tensor, theta: f64, first: usize) -> Result<Tensor> {
    let (_, _, t, d) = x_bhtd.dims4()?;
    let half = d / 2;
    let mut cos = Vec::with_capacity(t * half);
    let mut sin = Vec::with_capacity(t * half);
    for position in first..first + t {
        for i in 0..half {
            let angle = position as f64 * theta.powf(-2.0 * i as f64 / d as f64);
            cos.push(angle.cos());
            sin.push(angle.sin());
        }
    }
    let table = |values: Vec<f64>| Tensor::from_vec(values, (t, half), x_bhtd.device())?.to_dtype(x_bhtd.dtype());
    let (cos, sin) = (table(cos)?, table(sin)?);
    let (low, high) = (x_bhtd.narrow(3, 0, half)?, x_bhtd.narrow(3, half, half)?);
    let new_low = (low.broadcast_mul(&cos)? - high.broadcast_mul(&sin)?)?;
    let new_high = (high.broadcast_mul(&cos)? + low.broadcast_mul(&sin)?)?;
    Tensor::cat(&[new_low, new_high], 3)
}

/// Causal softmax attention with grouped queries: query head `h` attends with key-value head `h / (H / K)`.
///
/// `q_bhtd` `[B, H, T, D]`, `k_bktd` and `v_bktd` `[B, K, T, D]`; gives `[B, H, T, D]`. The `T x T` scores stand in memory.
pub fn causal_attention(q_bhtd: &Tensor, k_bktd: &Tensor, v_bktd: &Tensor) -> Result<Tensor> {
    let (b, h, t, d) = q_bhtd.dims4()?;
    let groups = h / k_bktd.dim(1)?;
    let repeat = |x: &Tensor| {
        let kv = x.dim(1)?;
        x.unsqueeze(2)?.broadcast_as((b, kv, groups, t, d))?.contiguous()?.reshape((b, h, t, d))
    };
    let scores = (q_bhtd.contiguous()?.matmul(&repeat(k_bktd)?.t()?)? / (d as f64).sqrt())?;
    let mask: Vec<f32> =
        (0..t).flat_map(|i| (0..t).map(move |j| if j <= i { 0.0 } else { f32::NEG_INFINITY })).collect();
    let mask = Tensor::from_vec(mask, (t, t), scores.device())?.to_dtype(scores.dtype())?;
    softmax(&scores.broadcast_add(&mask)?)?.matmul(&repeat(v_bktd)?)
}

/// Softmax over the last axis. The maximum is a constant of the gradient: its own gradient is zero in exact arithmetic.
pub fn softmax(x: &Tensor) -> Result<Tensor> {
    let weights = x.broadcast_sub(&x.max_keepdim(D::Minus1)?.detach())?.exp()?;
    weights.broadcast_div(&weights.sum_keepdim(D::Minus1)?)
}

/// Mean cross-entropy in nats of `logits` `[N, V]` against `targets` `[N]` (u32): a scalar.
pub fn cross_entropy(logits: &Tensor, targets: &Tensor) -> Result<Tensor> {
    let shifted = logits.broadcast_sub(&logits.max_keepdim(D::Minus1)?.detach())?;
    let log_sum = shifted.exp()?.sum_keepdim(D::Minus1)?.log()?;
    let picked = shifted.gather(&targets.unsqueeze(1)?.contiguous()?, 1)?;
    (log_sum - picked)?.mean_all()
}

/// The output of `f` in float64 and the product of `dout` with its Jacobian, one vector for each input.
///
/// `inputs` are (values, shape); `dout` has as many values as the output. This is what an engine's operator and its
/// backward must agree with.
///
/// # Errors
/// candle's, and a message when an input gets no gradient at all: `f` ignores it, or uses an operator that cuts gradients.
pub fn grad_check(
    inputs: &[(&[f32], &[usize])],
    dout: &[f32],
    f: impl Fn(&[Tensor]) -> Result<Tensor>,
) -> Result<(Vec<f64>, Vec<Vec<f64>>)> {
    let variables = inputs
        .iter()
        .map(|(values, shape)| {
            Var::from_tensor(&Tensor::from_slice(values, *shape, &Device::Cpu)?.to_dtype(DType::F64)?)
        })
        .collect::<Result<Vec<_>>>()?;
    let tensors: Vec<Tensor> = variables.iter().map(|v| v.as_tensor().clone()).collect();
    let output = f(&tensors)?;
    let dout = Tensor::from_slice(dout, output.dims(), &Device::Cpu)?.to_dtype(DType::F64)?;
    let gradients = output.mul(&dout)?.sum_all()?.backward()?;
    let mut grads = Vec::with_capacity(variables.len());
    for (i, variable) in variables.iter().enumerate() {
        let Some(grad) = gradients.get(variable) else {
            candle_core::bail!("input {i} gets no gradient: the function ignores it or cuts the gradient")
        };
        grads.push(grad.flatten_all()?.to_vec1()?);
    }
    Ok((output.flatten_all()?.to_vec1()?, grads))
}
