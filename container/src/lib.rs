//! The SIP container: owns partitions, runs applications, replicates sessions to Redis.
//!
//! - [`run`]: the container process around an application of yours;
//! - [`application`]: what handles a call, and the session that is replicated for it;
//! - [`records`]: what is replicated, and its bounds;
//! - [`engine`]: one worker, sans-IO: partitions as actors, transactions, dialogs, timers, turns;
//! - [`rtpengine`]: through which media is led;
//! - [`store`]: Redis behind a link of our own.

mod allocator;
pub mod application;
pub mod engine;
mod process;
pub mod records;
pub mod rtpengine;
pub mod store;

pub use allocator::Allocator;
pub use process::{run, run_built_in};
/// The words of SIP in which applications speak.
pub use sip;
