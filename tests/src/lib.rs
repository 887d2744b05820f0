//! Tests that span the parts: interoperation of real processes, a real Kubernetes, and the benchmarks. See ARCHITECTURE.md.

pub mod bench;
pub mod e2e;
pub mod interop;
pub mod sim;
