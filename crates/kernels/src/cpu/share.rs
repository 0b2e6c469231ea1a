//! One mutable slice that the threads of a region write in disjoint places.

use std::marker::PhantomData;

/// A slice of which several threads may each take a disjoint piece.
pub(super) struct SharedMut<'a, T> {
    start: *mut T,
    len: usize,
    borrow: PhantomData<&'a mut [T]>,
}

// SAFETY: pieces are handed out by an unsafe function that demands disjointness, so sharing this is sending `&mut [T]`s.
unsafe impl<T: Send> Sync for SharedMut<'_, T> {}

impl<'a, T> SharedMut<'a, T> {
    pub(super) fn new(slice: &'a mut [T]) -> SharedMut<'a, T> {
        SharedMut { start: slice.as_mut_ptr(), len: slice.len(), borrow: PhantomData }
    }

    /// The piece `first..first + len`.
    ///
    /// # Safety
    /// No other living piece may overlap it.
    ///
    /// # Panics
    /// If the piece reaches past the end.
    #[allow(clippy::mut_from_ref, reason = "disjointness is the caller's promise")]
    pub(super) unsafe fn slice(&self, first: usize, len: usize) -> &mut [T] {
        assert!(first + len <= self.len, "a piece of {len} at {first} leaves a slice of {}", self.len);
        // SAFETY: in range by the assertion; exclusive by the caller's promise and the borrow held in `self`.
        unsafe { std::slice::from_raw_parts_mut(self.start.add(first), len) }
    }
}
