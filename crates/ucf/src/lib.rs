//! Sans-IO clustering: who is a member, who owns which partition at which epoch, and where a message goes.
//!
//! Containers run a `member` state machine (membership, leases, claims, hand-over); proxies keep a routing table, a window
//! per container and a transaction table. What they tell one another is in [`wire`]. No clock, socket or randomness of its own:
//! time and entropy are arguments.

pub mod assignment;
pub mod base32;
pub mod detector;
pub mod flow;
pub mod greeting;
pub mod hold;
pub mod id;
pub mod lease;
pub mod load;
pub mod member;
pub mod plan;
pub mod routing;
pub mod store;
pub mod token;
pub mod transactions;
pub mod window;
pub mod wire;

pub use id::{Epoch, Incarnation, PartitionId, ProxyId};
