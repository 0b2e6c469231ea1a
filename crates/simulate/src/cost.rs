//! What passes and steps take: priced by a device's data sheet, or as measured on a machine.

mod least_squares;
pub mod measured;
pub mod roofline;

use crate::pass::Pass;
pub use measured::Measured;
pub use roofline::{Roofline, Side};

/// Prices passes of a pair; seconds.
#[derive(Clone, Debug, PartialEq)]
pub enum Costs {
    /// By data sheet.
    Roofline(Box<Roofline>),
    /// By steps that a machine took.
    Measured(Measured),
}

impl Costs {
    /// A target pass, behind drafting or not.
    pub fn target(&self, pass: &Pass, is_behind_drafting: bool) -> f64 {
        match self {
            Self::Roofline(roofline) => roofline.target.pass(pass),
            Self::Measured(measured) => measured.target(pass, is_behind_drafting),
        }
    }

    /// A draft pass.
    pub fn draft(&self, pass: &Pass) -> f64 {
        match self {
            Self::Roofline(roofline) => roofline.draft.as_ref().map_or(0.0, |draft| draft.pass(pass)),
            Self::Measured(measured) => measured.draft(pass),
        }
    }

    /// What a step takes beside its passes.
    pub fn step(&self, pass: &Pass) -> f64 {
        match self {
            Self::Roofline(roofline) => roofline.step(pass),
            Self::Measured(measured) => measured.step(pass),
        }
    }

    /// Loading the draft's weights again.
    pub fn reload_draft(&self) -> f64 {
        match self {
            Self::Roofline(roofline) => roofline.reload_draft(),
            // No machine of ours has another memory to load from; its files are read again, which traces do not time.
            Self::Measured(_) => 0.0,
        }
    }
}
