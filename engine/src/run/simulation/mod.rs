//! A deterministic simulator: the real core, dispatcher, engine and SQLite store in a world of
//! simulated time, steps, outside and disk. Everything follows from one number, the seed.
//!
//! `dice` (chance) · `scenario` (the workflow of a seed) · `outside` (what steps have made) ·
//! `step` · `disk` (under SQLite) · `witness` (the store, watched) · `ledger` (what it has promised)
//! · `world` (all of it, and the rules) · `people` (gates and the undo) · `outdated` (what is reused beside what is new) · `life` (processes that begin, die and are followed).
//! What is simulated and what is not: `docs/design/simulation.md`.

mod dice;
mod disk;
mod ledger;
mod life;
mod outdated;
mod outside;
mod people;
mod scenario;
mod step;
mod tests;
mod witness;
mod world;

pub(crate) use crate::ambient::simulated::has as flawed;
pub(crate) use life::Flaw;
