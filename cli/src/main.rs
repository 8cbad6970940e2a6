//! `migrate`: the command line over the engine and the built-in steps. Owns rendering and exit
//! codes; decides nothing about runs. stdout is data, stderr is progress and messages.
#![warn(clippy::print_stderr, clippy::print_stdout)]

mod args;
mod commands;
mod decide;
mod evidence;
mod exit;
mod failure;
mod logs;
mod outlook;
mod output;
mod progress;
mod render;
mod say;
mod scaffold;
mod shipped;
mod signals;
mod table;
mod telemetry;
mod watch;

use std::process::ExitCode;

use clap::Parser;

use crate::args::Cli;

#[tokio::main]
async fn main() -> ExitCode {
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
