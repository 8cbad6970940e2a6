//! The main job against the sandbox, as a newcomer runs it first.

use std::process::Command;
use std::time::Instant;

use crate::cargo::{self, Outcome};
use crate::prerequisites;

/// Prepares the sandbox, seeds the estate, moves it and proves that it arrived.
pub fn run() -> Outcome {
    prerequisites::check()?;
    let start = Instant::now();
    eprintln!("rehearse: building the project");
    cargo::build()?;
    let built = start.elapsed();
    eprintln!("rehearse: starting the sandbox");
    cargo::sandbox(&["up"])?;
    let up = start.elapsed();
    eprintln!("rehearse: seeding the estate");
    cargo::sandbox(&["seed", "--reset"])?;
    let seeded = start.elapsed();
    migrate(&["run", "stateful", "--param", "namespaces=shop"])?;
    let done = start.elapsed();
    eprintln!(
        "rehearse: {:.0} s in all: build {:.0} s, sandbox {:.0} s, estate {:.0} s, migration {:.0} s",
        done.as_secs_f64(),
        built.as_secs_f64(),
        (up - built).as_secs_f64(),
        (seeded - up).as_secs_f64(),
        (done - seeded).as_secs_f64(),
    );
    eprintln!("rehearse: the sandbox still runs; `cargo xtask sandbox down` takes it away");
    eprintln!(
        "rehearse: to go on with it: eval \"$(cargo xtask sandbox env)\" and, say, target/debug/migrate status"
    );
    Ok(())
}

/// `migrate ARGS…` in the sandbox's project folder.
fn migrate(args: &[&str]) -> Outcome {
    cargo::run(Command::new(cargo::built("migrate")).args(args).current_dir(cargo::project()))
}
