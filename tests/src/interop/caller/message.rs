//! Reading SIP as a phone does. Deliberately not `crates/sip`: what the product writes is read here by other eyes.

/// A received message; slices of its text.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Message<'a> {
    /// Status of a response; `None` for a request.
    pub status: Option<u16>,
    /// Method of the request, or from the CSeq of a response.
    pub method: &'a str,
    /// Number of the CSeq.
    pub cseq: u32,
    /// Call-ID.
    pub call_id: &'a str,
    /// The From value.
    pub from: &'a str,
    /// The To value.
    pub to: &'a str,
    /// The URI within the first Contact.
    pub contact: Option<&'a str>,
    /// Via values, topmost first, as they stand.
    pub via: Vec<&'a str>,
    /// Record-Route values, topmost first.
    pub record_route: Vec<&'a str>,
    /// All header lines, unfolded by nobody: the product never folds.
    pub headers: Vec<(&'a str, &'a str)>,
    /// The body.
    pub body: &'a str,
}

impl<'a> Message<'a> {
    /// A caller's route set (RFC 3261 s12.1.2).
    #[must_use]
    pub fn route_set(&self) -> Vec<String> {
        self.record_route
            .iter()
            .rev()
            .map(|route| (*route).to_owned())
            .collect()
    }

    /// Reads a message; `None` if it is none that a phone would accept.
    #[must_use]
    pub fn read(bytes: &'a [u8]) -> Option<Self> {
        let text = std::str::from_utf8(bytes).ok()?;
        let (head, body) = text.split_once("\r\n\r\n")?;
        let mut lines = head.split("\r\n");
        let first = lines.next()?;
        let mut message = Self {
            body,
            ..Self::default()
        };
        if let Some(rest) = first.strip_prefix("SIP/2.0 ") {
            message.status = Some(rest.get(..3)?.parse().ok()?);
        } else {
            message.method = first.split(' ').next()?;
        }
        for line in lines {
            let (name, value) = line.split_once(':')?;
            message.header(name.trim_end(), value.trim())?;
        }
        (!message.call_id.is_empty() && !message.method.is_empty()).then_some(message)
    }

    fn header(&mut self, name: &'a str, value: &'a str) -> Option<()> {
        let is = |long: &str, short: &str| name.eq_ignore_ascii_case(long) || name.eq_ignore_ascii_case(short);
        if is("Via", "v") {
            self.via.push(value);
        } else if is("From", "f") {
            self.from = value;
        } else if is("To", "t") {
            self.to = value;
        } else if is("Call-ID", "i") {
            self.call_id = value;
        } else if is("Record-Route", "Record-Route") {
            self.record_route.extend(value.split(',').map(str::trim));
        } else if is("Contact", "m") {
            self.contact.get_or_insert(uri(value));
        } else if is("CSeq", "CSeq") {
            let (number, method) = value.split_once(' ')?;
            self.cseq = number.parse().ok()?;
            self.method = method.trim();
        }
        self.headers.push((name, value));
        Some(())
    }

    /// The first value of a header.
    #[must_use]
    pub fn value(&self, name: &str) -> Option<&'a str> {
        let mut all = self.headers.iter();
        all.find(|(n, _)| n.eq_ignore_ascii_case(name)).map(|(_, value)| *value)
    }

    /// The tag of the To header.
    #[must_use]
    pub fn to_tag(&self) -> Option<&'a str> {
        parameter(self.to, "tag")
    }
}

/// The URI of a name-addr or addr-spec.
fn uri(value: &str) -> &str {
    match value.split_once('<') {
        Some((_, rest)) => rest.split('>').next().unwrap_or(rest),
        None => value.split(';').next().unwrap_or(value),
    }
}

/// A header parameter, behind the `>` if there is one.
#[must_use]
pub fn parameter<'a>(value: &'a str, name: &str) -> Option<&'a str> {
    let behind = value.rsplit_once('>').map_or(value, |(_, rest)| rest);
    behind.split(';').skip(1).find_map(|part| {
        let (key, value) = part.split_once('=').unwrap_or((part, ""));
        key.trim().eq_ignore_ascii_case(name).then(|| value.trim())
    })
}

/// Length of the first complete message in a stream, after the CRLFs that keep it alive; with the number of those.
#[must_use]
pub fn framed(stream: &[u8]) -> Option<(usize, usize)> {
    let skip = stream.iter().take_while(|byte| matches!(byte, b'\r' | b'\n')).count();
    let rest = &stream[skip..];
    let head = rest.windows(4).position(|four| four == b"\r\n\r\n")? + 4;
    let text = String::from_utf8_lossy(&rest[..head]);
    let length = text.lines().find_map(|line| {
        let (name, value) = line.split_once(':')?;
        let is = name.trim().eq_ignore_ascii_case("Content-Length") || name.trim().eq_ignore_ascii_case("l");
        is.then(|| value.trim().parse::<usize>().ok())?
    });
    let total = head + length.unwrap_or(0);
    (rest.len() >= total).then_some((skip, total))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_response_yields_what_a_dialog_needs() {
        let text = "SIP/2.0 200 OK\r\nv: SIP/2.0/UDP h;branch=z9hG4bKx\r\nRecord-Route: <sip:a;lr>, <sip:b;lr>\r\nFrom: <sip:c>;tag=1\r\n\
                    To: <sip:d;tag=no>;tag=yes\r\nCall-ID: 7\r\nCSeq: 3 BYE\r\nContact: \"x\" <sip:e;p=1>;q=1\r\n\r\n";
        let message = Message::read(text.as_bytes()).unwrap();
        assert_eq!(message.status, Some(200));
        assert_eq!((message.cseq, message.method), (3, "BYE"));
        assert_eq!(message.to_tag(), Some("yes"));
        assert_eq!(message.record_route, ["<sip:a;lr>", "<sip:b;lr>"]);
        assert_eq!(message.contact, Some("sip:e;p=1"));
        assert_eq!(framed(format!("\r\n{text}x").as_bytes()), Some((2, text.len())));
    }
}
