//! What the proxies say of the containers: down is who is closed or silent at every proxy that is itself in touch.

use crate::wire::{Heartbeat, View};
use crate::{Incarnation, ProxyId};
use sip::Instant;
use std::collections::BTreeMap;
use std::time::Duration;

/// Silence at a proxy that counts as down; proxies and containers speak every 100 ms.
pub const SILENCE: Duration = Duration::from_millis(700);

/// A proxy is in touch if it was heard within this time.
const IN_TOUCH: Duration = Duration::from_millis(350);

/// Views that are kept of one proxy: members that were ever heard of within minutes, far fewer in practice.
const MAX_VIEWS: usize = 1024;

/// What all proxies in touch say of a container.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// No proxy in touch knows of it.
    Unknown,
    /// At least one vouches for it.
    Up,
    /// Its connections closed at all, or closed at some and it is silent at the others.
    Closed,
    /// It is silent at all.
    Silent,
}

/// The proxies' views.
#[derive(Debug, Default)]
pub struct Detector {
    /// One per connected proxy worker.
    proxies: BTreeMap<ProxyId, Link>,
}

#[derive(Debug)]
struct Link {
    heartbeat: u64,
    heard: Option<Instant>,
    views: Vec<View>,
}

impl Detector {
    /// A proxy worker connected.
    pub fn up(&mut self, proxy: ProxyId) {
        let link = Link {
            heartbeat: 0,
            heard: None,
            views: Vec::new(),
        };
        self.proxies.insert(proxy, link);
    }

    /// Its link ended.
    pub fn closed(&mut self, proxy: ProxyId) {
        self.proxies.remove(&proxy);
    }

    /// It spoke.
    pub fn heard(&mut self, now: Instant, proxy: ProxyId, mut heartbeat: Heartbeat) {
        if let Some(link) = self.proxies.get_mut(&proxy) {
            link.heartbeat = link.heartbeat.max(heartbeat.number);
            link.heard = Some(now);
            heartbeat.views.truncate(MAX_VIEWS);
            link.views = heartbeat.views;
        }
    }

    /// The last heartbeat of every proxy worker that was ever heard.
    #[must_use]
    pub fn heartbeats(&self) -> Vec<(ProxyId, u64)> {
        let heard = self.proxies.iter().filter(|(_, link)| link.heard.is_some());
        heard.map(|(proxy, link)| (*proxy, link.heartbeat)).collect()
    }

    /// Whether any proxy is in touch.
    #[must_use]
    pub fn in_touch(&self, now: Instant) -> bool {
        self.in_touch_links(now).next().is_some()
    }

    /// What the proxies in touch say of a container.
    #[must_use]
    pub fn verdict(&self, now: Instant, member: Incarnation) -> Verdict {
        let mut verdict = Verdict::Unknown;
        let views = self.in_touch_links(now).flat_map(|link| &link.views);
        for view in views.filter(|view| view.incarnation == member.0) {
            let silent = Duration::from_millis(u64::from(view.silent_ms)) >= SILENCE;
            match (view.closed, silent) {
                (true, _) => verdict = Verdict::Closed,
                (false, true) if verdict == Verdict::Unknown => verdict = Verdict::Silent,
                (false, true) => {}
                (false, false) => return Verdict::Up,
            }
        }
        verdict
    }

    /// Containers that a proxy in touch sees alive.
    pub fn alive(&self, now: Instant) -> impl Iterator<Item = Incarnation> + '_ {
        let views = self.in_touch_links(now).flat_map(|link| &link.views);
        let alive = views.filter(|v| !v.closed && Duration::from_millis(u64::from(v.silent_ms)) < SILENCE);
        alive.map(|view| Incarnation(view.incarnation))
    }

    fn in_touch_links(&self, now: Instant) -> impl Iterator<Item = &Link> {
        let recent = move |link: &&Link| link.heard.is_some_and(|heard| now.since(heard) <= IN_TOUCH);
        self.proxies.values().filter(recent)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MEMBER: Incarnation = Incarnation(9);

    fn proxy(n: u64) -> ProxyId {
        ProxyId {
            incarnation: n,
            worker: 0,
        }
    }

    fn at(ms: u64) -> Instant {
        Instant::from_micros(ms * 1000)
    }

    fn views(said: &[(u64, u32, bool)]) -> Detector {
        let mut detector = Detector::default();
        for (from, silent_ms, closed) in said {
            let view = View {
                incarnation: MEMBER.0,
                silent_ms: *silent_ms,
                closed: *closed,
            };
            detector.up(proxy(*from));
            let heartbeat = Heartbeat {
                number: 1,
                views: vec![view],
            };
            detector.heard(at(1000), proxy(*from), heartbeat);
        }
        detector
    }

    #[test]
    fn one_proxy_that_vouches_is_enough() {
        assert_eq!(
            views(&[(1, 0, true), (2, 100, false)]).verdict(at(1000), MEMBER),
            Verdict::Up
        );
        assert_eq!(
            views(&[(1, 900, false), (2, 699, false)]).verdict(at(1000), MEMBER),
            Verdict::Up
        );
    }

    #[test]
    fn closed_or_silent_at_all_is_down() {
        assert_eq!(
            views(&[(1, 0, true), (2, 0, true)]).verdict(at(1000), MEMBER),
            Verdict::Closed
        );
        assert_eq!(
            views(&[(1, 0, true), (2, 700, false)]).verdict(at(1000), MEMBER),
            Verdict::Closed
        );
        assert_eq!(views(&[(1, 700, false)]).verdict(at(1000), MEMBER), Verdict::Silent);
    }

    #[test]
    fn proxies_out_of_touch_have_no_say() {
        let detector = views(&[(1, 0, true)]);
        assert_eq!(detector.verdict(at(1351), MEMBER), Verdict::Unknown);
        assert!(!detector.in_touch(at(1351)));
    }
}
