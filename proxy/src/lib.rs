//! The SIP proxy: clients on one side, containers on the other.
//!
//! [`forward`] is the path of a message, sans-IO; the rest of this crate are the sockets around it.

pub mod forward;
