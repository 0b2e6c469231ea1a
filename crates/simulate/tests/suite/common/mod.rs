//! Scenarios from text.

use std::path::Path;

use dsde_simulate::results::Cell;
use dsde_simulate::{Results, Scenario, run};

/// A scenario of Llama-3.1-8B and a draft of 1B on one H100, without noise; `parts` add to it.
pub(crate) fn scenario(parts: &str) -> Scenario {
    let text = format!(
        "{parts}\n[machine]\ndevice = \"h100\"\nprofile = false\n[pair]\ntarget = \"llama-3.1-8b\"\ndraft = \"llama-3.2-1b\"\n"
    );
    Scenario::parse(&text, "test", Path::new("")).unwrap_or_else(|error| panic!("{error}\n{text}"))
}

pub(crate) fn results(parts: &str) -> Results {
    run(&scenario(parts), 2, &|_, _| {}).unwrap()
}

/// The only cell.
pub(crate) fn cell(parts: &str) -> Cell {
    let mut cells = results(parts).cells;
    assert_eq!(cells.len(), 1);
    cells.remove(0)
}
