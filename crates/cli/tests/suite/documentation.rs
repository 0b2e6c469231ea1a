//! Links between the pages of the documentation lead somewhere, down to the heading; commands in them have the options that they use;
//! what was measured is described.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};

use crate::common::dsde;

/// Where pages lie, from the root of the repository; so they do in the folders of `models` and `runs`.
const FOLDERS: [&str; 10] = [
    ".",
    "docs",
    "docs/decisions",
    "docs/measured",
    "integrations/dynamo",
    "integrations/vllm",
    "models",
    "tests/fixtures",
    "tools/goldens",
    "training",
];

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../..")
}

fn entries(folder: &Path) -> Vec<PathBuf> {
    fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path()).collect()
}

/// Folders with the raw data of what was measured.
fn runs() -> Vec<PathBuf> {
    entries(&root().join("runs")).into_iter().filter(|path| path.is_dir()).collect()
}

fn pages() -> Vec<PathBuf> {
    let models = entries(&root().join("models")).into_iter().filter(|path| path.is_dir());
    let folders = FOLDERS.iter().map(|folder| root().join(folder)).chain(models).chain(runs());
    let files = folders.flat_map(|folder| entries(&folder));
    files.filter(|path| path.extension().is_some_and(|extension| extension == "md")).collect()
}

/// Lines outside of fenced code.
fn prose(text: &str) -> impl Iterator<Item = &str> {
    let mut is_code = false;
    text.lines().filter(move |line| {
        let is_fence = line.trim_start().starts_with("```");
        is_code ^= is_fence;
        !is_code && !is_fence
    })
}

/// Targets of the links in a line, without those in code.
fn targets(line: &str) -> Vec<String> {
    let shown: String = line.split('`').step_by(2).collect();
    let targets = shown.split("](").skip(1).filter_map(|rest| Some(rest.split_once(')')?.0.to_owned()));
    targets.collect()
}

/// Names by which GitHub knows the headings of a page: small letters, digits, `-` and `_`; equal ones are counted.
fn anchors(text: &str) -> BTreeSet<String> {
    let mut counts = BTreeMap::new();
    let headings = prose(text).filter(|line| line.starts_with('#'));
    let anchors = headings.map(|line| {
        let words = line.trim_start_matches('#').trim().to_lowercase();
        let kept = words.chars().filter(|c| c.is_alphanumeric() || " -_".contains(*c));
        let name: String = kept.map(|c| if c == ' ' { '-' } else { c }).collect();
        let count = counts.entry(name.clone()).or_insert(0);
        *count += 1;
        if *count == 1 { name } else { format!("{name}-{}", *count - 1) }
    });
    anchors.collect()
}

/// Why a link of a page leads nowhere.
fn broken(page: &Path, target: &str) -> Option<&'static str> {
    if target.contains("://") {
        return None;
    }
    let (path, anchor) = target.split_once('#').unwrap_or((target, ""));
    let file = if path.is_empty() { page.to_path_buf() } else { page.with_file_name("").join(path) };
    if !file.exists() {
        return Some("no such file");
    }
    let is_known = || anchors(&fs::read_to_string(&file).unwrap()).contains(anchor);
    (!anchor.is_empty() && !is_known()).then_some("no such heading")
}

#[test]
fn links_lead_to_files_and_headings() {
    let mut n_links = 0;
    for page in pages() {
        let text = fs::read_to_string(&page).unwrap();
        for target in prose(&text).flat_map(targets) {
            n_links += 1;
            assert_eq!(broken(&page, &target), None, "{target} in {}", page.display());
        }
    }
    assert!(n_links > 100, "links were found, got {n_links}");
}

/// Whether a name is of a pattern with `*` for any text.
fn is_of(name: &str, pattern: &str) -> bool {
    match pattern.split_once('*') {
        None => name == pattern,
        Some((before, after)) => name.strip_prefix(before).is_some_and(|rest| {
            (0..=rest.len()).any(|at| rest.get(at..).is_some_and(|rest| is_of(rest, after)))
        }),
    }
}

/// Patterns of the file names in a page: words in capitals stand for any text, and so does what `-x` and `x-` leave out.
fn patterns(page: &str) -> Vec<String> {
    let code = page.split('`').skip(1).step_by(2).flat_map(str::split_whitespace);
    let pattern = |word: &str| {
        let is_open = |part: &str| !part.is_empty() && part.chars().all(|c| c.is_ascii_uppercase());
        let parts = word.split_inclusive(['-', '.']).map(|part| {
            let bare = part.trim_end_matches(['-', '.']);
            if is_open(bare) { part.replacen(bare, "*", 1) } else { part.to_owned() }
        });
        let whole: String = parts.collect();
        let before = if whole.starts_with('-') { "*" } else { "" };
        let after = if whole.ends_with('-') { "*" } else { "" };
        let end = if before.is_empty() && after.is_empty() { "" } else { ".*" };
        format!("{before}{whole}{after}{end}")
    };
    code.map(pattern).filter(|pattern| pattern.chars().any(|c| c.is_alphanumeric())).collect()
}

#[test]
fn every_run_says_what_its_files_are() {
    for run in runs() {
        let described = ["README.md", "summary.md", "command.txt"].map(|name| run.join(name).exists());
        assert!(described.contains(&true), "{} has no README.md", run.display());
        let Ok(page) = fs::read_to_string(run.join("README.md")) else { continue };
        let patterns = patterns(&page);
        for file in entries(&run) {
            let name = file.file_name().unwrap().to_str().unwrap();
            let is_named = name == "README.md" || patterns.iter().any(|pattern| is_of(name, pattern));
            assert!(is_named, "{name} is not described in {}", run.join("README.md").display());
        }
    }
}

/// Commands of `dsde` in fenced code, as words.
fn commands(text: &str) -> Vec<Vec<String>> {
    let joined = text.replace("\\\n", " ");
    let mut is_code = false;
    let code = joined.lines().filter(|line| {
        let is_fence = line.trim_start().starts_with("```");
        is_code ^= is_fence;
        is_code && !is_fence
    });
    let command = |line: &str| {
        let (_, rest) = line.split_once("dsde ").or_else(|| line.split_once("cargo run --release -- "))?;
        let is_program =
            line.trim_start().starts_with("dsde ") || line.contains("/dsde ") || line.contains("| dsde ");
        let is_cargo = line.trim_start().starts_with("cargo run --release -- ");
        let words = rest.split(['#', '|', ';']).next()?.split_whitespace().map(str::to_owned);
        (is_program || is_cargo).then(|| words.collect())
    };
    code.filter_map(command).collect()
}

#[test]
fn commands_have_the_options_that_they_use() {
    let mut helps: BTreeMap<Vec<String>, String> = BTreeMap::new();
    let mut n_options = 0;
    // Runs tell what was typed then.
    for page in pages().into_iter().filter(|page| !page.starts_with(root().join("runs"))) {
        for words in commands(&fs::read_to_string(&page).unwrap()) {
            let is_name = |word: &&String| word.chars().all(|c| c.is_ascii_lowercase());
            let mut path: Vec<String> = words.iter().take_while(is_name).take(2).cloned().collect();
            let mut help = |path: &[String]| {
                let run = || dsde(&[path.iter().map(String::as_str).collect(), vec!["--help"]].concat());
                helps.entry(path.to_vec()).or_insert_with(|| run().stdout).clone()
            };
            if help(&path).is_empty() {
                path.pop();
            }
            let help = help(&path);
            for option in words.iter().filter(|word| word.starts_with("--")) {
                let option = option.split('=').next().unwrap();
                n_options += 1;
                let is_there = help.split([' ', '\n', '=', '[', ',']).any(|word| word == option);
                assert!(is_there, "{} has no {option}, which {} uses", path.join(" "), page.display());
            }
        }
    }
    assert!(n_options > 50, "options were found, got {n_options}");
}
