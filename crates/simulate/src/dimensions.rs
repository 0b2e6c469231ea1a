//! Models as numbers: what a pass over them reads and multiplies.

/// The shape of a decoder. Everything is as the model's published `config.json` says; biases, norms and the like are left out,
/// which is below one part in a thousand of any of them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Dimensions {
    /// As typed.
    pub name: &'static str,
    /// Width of the residual stream.
    pub hidden: u64,
    /// Number of layers.
    pub layers: u64,
    /// Query heads.
    pub heads: u64,
    /// Heads of keys and values.
    pub kv_heads: u64,
    /// Width of a head.
    pub head_dim: u64,
    /// Width of a feed-forward block, of each expert if there are experts.
    pub intermediate: u64,
    /// Experts of a layer, and those that a row passes; 1 and 1 without experts.
    pub experts: [u64; 2],
    /// Tokens of the vocabulary.
    pub vocab: u64,
    /// Whether the output projection is the table of embeddings.
    pub is_tied: bool,
    /// Positions that every other layer sees at most, if there is such a bound.
    pub window: Option<u64>,
    /// Longest context, tokens.
    pub context: u32,
}

const DENSE: [u64; 2] = [1, 1];

/// A dense model with full attention.
const fn dense(
    name: &'static str,
    [hidden, layers, heads, kv_heads, head_dim, intermediate]: [u64; 6],
) -> Dimensions {
    Dimensions {
        name,
        hidden,
        layers,
        heads,
        kv_heads,
        head_dim,
        intermediate,
        experts: DENSE,
        vocab: 0,
        is_tied: false,
        window: None,
        context: 32_768,
    }
}

/// Every model by name. Sources are the `config.json` files on the Hugging Face Hub of the repositories named beside them.
pub const MODELS: [Dimensions; 15] = [
    // meta-llama/Llama-3.1-70B-Instruct
    Dimensions { vocab: 128_256, context: 131_072, ..dense("llama-3.1-70b", [8192, 80, 64, 8, 128, 28_672]) },
    // meta-llama/Llama-3.1-8B-Instruct
    Dimensions { vocab: 128_256, context: 131_072, ..dense("llama-3.1-8b", [4096, 32, 32, 8, 128, 14_336]) },
    // meta-llama/Llama-3.2-1B-Instruct
    Dimensions {
        vocab: 128_256,
        is_tied: true,
        context: 131_072,
        ..dense("llama-3.2-1b", [2048, 16, 32, 8, 64, 8192])
    },
    // Qwen/Qwen2.5-32B-Instruct
    Dimensions { vocab: 152_064, ..dense("qwen2.5-32b", [5120, 64, 40, 8, 128, 27_648]) },
    // Qwen/Qwen2.5-7B-Instruct, of which DeepSeek-R1-Distill-Qwen-7B has the shape
    Dimensions { vocab: 152_064, ..dense("qwen2.5-7b", [3584, 28, 28, 4, 128, 18_944]) },
    // Qwen/Qwen2.5-0.5B-Instruct
    Dimensions { vocab: 151_936, is_tied: true, ..dense("qwen2.5-0.5b", [896, 24, 14, 2, 64, 4864]) },
    // lmsys/vicuna-13b-v1.5
    Dimensions { vocab: 32_000, context: 4096, ..dense("vicuna-13b", [5120, 40, 40, 40, 128, 13_824]) },
    // double7/vicuna-68m
    Dimensions { vocab: 32_000, context: 2048, ..dense("vicuna-68m", [768, 2, 12, 12, 64, 3072]) },
    // google/gemma-2-27b-it
    Dimensions {
        vocab: 256_000,
        is_tied: true,
        window: Some(4096),
        context: 8192,
        ..dense("gemma-2-27b", [4608, 46, 32, 16, 128, 36_864])
    },
    // google/gemma-2-2b-it
    Dimensions {
        vocab: 256_000,
        is_tied: true,
        window: Some(4096),
        context: 8192,
        ..dense("gemma-2-2b", [2304, 26, 8, 4, 256, 9216])
    },
    // Qwen/Qwen3-30B-A3B
    Dimensions {
        vocab: 151_936,
        experts: [128, 8],
        context: 40_960,
        ..dense("qwen3-30b-a3b", [2048, 48, 32, 4, 128, 768])
    },
    // Qwen/Qwen3-0.6B
    Dimensions {
        vocab: 151_936,
        is_tied: true,
        context: 40_960,
        ..dense("qwen3-0.6b", [1024, 28, 16, 8, 128, 3072])
    },
    // HuggingFaceTB/SmolLM2-135M-Instruct
    Dimensions {
        vocab: 49_152,
        is_tied: true,
        context: 8192,
        ..dense("smollm2-135m", [576, 30, 9, 3, 64, 1536])
    },
    // `models/target` and `models/draft` of this project.
    Dimensions {
        vocab: 4096,
        is_tied: true,
        context: 2048,
        ..dense("embedded-target", [256, 6, 4, 2, 64, 768])
    },
    Dimensions {
        vocab: 4096,
        is_tied: true,
        context: 2048,
        ..dense("embedded-draft", [128, 2, 2, 1, 64, 384])
    },
];

impl Dimensions {
    /// Weights of a layer that every row meets.
    fn attention_weights(&self) -> u64 {
        let q = self.heads * self.head_dim;
        let kv = self.kv_heads * self.head_dim;
        self.hidden * (q + 2 * kv) + q * self.hidden + self.router_weights()
    }

    fn router_weights(&self) -> u64 {
        if self.experts[0] > 1 { self.hidden * self.experts[0] } else { 0 }
    }

    /// Weights of one feed-forward block.
    fn expert_weights(&self) -> u64 {
        3 * self.hidden * self.intermediate
    }

    fn output_weights(&self) -> u64 {
        self.vocab * self.hidden
    }

    /// All weights.
    pub fn parameters(&self) -> u64 {
        let tables = if self.is_tied { 1 } else { 2 };
        self.layers * (self.attention_weights() + self.experts[0] * self.expert_weights())
            + tables * self.output_weights()
    }

    /// Weights that a pass over `rows` rows reads in the mean: of experts those that some row passes, if every row chooses its
    /// experts by chance. A row reads one line of the table of embeddings, which is nothing.
    ///
    /// * `logit_rows`: rows after which a token is drawn; without any the output projection is not read.
    pub fn weights_read(&self, rows: f64, logit_rows: f64) -> f64 {
        let [all, passed] = self.experts.map(|n| n as f64);
        let distinct = all * (1.0 - (1.0 - passed / all).powf(rows));
        let layer = self.attention_weights() as f64 + distinct * self.expert_weights() as f64;
        let output = if logit_rows > 0.0 { self.output_weights() as f64 } else { 0.0 };
        self.layers as f64 * layer + output
    }

    /// Products and sums of a pass without attention, each counted.
    pub fn flops(&self, rows: f64, logit_rows: f64) -> f64 {
        let layer = self.attention_weights() + self.experts[1] * self.expert_weights();
        2.0 * (rows * (self.layers * layer) as f64 + logit_rows * self.output_weights() as f64)
    }

    /// Products and sums of attention for one row and one position that it sees, over all layers.
    pub fn attention_flops(&self) -> f64 {
        (4 * self.layers * self.heads * self.head_dim) as f64
    }

    /// Numbers stored for one position.
    pub fn kv_len(&self) -> u64 {
        2 * self.layers * self.kv_heads * self.head_dim
    }

    /// Numbers written and read between kernels for one row: residual stream, heads and feed-forward block, there and back.
    pub fn activation_len(&self) -> u64 {
        let inner = 2 * self.experts[1] * self.intermediate;
        2 * self.layers * (3 * self.hidden + self.heads * self.head_dim + inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn models_have_as_many_parameters_as_their_authors_say() {
        // Billions, from the model cards; norms and biases are not counted here.
        let cases = [
            ("llama-3.1-70b", 70.55),
            ("llama-3.1-8b", 8.03),
            ("llama-3.2-1b", 1.236),
            ("qwen2.5-32b", 32.76),
            ("qwen2.5-7b", 7.616),
            ("qwen2.5-0.5b", 0.494),
            ("vicuna-13b", 13.016),
            ("vicuna-68m", 0.068),
            ("gemma-2-27b", 27.23),
            ("gemma-2-2b", 2.614),
            ("qwen3-30b-a3b", 30.53),
            ("qwen3-0.6b", 0.596),
            ("smollm2-135m", 0.1345),
        ];
        for (name, billions) in cases {
            let model = MODELS.iter().find(|model| model.name == name).unwrap();
            let got = model.parameters() as f64 / 1e9;
            assert!((got / billions - 1.0).abs() < 0.01, "{name}: {got} of {billions}");
        }
    }

    #[test]
    fn a_pass_reads_the_experts_that_its_rows_choose() {
        let model = MODELS.iter().find(|model| model.name == "qwen3-30b-a3b").unwrap();
        let one = model.weights_read(1.0, 1.0);
        // 3.3 billion active parameters, less the table of embeddings of 0.31.
        assert!((one / 1e9 - 3.03).abs() < 0.05, "{one}");
        let all = model.weights_read(1e6, 1.0);
        assert_eq!(all, (model.parameters() - model.output_weights()) as f64);
        let few = model.weights_read(8.0, 1.0);
        assert!(few > 4.0 * one && few < 8.0 * one, "{few}");
    }
}
