//! What was said so far.

use dsde_bench::Message;

/// The conversation: an optional instruction, then user and assistant taking turns.
pub(super) struct History {
    pub(super) messages: Vec<Message>,
    /// 1 if the first message is an instruction, which is never forgotten.
    n_fixed: usize,
}

impl History {
    pub(super) fn new(system: Option<String>) -> Self {
        let instruction = |content| Message { role: "system".to_owned(), content };
        let messages: Vec<Message> = system.map(instruction).into_iter().collect();
        let n_fixed = messages.len();
        Self { messages, n_fixed }
    }

    /// The last message and the instruction, if there is one, as the subject of a sentence about their length.
    pub(super) fn last_in_words(&self) -> &'static str {
        match self.n_fixed {
            0 => "this message alone has",
            _ => "this message and --system together have",
        }
    }

    pub(super) fn reset(&mut self) {
        self.messages.truncate(self.n_fixed);
    }

    /// The messages without the oldest questions and their answers; `None` if not even the last message would be left.
    pub(super) fn without_oldest(&self, n_turns: usize) -> Option<Vec<Message>> {
        let (fixed, turns) = self.messages.split_at(self.n_fixed);
        let kept = turns.get(2 * n_turns..).filter(|kept| !kept.is_empty())?;
        Some([fixed, kept].concat())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

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
