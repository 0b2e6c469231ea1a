//! Checkpoints made from others: the folder, the weights with a progress bar, and the files that are taken over.

use std::fs;
use std::path::Path;

use dsde_checkpoint::config::Family;
use indicatif::ProgressBar;
use safetensors::tensor::View;

use crate::failure::{OrUsage as _, Outcome, usage};
use crate::opened::Role;
use crate::progress;
use crate::speculation::Source;

/// Files beside the weights that are taken over as they are.
const COPIED: [&str; 6] = [
    "generation_config.json",
    "tokenizer.json",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "chat_template.jinja",
    "chat_template.json",
];

macro_rules! model_file {
    ($path:literal) => {
        include_bytes!(concat!("../../../models/", $path))
    };
}

/// Those of the embedded pair, which has one tokenizer.
const DEMO: [(&str, &[u8]); 3] = [
    ("generation_config.json", model_file!("target/generation_config.json")),
    ("tokenizer.json", model_file!("target/tokenizer.json")),
    ("tokenizer_config.json", model_file!("target/tokenizer_config.json")),
];

/// # Errors
/// If no model is made from one of this architecture.
pub(crate) fn check_family(family: Family) -> Outcome {
    match family.is_written() {
        true => Ok(()),
        false => {
            Err(usage(format!("no model is derived from one of architecture {}", family.architecture())))
        }
    }
}

/// What is read of a model beside its weights.
pub(crate) struct Files {
    /// `config.json`.
    pub(crate) config: Vec<u8>,
    copied: Vec<(&'static str, Vec<u8>)>,
}

impl Files {
    /// # Errors
    /// If a file cannot be read.
    pub(crate) fn of(source: &Source, role: Role) -> Outcome<Self> {
        let folder = match (source, role) {
            (Source::Demo, Role::Target) => return Ok(Self::demo(model_file!("target/config.json"))),
            (Source::Demo, Role::Draft) => return Ok(Self::demo(model_file!("draft/config.json"))),
            (Source::Path(folder), _) => folder,
        };
        let read = |name: &str| {
            let path = folder.join(name);
            fs::read(&path)
                .map_err(|error| anyhow::Error::new(error).context(format!("cannot read {}", path.display())))
        };
        let present = COPIED.into_iter().filter(|name| folder.join(name).is_file());
        let copied = present.map(|name| Ok((name, read(name)?))).collect::<anyhow::Result<_>>()?;
        Ok(Self { config: read("config.json")?, copied })
    }

    fn demo(config: &[u8]) -> Self {
        let copied = DEMO.map(|(name, content)| (name, content.to_vec())).to_vec();
        Self { config: config.to_vec(), copied }
    }
}

/// Shows how much of the tensors is written.
///
/// * `n_bytes`: of all of them.
pub(crate) fn progress(n_bytes: usize) -> ProgressBar {
    progress::bar(n_bytes as u64, "{bytes}/{total_bytes}, {eta} left")
}

/// Writes a checkpoint into an empty folder, its configuration last, so that a folder that was not finished is no model.
///
/// * `tensors`: name and contents.
///
/// # Errors
/// If the folder is not empty or cannot be made, or something cannot be written.
pub(crate) fn write<V: View>(
    folder: &Path,
    tensors: Vec<(String, V)>,
    config: &[u8],
    files: &Files,
) -> Outcome {
    create_folder(folder)?;
    let path = folder.join("model.safetensors");
    safetensors::serialize_to_file(tensors, None, &path)
        .map_err(|error| anyhow::Error::new(error).context(cannot_write(&path)))?;
    let config = ("config.json", config.to_vec());
    for (name, content) in files.copied.iter().chain([&config]) {
        let path = folder.join(name);
        fs::write(&path, content).map_err(|error| anyhow::Error::new(error).context(cannot_write(&path)))?;
    }
    // The library lets its owner alone read what it wrote.
    let readers = fs::metadata(folder.join(config.0)).map(|metadata| metadata.permissions());
    let shared = readers.and_then(|readers| fs::set_permissions(&path, readers));
    shared.map_err(|error| anyhow::Error::new(error).context(cannot_write(&path)))?;
    Ok(())
}

fn cannot_write(path: &Path) -> String {
    format!("cannot write {}", path.display())
}

fn create_folder(folder: &Path) -> Outcome {
    fs::create_dir_all(folder).or_usage_of(format!("--out {} cannot be created", folder.display()))?;
    let mut entries =
        fs::read_dir(folder).or_usage_of(format!("--out {} cannot be read", folder.display()))?;
    match entries.next() {
        None => Ok(()),
        Some(_) => Err(usage(format!("--out {} is not empty; nothing is overwritten", folder.display()))),
    }
}
