//! The wire: bytes to typed access and back, without copies.

pub mod build;
pub mod check;
pub mod edit;
pub mod frame;
pub mod header;
pub mod message;
pub mod name_addr;
pub mod params;
pub mod scan;
pub mod uri;
pub mod values;
pub mod via;
