//! Applications: what handles a call.
//!
//! An [`Application`] gets requests, responses and timers of a [`Session`] and answers through it. Its handlers are synchronous and
//! decide at once; whatever they set, start, answer or send is replicated with the turn they run in, before anything of it leaves,
//! and a successor goes on from there without a line of theirs. A handler must not keep state of a call anywhere else.
//!
//! A session has dialogs: one for an answering application, two for a b2bua. All dialogs of a session live in one partition.
//!
//! What has to be known from elsewhere is [asked](Session::ask) of the application's [`Outside`]; the answer comes to a handler of its own.
//!
//! What the engine does by itself, before an application is asked: retransmissions, CANCEL (487, and a CANCEL for the INVITE that passes
//! the cancelled one on), CSeq, unknown dialogs (481), unknown extensions (420) and methods (405, 501), PRACK, ACK, session timers (422,
//! refreshes, BYE when a session expires), BYE when no ACK comes, forks that answer too late.

pub mod answer;
pub mod b2bua;
mod message;
mod outside;
mod session;

pub use message::{About, Call, Message, Outgoing, Reply, Request, Response};
pub use outside::{AskId, Outside};
pub(crate) use session::AskSlot;
pub use session::{CallNumber, DialogNumber, DialogView, Session, SessionId, TimerId, TransactionId};
pub(crate) use session::{CallSlot, Command, DialogSlot, Flow, SessionCore};

use std::sync::Arc;
use std::time::Duration;

use serde::Deserialize;
use sip::Refresher;
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
        #[serde(default)]
        b2bua: Option<b2bua::Options>,
    }
    match serde_json::from_str::<Named>(text) {
        Ok(Named {
            answer: Some(options),
            b2bua: None,
        }) => Ok(Arc::new(answer::Answer::new(options))),
        Ok(Named {
            answer: None,
            b2bua: Some(options),
        }) => Ok(Arc::new(b2bua::B2bua::new(options))),
        Ok(_) => {
            Err("exactly one application is named; give {\"answer\": {}} or {\"b2bua\": {\"routes\": []}}".to_owned())
        }
        Err(error) => Err(format!(
            "{error}; give {{\"answer\": {{\"ring\": \"3s\"}}}} or the like"
        )),
    }
}

/// A whole number and its unit: `500ms`, `3s`, `30m`, `1h`.
fn period<'de, D: serde::Deserializer<'de>>(from: D) -> Result<Duration, D::Error> {
    let text = String::deserialize(from)?;
    let digits = text.bytes().take_while(u8::is_ascii_digit).count();
    let (number, unit) = text.split_at(digits);
    let millis = match unit {
        "ms" => Some(1),
        "s" => Some(1_000),
        "m" => Some(60_000),
        "h" => Some(3_600_000),
        _ => None,
    };
    // Nine digits: no product overflows.
    let number: Option<u64> = number.parse().ok().filter(|_| digits <= 9);
    let millis = number
        .zip(millis)
        .map(|(number, unit)| Duration::from_millis(number * unit));
    millis.ok_or_else(|| serde::de::Error::custom(format!("{text:?} is not a period such as 500ms, 3s, 30m or 1h")))
}

/// The session policy of an application that is told how long a session may go without a refresh; zero: as the peers want it.
fn session_policy(expires: Duration) -> SessionPolicy {
    let seconds = u32::try_from(expires.as_secs()).unwrap_or(u32::MAX).max(90);
    SessionPolicy {
        interval: (!expires.is_zero()).then_some(seconds),
        min_se: 90,
        refresher: Refresher::Uac,
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

    /// A response to a request that [`Session::send`] or [`Session::call`] sent. One that never came is reported as 408, a broken way as
    /// 503. Of a call it hears every provisional response but 100, and one final response: that of the first callee who answers, or
    /// else the refusal. Further forks that answer are ended by the engine; early dialogs end with the final response without a word.
    fn on_response(&self, session: &mut Session<'_>, response: &Response<'_>) {
        let _ = (session, response);
    }

    /// A timer of [`Session::start_timer`] has fired; it fires once, in whatever process.
    fn on_timer(&self, session: &mut Session<'_>, timer: TimerId) {
        let _ = (session, timer);
    }

    /// What [`Session::ask`] or [`Session::hold_and_ask`] asked is answered, or will not be (`None`). `about` is the message that has
    /// waited for this.
    fn on_answer(&self, session: &mut Session<'_>, about: &About<'_>, answer: Option<&[u8]>) {
        let _ = (session, about, answer);
    }

    /// What carries out asks: one for each worker, with a number that nobody outside foresees. Without one nothing is answered.
    fn outside(&self, seed: u64) -> Option<Box<dyn Outside>> {
        let _ = seed;
        None
    }

    /// A dialog has ended. When the last one has, and neither a call is under way nor an ask, the session goes with everything in it.
    fn on_ended(&self, session: &mut Session<'_>, dialog: DialogNumber, why: Ended) {
        let _ = (session, dialog, why);
    }
}
