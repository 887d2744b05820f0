//! Durations to one line of percentiles.

use std::fmt;
use std::time::Duration;

/// Percentiles of a set of durations.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Spread {
    /// How many there were.
    pub count: usize,
    /// Half took at most this.
    pub median: Duration,
    /// 99 of 100 took at most this.
    pub p99: Duration,
    /// The longest.
    pub worst: Duration,
}

impl Spread {
    /// The spread of `durations`; zeros if there are none.
    pub fn of(durations: impl IntoIterator<Item = Duration>) -> Self {
        let mut all: Vec<Duration> = durations.into_iter().collect();
        all.sort_unstable();
        let at = |share: f64| {
            let index = ((all.len() as f64 * share).ceil() as usize).clamp(1, all.len().max(1)) - 1;
            all.get(index).copied().unwrap_or_default()
        };
        Self {
            count: all.len(),
            median: at(0.5),
            p99: at(0.99),
            worst: at(1.0),
        }
    }
}

impl fmt::Display for Spread {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let ms = |d: Duration| d.as_secs_f64() * 1e3;
        write!(
            f,
            "{} measured, median {:.1} ms, 99 % {:.1} ms, worst {:.1} ms",
            self.count,
            ms(self.median),
            ms(self.p99),
            ms(self.worst)
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn percentiles_are_members_of_the_set() {
        let spread = Spread::of((1..=100).map(Duration::from_millis));
        assert_eq!(spread.median, Duration::from_millis(50));
        assert_eq!(spread.p99, Duration::from_millis(99));
        assert_eq!(spread.worst, Duration::from_millis(100));
        assert_eq!(Spread::of([]), Spread::default());
    }
}
