//! Prompts that are scored: how probable the target found every token of them.

use dsde_engine::{PromptScore, RowBatch};
use dsde_kernels::Backend;
use dsde_kernels::cpu::Kernel;
use dsde_sampling::TokenLogprobs;

use super::outputs::LOGIT_ROWS_MAX;
use super::{Model, ModelExecutor};

impl<B: Backend> ModelExecutor<B> {
    /// See [`Executor::score`](dsde_engine::Executor::score).
    pub(super) fn read_and_score(
        &mut self,
        rows: &RowBatch,
        scores: &[PromptScore<'_>],
        logprobs: &mut Vec<TokenLogprobs>,
    ) {
        let outputs = &mut self.plan.outputs;
        let mut asked = Vec::new();
        outputs.clear();
        for &PromptScore { seq_idx, successors, top_len } in scores {
            let end = rows.rows_of(seq_idx).end as u32;
            outputs.extend(end - successors.len() as u32..end);
            asked.extend(successors.iter().map(|&token| (token, top_len)));
        }
        let Model { llama, kv } = &mut self.target;
        llama.forward(&self.backend, rows, outputs, kv);
        if let Some(draft) = &mut self.draft {
            draft.read_target(&self.backend, llama, rows, outputs);
        }
        logprobs.clear();
        logprobs.resize(asked.len(), TokenLogprobs::default());
        let (isa, vocab_len) = (self.backend.isa(), llama.config().vocab_len);
        for (part_idx, asked) in asked.chunks(LOGIT_ROWS_MAX).enumerate() {
            let first = part_idx * LOGIT_ROWS_MAX;
            let logits = llama.logits(&self.backend, first..first + asked.len());
            let n_logits = logits.len();
            let jobs = asked.iter().zip(logits.chunks_exact(vocab_len)).zip(&mut logprobs[first..]);
            self.workers.run(&self.backend, n_logits, jobs, |((&(token, top_len), row), result), _| {
                *result = isa.run(Score { row, token, top_len });
            });
        }
    }
}

/// The score of one token.
struct Score<'a> {
    /// Raw logits before it, `[vocab_len]`.
    row: &'a [f32],
    token: u32,
    top_len: u32,
}

impl Kernel for Score<'_> {
    type Output = TokenLogprobs;

    #[inline(always)]
    fn run(self) -> TokenLogprobs {
        TokenLogprobs::of_logits(self.row, self.token, self.top_len)
    }
}
