//! Prompts whose tokens get log-probabilities: they are read in passes of their own, which keeps the logits of every row.

use std::time::Duration;

use dsde_sampling::{Proposal, TokenLogprobs};

use crate::engine::Engine;
use crate::passes::{ExecutorError, PromptScore};
use crate::report::{Event, Scored, StepReport};
use crate::rows::RowBatch;
use crate::sequence::Sequence;

/// Buffers of scoring passes.
#[derive(Default)]
pub(crate) struct Scoring {
    rows: RowBatch,
    /// Index in the running list of each sequence of the pass.
    readers: Vec<usize>,
    logprobs: Vec<TokenLogprobs>,
}

impl Engine {
    /// Reads and scores this step's parts of prompts; their sequences have nothing more to do in it.
    pub(crate) fn score(&mut self, started: Duration, report: &mut StepReport) -> Result<(), ExecutorError> {
        let Scoring { rows, readers, logprobs } = &mut self.scoring;
        rows.clear();
        readers.clear();
        let mut scores = Vec::new();
        for (i, seq) in self.scheduler.running.iter().enumerate() {
            if seq.is_scoring() && seq.turn.n_known > 0 && !seq.turn.is_drawing {
                let part = &seq.tokens[seq.context_len as usize..][..seq.turn.n_known as usize];
                rows.push(seq.context_len, part, &Proposal::new(), &seq.table);
                rows.states.extend(seq.state_use());
                readers.push(i);
                let top_len = seq.params.logprobs.unwrap_or(0);
                scores.push(PromptScore { seq_idx: rows.n_seqs() - 1, successors: unscored(seq), top_len });
            }
        }
        if readers.is_empty() {
            return Ok(());
        }
        self.executor.score(rows, &scores, logprobs)?;
        let n_scored: Vec<usize> = scores.iter().map(|score| score.successors.len()).collect();
        assert_eq!(logprobs.len(), n_scored.iter().sum::<usize>(), "a score for every successor");
        report.target_rows += rows.n_rows() as u32;
        report.n_seqs += rows.n_seqs() as u32;
        let mut logprobs = logprobs.drain(..);
        for (&i, n_scored) in readers.iter().zip(n_scored) {
            let seq = &mut self.scheduler.running[i];
            let n_known = std::mem::take(&mut seq.turn.n_known);
            report.prefill_rows += n_known;
            seq.timeline.admitted.get_or_insert(started);
            seq.context_len += n_known;
            seq.scored_len += n_scored as u32;
            let logprobs = logprobs.by_ref().take(n_scored).collect();
            self.events.push(Event::Scored(Scored { request: seq.request, logprobs }));
            self.scheduler.settle(i);
        }
        Ok(())
    }
}

/// What follows the rows of this step and has not been told: after a preemption rows are read again whose successors have.
fn unscored(seq: &Sequence) -> &[u32] {
    let read = seq.context_len + seq.turn.n_known;
    &seq.tokens[seq.scored_len.min(read + 1) as usize..=read as usize]
}
