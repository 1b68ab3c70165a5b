//! Randomness as a function: Philox 4x32-10 and its keys.
//!
//! Philox (Salmon et al., "Parallel random numbers: as easy as 1, 2, 3", SC 2011) turns a counter and a key into 128
//! random bits. There is no stream and no state: the number for a place is computed from the place's name. So initial
//! weights depend on the parameter's *name*, dropout on (step, sequence, layer, site, element), data order on (seed,
//! epoch), and adding a bias, a thread or another GPU changes nothing else.

use crate::math;

const MULTIPLIER_0: u32 = 0xD251_1F53;
const MULTIPLIER_1: u32 = 0xCD9E_8D57;
const WEYL_0: u32 = 0x9E37_79B9;
const WEYL_1: u32 = 0xBB67_AE85;

/// Philox 4x32 with 10 rounds: 128 random bits for a counter under a key.
#[inline(always)]
pub fn philox(mut counter: [u32; 4], mut key: [u32; 2]) -> [u32; 4] {
    for round in 0..10 {
        if round > 0 {
            key = [key[0].wrapping_add(WEYL_0), key[1].wrapping_add(WEYL_1)];
        }
        let p0 = u64::from(MULTIPLIER_0) * u64::from(counter[0]);
        let p1 = u64::from(MULTIPLIER_1) * u64::from(counter[2]);
        counter =
            [(p1 >> 32) as u32 ^ counter[1] ^ key[0], p1 as u32, (p0 >> 32) as u32 ^ counter[3] ^ key[1], p0 as u32];
    }
    counter
}

/// What a random number is for. Two purposes never share numbers, whatever their seeds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Purpose {
    /// Initial weights.
    Init = 1,
    /// The order of training sequences.
    Data = 2,
    /// Dropout masks.
    Dropout = 3,
    /// Choosing tokens when sampling text.
    Sample = 4,
    /// Numbers for tests and benchmarks.
    Test = 5,
    /// Resampling in statistics (the bootstrap).
    Resample = 6,
}

/// The Philox key of a seed and a purpose: one Philox block of the seed under the purpose.
pub fn key(seed: u64, purpose: Purpose) -> [u32; 2] {
    let out = philox([seed as u32, (seed >> 32) as u32, 0, 0], [purpose as u32, 0x7461_7065]);
    [out[0], out[1]]
}

/// FNV-1a of a name, 64 bits: how a parameter's name enters a counter.
pub fn name_hash(name: &str) -> u64 {
    name.bytes().fold(0xcbf2_9ce4_8422_2325, |hash, byte| (hash ^ u64::from(byte)).wrapping_mul(0x0000_0100_0000_01b3))
}

/// A uniform number in (0, 1) from 32 random bits; never 0 and never 1.
#[inline]
fn open_unit(bits: u32) -> f64 {
    (f64::from(bits) + 0.5) / 4_294_967_296.0
}

/// Standard normal numbers for the elements `first..first + out.len()` of the thing called `name`, by Box and Muller.
/// Element `i` depends on `(seed, purpose, name, i)` alone.
pub fn fill_normal(seed: u64, purpose: Purpose, name: &str, first: u64, out: &mut [f32]) {
    let key = key(seed, purpose);
    let hash = name_hash(name);
    let mut block = u64::MAX;
    let mut normals = [0.0f32; 4];
    for (offset, value) in out.iter_mut().enumerate() {
        let index = first + offset as u64;
        if index / 4 != block {
            block = index / 4;
            let bits = philox([block as u32, (block >> 32) as u32, hash as u32, (hash >> 32) as u32], key);
            for pair in 0..2 {
                let radius = (-2.0 * math::ln(open_unit(bits[2 * pair]))).sqrt();
                let (sin, cos) = math::sin_cos(std::f64::consts::TAU * open_unit(bits[2 * pair + 1]));
                normals[2 * pair] = (radius * cos) as f32;
                normals[2 * pair + 1] = (radius * sin) as f32;
            }
        }
        *value = normals[(index % 4) as usize];
    }
}

/// Uniform numbers in (0, 1) for the elements of the thing called `name`: element `i` depends on `(seed, purpose, name,
/// i)` alone.
pub fn fill_uniform(seed: u64, purpose: Purpose, name: &str, out: &mut [f32]) {
    let (key, hash) = (key(seed, purpose), name_hash(name));
    for (block, values) in out.chunks_mut(4).enumerate() {
        let bits = philox([block as u32, ((block as u64) >> 32) as u32, hash as u32, (hash >> 32) as u32], key);
        for (value, bits) in values.iter_mut().zip(bits) {
            // 23 bits and the half that keeps them from the ends fit an f32 exactly.
            *value = ((f64::from(bits >> 9) + 0.5) / 8_388_608.0) as f32;
        }
    }
}

/// A uniform number in (0, 1) for the place `(a, b)`.
pub fn uniform(seed: u64, purpose: Purpose, a: u64, b: u64) -> f64 {
    let bits = philox([a as u32, (a >> 32) as u32, b as u32, (b >> 32) as u32], key(seed, purpose));
    open_unit(bits[0])
}

/// A dropout mask as a function: whether element `e` of a sequence's activation is kept.
///
/// The counter holds (element / 8, sequence, step, layer and site), so a mask depends on the global index of the sequence
/// in the step and not on how the batch was cut. Each Philox block serves eight elements with 16-bit thresholds: 8-bit
/// ones would turn a probability of 0.1 into 26/256.
#[derive(Clone, Copy, Debug)]
pub struct Mask {
    key: [u32; 2],
    step: u32,
    site: u32,
    threshold: u32,
    /// What a kept element is multiplied with: the inverse of the exact probability of keeping.
    pub scale: f32,
}

impl Mask {
    /// The mask of a place in the network. `probability` of dropping is rounded to a multiple of 1/65536; `site` tells
    /// apart the dropouts of one layer (below 16), `layer` is below 4096.
    pub fn new(seed: u64, step: u64, layer: u32, site: u32, probability: f64) -> Self {
        assert!(site < 16 && layer < 4096, "dropout site {site} of layer {layer} is out of range");
        let threshold = (probability * 65_536.0).round() as u32;
        Mask {
            key: key(seed, Purpose::Dropout),
            step: step as u32,
            site: site << 28 | layer << 16,
            threshold,
            scale: (65_536.0 / (65_536.0 - f64::from(threshold))) as f32,
        }
    }

    /// Whether the mask drops nothing.
    pub fn keeps_all(&self) -> bool {
        self.threshold == 0
    }

    /// What a GPU needs to compute the same mask: the key's two words, the step, layer and site, and the threshold.
    pub fn words(&self) -> [u32; 5] {
        [self.key[0], self.key[1], self.step, self.site, self.threshold]
    }

    /// The eight multipliers (0 or `scale`) of the elements `8 * block .. 8 * block + 8` of a sequence.
    #[inline(always)]
    pub fn block(&self, sequence: u32, block: u64) -> [f32; 8] {
        // Elements beyond 2^35 need more than 32 bits of block number: the rest goes into the low half of the site word.
        let bits = philox([block as u32, sequence, self.step, self.site | (block >> 32) as u32 & 0xffff], self.key);
        let mut factors = [0.0; 8];
        for (i, factor) in factors.iter_mut().enumerate() {
            let half = (bits[i / 2] >> (16 * (i % 2))) & 0xffff;
            *factor = if half >= self.threshold { self.scale } else { 0.0 };
        }
        factors
    }
}

/// A permutation of `0..n` that is a pure function of (seed, epoch): any element can be asked for alone, in constant
/// memory. A balanced Feistel network over Philox on the next even number of bits, walking cycles back into the range
/// (Black and Rogaway, "Ciphers with arbitrary finite domains", 2002).
#[derive(Clone, Copy, Debug)]
pub struct Permutation {
    n: u64,
    half_bits: u32,
    key: [u32; 2],
    epoch: u64,
}

impl Permutation {
    /// The permutation of `0..n` for an epoch.
    ///
    /// # Panics
    /// If `n` is 0.
    pub fn new(n: u64, seed: u64, epoch: u64) -> Self {
        assert!(n > 0, "a permutation of nothing");
        let bits = (64 - (n - 1).leading_zeros()).max(2);
        Permutation { n, half_bits: bits.div_ceil(2), key: key(seed, Purpose::Data), epoch }
    }

    /// Where place `i` of the epoch points to.
    ///
    /// # Panics
    /// If `i` is not below `n`.
    pub fn at(&self, i: u64) -> u64 {
        assert!(i < self.n, "place {i} of a permutation of {}", self.n);
        let mut x = i;
        loop {
            x = self.encrypt(x);
            // A bijection of a larger set, walked until it re-enters ours, is a bijection of ours.
            if x < self.n {
                return x;
            }
        }
    }

    fn encrypt(&self, x: u64) -> u64 {
        let mask = (1u64 << self.half_bits) - 1;
        let (mut left, mut right) = (x >> self.half_bits, x & mask);
        for round in 0..6u32 {
            let counter = [right as u32, round, self.epoch as u32, (self.epoch >> 32) as u32];
            (left, right) = (right, left ^ (u64::from(philox(counter, self.key)[0]) & mask));
        }
        left << self.half_bits | right
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn philox_known_answers() {
        // The published known-answer vectors of Random123 (kat_vectors, philox4x32 10 rounds).
        assert_eq!(philox([0; 4], [0; 2]), [0x6627_e8d5, 0xe169_c58d, 0xbc57_ac4c, 0x9b00_dbd8]);
        assert_eq!(philox([u32::MAX; 4], [u32::MAX; 2]), [0x408f_276d, 0x41c8_3b0e, 0xa20b_c7c6, 0x6d54_51fd]);
        assert_eq!(
            philox([0x243f_6a88, 0x85a3_08d3, 0x1319_8a2e, 0x0370_7344], [0xa409_3822, 0x299f_31d0]),
            [0xd16c_fe09, 0x94fd_cceb, 0x5001_e420, 0x2412_6ea1]
        );
    }

    #[test]
    fn permutations_are_bijections() {
        for n in [1u64, 2, 3, 5, 64, 65, 1000, 4097].into_iter().filter(|&n| n < 100 || !cfg!(miri)) {
            for epoch in 0..3 {
                let permutation = Permutation::new(n, 42, epoch);
                let mut seen: Vec<u64> = (0..n).map(|i| permutation.at(i)).collect();
                seen.sort_unstable();
                assert!(seen.iter().copied().eq(0..n), "n = {n}");
            }
        }
        let order = |seed, epoch| (0..100).map(|i| Permutation::new(100, seed, epoch).at(i)).collect::<Vec<_>>();
        assert_ne!(order(1, 0), order(1, 1));
        assert_ne!(order(1, 0), order(2, 0));
        assert_eq!(order(1, 0), order(1, 0));
    }

    #[test]
    #[cfg_attr(miri, ignore = "statistics of many numbers")]
    fn permutations_are_uniform_enough() {
        // Chi-square of where element 0 of 16 lands, over 16,000 epochs: 15 degrees of freedom, 99.9% below 37.7.
        let mut counts = [0u32; 16];
        for epoch in 0..16_000 {
            counts[Permutation::new(16, 9, epoch).at(0) as usize] += 1;
        }
        let chi2: f64 = counts.iter().map(|&c| (f64::from(c) - 1000.0).powi(2) / 1000.0).sum();
        assert!(chi2 < 37.7, "chi-square {chi2}: {counts:?}");
    }

    #[test]
    #[cfg_attr(miri, ignore = "statistics of many numbers")]
    fn uniform_numbers_fill_the_interval_and_depend_on_the_name() {
        let mut x = vec![0.0; 100_001];
        fill_uniform(1, Purpose::Init, "a", &mut x);
        let mean = x.iter().map(|&v| f64::from(v)).sum::<f64>() / x.len() as f64;
        let variance = x.iter().map(|&v| (f64::from(v) - 0.5).powi(2)).sum::<f64>() / x.len() as f64;
        assert!((mean - 0.5).abs() < 0.005 && (variance - 1.0 / 12.0).abs() < 0.002, "{mean} {variance}");
        assert!(x.iter().all(|&v| v > 0.0 && v < 1.0));
        let mut other = vec![0.0; 7];
        fill_uniform(1, Purpose::Init, "b", &mut other);
        assert_ne!(other, x[..7]);
    }

    #[test]
    #[cfg_attr(miri, ignore = "statistics of many numbers")]
    fn normals_have_the_right_moments_and_depend_on_the_name_alone() {
        let mut x = vec![0.0; 200_000];
        fill_normal(1, Purpose::Init, "wte.weight", 0, &mut x);
        let mean = x.iter().map(|&v| f64::from(v)).sum::<f64>() / x.len() as f64;
        let variance = x.iter().map(|&v| f64::from(v).powi(2)).sum::<f64>() / x.len() as f64;
        let fourth = x.iter().map(|&v| f64::from(v).powi(4)).sum::<f64>() / x.len() as f64;
        assert!(mean.abs() < 0.01 && (variance - 1.0).abs() < 0.02 && (fourth - 3.0).abs() < 0.15);
        let mut part = vec![0.0; 17];
        fill_normal(1, Purpose::Init, "wte.weight", 33, &mut part);
        assert_eq!(part, x[33..50]);
        let mut other = vec![0.0; 17];
        fill_normal(1, Purpose::Init, "wpe.weight", 33, &mut other);
        assert_ne!(part, other);
    }

    #[test]
    #[cfg_attr(miri, ignore = "statistics of many numbers")]
    fn masks_drop_what_they_should() {
        let mask = Mask::new(3, 7, 2, 1, 0.1);
        let blocks = 40_000u64;
        let dropped = (0..blocks).flat_map(|b| mask.block(5, b)).filter(|&f| f == 0.0).count() as f64;
        let rate = dropped / (8 * blocks) as f64;
        assert!((rate - 0.1).abs() < 0.003, "{rate}");
        assert!((f64::from(mask.scale) - 1.0 / 0.9).abs() < 1e-5);
        assert_ne!(mask.block(5, 0), Mask::new(3, 8, 2, 1, 0.5).block(5, 0));
        assert!(Mask::new(3, 8, 2, 1, 0.0).block(1, 1).iter().all(|&f| f == 1.0));
    }
}
