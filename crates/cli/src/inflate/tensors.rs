//! Tensors of an inflated checkpoint: those of the small model in one corner, and around them values that change nothing.

use std::borrow::Cow;

use dsde_checkpoint::Checkpoint;
use dsde_checkpoint::config::ModelConfig;
use indicatif::ProgressBar;
use safetensors::tensor::{Dtype, View};

use super::Sizes;

/// Bytes of a bf16 element.
pub(super) const ELEMENT_BYTES: usize = 2;
/// Largest magnitude of weights that cannot be seen; about that of trained ones.
const NOISE_MAX: f32 = 1.0 / 32.0;

/// One tensor of the result.
pub(super) struct Inflated<'a> {
    /// As the family names it.
    pub(super) name: String,
    /// `[n_out, n_in]`, or `[len]`.
    shape: Vec<usize>,
    corner: Option<Corner>,
    rest: Rest,
    /// Counts what is written, bytes.
    bar: &'a ProgressBar,
}

/// The tensor of the small model, in bf16, as a matrix; a vector has one row.
struct Corner {
    n_in: usize,
    /// Little endian, row by row.
    bytes: Vec<u8>,
}

/// What stands outside the corner.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Rest {
    /// Where another value would reach the output.
    Zero,
    /// Where something is always zero on the way: weights that cost what real ones cost.
    Noise,
}

/// All tensors of the result.
///
/// # Errors
/// If a tensor of the small model is absent or misshapen, or bf16 cannot hold it.
pub(super) fn tensors<'a>(
    checkpoint: &Checkpoint,
    sizes: &Sizes,
    bar: &'a ProgressBar,
) -> anyhow::Result<Vec<Inflated<'a>>> {
    let mut plan = Plan { checkpoint, sizes: *sizes, bar, tensors: Vec::new() };
    let config = checkpoint.config();
    let table = [config.n_embeddings, config.hidden];
    let wide_table = [config.n_embeddings, sizes.hidden];
    plan.matrix("model.embed_tokens.weight", Some(table), wide_table, Rest::Zero)?;
    if !config.tie_embeddings {
        plan.matrix("lm_head.weight", Some(table), wide_table, Rest::Noise)?;
    }
    plan.norm("model.norm.weight", true)?;
    for i in 0..sizes.layers {
        plan.layer(&format!("model.layers.{i}"), i < config.n_layers)?;
    }
    Ok(plan.tensors)
}

struct Plan<'a, 'c> {
    checkpoint: &'c Checkpoint,
    sizes: Sizes,
    bar: &'a ProgressBar,
    tensors: Vec<Inflated<'a>>,
}

impl Plan<'_, '_> {
    /// * `is_there`: whether the small model has this layer; an added one adds zero to the residual stream.
    fn layer(&mut self, prefix: &str, is_there: bool) -> anyhow::Result<()> {
        let config: &ModelConfig = self.checkpoint.config();
        let (small, large) = (Sizes::of(config), self.sizes);
        let projections = [
            ("self_attn.q_proj", [small.q_len(), small.hidden], [large.q_len(), large.hidden], Rest::Noise),
            ("self_attn.k_proj", [small.kv_len(), small.hidden], [large.kv_len(), large.hidden], Rest::Noise),
            ("self_attn.v_proj", [small.kv_len(), small.hidden], [large.kv_len(), large.hidden], Rest::Noise),
            ("self_attn.o_proj", [small.hidden, small.q_len()], [large.hidden, large.q_len()], Rest::Zero),
            ("mlp.gate_proj", [small.ff, small.hidden], [large.ff, large.hidden], Rest::Noise),
            ("mlp.up_proj", [small.ff, small.hidden], [large.ff, large.hidden], Rest::Noise),
            ("mlp.down_proj", [small.hidden, small.ff], [large.hidden, large.ff], Rest::Zero),
        ];
        for (name, corner, shape, rest) in projections {
            self.matrix(&format!("{prefix}.{name}.weight"), is_there.then_some(corner), shape, rest)?;
            let has_bias = match name {
                "self_attn.o_proj" => config.has_output_bias,
                name if name.starts_with("mlp") => config.has_mlp_bias,
                _ => config.has_qkv_bias,
            };
            if has_bias {
                let corner = is_there.then_some(corner[0]);
                self.vector(&format!("{prefix}.{name}.bias"), corner, shape[0])?;
            }
        }
        if config.has_qk_norm {
            for name in ["self_attn.q_norm", "self_attn.k_norm"] {
                let head_dim = config.head_dim;
                self.vector(&format!("{prefix}.{name}.weight"), is_there.then_some(head_dim), head_dim)?;
            }
        }
        self.norm(&format!("{prefix}.input_layernorm.weight"), is_there)?;
        self.norm(&format!("{prefix}.post_attention_layernorm.weight"), is_there)
    }

    fn matrix(
        &mut self,
        name: &str,
        corner: Option<[usize; 2]>,
        shape: [usize; 2],
        rest: Rest,
    ) -> anyhow::Result<()> {
        let corner = corner.map(|[n_out, n_in]| self.corner(name, &[n_out, n_in], 1.0)).transpose()?;
        self.push(name, shape.to_vec(), corner, rest);
        Ok(())
    }

    fn vector(&mut self, name: &str, corner: Option<usize>, len: usize) -> anyhow::Result<()> {
        let corner = corner.map(|len| self.corner(name, &[len], 1.0)).transpose()?;
        self.push(name, vec![len], corner, Rest::Zero);
        Ok(())
    }

    /// A norm over the residual stream, whose root mean square shrinks with the width.
    fn norm(&mut self, name: &str, is_there: bool) -> anyhow::Result<()> {
        let config = self.checkpoint.config();
        let scale = 1.0 / self.sizes.widening(config).sqrt() as f32;
        let corner = is_there.then(|| self.corner(name, &[config.hidden], scale)).transpose()?;
        self.push(name, vec![self.sizes.hidden], corner, Rest::Noise);
        Ok(())
    }

    fn push(&mut self, name: &str, shape: Vec<usize>, corner: Option<Corner>, rest: Rest) {
        self.tensors.push(Inflated { name: name.to_owned(), shape, corner, rest, bar: self.bar });
    }

    fn corner(&self, name: &str, shape: &[usize], scale: f32) -> anyhow::Result<Corner> {
        let values = self.checkpoint.tensor(name, shape)?.to_f32();
        let bf16 = |value: f32| {
            let bits = (value * scale).to_bits();
            let is_exact = bits.trailing_zeros() >= 16;
            anyhow::ensure!(
                is_exact,
                "{name} holds {value}, which bf16 cannot hold exactly; inflate a bf16 model"
            );
            Ok((bits >> 16) as u16)
        };
        let elements: Vec<u16> = values.into_iter().map(bf16).collect::<Result<_, _>>()?;
        let bytes = elements.into_iter().flat_map(u16::to_le_bytes).collect();
        Ok(Corner { n_in: *shape.last().expect("a tensor has a dimension"), bytes })
    }
}

impl Inflated<'_> {
    fn n_in(&self) -> usize {
        *self.shape.last().expect("a tensor has a dimension")
    }

    fn filled(&self) -> Vec<u8> {
        match self.rest {
            Rest::Zero => vec![0; self.data_len()],
            Rest::Noise => {
                let mut noise = Noise::of(&self.name);
                (0..self.data_len() / ELEMENT_BYTES).flat_map(|_| noise.next().to_le_bytes()).collect()
            }
        }
    }
}

impl View for Inflated<'_> {
    fn dtype(&self) -> Dtype {
        Dtype::BF16
    }

    fn shape(&self) -> &[usize] {
        &self.shape
    }

    fn data(&self) -> Cow<'_, [u8]> {
        let mut bytes = self.filled();
        if let Some(Corner { n_in, bytes: corner }) = &self.corner {
            let [to_len, from_len] = [self.n_in(), *n_in].map(|n_in| n_in * ELEMENT_BYTES);
            for (to, from) in bytes.chunks_exact_mut(to_len).zip(corner.chunks_exact(from_len)) {
                to[..from_len].copy_from_slice(from);
            }
        }
        self.bar.inc(bytes.len() as u64);
        Cow::Owned(bytes)
    }

    fn data_len(&self) -> usize {
        self.shape.iter().product::<usize>() * ELEMENT_BYTES
    }
}

/// Evenly spread bf16 values in `-NOISE_MAX..NOISE_MAX`, the same for the same name: SplitMix64 (Steele et al., 2014).
struct Noise {
    state: u64,
}

impl Noise {
    fn of(name: &str) -> Self {
        let state = name.bytes().fold(0_u64, |state, byte| state.wrapping_mul(257).wrapping_add(byte.into()));
        Self { state }
    }

    fn next(&mut self) -> u16 {
        self.state = self.state.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mixed = (self.state ^ (self.state >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        // 24 bits as a number in -1..1.
        let unit =
            ((mixed >> 40) as f32).mul_add(1.0 / f32::from(1_u16 << 12) / f32::from(1_u16 << 11), -1.0);
        ((unit * NOISE_MAX).to_bits() >> 16) as u16
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn noise_is_small_varied_and_the_same_each_time() {
        let values = || {
            let mut noise = Noise::of("a");
            let value = |_| f32::from_bits(u32::from(noise.next()) << 16);
            (0..10_000).map(value).collect::<Vec<f32>>()
        };
        let first = values();
        assert_eq!(first, values());
        assert!(first.iter().all(|value| value.abs() <= NOISE_MAX));
        // Uniform on -a..a has the standard deviation a / sqrt(3); the mean of 10 000 strays by a hundredth of that.
        let mean = first.iter().sum::<f32>() / 1e4;
        assert!(mean.abs() < 4.0 * NOISE_MAX / 3_f32.sqrt() / 100.0, "{mean}");
        assert!(first.iter().filter(|value| **value == 0.0).count() < 10);
    }

    #[test]
    fn the_small_tensor_stands_in_the_corner() {
        let bar = ProgressBar::hidden();
        let corner = Corner { n_in: 1, bytes: vec![1, 2, 3, 4] };
        let tensor = Inflated {
            name: String::new(),
            shape: vec![3, 2],
            corner: Some(corner),
            rest: Rest::Zero,
            bar: &bar,
        };
        assert_eq!(tensor.data().as_ref(), [1, 2, 0, 0, 3, 4, 0, 0, 0, 0, 0, 0]);
        assert_eq!(bar.position(), 12);
    }
}
