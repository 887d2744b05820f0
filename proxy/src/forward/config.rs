//! What a forwarder is told at its start.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use ucf::ProxyId;
use ucf::token::Keyring;

/// One worker's configuration.
#[derive(Clone, Debug)]
pub struct Config {
    /// This worker.
    pub me: ProxyId,
    /// How many workers the process has.
    pub workers: u16,
    /// The cluster's name, for `Hello`.
    pub cluster: String,
    /// The cluster's keys.
    pub keyring: Arc<Keyring>,
    /// At most [`ucf::flow::MAX_LISTENERS`], in the order that flows name them.
    pub listeners: Vec<Listener>,
    /// Host names, other than the advertised addresses, under which clients reach the cluster.
    pub aliases: Vec<String>,
    /// A host name that leads to every proxy of the cluster: it stands in Record-Route in place of this one's address.
    pub route_host: Option<String>,
    /// The host that containers write into Contact where proxies have an address each: this one's takes its place.
    pub stand_in: Option<String>,
    /// Besides `urn:service:sos` (RFC 5031), whose calls are refused last: user part of a sip, sips or tel URI, or another URN.
    pub emergency: Vec<String>,
    /// The lease L of members: output from memory whose heartbeat is older than 0.8 L is dropped.
    pub lease: Duration,
    /// Start of the generator that spreads choices and Retry-After; random.
    pub entropy: u64,
    /// The wall clock when this worker's clock stood at zero, from the Unix epoch on: it numbers what upstreams are told of overload.
    pub started: Duration,
    /// Bounds.
    pub limits: Limits,
}

/// An address that clients use, UDP and TCP.
#[derive(Clone, Debug)]
pub struct Listener {
    /// Where it is bound.
    pub local: SocketAddr,
    /// Host as it leaves the cluster in Via and Record-Route; an IPv6 address without brackets.
    pub host: String,
    /// Port as it leaves the cluster.
    pub port: u16,
}

/// Bounds on what a worker keeps.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// Unconfirmed bytes per container.
    pub window_bytes: usize,
    /// How long an unconfirmed message is kept.
    pub window_age: Duration,
    /// Bytes of messages that wait for an owner.
    pub hold_bytes: usize,
    /// Messages that wait for an owner.
    pub hold_count: usize,
    /// How long a message waits for an owner before it is answered with 500.
    pub hold_age: Duration,
    /// Transactions of new dialogs that are remembered.
    pub transactions: usize,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            // 64 MiB is six seconds of 10,000 messages of 1 KiB each; half of it, of what begins calls.
            window_bytes: 64 << 20,
            // 64 * T1: by then the peer's transaction has ended.
            window_age: Duration::from_secs(32),
            hold_bytes: 64 << 20,
            hold_count: 65_536,
            // Longer than a takeover after a container and Redis were lost together: a failover of Redis by Sentinel (3 s), then 2 L in which
            // who is silent may say what it owns (4 s), then the claims. Shorter than the peer's patience (32 s).
            hold_age: Duration::from_secs(12),
            // 32 s of 20,000 new dialogs a second, and some; about 60 MiB when full.
            transactions: 1 << 20,
        }
    }
}
