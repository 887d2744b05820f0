//! The cluster's Redis: a redis-server of its own, or one that is there already.

use std::net::SocketAddr;
use std::process::Command;

use crds::External;

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

    /// Tells a container where it is and, for TLS, whose certificates to trust. By the environment: the URL may hold a password, and a command line
    /// can be read by everyone.
    pub fn tell(&self, container: &mut Command, external: Option<&External>) {
        container.env("SIPCLUSTER_REDIS", self.url());
        if let Some(ca) = external.and_then(|external| external.ca_file.as_deref()) {
            container.env("SIPCLUSTER_REDIS_CA", ca);
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
/// first Sentinel, of `redis-cluster://[:password@]host[:port][,host[:port]...]` the first node.
fn host_and_port(url: &str) -> String {
    let (rest, port) = match url.split_once("://") {
        Some(("redis-sentinel" | "rediss-sentinel", rest)) => (rest, 26379),
        Some((_, rest)) => (rest, 6379),
        None => (url, 6379),
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
            ("rediss://10.0.0.7", "10.0.0.7:6379"),
            ("rediss-sentinel://10.0.0.7#calls", "10.0.0.7:26379"),
            ("redis-cluster://:p@10.0.0.7,10.0.0.8:7000", "10.0.0.7:6379"),
        ] {
            assert_eq!(host_and_port(url), address);
        }
    }
}
