//! Experts that the rows of an imaginary pass ask, partly by what their text is about.

use dsde_policy::{ExpertsWoken, SeqId};

use super::Random;

/// Places of a text that share a topic.
const TOPIC_LEN: u32 = 64;

/// A target with experts.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Mixture {
    pub(crate) n_experts: u32,
    pub(crate) n_chosen: u32,
    /// What its experts take of a pass over one row.
    pub(crate) share: f64,
    /// Probability with which a row asks an expert of its topic in place of any.
    pub(crate) topic: f64,
}

impl Mixture {
    /// What a pass wakes; the target has one layer.
    ///
    /// * `rows`: of each sequence, from a place of its text on.
    pub(crate) fn woken(&self, rows: impl Iterator<Item = (SeqId, u32, u32)>) -> ExpertsWoken {
        let mut is_woken = vec![false; self.n_experts as usize];
        for (seq, place, n_rows) in rows {
            for place in place..place + n_rows {
                self.ask(seq, place, &mut is_woken);
            }
        }
        let n_woken = is_woken.iter().filter(|&&woken| woken).count() as u32;
        let Self { n_experts, n_chosen, .. } = *self;
        ExpertsWoken { n_woken, n_layers: 1, n_experts, n_chosen }
    }

    /// What the experts take of a pass, in passes over one row.
    pub(crate) fn passes(&self, woken: ExpertsWoken) -> f64 {
        1.0 - self.share + self.share * f64::from(woken.n_woken) / f64::from(self.n_chosen)
    }

    /// Distinct experts for one row.
    fn ask(&self, seq: SeqId, place: u32, is_woken: &mut [bool]) {
        let expert = |random: &mut Random| (random.uniform() * f64::from(self.n_experts)) as u32;
        let topic = expert(&mut Random::of_place(seq, (1 << 19) | (place / TOPIC_LEN)));
        let mut random = Random::of_place(seq, 1 << 18 | place);
        let mut asked: Vec<u32> = Vec::new();
        for i in 0..self.n_chosen {
            let mut chosen = (topic + i) % self.n_experts;
            if random.uniform() >= self.topic || asked.contains(&chosen) {
                chosen = expert(&mut random);
            }
            while asked.contains(&chosen) {
                chosen = (chosen + 1) % self.n_experts;
            }
            asked.push(chosen);
            is_woken[chosen as usize] = true;
        }
    }
}
