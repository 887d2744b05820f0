//! The Kubernetes operator of `SipCluster` resources.
//!
//! A reconciliation is a row of named steps ([`sip_cluster`]), of which only some touch anything outside:
//!
//! | step | does | outside |
//! | --- | --- | --- |
//! | `dereference` | what is there of the cluster, out of watched caches | none |
//! | `validate` | final values, or problems that name field and remedy | none |
//! | `observe` | asks every container what it holds | the pods' admin pages |
//! | `plan` | `ucf::plan`: which pod comes or goes next, and what is waited for | none |
//! | `build` | every child object | none |
//! | `apply` | server-side apply of what differs, and the plan's steps | API server |
//! | `status` | conditions, counts, events | API server |
//!
//! The operator keeps nothing that it could not read again: it may end at any moment, and calls do not notice. [`leader`] lets one of several
//! replicas work at a time; [`check`] is another task of the same executable.

pub mod check;
pub mod config;
pub mod leader;
pub mod metrics;
pub mod sip_cluster;
