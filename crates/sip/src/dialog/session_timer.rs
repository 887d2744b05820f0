//! Session timers (RFC 4028): who refreshes, when, and when the session is given up.

use super::{DialogEffect, Facts, Refusal};
use crate::{Instant, Refresher, SessionExpires};
use std::time::Duration;

/// RFC 4028 s4: no interval and no Min-SE is below it.
const LEAST: u32 = 90;

/// What we want of session timers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SessionPolicy {
    /// The interval that we ask for, and the longest that we agree to, in seconds; `None`: only what the peer asks for.
    pub interval: Option<u32>,
    /// The shortest that we agree to.
    pub min_se: u32,
    /// Who refreshes when the peer leaves it to us.
    pub refresher: Refresher,
}

/// What a 2xx states about the session timer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Agreed {
    /// The interval in seconds.
    pub seconds: u32,
    /// Who refreshes, seen from the request that is answered.
    pub refresher: Refresher,
    /// Whether the 2xx says `Require: timer`.
    pub require: bool,
}

/// The timer of one dialog.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SessionTimer {
    /// Seconds; 0 is off.
    interval: u32,
    /// The largest Min-SE that the peer named; 0 before.
    min_se: u32,
    we_refresh: bool,
    refresh: Instant,
    expires: Instant,
}

impl Default for SessionPolicy {
    fn default() -> Self {
        Self {
            interval: Some(1800),
            min_se: LEAST,
            refresher: Refresher::Uac,
        }
    }
}

/// What our 2xx to this INVITE or UPDATE will state (RFC 4028 s9); `None`: no session timer.
pub(super) fn agree(policy: &SessionPolicy, request: &Facts<'_>) -> Result<Option<Agreed>, Refusal> {
    let floor = request.min_se.unwrap_or(LEAST).max(LEAST);
    let asked = request.session_expires;
    // Only a peer that knows timers can act on a 422; a proxy that put Session-Expires in for another cannot.
    if request.timer && asked.is_some_and(|asked| asked.seconds < policy.min_se.max(LEAST)) {
        let min_se = policy.min_se.max(LEAST);
        return Err(Refusal::IntervalTooSmall { min_se });
    }
    let seconds = match (asked, policy.interval) {
        // s9: it may be shortened down to Min-SE, never lengthened.
        (Some(asked), Some(ours)) => asked.seconds.min(ours.max(floor)),
        (Some(asked), None) => asked.seconds,
        (None, Some(ours)) => ours.max(floor),
        (None, None) => return Ok(None),
    };
    let refresher = match asked.and_then(|asked| asked.refresher) {
        _ if !request.timer => Refresher::Uas,
        Some(refresher) => refresher,
        None => policy.refresher,
    };
    Ok(Some(Agreed {
        seconds,
        refresher,
        require: request.timer,
    }))
}

impl Agreed {
    /// The header lines for the 2xx, each with its line end.
    #[must_use]
    pub fn header_lines(&self) -> String {
        let require = if self.require { "Require: timer\r\n" } else { "" };
        format!(
            "Session-Expires: {};refresher={}\r\n{require}",
            self.seconds,
            self.refresher.name()
        )
    }
}

impl Refresher {
    /// As it stands in Session-Expires.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Uac => "uac",
            Self::Uas => "uas",
        }
    }
}

impl SessionTimer {
    /// No session timer.
    #[must_use]
    pub const fn off() -> Self {
        Self {
            interval: 0,
            min_se: 0,
            we_refresh: false,
            refresh: Instant::MAX,
            expires: Instant::MAX,
        }
    }

    /// The interval in seconds; `None` when off.
    #[must_use]
    pub fn interval(&self) -> Option<u32> {
        (self.interval > 0).then_some(self.interval)
    }

    /// Whether it is us who refresh.
    #[must_use]
    pub fn we_refresh(&self) -> bool {
        self.we_refresh
    }

    /// When the session ends unless it is refreshed; `None` when off.
    #[must_use]
    pub fn expires(&self) -> Option<Instant> {
        self.interval().map(|_| self.expires)
    }

    /// The largest Min-SE that the peer named; 0 if none.
    #[must_use]
    pub fn min_se(&self) -> u32 {
        self.min_se
    }

    /// Our 2xx leaves: the interval starts anew.
    pub(super) fn agreed_as_uas(&mut self, now: Instant, agreed: Option<Agreed>) {
        match agreed {
            Some(agreed) => self.start(now, agreed.seconds, agreed.refresher == Refresher::Uas),
            None => self.stop(),
        }
    }

    /// A 2xx to our INVITE or UPDATE came (RFC 4028 s7.2): without Session-Expires there is no session timer.
    pub(super) fn agreed_as_uac(&mut self, now: Instant, stated: Option<SessionExpires>) {
        match stated {
            Some(stated) => self.start(now, stated.seconds.max(1), stated.refresher != Some(Refresher::Uas)),
            None => self.stop(),
        }
    }

    /// A 422 came, or a request named a Min-SE.
    pub(super) fn raise_min_se(&mut self, min_se: Option<u32>) {
        self.min_se = self.min_se.max(min_se.unwrap_or(0));
    }

    /// The header lines that our next INVITE or UPDATE carries (RFC 4028 s7.1, s7.4), each with its line end.
    #[must_use]
    pub fn request_lines(&self, policy: &SessionPolicy) -> String {
        let wanted = self.interval().or(policy.interval);
        let Some(seconds) = wanted.map(|seconds| seconds.max(self.min_se).max(LEAST)) else {
            return String::from("Supported: timer\r\n");
        };
        // s7.4: a refresh names the one who refreshes now, so that the role stays.
        let refresher = match (self.interval(), self.we_refresh) {
            (Some(_), true) => ";refresher=uac",
            (Some(_), false) => ";refresher=uas",
            (None, _) => "",
        };
        let min_se = match self.min_se {
            0 => String::new(),
            min_se => format!("Min-SE: {min_se}\r\n"),
        };
        format!("Supported: timer\r\nSession-Expires: {seconds}{refresher}\r\n{min_se}")
    }

    fn start(&mut self, now: Instant, seconds: u32, we_refresh: bool) {
        let interval = Duration::from_secs(u64::from(seconds));
        self.interval = seconds;
        self.we_refresh = we_refresh;
        self.expires = now + interval;
        self.refresh = if we_refresh { now + interval / 2 } else { Instant::MAX };
    }

    fn stop(&mut self) {
        *self = Self {
            min_se: self.min_se,
            ..Self::off()
        };
    }

    /// RFC 4028 s10: BYE by a third of the interval, at most 32 s, before the end.
    fn give_up(&self) -> Instant {
        let interval = Duration::from_secs(u64::from(self.interval));
        self.expires - (interval / 3).min(Duration::from_secs(32))
    }

    pub(super) fn poll_timeout(&self) -> Option<Instant> {
        self.interval().map(|_| self.refresh.min(self.give_up()))
    }

    pub(super) fn handle_timeout(&mut self, now: Instant, out: &mut Vec<DialogEffect>) {
        if self.interval == 0 {
            return;
        }
        if self.give_up() <= now {
            self.stop();
            out.push(DialogEffect::SessionExpired);
        } else if self.refresh <= now {
            // Should this refresh fail (a glare, a lost answer) there is time for another before the end.
            self.refresh = now + Duration::from_secs(u64::from(self.interval)) / 8;
            out.push(DialogEffect::RefreshDue);
        }
    }

    /// Interval, Min-SE, role, time to the next refresh and time to the end.
    pub(super) fn to_parts(self, now: Instant) -> Option<super::SessionParts> {
        (self.interval > 0 || self.min_se > 0).then(|| super::SessionParts {
            interval: self.interval,
            min_se: self.min_se,
            we_refresh: self.we_refresh,
            refresh_left: if self.we_refresh {
                self.refresh.since(now)
            } else {
                Duration::ZERO
            },
            left: if self.interval > 0 {
                self.expires.since(now)
            } else {
                Duration::ZERO
            },
        })
    }

    pub(super) fn from_parts(now: Instant, parts: &super::SessionParts) -> Self {
        let super::SessionParts {
            interval,
            min_se,
            we_refresh,
            refresh_left,
            left,
        } = *parts;
        let on = interval > 0;
        Self {
            interval,
            min_se,
            we_refresh,
            refresh: if on && we_refresh {
                now + refresh_left
            } else {
                Instant::MAX
            },
            expires: if on { now + left } else { Instant::MAX },
        }
    }
}
