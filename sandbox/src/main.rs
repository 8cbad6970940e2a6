//! A whole migration on one machine, with real parts.
fn main() {}
