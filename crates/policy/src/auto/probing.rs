//! Plain decoding, and the probes that look again whether speculation pays.

use super::choice::Candidate;
use super::probe::{Offer, Who};
use super::step::{Drafting, Step};
use super::switch::GAIN_TO_START;
use super::{Auto, plain};
use crate::{PlanView, Planned, SequenceView};

/// Length of a probe, tokens.
const PROBE_LEN: u32 = 2;

/// Uncertainty of acceptance, log-odds, up to which the question counts as settled: that of some 250 labels.
const UNCERTAINTY_OPEN: f64 = 0.15;

/// Expected gain from which a probe takes everyone.
const GAIN_TO_PROBE_ALL: f64 = 0.9;

impl Auto {
    /// Plans no drafts, but for a probe if one is due.
    pub(super) fn plan_plain(&mut self, view: &PlanView<'_>, plan: &mut [Planned]) {
        plan.fill(plain("does not pay"));
        self.step.is_open = self.is_open(view);
        self.save_up();
        let who = match view.prefill_rows {
            0 => self.probe.in_progress().or_else(|| self.start_probe(view)),
            _ => None,
        };
        match who {
            None => self.take_rest(view),
            Some(Who::All) => {
                self.begin_probe();
                let (tokens, seconds) = self.one_each(false);
                self.step.foretell(tokens, seconds);
                plan.fill(Planned { len: 1, width: 1, is_settled: false, reason: "probing" });
            }
            Some(Who::One(seq)) => {
                let Some(i) = view.sequences.iter().position(|s| s.seq == seq && s.limit > 0) else {
                    self.probe.stop();
                    return;
                };
                self.begin_probe();
                let len = PROBE_LEN.min(self.k_max);
                plan[i] = Planned { len, width: 1, is_settled: false, reason: "probing" };
            }
        }
    }

    /// A plain step passes.
    pub(super) fn save_up(&mut self) {
        self.n_since_plain = 0;
        self.guard.relax();
        self.probe.save(self.step.plain_seconds, self.step.is_open);
    }

    fn begin_probe(&mut self) {
        self.probe.advance();
        self.step.learn();
    }

    /// Starts the probe that says most, if the budget allows.
    fn start_probe(&mut self, view: &PlanView<'_>) -> Option<Who> {
        let gain = self.gain_of_one_each(false);
        let offer =
            if gain > GAIN_TO_PROBE_ALL { Some(self.offer_all(view, gain)) } else { self.offer_one(view) };
        let offer = offer?;
        self.probe.start(offer, self.step.plain_seconds, gain).then_some(offer.who)
    }

    /// A probe of the sequence that has least to catch up.
    fn offer_one(&self, view: &PlanView<'_>) -> Option<Offer> {
        let sequences = view.sequences.iter().enumerate();
        let (i, sequence) = sequences.filter(|(_, s)| s.limit > 0).min_by_key(|(_, s)| s.draft_lag)?;
        let n_sequences = view.sequences.len() as u32;
        let len = PROBE_LEN.min(self.k_max).min(sequence.limit);
        let round = self.costs.round(1);
        let tokens: f64 = self.step.candidates[i].survivals[..len as usize].iter().sum();
        let plain = self.step.plain_seconds;
        let drafts = f64::from(len) * (round + self.step.candidates[i].row_seconds);
        let speculating = drafts + self.costs.target(n_sequences, len)?;
        let step = speculating - plain - tokens * plain / f64::from(n_sequences);
        let catch_up = (self.costs.round(sequence.draft_lag) - round).max(0.0);
        Some(Offer { who: Who::One(sequence.seq), catch_up, step })
    }

    /// A probe of everyone with one token each.
    fn offer_all(&self, view: &PlanView<'_>, gain: f64) -> Offer {
        let n_unread = view.sequences.iter().map(|sequence| sequence.draft_lag).sum();
        let round = self.costs.round(view.sequences.len() as u32);
        let catch_up = (self.costs.round(n_unread) - round).max(0.0);
        Offer { who: Who::All, catch_up, step: (1.0 / gain - 1.0) * self.step.plain_seconds }
    }

    /// Whether too little is known about what is accepted to say that speculation does not pay.
    fn is_open(&self, view: &PlanView<'_>) -> bool {
        let is_unknown = |(sequence, drafting): (&SequenceView, &Drafting)| {
            let acceptance = self.acceptance_of(drafting.is_foreseen);
            acceptance.uncertainty(sequence.temperature) > UNCERTAINTY_OPEN
        };
        view.sequences.iter().zip(&self.step.drafting).any(is_unknown)
            && self.gain_of_one_each(true) * self.guard.factor() > GAIN_TO_START
    }

    /// Expected rate over that of plain decoding if everyone drafted one token.
    ///
    /// * `is_hopeful`: if acceptance were a standard deviation above what is expected of it.
    fn gain_of_one_each(&self, is_hopeful: bool) -> f64 {
        let (tokens, seconds) = self.one_each(is_hopeful);
        tokens / seconds * self.step.plain_seconds / self.step.weight
    }

    /// Expected weighted tokens and seconds of a step in which everyone drafts one token.
    fn one_each(&self, is_hopeful: bool) -> (f64, f64) {
        let Step { candidates, drafting, prices, weight, .. } = &self.step;
        let n = candidates.len().min(prices.target.len() - 1);
        let chance = |candidate: &Candidate, drafting: &Drafting| match is_hopeful {
            true if candidate.survivals[0] > 0.0 => {
                let acceptance = self.acceptance_of(drafting.is_foreseen);
                let hope = acceptance.uncertainty(drafting.temperature);
                acceptance.blind(drafting.temperature, drafting.offset + hope, 0)
            }
            _ => candidate.survivals[0],
        };
        let tokens = candidates.iter().zip(drafting).map(|(c, drafting)| c.weight * chance(c, drafting));
        let attending: f64 = candidates.iter().map(|candidate| candidate.row_seconds).sum();
        (weight + tokens.sum::<f64>(), prices.first_round[n] + prices.target[n] + attending)
    }
}
