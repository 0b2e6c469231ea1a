//! Why models cannot be run.

/// Why models cannot be run; messages say what was expected and what was found.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// A file of the model cannot be used.
    #[error(transparent)]
    Checkpoint(#[from] dsde_checkpoint::Error),
    /// Draft and target must agree on every token; their numbers of tokens differ.
    #[error("draft and target must have the same vocabulary: {expected} tokens in one, {got} in the other")]
    VocabularyLen {
        /// Tokens of the first.
        expected: usize,
        /// Tokens of the second.
        got: usize,
    },
    /// A draft guesses tokens that its target has.
    #[error("draft and target must share tokens, got none that both have")]
    NothingShared,
    /// A translation names a token that is none.
    #[error("a translation must name tokens below {expected}, got {got}")]
    TranslationToken {
        /// Tokens of the vocabulary.
        expected: usize,
        /// The token.
        got: u32,
    },
    /// Shared tokens of a translation do not ascend.
    #[error("shared tokens must ascend, got {got} behind {expected}")]
    TranslationOrder {
        /// A token of the target.
        expected: u32,
        /// The one named behind it.
        got: u32,
    },
    /// A translation is between other vocabularies.
    #[error(
        "a translation must be between the vocabularies of target and draft, of {expected:?} tokens; got one between {got:?}"
    )]
    TranslationLen {
        /// Tokens of target and draft.
        expected: [usize; 2],
        /// Tokens that are translated.
        got: [usize; 2],
    },
    /// A draft is rolled back by forgetting slots, which a state cannot.
    #[error(
        "a draft must have attention in every layer, and {got} has layers with states; use another draft"
    )]
    RecurrentDraft {
        /// Its architecture.
        got: &'static str,
    },
    /// A head reads states of a model of another width.
    #[error(
        "this head reads states of {got} numbers, those of the model have {expected}; use the head of this very model"
    )]
    TargetHidden {
        /// Width of the model.
        expected: usize,
        /// What the head was trained for.
        got: usize,
    },
    /// An EAGLE-3 head of another width than the model must have embeddings of its own.
    #[error(
        "this EAGLE-3 head lacks embed_tokens.weight: it needs embeddings of {expected} numbers, those of the model have {got}"
    )]
    NoEmbeddings {
        /// Width of the head.
        expected: usize,
        /// Width of the model.
        got: usize,
    },
    /// An assistant reads what Gemma 4 stores.
    #[error("an assistant of Gemma 4 must draft for Gemma 4, got {got}; use another draft")]
    AssistantTarget {
        /// Architecture of the model.
        got: &'static str,
    },
    /// An assistant reads a kind of layers that the model lacks.
    #[error(
        "layer {layer} of this assistant reads a layer {expected}, and the model has none; use the assistant of this very model"
    )]
    AssistantKind {
        /// Number of the layer.
        layer: usize,
        /// What it reads.
        expected: &'static str,
    },
    /// An assistant reads keys and values of another shape than the model stores.
    #[error(
        "layer {layer} of this assistant reads {} key/value heads of {} numbers, the model stores {} of {}; use the assistant of this very model",
        got[0], got[1], expected[0], expected[1]
    )]
    AssistantHeads {
        /// Number of the layer.
        layer: usize,
        /// Heads that the model stores, and elements of each.
        expected: [usize; 2],
        /// What the assistant reads.
        got: [usize; 2],
    },
    /// A draft that was to be loaded again is another model now.
    #[error("the draft must have the shape that it had at the start, got another; start again to use it")]
    DraftChanged,
}
