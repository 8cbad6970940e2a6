//! `migrate`: the command line over the engine and the built-in steps. Owns rendering and exit
//! codes; decides nothing about runs. stdout is data, stderr is progress and messages.
#![warn(clippy::print_stderr, clippy::print_stdout)]

mod args;
mod assess;
mod commands;
mod decide;
mod describe;
mod evidence;
mod exit;
mod failure;
mod html;
mod logs;
mod outlook;
mod output;
mod plugins;
mod progress;
mod render;
mod rewrite;
mod rules;
mod sarif;
mod say;
mod scaffold;
mod shipped;
mod signals;
mod site;
mod table;
mod telemetry;
mod watch;

use std::process::ExitCode;

use clap::Parser;

use crate::args::Cli;

fn main() -> ExitCode {
    // Before anything else is there: it must be alone in its process.
    let mut args = std::env::args_os().skip(1);
    if plugins::GUARD.iter().all(|word| args.next().is_some_and(|arg| arg == *word)) {
        return migrate_plugin_host::guard::main(args);
    }
    work()
}

#[tokio::main]
async fn work() -> ExitCode {
    let cli = Cli::parse();
    tracing_subscriber::fmt()
        .with_writer(std::io::stderr)
        .with_env_filter(
            tracing_subscriber::EnvFilter::try_from_env("MIGRATE_LOG").unwrap_or_else(|_| "error".into()),
        )
        .init();
    match commands::run(&cli).await {
        Ok(exit) => exit.into(),
        Err(failure) => {
            failure.print();
            if cli.json
                && let Err(unread) = output::print_json("error", &failure.document())
            {
                unread.print();
            }
            failure.exit().into()
        }
    }
}
