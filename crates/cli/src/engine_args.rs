//! Options of what serves requests with one engine, whatever way they come in, and what is made of them.

use std::num::NonZeroU32;
use std::path::Path;
use std::sync::Arc;

use clap::Args;
use dsde_checkpoint::config::SamplingDefaults;
use dsde_engine::Engine;
use dsde_text::Tokenizer;

use crate::args::{CONCURRENCY_MAX, DefaultsArgs, ModelArgs, PolicyArgs, positive_up_to};
use crate::failure::Outcome;
use crate::models::Models;
use crate::opened::chat_template;
use crate::session::{Form, Session, Wish, fresh_draws};
use crate::speculation::{Source, policy_for};

/// Which models are served, with which policy, to how many at once.
#[derive(Args, Clone, Debug)]
pub struct EngineArgs {
    /// Sequences that run at once; more wait.
    #[arg(long, value_name = "C", default_value = "32", value_parser = positive_up_to(CONCURRENCY_MAX))]
    pub(crate) max_concurrency: NonZeroU32,

    /// Sequences that may wait; more requests are refused, over HTTP with status 429.
    #[arg(long, value_name = "N", default_value = "256", value_parser = positive_up_to(CONCURRENCY_MAX))]
    pub(crate) max_waiting: NonZeroU32,

    /// Memory of the key/value stores, for example 512MiB or 4GiB, instead of --kv-blocks. A number
    /// alone counts bytes.
    #[arg(long, value_name = "SIZE", conflicts_with = "kv_blocks", value_parser = memory, help_heading = "Model")]
    pub(crate) kv_memory: Option<u64>,

    #[command(flatten)]
    pub(crate) policy: PolicyArgs,

    #[command(flatten)]
    pub(crate) model: ModelArgs,

    #[command(flatten)]
    pub(crate) defaults: DefaultsArgs,
}

/// What options ask for, and that it exists; nothing is loaded yet.
#[derive(Clone, Debug)]
pub struct EnginePlan {
    pub(crate) models: Models,
    pub(crate) wish: Wish,
    /// Why there are no conversations, if so.
    pub(crate) template_fault: Option<String>,
    waiting_max: u32,
    defaults: DefaultsArgs,
}

/// An idle engine over loaded models, and what belongs to it.
pub struct Served {
    /// Serves requests.
    pub engine: Engine,
    /// Text to tokens and back.
    pub tokenizer: Arc<Tokenizer>,
    /// Tokens that end a text.
    pub eos_tokens: Vec<u32>,
    /// Values for what a request leaves out of how to sample.
    pub sampling: SamplingDefaults,
    /// Who drafts, as typed.
    pub draft: String,
    /// The kernels in use, for people.
    pub kernels: String,
}

impl EngineArgs {
    /// Finds the models, those of the Hugging Face Hub by fetching them unless the cache has them, and chooses the policy.
    ///
    /// # Errors
    /// If there is no such model, or the policy needs somebody who drafts and there is nobody.
    pub fn plan(&self) -> Outcome<EnginePlan> {
        let models = Models::new(&self.model)?.with_kv_bytes(self.kv_memory);
        let policy = policy_for(self.policy.policy.clone(), &models.draft)?;
        let models = models.under(&policy);
        let usable = chat_template(&models.target).map_err(|error| error.to_string());
        let form = if usable.is_ok() { Form::Chat } else { Form::Raw };
        let wish = Wish {
            policy,
            rule: self.policy.verification.into(),
            form,
            n_sequences: self.max_concurrency,
            prefix_cache: true,
            draws: fresh_draws(),
        };
        Ok(EnginePlan {
            models,
            wish,
            template_fault: usable.err(),
            waiting_max: self.max_waiting.get(),
            defaults: self.defaults,
        })
    }
}

impl EnginePlan {
    /// The name of the model's folder, or of its file without the ending; of what a cache of Hugging Face has, the repository's
    /// name.
    pub fn model_name(&self) -> String {
        model_name(&self.models.target)
    }

    /// Where the model lies; `None` if it is inside the program.
    pub fn model_path(&self) -> Option<&Path> {
        match &self.models.target {
            Source::Demo => None,
            Source::Path(path) => Some(path),
        }
    }

    /// Why there are no conversations, if so.
    pub fn template_fault(&self) -> Option<&str> {
        self.template_fault.as_deref()
    }

    /// The policy, with its parameters as typed.
    pub fn policy(&self) -> String {
        self.wish.policy.to_string()
    }

    /// Sequences that run at once.
    pub fn sequences_max(&self) -> u32 {
        self.wish.n_sequences.get()
    }

    /// Tokens of prompts that a step reads at most.
    pub fn rows_max(&self) -> u32 {
        self.wish.rows_max()
    }

    /// Sequences that may wait.
    pub fn waiting_max(&self) -> u32 {
        self.waiting_max
    }

    /// Loads the models.
    ///
    /// # Errors
    /// If files are missing or make no sense, the draft does not fit the target, or a bound is out of range.
    pub fn open(&self) -> Outcome<Served> {
        let session = Session::open(&self.models, &self.wish)?;
        let kernels = session.machine().backend;
        let sampling = session.sampling(self.defaults);
        let Session { engine, draft, tokenizer, eos_tokens, .. } = session;
        Ok(Served { engine, tokenizer, eos_tokens, sampling, draft: draft.to_string(), kernels })
    }
}

/// The name of the folder, or of the file without its ending; of what a cache of Hugging Face has, the repository's name.
fn model_name(target: &Source) -> String {
    let Source::Path(path) = target else {
        return target.to_string();
    };
    let real = path.canonicalize().unwrap_or_else(|_| path.clone());
    // A file of a cache is a link to one without a name.
    if let Some(name) = path.ancestors().chain(real.ancestors()).find_map(cached_repository) {
        return name;
    }
    let is_gguf = path.extension().is_some_and(|extension| extension.eq_ignore_ascii_case("gguf"));
    let name = if is_gguf { path.file_stem() } else { real.file_name() };
    name.map_or_else(|| target.to_string(), |name| name.to_string_lossy().into_owned())
}

/// `ORG/NAME` of `models--ORG--NAME/snapshots/HASH`.
fn cached_repository(path: &Path) -> Option<String> {
    let snapshots = path.parent()?;
    let repository = snapshots.parent()?.file_name()?.to_str()?;
    let name = repository.strip_prefix("models--").filter(|_| snapshots.ends_with("snapshots"))?;
    Some(name.replacen("--", "/", 1))
}

/// Parses a number of bytes with a binary unit.
fn memory(text: &str) -> Result<u64, String> {
    let expected = || "expected a size of at least 1 byte such as 512MiB or 4GiB".to_owned();
    let digits = text.trim_end_matches(|c: char| !c.is_ascii_digit());
    let number: u64 = digits.parse().map_err(|_| expected())?;
    let unit = match text[digits.len()..].trim() {
        "KiB" => 1 << 10,
        "MiB" => 1 << 20,
        "GiB" => 1 << 30,
        "" | "B" => 1,
        _ => return Err(expected()),
    };
    number.checked_mul(unit).filter(|&n_bytes| n_bytes > 0).ok_or_else(expected)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_have_binary_units() {
        assert_eq!(memory("512MiB"), Ok(512 << 20));
        assert_eq!(memory("4 GiB"), Ok(4 << 30));
        assert_eq!(memory("4096"), Ok(4096));
        for text in ["", "GiB", "4GB", "1.5GiB", "0", "-1", "99999999999GiB"] {
            assert!(memory(text).is_err(), "{text}");
        }
    }

    #[test]
    fn a_model_is_called_like_its_folder() {
        assert_eq!(model_name(&Source::Demo), "demo");
        assert_eq!(model_name(&Source::parse("/no/such/Qwen3-0.6B/")), "Qwen3-0.6B");
    }

    #[test]
    fn a_snapshot_of_a_cache_is_called_like_its_repository() {
        let hub = "/no/such/hub/models--Qwen--Qwen3-0.6B";
        for (path, name) in [
            (format!("{hub}/snapshots/c1899de289a04d12100db370d81485cdf75e47ca"), "Qwen/Qwen3-0.6B"),
            (format!("{hub}/snapshots/main/"), "Qwen/Qwen3-0.6B"),
            (format!("{hub}/snapshots/0/Q8_0/x-00001-of-00002.gguf"), "Qwen/Qwen3-0.6B"),
            ("/no/models--gpt2/snapshots/0".to_owned(), "gpt2"),
            ("/no/models--a--b--c/snapshots/0".to_owned(), "a/b--c"),
            ("/no/datasets--a--b/snapshots/0".to_owned(), "0"),
            (format!("{hub}/other/0"), "0"),
        ] {
            assert_eq!(model_name(&Source::parse(&path)), name, "{path}");
        }
    }
}
