//! Rotary positions on the CPU.

use rayon::prelude::*;

use crate::ops::element::Element;
use crate::ops::heads::Heads;
use crate::ops::simd;

/// Which way to turn.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Turn {
    /// By the angles of the table.
    Forward,
    /// Back again: the inverse, which is also the way of the gradient, because a rotation is orthogonal.
    Back,
}

/// Elements of one task, about.
const CHUNK: usize = 1 << 14;

/// Rotates the query and key heads of packed rows `qkv` [B, T, (H + 2K) * D] in place. `cos` and `sin` [T, D/2] hold the
/// angles of the T positions; `positions` [B * T], where given, says at which of them each row stands.
pub fn rotate<E: Element>(
    qkv: &mut [E],
    heads: Heads,
    cos: &[f32],
    sin: &[f32],
    positions: Option<&[u32]>,
    turn: Turn,
) {
    let (packed, half) = (heads.packed(), heads.head_dim / 2);
    let t = cos.len() / half;
    let rotated = (heads.n_head + heads.n_kv_head) * heads.head_dim;
    let rows = (CHUNK / packed).max(1);
    qkv.par_chunks_mut(rows * packed).enumerate().for_each(|(chunk, data)| {
        for (row, data) in data.chunks_exact_mut(packed).enumerate() {
            let place = chunk * rows + row;
            let position = positions.map_or(place % t, |positions| positions[place] as usize);
            let angles = position * half..(position + 1) * half;
            rotate_heads(&mut data[..rotated], &cos[angles.clone()], &sin[angles], turn);
        }
    });
}

simd! {
    /// Rotates consecutive heads of one position.
    fn rotate_heads<E: Element>(heads: &mut [E], cos: &[f32], sin: &[f32], turn: Turn) {
        let sign = if turn == Turn::Forward { 1.0 } else { -1.0 };
        for head in heads.chunks_exact_mut(2 * cos.len()) {
            let (first, second) = head.split_at_mut(cos.len());
            for (((first, second), &cos), &sin) in first.iter_mut().zip(second).zip(cos).zip(sin) {
                let sin = sign * sin;
                let (x, y) = (first.load(), second.load());
                *first = E::store(x * cos - y * sin);
                *second = E::store(y * cos + x * sin);
            }
        }
    }
}
