//! The one inner loop of all products: up to [`ROWS_MAX`] rows times 32 columns, over a list of stretches of packed weights.
//!
//! Three users, one loop. A panel of a weight matrix is one stretch of all `n_in`. Scores against two key blocks are one stretch
//! of `head_dim` whose two halves of 16 columns lie in different blocks. A product with values is one stretch of 16 slots
//! per block.
//!
//! Every row sums over ascending inputs, one accumulator per output, whatever the number of rows beside it. This is what makes
//! the backend batch-invariant.

use std::ops::Range;

use super::isa::{Isa, Vectors};
use super::{tile_groups, tile_portable, weights::Format};

/// Rows of a tile: with 2 columns vectors, 24 of the 32 AVX-512 registers are accumulators.
pub const ROWS_MAX: usize = 12;
/// Columns of a tile: two vectors of 16 single-precision numbers.
pub(super) const COLUMNS: usize = 32;
/// Columns of one vector.
pub(super) const LANES: usize = COLUMNS / 2;

/// What a tile computes, `[rows][32]`; rows that it does not have are left alone.
#[derive(Clone, Debug)]
#[repr(C, align(64))]
pub(super) struct Sums(pub(super) [[f32; COLUMNS]; ROWS_MAX]);

impl Sums {
    pub(super) const ZERO: Sums = Sums([[0.0; COLUMNS]; ROWS_MAX]);
}

/// Packed weights that a tile multiplies with, in one piece.
#[derive(Clone, Copy, Debug)]
pub(super) struct Stretch {
    /// First step of columns `0..16` and of columns `16..32`.
    pub(super) halves: [*const u8; 2],
}

/// Operands of a tile.
#[derive(Clone, Copy, Debug)]
pub(super) struct Tile<'a> {
    /// Activations in the order of use: per step, per input of the step, per row; see [`Activations`](super::weights::Activations).
    pub(super) x: *const u32,
    /// Weights, one stretch after the other.
    pub(super) stretches: &'a [Stretch],
    /// Steps of each stretch.
    pub(super) n_steps: usize,
    /// Bytes from one step to the next, in both halves; groups know their own places.
    pub(super) step_bytes: usize,
    /// Address that is brought into the cache at the first step; need not be readable.
    pub(super) prefetch: *const u8,
    /// Bytes by which `prefetch` moves per step.
    pub(super) prefetch_bytes: usize,
}

/// Computes the product of a tile's operands.
///
/// # Safety
/// `x` and `stretches` must be readable as far as rows, steps and format say, and the processor must support the set the
/// function was compiled for.
pub(super) type TileFn = unsafe fn(&Tile<'_>, &mut Sums);

/// Tile functions of one format for 1 to [`ROWS_MAX`] rows.
pub(super) type TileFns = [TileFn; ROWS_MAX];

/// Adds the product of a tile's operands, which are some steps of a panel from one on, and leaves these steps unpacked.
///
/// # Safety
/// As [`TileFn`], with a first stretch that is readable as far as the steps reach; there must be room for them unpacked.
pub(super) type UnpackingFn = unsafe fn(&Tile<'_>, first_step: usize, unpacked: *mut u8, &mut Sums);

/// How many rows are multiplied with panels of groups: the first row block of every chunk of steps unpacks them.
#[derive(Clone, Copy, Debug)]
pub(super) struct Unpacked {
    pub(super) first: &'static [UnpackingFn; ROWS_MAX],
    /// Of unpacked steps. Unlike other functions these add to what the sums are.
    pub(super) others: &'static TileFns,
}

/// One function per number of rows.
macro_rules! by_rows {
    ($function:ident $(, $generic:ty)*) => {
        [
            $function::<$($generic,)* 1>, $function::<$($generic,)* 2>, $function::<$($generic,)* 3>,
            $function::<$($generic,)* 4>, $function::<$($generic,)* 5>, $function::<$($generic,)* 6>,
            $function::<$($generic,)* 7>, $function::<$($generic,)* 8>, $function::<$($generic,)* 9>,
            $function::<$($generic,)* 10>, $function::<$($generic,)* 11>, $function::<$($generic,)* 12>,
        ]
    };
}

pub(super) use by_rows;

/// The functions for weights of `format` on `isa`.
pub(super) fn tile_fns(isa: Isa, format: Format) -> &'static TileFns {
    match (isa.vectors(), format) {
        (Vectors::Portable, Format::Grouped(_)) => tile_groups::tile_fns(format),
        #[cfg(target_arch = "x86_64")]
        (_, Format::Grouped(_) | Format::GroupedDot(_)) => super::tile_groups_x86::tile_fns(isa, format),
        #[cfg(target_arch = "x86_64")]
        (Vectors::Avx512, _) => super::tile_avx512::tile_fns(format),
        #[cfg(target_arch = "x86_64")]
        (Vectors::Avx2, _) => super::tile_avx2::tile_fns(format),
        _ => tile_portable::tile_fns(format),
    }
}

/// How the panels of `format` are unpacked for products with many rows, where that pays on `isa`.
pub(super) fn unpacked(isa: Isa, format: Format) -> Option<Unpacked> {
    #[cfg(target_arch = "x86_64")]
    return super::tile_groups_x86::unpacked(isa, format);
    #[cfg(not(target_arch = "x86_64"))]
    return None.filter(|_: &Unpacked| matches!((isa, format), _));
}

/// Splits `n_rows` into as few tiles as possible, of sizes that differ by at most one.
pub fn row_blocks(n_rows: usize) -> impl Iterator<Item = Range<usize>> {
    let n_blocks = n_rows.div_ceil(ROWS_MAX);
    (0..n_blocks).map(move |i| i * n_rows / n_blocks..(i + 1) * n_rows / n_blocks)
}
