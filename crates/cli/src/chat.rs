//! `dsde chat`: a conversation on stdin and stdout.

use std::io::{self, BufRead, IsTerminal as _, Write};
use std::num::{NonZeroU32, NonZeroUsize};

use clap::Args;
use dsde_bench::Message;
use dsde_bench::load::closed_loop;

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
        let mut line = String::new();
        loop {
            invite();
            line.clear();
            if lines.read_line(&mut line).or_usage_of("cannot read from stdin")? == 0 {
                return Ok(());
            }
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

    fn turn(&mut self, text: &str) -> Outcome {
        self.history.messages.push(Message::user(text));
        let Some(prompt) = self.prompt()? else {
            self.history.messages.pop();
            notice("this message alone is longer than the context; it was not sent");
            return Ok(());
        };
        let request = self.sampling.request(self.n_turns, prompt, None);
        self.n_turns += 1;
        let mut printer = Streaming::new(io::stdout().lock());
        let result = closed_loop(&mut self.session.engine, vec![request], NonZeroUsize::MIN, &mut printer);
        printer.finish()?;
        let choices = result?;
        notice(&answer::speed(choices.iter().flatten()));
        let answer: String = choices.iter().flatten().map(answer::text).collect();
        self.history.messages.push(Message { role: "assistant".to_owned(), content: answer });
        Ok(())
    }

    /// Tokens of the conversation, its oldest turns forgotten as far as needed; `None` if the last message does not fit.
    fn prompt(&mut self) -> Outcome<Option<Vec<u32>>> {
        let context_len_max = self.session.engine.shape().context_len_max;
        let prompt_len_max = (context_len_max - context_len_max / ANSWER_SHARE) as usize;
        let mut n_forgotten = 0;
        loop {
            let prompt = self.session.encode_chat(&self.history.messages)?;
            if prompt.len() <= prompt_len_max {
                if n_forgotten > 0 {
                    notice(&format!(
                        "the context of {context_len_max} tokens is full: {n_forgotten} old turns forgotten"
                    ));
                }
                return Ok(Some(prompt));
            }
            if !self.history.forget_oldest_turn() {
                return Ok(None);
            }
            n_forgotten += 1;
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

    fn reset(&mut self) {
        self.messages.truncate(self.n_fixed);
    }

    /// Drops the oldest question and its answer; `false` if only the last message is left.
    fn forget_oldest_turn(&mut self) -> bool {
        if self.messages.len() < self.n_fixed + 3 {
            return false;
        }
        self.messages.drain(self.n_fixed..self.n_fixed + 2);
        true
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
    fn the_oldest_turns_are_forgotten_and_the_instruction_is_not() {
        let mut history = History::new(Some("be short".to_owned()));
        for text in ["q1", "a1", "q2", "a2", "q3"] {
            history.messages.push(Message::user(text));
        }
        let contents = |history: &History| -> Vec<String> {
            history.messages.iter().map(|message| message.content.clone()).collect()
        };
        assert!(history.forget_oldest_turn());
        assert_eq!(contents(&history), ["be short", "q2", "a2", "q3"]);
        assert!(history.forget_oldest_turn());
        assert!(!history.forget_oldest_turn());
        assert_eq!(contents(&history), ["be short", "q3"]);
        history.reset();
        assert_eq!(contents(&history), ["be short"]);
    }
}
