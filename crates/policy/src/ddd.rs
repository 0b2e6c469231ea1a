//! Dynamic depth: expand the draft's tree while its beam still covers a good part of the probability.
//!
//! Brown et al., "Dynamic Depth Decoding: Faster Speculative Decoding for LLMs", arXiv:2409.00142, on the trees of EAGLE-2 (Li
//! et al., arXiv:2406.16858). A beam search over path probability draws a level at a time. The sum of the path
//! probabilities of the newest level bounds what a further level can add, since at most one of its nodes is accepted; where
//! this falls below a threshold, the tree is deep enough. Of the tree the best nodes are verified.
//!
//! | equation | here |
//! |---|---|
//! | `H = ln sum over the beam of exp(path log probability)` | `DraftPosition::path_log_prob` of a level, by the engine |
//! | stop if `H < tau`, tested after levels 5, 7 and 9 only | [`is_deep_enough`], [`Ddd::keep_drafting`](Policy::keep_drafting) |
//! | at most 11 levels | [`Ddd::plan`](Policy::plan) |
//! | EAGLE-2: each node of a beam offers as many children as a beam has, the best of them are the next beam | `tree.rs` of the engine |
//! | rerank: of all candidates of all levels, verify those of highest path probability | [`Ddd::reranks`](Policy::reranks), [`Ddd::trim`](Policy::trim) |
//!
//! Deviations and choices:
//! * `tau` is tuned per model and no value was published. -2 stops where another level adds 0.14 tokens at the very most.
//! * EAGLE-2 has beams of 10 nodes with 10 children each and verifies the best 60 of all. A proposal holds at most 64 nodes,
//!   therefore `width` is 4 and `nodes` 32; `depth` is clipped to what `width` leaves. The tree that is reranked holds as
//!   many nodes as were planned for, 44, of up to 164 candidates; `nodes` of them are verified.
//! * At `width` 1 the tree is a chain and `H` the sum of `ln max q`: of the draft's distributions, not of the drawn tokens,
//!   which keeps sampled drafts lossless.
//! * A mass that is not a number, which only a broken executor can deliver, ends drafting at the next test.

use crate::registry::{Entry, LEN_MAX, Parameter, Settings, ValueSet};
use crate::{DraftPosition, PlanView, Planned, Policy, SeqId, Signals, StepFeedback};

/// The row of this policy in the registry.
pub static ENTRY: Entry = Entry {
    name: "ddd",
    summary: "a tree per sequence, expanded while its newest level covers enough probability",
    source: "Brown et al., arXiv:2409.00142, on EAGLE-2, arXiv:2406.16858",
    parameters: &[
        Parameter {
            key: "width",
            values: ValueSet::Count { min: 1, max: LEN_MAX },
            default: Some("4"),
            meaning: "nodes kept per level",
        },
        Parameter {
            key: "depth",
            values: ValueSet::Count { min: 1, max: LEN_MAX },
            default: Some("11"),
            meaning: "ceiling of the levels, clipped so that the tree holds at most 64 nodes",
        },
        Parameter {
            key: "nodes",
            values: ValueSet::Count { min: 1, max: LEN_MAX },
            default: Some("32"),
            meaning: "nodes that are verified, the likeliest of the tree",
        },
        Parameter {
            key: "tau",
            values: ValueSet::Number { min: -100.0, max: 0.0 },
            default: Some("-2"),
            meaning: "logarithm of the probability covered by a level below which drafting ends, nats",
        },
    ],
    presets: &[],
    is_per_sequence: false,
    build: |settings| Ok(Box::new(Ddd::new(settings))),
};

/// Levels after which the rule is tested; every test makes the device wait for the host.
pub const TESTED_LEVELS: [u32; 3] = [5, 7, 9];

/// Whether drafting ends after `level`, counted from 1.
///
/// * `mass_log`: logarithm of the probability covered by the level, nats, at most 0.
pub fn is_deep_enough(level: u32, mass_log: f32, tau: f64) -> bool {
    let is_covering = f64::from(mass_log) >= tau;
    TESTED_LEVELS.contains(&level) && !is_covering
}

/// Plans the deepest tree for everyone and stops each where its newest level covers too little.
#[derive(Clone, Debug)]
pub struct Ddd {
    name: String,
    width: u32,
    depth: u32,
    nodes: u32,
    tau: f64,
}

impl Ddd {
    /// Reads the settings of [`ENTRY`].
    pub fn new(settings: &Settings) -> Self {
        let width = settings.count("width");
        Self {
            name: settings.name(),
            width,
            depth: settings.count("depth").min(LEN_MAX / width),
            nodes: settings.count("nodes"),
            tau: settings.number("tau"),
        }
    }
}

impl Policy for Ddd {
    fn name(&self) -> String {
        self.name.clone()
    }

    fn signals(&self) -> Signals {
        Signals { divergence: false, draft_shape: true }
    }

    fn plan(&mut self, _view: &PlanView<'_>, plan: &mut [Planned]) {
        plan.fill(Planned { len: self.depth, width: self.width, is_settled: true, reason: "ceiling" });
    }

    fn keep_drafting(&mut self, _seq: SeqId, position: &DraftPosition) -> bool {
        !is_deep_enough(position.index + 1, position.path_log_prob, self.tau)
    }

    fn reranks(&self, _seq: SeqId) -> bool {
        true
    }

    fn trim(&mut self, _view: &PlanView<'_>, _drafted: &[&[DraftPosition]], verify_lens: &mut [u32]) {
        for len in verify_lens {
            *len = (*len).min(self.nodes);
        }
    }

    fn observe(&mut self, _feedback: &StepFeedback<'_>) {}

    fn forget(&mut self, _seq: SeqId) {}
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::samples::VIEW;

    fn policy(parameters: Option<&str>) -> Ddd {
        Ddd::new(&Settings::parse(&ENTRY, parameters).unwrap())
    }

    fn check(parameters: Option<&str>, level: u32, path_probs: &[f32], goes_on: bool) {
        let path_log_prob = path_probs.iter().sum::<f32>().ln();
        let position = DraftPosition { index: level - 1, entropy: 0.0, top_prob: 1.0, path_log_prob };
        let got = policy(parameters).keep_drafting(SeqId(1), &position);
        assert_eq!(got, goes_on, "{parameters:?}, level {level}, H {path_log_prob}");
    }

    #[test]
    fn drafting_ends_where_a_tested_level_covers_too_little() {
        // ln 0.13 = -2.040, ln 0.14 = -1.966.
        for level in TESTED_LEVELS {
            check(None, level, &[0.05, 0.04, 0.03, 0.01], false);
            check(None, level, &[0.05, 0.04, 0.03, 0.02], true);
        }
        for level in [1, 2, 3, 4, 6, 8, 10, 11] {
            check(None, level, &[0.001, 0.0, 0.0, 0.0], true);
        }
        check(Some("tau=-7"), 5, &[0.001], true);
        check(Some("tau=-6.9"), 5, &[0.001], false);
        check(Some("tau=0"), 5, &[1.0], true);
        check(None, 5, &[f32::NAN], false);
        check(None, 4, &[f32::NAN], true);
    }

    #[test]
    fn trees_fit_a_proposal() {
        for (parameters, len, width) in [
            (None, 11, 4),
            (Some("width=10"), 6, 10),
            (Some("width=1"), 11, 1),
            (Some("width=64"), 1, 64),
            (Some("width=2,depth=64"), 32, 2),
        ] {
            let policy = policy(parameters);
            assert_eq!((policy.depth, policy.width), (len, width), "{parameters:?}");
        }
    }

    #[test]
    fn the_best_nodes_are_verified() {
        let mut lens = [44, 32, 20, 0];
        policy(None).trim(&VIEW, &[], &mut lens);
        assert_eq!(lens, [32, 32, 20, 0]);
    }
}
