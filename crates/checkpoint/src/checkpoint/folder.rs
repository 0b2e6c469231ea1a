//! The files of a model folder.

use std::collections::{BTreeMap, HashMap};
use std::path::{Component, Path, PathBuf};

use serde::Deserialize;

use super::Location;
use super::declared::implied;
use super::shard::Shard;
use crate::config::ModelConfig;
use crate::error::Error;
use crate::files::{JSON_BYTES_MAX, check_folder, json, read_optional};

/// Most shards of a model; the largest published ones have a few hundred.
const N_SHARDS_MAX: usize = 4096;
const CONFIG: &str = "config.json";
const GENERATION_CONFIG: &str = "generation_config.json";
const WEIGHTS: &str = "model.safetensors";
const INDEX: &str = "model.safetensors.index.json";

/// What a folder holds.
pub(super) struct Contents {
    pub(super) config: ModelConfig,
    pub(super) shards: Vec<Shard>,
    pub(super) tensors: HashMap<String, Location>,
}

/// Opened files and where in them every tensor is.
struct Weights {
    shards: Vec<Shard>,
    tensors: HashMap<String, Location>,
}

/// `model.safetensors.index.json`.
#[derive(Deserialize)]
struct Index {
    /// Tensor name to shard name.
    weight_map: BTreeMap<String, String>,
}

/// Opens all files of a model folder except those about text.
pub(super) fn open(folder: &Path) -> Result<Contents, Error> {
    check_folder(folder)?;
    let config = read_optional(&folder.join(CONFIG), JSON_BYTES_MAX)?
        .ok_or(Error::MissingFile { path: folder.to_path_buf(), expected: CONFIG })?;
    let generation = read_optional(&folder.join(GENERATION_CONFIG), JSON_BYTES_MAX)?;
    let config = ModelConfig::parse(&config, generation.as_deref())?;
    let Weights { shards, tensors } = open_weights(folder, &config)?;
    Ok(Contents { config, shards, tensors })
}

/// Opens one file or the shards of an index. Where there are both, one is a leftover: the file counts, as it does for other
/// programs, unless it is broken or incomplete and the shards are not.
fn open_weights(folder: &Path, config: &ModelConfig) -> Result<Weights, Error> {
    let index = || read_optional(&folder.join(INDEX), JSON_BYTES_MAX);
    if !folder.join(WEIGHTS).exists() {
        return match index()? {
            Some(index) => open_indexed(folder, &index),
            None => open_single(folder),
        };
    }
    let single = open_single(folder);
    let is_complete =
        |weights: &Weights| implied(config).iter().all(|name| weights.tensors.contains_key(name));
    if single.as_ref().is_ok_and(is_complete) {
        return single;
    }
    let indexed = index().ok().flatten().and_then(|index| open_indexed(folder, &index).ok());
    match indexed.filter(is_complete) {
        Some(indexed) => {
            tracing::warn!("{WEIGHTS} is broken or incomplete; the shards of {INDEX} are read instead");
            Ok(indexed)
        }
        None => single,
    }
}

fn open_single(folder: &Path) -> Result<Weights, Error> {
    let path = folder.join(WEIGHTS);
    if !path.exists() {
        let expected =
            "model.safetensors or model.safetensors.index.json; weights in other formats must be converted";
        return Err(Error::MissingFile { path: folder.to_path_buf(), expected });
    }
    let shard = Shard::open(&path)?;
    let tensors = shard.spans().map(|(name, span)| (name, Location { shard_idx: 0, span })).collect();
    Ok(Weights { shards: vec![shard], tensors })
}

fn open_indexed(folder: &Path, index: &[u8]) -> Result<Weights, Error> {
    let index: Index = json(INDEX, index)?;
    let mut by_shard: BTreeMap<String, Vec<String>> = BTreeMap::new();
    for (tensor, shard) in index.weight_map {
        by_shard.entry(shard).or_default().push(tensor);
    }
    if by_shard.len() > N_SHARDS_MAX {
        return Err(Error::TooManyShards { expected: N_SHARDS_MAX, got: by_shard.len() });
    }
    let mut shards = Vec::with_capacity(by_shard.len());
    let mut tensors = HashMap::new();
    for (name, promised) in by_shard {
        let shard = Shard::open(&shard_path(folder, &name)?)?;
        let mut spans: HashMap<_, _> = shard.spans().collect();
        for tensor in promised {
            let Some(span) = spans.remove(&tensor) else {
                return Err(Error::ShardLacks { shard: name, tensor });
            };
            tensors.insert(tensor, Location { shard_idx: shards.len(), span });
        }
        shards.push(shard);
    }
    Ok(Weights { shards, tensors })
}

/// Path of a shard; its name comes from a stranger and must not lead out of the folder.
fn shard_path(folder: &Path, name: &str) -> Result<PathBuf, Error> {
    let mut components = Path::new(name).components();
    let is_plain = matches!((components.next(), components.next()), (Some(Component::Normal(part)), None) if part == name);
    if is_plain && name.ends_with(".safetensors") && !name.contains('\\') {
        Ok(folder.join(name))
    } else {
        Err(Error::ShardName { got: name.to_string() })
    }
}
