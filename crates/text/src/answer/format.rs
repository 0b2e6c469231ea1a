//! How models write calls of functions.

use serde::{Deserialize, Serialize};

use super::harmony;

/// How a model writes calls of functions, as its template tells.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum CallFormat {
    /// `<tool_call>{"name": …, "arguments": …}</tool_call>`, once per call: Hermes, Qwen 2.5, Qwen 3.
    Hermes,
    /// `{"name": …, "parameters": …}`, bare or after `<|python_tag|>`: Llama 3.
    Llama,
    /// `[TOOL_CALLS] [{"name": …, "arguments": …}, …]`: Mistral.
    Mistral,
    /// `[TOOL_CALLS]name[ARGS]{…}`, once per call: Mistral since 2025.
    MistralNamed,
    /// `<|channel|>commentary to=functions.name <|constrain|>json<|message|>{…}<|call|>`: gpt-oss.
    Harmony,
}

impl CallFormat {
    pub(crate) const ALL: [Self; 5] =
        [Self::Hermes, Self::Llama, Self::Mistral, Self::MistralNamed, Self::Harmony];

    /// The form that a template makes of calls in past messages; `None` if it is another one.
    pub fn of_template(source: &str) -> Option<Self> {
        let has = |text: &str| source.contains(text);
        if has(harmony::CHANNEL) && has("functions.") {
            Some(Self::Harmony)
        } else if has("<tool_call>") {
            // Qwen3-Coder writes every parameter as an element of its own.
            (!has("<function=")).then_some(Self::Hermes)
        } else if has("[TOOL_CALLS]") {
            Some(if has("[ARGS]") { Self::MistralNamed } else { Self::Mistral })
        } else if has("<|python_tag|>") || (has("\"parameters\": ") && has("{\"name\": ")) {
            Some(Self::Llama)
        } else {
            None
        }
    }

    /// What begins a call. The first character of a marker occurs nowhere else in it.
    pub(super) fn opening(self) -> &'static str {
        match self {
            Self::Hermes => "<tool_call>",
            Self::Llama => "<|python_tag|>",
            Self::Mistral | Self::MistralNamed => "[TOOL_CALLS]",
            Self::Harmony => harmony::CHANNEL,
        }
    }

    /// The markers, some of which may be special tokens of the model.
    pub fn markers(self) -> &'static [&'static str] {
        match self {
            Self::Hermes => &["<tool_call>", "</tool_call>"],
            Self::Llama => &["<|python_tag|>"],
            Self::Mistral | Self::MistralNamed => &["[TOOL_CALLS]", "[ARGS]", "[CALL_ID]"],
            Self::Harmony => &[
                harmony::CHANNEL,
                harmony::CONSTRAIN,
                harmony::MESSAGE,
                harmony::START,
                harmony::END,
                harmony::CALL,
            ],
        }
    }

    /// Whether a call may begin without a marker.
    pub(super) fn is_bare(self) -> bool {
        self == Self::Llama
    }

    /// Whether a message may hold several calls.
    pub fn can_be_parallel(self) -> bool {
        !matches!(self, Self::Llama | Self::Harmony)
    }

    /// Length of the ids of calls, if templates insist on one.
    pub fn id_len(self) -> Option<usize> {
        matches!(self, Self::Mistral | Self::MistralNamed).then_some(9)
    }
}
