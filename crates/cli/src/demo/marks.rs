//! Texts in which accepted drafts stand out.

use std::io::{self, IsTerminal as _};

use dsde_bench::load::Choice;
use dsde_engine::Origin;

use crate::commands::wants_colour;
use crate::session::Session;

/// How accepted tokens stand out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Colour {
    Green,
    Brackets,
}

impl Colour {
    /// Green on a terminal where colour is wanted, else brackets.
    pub(super) fn detect() -> Self {
        match io::stdout().is_terminal() && wants_colour() {
            true => Self::Green,
            false => Self::Brackets,
        }
    }

    pub(super) fn legend(self) -> &'static str {
        match self {
            Self::Green => "accepted drafts in green",
            Self::Brackets => "accepted drafts in [brackets]",
        }
    }

    fn mark(self, text: &str) -> String {
        match self {
            Self::Green => format!("\x1b[32m{text}\x1b[0m"),
            Self::Brackets => format!("[{text}]"),
        }
    }
}

/// The text of a choice, runs of accepted drafts marked.
pub(super) fn marked(session: &Session, choice: &Choice, colour: Colour) -> String {
    let runs = choice.tokens.chunk_by(|a, b| is_draft(a.origin) == is_draft(b.origin));
    let mut text = String::new();
    for run in runs {
        let bytes: Vec<u8> =
            run.iter().flat_map(|emitted| session.token_bytes(emitted.token)).copied().collect();
        let part = String::from_utf8_lossy(&bytes);
        match is_draft(run[0].origin) && !part.is_empty() {
            true => text += &colour.mark(&part),
            false => text += &part,
        }
    }
    text
}

fn is_draft(origin: Origin) -> bool {
    origin == Origin::Accepted
}
