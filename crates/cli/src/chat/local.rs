//! A model here.

use std::io::{self, Write};
use std::num::{NonZeroU32, NonZeroUsize};
use std::ops::ControlFlow;

use dsde_bench::load::{self, Observer, closed_loop};
use dsde_engine::{Emission, StepReport};

use super::history::History;
use super::{ANSWER_SHARE, ChatArgs, Unanswered, notice};
use crate::answer;
use crate::failure::{OrUsage as _, Outcome};
use crate::generate::{Printer as _, Streaming};
use crate::interrupt::Interrupt;
use crate::models::Models;
use crate::sampling::{Sampling, Wanted};
use crate::session::{Form, Session, Wish, fresh_draws};
use crate::speculation::policy_for;

/// Answers by an engine of its own.
pub(super) struct Partner {
    session: Session,
    sampling: Sampling,
    /// Turns so far; each has its own seed.
    n_turns: usize,
}

impl Partner {
    /// # Errors
    /// If models or options cannot be used.
    pub(super) fn new(args: &ChatArgs) -> Outcome<Self> {
        let models = Models::new(&args.model)?;
        let wish = Wish {
            policy: policy_for(args.policy.policy.clone(), &models.draft)?,
            rule: args.policy.verification.into(),
            form: Form::Chat,
            n_sequences: NonZeroU32::MIN,
            prefix_cache: true,
            draws: fresh_draws(),
        };
        let session = Session::open(&models.under(&wish.policy), &wish)?;
        let wanted = Wanted { n_choices: 1, logprobs: None };
        let sampling =
            Sampling::new(&args.sampling, wanted, session.eos_tokens(), &session.sampling(args.defaults));
        sampling.check(&session.engine.shape()).or_usage()?;
        Ok(Self { session, sampling, n_turns: 0 })
    }

    /// Tokens of the conversation, its oldest turns forgotten as far as needed; none are if even that is not enough.
    fn prompt(&self, history: &mut History) -> Result<Vec<u32>, Unanswered> {
        let context_len_max = self.session.engine.shape().context_len_max;
        let prompt_len_max = (context_len_max - context_len_max / ANSWER_SHARE) as usize;
        let mut prompt_len = 0;
        for n_forgotten in 0.. {
            let Some(messages) = history.without_oldest(n_forgotten) else {
                break;
            };
            let prompt = self.session.encode_chat(&messages).map_err(|error| {
                Unanswered(format!("this message cannot be turned into a prompt: {error:#}; it was not sent"))
            })?;
            prompt_len = prompt.len();
            if prompt_len <= prompt_len_max {
                if n_forgotten > 0 {
                    notice(&format!(
                        "the context of {context_len_max} tokens is full: {n_forgotten} old turns forgotten"
                    ));
                    history.messages = messages;
                }
                return Ok(prompt);
            }
        }
        let what = history.last_in_words();
        Err(Unanswered(format!(
            "{what} {prompt_len} tokens, at most {prompt_len_max} leave room for an answer in the context of \
             {context_len_max}; it was not sent"
        )))
    }
}

impl super::Partner for Partner {
    fn answer(
        &mut self,
        history: &mut History,
        interrupt: &Interrupt,
    ) -> Outcome<Result<String, Unanswered>> {
        let prompt = match self.prompt(history) {
            Ok(prompt) => prompt,
            Err(unanswered) => return Ok(Err(unanswered)),
        };
        let mut request = self.sampling.request(self.n_turns, prompt, None);
        request.drops_leading_space = self.session.drops_leading_space();
        if let Err(refused) = request.check(&self.session.engine.shape()) {
            let reason = format!("this message cannot be answered: {refused}; it was not sent");
            return Ok(Err(Unanswered(reason)));
        }
        self.n_turns += 1;
        let printer = Streaming::new(io::stdout().lock());
        let mut stoppable = Stoppable { printer, interrupt, text: Vec::new() };
        let result = closed_loop(&mut self.session.engine, [request], NonZeroUsize::MIN, &mut stoppable);
        stoppable.printer.finish()?;
        let text = String::from_utf8_lossy(&stoppable.text).into_owned();
        match result {
            Ok(choices) => {
                let timelines: Vec<_> = choices.iter().flatten().map(|choice| choice.timeline).collect();
                notice(&answer::speed(&timelines));
                Ok(Ok(text))
            }
            // A failed write was returned above.
            Err(load::Error::Interrupted) if text.is_empty() => {
                Ok(Err(Unanswered("stopped before the answer began".to_owned())))
            }
            Err(load::Error::Interrupted) => {
                notice("stopped");
                Ok(Ok(text))
            }
            Err(error) => Err(error.into()),
        }
    }
}

/// Writes text as it comes, until that fails or Ctrl-C is pressed.
struct Stoppable<'a, W> {
    printer: Streaming<W>,
    interrupt: &'a Interrupt,
    text: Vec<u8>,
}

impl<W: Write> Observer for Stoppable<'_, W> {
    fn emitted(&mut self, request_idx: usize, emission: &Emission) {
        self.text.extend_from_slice(&emission.text);
        self.printer.emitted(request_idx, emission);
    }

    fn stepped(&mut self, report: &StepReport) -> ControlFlow<()> {
        match self.interrupt.is_stopped() {
            true => ControlFlow::Break(()),
            false => self.printer.stepped(report),
        }
    }
}
