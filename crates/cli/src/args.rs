//! The command line.

use std::path::PathBuf;

use clap::{Args, Parser, Subcommand, ValueEnum};

/// SIP calls that survive the death of their server: a cluster on this machine, from the manifest that Kubernetes gets.
#[derive(Debug, Parser)]
#[command(name = "sipcluster", version)]
pub struct Options {
    /// What to do.
    #[command(subcommand)]
    pub command: Command,

    /// Where the cluster keeps its files; each running cluster needs its own [default: $XDG_RUNTIME_DIR/sipcluster, or one in $TMPDIR].
    #[arg(long, global = true, env = "SIPCLUSTER_STATE", value_name = "DIRECTORY")]
    pub state_dir: Option<PathBuf>,
}

/// What to do.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Starts the cluster that a manifest describes, and stops it at Ctrl-C.
    Up {
        /// The manifest: a SipCluster (docs/manifest.md).
        #[arg(short, long, value_name = "FILE")]
        file: PathBuf,
        /// Return once the cluster works; `sipcluster down` stops it.
        #[arg(long)]
        detach: bool,
    },
    /// Stops the cluster and leaves nothing behind.
    Down,
    /// Shows the state of the cluster.
    Status {
        /// How it is shown.
        #[arg(short, long, value_enum, default_value_t = Output::Table)]
        output: Output,
        /// Show it again every second, until Ctrl-C.
        #[arg(short, long)]
        watch: bool,
    },
    /// Changes the number of containers, one at a time; calls go on.
    Scale {
        /// How many containers there shall be.
        #[arg(value_parser = clap::value_parser!(u16).range(1..=64))]
        replicas: u16,
        #[command(flatten)]
        patience: Patience,
    },
    /// Restarts all parts of a kind, one at a time; calls go on.
    Restart {
        /// Which.
        #[arg(value_enum)]
        kind: Kind,
        #[command(flatten)]
        patience: Patience,
    },
    /// Makes the running cluster what a changed manifest describes; calls go on.
    Apply {
        /// The manifest: a SipCluster (docs/manifest.md).
        #[arg(short, long, value_name = "FILE")]
        file: PathBuf,
        /// Only say what would happen.
        #[arg(long)]
        dry_run: bool,
        #[command(flatten)]
        patience: Patience,
    },
}

/// How long a command waits for what it asked for.
#[derive(Clone, Copy, Debug, Args)]
pub struct Patience {
    /// Give up waiting after this long, such as 90s or 10m; the cluster goes on.
    #[arg(long, value_name = "PERIOD", default_value = "10m")]
    pub timeout: crds::Period,
}

/// A kind of parts.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Kind {
    /// The containers; their calls are handed over first.
    Containers,
    /// The proxies; each drains first.
    Proxies,
    /// The Redis that the cluster runs; the containers write it anew.
    Redis,
}

/// How a state is shown.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Output {
    /// For people.
    Table,
    /// For programs: one JSON object.
    Json,
}
