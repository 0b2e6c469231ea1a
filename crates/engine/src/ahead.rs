//! Drafting ahead: while the target judges a proposal, the draft guesses on behind it, as if all of it were accepted.
//!
//! FASER (arXiv:2604.20503) verifies one frontier of a proposal on a part of the machine while the next one is drafted on
//! another. Here a frontier is the proposal of a step. Behind one of k tokens the draft reads the last of them and guesses
//! 1 + a more: the token that the target itself will draw if it accepts everything, and a tokens to follow. If it draws
//! that one, the others are the proposal of the next step, for which nobody has to wait; else they are dropped. `carry` is
//! about that.
//!
//! Greedy chains alone. A greedy verdict does not ask where a proposal comes from, so a wrong guess costs its time and nothing
//! else.

use dsde_policy::{SeqId, Signals};
use dsde_sampling::Proposal;

use crate::passes::{DraftDraw, Drafted, ExecutorError};
use crate::rows::{BlockId, RowBatch};

/// Draft passes that belong beside a target pass: [`Executor::verify_ahead`](crate::Executor::verify_ahead).
#[derive(Debug, Default)]
pub struct DraftAhead<'a> {
    /// Of the next round.
    rows: RowBatch,
    chains: Vec<Chain<'a>>,
}

#[derive(Debug)]
struct Chain<'a> {
    /// About the proposal that is being verified.
    draw: DraftDraw<'a>,
    /// That proposal and what was drafted behind it.
    proposal: Proposal,
    /// Slot of the token drafted last.
    slot: u32,
    n_left: u32,
    drafted: Vec<Drafted>,
}

impl<'a> DraftAhead<'a> {
    /// Adds a sequence that drafts `len` tokens, at least one, behind the proposal of `draw`.
    ///
    /// * `draw`: greedy, of a chain. Its index is that of the sequence here, whatever it says, and distributions are not kept.
    /// * `draft_len`: slots that the draft has stored: all tokens of the history and some of the proposal, not the last one.
    /// * `table`: covers all tokens but the last one drafted.
    pub fn push(&mut self, draw: DraftDraw<'a>, len: u32, draft_len: u32, table: &[BlockId]) {
        let DraftDraw { params, history, proposal, beam, signals, .. } = draw;
        assert!(params.is_greedy() && beam.is_none(), "greedy chains are drafted ahead");
        let known_len = history.len() as u32;
        let unread = &proposal.tokens()[(draft_len - known_len) as usize..];
        self.rows.push(draft_len, unread, &Proposal::new(), table);
        self.chains.push(Chain {
            draw: DraftDraw {
                is_ahead: true,
                n_rivals: 0,
                signals: Signals { divergence: false, ..signals },
                ..draw
            },
            proposal: proposal.clone(),
            slot: known_len + proposal.len() - 1,
            n_left: len,
            drafted: Vec::with_capacity(len as usize),
        });
    }

    /// Whether nobody drafts ahead.
    pub fn is_empty(&self) -> bool {
        self.chains.is_empty()
    }

    /// Drafts everything, round by round; `pass` is [`Executor::draft`](crate::Executor::draft).
    ///
    /// # Errors
    /// Those of `pass`.
    pub fn run(
        &mut self,
        mut pass: impl FnMut(&RowBatch, &[DraftDraw<'_>], &mut Vec<Drafted>) -> Result<(), ExecutorError>,
    ) -> Result<(), ExecutorError> {
        let mut drafting: Vec<usize> = (0..self.chains.len()).collect();
        let mut drafted = Vec::new();
        while !drafting.is_empty() {
            let draws = drafting.iter().enumerate().map(|(seq_idx, &i)| self.chains[i].draw(seq_idx));
            let draws: Vec<DraftDraw<'_>> = draws.collect();
            pass(&self.rows, &draws, &mut drafted)?;
            for (&i, drafted) in drafting.iter().zip(&drafted) {
                self.chains[i].push(*drafted);
            }
            self.lay_out_next_round(&mut drafting);
        }
        Ok(())
    }

    fn lay_out_next_round(&mut self, drafting: &mut Vec<usize>) {
        self.rows.next_round();
        let mut seq_idxs = 0..drafting.len();
        drafting.retain(|&i| {
            let seq_idx = seq_idxs.next().expect("an index per drafting sequence");
            let chain = &self.chains[i];
            let goes_on = chain.n_left > 0;
            if goes_on {
                let last = chain.drafted.last().expect("every round drafts a token");
                self.rows.keep(seq_idx, chain.slot, last.token);
            }
            goes_on
        });
    }

    /// What was drafted, by sequence, in the order in which they were added.
    pub fn into_drafted(self) -> impl Iterator<Item = (SeqId, Vec<Drafted>)> {
        self.chains.into_iter().map(|chain| (chain.draw.seq, chain.drafted))
    }
}

impl Chain<'_> {
    fn draw(&self, seq_idx: usize) -> DraftDraw<'_> {
        DraftDraw { seq_idx, proposal: &self.proposal, ..self.draw }
    }

    fn push(&mut self, drafted: Drafted) {
        self.proposal.push_chain(drafted.token);
        self.drafted.push(drafted);
        self.slot += 1;
        self.n_left -= 1;
    }
}

#[cfg(test)]
mod tests {
    use dsde_policy::DraftPosition;
    use dsde_sampling::{Params, Stream};

    use super::*;

    fn chain(tokens: &[u32]) -> Proposal {
        let mut proposal = Proposal::new();
        tokens.iter().for_each(|&token| proposal.push_chain(token));
        proposal
    }

    fn draw<'a>(seq: u64, params: &'a Params, history: &'a [u32], proposal: &'a Proposal) -> DraftDraw<'a> {
        DraftDraw {
            seq_idx: 9,
            seq: SeqId(seq),
            params,
            stream: Stream::Own { key: 0, number: seq },
            history,
            prompt_len: 1,
            proposal,
            beam: None,
            n_rivals: 4,
            banned: &[],
            signals: Signals { divergence: true, draft_shape: true },
            is_ahead: false,
        }
    }

    #[test]
    fn rounds_read_what_is_unread_and_then_what_was_drafted() {
        let params = Params::greedy();
        let (first, second) = (chain(&[11, 12]), chain(&[21, 22, 23]));
        let table: Vec<BlockId> = (0..4).map(BlockId).collect();
        let mut ahead = DraftAhead::default();
        // Three known tokens and two proposed ones, of which one is unread; two and three, of which two are.
        ahead.push(draw(1, &params, &[1, 2, 3], &first), 1, 4, &table);
        ahead.push(draw(2, &params, &[4, 5], &second), 3, 3, &table);
        let mut rounds = Vec::new();
        let pass = |rows: &RowBatch, draws: &[DraftDraw<'_>], drafted: &mut Vec<Drafted>| {
            drafted.clear();
            for draw in draws {
                assert!(draw.is_ahead && draw.n_rivals == 0 && !draw.signals.divergence);
                // The next number behind the last token.
                let token = draw.proposal.tokens().last().unwrap() + 1;
                drafted.push(Drafted { token, position: DraftPosition::default() });
            }
            let seqs: Vec<u64> = draws.iter().map(|draw| draw.seq.0).collect();
            rounds.push((rows.tokens.clone(), rows.slots.clone(), seqs));
            Ok(())
        };
        ahead.run(pass).unwrap();
        let expected = [
            (vec![12, 22, 23], vec![4, 3, 4], vec![1, 2]),
            (vec![24], vec![5], vec![2]),
            (vec![25], vec![6], vec![2]),
        ];
        assert_eq!(rounds, expected);
        let tokens = |drafted: &[Drafted]| drafted.iter().map(|d| d.token).collect::<Vec<_>>();
        let drafted: Vec<_> = ahead.into_drafted().map(|(seq, drafted)| (seq.0, tokens(&drafted))).collect();
        assert_eq!(drafted, [(1, vec![13]), (2, vec![24, 25, 26])]);
    }

    #[test]
    fn a_failed_pass_ends_it() {
        let params = Params::greedy();
        let proposal = chain(&[11]);
        let mut ahead = DraftAhead::default();
        ahead.push(draw(1, &params, &[1], &proposal), 2, 1, &[BlockId(0)]);
        let failed = ahead.run(|_, _, _| Err(ExecutorError { pass: "draft", source: "no".into() }));
        assert_eq!(failed.unwrap_err().pass, "draft");
    }
}
