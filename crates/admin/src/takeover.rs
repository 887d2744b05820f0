//! What is told of the last takeover on the page `/state`: by each survivor its part, put together by whoever reads all.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use serde::{Deserialize, Serialize};
use serde_json::Value;

/// Takeovers that begin within this time of the first are one to people: a node takes several containers along, and each survivor has its part.
const ONE: Duration = Duration::from_secs(10);

/// A takeover, or a survivor's part of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Takeover {
    /// When the loss was noticed, in milliseconds since 1970.
    pub begun_ms: u64,
    /// When the last partition worked again, in milliseconds since 1970.
    pub ended_ms: u64,
    /// Partitions that were claimed.
    pub partitions: u64,
    /// Sessions that came with them.
    pub sessions: u64,
}

impl Takeover {
    /// One that has just ended, after this long.
    #[must_use]
    pub fn ended(now: SystemTime, took: Duration, partitions: u64, sessions: u64) -> Self {
        let millis = |duration: Duration| u64::try_from(duration.as_millis()).unwrap_or(u64::MAX);
        let ended_ms = millis(now.duration_since(UNIX_EPOCH).unwrap_or_default());
        Self {
            begun_ms: ended_ms.saturating_sub(millis(took)),
            ended_ms,
            partitions,
            sessions,
        }
    }

    /// As it stands on the page.
    #[must_use]
    pub fn read(page: &Value) -> Option<Self> {
        serde_json::from_value(page["lastTakeover"].clone()).ok()
    }

    /// The later of two; both, if they are one to people.
    #[must_use]
    pub fn and(self, other: Self) -> Self {
        let (first, last) = if self.begun_ms <= other.begun_ms {
            (self, other)
        } else {
            (other, self)
        };
        if Duration::from_millis(last.begun_ms - first.begun_ms) >= ONE {
            return last;
        }
        Self {
            begun_ms: first.begun_ms,
            ended_ms: first.ended_ms.max(last.ended_ms),
            partitions: first.partitions.saturating_add(last.partitions),
            sessions: first.sessions.saturating_add(last.sessions),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn takeover(begun_ms: u64, ended_ms: u64, partitions: u64) -> Takeover {
        Takeover {
            begun_ms,
            ended_ms,
            partitions,
            sessions: partitions * 10,
        }
    }

    #[test]
    fn parts_of_one_takeover_are_added_and_of_two_the_later_counts() {
        let (one, other) = (takeover(1_000, 1_300, 5), takeover(1_100, 1_200, 7));
        assert_eq!(one.and(other), takeover(1_000, 1_300, 12));
        assert_eq!(one.and(other), other.and(one));
        let later = takeover(11_000, 11_400, 1);
        assert_eq!((one.and(later), later.and(one)), (later, later));
        let long = takeover(1_000, 15_000, 1);
        assert_eq!(
            long.and(later),
            later,
            "what begins later is another, however long the first took"
        );
    }

    #[test]
    fn what_is_shown_is_what_is_read() {
        let now = UNIX_EPOCH + Duration::from_secs(5);
        let shown = Takeover::ended(now, Duration::from_millis(300), 2, 3);
        assert_eq!((shown.begun_ms, shown.ended_ms), (4_700, 5_000));
        assert_eq!(
            Takeover::read(&serde_json::json!({ "lastTakeover": shown })),
            Some(shown)
        );
        assert_eq!(Takeover::read(&serde_json::json!({ "lastTakeover": null })), None);
    }
}
