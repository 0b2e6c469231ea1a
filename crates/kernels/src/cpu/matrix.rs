//! Packed weight matrices: panels of 32 outputs, each one linear stream in the order in which a tile reads it.
//!
//! A panel is `[n_steps][32][inputs_per_step]` elements (see [`Format`]), `n_out` and `n_in` padded with zeros. A gate-up matrix
//! puts 16 gate outputs beside the 16 up outputs that they meet, so that SwiGLU happens inside a tile.

use dsde_checkpoint::{Dense, Dtype};

use super::super::{Stacking, shape};
use super::isa::Isa;
use super::memory::Buffer;
use super::pool::Pool;
use super::share::SharedMut;
use super::tile::{COLUMNS, LANES, Stretch, TileFns, tile_fns};
use super::weights::{Format, bf16_value, f16_value};

/// A weight matrix in the order in which the kernels read it.
#[derive(Debug)]
pub struct Matrix {
    panels: Buffer,
    /// `[n_panels * 32]`, in the order of the panels' columns.
    bias: Option<Vec<f32>>,
    pub(super) format: Format,
    pub(super) fns: &'static TileFns,
    pub(super) stacking: Stacking,
    pub(super) n_in: usize,
    pub(super) n_out: usize,
    pub(super) n_panels: usize,
}

impl Matrix {
    /// Packs `parts`; parts of different element types become `f32`.
    pub(super) fn pack(
        isa: Isa,
        pool: &Pool,
        parts: &[Dense<'_>],
        stacking: Stacking,
        bias: Option<&[f32]>,
    ) -> Matrix {
        let n_out = shape::stacked_len(parts, stacking, bias);
        let n_in = parts.first().map_or(0, |part| part.n_in);
        let first = parts.first().map_or(Dtype::F32, |part| part.dtype);
        let dtype = if parts.iter().all(|part| part.dtype == first) { first } else { Dtype::F32 };
        let format = Format::of(dtype, isa);
        let n_panels = match stacking {
            Stacking::Concat => n_out.div_ceil(COLUMNS),
            Stacking::GateUp => (n_out / 2).div_ceil(LANES),
        };
        let panel_bytes = format.steps(n_in) * 2 * format.half_step_bytes();
        let mut matrix = Matrix {
            panels: Buffer::zeroed(n_panels * panel_bytes),
            bias: None,
            format,
            fns: tile_fns(isa, format),
            stacking,
            n_in,
            n_out,
            n_panels,
        };
        if panel_bytes > 0 {
            let panels = SharedMut::new(matrix.panels.as_mut_slice());
            pool.run(n_panels, &|p| {
                // SAFETY: each panel is written by the one call that has its index.
                let panel = unsafe { panels.slice(p * panel_bytes, panel_bytes) };
                fill_panel(panel, p, parts, stacking, dtype);
            });
        }
        matrix.bias = bias.map(|bias| matrix.permuted(bias));
        matrix
    }

    /// Bytes of the packed weights and the bias.
    pub(super) fn bytes(&self) -> usize {
        self.panels.len() + self.bias.as_deref().map_or(0, size_of_val)
    }

    /// The packed weights as words without meaning.
    pub(super) fn words(&self) -> &[u64] {
        let len = self.panels.len() / size_of::<u64>();
        // SAFETY: the buffer is aligned to 64, initialised, borrowed and at least `len` words long.
        unsafe { std::slice::from_raw_parts(self.panels.as_ptr().cast(), len) }
    }

    /// See [`Backend::gather`](super::super::Backend::gather).
    ///
    /// A row is scattered over its panel, a cache line per step: some microseconds, where the copy of an embedding table would
    /// take as much memory as the matrix.
    pub(super) fn gather(&self, outputs: &[u32], out: &mut [f32]) {
        assert_eq!(self.stacking, Stacking::Concat, "rows of interleaved matrices are not gathered");
        assert!(outputs.iter().all(|&output| (output as usize) < self.n_out), "rows are of the matrix");
        let panel_bytes = self.panel_bytes();
        for (&output, row) in outputs.iter().zip(out.chunks_exact_mut(self.n_in)) {
            let (p, column) = (output as usize / COLUMNS, output as usize % COLUMNS);
            read_column(&self.panels.as_slice()[p * panel_bytes..][..panel_bytes], column, self.format, row);
        }
    }

    /// Bytes of one step of a panel.
    pub(super) fn step_bytes(&self) -> usize {
        2 * self.format.half_step_bytes()
    }

    /// Bytes of one panel.
    pub(super) fn panel_bytes(&self) -> usize {
        self.format.steps(self.n_in) * self.step_bytes()
    }

    /// Panel `p` as the only stretch of a tile; `p` may be out of range if it is only prefetched.
    pub(super) fn panel(&self, p: usize) -> Stretch {
        let start = self.panels.as_ptr().wrapping_add(p * self.panel_bytes());
        Stretch { halves: [start, start.wrapping_add(self.format.half_step_bytes())] }
    }

    /// Bias of the columns of panel `p`.
    pub(super) fn panel_bias(&self, p: usize) -> Option<&[f32; COLUMNS]> {
        self.bias.as_ref().map(|bias| &bias.as_chunks().0[p])
    }

    /// Columns of the output that a panel yields.
    pub(super) fn panel_width(&self) -> usize {
        match self.stacking {
            Stacking::Concat => COLUMNS,
            Stacking::GateUp => LANES,
        }
    }

    fn permuted(&self, bias: &[f32]) -> Vec<f32> {
        let at = |i: usize| output_of(i / COLUMNS, i % COLUMNS, self.n_out, self.stacking);
        (0..self.n_panels * COLUMNS).map(|i| at(i).map_or(0.0, |output| bias[output])).collect()
    }
}

/// Output that stands in a panel's column, or nothing where the column is padding.
fn output_of(panel: usize, column: usize, n_out: usize, stacking: Stacking) -> Option<usize> {
    match stacking {
        Stacking::Concat => Some(panel * COLUMNS + column).filter(|&output| output < n_out),
        Stacking::GateUp => {
            let output = Some(panel * LANES + column % LANES).filter(|&output| output < n_out / 2);
            output.map(|output| output + if column < LANES { 0 } else { n_out / 2 })
        }
    }
}

fn fill_panel(panel: &mut [u8], p: usize, parts: &[Dense<'_>], stacking: Stacking, dtype: Dtype) {
    let n_out = parts.iter().map(|part| part.n_out).sum();
    for column in 0..COLUMNS {
        let Some(mut row) = output_of(p, column, n_out, stacking) else {
            continue;
        };
        let mut part_idx = 0;
        while row >= parts[part_idx].n_out {
            row -= parts[part_idx].n_out;
            part_idx += 1;
        }
        fill_column(panel, column, &parts[part_idx], row, dtype);
    }
}

/// The inverse of [`fill_column`], widened.
fn read_column(panel: &[u8], column: usize, format: Format, row: &mut [f32]) {
    let elements = row.iter_mut().enumerate();
    match format {
        Format::Bf16Dot | Format::Bf16Wide => {
            let (cells, _) = panel.as_chunks::<2>();
            for (k, x) in elements {
                let bits = u16::from_ne_bytes(cells[(k / 2 * COLUMNS + column) * 2 + k % 2]);
                *x = bf16_value(bits.into());
            }
        }
        Format::F16 => {
            let (cells, _) = panel.as_chunks::<2>();
            elements.for_each(|(k, x)| *x = f16_value(u16::from_ne_bytes(cells[k * COLUMNS + column])));
        }
        Format::F32 => {
            let (cells, _) = panel.as_chunks::<4>();
            elements.for_each(|(k, x)| *x = f32::from_ne_bytes(cells[k * COLUMNS + column]));
        }
    }
}

fn fill_column(panel: &mut [u8], column: usize, part: &Dense<'_>, row: usize, dtype: Dtype) {
    let n_in = part.n_in;
    match (dtype, part.dtype) {
        (Dtype::Bf16, Dtype::Bf16) => {
            let (source, _) = part.row(row).as_chunks::<2>();
            let (cells, _) = panel.as_chunks_mut::<2>();
            for (k, &bits) in source.iter().enumerate() {
                cells[(k / 2 * COLUMNS + column) * 2 + k % 2] = u16::from_le_bytes(bits).to_ne_bytes();
            }
        }
        (Dtype::F16, Dtype::F16) => {
            let (source, _) = part.row(row).as_chunks::<2>();
            let (cells, _) = panel.as_chunks_mut::<2>();
            for (k, &bits) in source.iter().enumerate() {
                cells[k * COLUMNS + column] = u16::from_le_bytes(bits).to_ne_bytes();
            }
        }
        _ => {
            let (cells, _) = panel.as_chunks_mut::<4>();
            let mut values = vec![0.0; n_in];
            part.widen_row(row, &mut values);
            for (k, value) in values.into_iter().enumerate() {
                cells[k * COLUMNS + column] = value.to_ne_bytes();
            }
        }
    }
}
