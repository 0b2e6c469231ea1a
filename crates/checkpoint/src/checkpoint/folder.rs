//! The files of a model folder.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::fs::File;
use std::io::Read;
use std::path::{Component, Path, PathBuf};
use std::sync::Arc;

use serde::Deserialize;

use super::declared::implied;
use super::shard::Shard;
use super::{Bytes, Checkpoint, Location, layout};
use crate::config::ModelConfig;
use crate::error::Error;
use crate::files::{JSON_BYTES_MAX, check_folder, json, read_optional};
use crate::gguf::{self, is_later_part};

/// Most shards of a model; the largest published ones have a few hundred.
const N_SHARDS_MAX: usize = 4096;
/// GGUF files of a folder that an error repeats.
const N_SHOWN_MAX: usize = 10;
const CONFIG: &str = "config.json";
const GENERATION_CONFIG: &str = "generation_config.json";
const WEIGHTS: &str = "model.safetensors";
const INDEX: &str = "model.safetensors.index.json";

/// Opened files and where in them every tensor is.
pub(super) struct Weights {
    files: Vec<Bytes>,
    tensors: HashMap<String, Location>,
}

impl Weights {
    pub(super) fn into_checkpoint(self, config: ModelConfig) -> Checkpoint {
        let Self { files, tensors } = self;
        Checkpoint { config, files: files.into_iter().map(Arc::new).collect(), tensors, metadata: None }
    }
}

/// `model.safetensors.index.json`.
#[derive(Deserialize)]
struct Index {
    /// Tensor name to shard name.
    weight_map: BTreeMap<String, String>,
}

/// The GGUF file that a path means: itself, or that of a folder without safetensors files.
///
/// # Errors
/// If there is nothing at the path, or a folder with several.
pub fn gguf_file(path: &Path) -> Result<Option<PathBuf>, Error> {
    let io = |source| Error::Io { path: path.to_path_buf(), source };
    let metadata = std::fs::metadata(path).map_err(io)?;
    if !metadata.is_dir() {
        // Opening a pipe would wait for somebody to write.
        let is_gguf = is_named_gguf(path) || (metadata.is_file() && begins_as_gguf(path));
        return Ok(is_gguf.then(|| path.to_path_buf()));
    }
    if has_weights(path) {
        return Ok(None);
    }
    let mut found = Vec::new();
    for entry in std::fs::read_dir(path).map_err(io)? {
        let name = entry.map_err(io)?.file_name();
        let is_model = is_named_gguf(Path::new(&name)) && !is_later_part(&name.to_string_lossy());
        if is_model {
            found.push(name);
        }
    }
    found.sort();
    match found.as_slice() {
        [] => Ok(None),
        [one] => Ok(Some(path.join(one))),
        several => {
            let more = if several.len() > N_SHOWN_MAX { ", ..." } else { "" };
            let shown: Vec<_> = several.iter().take(N_SHOWN_MAX).map(|name| name.to_string_lossy()).collect();
            Err(Error::SeveralModels { path: path.to_path_buf(), got: shown.join(", ") + more })
        }
    }
}

fn is_named_gguf(path: &Path) -> bool {
    path.extension().is_some_and(|extension| extension.eq_ignore_ascii_case("gguf"))
}

/// Whether a file begins as GGUF files do. One that cannot be read does not.
fn begins_as_gguf(path: &Path) -> bool {
    let mut beginning = [0; gguf::MAGIC.len()];
    let read = File::open(path).and_then(|mut file| file.read_exact(&mut beginning));
    read.is_ok() && beginning == gguf::MAGIC
}

/// Opens all files of a model folder except those about text.
pub(super) fn open(folder: &Path) -> Result<Checkpoint, Error> {
    check_folder(folder)?;
    let generation = read_optional(&folder.join(GENERATION_CONFIG), JSON_BYTES_MAX)?;
    let config = ModelConfig::parse(&config(folder)?, generation.as_deref())?;
    Ok(open_weights(folder, &config, &implied(&config))?.into_checkpoint(config))
}

/// The text of `config.json`.
pub(super) fn config(folder: &Path) -> Result<Vec<u8>, Error> {
    optional_config(folder)?.ok_or(Error::MissingFile { path: folder.to_path_buf(), expected: CONFIG })
}

/// The same if there is one.
pub(super) fn optional_config(folder: &Path) -> Result<Option<Vec<u8>>, Error> {
    match folder.is_dir() {
        true => read_optional(&folder.join(CONFIG), JSON_BYTES_MAX),
        false => Ok(None),
    }
}

/// Whether there are safetensors files.
pub(super) fn has_weights(folder: &Path) -> bool {
    folder.join(WEIGHTS).exists() || folder.join(INDEX).exists()
}

/// Opens one file or the shards of an index. Where there are both, one is a leftover: the file counts, as it does for other
/// programs, unless it is broken or incomplete and the shards are not.
///
/// * `names`: tensors of a complete model.
pub(super) fn open_weights(
    folder: &Path,
    config: &ModelConfig,
    names: &HashSet<String>,
) -> Result<Weights, Error> {
    let index = || read_optional(&folder.join(INDEX), JSON_BYTES_MAX);
    let laid_out = |weights: Weights| {
        Ok::<_, Error>(Weights { tensors: layout::of_folder(weights.tensors, config)?, ..weights })
    };
    if !folder.join(WEIGHTS).exists() {
        return match index()? {
            Some(index) => open_indexed(folder, &index).and_then(laid_out),
            None => open_single(folder).and_then(laid_out),
        };
    }
    let single = open_single(folder).and_then(laid_out);
    let is_complete = |weights: &Weights| names.iter().all(|name| weights.tensors.contains_key(name));
    if single.as_ref().is_ok_and(is_complete) {
        return single;
    }
    let indexed =
        index().ok().flatten().and_then(|index| open_indexed(folder, &index).and_then(laid_out).ok());
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
    let tensors = shard.spans().map(|(name, span)| (name, Location { file_idx: 0, span })).collect();
    Ok(Weights { files: vec![shard.into_bytes()], tensors })
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
    let mut files = Vec::with_capacity(by_shard.len());
    let mut tensors = HashMap::new();
    for (name, promised) in by_shard {
        let shard = Shard::open(&shard_path(folder, &name)?)?;
        let mut spans: HashMap<_, _> = shard.spans().collect();
        for tensor in promised {
            let Some(span) = spans.remove(&tensor) else {
                return Err(Error::ShardLacks { shard: name, tensor });
            };
            tensors.insert(tensor, Location { file_idx: files.len(), span });
        }
        files.push(shard.into_bytes());
    }
    Ok(Weights { files, tensors })
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
