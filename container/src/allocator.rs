//! The allocator of a container process.
//!
//! Transactions are kept for half a minute, dialogs for long, and both are made together. So their memory has to lie apart, or that of ended
//! transactions cannot be given back: jemalloc keeps pieces of one size together, glibc does not (docs/decisions/2026-11-memory.md).

/// The allocator that a container's `main` should declare: a dialog takes half the memory that it takes with glibc's.
pub use tikv_jemallocator::Jemalloc as Allocator;

/// Read by jemalloc at its start. What is free goes back to the system after a second: ten, as usual, are more than an idle worker counts, since
/// it is by allocations that jemalloc hears of the time.
#[unsafe(export_name = "_rjem_malloc_conf")]
static CONFIGURATION: &[u8; 20] = b"dirty_decay_ms:1000\0";
