//! Tests that need the whole.
