//! Experts: which layers have them, how many there are, and how many of them a row asks.

use serde_json::Value;

use super::fields::{Fields, invalid};
use super::{INTERMEDIATE_MAX, N_LAYERS_MAX};
use crate::error::Error;

/// Most experts of a layer; published models stay at 512 and below.
pub(super) const N_EXPERTS_MAX: usize = 4096;
/// Fields that hold the number of experts, under whichever name a version of transformers wrote it.
const COUNT: [&str; 2] = ["num_experts", "num_local_experts"];
/// Fields that architectures with experts read.
pub(super) const FIELDS: &[&str] = &COUNT;
/// Keys of GGUF files that they read.
pub(super) const KEYS: &[&str] = &["expert_count"];
/// Field that holds the width of the expert that all rows ask, and the key of GGUF files.
pub(super) const SHARED: &str = "shared_expert_intermediate_size";
pub(super) const SHARED_KEY: &str = "expert_shared_feed_forward_length";
const CHOSEN: &str = "num_experts_per_tok";
const DENSE_LAYERS: &str = "mlp_only_layers";

/// A mixture of experts: feed-forward networks of which every row of a pass asks a few.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Experts {
    /// Experts of a layer; at least one.
    pub n_experts: usize,
    /// Experts that a row asks; from 1 to `n_experts`.
    pub n_chosen: usize,
    /// Width of an expert.
    pub intermediate: usize,
    /// Whether the weights of the chosen ones are scaled to a sum of 1.
    pub is_renormalised: bool,
    /// Width of one more expert, which all rows ask and whose answer is scaled by a gate of its own; `None` without.
    pub shared: Option<usize>,
    /// Whether they answer beside an ordinary feed-forward part, both behind norms of their own; the router then reads the residual
    /// stream by a norm of its own, and every expert has a factor of its weights.
    pub is_beside_dense: bool,
    /// Whether the router and the matrices of experts have biases.
    pub has_bias: bool,
    /// How folders hold the matrices.
    pub(crate) layout: ExpertLayout,
    /// Layers with an ordinary feed-forward network instead, ascending; of width [`ModelConfig::intermediate`](super::ModelConfig::intermediate).
    pub(super) dense_layers: Vec<usize>,
}

/// How the matrices of the experts of a layer lie in files.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) enum ExpertLayout {
    /// Outputs before inputs, one matrix per expert or several behind each other.
    #[default]
    Rows,
    /// Inputs before outputs, those of gate and up in turns: gpt-oss in plain numbers.
    Columns,
    /// Outputs before inputs, those of gate and up in turns, codes and scales apart: gpt-oss in MXFP4.
    Mxfp4,
}

impl Experts {
    /// Those of a configuration, in every layer.
    ///
    /// * `width`: the field that holds the width of an expert.
    pub(super) fn parse(
        fields: Fields<'_>,
        width: &'static str,
        is_renormalised: bool,
    ) -> Result<Self, Error> {
        Self::parse_named(fields, [CHOSEN, width], is_renormalised)
    }

    /// The same where the number of those that a row asks, too, has a name of its own.
    pub(super) fn parse_named(
        fields: Fields<'_>,
        [chosen, width]: [&'static str; 2],
        is_renormalised: bool,
    ) -> Result<Self, Error> {
        let n_experts = n_experts(fields)?;
        let n_chosen = fields.len(chosen, n_experts)?;
        let intermediate = fields.len(width, INTERMEDIATE_MAX)?;
        Ok(Self::uniform(n_experts, n_chosen, intermediate, is_renormalised))
    }

    /// The same in the layers that have them: every `decoder_sparse_step`-th one, counted from 1, less those that are listed.
    pub(super) fn in_some_layers(self, fields: Fields<'_>, n_layers: usize) -> Result<Self, Error> {
        Ok(Self { dense_layers: dense_layers(fields, n_layers)?, ..self })
    }

    /// The same in every layer.
    pub(crate) fn in_all_layers(self) -> Self {
        Self { dense_layers: Vec::new(), ..self }
    }

    /// Experts in every layer.
    ///
    /// # Panics
    /// Unless a row asks from 1 to all of them.
    pub fn uniform(n_experts: usize, n_chosen: usize, intermediate: usize, is_renormalised: bool) -> Self {
        assert!(
            (1..=n_experts).contains(&n_chosen),
            "rows ask from 1 to {n_experts} experts, not {n_chosen}"
        );
        Self {
            n_experts,
            n_chosen,
            intermediate,
            is_renormalised,
            shared: None,
            is_beside_dense: false,
            has_bias: false,
            layout: ExpertLayout::Rows,
            dense_layers: Vec::new(),
        }
    }

    /// Whether a layer has an ordinary feed-forward network instead.
    pub fn is_dense(&self, layer: usize) -> bool {
        self.dense_layers.binary_search(&layer).is_ok()
    }
}

fn n_experts(fields: Fields<'_>) -> Result<usize, Error> {
    let mut found = None;
    for field in COUNT {
        let n = fields.optional_len(field, 1..=N_EXPERTS_MAX)?;
        if let (Some(n), Some(before)) = (n, found)
            && n != before
        {
            let expected = format!("as many as {} says ({before})", COUNT[0]);
            return Err(Error::Field { field: field.to_string(), expected, got: n.to_string() });
        }
        found = found.or(n);
    }
    found.ok_or(Error::FieldMissing { field: COUNT[0] })
}

fn dense_layers(fields: Fields<'_>, n_layers: usize) -> Result<Vec<usize>, Error> {
    let step = fields.optional_len("decoder_sparse_step", 1..=N_LAYERS_MAX)?.unwrap_or(1);
    let listed = match fields.get(DENSE_LAYERS) {
        None => &[][..],
        Some(value) => value.as_array().ok_or_else(|| invalid(DENSE_LAYERS, "a list of layers", value))?,
    };
    let layer = |value: &Value| value.as_u64().and_then(|layer| usize::try_from(layer).ok());
    let listed = listed.iter().map(|value| {
        let expected = || format!("layers below {n_layers}");
        layer(value).filter(|&layer| layer < n_layers).ok_or_else(|| invalid(DENSE_LAYERS, expected(), value))
    });
    let listed = listed.collect::<Result<Vec<usize>, Error>>()?;
    Ok((0..n_layers).filter(|layer| (layer + 1) % step != 0 || listed.contains(layer)).collect())
}
