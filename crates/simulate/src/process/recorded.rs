//! Acceptance as a real pair met it, replayed from traces.
//!
//! A step that drafts from a text's place on says of every accepted place that the draft was right there, and of the first rejected one
//! that it was wrong; what was drafted behind a rejection belongs to another text. Long fixed lengths leave few gaps: places
//! behind a proposal that was accepted whole. Traces of the same requests complete each other, so one may hold divergences (`dsde`)
//! and another one the draft's certainty (`confidence`). Places that nobody knows are drawn from those of all texts.

use std::collections::BTreeMap;
use std::path::Path;

use dsde_policy::PositionSignals;

use super::answers::Answer;
use super::{Place, later_rank, ties};
use crate::error::Error;
use crate::random::Random;
use crate::trace::{Position, Run, Sequence, Signals};

/// What is known of the texts of a trace.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Recording {
    texts: Vec<RecordedText>,
    /// All known places, for those that are not known.
    pool: Vec<Place>,
}

/// One request.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct RecordedText {
    /// Tokens of its prompt.
    pub prompt_len: u32,
    /// Tokens of its answer.
    pub output_len: u32,
    /// Its number within its run.
    number: usize,
    places: Vec<Option<Place>>,
    /// What it said, if that is known.
    answer: Option<Answer>,
}

/// What the steps of all traces say of a place.
#[derive(Clone, Copy, Debug, Default)]
struct Known {
    is_accepted: Option<bool>,
    position: Option<Position>,
    signals: Option<Signals>,
}

/// What the steps of all traces say of a text.
#[derive(Debug, Default)]
struct Gathered {
    prompt_len: Option<u32>,
    output_len: u32,
    places: BTreeMap<usize, Known>,
}

impl Recording {
    /// Gathers what runs at one temperature say. Requests are the same if they have the same number within their runs, so all runs
    /// must be of the same workload, read from its beginning.
    ///
    /// * `path`: for messages.
    ///
    /// # Errors
    /// If nothing is known of any request, or of none how long its prompt is, which its second step tells.
    pub fn of(runs: &[Run], temperature: f64, path: &Path) -> Result<Self, Error> {
        let mut texts: BTreeMap<u64, Gathered> = BTreeMap::new();
        for run in runs {
            gather(run, temperature, &mut texts);
        }
        texts.retain(|_, text| text.prompt_len.is_some());
        let known = texts.values().flat_map(|text| text.places.values());
        let n_accepted = known.clone().filter(|known| known.is_accepted == Some(true)).count();
        let n_known = known.filter(|known| known.is_accepted.is_some()).count();
        if n_known == 0 {
            let what =
                format!("no verified draft of a request of several steps at temperature {temperature}");
            return Err(Error::Trace { path: path.to_path_buf(), what });
        }
        let rate = (n_accepted as f64 / n_known as f64).clamp(0.01, 0.99);
        let odds = (rate / (1.0 - rate)).ln();
        let mut random = Random::new(&[n_known as u64]);
        let texts: Vec<RecordedText> =
            texts.into_iter().filter_map(|(number, text)| text.finish(number, odds, &mut random)).collect();
        let pool = texts.iter().flat_map(|text| text.places.iter().flatten().copied()).collect();
        Ok(Self { texts, pool })
    }

    /// Adds what the requests said.
    ///
    /// * `answers`: by the numbers of requests within their runs.
    /// * `path`: for messages.
    ///
    /// # Errors
    /// If a request has no answer, or its prompt another length than in the trace.
    pub fn with_answers(mut self, answers: &[Answer], path: &Path) -> Result<Self, Error> {
        for text in &mut self.texts {
            let answer = answers.get(text.number);
            let got = answer.map_or(0, |answer| answer.prompt.len());
            if got != text.prompt_len as usize {
                return Err(Error::Line {
                    path: path.to_path_buf(),
                    number: text.number + 1,
                    expected: format!("a prompt of {} tokens, as in the trace", text.prompt_len),
                    got: answer.map_or_else(|| "no line".to_owned(), |_| format!("one of {got}")),
                });
            }
            text.answer = answer.cloned();
        }
        Ok(self)
    }

    /// Whether it is known what the requests said.
    pub fn has_answers(&self) -> bool {
        self.texts.iter().any(|text| text.answer.is_some())
    }

    /// The largest token that is known of any request.
    pub fn largest_token(&self) -> Option<u32> {
        let answers = self.texts.iter().filter_map(|text| text.answer.as_ref());
        answers.flat_map(|answer| answer.prompt.iter().chain(&answer.tokens)).copied().max()
    }

    /// What request `number` said at a place of its answer, if that is known.
    pub(crate) fn token(&self, number: u64, place: u32) -> Option<u32> {
        self.answer(number)?.tokens.get(place as usize).copied()
    }

    /// Token `place` of the prompt of request `number`, if that is known.
    pub(crate) fn prompt_token(&self, number: u64, place: u32) -> Option<u32> {
        self.answer(number)?.prompt.get(place as usize).copied()
    }

    fn answer(&self, number: u64) -> Option<&Answer> {
        self.text(number).answer.as_ref()
    }

    /// Of request `number`; behind the last one it begins again.
    fn text(&self, number: u64) -> &RecordedText {
        &self.texts[(number % self.texts.len() as u64) as usize]
    }

    /// The requests in order.
    pub fn texts(&self) -> &[RecordedText] {
        &self.texts
    }

    /// Share of the places of all answers that are known.
    pub fn coverage(&self) -> f64 {
        let n_places: u32 = self.texts.iter().map(|text| text.output_len).sum();
        let known = self.texts.iter().flat_map(|text| text.places.iter().take(text.output_len as usize));
        known.flatten().count() as f64 / f64::from(n_places.max(1))
    }

    pub(super) fn place(&self, number: u64, index: usize, random: &mut Random) -> Place {
        let text = self.text(number);
        let other = self.pool[random.below(self.pool.len() as u64) as usize];
        text.places.get(index).copied().flatten().unwrap_or(other)
    }
}

fn gather(run: &Run, temperature: f64, texts: &mut BTreeMap<u64, Gathered>) {
    let sequences = || {
        let all = run.steps.iter().flat_map(|step| &step.sequences);
        all.filter(|seq| seq.choice == 0 && (seq.temperature - temperature).abs() < 1e-6)
    };
    let first = sequences().map(|seq| seq.request).min().unwrap_or(0);
    let mut emitted: BTreeMap<u64, u32> = BTreeMap::new();
    for seq in sequences() {
        let request = seq.request - first;
        let start = emitted.entry(request).or_default();
        texts.entry(request).or_default().add(seq, *start);
        *start += seq.emitted;
    }
    for (request, emitted) in emitted {
        let text = texts.entry(request).or_default();
        text.output_len = text.output_len.max(emitted);
    }
}

impl Gathered {
    /// * `start`: tokens emitted before.
    fn add(&mut self, seq: &Sequence, start: u32) {
        if start > 0 {
            // While decoding all tokens but the last are stored.
            self.prompt_len = (seq.context_len + 1).checked_sub(start);
        }
        if seq.parents.is_some() {
            return;
        }
        let n_seen = seq.verified.min(seq.accepted + 1);
        for i in 0..n_seen {
            let known = self.places.entry((start + i) as usize).or_default();
            known.is_accepted = Some(i < seq.accepted);
            let position = seq.positions.get(i as usize).copied();
            let signals = seq.signals.get(i as usize).copied();
            known.position = known.position.or(position);
            known.signals = known.signals.or(signals);
        }
    }

    fn finish(self, number: u64, odds: f64, random: &mut Random) -> Option<RecordedText> {
        let prompt_len = self.prompt_len?;
        let n_places = self.places.keys().last().map_or(0, |last| last + 1);
        let mut places = vec![None; n_places];
        for (index, known) in self.places {
            places[index] = known.place(odds, random);
        }
        let (number, output_len) = (number as usize, self.output_len);
        Some(RecordedText { prompt_len, output_len, number, places, answer: None })
    }
}

impl Known {
    /// What no trace tells of it is drawn as if its odds were those of all.
    fn place(self, odds: f64, random: &mut Random) -> Option<Place> {
        let is_accepted = self.is_accepted?;
        let drawn = ties::GREEDY.draw(odds, random);
        let signals = self.signals.unwrap_or_default();
        let position = self.position.unwrap_or_default();
        Some(Place {
            rank: if is_accepted { 0 } else { later_rank(random) },
            top_prob: position.top_prob.unwrap_or(drawn.top_prob),
            signals: PositionSignals {
                kld: signals.kld.unwrap_or(drawn.signals.kld),
                rejection: signals.rejection.unwrap_or(drawn.signals.rejection),
                draft_entropy: position
                    .entropy
                    .or(signals.draft_entropy)
                    .unwrap_or(drawn.signals.draft_entropy),
                target_entropy: signals.target_entropy.unwrap_or(drawn.signals.target_entropy),
            },
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::trace::Step;

    fn sequence(context_len: u32, verified: u32, accepted: u32) -> Sequence {
        let signals = Signals { kld: Some(0.25), ..Signals::default() };
        Sequence {
            request: 7,
            context_len,
            drafted: verified,
            verified,
            accepted,
            emitted: accepted + 1,
            signals: vec![signals; verified as usize],
            ..Sequence::default()
        }
    }

    fn run(sequences: Vec<Sequence>) -> Run {
        let step = |seq| Step { sequences: vec![seq], ..Step::default() };
        Run { steps: sequences.into_iter().map(step).collect(), ..Run::default() }
    }

    #[test]
    fn what_was_accepted_and_the_first_rejection_are_known() {
        // A prompt of 5; the first token; two of three accepted and one drawn; all of one accepted and one more.
        let runs = [run(vec![sequence(0, 0, 0), sequence(5, 3, 2), sequence(8, 1, 1)])];
        let recording = Recording::of(&runs, 0.0, Path::new("t")).unwrap();
        let text = &recording.texts()[0];
        assert_eq!((text.prompt_len, text.output_len), (5, 6));
        let is_right: Vec<Option<bool>> =
            text.places.iter().map(|place| place.map(|place| place.rank == 0)).collect();
        assert_eq!(is_right, [None, Some(true), Some(true), Some(false), Some(true)]);
        assert_eq!(text.places[1].unwrap().signals.kld, 0.25);
        // 4 of 6: neither the first token nor the bonus was ever drafted.
        assert!((recording.coverage() - 4.0 / 6.0).abs() < 1e-12);
    }

    #[test]
    fn a_trace_without_drafts_cannot_be_replayed() {
        let runs = [run(vec![sequence(0, 0, 0), sequence(5, 0, 0)])];
        let error = |runs: &[Run]| Recording::of(runs, 0.0, Path::new("t")).unwrap_err().to_string();
        let expected = "t holds too little: no verified draft of a request of several steps at temperature 0";
        assert_eq!(error(&runs), expected);
        // One step does not tell what of it was the prompt.
        assert_eq!(error(&[run(vec![sequence(5, 3, 2)])]), expected);
    }
}
