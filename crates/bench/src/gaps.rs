//! Times between the emissions of a request, from the times of the engine's steps.

use std::collections::HashMap;
use std::ops::ControlFlow;
use std::time::Duration;

use dsde_engine::{Emission, StepReport};

use crate::load::Observer;

/// Watches a load of requests with one choice each.
#[derive(Debug, Default)]
pub struct Gaps {
    /// Time of all steps so far.
    now: Duration,
    /// Who emitted in this step.
    emitting: Vec<usize>,
    /// When a request emitted last.
    last: HashMap<usize, Duration>,
    /// All times between two emissions of the same request.
    pub gaps: Vec<Duration>,
}

impl Observer for Gaps {
    fn emitted(&mut self, request_idx: usize, _emission: &Emission) {
        self.emitting.push(request_idx);
    }

    fn stepped(&mut self, report: &StepReport) -> ControlFlow<()> {
        self.now += report.step_time;
        for request_idx in self.emitting.drain(..) {
            if let Some(last) = self.last.insert(request_idx, self.now) {
                self.gaps.push(self.now - last);
            }
        }
        ControlFlow::Continue(())
    }
}

#[cfg(test)]
mod tests {
    use dsde_engine::RequestId;

    use super::*;

    #[test]
    fn gaps_are_the_times_of_the_steps_between_emissions() {
        let mut gaps = Gaps::default();
        let emission = Emission { request: RequestId(0), choice: 0, tokens: Vec::new(), text: Vec::new() };
        // Request 0 emits after 10, 30 and 60 ms, request 1 after 30 ms only.
        for (step_ms, emitting) in [(10, &[0][..]), (20, &[0, 1]), (30, &[0])] {
            for &request_idx in emitting {
                gaps.emitted(request_idx, &emission);
            }
            let step_time = Duration::from_millis(step_ms);
            assert!(gaps.stepped(&StepReport { step_time, ..StepReport::default() }).is_continue());
        }
        assert_eq!(gaps.gaps, [20, 30].map(Duration::from_millis));
    }
}
