//! The chart, the operator and everything it makes, on a real Kubernetes, with calls up.
//!
//! - [`kubernetes`] is the cluster, brought up by `tests/e2e/cluster`;
//! - [`calls`] is SIPp on a host outside of it;
//! - [`phones`] is others there, over TCP;
//! - [`world`] is the SipCluster under test, and what one can wait for and do to it;
//! - [`beside`] is other SipClusters, right and wrong ones;
//! - [`external`] is those whose Redis is outside;
//! - [`silent`] is callers behind a NAT;
//! - [`nodes`] is those at the addresses of nodes;
//! - [`drift`] is what somebody else does to its objects;
//! - [`strangers`] is who has no business there;
//! - [`refusals`] is what the API server does not take;
//! - [`scenarios`] is the list of what happens;
//! - [`load`] is another question, what many SipClusters ask of an API server;
//! - [`table`] runs them one after another, and prints what was lost (nothing) and how late the latest answer was.

mod beside;
mod calls;
mod drift;
mod external;
pub mod kubernetes;
pub mod load;
mod nodes;
mod phones;
pub mod refusals;
mod scenarios;
mod silent;
mod strangers;
mod table;
mod world;

pub use table::{MANIFEST, main, play};
