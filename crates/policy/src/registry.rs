//! All policies by name: the text `NAME[:key=value,...]` becomes a checked configuration, and that becomes a policy.
//!
//! A policy brings its own row, an [`Entry`], in its own file. Adding one means writing that file and naming its row in
//! [`ENTRIES`]; parsing, errors, `--help` and the tests that go over all policies follow.

use std::fmt;
use std::str::FromStr;

use crate::cap;
pub use crate::parameter::{Parameter, Preset, Settings, Value, ValueSet};
pub use crate::table::LenTable;
use crate::{
    Error, Policy, adaedl, adaptive_verification, adaserve, auto, bandit, batch_schedule, confidence, ddd,
    dsde, dspark, faser, fixed, nightjar, off, tetris, tiered, turbospec,
};

/// Longest length a policy can be asked for, tokens: a proposal holds at most 64 nodes, one bit each of a machine word.
pub const LEN_MAX: u32 = 64;

/// Every policy, in the order in which help lists them.
pub static ENTRIES: &[&Entry] = &[
    &auto::ENTRY,
    &off::ENTRY,
    &fixed::ENTRY,
    &dsde::ENTRY,
    &adaedl::ENTRY,
    &confidence::ENTRY,
    &batch_schedule::ENTRY,
    &tiered::ENTRY,
    &bandit::ENTRY,
    &turbospec::ENTRY,
    &nightjar::ENTRY,
    &faser::ENTRY,
    &tetris::ENTRY,
    &dspark::ENTRY,
    &adaptive_verification::ENTRY,
    &adaserve::ENTRY,
    &ddd::ENTRY,
];

/// What there is to know about a policy before it is built.
#[derive(Clone, Copy, Debug)]
pub struct Entry {
    /// As typed.
    pub name: &'static str,
    /// One sentence.
    pub summary: &'static str,
    /// Where it was published.
    pub source: &'static str,
    /// Its own parameters; [`Entry::parameters`] has the shared ones too.
    pub parameters: &'static [Parameter],
    /// Named sets of defaults.
    pub presets: &'static [Preset],
    /// Whether it plans for each sequence by itself; then it accepts `cap`, and `build` heeds it ([`Cap::around`](crate::Cap)).
    pub is_per_sequence: bool,
    /// Builds the policy; refuses settings that contradict each other.
    pub build: fn(&Settings) -> Result<Box<dyn Policy>, Error>,
}

impl Entry {
    /// All parameters the policy accepts: its own, then `cap` if it plans per sequence.
    pub fn parameters(&self) -> impl Iterator<Item = &'static Parameter> + use<> {
        self.parameters.iter().chain(self.is_per_sequence.then_some(&cap::PARAMETER))
    }

    /// The parameter with this key.
    ///
    /// # Errors
    /// [`Error::Key`] with all keys and what they accept.
    pub fn find(&self, key: &str) -> Result<&'static Parameter, Error> {
        self.parameters().find(|p| p.key == key).ok_or_else(|| {
            let keys: Vec<String> = self.parameters().map(|p| format!("{}=<{}>", p.key, p.values)).collect();
            Error::Key {
                policy: self.name,
                expected: if keys.is_empty() { "none".to_owned() } else { keys.join(", ") },
                got: key.to_owned(),
            }
        })
    }

    /// The default of one of the parameters, as typed; `None` if it must be given.
    pub fn default_of(&self, parameter: &Parameter, preset: Option<&Preset>) -> Option<&'static str> {
        let under_preset = preset.and_then(|preset| {
            let (_, default) = preset.defaults.iter().find(|(key, _)| *key == parameter.key)?;
            Some(*default)
        });
        under_preset.or(parameter.default)
    }
}

/// A checked choice of policy; [`Config::build`] cannot fail.
///
/// Parsed from `NAME[:key=value,...]`, for example `off`, `fixed:k=4` or `dsde:variant=released,cap=mean`.
#[derive(Clone, Debug)]
pub struct Config {
    settings: Settings,
    entry: &'static Entry,
}

impl Config {
    /// The row of the chosen policy.
    pub fn entry(&self) -> &'static Entry {
        self.entry
    }

    /// A fresh policy that remembers no sequence.
    pub fn build(&self) -> Box<dyn Policy> {
        (self.entry.build)(&self.settings).expect("settings were checked when they were parsed")
    }
}

/// The same policy with the same values.
impl PartialEq for Config {
    fn eq(&self, other: &Self) -> bool {
        self.to_string() == other.to_string()
    }
}

impl FromStr for Config {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self, Error> {
        let (name, parameters) = match text.split_once(':') {
            None => (text, None),
            Some((name, parameters)) => (name, Some(parameters)),
        };
        let entry = *ENTRIES.iter().find(|entry| entry.name == name).ok_or_else(|| {
            let names: Vec<&str> = ENTRIES.iter().map(|entry| entry.name).collect();
            Error::Name { expected: names.join(", "), got: name.to_owned() }
        })?;
        let settings = Settings::parse(entry, parameters)?;
        (entry.build)(&settings)?;
        Ok(Self { settings, entry })
    }
}

/// The name of the policy, with every parameter that differs from its default; parses to the same configuration.
impl fmt::Display for Config {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.build().name())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn name(text: &str) -> Result<String, Error> {
        text.parse::<Config>().map(|config| config.to_string())
    }

    #[test]
    fn texts_become_canonical_names() {
        let cases = [
            ("off", "off"),
            ("fixed:k=4", "fixed:k=4"),
            ("fixed:cap=mean,k=04", "fixed:k=4,cap=mean"),
            ("fixed:k=64,cap=off", "fixed:k=64"),
            ("dsde", "dsde"),
            ("dsde:variant=paper,decay=0.850,sl_min=2", "dsde"),
            ("dsde:decay=0.9", "dsde:decay=0.9"),
            // 0.9 is the default of this variant, 0.85 is not.
            ("dsde:decay=0.9,variant=released", "dsde:variant=released"),
            ("dsde:variant=released,decay=0.85,cap=mean", "dsde:variant=released,decay=0.85,cap=mean"),
            ("dsde:short=third", "dsde:short=third"),
            ("dsde:k_init=9,sl_max=12,cap=mean", "dsde:sl_max=12,k_init=9,cap=mean"),
            ("adaedl:lambda=0.50,k_max=09", "adaedl:k_max=9"),
            ("adaptive_verification:interval=0100,k=07", "adaptive_verification"),
            ("adaserve:w_max=1,budget=measured,draft_budget=64", "adaserve:w_max=1,draft_budget=64"),
            ("nightjar:seed=4294967295,free_min=0.1", "nightjar:seed=4294967295"),
            ("batch_schedule:table=1-64:3;65-128:01;129-512:0", "batch_schedule"),
            ("batch_schedule:table=1-4:3;5-:0", "batch_schedule:table=1-4:3;5-:0"),
        ];
        for (text, expected) in cases {
            assert_eq!(name(text).unwrap(), expected, "{text}");
            assert_eq!(name(expected).unwrap(), expected);
        }
    }

    #[test]
    fn refusals_say_what_is_possible() {
        let names: Vec<&str> = ENTRIES.iter().map(|entry| entry.name).collect();
        let cases: &[(&str, &str)] = &[
            ("", &format!("unknown policy '', expected one of: {}", names.join(", "))),
            ("Off", &format!("unknown policy 'Off', expected one of: {}", names.join(", "))),
            ("off:k=1", "policy off has no parameter 'k', expected one of: none"),
            ("off:cap=mean", "policy off has no parameter 'cap', expected one of: none"),
            (
                "fixed:n=4",
                "policy fixed has no parameter 'n', expected one of: k=<1..=64>, cap=<off or mean>",
            ),
            ("fixed", "policy fixed needs k=<1..=64>"),
            ("fixed:k=0", "parameter k of policy fixed must be 1..=64, got '0'"),
            ("fixed:k=65", "parameter k of policy fixed must be 1..=64, got '65'"),
            ("fixed:k=-1", "parameter k of policy fixed must be 1..=64, got '-1'"),
            ("fixed:k=4.0", "parameter k of policy fixed must be 1..=64, got '4.0'"),
            ("fixed:k=", "parameter k of policy fixed must be 1..=64, got ''"),
            ("fixed:k=4,cap=max", "parameter cap of policy fixed must be off or mean, got 'max'"),
            ("fixed:k=4,k=5", "parameter k of policy fixed is given more than once, expected it once"),
            (
                "fixed:k=4,",
                "parameters of policy fixed are written key=value and separated by commas, got ''",
            ),
            ("fixed:", "parameters of policy fixed are written key=value and separated by commas, got ''"),
            ("fixed:4", "parameters of policy fixed are written key=value and separated by commas, got '4'"),
            ("dsde:decay=NaN", "parameter decay of policy dsde must be 0.01..=1, got 'NaN'"),
            ("dsde:decay=0", "parameter decay of policy dsde must be 0.01..=1, got '0'"),
            ("dsde:long=half", "parameter long of policy dsde must be 2..=1024 or activation, got 'half'"),
            ("dsde:sl_max=1", "policy dsde needs sl_min <= sl_max, got 2 > 1"),
            ("dsde:variant=released,sl_max=5", "policy dsde needs sl_min <= sl_max, got 6 > 5"),
            ("dsde:long=9", "policy dsde needs short <= long, got 10 > 9"),
            ("bandit:k_min=5", "policy bandit needs k_min <= k_max, got 5 > 4"),
            ("adaedl:k_min=8", "policy adaedl needs k_min <= k_max, got 8 > 7"),
            ("faser:k_min=9", "policy faser needs k_min <= k_max, got 9 > 8"),
            ("adaserve:d_min=9", "policy adaserve needs d_min <= d_max, got 9 > 8"),
            (
                "adaserve:budget=0",
                "parameter budget of policy adaserve must be 1..=1024 or measured, got '0'",
            ),
            ("ddd:tau=1", "parameter tau of policy ddd must be -100..=0, got '1'"),
            (
                "batch_schedule:table=2-4:3",
                "parameter table of policy batch_schedule must be FIRST-LAST:LEN;... from batch size 1, LEN 0..=64, \
                 got '2-4:3'",
            ),
        ];
        for &(text, expected) in cases {
            assert_eq!(name(text).unwrap_err().to_string(), expected, "{text}");
        }
    }

    #[test]
    fn an_unknown_key_of_dsde_lists_all_its_keys() {
        let message = name("dsde:gamma=1").unwrap_err().to_string();
        for parameter in dsde::ENTRY.parameters() {
            let listed = format!("{}=<{}>", parameter.key, parameter.values);
            assert!(message.contains(&listed), "{listed} in {message}");
        }
    }

    #[test]
    fn defaults_of_all_presets_are_accepted_values() {
        for entry in ENTRIES {
            let presets = entry.presets.iter().map(Some).chain([None]);
            for preset in presets {
                for parameter in entry.parameters() {
                    if let Some(text) = entry.default_of(parameter, preset) {
                        assert!(
                            parameter.values.parse(text).is_some(),
                            "{} {}={text}",
                            entry.name,
                            parameter.key
                        );
                    }
                }
                for (key, _) in preset.map_or(&[][..], |preset| preset.defaults) {
                    assert!(entry.find(key).is_ok(), "preset of {} sets {key}", entry.name);
                }
            }
        }
    }

    #[test]
    fn names_and_keys_are_unique() {
        for (i, entry) in ENTRIES.iter().enumerate() {
            assert!(ENTRIES[..i].iter().all(|other| other.name != entry.name), "{}", entry.name);
            let keys: Vec<&str> = entry.parameters().map(|p| p.key).collect();
            for (j, key) in keys.iter().enumerate() {
                assert!(!keys[..j].contains(key), "{} of {}", key, entry.name);
            }
        }
    }
}
