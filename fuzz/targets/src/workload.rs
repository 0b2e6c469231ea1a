//! Workloads: prompts in JSON lines.

use std::io::BufReader;

use dsde_bench::{Prompt, Workload};

/// A workload asks something in every item, and is the same however its bytes come.
pub fn workload(bytes: &[u8]) {
    let whole = Workload::parse("name", "file.jsonl", bytes);
    let in_pieces = Workload::parse("name", "file.jsonl", BufReader::with_capacity(3, bytes));
    let (whole, in_pieces) = match (whole, in_pieces) {
        (Ok(whole), Ok(in_pieces)) => (whole, in_pieces),
        (Err(whole), Err(in_pieces)) => return assert_eq!(whole.to_string(), in_pieces.to_string()),
        (whole, in_pieces) => panic!("{whole:?} and {in_pieces:?}"),
    };
    assert_eq!(whole, in_pieces);
    assert!(!whole.items.is_empty() && whole.items.is_sorted_by(|a, b| a.line < b.line));
    for item in &whole.items {
        assert!(item.max_tokens != Some(0));
        match &item.prompt {
            Prompt::Text(text) => assert!(!text.is_empty()),
            Prompt::Messages(messages) => assert!(!messages.is_empty()),
        }
    }
}
