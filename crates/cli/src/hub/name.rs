//! How a model of the Hub is named: `ORG/NAME[@REVISION][:FILE]`.

use std::fmt;
use std::str::FromStr;

/// Revision that is meant where none is named.
const MAIN: &str = "main";
/// Longest part of a name, bytes.
const PART_BYTES_MAX: usize = 96;
/// Digits of a commit.
const COMMIT_DIGITS: usize = 40;

/// Which model, and what of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Name {
    org: String,
    model: String,
    revision: Option<String>,
    /// A GGUF file, or a part of its name.
    file: Option<String>,
}

impl FromStr for Name {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let expected = || {
            format!(
                "expected ORG/NAME[@REVISION][:FILE] as at huggingface.co, for example Qwen/Qwen3-0.6B, got '{text}'"
            )
        };
        let (repository, file) = split(text, ':');
        let (repository, revision) = split(repository, '@');
        let (org, model) = repository.split_once('/').ok_or_else(expected)?;
        let is_name = is_part(org)
            && is_part(model)
            && revision.is_none_or(is_revision)
            && file.is_none_or(is_inside)
            && !text.chars().any(char::is_control);
        match is_name {
            true => Ok(Self {
                org: org.to_owned(),
                model: model.to_owned(),
                revision: revision.map(str::to_owned),
                file: file.map(str::to_owned),
            }),
            false => Err(expected()),
        }
    }
}

/// As typed.
impl fmt::Display for Name {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.repository())?;
        self.revision.iter().try_for_each(|revision| write!(f, "@{revision}"))?;
        self.file.iter().try_for_each(|file| write!(f, ":{file}"))
    }
}

impl Name {
    /// `ORG/NAME`.
    pub(super) fn repository(&self) -> String {
        format!("{}/{}", self.org, self.model)
    }

    /// Organisation and model.
    pub(super) fn parts(&self) -> [&str; 2] {
        [&self.org, &self.model]
    }

    /// A branch, tag or commit.
    pub(super) fn revision(&self) -> &str {
        self.revision.as_deref().unwrap_or(MAIN)
    }

    /// A GGUF file, or a part of its name.
    pub(super) fn file(&self) -> Option<&str> {
        self.file.as_deref()
    }

    /// Whether what is meant never changes.
    pub(super) fn is_pinned(&self) -> bool {
        is_commit(self.revision())
    }
}

/// Whether a revision is a whole commit, whose files never change.
pub(super) fn is_commit(revision: &str) -> bool {
    let is_digit = |c: char| c.is_ascii_digit() || ('a'..='f').contains(&c);
    revision.len() == COMMIT_DIGITS && revision.chars().all(is_digit)
}

/// Whether a relative path with `/` stays below its folder.
pub(super) fn is_inside(path: &str) -> bool {
    let is_step = |step: &str| !step.is_empty() && step != "." && step != "..";
    // `C:name` is a path of its own there.
    let is_drive = cfg!(windows) && path.contains(':');
    path.split('/').all(is_step) && !is_drive && !path.contains('\\') && !path.chars().any(char::is_control)
}

fn split(text: &str, separator: char) -> (&str, Option<&str>) {
    text.split_once(separator).map_or((text, None), |(before, after)| (before, Some(after)))
}

/// Whether it may be an organisation or a model. The Hub has neither `--` nor `..` in names.
fn is_part(part: &str) -> bool {
    let is_allowed = |c: char| c.is_ascii_alphanumeric() || ['-', '_', '.'].contains(&c);
    (1..=PART_BYTES_MAX).contains(&part.len())
        && part.chars().all(is_allowed)
        && !part.starts_with(['.', '-'])
        && !part.ends_with('.')
        && !part.contains("--")
        && !part.contains("..")
}

fn is_revision(revision: &str) -> bool {
    let is_allowed = |c: char| c.is_ascii_alphanumeric() || ['-', '_', '.', '/', '+'].contains(&c);
    is_inside(revision) && revision.chars().all(is_allowed) && !revision.starts_with('-')
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_have_an_organisation_and_maybe_more() {
        for (text, repository, revision, file) in [
            ("Qwen/Qwen3-0.6B", "Qwen/Qwen3-0.6B", "main", None),
            ("a/b:Q4_K_M", "a/b", "main", Some("Q4_K_M")),
            ("a/b@refs/pr/1:x/y.gguf", "a/b", "refs/pr/1", Some("x/y.gguf")),
            ("a/b@v1.0", "a/b", "v1.0", None),
        ] {
            let name: Name = text.parse().unwrap();
            assert_eq!(name.to_string(), text);
            assert_eq!(
                (&*name.repository(), name.revision(), name.file()),
                (repository, revision, file),
                "{text}"
            );
        }
    }

    #[test]
    fn paths_and_names_that_lead_elsewhere_are_none() {
        for text in [
            "",
            "model",
            "./a",
            "/a/b",
            "a/b/c",
            "~/a",
            "../a",
            "a/..",
            "a/b:",
            "a/b:../c",
            "a/b:/etc/passwd",
            "a/b@",
            "a/b@../x",
            "a--b/c",
            "a b/c",
            "a/b:c\\d",
            "a/b:c\n",
            "https://huggingface.co/a/b",
        ] {
            assert!(text.parse::<Name>().is_err(), "{text}");
        }
    }

    #[test]
    fn commits_are_forty_hexadecimal_digits() {
        assert!(is_commit("c1899de289a04d12100db370d81485cdf75e47ca"));
        for text in [
            "main",
            "c1899de",
            "C1899DE289A04D12100DB370D81485CDF75E47CA",
            "/1899de289a04d12100db370d81485cdf75e47c",
        ] {
            assert!(!is_commit(text), "{text}");
        }
    }
}
