//! Codes out of their bits.

use super::super::groups::{Grouped, Layout, QUAD};
use super::super::tile::LANES;
use super::vector::Vector;

/// Bytes of 16 columns by one quad.
const QUAD_BYTES: usize = LANES * QUAD;

/// Codes of two successive quads of two vectors of columns.
pub(super) struct Codes<V: Vector> {
    pub(super) low: [V::Whole; 2],
    pub(super) high: [V::Whole; 2],
}

impl<V: Vector> Codes<V> {
    /// Quads `2 * pair` and `2 * pair + 1` as they are stored, a byte each.
    ///
    /// # Safety
    /// The codes of `L` must be readable from each of `columns` on, and the instructions of `V` enabled.
    #[inline(always)]
    pub(super) unsafe fn read<L: Grouped>(columns: [*const u8; 2], pair: usize) -> Codes<V> {
        // SAFETY: by the caller's promise.
        unsafe {
            if L::LAYOUT.bits() == 8 {
                return Codes { low: load::<V>(columns, 2 * pair), high: load::<V>(columns, 2 * pair + 1) };
            }
            let both = load::<V>(columns, pair);
            let low = masked::<V>(both, 15);
            let high = masked::<V>(both.map(|both| V::shift_down(both, 4)), 15);
            match L::LAYOUT.bits() {
                5 => {
                    let bits = load::<V>(columns, 4).map(|plane| V::shift_down(plane, 2 * pair));
                    let first = masked::<V>(bits, 1).map(|bits| V::shift_up(bits, 4));
                    let next = masked::<V>(bits, 2).map(|bits| V::shift_up(bits, 3));
                    Codes { low: or::<V>(low, first), high: or::<V>(high, next) }
                }
                6 => {
                    let bits =
                        load::<V>(columns, 4 + pair / 2).map(|plane| V::shift_down(plane, pair % 2 * 4));
                    let first = masked::<V>(bits, 3).map(|bits| V::shift_up(bits, 4));
                    let next = masked::<V>(bits, 12).map(|bits| V::shift_up(bits, 2));
                    Codes { low: or::<V>(low, first), high: or::<V>(high, next) }
                }
                _ => Codes { low, high },
            }
        }
    }

    /// Writes them as quads `2 * pair` and `2 * pair + 1` of a step of bytes, in the columns that begin at `columns`.
    ///
    /// # Safety
    /// The step must be writable, and the instructions of `V` enabled.
    #[inline(always)]
    pub(super) unsafe fn write(&self, step: *mut u8, columns: [usize; 2], pair: usize) {
        for (quad, codes) in [(2 * pair, self.low), (2 * pair + 1, self.high)] {
            for (codes, column) in codes.into_iter().zip(columns) {
                let at = Layout::U8.codes_at(column) + quad * QUAD_BYTES;
                // SAFETY: by the caller's promise.
                unsafe { V::store(step.add(at), codes) }
            }
        }
    }

    /// Every code exchanged for what `change` makes of it.
    #[inline(always)]
    pub(super) fn map(self, change: impl Fn(V::Whole) -> V::Whole) -> Codes<V> {
        Codes { low: self.low.map(&change), high: self.high.map(&change) }
    }
}

/// The bytes at the place of a quad.
///
/// # Safety
/// As [`Codes::read`].
#[inline(always)]
unsafe fn load<V: Vector>(columns: [*const u8; 2], quad: usize) -> [V::Whole; 2] {
    // SAFETY: by the caller's promise.
    columns.map(|columns| unsafe { V::load(columns.add(quad * QUAD_BYTES)) })
}

/// # Safety
/// The instructions of `V` must be enabled.
#[inline(always)]
unsafe fn masked<V: Vector>(bytes: [V::Whole; 2], mask: u8) -> [V::Whole; 2] {
    // SAFETY: by the caller's promise.
    bytes.map(|bytes| unsafe { V::and(bytes, V::splat_byte(mask)) })
}

/// # Safety
/// The instructions of `V` must be enabled.
#[inline(always)]
unsafe fn or<V: Vector>(a: [V::Whole; 2], b: [V::Whole; 2]) -> [V::Whole; 2] {
    // SAFETY: by the caller's promise.
    unsafe { [V::or(a[0], b[0]), V::or(a[1], b[1])] }
}
