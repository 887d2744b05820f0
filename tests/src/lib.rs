//! Tests that span the parts: interoperation of real processes, and the benchmarks. See ARCHITECTURE.md.

pub mod bench;
pub mod interop;
pub mod sim;
