//! Who drafts and which policies plan, from what was typed.

use std::fmt;
use std::path::PathBuf;
use std::str::FromStr;

use dsde_policy::registry;

use crate::failure::{Outcome, usage};

/// Policy of commands that run one, unless another is asked for.
const POLICY_DEFAULT: &str = "auto";

/// Where a model comes from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Source {
    /// The pair inside the program.
    Demo,
    /// A folder or a GGUF file.
    Path(PathBuf),
}

/// Who drafts.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Draft {
    /// A draft model or an EAGLE-3 head.
    Model(Source),
    /// The head in the target's own files.
    Mtp,
    /// Repetitions: of the text, and of the last so many tokens of past answers.
    Suffix { answer_tokens: u32 },
    /// Nobody.
    None,
}

impl Source {
    /// Reads `demo` or a path.
    pub(crate) fn parse(text: &str) -> Self {
        match text {
            "demo" => Self::Demo,
            path => Self::Path(PathBuf::from(path)),
        }
    }
}

impl Draft {
    /// Reads what was typed, or chooses for `target`: the embedded draft for the embedded target, else repetitions; whether the
    /// target brings a head is seen in its files alone.
    ///
    /// # Errors
    /// If what follows `suffix:` makes no sense.
    pub(crate) fn parse(text: Option<&str>, target: &Source) -> Outcome<Self> {
        const TEXT_ALONE: Draft = Draft::Suffix { answer_tokens: 0 };
        Ok(match (text, target) {
            (None, Source::Demo) => Self::Model(Source::Demo),
            // The second is what other engines call drafting from the text alone.
            (None, Source::Path(_)) | (Some("suffix" | "ngram"), _) => TEXT_ALONE,
            (Some("none"), _) => Self::None,
            (Some("mtp"), _) => Self::Mtp,
            (Some(draft), _) => match draft.strip_prefix("suffix:") {
                Some(settings) => Self::Suffix { answer_tokens: answer_tokens(settings)? },
                None => Self::Model(Source::parse(draft)),
            },
        })
    }
}

/// As typed.
impl fmt::Display for Source {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Demo => f.write_str("demo"),
            Self::Path(path) => write!(f, "{}", path.display()),
        }
    }
}

/// As typed.
impl fmt::Display for Draft {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Model(source) => source.fmt(f),
            Self::Mtp => f.write_str("mtp"),
            Self::Suffix { answer_tokens: 0 } => f.write_str("suffix"),
            Self::Suffix { answer_tokens } => write!(f, "suffix:answers={answer_tokens}"),
            Self::None => f.write_str("none"),
        }
    }
}

/// Reads `answers=TOKENS`.
fn answer_tokens(settings: &str) -> Outcome<u32> {
    let tokens = settings.strip_prefix("answers=").and_then(|tokens| tokens.parse().ok());
    tokens.ok_or_else(|| usage(format!("expected suffix:answers=TOKENS, got suffix:{settings}")))
}

/// Whether the policy never speculates.
pub(crate) fn is_off(policy: &registry::Config) -> bool {
    policy.entry().name == "off"
}

/// The policy `name`, which is one of the program's own choices.
pub(crate) fn known_policy(name: &str) -> registry::Config {
    name.parse().expect("the program names only policies that exist")
}

/// The policy to run; without a drafter it can only be `off`.
///
/// # Errors
/// If a policy that speculates was asked for together with `--draft none`.
pub(crate) fn policy_for(asked: Option<registry::Config>, draft: &Draft) -> Outcome<registry::Config> {
    match (asked, draft) {
        (None, Draft::None) => Ok(known_policy("off")),
        (None, _) => Ok(known_policy(POLICY_DEFAULT)),
        (Some(policy), _) => {
            check_drafter(&policy, draft)?;
            Ok(policy)
        }
    }
}

/// Refuses a policy that speculates without anyone who drafts.
///
/// # Errors
/// Naming the policy and what to change.
pub(crate) fn check_drafter(policy: &registry::Config, draft: &Draft) -> Outcome {
    if *draft == Draft::None && !is_off(policy) {
        return Err(usage(format!(
            "policy {policy} needs a drafter, but --draft is none; use --policy off or another draft"
        )));
    }
    Ok(())
}

/// Policies to compare, none of them twice.
#[derive(Clone, Debug)]
pub(crate) struct PolicyList(pub(crate) Vec<registry::Config>);

impl FromStr for PolicyList {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        policy_list(text).map(Self)
    }
}

/// Splits a list of policies. Policies and their parameters are both separated by commas: a piece that contains `=` but no
/// `:` continues the policy before it, as in `off,dsde:variant=released,cap=mean,fixed:k=4`. A value `A..B` makes one policy of
/// every whole number from A to B.
///
/// # Errors
/// If a policy is unknown, has wrong parameters or is listed twice.
fn policy_list(text: &str) -> Result<Vec<registry::Config>, String> {
    let mut names: Vec<String> = Vec::new();
    for piece in text.split(',') {
        match names.last_mut() {
            Some(name) if piece.contains('=') && !piece.contains(':') => {
                name.push(if name.contains(':') { ',' } else { ':' });
                name.push_str(piece);
            }
            _ => names.push(piece.to_owned()),
        }
    }
    let names = names.iter().map(|name| unrolled(name)).collect::<Result<Vec<_>, _>>()?.concat();
    let parse = |name: &String| name.parse::<registry::Config>().map_err(|error| error.to_string());
    let policies: Vec<registry::Config> = names.iter().map(parse).collect::<Result<_, _>>()?;
    let shown: Vec<String> = policies.iter().map(ToString::to_string).collect();
    match first_repeated(&shown) {
        Some(policy) => Err(format!("policy {policy} is listed twice")),
        None => Ok(policies),
    }
}

/// The policies that a name with at most one `A..B` stands for.
fn unrolled(name: &str) -> Result<Vec<String>, String> {
    let Some((before, after)) = name.split_once("..") else {
        return Ok(vec![name.to_owned()]);
    };
    let start = before.rfind('=').map_or(0, |equals| equals + 1);
    let end = after.find(',').unwrap_or(after.len());
    let (first, last) = (before[start..].parse::<u32>(), after[..end].parse::<u32>());
    match (first, last) {
        (Ok(first), Ok(last)) if first <= last && last - first < registry::LEN_MAX => {
            Ok((first..=last).map(|n| format!("{}{n}{}", &before[..start], &after[end..])).collect())
        }
        _ => Err(format!(
            "expected A..B of at most {} whole numbers with A <= B, got '{}..{}'",
            registry::LEN_MAX,
            &before[start..],
            &after[..end]
        )),
    }
}

/// The first entry that already stands before.
pub(crate) fn first_repeated<T: PartialEq>(list: &[T]) -> Option<&T> {
    (1..list.len()).find(|&i| list[..i].contains(&list[i])).map(|i| &list[i])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check_list(text: &str, expected: Result<&[&str], &str>) {
        let got = policy_list(text).map(|list| list.iter().map(ToString::to_string).collect::<Vec<_>>());
        match expected {
            Ok(names) => assert_eq!(got.expect("a list that parses"), names),
            Err(part) => assert!(got.clone().is_err_and(|error| error.contains(part)), "{text}: {got:?}"),
        }
    }

    #[test]
    fn parameters_continue_the_policy_before_them() {
        check_list("off", Ok(&["off"]));
        check_list("off,fixed:k=4,dsde", Ok(&["off", "fixed:k=4", "dsde"]));
        check_list("fixed,k=4,off", Ok(&["fixed:k=4", "off"]));
        check_list(
            "dsde:variant=released,cap=mean,fixed:k=2",
            Ok(&[&known_policy("dsde:variant=released,cap=mean").to_string(), "fixed:k=2"]),
        );
    }

    #[test]
    fn a_range_stands_for_one_policy_each() {
        check_list("off,fixed:k=2..4", Ok(&["off", "fixed:k=2", "fixed:k=3", "fixed:k=4"]));
        check_list("fixed:k=2..3,cap=mean", Ok(&["fixed:k=2,cap=mean", "fixed:k=3,cap=mean"]));
        check_list("fixed:k=5..5,off", Ok(&["fixed:k=5", "off"]));
        for text in
            ["fixed:k=4..2", "fixed:k=1..", "fixed:k=..3", "fixed:k=a..b", "fixed:k=0..64", "..", "off.."]
        {
            check_list(text, Err("expected A..B"));
        }
        check_list("fixed:k=0..2", Err("must be 1..=64"));
        check_list("fixed:k=1..3,fixed:k=2", Err("listed twice"));
    }

    #[test]
    fn lists_with_mistakes_are_refused() {
        check_list("", Err("unknown policy"));
        check_list("off,", Err("unknown policy"));
        check_list("off,fast", Err("off, fixed, dsde"));
        check_list("k=4", Err("unknown policy"));
        check_list("off,k=4", Err("no parameter"));
        check_list("off,off", Err("listed twice"));
    }

    #[test]
    fn the_draft_follows_the_target_unless_given() {
        let folder = Source::parse("some/folder");
        let draft = |text, target: &Source| Draft::parse(text, target).ok().expect("a draft");
        let text_alone = Draft::Suffix { answer_tokens: 0 };
        assert_eq!(draft(None, &Source::Demo), Draft::Model(Source::Demo));
        assert_eq!(draft(None, &folder), text_alone);
        assert_eq!(draft(Some("none"), &Source::Demo), Draft::None);
        assert_eq!(draft(Some("mtp"), &folder), Draft::Mtp);
        assert_eq!(Draft::Mtp.to_string(), "mtp");
        for text in ["suffix", "ngram"] {
            assert_eq!(draft(Some(text), &Source::Demo), text_alone);
            assert_eq!(text_alone.to_string(), "suffix");
        }
        let with_answers = draft(Some("suffix:answers=5000"), &Source::Demo);
        assert_eq!(with_answers, Draft::Suffix { answer_tokens: 5000 });
        assert_eq!(with_answers.to_string(), "suffix:answers=5000");
        for text in ["suffix:", "suffix:answers", "suffix:answers=-1", "suffix:tokens=5000"] {
            assert!(Draft::parse(Some(text), &Source::Demo).is_err(), "{text}");
        }
        assert_eq!(draft(Some("some/folder"), &Source::Demo), Draft::Model(folder));
    }

    #[test]
    fn without_a_drafter_only_off_can_run() {
        let policy = |asked: Option<&str>, draft| {
            policy_for(asked.map(known_policy), &draft).ok().map(|policy| policy.to_string())
        };
        assert_eq!(policy(None, Draft::None).as_deref(), Some("off"));
        assert_eq!(policy(Some("off"), Draft::None).as_deref(), Some("off"));
        assert_eq!(policy(Some("fixed:k=2"), Draft::None), None);
        let text_alone = || Draft::Suffix { answer_tokens: 0 };
        assert_eq!(policy(None, text_alone()).as_deref(), Some("auto"));
        assert_eq!(policy(Some("fixed:k=2"), text_alone()).as_deref(), Some("fixed:k=2"));
    }
}
