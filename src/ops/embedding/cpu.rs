//! The embedding on the CPU: gathered rows forward, rows summed by owner backward.

use rayon::prelude::*;

use crate::ops::element::Element;
use crate::ops::lanes;

/// Rows of one task.
const ROWS: usize = 16;

/// `y` [N, C] = rows of `wte` for `tokens` `[N]`, plus rows of `wpe` for the place in the sequence of length `time`, or at
/// `positions` `[N]`. Token ids and positions must have been checked.
pub fn forward<E: Element>(
    y: &mut [E],
    tokens: &[u32],
    wte: &[E],
    wpe: Option<&[E]>,
    time: usize,
    positions: Option<&[u32]>,
    c: usize,
) {
    y.par_chunks_mut(ROWS * c).zip(tokens.par_chunks(ROWS)).enumerate().for_each(|(block, (y, tokens))| {
        for (i, (y, &token)) in y.chunks_exact_mut(c).zip(tokens).enumerate() {
            y.copy_from_slice(row(wte, token as usize, c));
            if let Some(wpe) = wpe {
                let place = block * ROWS + i;
                let position = positions.map_or(place % time, |positions| positions[place] as usize);
                lanes::add(y, row(wpe, position, c));
            }
        }
    });
}

/// `dwte[id]` += the rows of `dy` [N, C] where `tokens` `[N]` is `id`, in order; parallel over ids. Positions that are not
/// those of the places go the same way.
pub fn backward_tokens<E: Element>(dwte: &mut [f32], dy: &[E], tokens: &[u32], c: usize) {
    // One number holds id and place, so that an unstable sort gives the only possible order.
    let mut places: Vec<u64> = tokens.iter().enumerate().map(|(i, &id)| u64::from(id) << 32 | i as u64).collect();
    places.par_sort_unstable();
    let runs: Vec<&[u64]> = places.chunk_by(|a, b| a >> 32 == b >> 32).collect();
    let (mut rest, mut first) = (dwte, 0);
    let mut tasks: Vec<(&mut [f32], &[u64])> = Vec::with_capacity(runs.len());
    for run in runs {
        let id = (run[0] >> 32) as usize;
        let (own, after) = rest.split_at_mut((id + 1 - first) * c);
        tasks.push((&mut own[(id - first) * c..], run));
        (rest, first) = (after, id + 1);
    }
    tasks.into_par_iter().for_each(|(sum, run)| {
        run.iter().for_each(|&place| lanes::add(sum, row(dy, (place & u64::from(u32::MAX)) as usize, c)));
    });
}

/// `dwpe` [T, C] += `dy` [B, T, C] summed over B in order; parallel over T.
pub fn backward_positions<E: Element>(dwpe: &mut [f32], dy: &[E], c: usize) {
    let len = dwpe.len();
    dwpe.par_chunks_mut(ROWS * c).enumerate().for_each(|(block, sum)| {
        let first = block * ROWS * c;
        dy.chunks_exact(len).for_each(|sequence| lanes::add(sum, &sequence[first..first + sum.len()]));
    });
}

fn row<E>(matrix: &[E], i: usize, c: usize) -> &[E] {
    &matrix[i * c..(i + 1) * c]
}
