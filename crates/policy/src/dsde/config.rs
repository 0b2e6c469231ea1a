//! Parameters of DSDE, their defaults in both variants, and their checked form.

use super::Dsde;
use crate::cap::{self, Cap};
use crate::registry::{Entry, LEN_MAX, Parameter, Preset, Settings, Value, ValueSet};
use crate::{Error, Policy};

/// Longest history of divergences that can be configured, values; bounds what a sequence may cost.
const HISTORY_MAX: u32 = 1024;

/// The row of this policy in the registry.
pub static ENTRY: Entry = Entry {
    name: "dsde",
    summary: "per sequence, from level and stability of the divergence between target and draft",
    source: "Yang et al., arXiv:2509.01083",
    parameters: &[
        Parameter {
            key: "variant",
            values: ValueSet::Word(&["paper", RELEASED]),
            default: Some("paper"),
            meaning: "follow the paper's text or the authors' released code where they differ",
        },
        Parameter {
            key: "sl_min",
            values: ValueSet::Count { min: 1, max: LEN_MAX },
            default: Some("2"),
            meaning: "floor of the length, tokens",
        },
        Parameter {
            key: "sl_max",
            values: ValueSet::Count { min: 1, max: LEN_MAX },
            default: Some("20"),
            meaning: "bound on the length, in calibration and on the ceiling it finds, tokens",
        },
        Parameter {
            key: "k_init",
            values: ValueSet::Count { min: 1, max: LEN_MAX },
            default: Some("5"),
            meaning: "first length of the calibration, tokens; paper: moved into sl_min..=sl_max",
        },
        Parameter {
            key: "headroom",
            values: ValueSet::Number { min: 0.0, max: 4.0 },
            default: Some("1"),
            meaning: "weight of mean(KLD) / max(KLD) in the ceiling",
        },
        Parameter {
            key: "decay",
            values: ValueSet::Number { min: 0.01, max: 1.0 },
            default: Some("0.85"),
            meaning: "weight of a divergence relative to the next newer one",
        },
        Parameter {
            key: "short",
            values: ValueSet::CountOr { min: 2, max: HISTORY_MAX, word: THIRD },
            default: Some("10"),
            meaning: "divergences that count as recent; third: a third of those held",
        },
        Parameter {
            key: "long",
            values: ValueSet::CountOr { min: 2, max: HISTORY_MAX, word: ACTIVATION },
            default: Some("30"),
            meaning: "divergences that are held; activation: as many as the calibration proposes",
        },
        Parameter {
            key: ACTIVATION,
            values: ValueSet::Count { min: 2, max: HISTORY_MAX },
            default: Some("30"),
            meaning: "proposed tokens that end the calibration",
        },
    ],
    presets: &[Preset {
        key: "variant",
        word: RELEASED,
        defaults: &[
            ("sl_min", "6"),
            ("headroom", "0.5"),
            ("decay", "0.9"),
            ("short", THIRD),
            ("long", ACTIVATION),
        ],
    }],
    is_per_sequence: true,
    build,
};

fn build(settings: &Settings) -> Result<Box<dyn Policy>, Error> {
    let config = Config::new(settings)?;
    match config.variant {
        Variant::Paper => Ok(Cap::around(Dsde::new(config), settings)),
        Variant::Released => Ok(Box::new(Dsde::new(config))),
    }
}

const RELEASED: &str = "released";
const THIRD: &str = "third";
const ACTIVATION: &str = "activation";

/// Which of the authors' two descriptions decides where they differ.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Variant {
    /// The text of arXiv:2509.01083.
    Paper,
    /// The code published with it.
    Released,
}

/// Checked parameters; the table in [`ENTRY`] says what each means.
#[derive(Clone, Debug)]
pub struct Config {
    name: String,
    variant: Variant,
    sl_min: u32,
    sl_max: u32,
    k_init: u32,
    headroom: f64,
    decay: f64,
    /// `None`: a third of the values held.
    short: Option<u32>,
    long: u32,
    activation: u32,
    /// Whether the policy bounds its lengths itself.
    is_capped: bool,
}

impl Config {
    /// Reads the settings of [`ENTRY`].
    ///
    /// # Errors
    /// [`Error::Order`] if `sl_min > sl_max` or `short > long`.
    pub fn new(settings: &Settings) -> Result<Self, Error> {
        let activation = settings.count(ACTIVATION);
        let variant = match settings.word("variant") {
            RELEASED => Variant::Released,
            _ => Variant::Paper,
        };
        let is_capped = variant == Variant::Released && cap::is_wanted(settings);
        let config = Self {
            name: if is_capped { cap::name_with(settings.name()) } else { settings.name() },
            variant,
            sl_min: settings.count("sl_min"),
            sl_max: settings.count("sl_max"),
            k_init: settings.count("k_init"),
            headroom: settings.number("headroom"),
            decay: settings.number("decay"),
            short: match settings.value("short") {
                Value::Count(short) => Some(short),
                _ => None,
            },
            long: match settings.value("long") {
                Value::Count(long) => long,
                _ => activation,
            },
            activation,
            is_capped,
        };
        settings.check_order(("sl_min", config.sl_min), ("sl_max", config.sl_max))?;
        settings.check_order(("short", config.short.unwrap_or(0)), ("long", config.long))?;
        Ok(config)
    }

    /// The policy's name as typed.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Whose description decides.
    pub fn variant(&self) -> Variant {
        self.variant
    }

    /// Configured floor, tokens.
    pub fn sl_min(&self) -> u32 {
        self.sl_min
    }

    /// Configured bound, tokens; at least the floor.
    pub fn sl_max(&self) -> u32 {
        self.sl_max
    }

    /// First length of the calibration, tokens, not yet moved into any bounds.
    pub fn k_init(&self) -> u32 {
        self.k_init
    }

    /// Weight of the divergence ratio in Eq. 1.
    pub fn headroom(&self) -> f64 {
        self.headroom
    }

    /// Weight of one step of age in Eq. 4.
    pub fn decay(&self) -> f64 {
        self.decay
    }

    /// Values that count as recent when `n_held` are held.
    pub fn short(&self, n_held: usize) -> usize {
        self.short.map_or(n_held / 3, |short| short as usize)
    }

    /// Values that are held.
    pub fn long(&self) -> usize {
        self.long as usize
    }

    /// Proposed tokens that end the calibration.
    pub fn activation(&self) -> u32 {
        self.activation
    }

    /// Whether settled lengths are bounded by the mean of the batch after every step, as the released code does it. Another
    /// variant is wrapped in a [`Cap`] instead.
    pub fn is_capped(&self) -> bool {
        self.is_capped
    }

    /// The configuration behind `dsde:PARAMETERS`.
    #[cfg(test)]
    pub(super) fn of(parameters: &str) -> Self {
        let settings = Settings::parse(&ENTRY, Some(parameters)).unwrap();
        Self::new(&settings).unwrap()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paper_windows_are_fixed_and_released_ones_follow_the_activation() {
        // (parameters, long, short with 99 values held)
        let cases = [
            ("variant=paper,activation=99", 30, 10),
            ("variant=released,activation=99", 99, 33),
            ("variant=released,activation=99,long=60,short=12", 60, 12),
            ("variant=paper,long=90,short=third", 90, 33),
        ];
        for (parameters, long, short) in cases {
            let config = Config::of(parameters);
            assert_eq!((config.long(), config.short(99)), (long, short), "{parameters}");
        }
    }
}
