//! Experts as gpt-oss has them in folders: outputs of gate and up in turns, and either inputs before outputs or blocks of MXFP4
//! apart from their scales. They are copied into matrices whose rows lie in their order.
//!
//! A block of MXFP4 (OCP Microscaling 1.0) is 32 elements of 4 bits with one scale. In folders byte `i` holds the elements `2 i`
//! (low half) and `2 i + 1`; in GGUF files, whose form everything else here knows, `i` and `i + 16`.

use super::super::Checkpoint;
use super::super::matrix::Matrix;
use super::{ExpertBiases, ExpertPart};
use crate::config::{ExpertLayout, Experts};
use crate::error::Error;
use crate::stored::{Dtype, TensorView};

/// Modules of all matrices, within a layer.
pub(super) const MODULES: [&str; 2] = ["mlp.experts.gate_up_proj", "mlp.experts.down_proj"];
/// Tensors of all biases in folders, within a layer.
pub(super) const BIASES: [&str; 2] = ["mlp.experts.gate_up_proj_bias", "mlp.experts.down_proj_bias"];
/// The same of GGUF files, each `[n_experts, n_out]`.
pub(super) const BIASES_APART: [&str; 3] =
    ["mlp.experts.gate_proj.bias", "mlp.experts.up_proj.bias", "mlp.experts.down_proj.bias"];
/// Bytes of the codes of a block.
const CODES_BYTES: usize = 16;
/// Inputs that are copied together: at least a cache line of elements.
const INPUTS_AT_ONCE: usize = 32;

/// Outputs of a part among those of its tensor.
#[derive(Clone, Copy)]
struct Turn {
    module: &'static str,
    /// Index of the first one.
    first: usize,
    /// Every so many is one of the part.
    step: usize,
}

impl Turn {
    fn of(part: ExpertPart) -> Self {
        match part {
            ExpertPart::Gate => Self { module: MODULES[0], first: 0, step: 2 },
            ExpertPart::Up => Self { module: MODULES[0], first: 1, step: 2 },
            ExpertPart::Down => Self { module: MODULES[1], first: 0, step: 1 },
        }
    }
}

impl Checkpoint {
    /// See [`Checkpoint::experts`]; of a layout in which gate and up take turns.
    pub(super) fn matrices_in_turns(
        &self,
        prefix: &str,
        experts: &Experts,
        part: ExpertPart,
    ) -> Result<Vec<Matrix<'_>>, Error> {
        let turn = Turn::of(part);
        let name = format!("{prefix}{}", turn.module);
        let shape @ [n_out, n_in] = part.shape(self.config.hidden, experts.intermediate);
        let n_all = turn.step * n_out;
        let matrix = |dtype, bytes| Matrix::copied(dtype, shape, bytes);
        if experts.layout == ExpertLayout::Columns {
            let TensorView { dtype, bytes, .. } = self.tensor(&name, &[experts.n_experts, n_in, n_all])?;
            let each = bytes.chunks_exact(n_in * dtype.row_bytes(n_all));
            return Ok(each.map(|expert| matrix(dtype, transposed(dtype, expert, shape, turn))).collect());
        }
        let n_blocks = n_in / Dtype::Mxfp4.block_len();
        let n_all_blocks = n_all * n_blocks;
        let shape = [experts.n_experts, n_all, n_blocks, CODES_BYTES];
        let codes = self.raw(&format!("{name}_blocks"), "U8", &shape)?;
        let scales = self.raw(&format!("{name}_scales"), "U8", &shape[..3])?;
        let each = codes.chunks_exact(n_all_blocks * CODES_BYTES).zip(scales.chunks_exact(n_all_blocks));
        Ok(each.map(|(codes, scales)| matrix(Dtype::Mxfp4, joined(codes, scales, n_blocks, turn))).collect())
    }

    /// Biases of the experts of a layer.
    pub(super) fn expert_biases(&self, prefix: &str, experts: &Experts) -> Result<ExpertBiases, Error> {
        let Experts { n_experts, intermediate, .. } = *experts;
        let values = |name: &str, n_out: usize| {
            Ok::<_, Error>(self.tensor(&format!("{prefix}{name}"), &[n_experts, n_out])?.to_f32())
        };
        let [gates, ups, down] = match experts.layout {
            ExpertLayout::Rows => {
                let [gate, up, down] = BIASES_APART;
                [values(gate, intermediate)?, values(up, intermediate)?, values(down, self.config.hidden)?]
            }
            ExpertLayout::Columns | ExpertLayout::Mxfp4 => {
                let [gate_up, down] = BIASES;
                let both = values(gate_up, 2 * intermediate)?;
                let every_other = |first| both.iter().skip(first).step_by(2).copied().collect();
                [every_other(0), every_other(1), values(down, self.config.hidden)?]
            }
        };
        let each = gates.chunks_exact(intermediate).zip(ups.chunks_exact(intermediate));
        Ok(ExpertBiases { gate_up: each.flat_map(|(gate, up)| [gate, up].concat()).collect(), down })
    }
}

/// The rows of a part of one expert, of `[n_in, step * n_out]`.
fn transposed(dtype: Dtype, expert: &[u8], [n_out, n_in]: [usize; 2], turn: Turn) -> Vec<u8> {
    let size = dtype.block_bytes();
    let input_bytes = turn.step * n_out * size;
    let mut rows = vec![0; n_out * n_in * size];
    for first_in in (0..n_in).step_by(INPUTS_AT_ONCE) {
        for (output, row) in rows.chunks_exact_mut(n_in * size).enumerate() {
            let column = (turn.first + turn.step * output) * size;
            for input in first_in..n_in.min(first_in + INPUTS_AT_ONCE) {
                let element = &expert[input * input_bytes + column..][..size];
                row[input * size..][..size].copy_from_slice(element);
            }
        }
    }
    rows
}

/// The same of codes and scales of `[step * n_out, n_blocks]`: codes behind their scales, and in the other order.
fn joined(codes: &[u8], scales: &[u8], n_blocks: usize, turn: Turn) -> Vec<u8> {
    let rows = codes.chunks_exact(n_blocks * CODES_BYTES).zip(scales.chunks_exact(n_blocks));
    let mut joined = Vec::with_capacity((codes.len() + scales.len()) / turn.step);
    for (codes, scales) in rows.skip(turn.first).step_by(turn.step) {
        for (codes, scale) in codes.as_chunks::<CODES_BYTES>().0.iter().zip(scales) {
            joined.push(*scale);
            joined.extend(by_halves(codes));
        }
    }
    joined
}

/// Codes of which byte `i` holds elements `i` and `i + 16`, from those of which it holds `2 i` and `2 i + 1`.
fn by_halves(codes: &[u8; CODES_BYTES]) -> [u8; CODES_BYTES] {
    let mut halves = [0; CODES_BYTES];
    let (low, high) = codes.split_at(CODES_BYTES / 2);
    for ((halves, low), high) in halves.as_chunks_mut::<2>().0.iter_mut().zip(low).zip(high) {
        *halves = [low & 15 | high << 4, low >> 4 | high & 0xF0];
    }
    halves
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn codes_keep_their_elements() {
        let element = |i: usize| (i * 7 % 16) as u8;
        let pairs = std::array::from_fn(|i| element(2 * i) | element(2 * i + 1) << 4);
        let expected: [u8; CODES_BYTES] = std::array::from_fn(|i| element(i) | element(i + 16) << 4);
        assert_eq!(by_halves(&pairs), expected);
    }
}
