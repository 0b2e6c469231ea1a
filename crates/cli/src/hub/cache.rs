//! A repository in the cache, laid out as other clients of the Hub have it.
//!
//! ```text
//! models--ORG--NAME/refs/REVISION          the commit that a branch or tag means
//! models--ORG--NAME/blobs/ETAG             what files hold; `ETAG.incomplete` while it arrives
//! models--ORG--NAME/snapshots/COMMIT/FILE  links to blobs
//! ```

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};

use dsde_checkpoint::Eagle3Checkpoint;
use dsde_checkpoint::files::{JSON_BYTES_MAX, json, read_optional};
use serde::Deserialize;

use super::Error;
use super::choice::{Choice, INDEX, is_weights};
use super::name::{Name, is_commit, is_inside};

/// Deepest folder of a snapshot that is looked into.
const DEPTH_MAX: usize = 4;

/// The folder of a repository.
pub(super) struct Repository {
    folder: PathBuf,
}

/// `model.safetensors.index.json`.
#[derive(Deserialize)]
struct Index {
    /// Tensor name to file.
    weight_map: BTreeMap<String, String>,
}

impl Repository {
    pub(super) fn new(cache: &Path, name: &Name) -> Self {
        let [org, model] = name.parts();
        Self { folder: cache.join(format!("models--{org}--{model}")) }
    }

    /// The model that `name` means, if all of it is here.
    ///
    /// # Errors
    /// What is missing.
    pub(super) fn find(&self, name: &Name) -> Result<PathBuf, String> {
        let folder = self.folder.display();
        let commit = self.commit(name.revision()).ok_or_else(|| format!("{folder} has no such revision"))?;
        let snapshot = self.snapshot(&commit);
        let mut names = Vec::new();
        collect(&snapshot, "", DEPTH_MAX, &mut names);
        let choice = Choice::new(&names, name.file()).map_err(|error| format!("in {folder}, {error}"))?;
        match choice.opened {
            None => check_complete(&snapshot, &names).map(|()| snapshot),
            Some(file) => Ok(snapshot.join(file)),
        }
    }

    /// Where files of a commit are.
    pub(super) fn snapshot(&self, commit: &str) -> PathBuf {
        self.folder.join("snapshots").join(commit)
    }

    /// Where the content with this etag is.
    pub(super) fn blob(&self, etag: &str) -> PathBuf {
        self.folder.join("blobs").join(etag)
    }

    /// Lets `file` of a commit be the content with this etag, which is here.
    pub(super) fn link(&self, commit: &str, file: &str, etag: &str) -> Result<(), Error> {
        let path = self.snapshot(commit).join(file);
        if let Some(folder) = path.parent() {
            fs::create_dir_all(folder).map_err(|source| Error::io(folder, source))?;
        }
        let blob = self.blob(etag);
        if fs::canonicalize(&path)
            .is_ok_and(|target| fs::canonicalize(&blob).is_ok_and(|blob| blob == target))
        {
            return Ok(());
        }
        // What another client has put there may be another content, or lead nowhere any more.
        if fs::symlink_metadata(&path).is_ok() {
            fs::remove_file(&path).map_err(|source| Error::io(&path, source))?;
        }
        let up = "../".repeat(2 + file.matches('/').count());
        link(Path::new(&format!("{up}blobs/{etag}")), &blob, &path).map_err(|source| Error::io(&path, source))
    }

    /// Remembers the commit that a revision means.
    pub(super) fn set_commit(&self, revision: &str, commit: &str) -> Result<(), Error> {
        if is_commit(revision) {
            return Ok(());
        }
        let path = self.folder.join("refs").join(revision);
        let write = || {
            path.parent().map_or(Ok(()), fs::create_dir_all)?;
            fs::write(&path, commit)
        };
        write().map_err(|source| Error::io(&path, source))
    }

    /// The commit that a revision meant when it was last asked for.
    fn commit(&self, revision: &str) -> Option<String> {
        if is_commit(revision) {
            return Some(revision.to_owned());
        }
        let text = fs::read_to_string(self.folder.join("refs").join(revision)).ok()?;
        Some(text.trim().to_owned()).filter(|commit| is_commit(commit))
    }
}

/// A link to `target`, relative to its own folder.
#[cfg(unix)]
fn link(target: &Path, _blob: &Path, path: &Path) -> std::io::Result<()> {
    std::os::unix::fs::symlink(target, path)
}

/// A second name for `blob`: not everybody may make symbolic links.
#[cfg(not(unix))]
fn link(_target: &Path, blob: &Path, path: &Path) -> std::io::Result<()> {
    fs::hard_link(blob, path)
}

/// Adds the files in and below `folder`, with `/`; links that lead nowhere are none.
fn collect(folder: &Path, prefix: &str, depth: usize, names: &mut Vec<String>) {
    let entries = fs::read_dir(folder).into_iter().flatten().flatten();
    for entry in entries {
        let (path, name) = (entry.path(), format!("{prefix}{}", entry.file_name().to_string_lossy()));
        match fs::metadata(&path) {
            Ok(metadata) if metadata.is_file() => names.push(name),
            Ok(metadata) if metadata.is_dir() && depth > 0 => {
                collect(&path, &format!("{name}/"), depth - 1, names);
            }
            _ => {}
        }
    }
    names.sort();
}

/// Whether a model folder has everything that this program needs of it. Optional files are fetched before weights, so they are
/// there, too.
fn check_complete(snapshot: &Path, names: &[String]) -> Result<(), String> {
    let shown = snapshot.display();
    let mut needed = BTreeSet::from(["config.json".to_owned()]);
    // An EAGLE-3 head reads the tokens of its model.
    if !Eagle3Checkpoint::is_folder(snapshot).unwrap_or(false) {
        needed.insert("tokenizer.json".to_owned());
    }
    let index = read_optional(&snapshot.join(INDEX), JSON_BYTES_MAX).map_err(|error| error.to_string())?;
    match index {
        Some(text) if !names.iter().any(|name| name == "model.safetensors") => {
            let index: Index = json(INDEX, &text).map_err(|error| error.to_string())?;
            needed.extend(index.weight_map.into_values().filter(|file| is_inside(file)));
        }
        _ if !names.iter().any(|name| is_weights(name)) => return Err(format!("{shown} has no weights")),
        _ => {}
    }
    match needed.iter().find(|file| !names.contains(file)) {
        Some(file) => Err(format!("{shown} has no {file}")),
        None => Ok(()),
    }
}
