//! What went wrong on a socket, and whose fault it is.

use std::fmt;
use std::io;

/// The result of a transport operation.
pub type Result<T> = std::result::Result<T, Error>;

/// Whose fault an error is, which says what to do about it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    /// This process or its machine: an address that cannot be bound, no more descriptors. An operator must act.
    Local,
    /// The network or the peer's presence: refused, reset, closed, timed out. Trying again may help.
    Network,
    /// The peer speaks wrongly. Trying again does not help; the connection is to be closed.
    Peer,
    /// The peer does not prove that it is of this cluster. An operator must act if it is.
    Stranger,
}

/// An error with its fault and a sentence on what was being done.
#[derive(Debug)]
pub struct Error {
    fault: Fault,
    doing: String,
    source: Option<io::Error>,
}

impl Error {
    /// This side's fault.
    pub fn local(doing: impl Into<String>, source: io::Error) -> Self {
        Self {
            fault: Fault::Local,
            doing: doing.into(),
            source: Some(source),
        }
    }

    /// The network's fault.
    pub fn network(doing: impl Into<String>, source: io::Error) -> Self {
        Self {
            fault: Fault::Network,
            doing: doing.into(),
            source: Some(source),
        }
    }

    /// The peer's fault: `what` says what it did.
    pub fn peer(what: impl Into<String>) -> Self {
        Self {
            fault: Fault::Peer,
            doing: what.into(),
            source: None,
        }
    }

    /// The peer is a stranger: `what` says why, and what to do if it is not.
    pub fn stranger(what: impl Into<String>) -> Self {
        Self {
            fault: Fault::Stranger,
            ..Self::peer(what)
        }
    }

    /// Whose fault it is.
    #[must_use]
    pub fn fault(&self) -> Fault {
        self.fault
    }

    /// Whether the same may succeed later without anybody changing anything.
    #[must_use]
    pub fn is_retryable(&self) -> bool {
        self.fault == Fault::Network
    }

    /// The system's kind of error, where the system reported it.
    #[must_use]
    pub fn io_kind(&self) -> Option<io::ErrorKind> {
        self.source.as_ref().map(io::Error::kind)
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.source {
            Some(source) => write!(f, "{}: {source}", self.doing),
            None => f.write_str(&self.doing),
        }
    }
}

/// The system's error is part of the text already, so it is not given again as a source.
impl std::error::Error for Error {}
