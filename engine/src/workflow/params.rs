//! Values of parameters, as given by a person.

use std::collections::BTreeMap;

use super::{Diagnostics, Source};

/// Values of parameters, not yet checked against their declarations.
#[derive(Debug, Clone, Default)]
pub struct Params {
    given: BTreeMap<String, Given>,
}

#[derive(Debug, Clone)]
enum Given {
    Text(String),
}

impl Params {
    /// None.
    pub fn new() -> Self {
        Self::default()
    }

    /// Adds `name` as written on a command line; read by its declared type. A list is
    /// `a,b` or `["a", "b"]`, a map `{ a = 1 }`. Replaces an earlier one.
    pub fn set(&mut self, name: impl Into<String>, text: impl Into<String>) {
        self.given.insert(name.into(), Given::Text(text.into()));
    }

    /// Adds every top-level key of a TOML file.
    ///
    /// # Errors
    /// When it is no TOML.
    pub fn read(&mut self, _file: &Source) -> Result<(), Diagnostics> {
        todo!()
    }
}
