//! Heads in files of their own: which one lies at a path. What lies there is opened once.

use std::path::Path;

use super::{AssistantCheckpoint, Eagle3Checkpoint, folder};
use crate::config::{AssistantConfig, Eagle3Config};
use crate::error::Error;
use crate::gguf::Gguf;

/// An opened head, whatever its kind.
#[derive(Debug)]
pub enum HeadCheckpoint {
    /// An EAGLE-3 head.
    Eagle3(Box<Eagle3Checkpoint>),
    /// An assistant of Gemma 4.
    Assistant(Box<AssistantCheckpoint>),
}

impl HeadCheckpoint {
    /// The head at a path, a folder or a GGUF file, if that is what lies there.
    ///
    /// # Errors
    /// If there is nothing at the path, or a head of which files are missing, truncated or contradict themselves, whose configuration
    /// is refused (see [`Eagle3Config::parse`] and [`AssistantConfig::parse`]), or with a tensor that it has no use for.
    pub fn find(path: &Path) -> Result<Option<Self>, Error> {
        if let Some(file) = folder::gguf_file(path)? {
            return Self::of_gguf(Gguf::open(&file)?);
        }
        let Some(config) = folder::optional_config(path)? else { return Ok(None) };
        if Eagle3Config::describes(&config)? {
            return Eagle3Checkpoint::open(path, &config).map(Self::from).map(Some);
        }
        if AssistantConfig::describes(&config)? {
            return AssistantCheckpoint::open(path, &config).map(Self::from).map(Some);
        }
        Ok(None)
    }

    fn of_gguf(gguf: Gguf) -> Result<Option<Self>, Error> {
        if Eagle3Config::describes_gguf(&gguf) {
            return Eagle3Checkpoint::of_gguf(gguf).map(Self::from).map(Some);
        }
        if AssistantConfig::describes_gguf(&gguf) {
            return AssistantCheckpoint::of_gguf(gguf).map(Self::from).map(Some);
        }
        Ok(None)
    }
}

impl From<Eagle3Checkpoint> for HeadCheckpoint {
    fn from(head: Eagle3Checkpoint) -> Self {
        Self::Eagle3(Box::new(head))
    }
}

impl From<AssistantCheckpoint> for HeadCheckpoint {
    fn from(assistant: AssistantCheckpoint) -> Self {
        Self::Assistant(Box::new(assistant))
    }
}
