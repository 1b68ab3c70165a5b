//! Keys and values of the tokens so far, kept in the panels that the tiles read.
//!
//! Scores are a product of queries with keys, one output for each token: keys stand in panels of sixteen tokens
//! `[D][16]`. What a query takes is a product of its probabilities with values, one output for each element of the head:
//! values stand in panels of sixteen elements `[T][16]`. A token is written with strides once and read in order ever after.

use half::{bf16, f16};

use super::kernels::Element;
use super::matrix::Buffer;
use super::vector::LANES;
use crate::decode::CacheFormat;
use crate::ops::lanes;

/// What the cache of one slot looks like.
#[derive(Clone, Copy, Debug)]
pub struct Shape {
    pub layers: usize,
    /// Key-value heads.
    pub heads: usize,
    /// Elements of a head.
    pub d: usize,
    /// Tokens, a multiple of sixteen.
    pub tokens: usize,
    pub format: CacheFormat,
}

impl Shape {
    /// Elements of a head's keys, and of its values with the last panel padded.
    fn sizes(self) -> (usize, usize) {
        (self.tokens * self.d, self.tokens * self.d.next_multiple_of(LANES))
    }

    /// Bytes of a slot.
    pub fn bytes(self) -> usize {
        let (keys, values) = self.sizes();
        let scales = if self.format == CacheFormat::Int8 { 2 * 4 * self.tokens } else { 0 };
        self.layers * self.heads * ((keys + values) * self.format.bytes() + scales)
    }
}

/// The cache of one slot. Tasks write different tokens of it side by side, so its memory is reached by pointers alone.
#[derive(Debug)]
pub struct SlotCache {
    shape: Shape,
    /// What the pointers point into.
    _memory: (Buffer, Buffer),
    data: *mut u8,
    /// Of int8: for each (layer, head) the scales of keys, then of values, one for each token.
    scales: *mut f32,
    /// Tokens in it.
    pub len: usize,
}

// SAFETY: the pointers lead into `_memory`, which goes along with them and belongs to nobody else.
unsafe impl Send for SlotCache {}
// SAFETY: through `&self`, `head` reads and `write` writes; the callers of both promise that nobody writes what another reads or
// writes at the time.
unsafe impl Sync for SlotCache {}

/// One head of one layer: panels of keys and of values.
pub struct HeadCache<'a, E> {
    pub keys: &'a [E],
    pub values: &'a [E],
    /// Scales of int8, one for each token; else empty.
    pub key_scales: &'a [f32],
    pub value_scales: &'a [f32],
}

impl SlotCache {
    /// An empty cache; the system gives its memory as it fills.
    pub fn new(shape: Shape) -> SlotCache {
        let (keys, values) = shape.sizes();
        let pairs = shape.layers * shape.heads;
        let scales = if shape.format == CacheFormat::Int8 { pairs * 2 * shape.tokens * 4 } else { 0 };
        let mut memory = (Buffer::zeroed(pairs * (keys + values) * shape.format.bytes()), Buffer::zeroed(scales));
        let (data, scales) = (memory.0.bytes_mut().as_mut_ptr(), memory.1.bytes_mut().as_mut_ptr().cast());
        SlotCache { shape, _memory: memory, data, scales, len: 0 }
    }

    /// Where the elements of a head start, counted in elements and in scales.
    fn place(&self, layer: usize, head: usize) -> (usize, usize) {
        assert!(layer < self.shape.layers && head < self.shape.heads, "a head of the cache");
        let (keys, values) = self.shape.sizes();
        let pair = layer * self.shape.heads + head;
        (pair * (keys + values), pair * 2 * self.shape.tokens)
    }

    /// A head's panels; `E` is the type of the format.
    ///
    /// # Safety
    /// Nobody writes to this head while the answer lives.
    pub unsafe fn head<E: Element + bytemuck::Pod>(&self, layer: usize, head: usize) -> HeadCache<'_, E> {
        assert_eq!(size_of::<E>(), self.shape.format.bytes(), "the element of the format");
        let ((keys, values), t) = (self.shape.sizes(), self.shape.tokens);
        let (first, first_scale) = self.place(layer, head);
        let scales = if self.shape.format == CacheFormat::Int8 { t } else { 0 };
        // SAFETY: `place` has checked layer and head, and the memory was made for `keys + values` elements and twice `tokens` scales
        // of each; it is zeroed at first, any bytes are a value of `E` (Pod), and by the promise nobody writes it.
        unsafe {
            let both = self.data.cast::<E>().add(first);
            let (key_scales, value_scales) = match scales {
                0 => (&[][..], &[][..]),
                t => {
                    let first = self.scales.add(first_scale);
                    (std::slice::from_raw_parts(first, t), std::slice::from_raw_parts(first.add(t), t))
                }
            };
            HeadCache {
                keys: std::slice::from_raw_parts(both, keys),
                values: std::slice::from_raw_parts(both.add(keys), values),
                key_scales,
                value_scales,
            }
        }
    }

    /// Writes a token's key and value of one head.
    ///
    /// # Safety
    /// Nobody reads this head or writes this token of it at the same time.
    pub unsafe fn write(&self, layer: usize, head: usize, token: usize, key: &[f32], value: &[f32]) {
        assert!(token < self.shape.tokens && key.len() == self.shape.d && value.len() == self.shape.d);
        match self.shape.format {
            CacheFormat::Fp32 => self.write_as(layer, head, token, (key, 1.0), (value, 1.0), |x: f32| x),
            CacheFormat::Bf16 => self.write_as(layer, head, token, (key, 1.0), (value, 1.0), bf16::from_f32),
            CacheFormat::Fp16 => self.write_as(layer, head, token, (key, 1.0), (value, 1.0), f16::from_f32),
            CacheFormat::Int8 => {
                let scale =
                    |x: &[f32]| x.iter().fold(0.0f32, |most, x| if x.is_nan() { *x } else { most.max(x.abs()) });
                let (key_scale, value_scale) = (scale(key) / 127.0, scale(value) / 127.0);
                let inverse = |scale: f32| if scale > 1e-35 { 1.0 / scale } else { 0.0 };
                let (_, first) = self.place(layer, head);
                // SAFETY: `place` has checked layer and head, `token` is below `tokens` (asserted above), and each head has scales for
                // `tokens` keys and then as many values; nobody else uses this token by the caller's promise.
                unsafe {
                    self.scales.add(first + token).write(key_scale);
                    self.scales.add(first + self.shape.tokens + token).write(value_scale);
                }
                let (key, value) = ((key, inverse(key_scale)), (value, inverse(value_scale)));
                self.write_as(layer, head, token, key, value, round);
            }
        }
    }

    fn write_as<E: bytemuck::Pod>(
        &self,
        layer: usize,
        head: usize,
        token: usize,
        (key, key_by): (&[f32], f32),
        (value, value_by): (&[f32], f32),
        narrow: impl Fn(f32) -> E,
    ) {
        let (keys, _) = self.shape.sizes();
        let (d, t) = (self.shape.d, self.shape.tokens);
        let (first, _) = self.place(layer, head);
        // SAFETY: the places are inside the head's panels because the token and the lengths are (asserted by `write`); the
        // token is the caller's.
        unsafe {
            let keys_to = self.data.cast::<E>().add(first);
            let values_to = keys_to.add(keys);
            let key_to = keys_to.add(token / LANES * d * LANES + token % LANES);
            for (at, &x) in key.iter().enumerate() {
                key_to.add(at * LANES).write(narrow(x * key_by));
            }
            for (at, &x) in value.iter().enumerate() {
                values_to.add((at / LANES * t + token) * LANES + at % LANES).write(narrow(x * value_by));
            }
        }
    }
}

/// The nearest integer of a number between -127 and 127, halves to even, without a call.
fn round(x: f32) -> i8 {
    const ROUND: f32 = 12_582_912.0;
    (x + ROUND).to_bits().wrapping_sub(ROUND.to_bits()) as i8
}

/// Scores of one query become probabilities (before division by their sum), of the first `n`; the others up to the end
/// become 0. Gives the inverse of the sum.
#[inline(always)]
pub fn softmax(row: &mut [f32], n: usize, scale: f32, key_scales: &[f32], value_scales: &[f32]) -> f32 {
    let (row, unseen) = row.split_at_mut(n);
    unseen.fill(0.0);
    if key_scales.is_empty() {
        row.iter_mut().for_each(|score| *score *= scale);
    } else {
        row.iter_mut().zip(key_scales).for_each(|(score, key)| *score = *score * key * scale);
    }
    let most = lanes::max(row);
    row.iter_mut().for_each(|score| *score = crate::math::exp(*score - most));
    let sum = lanes::sum(row, |p| p);
    if !value_scales.is_empty() {
        row.iter_mut().zip(value_scales).for_each(|(p, value)| *p *= value);
    }
    1.0 / sum
}
