//! TOML → [`Checked`]: pure, and every mistake in one pass.

mod diagnostic;
mod params;

pub use diagnostic::{Diagnostics, Mistake, ReadError, Source};
pub use params::Params;

/// A workflow, its environment and its parameters, all checked together. Can be planned and run.
#[derive(Debug, Clone)]
pub struct Checked {}

impl Checked {
    /// The workflow's name.
    pub fn name(&self) -> &str {
        todo!()
    }
}
