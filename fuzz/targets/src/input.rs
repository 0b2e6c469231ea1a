//! How inputs are laid out, and files made of them.

use std::fs;

use tempfile::TempDir;

/// A line that parts an input.
const SEPARATOR: &str = "\n---\n";

/// The parts of an input of several texts, between lines of three dashes.
pub(crate) fn sections(text: &str) -> impl Iterator<Item = &str> {
    text.split(SEPARATOR)
}

/// The first line, and what is below it.
pub(crate) fn head_and_body(text: &str) -> (&str, &str) {
    text.split_once('\n').unwrap_or((text, ""))
}

/// Pieces of a text, each of so many characters, over and over.
///
/// * `lens`: of the pieces; 0 counts as 1, and none at all as the whole text.
pub(crate) fn pieces(text: &str, lens: &[usize]) -> Vec<String> {
    let characters: Vec<char> = text.chars().collect();
    let mut rest = characters.as_slice();
    let mut pieces = Vec::new();
    let mut lens = lens.iter().cycle();
    while !rest.is_empty() {
        let len = lens.next().map_or(rest.len(), |&len| len.clamp(1, rest.len()));
        pieces.push(rest[..len].iter().collect());
        rest = &rest[len..];
    }
    pieces
}

/// A new folder with files of these names and contents.
pub(crate) fn files(files: &[(&str, &[u8])]) -> TempDir {
    let folder = tempfile::tempdir().expect("there is room for a folder");
    for (name, contents) in files {
        fs::write(folder.path().join(name), contents).expect("there is room for a file");
    }
    folder
}
