//! The engine.

mod turn;

pub use turn::{Announcement, Confirm, ConnectionId, Input, Output, Released, Turn, Write};
