//! `dsde chat`: a conversation on stdin and stdout.

use std::io::{self, BufRead, IsTerminal as _, Read as _, Write};
use std::num::{NonZeroU32, NonZeroUsize};

use clap::Args;
use dsde_bench::Message;
use dsde_bench::load::closed_loop;
use dsde_bench::workload::LINE_BYTES_MAX;

use crate::answer;
use crate::args::{ModelArgs, PolicyArgs, SamplingArgs};
use crate::failure::{OrUsage as _, Outcome};
use crate::generate::{Printer as _, Streaming};
use crate::sampling::{Sampling, Wanted};
use crate::session::{Form, Models, Session, Wish};
use crate::speculation::policy_for;

/// Share of the context kept free for an answer: one part in this many.
const ANSWER_SHARE: u32 = 4;

const EXAMPLES: &str = "\
Examples:
  dsde chat
  dsde chat --model ./Qwen3-0.6B --temperature 0.7 --system 'You answer in one sentence.'
  printf 'Hello.\\nTell me more.\\n' | dsde chat

Type /help for the commands inside a conversation. Ctrl-D or /quit ends it; Ctrl-C ends the program at once.";

/// Talk to a model, one line per turn
///
/// Answers go to stdout as they come; the prompt, notices and speed go to stderr.
#[derive(Args, Debug)]
#[command(after_help = EXAMPLES, allow_negative_numbers = true)]
pub(crate) struct ChatArgs {
    /// Instruction that stands before the conversation.
    #[arg(long, value_name = "TEXT")]
    system: Option<String>,

    #[command(flatten)]
    sampling: SamplingArgs,

    #[command(flatten)]
    policy: PolicyArgs,

    #[command(flatten)]
    model: ModelArgs,
}

/// Runs the command.
pub(crate) fn run(args: ChatArgs) -> Outcome {
    let models = Models::new(&args.model)?;
    let wish = Wish {
        policy: policy_for(args.policy.policy, &models.draft)?,
        rule: args.policy.verification.into(),
        form: Form::Chat,
        n_sequences: NonZeroU32::MIN,
        prefix_cache: true,
    };
    let session = Session::open(&models.under(&wish.policy), &wish)?;
    let wanted = Wanted { n_choices: 1, logprobs: None };
    let sampling = Sampling::new(&args.sampling, wanted, session.eos_tokens());
    sampling.check(&session.engine.shape()).or_usage()?;
    let mut chat = Chat { session, sampling, history: History::new(args.system), n_turns: 0 };
    chat.run(io::stdin().lock())
}

struct Chat {
    session: Session,
    sampling: Sampling,
    history: History,
    /// Turns so far; each has its own seed.
    n_turns: usize,
}

/// What a typed line means.
#[derive(Debug, PartialEq, Eq)]
enum Input<'a> {
    Nothing,
    Help,
    Reset,
    Quit,
    Unknown(&'a str),
    Text(&'a str),
}

impl<'a> Input<'a> {
    fn parse(line: &'a str) -> Self {
        match line.trim() {
            "" => Self::Nothing,
            "/help" => Self::Help,
            "/reset" => Self::Reset,
            "/quit" | "/exit" => Self::Quit,
            command if command.starts_with('/') => Self::Unknown(command),
            text => Self::Text(text),
        }
    }
}

impl Chat {
    fn run(&mut self, mut lines: impl BufRead) -> Outcome {
        if io::stdin().is_terminal() {
            notice("Type a message; /help lists commands, Ctrl-D ends.");
        }
        loop {
            invite();
            let line = match Line::read(&mut lines).or_usage_of("cannot read from stdin")? {
                Line::End => return Ok(()),
                Line::Text(line) => line,
                Line::TooLong => {
                    notice(&format!("this line is longer than {LINE_BYTES_MAX} bytes; it was not sent"));
                    continue;
                }
                Line::NotText => {
                    notice("this line is not UTF-8 text; it was not sent");
                    continue;
                }
            };
            match Input::parse(&line) {
                Input::Nothing => {}
                Input::Help => notice("/help lists commands, /reset forgets the conversation, /quit ends"),
                Input::Reset => {
                    self.history.reset();
                    notice("the conversation is forgotten");
                }
                Input::Quit => return Ok(()),
                Input::Unknown(command) => {
                    notice(&format!("unknown command {command}; /help lists what there is"))
                }
                Input::Text(text) => self.turn(text)?,
            }
        }
    }

    /// Answers a message, or drops it and says why it cannot be answered.
    fn turn(&mut self, text: &str) -> Outcome {
        self.history.messages.push(Message::user(text));
        let answered = match self.prompt() {
            Ok(prompt) => self.answer(prompt)?,
            Err(unanswerable) => Err(unanswerable),
        };
        match answered {
            Ok(content) => self.history.messages.push(Message { role: "assistant".to_owned(), content }),
            Err(Unanswerable(reason)) => {
                self.history.messages.pop();
                notice(&format!("{reason}; it was not sent"));
            }
        }
        Ok(())
    }

    /// Streams the model's answer.
    fn answer(&mut self, prompt: Vec<u32>) -> Outcome<Result<String, Unanswerable>> {
        let request = self.sampling.request(self.n_turns, prompt, None);
        if let Err(refused) = request.check(&self.session.engine.shape()) {
            return Ok(Err(Unanswerable(format!("this message cannot be answered: {refused}"))));
        }
        self.n_turns += 1;
        let mut printer = Streaming::new(io::stdout().lock());
        let result = closed_loop(&mut self.session.engine, [request], NonZeroUsize::MIN, &mut printer);
        printer.finish()?;
        let choices = result?;
        notice(&answer::speed(choices.iter().flatten()));
        Ok(Ok(choices.iter().flatten().map(answer::text).collect()))
    }

    /// Tokens of the conversation, its oldest turns forgotten as far as needed; none are if even that is not enough.
    fn prompt(&mut self) -> Result<Vec<u32>, Unanswerable> {
        let context_len_max = self.session.engine.shape().context_len_max;
        let prompt_len_max = (context_len_max - context_len_max / ANSWER_SHARE) as usize;
        let mut prompt_len = 0;
        for n_forgotten in 0.. {
            let Some(messages) = self.history.without_oldest(n_forgotten) else {
                break;
            };
            let prompt = self.session.encode_chat(&messages).map_err(|error| {
                Unanswerable(format!("this message cannot be turned into a prompt: {error:#}"))
            })?;
            prompt_len = prompt.len();
            if prompt_len <= prompt_len_max {
                if n_forgotten > 0 {
                    notice(&format!(
                        "the context of {context_len_max} tokens is full: {n_forgotten} old turns forgotten"
                    ));
                    self.history.messages = messages;
                }
                return Ok(prompt);
            }
        }
        let what = self.history.last_in_words();
        Err(Unanswerable(format!(
            "{what} {prompt_len} tokens, at most {prompt_len_max} leave room for an answer in the context of {context_len_max}"
        )))
    }
}

/// Why a message gets no answer, in words.
struct Unanswerable(String);

/// A line of the conversation as read.
#[derive(Debug, PartialEq, Eq)]
enum Line {
    End,
    /// Possibly with its line break.
    Text(String),
    /// More than [`LINE_BYTES_MAX`], all of which is skipped.
    TooLong,
    /// Bytes that are no UTF-8.
    NotText,
}

impl Line {
    fn read(lines: &mut impl BufRead) -> io::Result<Self> {
        let mut bytes = Vec::new();
        let n_bytes = lines.by_ref().take(LINE_BYTES_MAX + 1).read_until(b'\n', &mut bytes)? as u64;
        if n_bytes > LINE_BYTES_MAX {
            if bytes.last() != Some(&b'\n') {
                lines.skip_until(b'\n')?;
            }
            return Ok(Self::TooLong);
        }
        match n_bytes {
            0 => Ok(Self::End),
            _ => Ok(String::from_utf8(bytes).map_or(Self::NotText, Self::Text)),
        }
    }
}

/// The conversation: an optional instruction, then user and assistant taking turns.
struct History {
    messages: Vec<Message>,
    /// 1 if the first message is an instruction, which is never forgotten.
    n_fixed: usize,
}

impl History {
    fn new(system: Option<String>) -> Self {
        let instruction = |content| Message { role: "system".to_owned(), content };
        let messages: Vec<Message> = system.map(instruction).into_iter().collect();
        let n_fixed = messages.len();
        Self { messages, n_fixed }
    }

    /// The last message and the instruction, if there is one, as the subject of a sentence about their length.
    fn last_in_words(&self) -> &'static str {
        match self.n_fixed {
            0 => "this message alone has",
            _ => "this message and --system together have",
        }
    }

    fn reset(&mut self) {
        self.messages.truncate(self.n_fixed);
    }

    /// The messages without the oldest questions and their answers; `None` if not even the last message would be left.
    fn without_oldest(&self, n_turns: usize) -> Option<Vec<Message>> {
        let (fixed, turns) = self.messages.split_at(self.n_fixed);
        let kept = turns.get(2 * n_turns..).filter(|kept| !kept.is_empty())?;
        Some([fixed, kept].concat())
    }
}

/// Shows that a line can be typed, where somebody types.
fn invite() {
    if io::stdin().is_terminal() {
        let _ = write!(io::stderr(), "> ").and_then(|()| io::stderr().flush());
    }
}

fn notice(text: &str) {
    // Nothing can be done about a stderr that is gone.
    let _ = writeln!(io::stderr(), "({text})");
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_are_commands_or_text() {
        assert_eq!(Input::parse("  \n"), Input::Nothing);
        assert_eq!(Input::parse("/quit\n"), Input::Quit);
        assert_eq!(Input::parse("/reset"), Input::Reset);
        assert_eq!(Input::parse("/jump now"), Input::Unknown("/jump now"));
        assert_eq!(Input::parse(" a / b \n"), Input::Text("a / b"));
    }

    #[test]
    fn lines_that_cannot_be_sent_are_skipped_whole() {
        let long = vec![b'x'; LINE_BYTES_MAX as usize + 10];
        let input = [b"a\n".as_slice(), &long, b"\n", b"\xFF\n", b"b"].concat();
        let mut lines = input.as_slice();
        let expected = [
            Line::Text("a\n".to_owned()),
            Line::TooLong,
            Line::NotText,
            Line::Text("b".to_owned()),
            Line::End,
        ];
        for line in expected {
            assert_eq!(Line::read(&mut lines).unwrap(), line);
        }
    }

    #[test]
    fn the_oldest_turns_are_forgotten_and_the_instruction_is_not() {
        let mut history = History::new(Some("be short".to_owned()));
        for text in ["q1", "a1", "q2", "a2", "q3"] {
            history.messages.push(Message::user(text));
        }
        let contents = |n_turns| {
            let messages = history.without_oldest(n_turns)?;
            Some(messages.into_iter().map(|message| message.content).collect::<Vec<_>>().join(" "))
        };
        assert_eq!(contents(0).as_deref(), Some("be short q1 a1 q2 a2 q3"));
        assert_eq!(contents(1).as_deref(), Some("be short q2 a2 q3"));
        assert_eq!(contents(2).as_deref(), Some("be short q3"));
        assert_eq!(contents(3), None);
        history.reset();
        assert_eq!(history.messages.len(), 1);
    }
}
