//! Tensors of inputs that layers have beside the residual stream, and of the factor behind every layer.

use super::Checkpoint;
use crate::config::{LayerInputs, ModelConfig};
use crate::error::Error;
use crate::stored::Dense;

/// The table of the tokens' part, `[n_embeddings, n_layers * width]`.
pub(super) const TABLE: &str = "model.embed_tokens_per_layer";
/// What makes the other part of an embedding, `[n_layers * width, hidden]`.
pub(super) const PROJECTION: &str = "model.per_layer_model_projection";
/// The norm of that part, `[width]`.
pub(super) const NORM: &str = "model.per_layer_projection_norm";
/// Within a layer: what makes gates of the residual stream, `[width, hidden]`; what brings the gated input to its width, `[hidden, width]`;
/// and the norm of that.
pub(super) const OF_LAYER: [&str; 3] =
    ["per_layer_input_gate", "per_layer_projection", "post_per_layer_input_norm"];
/// Factor of the residual stream behind a layer, `[1]`, within it.
pub(super) const LAYER_SCALE: &str = "layer_scalar";

/// Names of the tensors that belong to no layer.
pub(super) fn names(config: &ModelConfig) -> Vec<String> {
    let modules = config.layer_inputs.map(|_| [TABLE, PROJECTION, NORM]);
    modules.iter().flatten().map(|module| format!("{module}.weight")).collect()
}

/// Names of the tensors of a layer, within it.
pub(super) fn names_of_layer(config: &ModelConfig) -> Vec<String> {
    let modules = config.layer_inputs.map(|_| OF_LAYER);
    let weights = modules.iter().flatten().map(|module| format!("{module}.weight"));
    weights.chain(config.has_layer_scale.then(|| LAYER_SCALE.to_string())).collect()
}

impl Checkpoint {
    /// The tokens' part of the inputs of all layers, `[n_embeddings, n_layers * width]`.
    ///
    /// # Errors
    /// As [`Checkpoint::tensor`].
    pub fn layer_input_table(&self, inputs: LayerInputs) -> Result<Dense<'_>, Error> {
        let LayerInputs { width, n_embeddings } = inputs;
        self.matrix(&format!("{TABLE}.weight"), n_embeddings, self.config.n_layers * width)
    }

    /// What makes the other part of an embedding, `[n_layers * width, hidden]`.
    ///
    /// # Errors
    /// As [`Checkpoint::tensor`].
    pub fn layer_input_projection(&self, inputs: LayerInputs) -> Result<Dense<'_>, Error> {
        let n_out = self.config.n_layers * inputs.width;
        self.matrix(&format!("{PROJECTION}.weight"), n_out, self.config.hidden)
    }

    /// The norm of that part, `[width]`.
    ///
    /// # Errors
    /// As [`Checkpoint::tensor`].
    pub fn layer_input_norm(&self, inputs: LayerInputs) -> Result<Vec<f32>, Error> {
        self.norm(&format!("{NORM}.weight"), inputs.width)
    }
}
