//! Plain decoding: the reference that speculation is measured against.

use crate::registry::Entry;
use crate::{PlanView, Planned, Policy, SeqId, Signals, StepFeedback};

/// The row of this policy in the registry.
pub static ENTRY: Entry = Entry {
    name: "off",
    summary: "never speculates; plain decoding, one token per sequence and step",
    source: "the baseline of every paper",
    parameters: &[],
    presets: &[],
    is_per_sequence: false,
    build: |_| Ok(Box::new(Off)),
};

/// Plans no speculation for anyone.
#[derive(Clone, Copy, Debug, Default)]
pub struct Off;

impl Policy for Off {
    fn name(&self) -> String {
        ENTRY.name.to_owned()
    }

    fn signals(&self) -> Signals {
        Signals::default()
    }

    fn plan(&mut self, _view: &PlanView<'_>, _plan: &mut [Planned]) {}

    fn observe(&mut self, _feedback: &StepFeedback<'_>) {}

    fn forget(&mut self, _seq: SeqId) {}
}
