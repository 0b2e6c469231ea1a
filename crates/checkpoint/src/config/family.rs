//! Families of models, by the architecture that their files name.

use super::Architecture;

/// Families of architectures; how each of them computes is said by [`ModelConfig`](super::ModelConfig).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Family {
    /// Llama 2 and 3, and everything published in their shape.
    Llama,
    /// Mistral without experts.
    Mistral,
    /// Qwen2 and 2.5.
    Qwen2,
    /// Qwen3 without experts.
    Qwen3,
    /// Gemma 2.
    Gemma2,
    /// The text part of Gemma 3.
    Gemma3,
    /// The text part of Gemma 4.
    Gemma4,
    /// Phi-3 and Phi-4-mini.
    Phi3,
    /// SmolLM3.
    SmolLm3,
    /// Granite 3 without experts.
    Granite,
    /// GLM-4 without experts.
    Glm4,
    /// Qwen3 with experts in all or some layers.
    Qwen3Moe,
    /// Mistral with experts.
    Mixtral,
    /// OLMoE: experts, and queries and keys normalised over all heads together.
    Olmoe,
    /// gpt-oss.
    GptOss,
    /// The text part of Qwen3.5 and 3.6 without experts.
    Qwen3_5,
    /// The same with experts.
    Qwen3_5Moe,
    /// Qwen3-Next, Qwen3-Coder-Next among them.
    Qwen3Next,
}

impl Family {
    /// Name of the architecture in `config.json`.
    pub fn architecture(self) -> &'static str {
        Architecture::of(self).name
    }

    /// Whether other files are made from a folder of this architecture: it has the tensors of Llama, as they are.
    pub fn is_written(self) -> bool {
        Architecture::of(self).is_written
    }

    /// Name of the architecture in GGUF files.
    pub(crate) fn gguf_architecture(self) -> &'static str {
        Architecture::of(self).gguf
    }
}
