//! Forms of strangers, first compiled where it hurts nobody: by a process of its own, with bounds on its memory and on its time.
//!
//! The library that compiles forms counts its work, but not everywhere, and some forms of a few hundred bytes take all memory there
//! is, or the whole stack. So this program starts itself once more for each new form, with one token per byte instead of the model's
//! vocabulary, which takes a few milliseconds. What that process lives through, the server compiles.

use std::ffi::OsString;
use std::io::{self, Read as _};
use std::process::{ExitCode, Stdio};
use std::sync::Arc;

use dsde_engine::Grammar;
use dsde_text::{Grammars, Outline, Thoughts};
use serde::Deserialize as _;
use serde_json::Deserializer;
use tokio::io::AsyncWriteExt as _;
use tokio::process::Command;

use super::{FormFault, Wanted};

/// First argument of a process that tries a form; its bounds follow.
const TRY_FORM: &str = "--try-form";
/// Answers that a trial follows, and tokens of each: what a form takes is not all taken at its beginning.
const ANSWERS: u32 = 4;
const ANSWER_LEN: u32 = 256;

/// A program that tries forms, and what it may take for each.
#[derive(Clone, Debug)]
pub struct Trial {
    /// It calls [`tried_form`] before anything else.
    pub program: OsString,
    /// Most address space, MiB. 768: 512 are reserved whatever the form, half of that for a stack that only deep ones use.
    pub memory_mib: u64,
    /// Longest time of a processor, seconds. 3: forms that people write take milliseconds.
    pub processor_s: u64,
}

impl Trial {
    /// By this program.
    ///
    /// # Errors
    /// If the system does not tell where it is.
    pub fn by_this_program() -> io::Result<Self> {
        // Stays what was started, also where its file is replaced.
        let program = match cfg!(target_os = "linux") {
            true => "/proc/self/exe".into(),
            false => std::env::current_exe()?.into_os_string(),
        };
        Ok(Self { program, memory_mib: 768, processor_s: 3 })
    }

    /// Ends well for a form that can be compiled within bounds, and for one that is refused within them.
    pub(super) async fn run(
        &self,
        outline: &Outline,
        thoughts: Thoughts,
        wanted: &Wanted,
    ) -> Result<(), FormFault> {
        let order = order(outline, thoughts, wanted).map_err(|_| FormFault::Failed)?;
        // Two levels deeper than the schema itself, which may be what was too deep.
        if read(&order).is_err() {
            return Err(FormFault::Deep);
        }
        let mut command = Command::new(&self.program);
        command.arg(TRY_FORM).args([self.memory_mib, self.processor_s].map(|bound| bound.to_string()));
        command.env_clear().kill_on_drop(true);
        // Who ends the server from a terminal does not end the forms of requests in flight.
        #[cfg(unix)]
        command.process_group(0);
        command.stdin(Stdio::piped()).stdout(Stdio::null()).stderr(Stdio::null());
        let mut child = command.spawn().map_err(FormFault::Untried)?;
        if let Some(mut stdin) = child.stdin.take() {
            // A process that is gone already tells more by its status.
            let _ = stdin.write_all(&order).await;
        }
        let status = child.wait().await.map_err(FormFault::Untried)?;
        match status.code() {
            Some(0) => Ok(()),
            Some(_) => {
                tracing::warn!(
                    "forms cannot be tried: `{} {TRY_FORM}` ends with {status}",
                    self.program.display()
                );
                Err(FormFault::Untried(io::Error::other(status.to_string())))
            }
            // A bound has ended it.
            None => Err(FormFault::Dear { memory_mib: self.memory_mib, processor_s: self.processor_s }),
        }
    }
}

/// Three documents, of which each may nest as deep as a body.
fn order(outline: &Outline, thoughts: Thoughts, wanted: &Wanted) -> serde_json::Result<Vec<u8>> {
    let mut bytes = serde_json::to_vec(outline)?;
    serde_json::to_writer(&mut bytes, &thoughts)?;
    serde_json::to_writer(&mut bytes, wanted)?;
    Ok(bytes)
}

/// If this process was started by a [`Trial`], compiles and follows the form that stands on stdin, within bounds beyond which the
/// process ends; then how it is to end. `None` for every other process.
pub fn tried_form() -> Option<ExitCode> {
    let mut arguments = std::env::args_os().skip(1);
    arguments.next().filter(|first| first == TRY_FORM)?;
    let bounds: Vec<u64> = arguments.map_while(|bound| bound.to_str()?.parse().ok()).collect();
    let tried =
        <[u64; 2]>::try_from(bounds).map_err(|_| io::ErrorKind::InvalidInput.into()).and_then(try_form);
    Some(if tried.is_ok() { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

/// * bounds: as [`Trial`] has them.
fn try_form([memory_mib, processor_s]: [u64; 2]) -> io::Result<()> {
    bound_process(memory_mib, processor_s)?;
    // Where memory is short this process goes first, not the server; elsewhere than on Linux there is no such file.
    let _ = std::fs::write("/proc/self/oom_score_adj", "1000");
    let mut order = Vec::new();
    io::stdin().read_to_end(&mut order)?;
    if let Some((grammar, vocab_len)) = compile(&order)? {
        (1..=ANSWERS).for_each(|seed| follow(grammar.as_ref(), vocab_len, seed));
    }
    Ok(())
}

/// What an order says.
fn read(order: &[u8]) -> serde_json::Result<(Outline, Thoughts, Wanted)> {
    let mut documents = Deserializer::from_slice(order);
    let outline = Outline::deserialize(&mut documents)?;
    let thoughts = Thoughts::deserialize(&mut documents)?;
    Ok((outline, thoughts, Wanted::deserialize(&mut documents)?))
}

/// The form of an order and the size of its vocabulary; `None` if it is refused, of which the server will hear itself.
fn compile(order: &[u8]) -> io::Result<Option<(Arc<dyn Grammar>, u32)>> {
    let (outline, thoughts, wanted) = read(order)?;
    let grammars = Grammars::of_bytes(outline).map_err(io::Error::other)?;
    let compiled = wanted.compile(&grammars, thoughts);
    Ok(compiled.ok().map(|grammar| (grammar, grammars.outline().vocab_len())))
}

/// Follows one answer for a while, as a draw over what may come next.
fn follow(grammar: &dyn Grammar, vocab_len: u32, seed: u32) {
    let mut constraint = grammar.begin();
    let mut mask = vec![0_u32; vocab_len.div_ceil(u32::BITS) as usize];
    let mut state = seed;
    for _ in 0..ANSWER_LEN {
        if !constraint.allow(&[], &mut mask).unwrap_or(false) {
            return;
        }
        let n_allowed = mask.iter().map(|word| word.count_ones()).sum::<u32>().max(1);
        // Constants of a linear congruential generator of Knuth's, whose upper bits vary most.
        state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        let Some(token) = nth(&mask, (state >> 8) % n_allowed) else {
            return;
        };
        if constraint.advance(&[token]).unwrap_or(true) {
            return;
        }
    }
}

/// The token of the bit that has `n` bits set below it.
fn nth(mask: &[u32], mut n: u32) -> Option<u32> {
    for (at, &word) in (0..).zip(mask) {
        if n < word.count_ones() {
            let rest = (0..n).fold(word, |rest, _| rest & (rest - 1));
            return Some(at * u32::BITS + rest.trailing_zeros());
        }
        n -= word.count_ones();
    }
    None
}

/// Bounds what this process may take; no core is written when it ends of that.
#[cfg(unix)]
fn bound_process(memory_mib: u64, processor_s: u64) -> io::Result<()> {
    use rustix::process::{Resource, Rlimit, setrlimit};

    let bounds = [
        (Resource::As, memory_mib.saturating_mul(1 << 20)),
        (Resource::Cpu, processor_s),
        (Resource::Core, 0),
    ];
    for (resource, bound) in bounds {
        setrlimit(resource, Rlimit { current: Some(bound), maximum: Some(bound) })?;
    }
    Ok(())
}

#[cfg(not(unix))]
fn bound_process(_memory_mib: u64, _processor_s: u64) -> io::Result<()> {
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tokens_are_found_by_how_many_are_allowed_before_them() {
        let mask = [0b1010, 0, 1 << 31 | 1];
        assert_eq!(
            (0..5).map(|n| nth(&mask, n)).collect::<Vec<_>>(),
            [Some(1), Some(3), Some(64), Some(95), None]
        );
    }
}
