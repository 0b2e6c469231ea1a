//! How large the candidate trees are.

use crate::Error;
use crate::registry::{LEN_MAX, Settings, Value};

/// Checked parameters of the policy; `None` as a budget means that it is measured.
#[derive(Clone, Debug)]
pub struct Config {
    pub(super) name: String,
    pub(super) d_min: u32,
    pub(super) d_max: u32,
    pub(super) w_max: u32,
    pub(super) n_max: u32,
    pub(super) budget: Option<u32>,
    pub(super) draft_budget: Option<u32>,
    pub(super) c1: u32,
    pub(super) c2: u32,
}

impl Config {
    /// Reads the settings of [`ENTRY`](super::ENTRY).
    ///
    /// # Errors
    /// [`Error::Order`] if `d_min > d_max`.
    pub fn new(settings: &Settings) -> Result<Self, Error> {
        let given = |key| match settings.value(key) {
            Value::Count(rows) => Some(rows),
            _ => None,
        };
        let config = Self {
            name: settings.name(),
            d_min: settings.count("d_min"),
            d_max: settings.count("d_max"),
            w_max: settings.count("w_max"),
            n_max: settings.count("n_max"),
            budget: given("budget"),
            draft_budget: given("draft_budget"),
            c1: settings.count("c1"),
            c2: settings.count("c2"),
        };
        settings.check_order(("d_min", config.d_min), ("d_max", config.d_max))?;
        Ok(config)
    }
}

/// Levels and nodes per level of every candidate tree.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Shape {
    /// `d`.
    pub depth: u32,
    /// `w`.
    pub width: u32,
}

/// Shape of the candidate trees of `n` sequences (Eq. 8 and 9), `depth * width <= 64`.
///
/// * `budget`, `draft_budget`: rows of a target and of a draft pass.
/// * `n`: at least 1.
pub fn shape(config: &Config, budget: u32, draft_budget: u32, n: u32) -> Shape {
    let width = (draft_budget / n + config.c2).clamp(1, config.w_max);
    let depth = (budget / (n + config.c1)).saturating_sub(1).clamp(config.d_min, config.d_max);
    Shape { depth: depth.min(LEN_MAX / width), width }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::adaserve::ENTRY;

    fn config(parameters: &str) -> Config {
        let parameters = Some(parameters).filter(|text| !text.is_empty());
        Config::new(&Settings::parse(&ENTRY, parameters).unwrap()).unwrap()
    }

    #[test]
    fn shapes_of_hand_computed_loads() {
        let check = |parameters: &str, budget, draft_budget, n, depth, width| {
            let got = shape(&config(parameters), budget, draft_budget, n);
            assert_eq!(
                got,
                Shape { depth, width },
                "{parameters}, B1 {budget}, B2 {draft_budget}, {n} sequences"
            );
        };
        // 64 / 8 - 1; 16 / 8.
        check("", 64, 16, 8, 7, 2);
        // 64 / 1 - 1 and 16 / 1 are clipped; 8 levels of 4 are 32 nodes.
        check("", 64, 16, 1, 8, 4);
        // 64 / 40 - 1 = 0 and 16 / 40 = 0 are clipped.
        check("", 64, 16, 40, 1, 1);
        check("d_min=3", 64, 16, 40, 3, 1);
        // 64 / (8 + 8) - 1; 16 / 8 + 1.
        check("c1=8,c2=1", 64, 16, 8, 3, 3);
        // 10 nodes per level leave 6 levels.
        check("w_max=10", 1024, 1024, 1, 6, 10);
    }
}
