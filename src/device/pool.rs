//! Host buffers, pooled: a training step asks for the same sizes again and again.
//!
//! Fresh pages cost a fault each (a fifth of a step, measured on a candle baseline), so freed buffers wait in a list by
//! size and are handed out again. A buffer from the pool holds what its last owner left: whoever takes one writes all of
//! it. The pool also counts, so that tests and the memory model can compare prediction and truth.

use std::alloc::{Layout, alloc_zeroed, dealloc, handle_alloc_error};
use std::collections::BTreeMap;
use std::ptr::NonNull;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Mutex, MutexGuard};

/// Alignment of every buffer, in bytes: a cache line, and the widest vector register.
pub const ALIGNMENT: usize = 64;

/// An aligned block of host memory, given back to its pool when dropped.
#[derive(Debug)]
pub struct HostBuffer {
    pointer: NonNull<u8>,
    bytes: usize,
    pool: &'static Pool,
}

// SAFETY: the buffer owns its memory, and hands out references only through `&self` and `&mut self`.
unsafe impl Send for HostBuffer {}
// SAFETY: through `&self` there are only `&[u8]`: writing needs `&mut self`.
unsafe impl Sync for HostBuffer {}

/// Buffers that wait by size, and counts of those that do not.
#[derive(Debug)]
struct Pool {
    free: Mutex<BTreeMap<usize, Vec<HostBuffer>>>,
    live: AtomicUsize,
    peak: AtomicUsize,
}

impl Pool {
    const fn new() -> Pool {
        Pool { free: Mutex::new(BTreeMap::new()), live: AtomicUsize::new(0), peak: AtomicUsize::new(0) }
    }

    fn free(&self) -> MutexGuard<'_, BTreeMap<usize, Vec<HostBuffer>>> {
        self.free.lock().unwrap_or_else(|poison| poison.into_inner())
    }
}

/// What a model and its batch need: tensors, mostly.
static TENSORS: Pool = Pool::new();
/// What the insides of operators need on this machine, with its threads and units: the memory model does not count it.
static WORKSPACES: Pool = Pool::new();

/// Sizes are rounded up to this, so that nearly equal requests share a list.
const GRAIN: usize = 1024;

impl HostBuffer {
    /// A buffer of at least `bytes` bytes whose content is unspecified (but initialised).
    pub fn take(bytes: usize) -> HostBuffer {
        HostBuffer::of(&TENSORS, bytes)
    }

    /// A buffer for the inside of an operator: as [`HostBuffer::take`], but what the functions of this module tell does
    /// not include it, because its size follows the machine and not the model. At least `bytes` bytes, rounded up to a
    /// power of two, so that work of many shapes shares few buffers.
    pub fn workspace(bytes: usize) -> HostBuffer {
        HostBuffer::of(&WORKSPACES, bytes.next_power_of_two())
    }

    fn of(pool: &'static Pool, bytes: usize) -> HostBuffer {
        let bytes = bytes.max(1).next_multiple_of(GRAIN);
        let live = pool.live.fetch_add(bytes, Ordering::Relaxed) + bytes;
        pool.peak.fetch_max(live, Ordering::Relaxed);
        let reused = pool.free().get_mut(&bytes).and_then(Vec::pop);
        reused.unwrap_or_else(|| Self::allocate(pool, bytes))
    }

    fn allocate(pool: &'static Pool, bytes: usize) -> HostBuffer {
        let layout = Self::layout(bytes);
        // SAFETY: the layout has a non-zero size (at least GRAIN).
        let pointer = unsafe { alloc_zeroed(layout) };
        let pointer = NonNull::new(pointer).unwrap_or_else(|| handle_alloc_error(layout));
        HostBuffer { pointer, bytes, pool }
    }

    fn layout(bytes: usize) -> Layout {
        Layout::from_size_align(bytes, ALIGNMENT).expect("a buffer size that overflows the address space")
    }

    /// The bytes.
    pub fn bytes(&self) -> &[u8] {
        // SAFETY: `pointer` is valid for `bytes` initialised bytes for the life of `self`.
        unsafe { std::slice::from_raw_parts(self.pointer.as_ptr(), self.bytes) }
    }

    /// The bytes, to be changed.
    pub fn bytes_mut(&mut self) -> &mut [u8] {
        // SAFETY: as in `bytes`, and `&mut self` makes the access exclusive.
        unsafe { std::slice::from_raw_parts_mut(self.pointer.as_ptr(), self.bytes) }
    }
}

impl Drop for HostBuffer {
    fn drop(&mut self) {
        self.pool.live.fetch_sub(self.bytes, Ordering::Relaxed);
        let spare = HostBuffer { pointer: self.pointer, bytes: self.bytes, pool: self.pool };
        self.pool.free().entry(self.bytes).or_default().push(spare);
        // `spare` now owns the memory; it sits in a static and is only dropped by `release`, which forgets it first.
    }
}

/// Bytes in live buffers now.
pub fn live_bytes() -> usize {
    TENSORS.live.load(Ordering::Relaxed)
}

/// Bytes that the pool holds from the system now: live buffers, and those that wait to be handed out again.
pub fn held_bytes() -> usize {
    live_bytes() + TENSORS.free().iter().map(|(bytes, buffers)| bytes * buffers.len()).sum::<usize>()
}

/// The most bytes that were live at once since the last [`reset_peak`].
pub fn peak_bytes() -> usize {
    TENSORS.peak.load(Ordering::Relaxed)
}

/// Starts a new measurement of the peak.
pub fn reset_peak() {
    TENSORS.peak.store(live_bytes(), Ordering::Relaxed);
}

/// Gives the waiting buffers back to the system.
pub fn release() {
    let waiting = [&TENSORS, &WORKSPACES].map(|pool| std::mem::take(&mut *pool.free()));
    for buffer in waiting.into_iter().flat_map(BTreeMap::into_values).flatten() {
        let (pointer, layout) = (buffer.pointer, HostBuffer::layout(buffer.bytes));
        std::mem::forget(buffer);
        // SAFETY: the memory came from `allocate` with this layout, and its only owner was just forgotten.
        unsafe { dealloc(pointer.as_ptr(), layout) };
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn buffers_are_aligned_and_reused() {
        // A size that no other test uses, because the pool is shared.
        let bytes = 77 * GRAIN + 5;
        let mut first = HostBuffer::take(bytes);
        assert!(first.bytes().len() >= bytes);
        assert_eq!(first.bytes().as_ptr() as usize % ALIGNMENT, 0);
        first.bytes_mut()[0] = 9;
        let address = first.bytes().as_ptr() as usize;
        drop(first);
        assert_eq!(HostBuffer::take(bytes).bytes().as_ptr() as usize, address);
    }
}
