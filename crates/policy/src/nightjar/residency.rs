//! Elastic memory: who has the draft's.

use crate::PlanView;

/// Whether the draft's memory holds the draft or serves the cache.
#[derive(Clone, Copy, Debug)]
pub struct Residency {
    free_min: f64,
    persist: u32,
    is_resident: bool,
    /// Steps in a row in which the draft was idle and blocks were scarce.
    n_scarce: u32,
    /// All blocks without what the draft gave: the fewest there ever were.
    blocks_own: u32,
}

impl Residency {
    /// The draft is there.
    ///
    /// * `free_min`: share of all blocks, `0..=1`.
    /// * `persist`: steps.
    pub fn new(free_min: f64, persist: u32) -> Self {
        Self { free_min, persist, is_resident: true, n_scarce: 0, blocks_own: u32::MAX }
    }

    /// Whether the draft is there, or is to come back.
    pub fn is_resident(&self) -> bool {
        self.is_resident
    }

    /// Decides after a step's length was chosen.
    pub fn update(&mut self, view: &PlanView<'_>, len: u32) {
        self.blocks_own = self.blocks_own.min(view.blocks_total);
        let (free, needed) = (f64::from(view.blocks_free), self.free_min * f64::from(self.blocks_own));
        if self.is_resident {
            let is_scarce = len == 0 && free < needed;
            self.n_scarce = if is_scarce { self.n_scarce + 1 } else { 0 };
            self.is_resident = self.n_scarce < self.persist;
        } else {
            let given = f64::from(view.blocks_total.saturating_sub(self.blocks_own));
            self.is_resident = view.n_waiting == 0 && free > needed + given;
            self.n_scarce = 0;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::samples::VIEW;

    #[test]
    fn the_draft_leaves_when_idle_under_pressure_and_returns_when_there_is_room() {
        // A tenth of 100 blocks; two steps in a row.
        let mut residency = Residency::new(0.1, 2);
        let mut check = |len, n_waiting, blocks_free, blocks_total, expected| {
            let view = PlanView { n_waiting, blocks_free, blocks_total, ..VIEW };
            residency.update(&view, len);
            let at = format!("length {len}, {n_waiting} wait, {blocks_free} of {blocks_total} blocks");
            assert_eq!(residency.is_resident(), expected, "{at}");
        };
        check(0, 5, 9, 100, true);
        check(2, 5, 9, 100, true);
        check(0, 5, 9, 100, true);
        check(0, 5, 10, 100, true);
        check(0, 5, 9, 100, true);
        check(0, 5, 9, 100, false);
        // 20 blocks were given: more than 10 + 20 must be free, and nobody wait.
        check(0, 0, 30, 120, false);
        check(0, 1, 31, 120, false);
        check(0, 0, 31, 120, true);
        // The draft is wanted, but its memory is not free yet: a tenth of what was there at first counts.
        check(0, 0, 10, 120, true);
        // Counting begins anew.
        check(0, 5, 0, 100, true);
        check(0, 5, 0, 100, false);
    }
}
