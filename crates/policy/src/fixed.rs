//! One length for everyone, always: what most engines offer, and the rival that dynamic policies have to beat.
//!
//! Speculative decoding as introduced by Leviathan et al. (arXiv:2211.17192) and Chen et al. (arXiv:2302.01318). The best
//! length depends on the model pair, the text and the load; finding it takes a sweep.

use crate::registry::{Entry, LEN_MAX, Parameter, ValueSet};
use crate::{Cap, PlanView, Planned, Policy, SeqId, Signals, StepFeedback};

/// The row of this policy in the registry.
pub static ENTRY: Entry = Entry {
    name: "fixed",
    summary: "the same length for every sequence in every step",
    source: "Leviathan et al., arXiv:2211.17192; Chen et al., arXiv:2302.01318",
    parameters: &[Parameter {
        key: "k",
        values: ValueSet::Count { min: 1, max: LEN_MAX },
        // The best length is a property of pair, text and load: nobody can know it beforehand.
        default: None,
        meaning: "tokens drafted per sequence and step",
    }],
    presets: &[],
    is_per_sequence: true,
    build: |settings| Ok(Cap::around(Fixed::new(settings.count("k")), settings)),
};

/// Plans the same length for every sequence.
#[derive(Clone, Copy, Debug)]
pub struct Fixed {
    len: u32,
}

impl Fixed {
    /// Plans `len` tokens, which the engine clips to each sequence's limit.
    pub fn new(len: u32) -> Self {
        Self { len }
    }
}

impl Policy for Fixed {
    fn name(&self) -> String {
        format!("{}:k={}", ENTRY.name, self.len)
    }

    fn signals(&self) -> Signals {
        Signals::default()
    }

    fn plan(&mut self, _view: &PlanView<'_>, plan: &mut [Planned]) {
        plan.fill(Planned { len: self.len, width: 1, is_settled: true, reason: "fixed" });
    }

    fn observe(&mut self, _feedback: &StepFeedback<'_>) {}

    fn forget(&mut self, _seq: SeqId) {}
}
