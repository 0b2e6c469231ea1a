//! One description per architecture.

pub(super) mod gemma2;
pub(super) mod gemma3;
pub(super) mod gemma4;
pub(super) mod glm4;
pub(super) mod gpt_oss;
pub(super) mod granite;
pub(super) mod llama;
pub(super) mod mistral;
pub(super) mod mixtral;
pub(super) mod olmoe;
pub(super) mod phi3;
pub(super) mod qwen2;
pub(super) mod qwen3;
pub(super) mod qwen3_5;
pub(super) mod qwen3_5_moe;
pub(super) mod qwen3_moe;
pub(super) mod qwen3_next;
pub(super) mod smollm3;
