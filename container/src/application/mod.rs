//! Applications: what handles a call.
//!
//! An [`Application`] gets requests, responses and timers of a [`Session`] and answers through it. Its handlers are synchronous and
//! decide at once; whatever they set, start, answer or send is replicated with the turn they run in, before anything of it leaves,
//! and a successor goes on from there without a line of theirs. A handler must not keep state of a call anywhere else.
//!
//! A session has dialogs: one for an answering application, two for a b2bua. All dialogs of a session live in one partition.
//!
//! What the engine does by itself, before an application is asked: retransmissions, CANCEL (487), CSeq, unknown dialogs (481), unknown
//! extensions (420) and methods (405, 501), PRACK bookkeeping, session timers (BYE when a session expires), BYE without ACK.

pub mod answer;
mod message;
mod session;

pub use message::{Message, Outgoing, Reply, Request, Response};
pub(crate) use session::{Command, DialogSlot, Flow, SessionCore};
pub use session::{DialogNumber, DialogView, Session, SessionId, TimerId, TransactionId};

use std::sync::Arc;

use sip::dialog::SessionPolicy;

/// What an application understands; the engine answers for it where this suffices.
#[derive(Clone, Debug)]
pub struct Profile {
    /// Methods for Allow, such as `INVITE`. ACK and CANCEL go without saying and should be listed.
    pub methods: &'static [&'static str],
    /// Option tags for Supported, such as `timer`; a request that requires another is refused with 420 (RFC 3261 s8.2.2.3).
    pub extensions: &'static [&'static str],
    /// Session timers (RFC 4028).
    pub session: SessionPolicy,
}

/// The application that `{"NAME": OPTIONS}` names, as a manifest does.
///
/// # Errors
/// Says what is wrong and what would be right.
pub fn from_json(text: &str) -> Result<Arc<dyn Application>, String> {
    #[derive(serde::Deserialize)]
    #[serde(deny_unknown_fields)]
    struct Named {
        #[serde(default)]
        answer: Option<answer::Options>,
    }
    match serde_json::from_str::<Named>(text) {
        Ok(Named { answer: Some(options) }) => Ok(Arc::new(answer::Answer::new(options))),
        Ok(Named { answer: None }) => Err("no application is named; give {\"answer\": {}}".to_owned()),
        Err(error) => Err(format!(
            "{error}; give {{\"answer\": {{\"ring\": \"3s\"}}}} or the like"
        )),
    }
}

/// Why a dialog has ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ended {
    /// The peer sent BYE.
    Bye,
    /// The caller gave up: CANCEL, answered with 487.
    Cancelled,
    /// Nobody refreshed the session; BYE was sent.
    Expired,
    /// The peer does not answer: no ACK, no PRACK, or 408 or 481 within the dialog.
    Unreachable,
    /// This application sent BYE or refused the call.
    Local,
}

/// What handles calls. One value serves all workers and sessions, so it holds configuration only.
pub trait Application: Send + Sync + 'static {
    /// What it understands.
    fn profile(&self) -> &Profile;

    /// A request, new or within a dialog. Other than for ACK it must be answered, now or later (a timer), by
    /// [`Session::respond`]; a request without an answer when the session ends is answered with 500.
    fn on_request(&self, session: &mut Session<'_>, request: &Request<'_>);

    /// A response to a request that [`Session::send`] sent. One that never came is reported as 408, a broken way as 503.
    fn on_response(&self, session: &mut Session<'_>, response: &Response<'_>) {
        let _ = (session, response);
    }

    /// A timer of [`Session::start_timer`] has fired; it fires once, in whatever process.
    fn on_timer(&self, session: &mut Session<'_>, timer: TimerId) {
        let _ = (session, timer);
    }

    /// A dialog has ended. When the last one has, the session goes with everything in it.
    fn on_ended(&self, session: &mut Session<'_>, dialog: DialogNumber, why: Ended) {
        let _ = (session, dialog, why);
    }
}
