//! Running: a pure core, and the tasks around it.

mod lock;

pub use lock::Holder;
