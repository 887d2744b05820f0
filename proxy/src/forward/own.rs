//! The names under which the cluster is reached, and what is written with them.

use std::net::{IpAddr, SocketAddr};

use sip::{Edit, Host, Message};
use ucf::flow::{FlowToken, Place, Transport};
use ucf::token::Token;

use super::config::Config;

/// The port of a URI or sent-by that names none (RFC 3261 s19.1.2).
pub(super) const DEFAULT_PORT: u16 = 5060;

/// Our addresses, prepared for comparing and writing.
#[derive(Debug)]
pub(super) struct Own {
    listeners: Vec<Address>,
    aliases: Vec<Vec<u8>>,
    /// What containers write into Contact in place of an address.
    stand_in: Option<Vec<u8>>,
    /// Each proxy of the cluster has an address of its own.
    apart: bool,
    /// The place that this one's is.
    place: Option<Place>,
}

#[derive(Debug)]
struct Address {
    /// As written in SIP: an IPv6 address in brackets.
    host: Vec<u8>,
    ip: Option<IpAddr>,
    port: u16,
    /// `host:port`.
    text: Vec<u8>,
    /// What stands in Record-Route.
    route: Vec<u8>,
    /// It is not where we listen: something between translates.
    translated: bool,
}

impl Own {
    pub(super) fn new(config: &Config) -> Self {
        let listeners = config.listeners.iter().map(|listener| {
            let ip = listener.host.parse::<IpAddr>().ok();
            let host = match ip {
                Some(IpAddr::V6(ip)) => format!("[{ip}]"),
                _ => listener.host.clone(),
            };
            let text = format!("{host}:{}", listener.port);
            Address {
                route: match &config.route_host {
                    // A port would keep peers from looking for SRV records (RFC 3263 s4.2).
                    Some(name) if listener.port == DEFAULT_PORT => name.clone(),
                    Some(name) => format!("{name}:{}", listener.port),
                    None => text.clone(),
                }
                .into_bytes(),
                text: text.into_bytes(),
                host: host.into_bytes(),
                ip,
                port: listener.port,
                translated: ip.map(|ip| (ip, listener.port).into()) != Some(listener.local),
            }
        });
        let mut own = Self {
            listeners: listeners.collect(),
            aliases: (config.aliases.iter().chain(&config.route_host))
                .map(|alias| alias.clone().into_bytes())
                .collect(),
            stand_in: config.stand_in.clone().map(String::into_bytes),
            apart: config.stand_in.is_some() || config.route_host.is_some(),
            place: None,
        };
        own.place = own.address().map(Place::of);
        own
    }

    /// Whether host and port, as they stand in a URI or a sent-by, are this cluster's.
    pub(super) fn is_us(&self, host: &[u8], port: Option<u16>) -> bool {
        let number = port.unwrap_or(DEFAULT_PORT);
        self.listeners
            .iter()
            .any(|address| address.port == number && address.is_at(host))
            || self.aliases.iter().any(|alias| alias.eq_ignore_ascii_case(host))
    }

    /// Whether each proxy has an address of its own, so that what one sends by datagram, no other can.
    pub(super) fn is_apart(&self) -> bool {
        self.apart
    }

    /// The address that no other proxy has, if each has one.
    pub(super) fn address(&self) -> Option<SocketAddr> {
        let first = self.listeners.first().filter(|_| self.apart)?;
        Some(SocketAddr::new(first.ip?, first.port))
    }

    /// The place that is this address.
    pub(super) fn place(&self) -> Option<Place> {
        self.place
    }

    /// Whether a proxy of this cluster may have written a Via with this sent-by. Where each has an address of its own, any may be another's; what
    /// stands behind it has the cluster's keyed hash or token in any case, for everybody can write our address.
    pub(super) fn may_have_sent(&self, host: &[u8], port: Option<u16>) -> bool {
        self.apart || self.is_us(host, port)
    }

    /// The listener for a peer of this address: the first of its family.
    pub(super) fn listener_towards(&self, ip: IpAddr) -> u8 {
        let same = |address: &Address| address.ip.is_some_and(|own| own.is_ipv6() == ip.is_ipv6());
        self.listeners.iter().position(same).unwrap_or(0) as u8
    }

    /// Whether datagrams pass a translation on our side, such as that of a Kubernetes Service: its memory of a flow ends, as a peer's NAT's does.
    pub(super) fn is_translated(&self, listener: u8, transport: Transport) -> bool {
        let address = self.listeners.get(usize::from(listener));
        transport == Transport::Udp && address.is_some_and(|address| address.translated)
    }

    /// A Via of ours, without its field name (RFC 3261 s16.6 step 8).
    pub(super) fn write_via(&self, out: &mut Vec<u8>, listener: u8, transport: Transport, branch: &[u8]) {
        out.extend_from_slice(b"SIP/2.0/");
        out.extend_from_slice(transport.as_str().as_bytes());
        out.push(b' ');
        self.write_address(out, listener);
        out.extend_from_slice(b";branch=");
        out.extend_from_slice(branch);
    }

    /// A Record-Route of ours, without its field name (RFC 3261 s16.6 step 4).
    pub(super) fn write_record_route(
        &self,
        out: &mut Vec<u8>,
        listener: u8,
        transport: Transport,
        token: &Token,
        flow: &FlowToken,
    ) {
        out.extend_from_slice(b"<sip:");
        if let Some(address) = self.of_listener(listener) {
            out.extend_from_slice(&address.route);
        }
        if transport == Transport::Tcp {
            out.extend_from_slice(b";transport=tcp");
        }
        out.extend_from_slice(b";lr;a=");
        out.extend_from_slice(token.as_bytes());
        out.extend_from_slice(b";fl=");
        out.extend_from_slice(flow.as_bytes());
        out.push(b'>');
    }

    /// Puts our address into a container's Contact, if it was left to us.
    pub(super) fn fill_contact(&self, message: &Message<'_>, listener: u8, edit: &mut Edit) {
        let Some(stand_in) = &self.stand_in else { return };
        let uri = message.contact().and_then(|contact| contact.uri());
        let host = uri.map(|uri| uri.host).filter(|host| host == stand_in);
        if let (Some(span), Some(address)) = (host.and_then(|host| message.span_of(host)), self.of_listener(listener)) {
            edit.replace(span, &address.host);
        }
    }

    fn write_address(&self, out: &mut Vec<u8>, listener: u8) {
        if let Some(address) = self.of_listener(listener) {
            out.extend_from_slice(&address.text);
        }
    }

    fn of_listener(&self, listener: u8) -> Option<&Address> {
        // A flow of an older configuration may name a listener that is no more: the first one stands in for it.
        self.listeners.get(usize::from(listener)).or(self.listeners.first())
    }
}

impl Address {
    fn is_at(&self, host: &[u8]) -> bool {
        if self.host.eq_ignore_ascii_case(host) {
            return true;
        }
        // One IPv6 address has many spellings.
        host.first() == Some(&b'[')
            && match Host::parse(host) {
                Some(Host::Address(ip)) => self.ip == Some(ip),
                _ => false,
            }
    }
}
