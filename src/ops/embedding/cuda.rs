//! The embedding on CUDA. The host knows the tokens, so it sorts the places of each; the kernels add in that order.

use crate::device::launch::{Arg, Geometry};
use crate::device::{DType, Gpu};
use crate::error::Result;
use crate::ops::documents::Documents;
use crate::ops::launch::Past;
use crate::tensor::Tensor;

const THREADS: usize = 256;
/// Places of one token that one block adds up: a frequent token keeps many blocks busy.
const SEGMENT: usize = 64;
/// Marks a target that is a row of the scratch sums, not a token.
const SCRATCH: u32 = 1 << 31;

fn packs(width: usize, dtype: DType) -> usize {
    width.div_ceil(16 / dtype.size())
}

/// See [`super::cpu::forward`].
///
/// # Errors
/// If memory or the device fails.
pub fn forward(
    gpu: &'static Gpu,
    y: &mut Tensor,
    tokens: &Tensor,
    wte: &Tensor,
    wpe: Option<&Tensor>,
    from: Past<'_>,
    documents: Option<&Documents>,
) -> Result<()> {
    let tokens = tokens.to_device(gpu.device())?;
    let (first_position, pasts) = from.arguments();
    let (rows, width) = (y.rows(), y.last());
    let arguments = [
        Arg::Pointer(y.address_mut()),
        Arg::Pointer(tokens.address()),
        Arg::Pointer(wte.address()),
        Arg::Pointer(wpe.map_or(0, Tensor::address)),
        Arg::U32(rows as u32),
        Arg::U32(tokens.last() as u32),
        first_position,
        Arg::U32(width as u32),
        pasts,
        Arg::Pointer(documents.map_or(0, |documents| documents.tensor().address())),
    ];
    let geometry = Geometry::linear((rows * packs(width, y.dtype())).div_ceil(THREADS), THREADS);
    gpu.launch(&format!("embedding_forward_{}", y.dtype().suffix()), geometry, &arguments)
}

/// The order in which gradients of tokens are added.
#[derive(Debug, Default, PartialEq)]
struct Places {
    /// Places sorted by token, then by place.
    order: Vec<u32>,
    /// Start and end in `order`, and where the sum goes: a token, or a row of scratch sums ([`SCRATCH`] added).
    segments: Vec<u32>,
    /// Tokens of several segments: the token, its first scratch row, and the one after its last.
    owners: Vec<u32>,
    scratch_rows: usize,
}

fn places(tokens: &[u32]) -> Places {
    // One number holds id and place, so that an unstable sort gives the only possible order.
    let mut sorted: Vec<u64> = tokens.iter().enumerate().map(|(i, &id)| u64::from(id) << 32 | i as u64).collect();
    sorted.sort_unstable();
    let mut places = Places { order: sorted.iter().map(|&place| place as u32).collect(), ..Places::default() };
    let mut start = 0;
    for run in sorted.chunk_by(|a, b| a >> 32 == b >> 32) {
        let (token, end) = ((run[0] >> 32) as u32, start + run.len());
        if run.len() <= SEGMENT {
            places.segments.extend([start as u32, end as u32, token]);
        } else {
            let first = places.scratch_rows;
            for from in (start..end).step_by(SEGMENT) {
                let target = SCRATCH + places.scratch_rows as u32;
                places.segments.extend([from as u32, end.min(from + SEGMENT) as u32, target]);
                places.scratch_rows += 1;
            }
            places.owners.extend([token, first as u32, places.scratch_rows as u32]);
        }
        start = end;
    }
    places
}

/// Adds to the gradients at the device addresses `dwte` and `dwpe` that are wanted; see [`super::cpu`].
///
/// # Errors
/// If memory or the device fails.
pub fn backward(
    gpu: &'static Gpu,
    (dwte, dwpe): (Option<u64>, Option<u64>),
    dy: &Tensor,
    tokens: &Tensor,
    (first_position, documents): (usize, Option<&Documents>),
) -> Result<()> {
    let (width, time, suffix) = (dy.last(), tokens.last(), dy.dtype().suffix());
    if dy.is_empty() {
        return Ok(());
    }
    if let Some(dwte) = dwte {
        add_rows(gpu, dwte, dy, tokens.u32())?;
    }
    let Some(dwpe) = dwpe else { return Ok(()) };
    if let Some(documents) = documents {
        return add_rows(gpu, dwpe, dy, &documents.positions());
    }
    let arguments = [
        Arg::Pointer(dwpe + (first_position * width * DType::F32.size()) as u64),
        Arg::Pointer(dy.address()),
        Arg::U32((dy.rows() / time) as u32),
        Arg::U32(time as u32),
        Arg::U32(width as u32),
    ];
    let geometry = Geometry::linear((time * packs(width, dy.dtype())).div_ceil(THREADS), THREADS);
    gpu.launch(&format!("embedding_backward_positions_{suffix}"), geometry, &arguments)
}

/// Adds each row of `dy` to the row of the table at `sum` that its id names.
fn add_rows(gpu: &'static Gpu, sum: u64, dy: &Tensor, ids: &[u32]) -> Result<()> {
    let (width, suffix) = (dy.last(), dy.dtype().suffix());
    let places = places(ids);
    let upload = |list: &[u32]| Tensor::from_u32(list, &[list.len()])?.to_device(gpu.device());
    let (order, segments) = (upload(&places.order)?, upload(&places.segments)?);
    let mut scratch = Tensor::empty(gpu.device(), DType::F32, &[places.scratch_rows.max(1), width])?;
    let sums = scratch.address_mut();
    let arguments = [
        Arg::Pointer(sum),
        Arg::Pointer(sums),
        Arg::Pointer(dy.address()),
        Arg::Pointer(order.address()),
        Arg::Pointer(segments.address()),
        Arg::U32(width as u32),
    ];
    let threads = packs(width, dy.dtype()).next_multiple_of(32).min(THREADS);
    let geometry = Geometry::linear(places.segments.len() / 3, threads);
    gpu.launch(&format!("embedding_backward_tokens_{suffix}"), geometry, &arguments)?;
    if !places.owners.is_empty() {
        let owners = upload(&places.owners)?;
        let arguments = [Arg::Pointer(sum), Arg::Pointer(sums), Arg::Pointer(owners.address()), Arg::U32(width as u32)];
        gpu.launch("embedding_backward_owners", Geometry::linear(places.owners.len() / 3, THREADS), &arguments)?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_place_is_in_one_segment_of_its_token() {
        let tokens: Vec<u32> = (0..300).map(|i| if i % 3 == 0 { 7 } else { i % 50 }).collect();
        let places = places(&tokens);
        let mut seen = vec![false; tokens.len()];
        let owner = |row: u32| {
            let found = places.owners.chunks_exact(3).find(|owner| (owner[1]..owner[2]).contains(&row));
            found.map(|owner| owner[0]).unwrap()
        };
        for segment in places.segments.chunks_exact(3) {
            let (range, target) = (segment[0] as usize..segment[1] as usize, segment[2]);
            assert!(range.len() <= SEGMENT && !range.is_empty());
            let token = if target >= SCRATCH { owner(target - SCRATCH) } else { target };
            for &place in &places.order[range] {
                assert_eq!(tokens[place as usize], token);
                assert!(!std::mem::replace(&mut seen[place as usize], true));
            }
        }
        assert!(seen.iter().all(|&seen| seen));
        // Token 7 stands at 100 places and more: it needs two segments.
        assert_eq!((places.owners.len(), places.scratch_rows), (3, 2));
    }
}
