//! Models by name from the Hugging Face Hub, in the cache that its other clients share.
//!
//! What the cache has is used without a request. The rest is fetched over the HTTP client that `--url` has: the Hub's own crates
//! bring another one and a protocol of their own, and check no SHA-256.
//!
//! Not done here: reading models, and anything that writes to the Hub.

mod cache;
mod choice;
mod client;
mod download;
mod error;
mod name;
mod settings;

use std::io::{self, Write as _};
use std::path::PathBuf;

use indicatif::ProgressBar;
use tokio::runtime::Builder;

use crate::failure::{Failure, Outcome};
use crate::progress;
use crate::stores::bytes;

use cache::Repository;
use choice::Choice;
use client::{Client, Listing, Remote};
pub(crate) use error::Error;
pub(crate) use name::Name;
use settings::Settings;

/// The model in the cache, else from the Hub.
///
/// # Errors
/// If it is in neither, or it is not clear what is meant.
pub(crate) fn found(option: &str, name: &Name) -> Outcome<PathBuf> {
    let hub = Hub::new(name)?;
    let found = hub.cached().or_else(|missing| hub.fetched(&missing));
    found.map_err(|stopped| {
        stopped.failure(&format!("--{option} {name}: no such path here, so a model of the Hub"))
    })
}

/// The model as it is at the Hub now; the one in the cache if it cannot have changed or nobody can be asked.
///
/// # Errors
/// As [`found`].
pub(crate) fn newest(name: &Name) -> Outcome<PathBuf> {
    let hub = Hub::new(name)?;
    let pulled = match hub.cached() {
        Ok(path) if name.is_pinned() || hub.settings.is_offline => Ok(path),
        Ok(path) => match hub.fetched("") {
            Err(Stopped::Hub(error @ Error::Unreachable { .. })) => {
                tracing::warn!("{error}; the cache has a version of {name}, perhaps not the newest");
                Ok(path)
            }
            fetched => fetched,
        },
        Err(missing) => hub.fetched(&missing),
    };
    pulled.map_err(|stopped| stopped.failure(&name.to_string()))
}

/// Why there is no model.
enum Stopped {
    Hub(Error),
    Other(anyhow::Error),
}

impl<E: Into<anyhow::Error>> From<E> for Stopped {
    fn from(error: E) -> Self {
        match error.into().downcast() {
            Ok(error) => Self::Hub(error),
            Err(error) => Self::Other(error),
        }
    }
}

impl Stopped {
    fn failure(self, asked: &str) -> Failure {
        match self {
            Self::Hub(error) => error.failure(asked),
            Self::Other(error) => error.context(asked.to_owned()).into(),
        }
    }
}

/// One model, here and there.
struct Hub<'a> {
    name: &'a Name,
    settings: Settings,
    repository: Repository,
}

impl<'a> Hub<'a> {
    fn new(name: &'a Name) -> Outcome<Self> {
        let settings = Settings::new(|name| std::env::var_os(name))?;
        let repository = Repository::new(&settings.cache, name);
        Ok(Self { name, settings, repository })
    }

    /// # Errors
    /// What is missing.
    fn cached(&self) -> Result<PathBuf, String> {
        self.repository.find(self.name)
    }

    /// * `missing`: why the cache is not enough.
    fn fetched(&self, missing: &str) -> Result<PathBuf, Stopped> {
        if self.settings.is_offline {
            return Err(Error::Offline { name: self.name.to_string(), missing: missing.to_owned() }.into());
        }
        let client = Client::new(&self.settings)?;
        let runtime = Builder::new_current_thread().enable_all().build()?;
        Ok(runtime.block_on(self.fetch(&client))?)
    }

    async fn fetch(&self, client: &Client) -> Result<PathBuf, Error> {
        let Listing { commit, files } = client.listing(self.name).await?;
        let Choice { files, opened } = Choice::new(&files, self.name.file())?;
        let mut announced = Vec::new();
        for file in &files {
            announced.push(client.announced(self.name, &commit, file).await?);
        }
        self.download(client, &commit, &announced).await?;
        self.repository.set_commit(self.name.revision(), &commit)?;
        let snapshot = self.repository.snapshot(&commit);
        Ok(opened.map_or_else(|| snapshot.clone(), |file| snapshot.join(file)))
    }

    async fn download(&self, client: &Client, commit: &str, announced: &[Remote]) -> Result<(), Error> {
        let n_bytes = announced.iter().fold(0, |sum: u64, remote| sum.saturating_add(remote.size));
        let shown = bytes(usize::try_from(n_bytes).unwrap_or(usize::MAX));
        notice(&format!(
            "{}: {} files, {shown}, to {}",
            self.name,
            announced.len(),
            self.settings.cache.display()
        ));
        let bar = progress(n_bytes);
        for remote in announced {
            bar.set_message(remote.file.clone());
            let blob = self.repository.blob(&remote.etag);
            download::fetch(client, remote, &blob, &bar).await?;
            self.repository.link(commit, &remote.file, &remote.etag)?;
        }
        bar.finish_and_clear();
        Ok(())
    }
}

/// Shows how much has arrived of all files together.
fn progress(n_bytes: u64) -> ProgressBar {
    progress::bar(n_bytes, "{bytes}/{total_bytes}, {bytes_per_sec}, {eta} left, {wide_msg}")
}

fn notice(text: &str) {
    // Nothing can be done about a stderr that is gone.
    let _ = writeln!(io::stderr(), "({text})");
}
