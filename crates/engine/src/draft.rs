//! Filling the proposals round by round: with the draft model, or from what the text repeats.
//!
//! A round is one pass of the draft over every sequence that still drafts. A chain gives it one row and gets one token, drawn
//! from the draft's distribution; a tree gives it the nodes of its last level and gets the most probable tokens after each.

use dsde_policy::Policy as _;
use dsde_sampling::Proposal;

use crate::engine::Engine;
use crate::passes::{Beam, DraftDraw, ExecutorError};
use crate::report::StepReport;
use crate::sequence::{Sequence, Turn};
use crate::step::Scratch;
use crate::suffix::{Answers, Suffix, Texts};

impl Engine {
    /// Fills the proposals.
    pub(crate) fn draft(&mut self, report: &mut StepReport) -> Result<(), ExecutorError> {
        let drafter = self.config.drafter;
        if let Some(suffix) = drafter.suffix() {
            self.draft_by_suffix(suffix);
        }
        match drafter.has_model() {
            true => self.draft_by_model(report),
            false => Ok(()),
        }
    }

    /// Reads what every sequence has said since the last step, and finds what the decoding ones have to offer.
    ///
    /// * `sl_limit`: bound on every length of the step.
    pub(crate) fn offer(&mut self, suffix: Suffix, sl_limit: u32) {
        for seq in &mut self.scheduler.running {
            // A prompt is read as the target reads it, so that no step has all of it to read.
            let known_len = (seq.context_len + seq.turn.n_known) as usize;
            seq.contexts.read(&seq.tokens[..known_len], 0);
            if seq.is_decoding() {
                let len_max = sl_limit.min(seq.sl_limit(self.shape.context_len_max));
                let mut offered = std::mem::take(&mut seq.turn.offered);
                suffix.offer(texts(seq, &self.answers), len_max, &mut offered);
                seq.turn.offered = offered;
            }
        }
    }

    /// Round by round, as a draft model would: chains take what was offered, trees what their beams ask for.
    fn draft_by_suffix(&mut self, suffix: Suffix) {
        let Self { scheduler, scratch, policy, answers, .. } = self;
        let Scratch { drafting, drafted, .. } = scratch;
        let turns = scheduler.running.iter().map(|seq| &seq.turn).enumerate();
        drafting.clear();
        drafting.extend(turns.filter(|(_, turn)| turn.is_foreseen && turn.planned > 0).map(|(i, _)| i));
        while !drafting.is_empty() {
            drafting.retain(|&i| {
                let seq = &mut scheduler.running[i];
                match beam(seq) {
                    None => {
                        let next = seq.turn.offered[seq.turn.drafted as usize];
                        seq.turn.push_token(&next);
                    }
                    Some(beam) => {
                        suffix.branch(texts(seq, answers), beam, &seq.turn.proposal, drafted);
                        seq.turn.push_level(beam, drafted);
                    }
                }
                let last = seq.turn.last_position().filter(|_| seq.turn.has_room());
                last.is_some_and(|last| policy.keep_drafting(seq.id, &last))
            });
        }
        let is_own = |turn: &Turn| turn.is_foreseen && turn.is_tree();
        for seq in scheduler.running.iter_mut().filter(|seq| is_own(&seq.turn)) {
            seq.turn.finish_tree();
        }
    }

    /// Round by round: in the first, every sequence reads what its draft has not seen; each round draws for every sequence
    /// that is still drafting.
    fn draft_by_model(&mut self, report: &mut StepReport) -> Result<(), ExecutorError> {
        self.adopt_carried();
        let mut drafting = std::mem::take(&mut self.scratch.drafting);
        drafting.clear();
        let turns = self.scheduler.running.iter().map(|seq| &seq.turn).enumerate();
        let drafts = |turn: &Turn| turn.planned > 0 && turn.carried == 0 && !turn.is_foreseen;
        drafting.extend(turns.filter(|(_, turn)| drafts(turn)).map(|(i, _)| i));
        self.catch_up(&mut drafting);
        while !drafting.is_empty() {
            self.draw_drafts(&drafting, report)?;
            self.lay_out_next_round(&mut drafting);
        }
        self.scratch.drafting = drafting;
        let is_own = |turn: &Turn| !turn.is_foreseen && turn.is_tree();
        for seq in self.scheduler.running.iter_mut().filter(|seq| is_own(&seq.turn)) {
            seq.turn.finish_tree();
        }
        Ok(())
    }

    /// Rows of the first draft round: unread known tokens, bounded like a prompt chunk over the whole batch.
    fn catch_up(&mut self, drafting: &mut Vec<usize>) {
        let mut budget = self.config.rows_max.max(drafting.len() as u32);
        let rows = &mut self.scratch.rows;
        rows.clear();
        drafting.retain(|&i| {
            let seq = &mut self.scheduler.running[i];
            let n_rows = (seq.len() - seq.draft_len).min(budget);
            if n_rows == 0 {
                return false;
            }
            budget -= n_rows;
            let unread = &seq.tokens[seq.draft_len as usize..][..n_rows as usize];
            rows.push(seq.draft_len, unread, &Proposal::new(), &seq.table);
            seq.draft_len += n_rows;
            true
        });
    }

    /// Rows of a later draft round, of every sequence that goes on: the token drafted last, or the last level of a tree.
    fn lay_out_next_round(&mut self, drafting: &mut Vec<usize>) {
        let rows = &mut self.scratch.rows;
        rows.next_round();
        let mut seq_idxs = 0..drafting.len();
        drafting.retain(|&i| {
            let seq_idx = seq_idxs.next().expect("an index per drafting sequence");
            let seq = &mut self.scheduler.running[i];
            let Some(last) = seq.turn.last_position().filter(|_| seq.turn.has_room()) else {
                return false;
            };
            let goes_on = self.policy.keep_drafting(seq.id, &last);
            if goes_on && seq.turn.is_tree() {
                rows.keep_nodes(seq_idx, seq.draft_len, &seq.turn.proposal, seq.turn.level.clone());
            } else if goes_on {
                rows.keep(seq_idx, seq.draft_len, seq.turn.proposal.tokens()[last.index as usize]);
                seq.draft_len += 1;
            }
            goes_on
        });
    }

    /// One draft pass over `scratch.rows`, which hold the sequences `drafting`; draws for those that have caught up.
    fn draw_drafts(&mut self, drafting: &[usize], report: &mut StepReport) -> Result<(), ExecutorError> {
        let (signals, prune) = (self.policy.signals(), self.policy.prune());
        let running = &mut self.scheduler.running;
        let has_caught_up = |&(_, i): &(usize, usize)| running[i].draft_len >= running[i].len();
        let ready: Vec<(usize, usize)> = drafting.iter().copied().enumerate().filter(has_caught_up).collect();
        ready.iter().for_each(|&(_, i)| running[i].mask_rows(self.shape.vocab_len));
        let draw = |&(seq_idx, i): &(usize, usize)| {
            let seq = &running[i];
            DraftDraw {
                seq_idx,
                seq: seq.id,
                params: &seq.params,
                stream: seq.stream,
                history: &seq.tokens,
                prompt_len: seq.prompt_len,
                proposal: &seq.turn.proposal,
                beam: beam(seq),
                n_rivals: prune.filter(|_| seq.can_prune()).map_or(0, |prune| prune.n_rivals),
                banned: seq.banned(),
                signals,
                is_ahead: false,
            }
        };
        let draws: Vec<DraftDraw<'_>> = ready.iter().map(draw).collect();
        let n_drafted: usize = draws.iter().map(DraftDraw::n_drafted).sum();
        self.executor.draft(&self.scratch.rows, &draws, &mut self.scratch.drafted)?;
        report.draft_rounds += 1;
        report.draft_rows += self.scratch.rows.n_rows() as u32;
        assert_eq!(self.scratch.drafted.len(), n_drafted, "drafted tokens for every draw");
        let mut drafted = &self.scratch.drafted[..];
        for (_, i) in ready {
            let seq = &mut running[i];
            match beam(seq) {
                None => seq.turn.push_token(drafted.split_off_first().expect("counted above")),
                Some(beam) => {
                    let candidates = drafted.split_off(..beam.n_drafted()).expect("counted above");
                    seq.turn.push_level(beam, candidates);
                }
            }
        }
        Ok(())
    }
}

/// Where a sequence finds what it repeats.
fn texts<'a>(seq: &'a Sequence, answers: &'a Answers) -> Texts<'a> {
    Texts { tokens: &seq.tokens, contexts: &seq.contexts, answers, salt: &seq.salt }
}

/// What a sequence asks for in its next round, if it grows a tree.
fn beam(seq: &Sequence) -> Option<Beam> {
    let turn = &seq.turn;
    let n_rows = if turn.proposal.is_empty() { 1 } else { turn.level.len() as u32 };
    turn.is_tree().then_some(Beam { n_rows, width: turn.width })
}
