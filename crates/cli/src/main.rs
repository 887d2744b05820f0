//! `sipcluster`: a cluster on one machine, from the manifest that Kubernetes gets.
//!
//! `up` becomes the supervisor ([`supervisor`]): it holds the state directory's lock, starts Redis, proxies and containers as its children,
//! watches them over their admin ports and does what `ucf::plan` says. It writes what it knows to the state directory ([`state_dir`]), where
//! the other commands read it. `scale`, `restart` and `apply` write what they want there, and wait until it is so ([`follow`]).

mod apply;
mod args;
mod child;
mod custom;
mod detach;
mod down;
mod failure;
mod follow;
mod preflight;
mod probe;
mod redis;
mod restart;
mod scale;
mod state_dir;
mod status;
mod supervisor;
mod up;

use std::process::ExitCode;

use clap::Parser;

use args::{Command, Options};

fn main() -> ExitCode {
    let options = match Options::try_parse() {
        Ok(options) => options,
        Err(error) => {
            // Help is no failure. Nothing can be done about a closed standard output.
            let _ = error.print();
            return ExitCode::from(if error.use_stderr() { failure::USAGE } else { 0 });
        }
    };
    let directory = state_dir::StateDir::at(options.state_dir);
    let outcome = match options.command {
        Command::Up { file, detach } => up::run(&directory, &file, detach),
        Command::Down => down::run(&directory),
        Command::Status { output, watch } => status::run(&directory, output, watch),
        Command::Scale { replicas, patience } => scale::run(&directory, replicas, patience),
        Command::Restart { kind, patience } => restart::run(&directory, kind, patience),
        Command::Apply {
            file,
            dry_run,
            patience,
        } => apply::run(&directory, &file, dry_run, patience),
    };
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => {
            eprintln!("sipcluster: {}", failure.message);
            ExitCode::from(failure.code)
        }
    }
}
