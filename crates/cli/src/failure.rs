//! Why a command failed, and what to do about it.

use std::fmt::Display;

/// The command line or the manifest is wrong (sysexits' EX_USAGE).
pub const USAGE: u8 = 64;

/// A failure as a person sees it.
#[derive(Debug)]
pub struct Failure {
    /// The exit code.
    pub code: u8,
    /// What is wrong and what to do.
    pub message: String,
}

impl Failure {
    /// Something that the manifest or the command line must change.
    pub fn usage(message: impl Into<String>) -> Self {
        Self {
            code: USAGE,
            message: message.into(),
        }
    }

    /// The same for all that is wrong with a manifest, each after `place`.
    pub fn problems(place: &str, problems: &[crds::Problem]) -> Self {
        let lines: Vec<_> = problems.iter().map(|problem| format!("{place}{problem}")).collect();
        Self::usage(lines.join("\nsipcluster: "))
    }

    /// Something that this machine must change.
    pub fn here(message: impl Into<String>) -> Self {
        Self {
            code: 1,
            message: message.into(),
        }
    }

    /// An error of the system while `doing`.
    pub fn system(doing: impl Display, error: impl Display) -> Self {
        Self::here(format!("{doing}: {error}"))
    }
}
