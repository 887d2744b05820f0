//! One call as the caller sees it.

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use super::link::Transport;
use super::message::{Message, parameter};
use super::{Outcome, T1};

const SDP: &str = "v=0\r\no=caller 1 1 IN IP4 127.0.0.1\r\ns=-\r\nc=IN IP4 127.0.0.1\r\nt=0 0\r\nm=audio 6000 RTP/AVP 0\r\na=rtpmap:0 PCMU/8000\r\n";

/// Responses that are remembered of one INVITE: enough to tell what went wrong.
const MAX_HEARD: usize = 16;

/// Where a call stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum State {
    /// INVITE sent, nothing but 100 heard.
    Calling,
    /// A 1xx with a tag was heard: an early dialog.
    Ringing,
    /// Answered by 2xx.
    Confirmed,
    /// A BYE was answered, ours or theirs; or our CANCEL led to 487.
    Ended,
    /// The INVITE was refused or never answered.
    Failed,
}

/// A request without its final answer.
#[derive(Clone, Debug)]
pub struct Pending {
    pub(super) method: &'static str,
    pub(super) cseq: u32,
    pub(super) bytes: Vec<u8>,
    pub(super) sent: Instant,
    pub(super) next: Instant,
    pub(super) interval: Duration,
    /// An INVITE has a provisional answer and is repeated no more (RFC 3261 s17.1.1.2).
    pub(super) proceeding: bool,
    pub(super) first: Option<Duration>,
    pub(super) repeats: u32,
}

impl Pending {
    pub(super) fn new(method: &'static str, cseq: u32, bytes: Vec<u8>, now: Instant) -> Self {
        Self {
            method,
            cseq,
            bytes,
            sent: now,
            next: now + T1,
            interval: T1,
            proceeding: false,
            first: None,
            repeats: 0,
        }
    }

    pub(super) fn outcome(self, dialog: usize, status: u16, now: Instant) -> Outcome {
        let took = now.duration_since(self.sent);
        Outcome {
            dialog,
            method: self.method,
            status,
            first: self.first.unwrap_or(took),
            took,
            sent: self.sent,
            repeats: self.repeats,
        }
    }
}

/// A call.
#[derive(Debug)]
pub struct Dialog {
    /// Its Call-ID.
    pub call_id: String,
    /// Where it stands.
    pub state: State,
    /// The responses to its first INVITE: after how long, and the status.
    pub heard: Vec<(Duration, u16)>,
    /// Tags of callees that answered with 180 or better; more than one is a call doubled.
    pub remote_tags: Vec<String>,
    /// Via branches of the BYEs that came for it, repetitions left out; more than one is a call ended twice.
    pub byes: Vec<String>,
    /// When the first BYE came.
    pub ended_at: Option<Instant>,
    /// BYEs that came again (same branch).
    pub repeated_byes: u32,
    /// Via branches and bodies of the INFOs that came, repetitions left out.
    pub infos: Vec<(String, String)>,
    /// When the call was answered.
    pub answered_at: Option<Instant>,
    /// Session-Expires that the callee granted, in seconds.
    pub granted: Option<u32>,
    /// Session-Expires to ask for, in seconds.
    pub session_expires: Option<u32>,
    /// Requests without a final answer.
    pub pending: Vec<Pending>,
    pub(super) slot: usize,
    pub(super) cseq: u32,
    called_at: Instant,
    local: SocketAddr,
    transport: Transport,
    from: String,
    to: String,
    target: String,
    routes: Vec<String>,
    ack: Option<(u32, Vec<u8>)>,
}

/// The dialog's index in a Call-ID of ours.
pub(super) fn index_of(call_id: &str, run: u32) -> Option<usize> {
    let (index, rest) = call_id.split_once('.')?;
    rest.strip_prefix(&format!("{run:x}@"))?;
    index.parse().ok()
}

/// The branch of the topmost Via.
fn branch_of<'a>(message: &Message<'a>) -> &'a str {
    let via = message.via.first().copied();
    via.and_then(|via| parameter(via, "branch")).unwrap_or_default()
}

/// A response to an incoming request.
pub(super) fn answer(request: &Message, status: u16, reason: &str) -> Vec<u8> {
    use std::fmt::Write;
    let mut text = format!("SIP/2.0 {status} {reason}\r\n");
    for via in &request.via {
        let _ = write!(text, "Via: {via}\r\n");
    }
    let (from, to, call_id) = (request.from, request.to, request.call_id);
    let (cseq, method) = (request.cseq, request.method);
    let _ = write!(
        text,
        "From: {from}\r\nTo: {to}\r\nCall-ID: {call_id}\r\nCSeq: {cseq} {method}\r\nContent-Length: 0\r\n\r\n"
    );
    text.into_bytes()
}

impl Dialog {
    pub(super) fn new(
        index: usize,
        run: u32,
        slot: usize,
        local: SocketAddr,
        transport: Transport,
        target: SocketAddr,
    ) -> Self {
        Self {
            call_id: format!("{index}.{run:x}@{}", local.ip()),
            state: State::Calling,
            heard: Vec::new(),
            called_at: Instant::now(),
            remote_tags: Vec::new(),
            byes: Vec::new(),
            ended_at: None,
            repeated_byes: 0,
            infos: Vec::new(),
            answered_at: None,
            granted: None,
            session_expires: None,
            pending: Vec::new(),
            slot,
            cseq: 0,
            local,
            transport,
            from: format!("<sip:caller{index}@{local}>;tag=f{index}"),
            to: format!("<sip:service@{target}>"),
            target: format!("sip:service@{target}"),
            routes: Vec::new(),
            ack: None,
        }
    }

    /// A call that has come so far, for tests of what judges calls.
    #[cfg(test)]
    pub(crate) fn judged(state: State, remote_tags: &[&str]) -> Self {
        let at = "127.0.0.1:5060".parse().expect("an address");
        let mut dialog = Self::new(0, 0, 0, at, Transport::Udp, at);
        dialog.state = state;
        dialog.remote_tags = remote_tags.iter().map(|tag| (*tag).to_owned()).collect();
        dialog
    }

    fn write(&self, method: &str, cseq: u32, branch: &str, body: &str) -> Vec<u8> {
        use std::fmt::Write;
        let (local, transport) = (self.local, self.transport.name());
        let mut text = format!("{method} {} SIP/2.0\r\n", self.target);
        let _ = write!(
            text,
            "Via: SIP/2.0/{transport} {local};branch={branch};rport\r\nMax-Forwards: 70\r\n"
        );
        for route in &self.routes {
            let _ = write!(text, "Route: {route}\r\n");
        }
        let (from, to, call_id) = (&self.from, &self.to, &self.call_id);
        let _ = write!(
            text,
            "From: {from}\r\nTo: {to}\r\nCall-ID: {call_id}\r\nCSeq: {cseq} {method}\r\n"
        );
        if method != "ACK" && method != "CANCEL" {
            let lower = transport.to_ascii_lowercase();
            let _ = write!(
                text,
                "Contact: <sip:caller@{local};transport={lower}>\r\nSupported: timer\r\n"
            );
        }
        if let Some(seconds) = self.session_expires.filter(|_| matches!(method, "INVITE" | "UPDATE")) {
            // We promise to refresh and never do: the callee has to notice.
            let _ = write!(text, "Session-Expires: {seconds};refresher=uac\r\n");
        }
        if !body.is_empty() {
            text.push_str("Content-Type: application/sdp\r\n");
        }
        let _ = write!(text, "Content-Length: {}\r\n\r\n{body}", body.len());
        text.into_bytes()
    }

    fn branch(&self, cseq: u32) -> String {
        format!("z9hG4bK-{}-{cseq}", self.call_id.replace('@', "-"))
    }

    /// Where its requests go: the Contact that was heard last (RFC 3261 s12.2.1.1).
    #[must_use]
    pub fn target(&self) -> &str {
        &self.target
    }

    pub(super) fn request(&mut self, method: &'static str) -> Vec<u8> {
        self.cseq += 1;
        let body = if method == "INVITE" { SDP } else { "" };
        self.write(method, self.cseq, &self.branch(self.cseq), body)
    }

    /// RFC 3261 s9.1: the branch, To and Route of the INVITE.
    pub(super) fn cancel(&self) -> Option<Vec<u8>> {
        let invite = self.pending.iter().find(|pending| pending.method == "INVITE")?;
        Some(self.write("CANCEL", invite.cseq, &self.branch(invite.cseq), ""))
    }

    /// Takes a response in; gives the ACK that it needs.
    pub(super) fn response(
        &mut self,
        index: usize,
        message: &Message,
        now: Instant,
        outcomes: &mut Vec<Outcome>,
    ) -> Option<Vec<u8>> {
        let status = message.status?;
        let is_invite = message.method == "INVITE";
        if is_invite && message.cseq == 1 && self.heard.len() < MAX_HEARD {
            self.heard.push((now.duration_since(self.called_at), status));
        }
        if status > 100 && is_invite && (status < 300 || self.state == State::Calling) {
            self.heard_callee(message, status);
        }
        let at = self
            .pending
            .iter()
            .position(|p| p.cseq == message.cseq && p.method == message.method);
        if status < 200 {
            if let Some(pending) = at.map(|at| &mut self.pending[at]) {
                pending.first.get_or_insert(now.duration_since(pending.sent));
                pending.proceeding = is_invite;
            }
            return None;
        }
        let Some(at) = at else {
            // A final answer again: its ACK was lost (RFC 3261 s13.2.2.4).
            return self
                .ack
                .as_ref()
                .filter(|(cseq, _)| is_invite && *cseq == message.cseq)
                .map(|(_, ack)| ack.clone());
        };
        let outcome = self.pending.remove(at).outcome(index, status, now);
        match message.method {
            "INVITE" => self.invite_ended(message, status, now),
            "BYE" if status == 200 => self.state = State::Ended,
            _ => {}
        }
        outcomes.push(outcome);
        self.ack.as_ref().filter(|_| is_invite).map(|(_, ack)| ack.clone())
    }

    fn heard_callee(&mut self, message: &Message, status: u16) {
        let Some(tag) = message.to_tag() else { return };
        if status < 300 && !self.remote_tags.iter().any(|known| known == tag) {
            self.remote_tags.push(tag.to_owned());
        }
        if self.state == State::Calling && status < 200 {
            self.state = State::Ringing;
        }
    }

    fn invite_ended(&mut self, message: &Message, status: u16, now: Instant) {
        if status >= 300 {
            // RFC 3261 s17.1.1.3: same branch, To of the response.
            let before = std::mem::replace(&mut self.to, message.to.to_owned());
            self.ack = Some((
                message.cseq,
                self.write("ACK", message.cseq, &self.branch(message.cseq), ""),
            ));
            if self.state != State::Confirmed {
                self.to = before;
                self.state = if status == 487 { State::Ended } else { State::Failed };
            }
            return;
        }
        if self.state != State::Confirmed {
            self.to = message.to.to_owned();
            self.routes = message.route_set();
            self.state = State::Confirmed;
            self.answered_at = Some(now);
        }
        if let Some(contact) = message.contact {
            self.target = contact.to_owned();
        }
        let seconds = message
            .value("Session-Expires")
            .and_then(|value| value.split(';').next()?.trim().parse().ok());
        self.granted = seconds.or(self.granted);
        let branch = format!("{}-ack", self.branch(message.cseq));
        self.ack = Some((message.cseq, self.write("ACK", message.cseq, &branch, "")));
    }

    /// Takes a request in; gives the answer.
    pub(super) fn incoming(&mut self, message: &Message, now: Instant) -> Option<Vec<u8>> {
        match message.method {
            "ACK" => None,
            "BYE" => {
                let branch = branch_of(message);
                // The proxy's branch is a hash of the owner's: equal for a request sent again, unchanged, by a successor.
                if self.byes.iter().any(|known| known == branch) {
                    self.repeated_byes += 1;
                } else {
                    self.byes.push(branch.to_owned());
                }
                self.ended_at.get_or_insert(now);
                self.state = State::Ended;
                Some(answer(message, 200, "OK"))
            }
            "INFO" => {
                let branch = branch_of(message);
                if !self.infos.iter().any(|(known, _)| known == branch) {
                    self.infos.push((branch.to_owned(), message.body.to_owned()));
                }
                Some(answer(message, 200, "OK"))
            }
            "OPTIONS" | "UPDATE" => Some(answer(message, 200, "OK")),
            _ => Some(answer(message, 501, "Not Implemented")),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn called() -> Dialog {
        let at = "127.0.0.1:5060".parse().unwrap();
        let mut dialog = Dialog::new(0, 7, 0, at, Transport::Udp, at);
        let bytes = dialog.request("INVITE");
        dialog.pending.push(Pending::new("INVITE", 1, bytes, Instant::now()));
        dialog
    }

    fn hear(dialog: &mut Dialog, text: &str) -> (Option<Vec<u8>>, Vec<Outcome>) {
        let text = text.replace('\n', "\r\n");
        let message = Message::read(text.as_bytes()).unwrap();
        let mut outcomes = Vec::new();
        let reply = match message.status {
            Some(_) => dialog.response(0, &message, Instant::now(), &mut outcomes),
            None => dialog.incoming(&message, Instant::now()),
        };
        (reply, outcomes)
    }

    fn response(status: u16, tag: &str) -> String {
        format!(
            "SIP/2.0 {status} X\nVia: v\nRecord-Route: <sip:p;lr>\nFrom: <sip:a>;tag=f0\nTo: <sip:b>;tag={tag}\nCall-ID: 0.7@x\nCSeq: 1 INVITE\n\
             Contact: <sip:b@c>\n\n"
        )
    }

    #[test]
    fn a_second_callee_is_seen() {
        let mut dialog = called();
        hear(&mut dialog, &response(180, "one"));
        assert_eq!(dialog.state, State::Ringing);
        hear(&mut dialog, &response(180, "one"));
        assert_eq!(dialog.remote_tags.len(), 1);
        let (ack, outcomes) = hear(&mut dialog, &response(200, "two"));
        assert!(ack.unwrap().starts_with(b"ACK sip:b@c SIP/2.0\r\n"));
        assert_eq!(
            (outcomes.len(), outcomes[0].status, dialog.state),
            (1, 200, State::Confirmed)
        );
        assert_eq!(dialog.remote_tags, ["one", "two"]);
    }

    #[test]
    fn a_second_bye_is_told_from_a_repeated_one() {
        let mut dialog = called();
        hear(&mut dialog, &response(200, "one"));
        let bye = |branch: &str| {
            format!(
                "BYE sip:a SIP/2.0\nVia: SIP/2.0/UDP h;branch={branch}\nFrom: f\nTo: t\nCall-ID: 0.7@x\nCSeq: 1 BYE\n\n"
            )
        };
        for branch in ["z1", "z1", "z2"] {
            let (reply, _) = hear(&mut dialog, &bye(branch));
            assert!(
                reply
                    .unwrap()
                    .starts_with(b"SIP/2.0 200 OK\r\nVia: SIP/2.0/UDP h;branch=")
            );
        }
        assert_eq!(
            (dialog.byes.len(), dialog.repeated_byes, dialog.state),
            (2, 1, State::Ended)
        );
    }

    #[test]
    fn an_answer_again_is_acknowledged_again() {
        let mut dialog = called();
        let (first, _) = hear(&mut dialog, &response(200, "one"));
        let (again, outcomes) = hear(&mut dialog, &response(200, "one"));
        assert_eq!(first, again);
        assert!(outcomes.is_empty());
    }
}
