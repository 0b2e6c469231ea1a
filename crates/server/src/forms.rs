//! Forms of answers, compiled where that holds up nobody else: few at a time, first by a process that may end of it, and those that
//! were asked for last are kept.

mod recent;
mod trial;

use std::fmt::Debug;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use dsde_engine::Grammar;
use dsde_text::{Error as TextError, Grammars, Outline, Thoughts, Tokenizer};
use serde::{Deserialize, Serialize};
use serde_json::Value;
use tokio::sync::Semaphore;
use tokio::task::spawn_blocking;
use tokio::time::timeout;

use crate::openai::tools::CallForm;
use recent::RecentForms;
pub use trial::{Trial, tried_form};

/// Forms that are compiled at once; more wait.
const COMPILING_MAX: usize = 2;
/// Longest time to wait for a form, others' turns included. A tenth of a second is usual, and more than that where others use the processors.
const COMPILE_MAX: Duration = Duration::from_secs(30);

/// What answers must be.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub enum Form {
    /// A JSON object.
    JsonObject,
    /// JSON of a schema.
    JsonSchema(Value),
    /// What a regular expression matches, as a whole.
    Regex(String),
    /// One of some texts.
    Choice(Vec<String>),
    /// What a grammar describes.
    Grammar(String),
}

/// Why no answer can have a form.
#[derive(Debug, thiserror::Error)]
pub enum FormFault {
    /// It cannot be followed.
    #[error(transparent)]
    Unfit(#[from] TextError),
    /// It takes too much.
    #[error("the form must be compiled within {expected_s} s, and was not: simplify it")]
    Slow {
        /// Longest time, seconds.
        expected_s: u64,
    },
    /// It nests deeper than can be told to the process that tries it.
    #[error("the form nests too deeply: simplify it")]
    Deep,
    /// The process that tried it did not live through it.
    #[error(
        "the form takes more than {memory_mib} MiB of memory, or {processor_s} s of a processor, to be compiled and followed: simplify it"
    )]
    Dear {
        /// Most memory, MiB.
        memory_mib: u64,
        /// Longest time of a processor, seconds.
        processor_s: u64,
    },
    /// Compiling it panicked.
    #[error("the form could not be compiled")]
    Failed,
    /// It cannot be tried.
    #[error("the form could not be tried in a process of its own: {0}")]
    Untried(std::io::Error),
}

/// What a form is asked for as.
#[derive(Clone, Debug, Serialize, Deserialize)]
enum Wanted {
    Form(Form),
    Calls(CallForm),
}

impl Wanted {
    fn compile(&self, grammars: &Grammars, thoughts: Thoughts) -> Result<Arc<dyn Grammar>, TextError> {
        match self {
            Self::Form(Form::JsonObject) => grammars.json_object(thoughts),
            Self::Form(Form::JsonSchema(schema)) => grammars.json_schema(schema.clone(), thoughts),
            Self::Form(Form::Regex(regex)) => grammars.regex(regex, thoughts),
            Self::Form(Form::Choice(texts)) => grammars.choice(texts, thoughts),
            Self::Form(Form::Grammar(text)) => grammars.grammar(text, thoughts),
            Self::Calls(CallForm { format, functions, are_parallel }) => {
                grammars.calls(*format, functions, *are_parallel, thoughts)
            }
        }
    }
}

/// Compiles forms for the answers of one model; two at a time, and others wait.
#[derive(Debug)]
pub struct Forms {
    compiler: Arc<Compiler>,
    outline: Outline,
    trial: Option<Trial>,
    recent: RecentForms,
    compiling: Arc<Semaphore>,
}

#[derive(Debug)]
struct Compiler {
    tokenizer: Arc<Tokenizer>,
    eos_tokens: Vec<u32>,
    /// Made when a form is first asked for.
    grammars: OnceLock<Grammars>,
}

impl Forms {
    /// * `eos_tokens`: end an answer; without one no form can be had.
    /// * `trial`: who compiles each form first; without one, forms that take all memory take this process's.
    pub fn new(tokenizer: Arc<Tokenizer>, eos_tokens: Vec<u32>, trial: Option<Trial>) -> Self {
        let outline = Outline::new(&tokenizer, &eos_tokens);
        Self {
            outline,
            compiler: Arc::new(Compiler { tokenizer, eos_tokens, grammars: OnceLock::new() }),
            trial,
            recent: RecentForms::default(),
            compiling: Arc::new(Semaphore::new(COMPILING_MAX)),
        }
    }

    /// What an answer of a form may say; that of before, if the form is one of the last 32.
    ///
    /// * `thoughts`: what may come before the form.
    /// * `salt`: requests of another find no form that was compiled for this one, as they find none of its prefixes.
    ///
    /// # Errors
    /// If the form cannot be followed, or takes too much memory or more than 30 seconds to compile.
    pub async fn grammar(
        &self,
        form: Form,
        thoughts: Thoughts,
        salt: &str,
    ) -> Result<Arc<dyn Grammar>, FormFault> {
        self.of_key(key(salt, thoughts, &form), Wanted::Form(form), thoughts).await
    }

    /// What an answer may say that must call a function, compiled as any other form.
    ///
    /// # Errors
    /// As [`Forms::grammar`].
    pub(crate) async fn calls(
        &self,
        form: CallForm,
        thoughts: Thoughts,
        salt: &str,
    ) -> Result<Arc<dyn Grammar>, FormFault> {
        self.of_key(key(salt, thoughts, &form), Wanted::Calls(form), thoughts).await
    }

    /// * `key`: of the form among the recent ones.
    async fn of_key(
        &self,
        key: String,
        wanted: Wanted,
        thoughts: Thoughts,
    ) -> Result<Arc<dyn Grammar>, FormFault> {
        if let Some(form) = self.recent.get(&key) {
            return Ok(form);
        }
        let in_time = timeout(COMPILE_MAX, self.compiled(wanted, thoughts)).await;
        let form = in_time.map_err(|_| FormFault::Slow { expected_s: COMPILE_MAX.as_secs() })??;
        self.recent.keep(key, form.clone());
        Ok(form)
    }

    async fn compiled(&self, wanted: Wanted, thoughts: Thoughts) -> Result<Arc<dyn Grammar>, FormFault> {
        let place = self.compiling.clone().acquire_owned().await.map_err(|_| FormFault::Failed)?;
        if let Some(trial) = &self.trial {
            trial.run(&self.outline, thoughts, &wanted).await?;
        }
        let compiler = self.compiler.clone();
        let compiled = spawn_blocking(move || {
            // Held until the thread is done, also where nobody waits for it any more.
            let _place = place;
            wanted.compile(compiler.grammars()?, thoughts)
        });
        Ok(compiled.await.map_err(|_| FormFault::Failed)??)
    }
}

impl Compiler {
    fn grammars(&self) -> Result<&Grammars, TextError> {
        match self.grammars.get() {
            Some(grammars) => Ok(grammars),
            None => {
                let new = Grammars::new(&self.tokenizer, &self.eos_tokens)?;
                Ok(self.grammars.get_or_init(|| new))
            }
        }
    }
}

/// What a form that was compiled once is found by: who asks, and all that it says.
fn key(salt: &str, thoughts: Thoughts, form: &impl Debug) -> String {
    format!("{salt:?} {thoughts:?} {form:?}")
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use dsde_text::ReasoningFormat;
    use serde_json::json;

    use super::*;

    #[test]
    fn keys_tell_apart_who_asks_and_what_for() {
        let schema = |schema| Form::JsonSchema(schema);
        let (salts, thoughts) =
            (["0 ", "0 a", "1 "], [Thoughts::None, Thoughts::Begun(ReasoningFormat::Harmony)]);
        let forms = [
            Form::JsonObject,
            schema(json!({})),
            schema(json!({"type": "object"})),
            schema(json!("a")),
            Form::Regex("a".into()),
            Form::Choice(vec!["a".into(), "b".into()]),
            Form::Choice(vec!["a\", \"b".into()]),
            Form::Grammar("a".into()),
        ];
        let of_salt = |salt| thoughts.into_iter().flat_map(move |thoughts| [(salt, thoughts)]);
        let all = salts.into_iter().flat_map(of_salt);
        let keys: Vec<String> =
            all.flat_map(|(salt, thoughts)| forms.each_ref().map(|form| key(salt, thoughts, form))).collect();
        assert_eq!(keys.iter().collect::<HashSet<_>>().len(), salts.len() * thoughts.len() * forms.len());
        assert_eq!(key("0 ", Thoughts::None, &forms[2]), keys[2]);
    }
}
