//! Single instructions (probes.cu) against the PTX manual's index formulas, the `half` crate and `taper::random`.

use half::{bf16, f16};
use taper::random::{Mask, Purpose, key, philox};

use super::device::{Device, Value};
use Value::{F32, U32};

/// Numbers between -2 and 2 that 8 bits of a bf16 hold exactly.
fn small(place: u32) -> f32 {
    (philox([place, 0, 0, 0], [1, 2])[0] % 129) as f32 / 32.0 - 2.0
}

/// Puts 16-bit element `half` of register `register` of a lane's fragment.
fn put(fragment: &mut [u32], register: usize, half: usize, bits: u16) {
    fragment[register] |= u32::from(bits) << (16 * half);
}

/// The manual's "Matrix Fragments for mma.m16n8k16", by element index i: rows and columns of A (a0..a7), B (b0..b3) and
/// C (c0..c3), for groupID = lane / 4 and threadID_in_group = lane % 4.
fn place_a(lane: usize, i: usize) -> (usize, usize) {
    let (group, thread) = (lane / 4, lane % 4);
    let row = if i < 2 || (4..6).contains(&i) { group } else { group + 8 };
    let column = if i < 4 { thread * 2 + (i & 1) } else { thread * 2 + (i & 1) + 8 };
    (row, column)
}

fn place_b(lane: usize, i: usize) -> (usize, usize) {
    let (group, thread) = (lane / 4, lane % 4);
    (if i < 2 { thread * 2 + (i & 1) } else { thread * 2 + (i & 1) + 8 }, group)
}

fn place_c(lane: usize, i: usize) -> (usize, usize) {
    let (group, thread) = (lane / 4, lane % 4);
    (if i < 2 { group } else { group + 8 }, thread * 2 + (i & 1))
}

#[test]
fn mma_fragments_are_those_of_the_manual() {
    let Some(device) = Device::new() else { return };
    type Encoder = fn(f32) -> u16;
    let encoders: [(&str, Encoder); 2] =
        [("bf16", |x| bf16::from_f32(x).to_bits()), ("f16", |x| f16::from_f32(x).to_bits())];
    for (name, encode) in encoders {
        let a = |row: usize, k: usize| small((row * 16 + k) as u32);
        let b = |k: usize, n: usize| small((1000 + k * 8 + n) as u32);
        let c = |row: usize, n: usize| small((2000 + row * 8 + n) as u32);
        let (mut fa, mut fb, mut fc) = (vec![0u32; 128], vec![0u32; 64], vec![0f32; 128]);
        for lane in 0..32 {
            for i in 0..8 {
                let (row, k) = place_a(lane, i);
                put(&mut fa[4 * lane..], i / 2, i % 2, encode(a(row, k)));
            }
            for i in 0..4 {
                let (k, n) = place_b(lane, i);
                put(&mut fb[2 * lane..], i / 2, i % 2, encode(b(k, n)));
                let (row, n) = place_c(lane, i);
                fc[4 * lane + i] = c(row, n);
            }
        }
        let d = device.with(&fc);
        let (fa, fb) = (device.with(&fa), device.with(&fb));
        device.launch(&format!("probe_mma_{name}"), 1, 32, 0, &[fa.at(), fb.at(), d.at()]).unwrap();
        let d = d.read::<f32>();
        for lane in 0..32 {
            for i in 0..4 {
                let (row, n) = place_c(lane, i);
                // All of it is exact: products are multiples of 2^-10 below 4, and 17 of them are summed.
                let truth = c(row, n) + (0..16).map(|k| a(row, k) * b(k, n)).sum::<f32>();
                assert_eq!(d[4 * lane + i], truth, "{name}: lane {lane}, element {i}");
            }
        }
    }
}

#[test]
fn ldmatrix_is_that_of_the_manual() {
    let Some(device) = Device::new() else { return };
    // Element (row, column) of matrix m is 64 m + 8 row + column: every one is another number.
    let elements: Vec<u16> = (0..256).collect();
    let (rows, y) = (device.with(&elements), device.empty::<u32>(4 * 32 * 4));
    device.launch("probe_ldmatrix", 1, 32, 512, &[rows.at(), y.at()]).unwrap();
    let y = y.read::<u32>();
    let element = |matrix: usize, row: usize, column: usize| (64 * matrix + 8 * row + column) as u32;
    for lane in 0..32 {
        for matrix in 0..4 {
            let (r, c) = (lane / 4, 2 * (lane % 4));
            let straight = element(matrix, r, c) | element(matrix, r, c + 1) << 16;
            let transposed = element(matrix, c, r) | element(matrix, c + 1, r) << 16;
            let got = |way: usize| y[(way * 32 + lane) * 4 + matrix];
            assert_eq!((got(0), got(1)), (straight, transposed), "x4: lane {lane}, matrix {matrix}");
            let two = if matrix < 2 { (straight, transposed) } else { (0, 0) };
            assert_eq!((got(2), got(3)), two, "x2: lane {lane}, matrix {matrix}");
        }
    }
    // The loads have none; the four stores, 4 bytes at a stride of 16, meet each bank four times.
    assert_eq!(device.0.counter(c"bank_conflicts"), 4 * 3);
    assert_eq!(device.0.counter(c"ldmatrix"), 4);
}

#[test]
fn conversions_are_those_of_the_half_crate() {
    let Some(device) = Device::new() else { return };
    let mut x: Vec<f32> = (0..40_000u32).map(|i| f32::from_bits(philox([i, 1, 0, 0], [3, 4])[0])).collect();
    // Around the range of f16, where subnormals and overflow are.
    x.extend((0..40_000u32).map(|i| f32::from_bits(0x3280_0000 + i * 7919)));
    x.extend([0.0, -0.0, f32::INFINITY, f32::NEG_INFINITY, f32::NAN, 65504.0, 65519.99, 65520.0, f32::MAX, 5.96e-8]);
    x.extend([2.98e-8, 2.9802322e-8, 8.940697e-8]);
    let n = x.len();
    let (from, to_bf16, to_f16) = (device.with(&x), device.empty::<u16>(n), device.empty::<u16>(n));
    let (back, pairs) = (device.empty::<f32>(2 * n), device.empty::<u32>(2 * n));
    let arguments = [from.at(), to_bf16.at(), to_f16.at(), back.at(), pairs.at(), U32(n as u32)];
    device.launch("probe_convert", 1, 32, 0, &arguments).unwrap();
    let (to_bf16, to_f16) = (to_bf16.read::<u16>(), to_f16.read::<u16>());
    let (back, pairs) = (back.read::<f32>(), pairs.read::<u32>());
    for (i, &x) in x.iter().enumerate() {
        let next = (i + 1) % n;
        assert_eq!(pairs[2 * i], u32::from(to_bf16[i]) | u32::from(to_bf16[next]) << 16);
        assert_eq!(pairs[2 * i + 1], u32::from(to_f16[i]) | u32::from(to_f16[next]) << 16);
        if x.is_nan() {
            assert_eq!((to_bf16[i], to_f16[i]), (0x7fff, 0x7fff));
            assert!(back[2 * i].is_nan() && back[2 * i + 1].is_nan());
            continue;
        }
        let (b, h) = (bf16::from_f32(x), f16::from_f32(x));
        assert_eq!((to_bf16[i], to_f16[i]), (b.to_bits(), h.to_bits()), "{x:e}");
        assert_eq!((back[2 * i], back[2 * i + 1]), (b.to_f32(), h.to_f32()), "{x:e}");
    }
}

#[test]
fn shuffles_and_reductions() {
    let Some(device) = Device::new() else { return };
    let x: Vec<u32> = (0..32).map(|i| philox([i, 2, 0, 0], [5, 6])[0] % 1000 + 1).collect();
    let (from, y) = (device.with(&x), device.empty::<u32>(128));
    device.launch("probe_shuffle", 1, 32, 0, &[from.at(), y.at()]).unwrap();
    let y = y.read::<u32>();
    for lane in 0..32 {
        let down = if lane + 3 < 32 { x[lane + 3] } else { x[lane] };
        let got = [y[lane], y[32 + lane], y[64 + lane], y[96 + lane]];
        assert_eq!(got, [x[lane ^ 5], down, x[7], *x.iter().min().unwrap()], "lane {lane}");
    }

    // Small integers: every order of adding gives the same sum.
    let (blocks, threads) = (3usize, 96usize);
    let n = blocks * threads;
    let x: Vec<f32> = (0..n as u32).map(|i| (philox([i, 3, 0, 0], [7, 8])[0] % 200) as f32 - 100.0).collect();
    let (from, y, votes) = (device.with(&x), device.empty::<f32>(4 * n), device.empty::<u32>(n));
    device.launch("probe_reduce", blocks as u32, threads as u32, 0, &[from.at(), y.at(), votes.at()]).unwrap();
    let (y, votes) = (y.read::<f32>(), votes.read::<u32>());
    let sum_and_max = |x: &[f32]| (x.iter().sum::<f32>(), x.iter().copied().fold(f32::NEG_INFINITY, f32::max));
    for i in 0..n {
        let warp = &x[i / 32 * 32..][..32];
        let block = &x[i / threads * threads..][..threads];
        assert_eq!((y[i], y[n + i]), sum_and_max(warp), "warp of thread {i}");
        assert_eq!((y[2 * n + i], y[3 * n + i]), sum_and_max(block), "block of thread {i}");
        let vote = warp.iter().enumerate().map(|(lane, &x)| u32::from(x > 0.0) << lane).sum::<u32>();
        assert_eq!(votes[i], vote);
    }

    // A NaN comes through a maximum.
    let mut x = x;
    x[40] = f32::NAN;
    let (from, y) = (device.with(&x), device.empty::<f32>(4 * n));
    let votes = device.empty::<u32>(n);
    device.launch("probe_reduce", blocks as u32, threads as u32, 0, &[from.at(), y.at(), votes.at()]).unwrap();
    let y = y.read::<f32>();
    assert!(y[3 * n..3 * n + threads].iter().all(|y| y.is_nan()) && !y[3 * n + threads].is_nan());
}

#[test]
fn philox_and_masks_are_those_of_the_host() {
    let Some(device) = Device::new() else { return };
    let (seed, step, layer, site, probability, sequence, n) = (11, 7, 3, 2, 0.1, 9, 500u32);
    let [key0, key1] = key(seed, Purpose::Dropout);
    let mask = Mask::new(seed, step, layer, site, probability);
    let (bits, kept) = (device.empty::<u32>(4 * n as usize), device.empty::<u32>(n as usize));
    let fields = [key0, key1, step as u32, site << 28 | layer << 16, (probability * 65_536.0).round() as u32];
    let mut arguments = vec![bits.at(), kept.at(), U32(sequence)];
    arguments.extend(fields.map(U32));
    arguments.extend([F32(mask.scale), U32(n)]);
    device.launch("probe_philox", 1, 32, 0, &arguments).unwrap();
    let (bits, kept) = (bits.read::<u32>(), kept.read::<u32>());
    for i in 0..n {
        assert_eq!(bits[4 * i as usize..][..4], philox([i, 1, 2, 3], [key0, key1]));
        let factors = mask.block(sequence, u64::from(i));
        let truth = factors.iter().enumerate().map(|(j, &factor)| u32::from(factor != 0.0) << j).sum::<u32>();
        assert_eq!(kept[i as usize], truth, "block {i}");
    }
    let dropped = 8 * n - kept.iter().map(|kept| kept.count_ones()).sum::<u32>();
    assert!((300..500).contains(&dropped), "{dropped} of {} dropped at 10%", 8 * n);
}

#[test]
fn copies_are_late_and_tails_are_zero() {
    let Some(device) = Device::new() else { return };
    let x: Vec<f32> = (1..=48).map(|i| i as f32).collect();
    let (from, y) = (device.with(&x), device.empty::<f32>(96));
    device.launch("probe_cp_async", 1, 32, 256, &[from.at(), y.at(), U32(48)]).unwrap();
    let y = y.read::<f32>();
    assert_eq!(y[..48], x);
    assert_eq!(y[48..64], [0.0; 16]);
    // Read while the second group was under way.
    assert!(y[64..].iter().all(|y| y.is_nan()));
}

#[test]
fn fast_functions_are_what_the_header_says() {
    let Some(device) = Device::new() else { return };
    let x: Vec<f32> = (1..=2000).map(|i| i as f32 / 25.0).collect();
    let (from, y) = (device.with(&x), device.empty::<f32>(4 * x.len()));
    device.launch("probe_fast", 1, 32, 0, &[from.at(), y.at(), U32(x.len() as u32)]).unwrap();
    for (&x, y) in x.iter().zip(y.read::<f32>().chunks_exact(4)) {
        let x = f64::from(x);
        let truth = [x.exp2(), x.exp(), x.ln(), 1.0 / x];
        let unit = 2f64.powi(-22);
        let tolerance = [unit * truth[0], unit * (1.0 + x) * truth[1], unit * truth[2].abs().max(1.0), unit * truth[3]];
        for i in 0..4 {
            let error = (f64::from(y[i]) - truth[i]).abs();
            assert!(error <= tolerance[i], "function {i} of {x}: {} for {}", y[i], truth[i]);
        }
    }
}

#[test]
fn launches_of_several_threads_do_not_meet() {
    let Some(device) = Device::new() else { return };
    std::thread::scope(|scope| {
        for part in 0..4u32 {
            let device = Device(device.0);
            scope.spawn(move || {
                let x: Vec<f32> = (0..4096).map(|i| (i * (part + 1)) as f32).collect();
                for _ in 0..20 {
                    let (from, y) = (device.with(&x), device.empty::<f32>(4096));
                    device.launch("fault_none", 4, 256, 0, &[from.at(), y.at(), U32(4096)]).unwrap();
                    assert_eq!(y.read::<f32>(), x);
                    assert_eq!(device.0.counter(c"blocks"), 4);
                }
            });
        }
    });
}
