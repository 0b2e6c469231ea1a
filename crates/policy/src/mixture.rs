//! Several policies in one batch: each plans for its own sequences and learns from them alone.
//!
//! One policy, the *main* one, is everybody's unless another is chosen for a sequence. Lengths never change what is emitted, so
//! whoever asks for another policy than the server's changes nobody's text, only how fast it comes.
//!
//! What a policy sees beside others:
//! * Of the sequences only its own, in the engine's order.
//! * The rows of the others as rows of prompts, so that a step costs what it costs. How many they are is settled when lengths
//!   are planned and stays so until the step ends: what is drafted later can reach no earlier decision through them.
//! * Passes, times and positions of the whole step.
//! * Signals that another policy asked for.
//!
//! A policy that panics is asked no more, and its sequences decode plainly.
//!
//! Deviation from the published systems: rules that look at the batch (its size, budgets, caps) look at the policy's share.

use std::collections::HashMap;

use crate::guard::{Guarded, PolicyFailure};
use crate::registry::Config;
use crate::{
    CostProfile, DraftPosition, Outcome, PlanView, Planned, Policy, Prune, SeqId, SequenceView, Signals,
    StepFeedback,
};

/// Most policies beside the main one. 16: about as many as the registry has.
pub const OTHERS_MAX: usize = 16;

/// Place of the main policy.
const MAIN: usize = 0;

/// No room for one more policy; some of those in use must end first.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "{OTHERS_MAX} other policies are in use, {got} would be one too many; try again later or take one of: {in_use}"
)]
pub struct Full {
    /// Names of the policies in use.
    pub in_use: String,
    /// The policy that was chosen.
    pub got: String,
}

/// A policy and what it has to do with the current step.
struct Part {
    policy: Guarded,
    name: String,
    /// Whether its failure, if any, was taken.
    is_failure_taken: bool,
    /// Sequences it was chosen for; not counted for the main policy.
    n_members: usize,
    /// When it was chosen last, in choices.
    chosen: u64,
    share: Share,
}

/// A policy's part of a step.
#[derive(Default)]
struct Share {
    /// Places of its sequences in the whole view.
    places: Vec<usize>,
    views: Vec<SequenceView>,
    plan: Vec<Planned>,
    /// Rows of the other sequences, as far as they were planned.
    other_rows: u32,
}

impl Share {
    /// The part of `view` that belongs to the policy.
    fn of<'a>(&'a self, view: &PlanView<'a>) -> PlanView<'a> {
        let prefill_rows = view.prefill_rows.saturating_add(self.other_rows);
        PlanView { sequences: &self.views, prefill_rows, ..*view }
    }

    /// Rows that the target read for the sequences planned here; those whose prompt has just ended were not.
    fn rows(&self, outcomes: &[Outcome<'_>]) -> u32 {
        let mut views = &self.views[..];
        let mut rows = 0;
        for outcome in outcomes {
            if let Some(place) = views.iter().position(|view| view.seq == outcome.seq) {
                views = &views[place + 1..];
                rows += 1 + outcome.verified;
            }
        }
        rows
    }
}

/// A main policy and those chosen beside it. Without a choice it does what the main one does, and nothing else.
pub struct Mixture {
    /// The main policy, then the others; places of others are taken over when nobody uses them.
    parts: Vec<Part>,
    /// Place of the policy of every sequence that has another than the main one.
    members: HashMap<SeqId, usize>,
    n_choices: u64,
    /// Taught to policies that join.
    cost_profile: CostProfile,
}

impl Mixture {
    /// Everybody has `main`.
    pub fn new(main: Box<dyn Policy>) -> Self {
        let parts = vec![Part::new(main)];
        Self { parts, members: HashMap::new(), n_choices: 0, cost_profile: CostProfile::default() }
    }

    /// Replaces the main policy and returns the old one; the others stay.
    pub fn replace_main(&mut self, main: Box<dyn Policy>) -> Box<dyn Policy> {
        std::mem::replace(&mut self.parts[MAIN], Part::new(main)).policy.into_inner()
    }

    /// Policies that have failed since the last call: who has one of them decodes plainly.
    pub fn take_failures(&mut self) -> impl Iterator<Item = PolicyFailure> {
        self.parts.iter_mut().filter(|part| !part.is_failure_taken).filter_map(|part| {
            let message = part.policy.failure()?.to_owned();
            part.is_failure_taken = true;
            Some(PolicyFailure { policy: part.name.clone(), message })
        })
    }

    /// Costs that every policy chosen from now on knows.
    pub fn set_cost_profile(&mut self, cost_profile: CostProfile) {
        self.cost_profile = cost_profile;
    }

    /// Chooses a policy for sequences that have not begun, until they are forgotten. Sequences that choose the same share one,
    /// and what it has learnt outlives them until its place is needed.
    ///
    /// # Errors
    /// If it would be one policy too many; nothing is changed then.
    pub fn choose(&mut self, config: &Config, seqs: impl IntoIterator<Item = SeqId>) -> Result<(), Full> {
        let name = config.to_string();
        let place = match self.parts.iter().position(|part| part.name == name) {
            Some(place) => place,
            None => self.place(config, name)?,
        };
        if place != MAIN {
            self.n_choices += 1;
            let n_members = self.members.len();
            self.members.extend(seqs.into_iter().map(|seq| (seq, place)));
            self.parts[place].n_members += self.members.len() - n_members;
            self.parts[place].chosen = self.n_choices;
        }
        Ok(())
    }

    /// A place for a policy that has none: a new one, or that of the policy unused for longest.
    fn place(&mut self, config: &Config, name: String) -> Result<usize, Full> {
        let join = || {
            let mut policy = config.build();
            self.cost_profile.teach(&mut *policy);
            Part::new(policy)
        };
        if self.parts.len() <= OTHERS_MAX {
            self.parts.push(join());
            return Ok(self.parts.len() - 1);
        }
        let others = || self.parts.iter().enumerate().skip(MAIN + 1);
        let unused = others().filter(|(_, part)| part.n_members == 0).min_by_key(|(_, part)| part.chosen);
        let Some((place, _)) = unused else {
            let in_use: Vec<&str> = others().map(|(_, part)| part.name.as_str()).collect();
            return Err(Full { in_use: in_use.join(", "), got: name });
        };
        self.parts[place] = join();
        Ok(place)
    }

    /// Whether every sequence has the main policy.
    fn is_plain(&self) -> bool {
        self.members.is_empty()
    }

    fn place_of(&self, seq: SeqId) -> usize {
        self.members.get(&seq).copied().unwrap_or(MAIN)
    }

    /// Policies that somebody has, the main one last: it knows what the others have planned.
    fn live(&mut self) -> impl Iterator<Item = (usize, &mut Part)> {
        let (main, others) = self.parts.split_at_mut(MAIN + 1);
        let others = others.iter_mut().zip(MAIN + 1..).filter(|(part, _)| part.n_members > 0);
        others.map(|(part, place)| (place, part)).chain(main.iter_mut().map(|part| (MAIN, part)))
    }

    /// Gives every sequence to its policy.
    fn divide(&mut self, view: &PlanView<'_>) {
        for part in &mut self.parts {
            part.share.places.clear();
            part.share.views.clear();
        }
        for (i, sequence) in view.sequences.iter().enumerate() {
            let place = self.place_of(sequence.seq);
            let share = &mut self.parts[place].share;
            share.places.push(i);
            share.views.push(*sequence);
        }
    }
}

impl Part {
    fn new(policy: Box<dyn Policy>) -> Self {
        Self {
            name: policy.name(),
            policy: Guarded::new(policy),
            is_failure_taken: false,
            n_members: 0,
            chosen: 0,
            share: Share::default(),
        }
    }
}

/// Rows that a planned proposal adds at most.
fn drafted_rows(planned: &Planned, view: &SequenceView) -> u32 {
    planned.len.min(view.limit).saturating_mul(planned.width)
}

/// The name is the main policy's.
impl Policy for Mixture {
    fn name(&self) -> String {
        self.parts[MAIN].name.clone()
    }

    fn signals(&self) -> Signals {
        if self.is_plain() {
            return self.parts[MAIN].policy.signals();
        }
        let asked = self.parts.iter().filter(|part| !part.share.views.is_empty());
        asked.map(|part| part.policy.signals()).fold(Signals::default(), |all, one| Signals {
            divergence: all.divergence || one.divergence,
            draft_shape: all.draft_shape || one.draft_shape,
        })
    }

    fn plan(&mut self, view: &PlanView<'_>, plan: &mut [Planned]) {
        if self.is_plain() {
            return self.parts[MAIN].policy.plan(view, plan);
        }
        self.divide(view);
        let n_sequences = view.sequences.len() as u32;
        let mut n_planned: u32 = 0;
        for (_, Part { policy, share, .. }) in self.live() {
            share.other_rows = (n_sequences - share.views.len() as u32).saturating_add(n_planned);
            let mut lens = std::mem::take(&mut share.plan);
            lens.clear();
            lens.resize(share.views.len(), Planned::none());
            policy.plan(&share.of(view), &mut lens);
            for ((&i, planned), sequence) in share.places.iter().zip(&lens).zip(&share.views) {
                plan[i] = *planned;
                n_planned = n_planned.saturating_add(drafted_rows(planned, sequence));
            }
            share.plan = lens;
        }
    }

    fn keep_drafting(&mut self, seq: SeqId, position: &DraftPosition) -> bool {
        let place = if self.is_plain() { MAIN } else { self.place_of(seq) };
        self.parts[place].policy.keep_drafting(seq, position)
    }

    fn takes_foreseen(&self, seq: SeqId) -> bool {
        self.parts[self.place_of(seq)].policy.takes_foreseen(seq)
    }

    fn reranks(&self, seq: SeqId) -> bool {
        self.parts[self.place_of(seq)].policy.reranks(seq)
    }

    fn trim(&mut self, view: &PlanView<'_>, drafted: &[&[DraftPosition]], verify_lens: &mut [u32]) {
        if self.is_plain() {
            return self.parts[MAIN].policy.trim(view, drafted, verify_lens);
        }
        for (_, Part { policy, share, .. }) in self.live() {
            let own: Vec<&[DraftPosition]> = share.places.iter().map(|&i| drafted[i]).collect();
            let mut lens: Vec<u32> = share.places.iter().map(|&i| verify_lens[i]).collect();
            policy.trim(&share.of(view), &own, &mut lens);
            for (&i, len) in share.places.iter().zip(lens) {
                verify_lens[i] = len;
            }
        }
    }

    /// The main policy's, and only while it has every sequence: nobody's proposal is cut by a rule that was not chosen for it.
    fn prune(&self) -> Option<Prune> {
        self.parts[MAIN].policy.prune().filter(|_| self.is_plain())
    }

    /// As with [`Policy::prune`]: nobody waits beside a pass that is slower for a length that was not chosen for it.
    fn ahead_len(&self) -> u32 {
        if self.is_plain() { self.parts[MAIN].policy.ahead_len() } else { 0 }
    }

    /// Costs are those of the whole engine; the main policy learns them.
    fn learn_costs(&mut self, feedback: &StepFeedback<'_>) {
        self.parts[MAIN].policy.learn_costs(feedback);
    }

    fn observe(&mut self, feedback: &StepFeedback<'_>) {
        if self.is_plain() {
            return self.parts[MAIN].policy.observe(feedback);
        }
        let places: Vec<usize> = feedback.outcomes.iter().map(|outcome| self.place_of(outcome.seq)).collect();
        let mut own: Vec<Outcome<'_>> = Vec::new();
        for (place, Part { policy, share, .. }) in self.live() {
            own.clear();
            let outcomes = feedback.outcomes.iter().zip(&places);
            own.extend(outcomes.filter(|(_, owner)| **owner == place).map(|(outcome, _)| *outcome));
            let prefill_rows = feedback.target_rows.saturating_sub(share.rows(&own));
            policy.observe(&StepFeedback { outcomes: &own, prefill_rows, ..*feedback });
        }
    }

    fn explain(&self, seq: SeqId, numbers: &mut Vec<(&'static str, f64)>) {
        self.parts[self.place_of(seq)].policy.explain(seq, numbers);
    }

    fn wants_draft(&self) -> bool {
        let others = self.parts[MAIN + 1..].iter().filter(|part| part.n_members > 0);
        self.parts[MAIN].policy.wants_draft() || others.into_iter().any(|part| part.policy.wants_draft())
    }

    fn forget(&mut self, seq: SeqId) {
        let place = self.members.remove(&seq).unwrap_or(MAIN);
        let part = &mut self.parts[place];
        part.policy.forget(seq);
        if place != MAIN {
            part.n_members -= 1;
        }
    }
}
