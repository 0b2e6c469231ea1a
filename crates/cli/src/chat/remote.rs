//! A server.

use std::io::{self, IsTerminal as _, Write as _};
use std::time::{Duration, Instant};

use dsde_bench::Message;
use dsde_bench::observed::{Observed, Piece};

use super::history::History;
use super::{ANSWER_SHARE, ChatArgs, Unanswered, notice};
use crate::answer;
use crate::failure::Outcome;
use crate::interrupt::Interrupt;
use crate::remote::{Answer, Error, Fields, Remote, Route, ServerUrl, base_fields, messages};
use crate::sampling::{fields, fields_with_seed};

/// Answers by asking a server.
pub(super) struct Partner {
    remote: Remote,
    /// Of every request.
    fields: Fields,
    /// Seed of the first turn.
    seed: Option<u64>,
    /// Turns so far; each has its own seed.
    n_turns: u64,
    /// Tokens of the conversation and its characters, when the server last counted.
    counted: Option<(u32, usize)>,
}

impl Partner {
    /// # Errors
    /// If the server cannot be reached or refuses, or an option makes no sense.
    pub(super) fn new(url: &ServerUrl, args: &ChatArgs) -> Outcome<Self> {
        let remote = Remote::open(url, &args.remote, args.model.model.as_deref())?;
        let mut all = base_fields(&remote.model);
        all.extend(fields(&args.sampling));
        if let Some(policy) = &args.policy.policy {
            all.insert("policy".to_owned(), policy.to_string().into());
        }
        if io::stdin().is_terminal() {
            notice(&format!("{} at {url}", remote.model.name));
        }
        Ok(Self { remote, fields: all, seed: args.sampling.seed, n_turns: 0, counted: None })
    }

    /// Asks, and asks again with fewer old turns while the server finds the conversation too long.
    ///
    /// * Returns `None` if Ctrl-C came first.
    fn ask(&mut self, history: &mut History, interrupt: &Interrupt) -> Result<Option<Answer>, Error> {
        let n_expected = self.n_to_forget(history);
        for n_forgotten in n_expected.. {
            // The last message alone is asked in any case, so that the server says what is wrong with it.
            let Some(kept) = history.without_oldest(n_forgotten) else {
                break;
            };
            let is_last = history.without_oldest(n_forgotten + 1).is_none();
            let request = self.request(&kept);
            let asking = self.remote.client.ask(Route::Chat, &request, [None; 2]);
            let answer = self.remote.runtime.block_on(async {
                tokio::select! {
                    answer = asking => Some(answer),
                    () = interrupt.stopped() => None,
                }
            });
            match answer.transpose() {
                Err(error) if error.is_context_full() && !is_last => {}
                Err(error) => return Err(error),
                Ok(answer) => {
                    if n_forgotten > 0 {
                        notice(&format!("the server's context is full: {n_forgotten} old turns forgotten"));
                        history.messages = kept;
                    }
                    return Ok(answer);
                }
            }
        }
        unreachable!("a conversation has a last message, which is asked alone if need be")
    }

    fn request(&self, kept: &[Message]) -> Fields {
        let mut request =
            fields_with_seed(&self.fields, self.seed.map(|seed| seed.wrapping_add(self.n_turns)));
        request.insert("messages".to_owned(), messages(kept));
        request
    }

    /// Old turns to forget so that an answer has room, as far as the server's numbers allow to foresee it.
    fn n_to_forget(&self, history: &History) -> usize {
        let (Some(context), Some((n_tokens, n_chars))) = (self.remote.model.context, self.counted) else {
            return 0;
        };
        let tokens_max = u64::from(context - context / ANSWER_SHARE);
        let fits = |n: &usize| {
            let kept = history.without_oldest(*n)?;
            let tokens = u64::from(n_tokens) * chars(&kept) as u64 / n_chars.max(1) as u64;
            (tokens <= tokens_max).then_some(*n)
        };
        let n_turns = history.messages.len();
        // If nothing fits by this estimate, the server decides.
        (0..n_turns).find_map(|n| fits(&n)).unwrap_or(0)
    }

    /// Prints the answer as it comes.
    fn print(
        &mut self,
        answer: &mut Answer,
        interrupt: &Interrupt,
        observed: &mut Observed,
        begun: Instant,
    ) -> io::Result<(String, Option<Error>)> {
        let mut text = String::new();
        let mut out = io::stdout().lock();
        let error = loop {
            let next = self.remote.runtime.block_on(async {
                tokio::select! {
                    next = answer.next() => Some(next),
                    () = interrupt.stopped() => None,
                }
            });
            match next {
                Some(Ok(Some(piece))) => {
                    observed
                        .pieces
                        .push(Piece { at: begun.elapsed(), n_chars: piece.chars().count() as u32 });
                    out.write_all(shown(&piece).as_bytes())?;
                    out.flush()?;
                    text += &piece;
                }
                Some(Ok(None)) => {
                    observed.finished = Some(begun.elapsed());
                    break None;
                }
                Some(Err(error)) => break Some(error),
                None => break None,
            }
        };
        writeln!(out)?;
        Ok((text, error))
    }
}

impl super::Partner for Partner {
    fn answer(
        &mut self,
        history: &mut History,
        interrupt: &Interrupt,
    ) -> Outcome<Result<String, Unanswered>> {
        let begun = Instant::now();
        let stopped = || Ok(Err(Unanswered("stopped before the answer began".to_owned())));
        let mut answer = match self.ask(history, interrupt) {
            Ok(Some(answer)) => answer,
            Ok(None) => return stopped(),
            Err(error) => return give_up(error, "it was not answered"),
        };
        self.n_turns += 1;
        let mut observed = Observed { arrival: Duration::ZERO, ..Observed::default() };
        let (text, error) = self.print(&mut answer, interrupt, &mut observed, begun)?;
        if let Some(error) = error {
            return give_up(error, "the conversation goes on without this message");
        }
        if observed.finished.is_none() {
            notice("stopped");
            return if text.is_empty() { stopped() } else { Ok(Ok(text)) };
        }
        let summary = answer.summary;
        if let Some(usage) = summary.usage {
            let n_chars = chars(&history.messages) + text.chars().count();
            self.counted = Some((usage.prompt_tokens.saturating_add(usage.completion_tokens), n_chars));
        }
        summary.complete(&mut observed);
        let timelines: Vec<_> = observed.timeline().into_iter().collect();
        notice(&answer::speed(&timelines));
        Ok(Ok(text))
    }
}

/// Somebody who types can try again; a script must learn that something went wrong.
fn give_up(error: Error, what: &str) -> Outcome<Result<String, Unanswered>> {
    match io::stdin().is_terminal() {
        true => Ok(Err(Unanswered(format!("{error}; {what}")))),
        false => Err(error.into()),
    }
}

fn chars(messages: &[Message]) -> usize {
    messages.iter().map(|message| message.content.chars().count()).sum()
}

/// Text without what could steer a terminal: a server is not trusted with that.
fn shown(text: &str) -> String {
    text.chars().filter(|&c| !c.is_control() || c == '\n' || c == '\t').collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_server_cannot_steer_the_terminal() {
        assert_eq!(shown("a\tb\r\n\u{1b}[2Jc\u{9b}"), "a\tb\n[2Jc");
    }
}
