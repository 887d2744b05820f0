//! What people and probes see of a process, over HTTP on an address of its own:
//!
//! - `/livez`: the process runs (depends on nothing else);
//! - `/readyz`: 200, or 503 with the reason;
//! - `/metrics`: Prometheus text (OpenMetrics);
//! - `/state`: JSON for `sipcluster status`;
//! - `/digests`: of a container, JSON on what it holds of each partition.
//!
//! [`client`] reads these pages. Also the set-up of [`logging`] that the processes share. The page functions run on the admin's task, never on a message's path: they read
//! snapshots or atomics that the workers publish. Only for digests the workers are asked, and look through all that they hold.

pub mod client;
pub mod logging;
mod server;
mod takeover;

pub use prometheus_client as prometheus;
pub use server::{Later, Pages, Server};
pub use takeover::Takeover;
