//! The guard as a program of its own, for what has no `migrate` at hand: the tests and the bench of this
//! crate. `migrate plugin guard` is the same.

use std::process::ExitCode;

fn main() -> ExitCode {
    migrate_plugin_host::guard::main(std::env::args_os().skip(1))
}
