//! Which tensor gets which element type.
//!
//! Choices are those of llama.cpp's `llama-quant.cpp`, so that a file is as large and as good as its users expect: what every token
//! passes through and few bits harm most gets more of them.

use crate::config::ModelConfig;
use crate::stored::Dtype;

/// A mix of element types, named after the one that most weights get.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mix {
    /// Half precision.
    F16,
    /// bfloat16.
    Bf16,
    /// 8 bits.
    Q8_0,
    /// 4 bits and a scale per 32.
    Q4_0,
    /// 4 bits in blocks of 256, and 6 bits for part of the values and of the feed-forward layers.
    Q4KM,
}

/// What the choice depends on.
#[derive(Clone, Copy, Debug)]
pub(super) struct Shape {
    n_layers: usize,
    /// Whether the embeddings are the output projection.
    is_tied: bool,
    /// Whether the model is one of those with 70 billion weights, in which eight heads share their values.
    is_70b: bool,
}

impl Shape {
    pub(super) fn new(config: &ModelConfig, is_tied: bool) -> Self {
        let is_70b = config.n_layers == 80 && config.n_heads != config.n_kv_heads;
        Self { n_layers: config.n_layers, is_tied, is_70b }
    }

    /// Whether a layer is one of the first or last eighth, or every third between.
    fn has_more_bits(self, layer: usize) -> bool {
        let n = self.n_layers;
        layer < n / 8 || layer >= 7 * n / 8 || (layer - n / 8) % 3 == 2
    }
}

impl Mix {
    /// All mixes, from the largest files to the smallest.
    pub const ALL: [Mix; 5] = [Mix::Bf16, Mix::F16, Mix::Q8_0, Mix::Q4KM, Mix::Q4_0];

    /// Its name, as users of such files know it.
    pub fn name(self) -> &'static str {
        match self {
            Mix::F16 => "F16",
            Mix::Bf16 => "BF16",
            Mix::Q8_0 => "Q8_0",
            Mix::Q4_0 => "Q4_0",
            Mix::Q4KM => "Q4_K_M",
        }
    }

    /// Its number in `general.file_type`.
    pub(super) fn file_type(self) -> u32 {
        match self {
            Mix::F16 => 1,
            Mix::Q4_0 => 2,
            Mix::Q8_0 => 7,
            Mix::Q4KM => 15,
            Mix::Bf16 => 32,
        }
    }

    /// The type that most weights get.
    fn usual(self) -> Dtype {
        match self {
            Mix::F16 => Dtype::F16,
            Mix::Bf16 => Dtype::Bf16,
            Mix::Q8_0 => Dtype::Q8_0,
            Mix::Q4_0 => Dtype::Q4_0,
            Mix::Q4KM => Dtype::Q4K,
        }
    }

    /// The type of a tensor.
    pub(super) fn dtype(self, model: Shape, name: &str, shape: &[usize]) -> Dtype {
        // What chooses experts is small, and a different choice is a different model.
        let is_small = name.ends_with("_norm.weight") || name.ends_with("ffn_gate_inp.weight");
        let is_matrix = shape.len() > 1 && name.ends_with("weight") && !is_small;
        let usual = self.usual();
        let [.., n_in] = *shape else { return Dtype::F32 };
        match () {
            () if !is_matrix => Dtype::F32,
            () if !usual.is_quantised() => usual,
            () => fitting(self.preferred(model, name, n_in), n_in),
        }
    }

    /// The type of a matrix of which rows of any length could be stored in it.
    fn preferred(self, model: Shape, name: &str, n_in: usize) -> Dtype {
        let usual = self.usual();
        let is_output = name == "output.weight" || (model.is_tied && name == "token_embd.weight");
        if is_output {
            let is_fine = usual == Dtype::Q8_0 || !n_in.is_multiple_of(usual.block_len());
            return if is_fine { Dtype::Q8_0 } else { Dtype::Q6K };
        }
        let in_layer = name.strip_prefix("blk.").and_then(|rest| rest.split_once('.'));
        let Some((layer, module)) = in_layer.and_then(|(idx, module)| Some((idx.parse().ok()?, module)))
        else {
            return usual;
        };
        match (self, module) {
            (Mix::Q4KM, "attn_v.weight" | "ffn_down.weight" | "ffn_down_exps.weight")
                if model.has_more_bits(layer) =>
            {
                Dtype::Q6K
            }
            (Mix::Q4KM, "attn_v.weight") if model.is_70b => Dtype::Q5K,
            _ => usual,
        }
    }
}

/// A type of which rows of `n_in` elements are whole blocks, `dtype` if possible.
fn fitting(dtype: Dtype, n_in: usize) -> Dtype {
    let fits = |dtype: Dtype| n_in.is_multiple_of(dtype.block_len());
    let smaller = match dtype {
        Dtype::Q4K => Dtype::Q5_0,
        Dtype::Q5K | Dtype::Q6K => Dtype::Q8_0,
        other => other,
    };
    [dtype, smaller].into_iter().find(|&dtype| fits(dtype)).unwrap_or(Dtype::F16)
}

#[cfg(test)]
mod tests {
    use super::*;

    const SMALL: Shape = Shape { n_layers: 30, is_tied: true, is_70b: false };

    #[track_caller]
    fn check(mix: Mix, model: Shape, name: &str, shape: &[usize], expected: Dtype) {
        assert_eq!(mix.dtype(model, name, shape), expected, "{} of {name}", mix.name());
    }

    #[test]
    fn output_and_tied_embeddings_get_more_bits() {
        let untied = Shape { is_tied: false, ..SMALL };
        for (mix, expected, usual) in [
            (Mix::Q4KM, Dtype::Q6K, Dtype::Q4K),
            (Mix::Q4_0, Dtype::Q6K, Dtype::Q4_0),
            (Mix::Q8_0, Dtype::Q8_0, Dtype::Q8_0),
            (Mix::F16, Dtype::F16, Dtype::F16),
        ] {
            check(mix, SMALL, "token_embd.weight", &[100, 512], expected);
            check(mix, untied, "token_embd.weight", &[100, 512], usual);
            check(mix, untied, "output.weight", &[100, 512], expected);
        }
        // Not whole blocks of 256.
        check(Mix::Q4KM, SMALL, "token_embd.weight", &[100, 576], Dtype::Q8_0);
        check(Mix::Q4_0, SMALL, "token_embd.weight", &[100, 576], Dtype::Q8_0);
    }

    #[test]
    fn values_and_feed_forward_outputs_get_more_bits_in_some_layers() {
        // 30 / 8 = 3, 7 * 30 / 8 = 26, and every third from layer 5 on.
        let more = [0, 1, 2, 5, 8, 11, 14, 17, 20, 23, 26, 27, 28, 29];
        for layer in 0..30 {
            let expected = if more.contains(&layer) { Dtype::Q6K } else { Dtype::Q4K };
            for (module, shape) in
                [("attn_v", &[256; 2][..]), ("ffn_down", &[256; 2]), ("ffn_down_exps", &[4, 256, 256])]
            {
                check(Mix::Q4KM, SMALL, &format!("blk.{layer}.{module}.weight"), shape, expected);
                check(Mix::Q4_0, SMALL, &format!("blk.{layer}.{module}.weight"), shape, Dtype::Q4_0);
            }
            check(Mix::Q4KM, SMALL, &format!("blk.{layer}.attn_q.weight"), &[256, 256], Dtype::Q4K);
        }
        let large = Shape { n_layers: 80, is_tied: false, is_70b: true };
        check(Mix::Q4KM, large, "blk.10.attn_v.weight", &[256, 256], Dtype::Q5K);
        check(Mix::Q4KM, large, "blk.10.ffn_down.weight", &[256, 256], Dtype::Q4K);
    }

    #[test]
    fn rows_that_are_not_whole_blocks_get_a_type_with_smaller_ones() {
        check(Mix::Q4KM, SMALL, "blk.3.attn_q.weight", &[4, 576], Dtype::Q5_0);
        check(Mix::Q4KM, SMALL, "blk.0.attn_v.weight", &[4, 576], Dtype::Q8_0);
        for mix in [Mix::Q4KM, Mix::Q8_0, Mix::Q4_0] {
            check(mix, SMALL, "blk.3.attn_q.weight", &[4, 40], Dtype::F16);
        }
    }

    #[test]
    fn vectors_and_norms_stay_as_they_are() {
        for mix in Mix::ALL {
            check(mix, SMALL, "blk.0.attn_norm.weight", &[512], Dtype::F32);
            check(mix, SMALL, "blk.0.attn_q.bias", &[512], Dtype::F32);
            check(mix, SMALL, "blk.0.attn_q_norm.weight", &[2, 512], Dtype::F32);
            check(mix, SMALL, "rope_freqs.weight", &[32], Dtype::F32);
            check(mix, SMALL, "blk.0.ffn_gate_inp.weight", &[8, 512], Dtype::F32);
        }
    }
}
