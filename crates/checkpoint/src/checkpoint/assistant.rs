//! An assistant of Gemma 4 as published: a folder, or a GGUF file of llama.cpp's converter.
//!
//! | Hugging Face | GGUF | |
//! |---|---|---|
//! | `pre_projection` `[hidden, 2 * target_hidden]` | `nextn.pre_projection` | of a token's embedding beside what the target made of the token before |
//! | `post_projection` `[target_hidden, hidden]` | `nextn.post_projection` | of the last state, for the next guess |
//! | `masked_embedding.centroids` `[n_centroids, hidden]` | none | scores groups of tokens |
//! | `masked_embedding.token_ordering` `[vocab_len]` | none | the tokens, group after group |
//! | `model.*` | as those of a model | layers, and the table that the output projection is |

use std::collections::HashSet;
use std::path::Path;

use super::declared::implied;
use super::token_list::Listed;
use super::{Checkpoint, EMBEDDINGS, HeadCheckpoint, OUTPUT, folder, from_gguf};
use crate::config::{AssistantConfig, Centroids};
use crate::error::Error;
use crate::files::check_folder;
use crate::gguf::Gguf;
use crate::stored::{Dense, Dtype};

const BEFORE: &str = "pre_projection.weight";
const BEHIND: &str = "post_projection.weight";
const CENTROIDS: &str = "masked_embedding.centroids.weight";
const ORDER: &str = "masked_embedding.token_ordering";
/// Names of the first two in GGUF files.
const GGUF: [(&str, &str); 2] =
    [("nextn.pre_projection.weight", BEFORE), ("nextn.post_projection.weight", BEHIND)];

/// An opened assistant.
#[derive(Debug)]
pub struct AssistantCheckpoint {
    config: AssistantConfig,
    weights: Checkpoint,
    /// See [`AssistantCheckpoint::order`].
    order: Vec<u32>,
}

impl AssistantCheckpoint {
    /// The assistant at a path, a folder or a GGUF file, if that is what lies there.
    ///
    /// # Errors
    /// As [`HeadCheckpoint::find`]: of an assistant also if its groups of tokens do not hold every token once.
    pub fn find(path: &Path) -> Result<Option<Self>, Error> {
        Ok(match HeadCheckpoint::find(path)? {
            Some(HeadCheckpoint::Assistant(assistant)) => Some(*assistant),
            Some(HeadCheckpoint::Eagle3(_)) | None => None,
        })
    }

    pub(super) fn of_gguf(gguf: Gguf) -> Result<Self, Error> {
        let config = AssistantConfig::of_gguf(&gguf)?;
        let weights = from_gguf::with_config(gguf, config.model.clone(), &GGUF)?;
        Self::checked(config, weights)
    }

    pub(super) fn open(folder: &Path, config: &[u8]) -> Result<Self, Error> {
        check_folder(folder)?;
        let config = AssistantConfig::parse(config)?;
        let weights = folder::open_weights(folder, &config.model, &names(&config))?;
        let weights = weights.into_checkpoint(config.model.clone());
        Self::checked(config, weights)
    }

    /// # Errors
    /// If a tensor is missing or of another shape, or one is there that nobody reads.
    fn checked(config: AssistantConfig, weights: Checkpoint) -> Result<Self, Error> {
        let implied = names(&config);
        if let Some(name) = implied.iter().filter(|name| !weights.has_tensor(name)).min() {
            return Err(Error::TensorMissing { name: name.clone() });
        }
        let is_used = |name: &str| implied.contains(name) || (name == OUTPUT && weights.is_output_tied());
        if let Some(name) = weights.tensor_names().filter(|name| !is_used(name)).min() {
            return Err(Error::TensorUndeclared {
                name: name.to_string(),
                declarer: "an assistant",
                hint: "use another assistant",
            });
        }
        let vocab_len = config.model.vocab_len;
        let tokens = |_| Listed::Tokens.tokens(&weights, ORDER, vocab_len, vocab_len);
        let order = config.centroids.map(tokens).transpose()?;
        let assistant = Self { config, weights, order: order.unwrap_or_default() };
        assistant.projections()?;
        assistant.centroids()?;
        Ok(assistant)
    }

    /// What the assistant is.
    pub fn config(&self) -> &AssistantConfig {
        &self.config
    }

    /// Its tensors as named in folders; the configuration is that of its layers.
    pub fn weights(&self) -> &Checkpoint {
        &self.weights
    }

    /// The projections before its layers, `[hidden, 2 * target_hidden]`, and behind, `[target_hidden, hidden]`.
    ///
    /// # Errors
    /// As [`Checkpoint::tensor`].
    pub fn projections(&self) -> Result<[Dense<'_>; 2], Error> {
        let (hidden, target_hidden) = (self.config.model.hidden, self.config.target_hidden);
        Ok([
            self.weights.matrix(BEFORE, hidden, 2 * target_hidden)?,
            self.weights.matrix(BEHIND, target_hidden, hidden)?,
        ])
    }

    /// What scores groups of tokens, `[n_centroids, hidden]`, where it has them.
    ///
    /// # Errors
    /// As [`Checkpoint::tensor`].
    pub fn centroids(&self) -> Result<Option<Dense<'_>>, Error> {
        let matrix = |Centroids { n_centroids, .. }| {
            self.weights.matrix(CENTROIDS, n_centroids, self.config.model.hidden)
        };
        self.config.centroids.map(matrix).transpose()
    }

    /// All tokens, group after group, `[vocab_len]`; empty where it has none.
    pub fn order(&self) -> &[u32] {
        &self.order
    }

    /// As [`Checkpoint::with_matrices_rounded`].
    #[must_use]
    pub fn with_matrices_rounded(mut self, dtype: Dtype) -> Self {
        self.weights = self.weights.with_matrices_rounded(dtype);
        self
    }

    /// As [`Checkpoint::weight_bytes`].
    pub fn weight_bytes(&self) -> usize {
        self.weights.bytes_of(&self.used())
    }

    /// As [`Checkpoint::dtypes`].
    pub fn dtypes(&self) -> Vec<(Dtype, usize)> {
        self.weights.dtypes_of(&self.used())
    }

    /// Names of the tensors that are kept in memory: it reads the embeddings of its target.
    fn used(&self) -> HashSet<String> {
        let mut names = names(&self.config);
        if !self.config.model.tie_embeddings {
            names.remove(EMBEDDINGS);
        }
        names
    }
}

/// Names of all tensors of an assistant.
fn names(config: &AssistantConfig) -> HashSet<String> {
    let mut names = implied(&config.model);
    names.extend([BEFORE, BEHIND].map(str::to_string));
    if config.centroids.is_some() {
        names.extend([CENTROIDS, ORDER].map(str::to_string));
    }
    names
}
