//! Disjoint parts of one buffer, written by several tasks at once.
//!
//! Where every part is one stretch, `chunks_mut` and rayon say all there is to say, and need no `unsafe`. This is for
//! parts that are not: a head's columns in every row of a matrix, or a block of a matrix.

use std::marker::PhantomData;

/// A buffer of which several tasks write, or read, parts that they do not share.
#[derive(Debug)]
pub struct Parts<'a, T> {
    data: *mut T,
    len: usize,
    life: PhantomData<&'a mut [T]>,
}

// SAFETY: the buffer is borrowed exclusively for 'a, so that nobody but the users of this value reaches its elements; `part` makes
// them promise that no two of them reach one element at the same time, and whoever follows a pointer of `at` promises
// it there. What is left is elements that go from one thread to another, and for that they are `Send`.
unsafe impl<T: Send> Sync for Parts<'_, T> {}

impl<'a, T> Parts<'a, T> {
    /// The parts of a buffer, which stays borrowed as long as this value lives.
    pub fn new(all: &'a mut [T]) -> Parts<'a, T> {
        Parts { data: all.as_mut_ptr(), len: all.len(), life: PhantomData }
    }

    /// How many elements there are.
    pub fn len(&self) -> usize {
        self.len
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// The elements `first..first + len`.
    ///
    /// # Safety
    /// While it lives, nobody else reads or writes these elements: neither through another part nor through a pointer.
    ///
    /// # Panics
    /// If there are not so many.
    #[expect(clippy::mut_from_ref, reason = "the caller promises that parts are disjoint")]
    pub unsafe fn part(&self, first: usize, len: usize) -> &mut [T] {
        assert!(first <= self.len && len <= self.len - first, "a part past the end");
        // SAFETY: inside the borrowed buffer by the assertion, which cannot overflow; not aliased by the caller's promise.
        unsafe { std::slice::from_raw_parts_mut(self.data.add(first), len) }
    }

    /// Where element `index` is, for code that goes through memory by pointers. It makes no reference, so a pointer may
    /// reach over the parts of others as long as it is followed only to elements that are its user's own.
    ///
    /// # Panics
    /// If it lies past the end. (The end itself is allowed.)
    pub fn at(&self, index: usize) -> *mut T {
        assert!(index <= self.len, "a place past the end");
        self.data.wrapping_add(index)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tasks_write_the_columns_of_a_matrix() {
        let (rows, columns) = (5, 6);
        let mut matrix = vec![0; rows * columns];
        let parts = Parts::new(&mut matrix);
        std::thread::scope(|scope| {
            for column in (0..columns).step_by(2) {
                let parts = &parts;
                scope.spawn(move || {
                    for row in 0..rows {
                        let at = row * columns + column;
                        // SAFETY: the two columns of this thread, one row at a time; then one of the elements by its place.
                        unsafe { parts.part(at, 2) }.copy_from_slice(&[row, column]);
                        // SAFETY: the slice above is gone, and the element is inside by `at`.
                        unsafe { *parts.at(at + 1) += 1 };
                    }
                });
            }
        });
        assert_eq!((parts.len(), parts.is_empty()), (30, false));
        for (i, value) in matrix.iter().enumerate() {
            let (row, column) = (i / columns, i % columns);
            assert_eq!(*value, if column % 2 == 0 { row } else { column });
        }
    }

    #[test]
    #[should_panic(expected = "a part past the end")]
    fn a_part_must_be_inside() {
        let mut all = [1, 2, 3];
        // SAFETY: no other part is alive.
        unsafe { Parts::new(&mut all).part(2, usize::MAX) };
    }
}
