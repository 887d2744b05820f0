//! Sans-IO SIP (RFC 3261): scanning, editing, framing, transactions, dialogs. No clock, socket or randomness of its own.

pub mod dialog;
pub mod time;
pub mod transaction;
pub mod wire;

pub use time::Instant;
pub use wire::build::{RequestBuilder, ResponseBuilder};
pub use wire::check::{Reject, check, check_hops, check_scheme, unsupported};
pub use wire::edit::{Edit, OverloadControl, put_decimal};
pub use wire::frame::{Frame, FrameError, Framer, Side};
pub use wire::header::HeaderName;
pub use wire::message::{Cseq, Message, Method, NamedDialog, OwnedMessage, Rack, Refresher, SessionExpires};
pub use wire::name_addr::NameAddr;
pub use wire::params::{Params, unquoted};
pub use wire::scan::{Fault, Index, Limits, ScanError, Span};
pub use wire::uri::{Host, Scheme, Uri};
pub use wire::values::{Header, Value, Values};
pub use wire::via::Via;
