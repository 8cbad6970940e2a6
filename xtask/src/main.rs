//! The project's own commands. Depends on nothing, so that `cargo xtask` starts within seconds on
//! a fresh machine; everything else is built by the command that needs it, once, in one profile.

mod bench;
mod cargo;
mod prerequisites;
mod rehearse;
mod simulate;
mod test;

use std::process::ExitCode;

const HELP: &str = "\
The project's own commands.

Usage: cargo xtask COMMAND

  rehearse          Move a whole estate from one Kubernetes cluster to another on this machine,
                    with real parts, and print the evidence. The first run builds the parts.
  test              Run everything: formatting, unit tests, the rehearsal, the end-to-end tests.
  test --quick      Only what needs no running sandbox.
  simulate          Run the engine through 10,000 simulated worlds of crashes and errors.
  simulate --seeds N [--from N]
                    Through so many worlds.
  simulate --seed N [--at OPERATION --trouble KIND]
                    Through one, with its trace: what a failure prints.
  bench             Say which benches there are.
  bench NAME        Run one: what the product costs, as JSON (see docs/benchmarks.md).
  lint              clippy on all targets, warnings refused; the dependencies' licenses and sources.
  sandbox ARGS…     The sandbox by itself: up, status, seed, env, down (see `sandbox --help`).
";

fn main() -> ExitCode {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let words: Vec<&str> = args.iter().map(String::as_str).collect();
    let result = match words.as_slice() {
        ["rehearse"] => rehearse::run(),
        ["test"] => test::everything(),
        ["test", "--quick"] => test::quick(),
        ["simulate", rest @ ..] => simulate::run(rest),
        ["bench"] => bench::list(),
        ["bench", name, options @ ..] => bench::run(name, options),
        ["lint"] => test::lint(),
        ["sandbox", rest @ ..] => cargo::build().and_then(|()| cargo::sandbox(rest)),
        ["help" | "-h" | "--help"] => {
            print!("{HELP}");
            return ExitCode::SUCCESS;
        }
        _ => {
            eprint!("{HELP}");
            return ExitCode::from(2);
        }
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(message) => {
            eprintln!("xtask: {message}");
            ExitCode::FAILURE
        }
    }
}
