//! Disjoint parts of one buffer, written by several tasks at once.

/// Memory that several tasks write, each its own part.
pub struct Parts<T>(*mut T, usize);

// SAFETY: `slice` makes its callers promise that parts are disjoint.
unsafe impl<T: Send> Sync for Parts<T> {}

impl<T> Parts<T> {
    /// The parts of `all`, which the caller keeps borrowed while they are used.
    pub fn new(all: &mut [T]) -> Parts<T> {
        Parts(all.as_mut_ptr(), all.len())
    }

    /// How many elements there are.
    pub fn len(&self) -> usize {
        self.1
    }

    /// The elements `first..first + len`.
    ///
    /// # Safety
    /// `all` of [`Parts::new`] must be alive, and no other slice with one of these elements.
    #[expect(clippy::mut_from_ref, reason = "the caller promises that parts are disjoint")]
    pub unsafe fn slice(&self, first: usize, len: usize) -> &mut [T] {
        assert!(first <= self.1 && len <= self.1 - first, "a part past the end");
        // SAFETY: inside the memory by the assertion, not aliased by the caller's promise.
        unsafe { std::slice::from_raw_parts_mut(self.0.add(first), len) }
    }
}
