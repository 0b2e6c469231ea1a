//! Tiles over groups of whole numbers in plain Rust, for any processor.

use super::groups::{Grouped, QUAD, QUADS, by_layout};
use super::tile::{COLUMNS, Sums, Tile, TileFns, by_rows};
use super::weights::Format;

/// A group of activations of one row.
struct Inputs {
    codes: [i32; QUADS * QUAD],
    scale: f32,
}

impl Inputs {
    /// # Safety
    /// The group must be readable at `x`, packed for as many rows.
    #[inline(always)]
    unsafe fn read<L: Grouped>(x: *const u32, row: usize, n_rows: usize) -> Inputs {
        // SAFETY: by the caller's promise.
        let word = |i: usize| unsafe { *x.add(i * n_rows + row) };
        let mut codes = [0; QUADS * QUAD];
        for (quad, codes) in codes.chunks_exact_mut(QUAD).enumerate() {
            if L::LAYOUT.is_signed() {
                let [even, odd] = [word(2 * quad), word(2 * quad + 1)];
                let shorts = [even, odd, even >> 16, odd >> 16];
                codes.copy_from_slice(&shorts.map(|short| i32::from(short as u16 as i16)));
            } else {
                codes.copy_from_slice(&word(quad).to_le_bytes().map(|byte| i32::from(byte as i8)));
            }
        }
        Inputs { codes, scale: f32::from_bits(word(L::LAYOUT.scale_word())) }
    }
}

/// # Safety
/// As [`super::tile::TileFn`].
unsafe fn tile<L: Grouped, const ROWS: usize>(tile: &Tile<'_>, sums: &mut Sums) {
    // SAFETY: by the caller's promise.
    unsafe { tile_of::<L>(tile, &mut sums.0[..ROWS]) }
}

/// One function for any number of rows: written out for each of twelve they would be a fifth of the crate, and no faster.
///
/// # Safety
/// As [`super::tile::TileFn`].
#[inline(never)]
unsafe fn tile_of<L: Grouped>(tile: &Tile<'_>, sums: &mut [[f32; COLUMNS]]) {
    let n_rows = sums.len();
    sums.fill([0.0; COLUMNS]);
    for stretch in tile.stretches {
        let panel_bytes = L::LAYOUT.panel_bytes(tile.n_steps);
        // SAFETY: the caller promises readable weights for every step, and both halves lie in one panel.
        let panel = unsafe { std::slice::from_raw_parts(stretch.halves[0], panel_bytes) };
        for step in 0..tile.n_steps {
            let x = tile.x.wrapping_add(step * n_rows * L::LAYOUT.words());
            for (row, sums) in sums.iter_mut().enumerate() {
                // SAFETY: the caller promises readable activations for every step.
                let inputs = unsafe { Inputs::read::<L>(x, row, n_rows) };
                add_group::<L>(panel, step, &inputs, sums);
            }
        }
    }
}

/// Adds the products of one group of all columns.
#[inline(always)]
fn add_group<L: Grouped>(panel: &[u8], step: usize, inputs: &Inputs, sums: &mut [f32; COLUMNS]) {
    let layout = L::LAYOUT;
    let part_len = inputs.codes.len() / layout.parts();
    for (column, total) in sums.iter_mut().enumerate() {
        for (part, codes) in inputs.codes.chunks_exact(part_len).enumerate() {
            let (mut product, mut sum) = (0, 0);
            for (i, &x) in codes.iter().enumerate() {
                product += x * i32::from(layout.code(panel, step, column, part * part_len + i));
                sum += x;
            }
            *total += product as f32 * (layout.number(panel, step, 0, part, column) * inputs.scale);
            if layout.has_min() {
                *total += layout.number(panel, step, 1, part, column) * (inputs.scale * sum as f32);
            }
        }
    }
}

/// Tiles of one format for any processor.
///
/// # Panics
/// If the format has no groups.
pub(super) fn tile_fns(format: Format) -> &'static TileFns {
    match format {
        Format::Grouped(layout) => by_layout!(layout, L => &const { by_rows!(tile, L) }),
        _ => unreachable!("{format:?} has no groups"),
    }
}
