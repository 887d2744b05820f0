//! A session: what an application keeps of one call, and what it can do with it.

use std::time::Duration;

use bytes::Bytes;
use sip::Instant;
use sip::dialog::{Dialog, DialogId, DialogState, OutgoingInvite};
use ucf::ProxyId;

use super::message::{About, Call, Outgoing, Reply};
use crate::engine::Entropy;
use crate::records::{self, MAX_ASKS, MAX_ATTRIBUTES, MAX_CALLS, MAX_TIMERS};

/// Questions of a session and the messages that wait for their answers, in bytes, so that its record stays readable.
const MAX_ASKED: usize = 48 * 1024;

/// A session's number, unique in the cluster; it stands in our tags.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct SessionId(pub u64);

/// A dialog within its session.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct DialogNumber(pub u32);

/// A call out within its session: an INVITE of ours that makes dialogs.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct CallNumber(pub u32);

/// A timer within its session, numbered by the application.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct TimerId(pub u32);

/// A transaction within its partition.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct TransactionId(pub(crate) u64);

/// What a handler asks the engine to do once it has returned.
#[derive(Debug)]
pub(crate) enum Command {
    Respond {
        transaction: TransactionId,
        reply: Reply,
    },
    Send {
        transaction: TransactionId,
        dialog: DialogNumber,
        request: Outgoing,
    },
    HangUp {
        dialog: DialogNumber,
    },
    Call {
        number: CallNumber,
        call: Box<Call>,
    },
    Cancel {
        call: CallNumber,
    },
    Acknowledge {
        dialog: DialogNumber,
        answer: Option<(String, Bytes)>,
    },
    Ask {
        number: u64,
    },
}

/// The state of a session between two handlers.
#[derive(Debug)]
pub(crate) struct SessionCore {
    pub id: u64,
    pub dialogs: Vec<DialogSlot>,
    pub calls: Vec<CallSlot>,
    /// How many numbers dialogs and calls have used up.
    pub numbers: u32,
    pub attributes: Vec<(Box<str>, Bytes)>,
    pub timers: Vec<(TimerId, Instant)>,
    pub asks: Vec<AskSlot>,
    /// Transactions that still need this session.
    pub open: u32,
    /// The next deadline, as it stands in the worker's queue.
    pub armed: Option<Instant>,
    /// Differs from its record.
    pub dirty: bool,
    /// Has a record.
    pub stored: bool,
}

/// A dialog of a session.
#[derive(Debug)]
pub(crate) struct DialogSlot {
    pub number: u32,
    pub dialog: Dialog,
    pub flow: Flow,
    /// The server transaction of the INVITE that is not answered yet.
    pub invite: Option<u64>,
    /// The client transaction of our re-INVITE that is not answered yet.
    pub outgoing: Option<u64>,
    /// The call out that made it.
    pub call: Option<u32>,
    /// Our BYE waits for the ACK of our 2xx (RFC 3261 s15).
    pub bye_due: bool,
    /// The application knows that it has ended.
    pub ended: bool,
}

/// A call out until its final response.
#[derive(Debug)]
pub(crate) struct CallSlot {
    pub number: u32,
    pub invite: OutgoingInvite,
    /// The client transaction of its INVITE.
    pub transaction: u64,
    pub flow: Flow,
}

/// An ask until its answer.
#[derive(Debug)]
pub(crate) struct AskSlot {
    pub number: u64,
    pub question: Bytes,
    pub about: Option<records::About>,
}

impl AskSlot {
    fn size(&self) -> usize {
        self.question.len() + self.about.as_ref().map_or(0, |about| about.message.len())
    }
}

/// Where a peer was last heard.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Flow {
    pub proxy: ProxyId,
    /// The flow token where it is another than the one in the route set.
    pub token: Option<Box<[u8]>>,
    /// The outer leg's transport.
    pub reliable: bool,
}

impl DialogSlot {
    pub fn new(number: u32, dialog: Dialog, flow: Flow) -> Self {
        Self {
            number,
            dialog,
            flow,
            invite: None,
            outgoing: None,
            call: None,
            bye_due: false,
            ended: false,
        }
    }
}

impl SessionCore {
    pub fn new(id: u64) -> Self {
        Self {
            id,
            dialogs: Vec::new(),
            calls: Vec::new(),
            numbers: 0,
            attributes: Vec::new(),
            timers: Vec::new(),
            asks: Vec::new(),
            open: 0,
            armed: None,
            dirty: false,
            stored: false,
        }
    }

    /// The next number for a dialog or a call.
    pub fn number(&mut self) -> u32 {
        self.numbers += 1;
        self.numbers - 1
    }

    pub fn dialog(&self, number: u32) -> Option<&DialogSlot> {
        self.dialogs.iter().find(|slot| slot.number == number)
    }

    pub fn dialog_mut(&mut self, number: u32) -> Option<&mut DialogSlot> {
        self.dialogs.iter_mut().find(|slot| slot.number == number)
    }

    /// Whether nothing is left that its application would hear of.
    pub fn is_over(&self) -> bool {
        self.dialogs.is_empty() && self.calls.is_empty() && self.asks.is_empty()
    }

    /// When something of it is due.
    pub fn poll_timeout(&self) -> Option<Instant> {
        let timers = self.timers.iter().map(|(_, at)| *at);
        let dialogs = self.dialogs.iter().filter_map(|slot| slot.dialog.poll_timeout());
        timers.chain(dialogs).min()
    }
}

/// What an application sees of a dialog.
#[derive(Clone, Copy, Debug)]
pub struct DialogView<'a> {
    slot: &'a DialogSlot,
}

impl<'a> DialogView<'a> {
    /// Its number in the session.
    #[must_use]
    pub fn number(&self) -> DialogNumber {
        DialogNumber(self.slot.number)
    }

    /// Call-ID and tags.
    #[must_use]
    pub fn id(&self) -> DialogId<'a> {
        self.slot.dialog.id()
    }

    /// How far it has come.
    #[must_use]
    pub fn state(&self) -> DialogState {
        self.slot.dialog.state()
    }

    /// The peer's INVITE that waits for its final response.
    #[must_use]
    pub fn invite(&self) -> Option<TransactionId> {
        self.slot.invite.map(TransactionId)
    }

    /// The call out that made it; `None` if the peer called.
    #[must_use]
    pub fn call(&self) -> Option<CallNumber> {
        self.slot.call.map(CallNumber)
    }

    /// Whether a re-INVITE may be sent: one INVITE at a time, and only after the ACK of the last (RFC 3261 s14.1).
    #[must_use]
    pub fn may_invite(&self) -> bool {
        self.slot.dialog.may_reinvite()
    }

    /// Whether the 2xx to our INVITE has brought an offer that [`Session::acknowledge`] is to answer.
    #[must_use]
    pub fn awaits_answer(&self) -> bool {
        self.slot.dialog.late_offer().is_some() && self.slot.dialog.outstanding_invite().is_none()
    }

    /// Whether it has ended, for the application: nothing can be sent any more.
    #[must_use]
    pub fn has_ended(&self) -> bool {
        self.slot.ended
    }
}

/// A session within a handler.
#[derive(Debug)]
pub struct Session<'a> {
    pub(crate) core: &'a mut SessionCore,
    pub(crate) commands: &'a mut Vec<Command>,
    pub(crate) now: Instant,
    /// The message under work.
    pub(crate) about: About<'a>,
    /// Numbers of client transactions.
    pub(crate) entropy: &'a mut Entropy,
}

impl Session<'_> {
    /// Its number.
    #[must_use]
    pub fn id(&self) -> SessionId {
        SessionId(self.core.id)
    }

    /// Its dialogs.
    pub fn dialogs(&self) -> impl Iterator<Item = DialogView<'_>> {
        self.core.dialogs.iter().map(|slot| DialogView { slot })
    }

    /// One of them.
    #[must_use]
    pub fn dialog(&self, number: DialogNumber) -> Option<DialogView<'_>> {
        self.core.dialog(number.0).map(|slot| DialogView { slot })
    }

    /// The value of an attribute.
    #[must_use]
    pub fn attribute(&self, name: &str) -> Option<&[u8]> {
        let found = self.core.attributes.iter().find(|(stored, _)| stored.as_ref() == name);
        found.map(|(_, value)| value.as_ref())
    }

    /// Sets an attribute; `false` if the session has [`MAX_ATTRIBUTES`] others.
    pub fn set_attribute(&mut self, name: &str, value: impl Into<Bytes>) -> bool {
        let attributes = &mut self.core.attributes;
        match attributes.binary_search_by(|(stored, _)| stored.as_ref().cmp(name)) {
            Ok(at) => attributes[at].1 = value.into(),
            Err(_) if attributes.len() >= MAX_ATTRIBUTES => return false,
            Err(at) => attributes.insert(at, (name.into(), value.into())),
        }
        self.core.dirty = true;
        true
    }

    /// Removes an attribute.
    pub fn remove_attribute(&mut self, name: &str) {
        self.core.attributes.retain(|(stored, _)| stored.as_ref() != name);
        self.core.dirty = true;
    }

    /// Starts a timer, or starts it again; `false` if the session has [`MAX_TIMERS`] others. It fires once, within the failover time of
    /// its deadline even if this process dies.
    pub fn start_timer(&mut self, timer: TimerId, after: Duration) -> bool {
        let at = self.now + after;
        let timers = &mut self.core.timers;
        match timers.iter().position(|(id, _)| *id == timer) {
            Some(place) => timers[place].1 = at,
            None if timers.len() >= MAX_TIMERS => return false,
            None => timers.push((timer, at)),
        }
        self.core.dirty = true;
        true
    }

    /// Stops a timer.
    pub fn stop_timer(&mut self, timer: TimerId) {
        self.core.timers.retain(|(id, _)| *id != timer);
        self.core.dirty = true;
    }

    /// Answers a request. A second final response to the same request is ignored: it lost a race.
    pub fn respond(&mut self, transaction: TransactionId, reply: Reply) {
        self.commands.push(Command::Respond { transaction, reply });
    }

    /// Sends a request in a dialog; the response comes to
    /// [`Application::on_response`](super::Application::on_response) with this transaction.
    pub fn send(&mut self, dialog: DialogNumber, request: Outgoing) -> TransactionId {
        let transaction = TransactionId(self.entropy.number());
        self.commands.push(Command::Send {
            transaction,
            dialog,
            request,
        });
        transaction
    }

    /// Calls out: sends an INVITE that makes a dialog of this session, or several if it forks. What comes of it is told to
    /// [`Application::on_response`](super::Application::on_response) with this number. `None` if the session has
    /// [`MAX_CALLS`] unanswered ones.
    pub fn call(&mut self, call: Call) -> Option<CallNumber> {
        let waiting = |command: &&Command| matches!(command, Command::Call { .. });
        let waiting = self.commands.iter().filter(waiting).count();
        if self.core.calls.len() + waiting >= MAX_CALLS {
            return None;
        }
        let number = CallNumber(self.core.number());
        let call = Box::new(call);
        self.commands.push(Command::Call { number, call });
        Some(number)
    }

    /// The calls out that are not answered yet.
    pub fn calls(&self) -> impl Iterator<Item = CallNumber> + '_ {
        self.core.calls.iter().map(|slot| CallNumber(slot.number))
    }

    /// Gives a call out up: CANCEL, as soon as the callee has been heard of (RFC 3261 s9.1). Its final response follows all the same;
    /// if the callee has just answered it is 487, and the engine has ended the dialog.
    pub fn cancel(&mut self, call: CallNumber) {
        self.commands.push(Command::Cancel { call });
    }

    /// Sends the ACK of a 2xx that has [brought an offer](DialogView::awaits_answer), with the answer; without effect on others, which
    /// the engine acknowledges by itself.
    pub fn acknowledge(&mut self, dialog: DialogNumber, answer: Option<(&str, Bytes)>) {
        let answer = answer.map(|(content_type, body)| (content_type.to_owned(), body));
        self.commands.push(Command::Acknowledge { dialog, answer });
    }

    /// Asks something of the application's [`Outside`](super::Outside), once what this handler does is written. The answer comes to
    /// [`Application::on_answer`](super::Application::on_answer); if this process dies before, its successor asks again. `false` if the
    /// session has [`MAX_ASKS`] others, or 48 KiB of them.
    pub fn ask(&mut self, question: impl Into<Bytes>) -> bool {
        self.ask_about(About::Nothing, question.into())
    }

    /// The same, and the message under work is kept and comes back with the answer.
    pub fn hold_and_ask(&mut self, question: impl Into<Bytes>) -> bool {
        self.ask_about(self.about, question.into())
    }

    fn ask_about(&mut self, about: About<'_>, question: Bytes) -> bool {
        let ask = AskSlot {
            number: self.entropy.number(),
            question,
            about: about.to_record(),
        };
        let asks = &mut self.core.asks;
        let size: usize = asks.iter().chain([&ask]).map(AskSlot::size).sum();
        if asks.len() >= MAX_ASKS || size > MAX_ASKED {
            return false;
        }
        self.commands.push(Command::Ask { number: ask.number });
        asks.push(ask);
        self.core.dirty = true;
        true
    }

    /// Whether anything that was asked is not answered yet.
    #[must_use]
    pub fn is_asking(&self) -> bool {
        !self.core.asks.is_empty()
    }

    /// Ends a dialog: BYE if it is confirmed, once the peer's ACK has come (RFC 3261 s15); else 480 to its INVITE. An early dialog of a
    /// call out ends by BYE without the others that the call may have made; [`cancel`](Self::cancel) ends them all.
    pub fn hang_up(&mut self, dialog: DialogNumber) {
        self.commands.push(Command::HangUp { dialog });
    }
}
