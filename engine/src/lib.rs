//! Loads, checks and runs workflows; remembers every fact durably.
