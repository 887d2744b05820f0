//! The cluster's Redis: a redis-server of its own, or one that is there already.

use std::net::SocketAddr;
use std::process::Command;

use crate::failure::Failure;
use crate::state_dir::StateDir;

/// Which Redis the containers use.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Redis {
    /// A child of ours at this loopback address, the same for as long as the cluster lives: containers know it by this address.
    Managed(SocketAddr),
    /// Somebody else's.
    External {
        /// As it stands in the manifest.
        url: String,
        /// Host and port.
        address: String,
    },
}

impl Redis {
    /// By the URL of the manifest, or one of our own at `address`.
    pub fn new(external: Option<&str>, address: SocketAddr) -> Self {
        match external {
            None => Self::Managed(address),
            Some(url) => Self::External {
                url: url.to_owned(),
                address: host_and_port(url),
            },
        }
    }

    /// What the containers are given.
    pub fn url(&self) -> String {
        match self {
            Self::Managed(address) => format!("redis://{address}/"),
            Self::External { url, .. } => url.clone(),
        }
    }

    /// Where it listens.
    pub fn address(&self) -> String {
        match self {
            Self::Managed(address) => address.to_string(),
            Self::External { address, .. } => address.clone(),
        }
    }
}

/// The command of a redis-server in memory only: the containers hold the other copy.
pub fn command(address: SocketAddr, directory: &StateDir) -> Command {
    let mut command = Command::new("redis-server");
    command.args([
        "--bind",
        &address.ip().to_string(),
        "--port",
        &address.port().to_string(),
    ]);
    command.args(["--save", "", "--appendonly", "no", "--daemonize", "no"]);
    command.arg("--dir").arg(directory.file("redis"));
    command
}

/// What to do when redis-server is not there.
pub fn missing() -> Failure {
    Failure::here(
        "redis-server is not installed; install it (on Debian: apt-get install redis-server), or name one that runs in spec.redis.external.url",
    )
}

/// `redis://[user[:password]@]host[:port][/database]`; of `redis-sentinel://[:password@]host[:port][,host[:port]...][/database]#master` the
/// first Sentinel.
fn host_and_port(url: &str) -> String {
    let (rest, port) = match url.strip_prefix("redis-sentinel://") {
        Some(rest) => (rest, 26379),
        None => (url.strip_prefix("redis://").unwrap_or(url), 6379),
    };
    let authority = rest.split(['/', '?', '#']).next().unwrap_or(rest);
    let hosts = authority.rsplit_once('@').map_or(authority, |(_, hosts)| hosts);
    let host = hosts.split(',').next().unwrap_or(hosts);
    // In an IPv6 literal a colon is no sign of a port.
    let after_literal = host.rsplit_once(']').map_or(host, |(_, after)| after);
    if after_literal.contains(':') {
        host.to_owned()
    } else {
        format!("{host}:{port}")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn url_names_host_and_port() {
        for (url, address) in [
            ("redis://localhost", "localhost:6379"),
            ("redis://10.0.0.7:7000/3", "10.0.0.7:7000"),
            ("redis://user:p:w@[::1]/", "[::1]:6379"),
            ("redis://[::1]:7000", "[::1]:7000"),
            ("redis-sentinel://:p,w@10.0.0.7,10.0.0.8:7000/3#calls", "10.0.0.7:26379"),
            ("redis-sentinel://[::1]:7000#calls", "[::1]:7000"),
        ] {
            assert_eq!(host_and_port(url), address);
        }
    }
}
