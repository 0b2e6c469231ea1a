//! Packed weight matrices: panels of 32 outputs, each one linear stream in the order in which a tile reads it.
//!
//! A panel is `[n_steps][2][16 columns]` (see [`Format`]; groups have a form of their own), `n_out` and `n_in` padded with zeros. A gate-up matrix puts 16 gate
//! outputs beside the 16 up outputs that they meet, so that SwiGLU happens inside a tile.
//!
//! Stacked matrices of different element types, as files with a mix of quantised types have them, become one piece each; they
//! share the region of threads, and their activations where these are stored alike.

use dsde_checkpoint::{Dense, Dtype, Group};

use super::super::{Stacking, shape};
use super::isa::Isa;
use super::memory::Buffer;
use super::pool::Pool;
use super::share::SharedMut;
use super::tile::{COLUMNS, LANES, Stretch, TileFns, Unpacked, tile_fns, unpacked};
use super::weights::{Activations, Format, bf16_value, f16_value};

/// Rows from which on panels are unpacked: fewer are one strip, which takes codes out of their bits once anyway.
const UNPACKED_ROWS_MIN: usize = 9;

/// A weight matrix in the order in which the kernels read it.
#[derive(Debug)]
pub struct Matrix {
    pub(super) pieces: Vec<Piece>,
    /// Kinds of activations that the pieces need.
    pub(super) kinds: Vec<Activations>,
    pub(super) stacking: Stacking,
    pub(super) n_in: usize,
    pub(super) n_out: usize,
    /// Of all pieces.
    pub(super) n_panels: usize,
}

/// Outputs whose weights have one format.
#[derive(Debug)]
pub(super) struct Piece {
    panels: Buffer,
    /// `[n_panels * 32]`, in the order of the panels' columns.
    bias: Option<Vec<f32>>,
    pub(super) format: Format,
    pub(super) fns: &'static TileFns,
    unpacked: Option<Unpacked>,
    /// Place of its activations among the matrix' kinds.
    pub(super) kind_idx: usize,
    stacking: Stacking,
    pub(super) n_in: usize,
    /// Panels of the pieces before.
    pub(super) first_panel: usize,
    /// Columns of the output before those of this piece.
    pub(super) first_column: usize,
    /// Columns of the output.
    pub(super) n_columns: usize,
    n_panels: usize,
}

impl Matrix {
    /// Packs `parts`.
    pub(super) fn pack(
        isa: Isa,
        pool: &Pool,
        parts: &[Dense<'_>],
        stacking: Stacking,
        bias: Option<&[f32]>,
    ) -> Matrix {
        let n_out = shape::stacked_len(parts, stacking, bias);
        let n_in = parts.first().map_or(0, |part| part.n_in);
        let mut matrix = Matrix { pieces: Vec::new(), kinds: Vec::new(), stacking, n_in, n_out, n_panels: 0 };
        let mut bias = bias;
        for (parts, dtype) in runs(parts, stacking) {
            let n_outputs = parts.iter().map(|part| part.n_out).sum();
            let (own, rest) = bias.map(|bias| bias.split_at(n_outputs)).unzip();
            bias = rest;
            matrix.push(Piece::pack(isa, pool, &[parts], stacking, dtype, own));
        }
        matrix
    }

    fn push(&mut self, mut piece: Piece) {
        let kind = piece.format.activations();
        piece.kind_idx = self.kinds.iter().position(|&other| other == kind).unwrap_or_else(|| {
            self.kinds.push(kind);
            self.kinds.len() - 1
        });
        piece.first_panel = self.n_panels;
        piece.first_column = self.pieces.iter().map(|piece| piece.n_columns).sum();
        self.n_panels += piece.n_panels;
        self.pieces.push(piece);
    }

    /// Bytes of the packed weights and the bias.
    pub(super) fn bytes(&self) -> usize {
        self.pieces.iter().map(Piece::bytes).sum()
    }

    /// The packed weights as words without meaning.
    pub(super) fn words(&self) -> impl Iterator<Item = &[u64]> {
        self.pieces.iter().map(Piece::words)
    }

    /// See [`Backend::gather`](super::super::Backend::gather).
    ///
    /// A row is scattered over its panel, a cache line per step: some microseconds, where the copy of an embedding table would
    /// take as much memory as the matrix.
    pub(super) fn gather(&self, outputs: &[u32], out: &mut [f32]) {
        assert_eq!(self.stacking, Stacking::Concat, "rows of interleaved matrices are not gathered");
        assert!(outputs.iter().all(|&output| (output as usize) < self.n_out), "rows are of the matrix");
        for (&output, row) in outputs.iter().zip(out.chunks_exact_mut(self.n_in)) {
            let output = output as usize;
            let piece = self.pieces.iter().rfind(|piece| piece.first_column <= output);
            let piece = piece.expect("the first piece begins at 0");
            piece.gather(output - piece.first_column, row);
        }
    }

    /// The piece that a panel of the matrix belongs to.
    pub(super) fn piece_of(&self, panel: usize) -> &Piece {
        let piece = self.pieces.iter().rfind(|piece| piece.first_panel <= panel);
        piece.expect("the first piece begins at 0")
    }
}

/// Successive parts that become one piece, and the type that they are packed as.
fn runs<'a, 'b>(
    parts: &'a [Dense<'b>],
    stacking: Stacking,
) -> impl Iterator<Item = (&'a [Dense<'b>], Dtype)> {
    // Gate and up stand in the same panels; of different types they are widened, as parts of plain numbers always were.
    let is_plain = parts.iter().all(|part| !part.dtype.is_quantised());
    let is_one = is_plain || stacking == Stacking::GateUp;
    let format = |part: &Dense<'_>| Format::of(part.dtype, Isa::Portable);
    parts.chunk_by(move |a, b| is_one || format(a) == format(b)).map(move |parts| {
        let first = parts[0].dtype;
        let is_uniform = parts.iter().all(|part| format(part) == format(&parts[0]));
        (parts, if is_uniform { first } else { Dtype::F32 })
    })
}

impl Piece {
    /// Packs matrices of one shape as `dtype`, one behind the other, each in whole panels; as a part of a [`Matrix`] it is one.
    ///
    /// * `matrices`: the parts of each.
    /// * `bias`: `[matrices.len() * n_out]`.
    pub(super) fn pack(
        isa: Isa,
        pool: &Pool,
        matrices: &[&[Dense<'_>]],
        stacking: Stacking,
        dtype: Dtype,
        bias: Option<&[f32]>,
    ) -> Piece {
        let n_out: usize = matrices[0].iter().map(|part| part.n_out).sum();
        let n_in = matrices[0][0].n_in;
        let format = Format::of(dtype, isa);
        let (n_columns, n_each) = match stacking {
            Stacking::Concat => (n_out, n_out.div_ceil(COLUMNS)),
            Stacking::GateUp => (n_out / 2, (n_out / 2).div_ceil(LANES)),
        };
        let n_panels = matrices.len() * n_each;
        let panel_bytes = format.panel_bytes(n_in);
        let mut piece = Piece {
            panels: Buffer::zeroed(n_panels * panel_bytes),
            bias: None,
            format,
            fns: tile_fns(isa, format),
            unpacked: unpacked(isa, format),
            kind_idx: 0,
            stacking,
            n_in,
            first_panel: 0,
            first_column: 0,
            n_columns,
            n_panels,
        };
        if panel_bytes > 0 {
            let panels = SharedMut::new(piece.panels.as_mut_slice());
            pool.run(n_panels, &|p| {
                // SAFETY: each panel is written by the one call that has its index.
                let panel = unsafe { panels.slice(p * panel_bytes, panel_bytes) };
                fill_panel(panel, p % n_each, matrices[p / n_each], stacking, format);
            });
        }
        let bias_of = |bias: &[f32], i: usize| {
            let (matrix, panel) = (i / COLUMNS / n_each, i / COLUMNS % n_each);
            let output = output_of(panel, i % COLUMNS, n_out, stacking);
            output.map_or(0.0, |output| bias[matrix * n_out + output])
        };
        piece.bias = bias.map(|bias| (0..n_panels * COLUMNS).map(|i| bias_of(bias, i)).collect());
        piece
    }

    /// Bytes of the packed weights and the bias.
    pub(super) fn bytes(&self) -> usize {
        self.panels.len() + self.bias.as_deref().map_or(0, size_of_val)
    }

    fn words(&self) -> &[u64] {
        let len = self.panels.len() / size_of::<u64>();
        // SAFETY: the buffer is aligned to 64, initialised, borrowed and at least `len` words long.
        unsafe { std::slice::from_raw_parts(self.panels.as_ptr().cast(), len) }
    }

    fn gather(&self, output: usize, row: &mut [f32]) {
        let panel_bytes = self.panel_bytes();
        let panel = &self.panels.as_slice()[output / COLUMNS * panel_bytes..][..panel_bytes];
        read_column(panel, output % COLUMNS, self.format, row);
    }

    /// How its panels are unpacked for a product with `n_rows`, or nothing where that does not pay.
    pub(super) fn unpacked_for(&self, n_rows: usize) -> Option<Unpacked> {
        self.unpacked.filter(|_| n_rows >= UNPACKED_ROWS_MIN)
    }

    /// Steps of a panel.
    pub(super) fn n_steps(&self) -> usize {
        self.format.steps(self.n_in)
    }

    /// Bytes of one step of a panel, of groups without what runs of steps share.
    pub(super) fn step_bytes(&self) -> usize {
        2 * self.format.half_step_bytes()
    }

    /// Bytes of one panel.
    pub(super) fn panel_bytes(&self) -> usize {
        self.format.panel_bytes(self.n_in)
    }

    /// Panel `p` of the matrix as the only stretch of a tile.
    pub(super) fn panel(&self, p: usize) -> Stretch {
        let start = self.panels.as_ptr().wrapping_add((p - self.first_panel) * self.panel_bytes());
        Stretch { halves: [start, start.wrapping_add(self.format.half_step_bytes())] }
    }

    /// Bias of the columns of panel `p` of the matrix.
    pub(super) fn panel_bias(&self, p: usize) -> Option<&[f32; COLUMNS]> {
        self.bias.as_ref().map(|bias| &bias.as_chunks().0[p - self.first_panel])
    }

    /// Columns of the output that a panel yields.
    pub(super) fn panel_width(&self) -> usize {
        match self.stacking {
            Stacking::Concat => COLUMNS,
            Stacking::GateUp => LANES,
        }
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

fn fill_panel(panel: &mut [u8], p: usize, parts: &[Dense<'_>], stacking: Stacking, format: Format) {
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
        fill_column(panel, column, &parts[part_idx], row, format);
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
        Format::Int8 => unreachable!("no weights are single bytes"),
        Format::Grouped(layout) | Format::GroupedDot(layout) => {
            for (step, row) in row.chunks_exact_mut(Group::LEN).enumerate() {
                row.copy_from_slice(&layout.values(panel, step, column));
            }
        }
    }
}

fn fill_column(panel: &mut [u8], column: usize, part: &Dense<'_>, row: usize, format: Format) {
    match format {
        Format::Bf16Dot | Format::Bf16Wide => {
            let (source, _) = part.row(row).as_chunks::<2>();
            let (cells, _) = panel.as_chunks_mut::<2>();
            for (k, &bits) in source.iter().enumerate() {
                cells[(k / 2 * COLUMNS + column) * 2 + k % 2] = u16::from_le_bytes(bits).to_ne_bytes();
            }
        }
        Format::F16 => {
            let (source, _) = part.row(row).as_chunks::<2>();
            let (cells, _) = panel.as_chunks_mut::<2>();
            for (k, &bits) in source.iter().enumerate() {
                cells[k * COLUMNS + column] = u16::from_le_bytes(bits).to_ne_bytes();
            }
        }
        Format::F32 => {
            let (cells, _) = panel.as_chunks_mut::<4>();
            let mut values = vec![0.0; part.n_in];
            part.widen_row(row, &mut values);
            for (k, value) in values.into_iter().enumerate() {
                cells[k * COLUMNS + column] = value.to_ne_bytes();
            }
        }
        Format::Int8 => unreachable!("no weights are single bytes"),
        Format::Grouped(layout) | Format::GroupedDot(layout) => {
            let source = part.row(row);
            for step in 0..part.n_in / Group::LEN {
                layout.write(panel, step, column, &part.dtype.group(source, step));
            }
        }
    }
}
