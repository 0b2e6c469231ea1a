//! `dsde pull`: a model from the Hugging Face Hub.

use std::io::{self, Write as _};

use clap::Args;

use crate::failure::Outcome;
use crate::hub::{self, Name};

const EXAMPLES: &str = "\
Examples:
  dsde pull Qwen/Qwen3-0.6B                    the safetensors files and what belongs to them
  dsde pull Qwen/Qwen3-8B-GGUF:Q4_K_M          the GGUF file with this label, all its parts
  dsde pull Qwen/Qwen3-0.6B@main               a branch, tag or commit
  dsde chat --model Qwen/Qwen3-0.6B            fetches it first if it is not there

The cache is shared with other clients of the Hub: HF_HUB_CACHE, else HF_HOME/hub, else XDG_CACHE_HOME/huggingface/hub, else \
~/.cache/huggingface/hub. What is cut off goes on with the next call. HF_TOKEN, else the file HF_TOKEN_PATH, else HF_HOME/token \
opens what is not public, HF_ENDPOINT names a mirror, and \
HF_HUB_OFFLINE=1 forbids requests. --model and --draft ask for nothing that the cache has; pull looks for a newer version.";

/// Fetch a model from the Hugging Face Hub
///
/// Prints where it lies. Files in Git LFS, weights above all, are checked by their SHA-256.
#[derive(Args, Debug)]
#[command(after_help = EXAMPLES)]
pub(crate) struct PullArgs {
    /// Repository; FILE is a GGUF file or a part of its name, such as Q4_K_M. Default: the safetensors files, else the GGUF
    /// file with Q4_K_M or the only one; REVISION is main.
    #[arg(value_name = "ORG/NAME[@REVISION][:FILE]")]
    name: Name,
}

/// Runs the command.
pub(crate) fn run(args: &PullArgs) -> Outcome {
    let path = hub::newest(&args.name)?;
    writeln!(io::stdout(), "{}", path.display())?;
    // Nothing can be done about a stderr that is gone.
    let _ = writeln!(io::stderr(), "(try it: dsde chat --model {})", args.name);
    Ok(())
}
