//! Edits as splices: what is not named stays as it is, byte by byte.

use std::io::Write;
use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use bytes::BufMut;

use super::header::HeaderName;
use super::message::Message;
use super::scan::Span;
use super::uri::Host;
use super::values::Value;
use super::via::Via;

/// A list of splices on one message. Made once, used for every message: inserted bytes share one buffer.
///
/// Places count in the message before any splice. Splices apply in the order of their places; at the same place, in
/// the order in which they were made.
#[derive(Clone, Debug, Default)]
pub struct Edit {
    splices: Vec<Splice>,
    inserted: Vec<u8>,
}

#[derive(Clone, Copy, Debug)]
struct Splice {
    removed: Span,
    from: u32,
    to: u32,
}

/// What a server asks of whoever sends it requests (RFC 7339 s4).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct OverloadControl {
    /// Of a hundred new requests, how many are not to be sent; 0 to 100.
    pub percent: u8,
    /// For how long, from its receipt.
    pub validity: Duration,
    /// Later ones have higher numbers, from whichever part of the server they come: milliseconds of the Unix epoch.
    pub sequence: u64,
}

impl OverloadControl {
    /// Its parameters besides `oc`.
    const REST: [&str; 3] = ["oc-algo", "oc-validity", "oc-seq"];

    fn write(&self, name: &str, out: &mut Vec<u8>) {
        let (seconds, millis) = (self.sequence / 1000, self.sequence % 1000);
        let _ = match name {
            "oc-algo" => write!(out, "\"loss\""),
            "oc-validity" => write!(out, "{}", self.validity.as_millis()),
            _ => write!(out, "{seconds}.{millis:03}"),
        };
    }
}

impl Edit {
    /// No splices.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Forgets all splices, keeps the memory.
    pub fn clear(&mut self) {
        self.splices.clear();
        self.inserted.clear();
    }

    /// Whether nothing is to be changed.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.splices.is_empty()
    }

    /// Replaces a range by what `write` appends; all other edits are made of this.
    pub fn splice(&mut self, removed: Span, write: impl FnOnce(&mut Vec<u8>)) {
        let from = self.inserted.len() as u32;
        write(&mut self.inserted);
        let to = self.inserted.len() as u32;
        let place = self
            .splices
            .partition_point(|splice| splice.removed.start <= removed.start);
        self.splices.insert(place, Splice { removed, from, to });
    }

    /// Inserts bytes before the byte at `at`.
    pub fn insert(&mut self, at: usize, bytes: &[u8]) {
        self.splice(Span::new(at, at), |out| out.extend_from_slice(bytes));
    }

    /// Replaces a range.
    pub fn replace(&mut self, span: Span, bytes: &[u8]) {
        self.splice(span, |out| out.extend_from_slice(bytes));
    }

    /// Removes a range.
    pub fn remove(&mut self, span: Span) {
        self.splice(span, |_| {});
    }

    /// Writes the edited message.
    pub fn apply_into(&self, message: &Message<'_>, out: &mut impl BufMut) {
        let bytes = message.buffer();
        let mut at = usize::from(message.index().start);
        let end = message.index().end();
        for splice in &self.splices {
            let upto = splice.removed.start().clamp(at, end.max(at));
            out.put_slice(bytes.get(at..upto).unwrap_or_default());
            out.put_slice(&self.inserted[splice.from as usize..splice.to as usize]);
            at = splice.removed.end().max(upto);
        }
        out.put_slice(bytes.get(at..end).unwrap_or_default());
    }

    // ---- header fields ----

    /// Adds a header field on top of all others, as the canonical name, `value` and CRLF.
    pub fn push_top(&mut self, message: &Message<'_>, name: HeaderName, value: &[u8]) {
        self.push_top_with(message, name, |out| out.extend_from_slice(value));
    }

    /// The same, with a value that `write` appends.
    pub fn push_top_with(&mut self, message: &Message<'_>, name: HeaderName, write: impl FnOnce(&mut Vec<u8>)) {
        let at = message
            .header_at(0)
            .map_or_else(|| message.blank_line(), |header| header.line.start());
        self.header_line(at, name, write);
    }

    /// Adds a header field above the first one of its name, or else on top of all others: where a proxy puts its
    /// Via, Record-Route or Route.
    pub fn push_above_with(&mut self, message: &Message<'_>, name: HeaderName, write: impl FnOnce(&mut Vec<u8>)) {
        let first = message.index().first(name).unwrap_or(0);
        let at = message
            .header_at(first)
            .map_or_else(|| message.blank_line(), |header| header.line.start());
        self.header_line(at, name, write);
    }

    /// Adds a header field behind all others.
    pub fn append(&mut self, message: &Message<'_>, name: HeaderName, value: &[u8]) {
        self.header_line(message.blank_line(), name, |out| out.extend_from_slice(value));
    }

    fn header_line(&mut self, at: usize, name: HeaderName, write: impl FnOnce(&mut Vec<u8>)) {
        self.splice(Span::new(at, at), |out| {
            out.extend_from_slice(name.as_str().as_bytes());
            out.extend_from_slice(b": ");
            write(out);
            out.extend_from_slice(b"\r\n");
        });
    }

    /// Removes a header field with its line.
    pub fn remove_header(&mut self, message: &Message<'_>, ordinal: usize) {
        if let Some(header) = message.header_at(ordinal) {
            self.remove(header.line);
        }
    }

    /// Removes one element of a comma list, and its line if it is alone there. Several of one line: [`Self::pop`].
    pub fn remove_value(&mut self, message: &Message<'_>, value: &Value<'_>) {
        let Some(header) = message.header_at(value.ordinal) else {
            return;
        };
        let mut before = None;
        let mut after = None;
        for other in message
            .values(header.name)
            .skip_while(|other| other.ordinal < value.ordinal)
        {
            if other.ordinal != value.ordinal {
                break;
            }
            if other.position < value.position {
                before = Some(other.span.end());
            } else if other.position > value.position {
                after = Some(other.span.start());
                break;
            }
        }
        match (before, after) {
            (_, Some(after)) => self.remove(Span::new(value.span.start(), after)),
            (Some(before), None) => self.remove(Span::new(before, header.span.end())),
            (None, None) => self.remove(header.line),
        }
    }

    /// Removes the first `count` elements of a comma list, over as many header fields as they stand in.
    pub fn pop(&mut self, message: &Message<'_>, name: HeaderName, count: usize) {
        let mut values = message.values(name);
        // The header field under work, and its first element that goes.
        let mut open: Option<(usize, usize)> = None;
        for left in (0..=count).rev() {
            let value = values.next();
            if let Some((ordinal, from)) = open {
                match value {
                    Some(value) if value.ordinal == ordinal => {
                        if left == 0 {
                            self.remove(Span::new(from, value.span.start()));
                        }
                    }
                    _ => {
                        self.remove_header(message, ordinal);
                        open = None;
                    }
                }
            }
            let Some(value) = value else { return };
            open.get_or_insert((value.ordinal, value.span.start()));
        }
    }

    /// Replaces one element of a comma list.
    pub fn replace_value(&mut self, value: &Value<'_>, bytes: &[u8]) {
        self.replace(value.span, bytes);
    }

    // ---- what a proxy does ----

    /// Adds what the topmost Via lacks for its response to find back (RFC 3261 s18.2.1, RFC 3581 s4): `received` when
    /// the source differs from sent-by or `rport` stands there, and the value of `rport`. What the sender claimed is
    /// replaced.
    pub fn set_received(&mut self, message: &Message<'_>, source: SocketAddr) {
        let Some(via) = message.via() else { return };
        let address = source.ip().to_canonical();
        let (mut received, mut rport) = (None, None);
        for (name, value) in via.params.iter() {
            if name.eq_ignore_ascii_case(b"received") {
                received = received.or(Some((name, value)));
            } else if name.eq_ignore_ascii_case(b"rport") {
                rport = rport.or(Some((name, value)));
            }
        }
        if let Some(rport) = rport {
            self.set_param(message, rport, |out| put_decimal(out, u32::from(source.port())));
        }
        let write = |out: &mut Vec<u8>| put_address(out, address);
        if let Some(received) = received {
            self.set_param(message, received, write);
        } else if rport.is_some() || via.sent_by() != Some(Host::Address(address)) {
            let end = message.span_of(via.raw).map_or(0, Span::end);
            self.splice(Span::new(end, end), |out| {
                // A Via may end in a semicolon that nothing follows.
                let semicolon = if via.raw.ends_with(b";") { "" } else { ";" };
                out.extend_from_slice(semicolon.as_bytes());
                out.extend_from_slice(b"received=");
                write(out);
            });
        }
    }

    /// Tells whoever asked for it with `oc` in this Via how many of its new requests to hold back, in the parameters that RFC 7339 s4 defines;
    /// what it claimed itself is replaced. Only for the algorithm that every asker must have, `loss`.
    pub fn set_overload_control(&mut self, message: &Message<'_>, via: &Via<'_>, control: OverloadControl) {
        let find = |name: &[u8]| via.params.iter().find(|(n, _)| n.eq_ignore_ascii_case(name));
        let Some(asked) = find(b"oc") else { return };
        self.set_param(message, asked, |out| {
            put_decimal(out, control.percent.into());
            for name in OverloadControl::REST
                .iter()
                .filter(|name| find(name.as_bytes()).is_none())
            {
                let _ = write!(out, ";{name}=");
                control.write(name, out);
            }
        });
        for name in OverloadControl::REST {
            if let Some(claimed) = find(name.as_bytes()) {
                self.set_param(message, claimed, |out| control.write(name, out));
            }
        }
    }

    fn set_param(
        &mut self,
        message: &Message<'_>,
        (name, value): (&[u8], Option<&[u8]>),
        write: impl FnOnce(&mut Vec<u8>),
    ) {
        match (message.span_of(name), value.map(|value| message.span_of(value))) {
            (Some(name), None) => self.splice(Span::new(name.end(), name.end()), |out| {
                out.push(b'=');
                write(out);
            }),
            (_, Some(Some(value))) => self.splice(value, write),
            _ => {}
        }
    }

    /// Takes one from Max-Forwards, or adds it with 70 (RFC 3261 s16.6, step 3).
    pub fn decrement_max_forwards(&mut self, message: &Message<'_>) {
        let header = message
            .index()
            .first(HeaderName::MaxForwards)
            .and_then(|ordinal| message.header_at(ordinal));
        match (header, message.max_forwards()) {
            (Some(header), Some(hops)) => {
                self.splice(header.span, |out| put_decimal(out, u32::from(hops.saturating_sub(1))));
            }
            (Some(_), None) => {}
            (None, _) => self.append(message, HeaderName::MaxForwards, b"70"),
        }
    }

    /// Adds Content-Length where there is none: on a stream it must be there (RFC 3261 s18.3).
    pub fn ensure_content_length(&mut self, message: &Message<'_>) {
        if message.index().first(HeaderName::ContentLength).is_none() {
            let length = message.body().len() as u32;
            self.header_line(message.blank_line(), HeaderName::ContentLength, |out| {
                put_decimal(out, length)
            });
        }
    }
}

/// Appends a number in decimal digits.
pub fn put_decimal(out: &mut Vec<u8>, mut number: u32) {
    let mut digits = [0; 10];
    let mut at = digits.len();
    loop {
        at -= 1;
        digits[at] = b'0' + (number % 10) as u8;
        number /= 10;
        if number == 0 {
            break;
        }
    }
    out.extend_from_slice(&digits[at..]);
}

/// Appends an address; IPv6 without brackets, as `received` has it (RFC 3261 s25.1, via-received).
fn put_address(out: &mut Vec<u8>, address: IpAddr) {
    match address {
        IpAddr::V4(address) => {
            for (place, octet) in address.octets().into_iter().enumerate() {
                if place > 0 {
                    out.push(b'.');
                }
                put_decimal(out, u32::from(octet));
            }
        }
        IpAddr::V6(address) => write!(out, "{address}").expect("a Vec takes all that is written"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Index, Limits};

    fn edited(source: &str, edit: impl FnOnce(&mut Edit, &Message<'_>)) -> String {
        let mut index = Index::new();
        index.scan(source.as_bytes(), &Limits::default()).unwrap();
        let message = Message::new(source.as_bytes(), &index);
        let mut splices = Edit::new();
        edit(&mut splices, &message);
        let mut out = Vec::new();
        splices.apply_into(&message, &mut out);
        index.scan(&out, &Limits::default()).unwrap();
        String::from_utf8(out).unwrap()
    }

    fn with(headers: &str) -> String {
        format!("OPTIONS sip:a SIP/2.0\r\n{headers}\r\n\r\nbody")
    }

    #[test]
    fn no_splices_change_nothing() {
        let source = with("VIA : SIP/2.0/UDP h;rport\r\n , SIP/2.0/UDP i\r\nX:\r\n y");
        assert_eq!(edited(&source, |_, _| {}), source);
    }

    #[test]
    fn what_is_around_a_message_is_left_behind() {
        let source = format!("\r\n\r\n{}", with("l: 2"));
        assert_eq!(edited(&source, |_, _| {}), with("l: 2").replace("body", "bo"));
    }

    #[test]
    fn elements_are_popped_over_lines_and_commas() {
        let source = with("Route: <sip:a,b>, <sip:c>\r\nX: 1\r\nroute: <sip:d> , <sip:e>,");
        let expected = [
            "Route: <sip:a,b>, <sip:c>\r\nX: 1\r\nroute: <sip:d> , <sip:e>,",
            "Route: <sip:c>\r\nX: 1\r\nroute: <sip:d> , <sip:e>,",
            "X: 1\r\nroute: <sip:d> , <sip:e>,",
            "X: 1\r\nroute: <sip:e>,",
            "X: 1",
            "X: 1",
        ];
        for (count, headers) in expected.into_iter().enumerate() {
            let after = edited(&source, |edit, message| edit.pop(message, HeaderName::Route, count));
            assert_eq!(after, with(headers), "{count}");
        }
    }

    #[test]
    fn who_asks_for_overload_control_is_told() {
        let told = |via: &str| {
            let source = with(&format!("Via: SIP/2.0/UDP us, SIP/2.0/UDP h{via}"));
            let after = edited(&source, |edit, message| {
                let control = OverloadControl {
                    percent: 20,
                    validity: Duration::from_millis(500),
                    sequence: 1_282_321_615_782,
                };
                let via = message.vias().nth(1).unwrap();
                edit.set_overload_control(message, &via, control);
            });
            let (start, end) = (after.find("UDP h").unwrap() + 5, after.find("\r\n\r\n").unwrap());
            after[start..end].to_owned()
        };
        let all = ";oc=20;oc-algo=\"loss\";oc-validity=500;oc-seq=1282321615.782";
        assert_eq!(told(";branch=z;oc;rport"), format!(";branch=z{all};rport"));
        assert_eq!(
            told(";oc;oc-algo=\"loss,A\";rport"),
            ";oc=20;oc-validity=500;oc-seq=1282321615.782;oc-algo=\"loss\";rport"
        );
        assert_eq!(
            told(";oc-seq=1.1;OC=90;oc-validity"),
            ";oc-seq=1282321615.782;OC=20;oc-algo=\"loss\";oc-validity=500"
        );
        for unasked in ["", ";branch=z;oc-algo=\"loss\"", ";ocx"] {
            assert_eq!(told(unasked), unasked);
        }
    }

    #[test]
    fn any_one_element_can_be_removed() {
        let source = with("Supported: a, b ,c\r\nk: d");
        for (place, headers) in [
            "Supported: b ,c\r\nk: d",
            "Supported: a, c\r\nk: d",
            "Supported: a, b\r\nk: d",
            "Supported: a, b ,c",
        ]
        .into_iter()
        .enumerate()
        {
            let after = edited(&source, |edit, message| {
                let value = message.values(HeaderName::Supported).nth(place).unwrap();
                edit.remove_value(message, &value);
            });
            assert_eq!(after, with(headers), "{place}");
        }
    }

    #[test]
    fn a_proxy_hop_is_four_splices() {
        let source = with("Max-Forwards: 070\r\nVia: SIP/2.0/UDP h:5070;rport ;branch=z9hG4bK1");
        let after = edited(&source, |edit, message| {
            edit.push_above_with(message, HeaderName::Via, |out| out.extend_from_slice(b"SIP/2.0/TCP p"));
            edit.set_received(message, "192.0.2.1:4711".parse().unwrap());
            edit.decrement_max_forwards(message);
            edit.ensure_content_length(message);
        });
        let expected = "Max-Forwards: 69\r\nVia: SIP/2.0/TCP p\r\n\
            Via: SIP/2.0/UDP h:5070;rport=4711 ;branch=z9hG4bK1;received=192.0.2.1\r\nContent-Length: 4";
        assert_eq!(after, with(expected));
    }

    #[test]
    fn received_is_set_only_where_it_is_needed_and_never_believed() {
        for (via, expected) in [
            ("SIP/2.0/UDP 192.0.2.1", "SIP/2.0/UDP 192.0.2.1"),
            (
                "SIP/2.0/UDP 192.0.2.1;rport",
                "SIP/2.0/UDP 192.0.2.1;rport=9;received=192.0.2.1",
            ),
            (
                "SIP/2.0/UDP 192.0.2.2, x",
                "SIP/2.0/UDP 192.0.2.2;received=192.0.2.1, x",
            ),
            (
                "SIP/2.0/UDP 192.0.2.1;received=10.0.0.1;rport=1",
                "SIP/2.0/UDP 192.0.2.1;received=192.0.2.1;rport=9",
            ),
        ] {
            let after = edited(&with(&format!("v: {via}")), |edit, message| {
                edit.set_received(message, "[::ffff:192.0.2.1]:9".parse().unwrap());
            });
            assert_eq!(after, with(&format!("v: {expected}")));
        }
    }
}
