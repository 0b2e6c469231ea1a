//! `dsde chat`: a conversation on stdin and stdout, with a model here or behind a server.

mod history;
mod local;
mod remote;

use std::io::{self, BufRead, IsTerminal as _, Read as _, Write};
use std::sync::Arc;

use clap::Args;
use dsde_bench::Message;
use dsde_bench::workload::LINE_BYTES_MAX;

use crate::args::{DefaultsArgs, ModelArgs, PolicyArgs, SamplingArgs};
use crate::failure::{OrUsage as _, Outcome};
use crate::interrupt::Interrupt;
use crate::remote::RemoteArgs;
use history::History;

/// Share of the context kept free for an answer: one part in this many.
const ANSWER_SHARE: u32 = 4;

const EXAMPLES: &str = "\
Examples:
  dsde chat
  dsde chat --model ./Qwen3-0.6B --temperature 0.7 --system 'You answer in one sentence.'
  printf 'Hello.\\nTell me more.\\n' | dsde chat
  dsde chat --url http://127.0.0.1:8080
  OPENAI_API_KEY=... dsde chat --url https://api.example.org/v1 --model NAME

Type /help for the commands inside a conversation. Ctrl-C stops an answer and keeps what came of it; without one it ends the \
program, as Ctrl-D and /quit do.

With --url, sampling options that are given go into the request, `temperature` 0 and `max_tokens` 256 where they are not; \
servers may refuse those that OpenAI does not have: --top-k, --min-p, --repetition-penalty, --ignore-eos. --policy goes into its field `policy`.";

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

    #[command(flatten)]
    defaults: DefaultsArgs,

    #[command(flatten)]
    remote: RemoteArgs,
}

/// Runs the command.
pub(crate) fn run(args: ChatArgs) -> Outcome {
    let partner: Box<dyn Partner> = match &args.remote.url {
        Some(url) => Box::new(remote::Partner::new(url, &args)?),
        None => Box::new(local::Partner::new(&args)?),
    };
    let mut chat = Chat { partner, history: History::new(args.system), interrupt: Interrupt::listen()? };
    chat.run(io::stdin().lock())
}

/// Who answers.
trait Partner {
    /// Streams an answer to the last message to stdout, and returns it. What does not fit the context is forgotten.
    ///
    /// # Errors
    /// If the conversation cannot go on.
    fn answer(&mut self, history: &mut History, interrupt: &Interrupt)
    -> Outcome<Result<String, Unanswered>>;
}

/// Why a message got no answer, in words.
struct Unanswered(String);

struct Chat {
    partner: Box<dyn Partner>,
    history: History,
    interrupt: Arc<Interrupt>,
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

    /// Answers a message, or drops it and says why it was not answered.
    fn turn(&mut self, text: &str) -> Outcome {
        self.history.messages.push(Message::user(text));
        let interrupt = &*self.interrupt;
        match interrupt.during(|| self.partner.answer(&mut self.history, interrupt))? {
            Ok(content) => self.history.messages.push(Message { role: "assistant".to_owned(), content }),
            Err(Unanswered(reason)) => {
                self.history.messages.pop();
                notice(&reason);
            }
        }
        Ok(())
    }
}

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
}
