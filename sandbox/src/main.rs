//! A whole migration on one machine, with real parts: `up`, `status`, `seed`, `env`, `down`.

mod layout;
mod process;
mod tools;

fn main() -> miette::Result<()> {
    tools::ensure(&layout::Layout::discover()?)
}
