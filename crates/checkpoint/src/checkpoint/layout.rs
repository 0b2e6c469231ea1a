//! How the files of an architecture lie, brought to one form: names without prefixes, every projection a tensor of its own.

use std::collections::HashMap;

use super::{Location, Span, experts};
use crate::config::{Architecture, ModelConfig};
use crate::error::Error;
use crate::stored::RowOrder;

/// Query, key and value in one tensor.
pub(super) const QKV: &str = "self_attn.qkv_proj";
/// Gate and up in one tensor.
pub(super) const GATE_UP: &str = "mlp.gate_up_proj";
/// Where the text part stands in files of models that read images, too, and where it stands in others.
const PREFIXES: [(&str, &str); 4] = [
    ("model.language_model.", "model."),
    ("language_model.model.", "model."),
    ("language_model.lm_head.", "lm_head."),
    ("model.mtp.", "mtp."),
];

/// Tensors of a folder in the form of [`Checkpoint`](super::Checkpoint).
///
/// # Errors
/// [`Error::TensorShape`] if a tensor is not what it would hold several projections of.
pub(super) fn of_folder(
    tensors: HashMap<String, Location>,
    config: &ModelConfig,
) -> Result<HashMap<String, Location>, Error> {
    let mut tensors = split(tensors.into_iter().map(|(name, at)| (plain_name(name), at)).collect(), config)?;
    let turns_neighbours = Architecture::of(config.family).turns_neighbours.folder;
    for (name, location) in &mut tensors {
        location.span.order = row_order(config, name, turns_neighbours);
    }
    Ok(tensors)
}

fn plain_name(name: String) -> String {
    let found = PREFIXES.into_iter().find_map(|(prefix, plain)| Some((plain, name.strip_prefix(prefix)?)));
    match found {
        Some((plain, rest)) => format!("{plain}{rest}"),
        None => name,
    }
}

/// Tensors in which every projection is one of its own.
///
/// # Errors
/// As [`of_folder`].
pub(super) fn split(
    tensors: HashMap<String, Location>,
    config: &ModelConfig,
) -> Result<HashMap<String, Location>, Error> {
    let fused = Architecture::of(config.family).fused;
    // Where they are fused, layers are alike.
    let qkv = config.projections_of(0);
    let gate_up = [("mlp.gate_proj", config.intermediate), ("mlp.up_proj", config.intermediate)];
    let mut all = HashMap::new();
    for (name, location) in tensors {
        let parts = match () {
            () if fused.qkv && name.contains(QKV) => Some((QKV, &qkv[..])),
            () if fused.gate_up && name.contains(GATE_UP) => Some((GATE_UP, &gate_up[..])),
            () => None,
        };
        match parts {
            Some((module, parts)) => {
                let named = |part: &str| name.replace(module, part);
                all.extend(split_rows(&name, &location, parts)?.map(|(part, at)| (named(part), at)));
            }
            None => drop(all.insert(name, location)),
        }
    }
    experts::split(config, all)
}

/// The parts of a tensor, each a number of successive rows of it.
fn split_rows<'a>(
    name: &str,
    location: &'a Location,
    parts: &'a [(&'static str, usize)],
) -> Result<impl Iterator<Item = (&'static str, Location)> + 'a, Error> {
    let Span { shape, range, .. } = &location.span;
    let n_rows: usize = parts.iter().map(|(_, n_rows)| n_rows).sum();
    if shape.first() != Some(&n_rows) {
        let mut expected = shape.clone();
        if let Some(first) = expected.first_mut() {
            *first = n_rows;
        }
        return Err(Error::TensorShape { name: name.to_string(), expected, got: shape.clone() });
    }
    let row_bytes = range.len() / n_rows;
    let part = move |start: &mut usize, &(part, n_rows): &(&'static str, usize)| {
        let mut at = location.clone();
        at.span.shape[0] = n_rows;
        at.span.range = *start..*start + n_rows * row_bytes;
        *start = at.span.range.end;
        Some((part, at))
    };
    Ok(parts.iter().scan(range.start, part))
}

/// Order of the rows of a tensor.
///
/// * `turns_neighbours`: whether queries and keys lie so in the file.
pub(super) fn row_order(config: &ModelConfig, name: &str, turns_neighbours: bool) -> RowOrder {
    let is_turned = name.contains(".self_attn.q_proj.") || name.contains(".self_attn.k_proj.");
    match is_turned && turns_neighbours {
        true => RowOrder::Interleaved { head_dim: config.head_dim, span: config.ropes[0].span },
        false => RowOrder::AsIs,
    }
}
