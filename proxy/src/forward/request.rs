//! A request as routing sees it.

use sip::{HeaderName, Message, Method, Uri, Value, Via};
use ucf::PartitionId;
use ucf::token::{Affinity, Keyring};
use ucf::transactions::{Keys, LoopHash, Parts};

use super::own::Own;
use super::refusal::Refusal;

/// What is read from a request once.
pub(super) struct Request<'a> {
    pub(super) message: &'a Message<'a>,
    pub(super) via: Via<'a>,
    pub(super) method: Method<'a>,
    pub(super) to_tag: Option<&'a [u8]>,
    pub(super) keys: Keys,
    pub(super) looped: LoopHash,
}

impl<'a> Request<'a> {
    /// A client's request.
    pub(super) fn read(message: &'a Message<'a>, keyring: &Keyring) -> Result<Self, Refusal> {
        Self::read_with(message, message.request_uri_bytes(), keyring)
    }

    /// A container's request. The hash in its branch is another than that of the same request coming in: when it comes back to
    /// us because the cluster calls itself, that is no loop.
    pub(super) fn read_outward(message: &'a Message<'a>, keyring: &Keyring) -> Result<Self, Refusal> {
        Self::read_with(message, b"outward", keyring)
    }

    fn read_with(message: &'a Message<'a>, uri: &[u8], keyring: &Keyring) -> Result<Self, Refusal> {
        let malformed = Refusal::malformed(400, "Bad Request");
        let via = message.via().ok_or(malformed)?;
        let parts = Parts {
            branch: via.branch().unwrap_or_default(),
            sent_by: sent_by(&via),
            call_id: message.call_id().ok_or(malformed)?,
            from_tag: message.from().ok_or(malformed)?.tag().unwrap_or_default(),
            cseq: message.cseq().ok_or(malformed)?.number,
            uri,
        };
        let (keys, looped) = Keys::of_request(&parts, keyring);
        Ok(Self {
            message,
            via,
            method: message.method(),
            to_tag: message.to().ok_or(malformed)?.tag(),
            keys,
            looped,
        })
    }

    /// Whether a response to it may make a dialog, so that we want to stay on its path (RFC 3261 s16.6 step 4).
    pub(super) fn makes_dialog(&self) -> bool {
        let makes = matches!(
            self.method,
            Method::Invite | Method::Subscribe | Method::Refer | Method::Notify
        );
        makes && self.to_tag.is_none()
    }

    /// Whether it begins an emergency call: to the service of RFC 5031, or to one of these numbers and services.
    pub(super) fn is_emergency(&self, named: &[String]) -> bool {
        let uri = self.message.request_uri_bytes();
        // Letters count for nothing in what RFC 5031 s2 registers; what follows a dot is a part of that service.
        let is_service = |service: &[u8]| {
            uri.split_at_checked(service.len()).is_some_and(|(start, rest)| {
                start.eq_ignore_ascii_case(service) && matches!(rest.first(), None | Some(b'.'))
            })
        };
        let is_named = || {
            let user = self.message.request_uri().and_then(|uri| uri.user);
            let mut named = named.iter().map(String::as_bytes);
            named.any(|name| user == Some(name) || is_service(name))
        };
        is_service(b"urn:service:sos") || !named.is_empty() && is_named()
    }

    /// The partition that the Request-URI names: it is the Contact of a container.
    pub(super) fn target_affinity(&self, keyring: &Keyring) -> Affinity {
        let uri = self.message.request_uri();
        uri.map_or(Affinity::Absent, |uri| affinity_of(&uri, keyring))
    }

    /// The partition of the dialog that the request wants to replace, join or prove itself by (RFC 3891, RFC 3911, RFC 4538).
    pub(super) fn named_dialog(&self, keyring: &Keyring) -> Option<PartitionId> {
        let message = self.message;
        [message.replaces(), message.join(), message.target_dialog()]
            .into_iter()
            .flatten()
            .find_map(|dialog| {
                // Either end of the dialog may be the one that the cluster holds.
                let local = keyring.verify_tag(dialog.local_tag).partition();
                local.or_else(|| keyring.verify_tag(dialog.remote_tag).partition())
            })
    }
}

/// `host:port` of a Via as written.
fn sent_by<'a>(via: &Via<'a>) -> &'a [u8] {
    let raw = via.raw;
    let from = (via.host.as_ptr() as usize).saturating_sub(raw.as_ptr() as usize);
    let upto = raw.len() - via.params.as_bytes().len();
    raw.get(from..upto).unwrap_or_default().trim_ascii_end()
}

fn affinity_of(uri: &Uri<'_>, keyring: &Keyring) -> Affinity {
    let token = uri.params.get(b"a");
    token.map_or(Affinity::Absent, |token| keyring.verify(token))
}

/// Whether a URI of a Route is one that a proxy of this cluster wrote: by its address, or by a token of ours, for other proxies may have another address,
/// and be gone. Who puts a token that he was given beside a host of his own has it taken away, no more: flows are checked by themselves.
fn is_ours(uri: &Uri<'_>, affinity: Affinity, own: &Own) -> bool {
    own.is_us(uri.host, uri.port) || affinity.partition().is_some()
}

/// The Route of a request (RFC 3261 s16.4).
pub(super) struct Routes<'a> {
    /// How many of its first elements are ours.
    pub(super) own: usize,
    /// What the first token in them says.
    pub(super) affinity: Affinity,
    /// The flow token of the topmost one.
    pub(super) flow: Option<&'a [u8]>,
    /// The first element that is not ours.
    pub(super) next: Option<Uri<'a>>,
    /// The true target and the last Route, which holds it, if the request came through a strict router.
    pub(super) strict: Option<(&'a [u8], Value<'a>)>,
}

impl<'a> Routes<'a> {
    pub(super) fn read(request: &Request<'a>, own: &Own, keyring: &Keyring) -> Self {
        let message = request.message;
        let mut routes = Self {
            own: 0,
            affinity: Affinity::Absent,
            flow: None,
            next: None,
            strict: None,
        };
        for address in message.routes() {
            let Some(uri) = address.uri() else { break };
            let affinity = affinity_of(&uri, keyring);
            if !is_ours(&uri, affinity, own) {
                routes.next = Some(uri);
                break;
            }
            if routes.affinity == Affinity::Absent {
                routes.affinity = affinity;
            }
            if routes.own == 0 {
                routes.flow = uri.params.get(b"fl");
            }
            routes.own += 1;
        }
        if routes.own == 0 {
            routes.read_strict(request, own, keyring);
        }
        routes
    }

    /// A strict router puts our Record-Route, which has `lr`, into the Request-URI.
    fn read_strict(&mut self, request: &Request<'a>, own: &Own, keyring: &Keyring) {
        let message = request.message;
        let Some(uri) = message.request_uri().filter(|uri| uri.params.has(b"lr")) else {
            return;
        };
        let affinity = affinity_of(&uri, keyring);
        if !is_ours(&uri, affinity, own) {
            return;
        }
        self.affinity = affinity;
        if let Some(last) = message.values(HeaderName::Route).last()
            && let Some(address) = sip::NameAddr::parse(last.bytes)
        {
            self.strict = Some((address.uri_bytes, last));
        }
    }
}
