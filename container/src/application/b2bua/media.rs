//! Media led through rtpengine: what a session description becomes on its way to the other side.

use std::net::SocketAddr;

use bytes::Bytes;
use serde::Deserialize;
use sip::{HeaderName, Method};

use super::super::{DialogNumber, Message, Session};
use crate::records::MAX_ASKS;
use crate::rtpengine::{Answer, Command};

/// What leads media; the manifest's words.
#[derive(Clone, Debug, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Media {
    /// Where instances of rtpengine take the ng protocol. A call stays with the one that took its first offer, as long as that answers.
    pub rtpengine: Vec<SocketAddr>,
}

/// The attribute that names the call's instance.
const INSTANCE: &str = "rtpengine";

/// The attribute that names those that it has left, the latest first.
const LEFT: &str = "rtpengine-left";

/// The most of them that are kept, so that all may be asked at once to forget the call; older ones forget it by their own timeout.
const MAX_LEFT: usize = MAX_ASKS - 1;

/// How far the leading of a description has come.
#[derive(Clone, Copy, Debug)]
pub(super) enum Led<'a> {
    /// It has not been asked for.
    No,
    /// To this.
    As(&'a [u8]),
    /// It cannot be led.
    Failed,
}

/// Why there is no body for the other side.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Unled {
    /// It is asked for; the message comes again with the answer.
    Asked,
    /// No instance leads it.
    Failed,
}

impl Media {
    /// What the body becomes on the other side.
    pub(super) fn lead(
        &self,
        session: &mut Session<'_>,
        message: Message<'_>,
        command: Command<'_>,
        led: Led<'_>,
    ) -> Result<Bytes, Unled> {
        match led {
            _ if !is_description(message) => Ok(Bytes::copy_from_slice(message.body())),
            Led::As(sdp) => Ok(Bytes::copy_from_slice(sdp)),
            Led::Failed => Err(Unled::Failed),
            // It answers an offer that was none (RFC 3261 s13.2.1: not in an unreliable response), so it is nothing to be led.
            Led::No if message.wire().status().is_some_and(|status| status < 200) && instance(session).is_none() => {
                Ok(Bytes::new())
            }
            Led::No => {
                let own = instance(session);
                let others = self.others(session, &command, own);
                let question = command.question(own, &others, session.id().0);
                let can_ask = own.is_some() || !others.is_empty();
                match can_ask && session.hold_and_ask(question) {
                    true => Err(Unled::Asked),
                    false => Err(Unled::Failed),
                }
            }
        }
    }

    /// Who may carry it out beside the call's own instance: any an offer, since it begins the call anew where it is not known.
    fn others(&self, session: &Session<'_>, command: &Command<'_>, own: Option<SocketAddr>) -> Vec<SocketAddr> {
        if !matches!(command, Command::Offer { .. }) {
            return Vec::new();
        }
        let mut all = self.rtpengine.clone();
        let count = all.len() as u64;
        all.rotate_left(session.id().0.checked_rem(count).unwrap_or(0) as usize);
        all.retain(|instance| Some(*instance) != own);
        all
    }

    /// What an instance has said. One that has led a description is the call's from now on.
    pub(super) fn read<'a>(&self, session: &mut Session<'_>, answer: Option<&'a [u8]>) -> Led<'a> {
        let answer = answer.and_then(Answer::parse);
        let Some((said, sdp)) = answer.and_then(|said| Some((said, said.sdp?))) else {
            return Led::Failed;
        };
        let own = instance(session);
        if own != Some(said.instance) {
            session.set_attribute(INSTANCE, said.instance.to_string().into_bytes());
            if let Some(own) = own {
                leave(session, own, said.instance);
            }
        }
        Led::As(sdp)
    }

    /// Has the call forgotten once nothing of it is left, by those too that it has left: they were only silent, perhaps.
    pub(super) fn finish(&self, session: &mut Session<'_>) {
        let lives = session.dialogs().any(|view| !view.has_ended()) || session.calls().next().is_some();
        let Some(own) = instance(session).filter(|_| !lives && !session.is_asking()) else {
            return;
        };
        let all: Vec<SocketAddr> = std::iter::once(own).chain(left(session)).collect();
        session.remove_attribute(INSTANCE);
        session.remove_attribute(LEFT);
        for instance in all {
            session.ask(Command::Delete.question(Some(instance), &[], session.id().0));
        }
    }
}

/// The call's instance.
fn instance(session: &Session<'_>) -> Option<SocketAddr> {
    std::str::from_utf8(session.attribute(INSTANCE)?).ok()?.parse().ok()
}

/// The instances that the call has left.
fn left(session: &Session<'_>) -> Vec<SocketAddr> {
    let text = std::str::from_utf8(session.attribute(LEFT).unwrap_or_default()).unwrap_or_default();
    text.split(',')
        .filter_map(|word| word.parse().ok())
        .take(MAX_LEFT)
        .collect()
}

/// The call has moved from one instance to another, which it may have left before.
fn leave(session: &mut Session<'_>, from: SocketAddr, to: SocketAddr) {
    let earlier = left(session)
        .into_iter()
        .filter(|instance| ![from, to].contains(instance));
    let left = std::iter::once(from).chain(earlier).take(MAX_LEFT);
    let words: Vec<String> = left.map(|instance| instance.to_string()).collect();
    session.set_attribute(LEFT, words.join(",").into_bytes());
}

/// What rtpengine knows a side by: forks of one call out are one side, of which the latest to answer counts.
pub(super) fn side(session: &Session<'_>, dialog: DialogNumber) -> u32 {
    let call = session.dialog(dialog).and_then(|view| view.call());
    call.map_or(dialog.0, |call| call.0)
}

/// Whether the body is an offer or an answer (RFC 3261 s13.2.1, RFC 3311).
fn is_description(message: Message<'_>) -> bool {
    let negotiates = |method| matches!(method, Method::Invite | Method::Ack | Method::Update);
    let content_type = message.header(HeaderName::ContentType).unwrap_or_default();
    let media_type = content_type.split(|byte| *byte == b';').next().unwrap_or_default();
    !message.body().is_empty()
        && media_type.trim_ascii().eq_ignore_ascii_case(b"application/sdp")
        && message.wire().cseq().is_some_and(|cseq| negotiates(cseq.method))
}
