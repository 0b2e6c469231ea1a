//! Links between the pages of the documentation lead somewhere, down to the heading.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};

/// Where pages lie, from the root of the repository.
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

fn pages() -> Vec<PathBuf> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("../..");
    let files = FOLDERS.iter().flat_map(|folder| fs::read_dir(root.join(folder)).unwrap());
    let paths = files.map(|file| file.unwrap().path());
    paths.filter(|path| path.extension().is_some_and(|extension| extension == "md")).collect()
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
