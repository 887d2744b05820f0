//! What applications ask outside: asked once it is written, asked again by a successor, answered to the message that waits.

use bytes::Bytes;
use sip::{Instant, Limits, Method, OwnedMessage};
use ucf::Epoch;

use super::Engine;
use super::actor::Actor;
use crate::application::{About, AskId, SessionCore};
use crate::records;

/// A question to be asked.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Asking {
    /// What its answer is to name.
    pub id: AskId,
    /// At which epoch its partition is ours.
    pub epoch: Epoch,
    /// In the application's words.
    pub question: Bytes,
}

impl Engine {
    /// What came of an ask; `None`: nothing. One that nobody waits for any more is ignored.
    pub fn handle_answer(&mut self, now: Instant, id: AskId, answer: Option<Bytes>) {
        let place = self.partitions.get_mut(usize::from(id.partition.0));
        let Some(partition) = place.and_then(Option::as_mut) else {
            return;
        };
        match &mut partition.frozen {
            // At most one for each ask of its sessions.
            Some(frozen) => frozen.answers.push((id, answer)),
            None => self.work(now, id.partition, |actor| actor.answer(id, answer.as_deref())),
        }
    }
}

impl Actor<'_> {
    /// Asks what the session has just been given to ask.
    pub fn ask(&mut self, session: &SessionCore, number: u64) {
        let Some(ask) = session.asks.iter().find(|ask| ask.number == number) else {
            return;
        };
        self.open.asks.push(Asking {
            id: AskId {
                partition: self.partition.id,
                session: session.id,
                number,
            },
            epoch: self.partition.epoch,
            question: ask.question.clone(),
        });
    }

    /// After a takeover: whether the old owner got an answer is not known.
    pub fn ask_again(&mut self, session: &SessionCore) {
        for ask in &session.asks {
            self.ask(session, ask.number);
        }
    }

    fn answer(&mut self, id: AskId, answer: Option<&[u8]>) {
        let Some(mut session) = self.partition.sessions.remove(&id.session) else {
            return;
        };
        if let Some(at) = session.asks.iter().position(|ask| ask.number == id.number) {
            let ask = session.asks.remove(at);
            session.dirty = true;
            let message = ask.about.as_ref().and_then(kept_message);
            let about = match &ask.about {
                Some(record) if self.waits(record, message.as_ref()) => {
                    About::from_record(record, message.as_ref().map(OwnedMessage::as_message))
                }
                _ => About::Nothing,
            };
            self.handle_about(&mut session, about, |application, session| {
                application.on_answer(session, &about, answer)
            });
            self.end_if_over(&mut session);
        }
        self.put(session);
    }

    /// Whether the message that was kept is still the application's to deal with.
    fn waits(&self, record: &records::About, message: Option<&OwnedMessage>) -> bool {
        let is_ack = message.is_some_and(|message| message.as_message().method() == Method::Ack);
        let server = self.partition.servers.get(&record.transaction);
        record.status > 0 || is_ack || server.is_some_and(|server| server.request.is_some())
    }
}

fn kept_message(record: &records::About) -> Option<OwnedMessage> {
    let bytes = Some(record.message.clone()).filter(|bytes| !bytes.is_empty())?;
    OwnedMessage::scan(bytes, &Limits::default()).ok()
}
