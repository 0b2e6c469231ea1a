//! What a client sees of a server's answers, as timelines: the definitions in [`metrics`](crate::metrics) then hold for servers,
//! too. Times are those of the client, so the way to the server counts.
//!
//! A server tells the number of tokens at the end of an answer only; until then there are pieces of text. Tokens are spread
//! over the pieces by their characters. A server that never tells it is taken to send one token per piece.

use std::time::Duration;

use dsde_engine::RequestTimeline;

use crate::load::Served;

/// A piece of text that arrived.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Piece {
    /// When, on the client's clock.
    pub at: Duration,
    /// Its length, characters.
    pub n_chars: u32,
}

/// One request as its client saw it.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Observed {
    /// When it was first sent; later attempts after a refusal do not change it.
    pub arrival: Duration,
    /// What arrived so far.
    pub pieces: Vec<Piece>,
    /// When the answer was complete.
    pub finished: Option<Duration>,
    /// Tokens of prompt and answer, as the server counts them.
    pub usage: Option<[u32; 2]>,
    /// Verified and accepted tokens, as the server counts them.
    pub speculation: Option<[u32; 2]>,
}

impl Observed {
    /// Tokens of the answer so far.
    ///
    /// * `tokens_per_char`: of other answers, for one whose own number is not known yet.
    fn n_tokens(&self, tokens_per_char: Option<f64>) -> f64 {
        match (self.usage, tokens_per_char) {
            (Some([_, completion_tokens]), _) => f64::from(completion_tokens),
            (None, Some(ratio)) => ratio * self.n_chars(),
            (None, None) => self.pieces.len() as f64,
        }
    }

    fn n_chars(&self) -> f64 {
        self.pieces.iter().map(|piece| f64::from(piece.n_chars)).sum()
    }

    /// The timeline of an answer that is complete. Every token beyond the accepted ones is one step of the target; without
    /// statistics of the server nothing is said about steps.
    pub fn timeline(&self) -> Option<RequestTimeline> {
        let finished = self.finished?;
        let [prompt_tokens, emitted] = self.usage.unwrap_or([0, self.pieces.len() as u32]);
        let first_piece = self.pieces.first().map(|piece| piece.at);
        // Tokens without text, such as an end of text alone.
        let first_token = first_piece.or((emitted > 0).then_some(finished));
        let [verified, accepted] = self.speculation.unwrap_or_default();
        let steps = self.speculation.map_or(0, |_| steps(emitted.into(), accepted.into()));
        Some(RequestTimeline {
            arrival: self.arrival,
            first_token,
            finished: self.pieces.last().map_or(finished, |piece| piece.at),
            prompt_tokens,
            emitted,
            steps: u32::try_from(steps).unwrap_or(u32::MAX),
            drafted: verified,
            verified,
            accepted,
            ..RequestTimeline::default()
        })
    }

    /// Times between pieces that follow each other.
    pub fn gaps(&self) -> impl Iterator<Item = Duration> {
        self.pieces.windows(2).map(|pair| pair[1].at.saturating_sub(pair[0].at))
    }
}

/// Target passes behind `emitted` tokens: each gives one token besides those it accepted.
pub fn steps(emitted: u64, accepted: u64) -> u64 {
    // The last pass may accept more than was allowed to be emitted.
    emitted.saturating_sub(accepted).max(emitted.min(1))
}

/// What was served between `from` and `to`; of speculation, nothing is known about parts of answers.
pub fn served(requests: &[&Observed], from: Duration, to: Duration) -> Served {
    let known = requests.iter().filter(|request| request.usage.is_some());
    let (tokens, chars) = known.fold((0.0, 0.0), |(tokens, chars), request| {
        (tokens + request.n_tokens(None), chars + request.n_chars())
    });
    let tokens_per_char = (chars > 0.0).then(|| tokens / chars);
    let emitted = |request: &&Observed| {
        let (all, n_tokens) = (request.n_chars(), request.n_tokens(tokens_per_char));
        let inside = request.pieces.iter().filter(|piece| (from..to).contains(&piece.at));
        let chars: f64 = inside.map(|piece| f64::from(piece.n_chars)).sum();
        if all > 0.0 { n_tokens * chars / all } else { 0.0 }
    };
    let emitted: f64 = requests.iter().map(emitted).sum();
    Served { time: to.saturating_sub(from), emitted: emitted.round() as u64, ..Served::default() }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::metrics;

    fn ms(ms: u64) -> Duration {
        Duration::from_millis(ms)
    }

    /// Pieces at these milliseconds with so many characters.
    fn observed(pieces: &[(u64, u32)], tokens: Option<u32>) -> Observed {
        Observed {
            arrival: ms(100),
            pieces: pieces.iter().map(|&(at, n_chars)| Piece { at: ms(at), n_chars }).collect(),
            finished: tokens.map(|_| ms(1000)),
            usage: tokens.map(|tokens| [7, tokens]),
            speculation: None,
        }
    }

    #[test]
    fn latencies_of_a_stream_follow_the_common_definitions() {
        let request =
            Observed { speculation: Some([9, 6]), ..observed(&[(150, 4), (250, 8), (400, 8)], Some(11)) };
        let timeline = request.timeline().unwrap();
        assert_eq!(metrics::ttft(&timeline), Some(ms(50)));
        // (400 - 150) / (11 - 1): the end is the last text, not what the server says after it.
        assert_eq!(metrics::tpot(&timeline), Some(ms(25)));
        assert_eq!(request.gaps().collect::<Vec<_>>(), [ms(100), ms(150)]);
        assert_eq!(
            (timeline.prompt_tokens, timeline.verified, timeline.accepted, timeline.steps),
            (7, 9, 6, 5)
        );
    }

    #[test]
    fn an_answer_without_numbers_has_a_token_per_piece_and_no_steps() {
        let request = Observed { finished: Some(ms(300)), ..observed(&[(150, 4), (250, 9)], None) };
        let timeline = request.timeline().unwrap();
        assert_eq!((timeline.emitted, timeline.steps), (2, 0));
        assert_eq!(observed(&[(150, 4)], None).timeline(), None);
    }

    #[test]
    fn an_answer_without_text_begins_at_its_end() {
        let timeline = observed(&[], Some(1)).timeline().unwrap();
        assert_eq!((timeline.first_token, timeline.finished), (Some(ms(1000)), ms(1000)));
        assert_eq!(observed(&[], Some(0)).timeline().unwrap().first_token, None);
    }

    #[test]
    fn tokens_of_a_part_are_those_of_its_characters() {
        // 10 tokens for 20 characters: 2 before 200 ms, 8 after; the unfinished one has 3 of 6 characters there.
        let requests = [observed(&[(150, 4), (250, 16)], Some(10)), observed(&[(120, 6), (210, 6)], None)];
        let requests = requests.each_ref();
        let part = served(&requests, ms(200), ms(700));
        assert_eq!((part.time, part.emitted), (ms(500), 8 + 3));
        assert_eq!(served(&requests, ms(100), ms(200)).emitted, 2 + 3);
        // Nobody tells numbers: one token per piece.
        assert_eq!(served(&requests[1..], ms(100), ms(200)).emitted, 1);
    }

    #[test]
    fn every_token_that_was_not_drafted_is_a_step() {
        assert_eq!([steps(10, 6), steps(10, 10), steps(3, 5), steps(0, 0)], [4, 1, 1, 0]);
    }
}
