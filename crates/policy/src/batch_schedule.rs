//! A length per batch size from a table that somebody measured: what vLLM serves as dynamic speculative decoding.
//!
//! vLLM, `num_speculative_tokens_per_batch_size` (vllm-project/vllm, pull request 32374). The idea: extra rows are almost
//! free while the target waits for memory and cost time once it is busy with arithmetic, and the batch size says which.
//!
//! | rule | here |
//! |---|---|
//! | rows from 1 on, ascending; gaps inherit the previous length | [`LenTable`] |
//! | the batch is as large as the number of sequences that decode | [`BatchSchedule::plan`](Policy::plan) |
//!
//! The default table is the example that vLLM ships. It is no better than a guess on any other hardware: where the price
//! of a row begins to rise depends on the machine and on both models.
//!
//! Deviations:
//! * Beyond the last row its length stays; there is no separate configured length that the table would fall back to.
//! * Sequences still reading their prompt are not counted. They do not speculate in this step.

use crate::registry::{Entry, LEN_MAX, Parameter, Settings, ValueSet};
use crate::table::LenTable;
use crate::{PlanView, Planned, Policy, SeqId, Signals, StepFeedback};

/// The row of this policy in the registry.
pub static ENTRY: Entry = Entry {
    name: "batch_schedule",
    summary: "the same length for every sequence, looked up by batch size in a table",
    source: "vLLM, num_speculative_tokens_per_batch_size, pull request 32374",
    parameters: &[Parameter {
        key: "table",
        values: ValueSet::Table { len_max: LEN_MAX },
        default: Some("1-64:3;65-128:1;129-512:0"),
        meaning: "tokens drafted per sequence and step, by number of decoding sequences",
    }],
    presets: &[],
    is_per_sequence: false,
    build: |settings| Ok(Box::new(BatchSchedule::new(settings))),
};

/// Plans what the table says for the size of the batch.
#[derive(Clone, Debug)]
pub struct BatchSchedule {
    name: String,
    table: LenTable,
}

impl BatchSchedule {
    /// Reads the settings of [`ENTRY`].
    pub fn new(settings: &Settings) -> Self {
        Self { name: settings.name(), table: settings.table("table") }
    }
}

impl Policy for BatchSchedule {
    fn name(&self) -> String {
        self.name.clone()
    }

    fn signals(&self) -> Signals {
        Signals::default()
    }

    fn plan(&mut self, view: &PlanView<'_>, plan: &mut [Planned]) {
        let len = self.table.len(view.sequences.len() as u32);
        plan.fill(Planned { len, width: 1, is_settled: true, reason: "schedule" });
    }

    fn observe(&mut self, _feedback: &StepFeedback<'_>) {}

    fn forget(&mut self, _seq: SeqId) {}
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::SequenceView;
    use crate::samples::{SEQUENCE, VIEW};

    fn check(parameters: Option<&str>, n_sequences: usize, expected: u32) {
        let one = SequenceView { seq: SeqId(0), limit: 16, context_len: 9, ..SEQUENCE };
        let sequences: Vec<SequenceView> =
            (0..n_sequences as u64).map(|seq| SequenceView { seq: SeqId(seq), ..one }).collect();
        let view = PlanView { sequences: &sequences, prefill_rows: 100, n_waiting: 100, ..VIEW };
        let mut plan = vec![Planned::none(); n_sequences];
        BatchSchedule::new(&Settings::parse(&ENTRY, parameters).unwrap()).plan(&view, &mut plan);
        assert!(
            plan.iter().all(|planned| planned.len == expected),
            "{parameters:?} at {n_sequences}: {plan:?}"
        );
    }

    #[test]
    fn the_decoding_sequences_choose_the_row() {
        for (n_sequences, len) in [(0, 0), (1, 3), (64, 3), (65, 1), (128, 1), (129, 0), (600, 0)] {
            check(None, n_sequences, len);
        }
        for (n_sequences, len) in [(4, 3), (5, 1), (8, 1), (9, 0)] {
            check(Some("table=1-4:3;5-8:1;9-:0"), n_sequences, len);
        }
    }
}
