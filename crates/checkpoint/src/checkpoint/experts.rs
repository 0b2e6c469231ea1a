//! Tensors of experts: one matrix per expert, whether they lie by themselves or together.
//!
//! | file | router | experts |
//! |---|---|---|
//! | Hugging Face | `mlp.gate`, Mixtral `block_sparse_moe.gate` | `mlp.experts.3.up_proj`, Mixtral `block_sparse_moe.experts.3.w3` |
//! | Hugging Face, fused | `mlp.gate` | `mlp.experts.gate_up_proj` `[n_experts, 2 * intermediate, hidden]`, `mlp.experts.down_proj` |
//! | Hugging Face, Gemma 4 | `router.proj` | `experts.gate_up_proj` as above, `experts.down_proj` |
//! | Hugging Face, gpt-oss | `mlp.router` | `mlp.experts.gate_up_proj` `[n_experts, hidden, 2 * intermediate]`, or `mlp.experts.gate_up_proj_blocks` and `_scales` in MXFP4 |
//! | GGUF | `ffn_gate_inp` | `ffn_up_exps` `[n_experts, intermediate, hidden]`, ... |
//!
//! Tensors that hold all experts are cut when a file is opened, so that everybody else finds the names of the first line. Those of
//! gpt-oss cannot be cut (`in_turns`).

mod in_turns;

use std::collections::HashMap;

use super::matrix::Matrix;
use super::{Checkpoint, Location};
use crate::config::{ExpertLayout, Experts, Family, ModelConfig};
use crate::error::Error;
use crate::stored::Dense;

/// Modules of the expert that all rows ask, in GGUF and in Hugging Face files; the last is its gate, `[1, hidden]`.
pub(super) const SHARED: [(&str, &str); 4] = [
    ("ffn_gate_shexp", "mlp.shared_expert.gate_proj"),
    ("ffn_up_shexp", "mlp.shared_expert.up_proj"),
    ("ffn_down_shexp", "mlp.shared_expert.down_proj"),
    ("ffn_gate_inp_shexp", "mlp.shared_expert_gate"),
];

/// Vectors of experts beside an ordinary feed-forward part, in GGUF and in Hugging Face files, within a layer: norms of what the
/// ordinary part answers, of what experts read and of what they answer; the weights of the router's norm, and factors of experts.
pub(super) const BESIDE: [(&str, &str); 5] = [
    ("post_ffw_norm_1.weight", "post_feedforward_layernorm_1.weight"),
    ("pre_ffw_norm_2.weight", "pre_feedforward_layernorm_2.weight"),
    ("post_ffw_norm_2.weight", "post_feedforward_layernorm_2.weight"),
    ("ffn_gate_inp.scale", "router.scale"),
    ("ffn_down_exps.scale", "router.per_expert_scale"),
];

/// Vectors of experts beside an ordinary feed-forward part.
#[derive(Clone, Debug, PartialEq)]
pub struct BesideDense {
    /// Norm of what the ordinary part answers, `[hidden]`.
    pub after_dense: Vec<f32>,
    /// Norm of what experts read, `[hidden]`.
    pub before_experts: Vec<f32>,
    /// Norm of what they answer together, `[hidden]`.
    pub after_experts: Vec<f32>,
    /// Norm of what the router reads, `[hidden]`.
    pub router_norm: Vec<f32>,
    /// Factors of the weights of experts, `[n_experts]`.
    pub scales: Vec<f32>,
}

/// Matrices of an expert.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum ExpertPart {
    Gate,
    Up,
    Down,
}

/// The experts of a layer.
#[derive(Debug)]
pub struct LayerExperts<'a> {
    /// `[n_experts]`; so are the others.
    gates: Vec<Matrix<'a>>,
    ups: Vec<Matrix<'a>>,
    downs: Vec<Matrix<'a>>,
    /// Of a model whose experts have them.
    pub bias: Option<ExpertBiases>,
}

/// Biases of the experts of a layer.
#[derive(Clone, Debug, PartialEq)]
pub struct ExpertBiases {
    /// `[n_experts, 2 * intermediate]`, of each expert that of the gate first.
    pub gate_up: Vec<f32>,
    /// `[n_experts, hidden]`.
    pub down: Vec<f32>,
}

impl LayerExperts<'_> {
    /// All of them, in order.
    pub fn iter(&self) -> impl ExactSizeIterator<Item = Expert<'_>> {
        let Self { gates, ups, downs, .. } = self;
        let expert = |i: usize| Expert { gate: gates[i].dense(), up: ups[i].dense(), down: downs[i].dense() };
        (0..gates.len()).map(expert)
    }
}

/// Matrices of one expert, ready for packing: `down(silu(gate(x)) * up(x))`.
#[derive(Clone, Copy, Debug)]
pub struct Expert<'a> {
    /// `[intermediate, hidden]`.
    pub gate: Dense<'a>,
    /// `[intermediate, hidden]`.
    pub up: Dense<'a>,
    /// `[hidden, intermediate]`.
    pub down: Dense<'a>,
}

impl ExpertPart {
    pub(crate) const ALL: [Self; 3] = [Self::Gate, Self::Up, Self::Down];

    /// The module that holds this part of all experts, in files where one does.
    pub(crate) fn stacked(self) -> &'static str {
        match self {
            Self::Gate => "gate_proj",
            Self::Up => "up_proj",
            Self::Down => "down_proj",
        }
    }

    /// The module of one expert.
    pub(crate) fn module(self, family: Family, expert: usize) -> String {
        match family {
            Family::Mixtral => {
                let name = match self {
                    Self::Gate => "w1",
                    Self::Up => "w3",
                    Self::Down => "w2",
                };
                format!("block_sparse_moe.experts.{expert}.{name}")
            }
            _ => format!("mlp.experts.{expert}.{}", self.stacked()),
        }
    }

    /// Rows and columns of its matrix.
    pub(crate) fn shape(self, hidden: usize, intermediate: usize) -> [usize; 2] {
        match self {
            Self::Gate | Self::Up => [intermediate, hidden],
            Self::Down => [hidden, intermediate],
        }
    }
}

/// The module that chooses experts.
pub(crate) fn router(family: Family) -> &'static str {
    match family {
        Family::Mixtral => "block_sparse_moe.gate",
        Family::GptOss => "mlp.router",
        Family::Gemma4 => "router.proj",
        _ => "mlp.gate",
    }
}

/// Names of the tensors of all matrices of experts of a layer, within it.
pub(super) fn matrix_names(family: Family, experts: &Experts) -> Vec<String> {
    match experts.layout {
        ExpertLayout::Rows => {
            let all = (0..experts.n_experts).flat_map(|expert| ExpertPart::ALL.map(|part| (part, expert)));
            all.map(|(part, expert)| format!("{}.weight", part.module(family, expert))).collect()
        }
        ExpertLayout::Columns => in_turns::MODULES.map(str::to_string).to_vec(),
        ExpertLayout::Mxfp4 => {
            let parts =
                in_turns::MODULES.map(|module| ["blocks", "scales"].map(|part| format!("{module}_{part}")));
            parts.into_iter().flatten().collect()
        }
    }
}

/// Names of the tensors of all their biases, within a layer.
pub(super) fn bias_names(experts: &Experts) -> &'static [&'static str] {
    match experts.layout {
        ExpertLayout::Rows => &in_turns::BIASES_APART,
        ExpertLayout::Columns | ExpertLayout::Mxfp4 => &in_turns::BIASES,
    }
}

/// The same tensors, those that hold all experts of a layer cut into single ones.
///
/// # Errors
/// [`Error::TensorShape`] if one has another shape than the configuration implies.
pub(super) fn split(
    config: &ModelConfig,
    tensors: HashMap<String, Location>,
) -> Result<HashMap<String, Location>, Error> {
    let Some(experts) = config.experts.as_ref().filter(|experts| experts.layout == ExpertLayout::Rows) else {
        return Ok(tensors);
    };
    let mut all = HashMap::with_capacity(tensors.len());
    for (name, location) in tensors {
        match stacked_parts(config.family, &name) {
            Some((layer, parts)) => {
                for (part, expert, location) in cut(config, experts, parts, &name, &location)? {
                    let module = part.module(config.family, expert);
                    all.insert(format!("{layer}.{module}.weight"), location);
                }
            }
            None => {
                all.insert(published(config.family, name), location);
            }
        }
    }
    Ok(all)
}

/// The layer and the parts of a tensor that holds all experts.
fn stacked_parts(family: Family, name: &str) -> Option<(&str, &'static [ExpertPart])> {
    let in_layer = || name.split_once(".experts.").filter(|_| family == Family::Gemma4);
    let (layer, module) = name.split_once(".mlp.experts.").or_else(in_layer)?;
    let parts: &[ExpertPart] = match module.strip_suffix(".weight").unwrap_or(module) {
        "gate_up_proj" => &[ExpertPart::Gate, ExpertPart::Up],
        "gate_proj" => &[ExpertPart::Gate],
        "up_proj" => &[ExpertPart::Up],
        "down_proj" => &[ExpertPart::Down],
        _ => return None,
    };
    Some((layer, parts))
}

/// Routers of Mixtral have the name of the others in newer files.
fn published(family: Family, name: String) -> String {
    match name.strip_suffix(".mlp.gate.weight") {
        Some(layer) => format!("{layer}.{}.weight", router(family)),
        None => name,
    }
}

/// Single matrices of a tensor `[n_experts, sum of n_out, n_in]`: part, expert and place of each.
fn cut(
    config: &ModelConfig,
    experts: &Experts,
    parts: &'static [ExpertPart],
    name: &str,
    stored: &Location,
) -> Result<Vec<(ExpertPart, usize, Location)>, Error> {
    let [n_out, n_in] = parts[0].shape(config.hidden, experts.intermediate);
    let expected = vec![experts.n_experts, parts.len() * n_out, n_in];
    if stored.span.shape != expected {
        return Err(Error::TensorShape { name: name.to_string(), expected, got: stored.span.shape.clone() });
    }
    // Rows are whole blocks, so experts are.
    let start = stored.span.range.start;
    let n_bytes = stored.span.range.len() / (experts.n_experts * parts.len());
    let places = (0..experts.n_experts).flat_map(|expert| parts.iter().map(move |&part| (part, expert)));
    let cut = places.enumerate().map(|(i, (part, expert))| {
        let mut location = stored.clone();
        location.span.shape = vec![n_out, n_in];
        location.span.range = start + i * n_bytes..start + (i + 1) * n_bytes;
        (part, expert, location)
    });
    Ok(cut.collect())
}

impl Checkpoint {
    /// What chooses the experts of a layer, `[n_experts, hidden]`.
    ///
    /// # Errors
    /// As [`Checkpoint::tensor`].
    ///
    /// # Panics
    /// If the layer has no experts; so for [`Checkpoint::router_bias`] and [`Checkpoint::experts`].
    pub fn router(&self, layer: usize) -> Result<Dense<'_>, Error> {
        let n_experts = self.experts_of(layer).n_experts;
        let name = format!("model.layers.{layer}.{}.weight", router(self.config.family));
        self.matrix(&name, n_experts, self.config.hidden)
    }

    /// What is added to its scores, `[n_experts]`, if anything is.
    ///
    /// # Errors
    /// As [`Checkpoint::tensor`].
    pub fn router_bias(&self, layer: usize) -> Result<Option<Vec<f32>>, Error> {
        let experts = self.experts_of(layer);
        let name = || format!("model.layers.{layer}.{}.bias", router(self.config.family));
        experts.has_bias.then(|| self.vector(&name(), experts.n_experts)).transpose()
    }

    /// The gate of the expert that all rows ask, `[hidden]`.
    ///
    /// # Errors
    /// As [`Checkpoint::tensor`].
    pub fn shared_gate(&self, layer: usize) -> Result<Vec<f32>, Error> {
        let (_, module) = SHARED[3];
        let (name, hidden) = (format!("model.layers.{layer}.{module}.weight"), self.config.hidden);
        let shape: &[usize] = if self.metadata.is_some() { &[hidden] } else { &[1, hidden] };
        Ok(self.tensor(&name, shape)?.to_f32())
    }

    /// What experts beside an ordinary feed-forward part have of their own, in a layer that has such.
    ///
    /// # Errors
    /// As [`Checkpoint::tensor`].
    pub fn beside_dense(&self, layer: usize) -> Result<Option<BesideDense>, Error> {
        let Some(experts) = self.config.experts_of(layer).filter(|experts| experts.is_beside_dense) else {
            return Ok(None);
        };
        let hidden = self.config.hidden;
        let vector = |idx: usize, len| self.vector(&format!("model.layers.{layer}.{}", BESIDE[idx].1), len);
        // The router divides its input by the root of the width.
        let root = (hidden as f64).sqrt() as f32;
        Ok(Some(BesideDense {
            after_dense: vector(0, hidden)?,
            before_experts: vector(1, hidden)?,
            after_experts: vector(2, hidden)?,
            router_norm: vector(3, hidden)?.iter().map(|weight| weight / root).collect(),
            scales: vector(4, experts.n_experts)?,
        }))
    }

    /// The experts of a layer. Those that a file holds in another order are copied.
    ///
    /// # Errors
    /// As [`Checkpoint::tensor`].
    pub fn experts(&self, layer: usize) -> Result<LayerExperts<'_>, Error> {
        let experts = self.experts_of(layer);
        let prefix = format!("model.layers.{layer}.");
        let matrices = |part| self.matrices_of(&prefix, experts, part);
        let [gates, ups, downs] =
            [matrices(ExpertPart::Gate)?, matrices(ExpertPart::Up)?, matrices(ExpertPart::Down)?];
        let bias = experts.has_bias.then(|| self.expert_biases(&prefix, experts)).transpose()?;
        Ok(LayerExperts { gates, ups, downs, bias })
    }

    /// Matrices of a part, `[n_experts]`.
    fn matrices_of(
        &self,
        prefix: &str,
        experts: &Experts,
        part: ExpertPart,
    ) -> Result<Vec<Matrix<'_>>, Error> {
        if experts.layout != ExpertLayout::Rows {
            return self.matrices_in_turns(prefix, experts, part);
        }
        let [n_out, n_in] = part.shape(self.config.hidden, experts.intermediate);
        let matrix = |expert| {
            let module = part.module(self.config.family, expert);
            Ok(self.matrix(&format!("{prefix}{module}.weight"), n_out, n_in)?.into())
        };
        (0..experts.n_experts).map(matrix).collect()
    }

    fn experts_of(&self, layer: usize) -> &Experts {
        self.config.experts_of(layer).expect("the layer has experts")
    }
}
