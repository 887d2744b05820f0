//! A histogram of durations that one thread fills and others read.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

/// Durations counted by upper bounds; one more place takes what is above all of them.
#[derive(Debug)]
pub struct Histogram<const N: usize> {
    bounds: &'static [Duration; N],
    counts: [AtomicU64; N],
    above: AtomicU64,
    sum_us: AtomicU64,
}

/// What histograms of the same bounds hold together.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Totals {
    /// Upper bound in seconds, and how many are at most that and above the bound before.
    pub buckets: Vec<(f64, u64)>,
    /// All durations together.
    pub sum: Duration,
    /// How many there are.
    pub count: u64,
}

impl<const N: usize> Histogram<N> {
    /// An empty one; bounds ascend.
    pub fn new(bounds: &'static [Duration; N]) -> Self {
        Self {
            bounds,
            counts: std::array::from_fn(|_| AtomicU64::new(0)),
            above: AtomicU64::new(0),
            sum_us: AtomicU64::new(0),
        }
    }

    /// Counts one.
    pub fn observe(&self, duration: Duration) {
        let place = self.bounds.partition_point(|bound| *bound < duration);
        self.counts
            .get(place)
            .unwrap_or(&self.above)
            .fetch_add(1, Ordering::Relaxed);
        let micros = u64::try_from(duration.as_micros()).unwrap_or(u64::MAX);
        self.sum_us.fetch_add(micros, Ordering::Relaxed);
    }

    /// What all of them hold.
    pub fn total<'a>(all: impl IntoIterator<Item = &'a Self>) -> Totals {
        let mut totals = Totals::default();
        for one in all {
            let bounds = one.bounds.iter().map(Duration::as_secs_f64).chain([f64::INFINITY]);
            let counts = one
                .counts
                .iter()
                .chain([&one.above])
                .map(|count| count.load(Ordering::Relaxed));
            for (place, (bound, count)) in bounds.zip(counts).enumerate() {
                match totals.buckets.get_mut(place) {
                    Some((_, sum)) => *sum += count,
                    None => totals.buckets.push((bound, count)),
                }
                totals.count += count;
            }
            totals.sum += Duration::from_micros(one.sum_us.load(Ordering::Relaxed));
        }
        totals
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const BOUNDS: [Duration; 2] = [Duration::from_millis(10), Duration::from_secs(1)];

    #[test]
    fn a_duration_is_counted_below_its_bound_and_the_rest_above_all() {
        let (one, other) = (Histogram::new(&BOUNDS), Histogram::new(&BOUNDS));
        for millis in [1, 10, 11, 1_000] {
            one.observe(Duration::from_millis(millis));
        }
        other.observe(Duration::from_millis(1_001));
        let totals = Histogram::total([&one, &other]);
        assert_eq!(totals.buckets, [(0.01, 2), (1.0, 2), (f64::INFINITY, 1)]);
        assert_eq!((totals.count, totals.sum), (5, Duration::from_millis(2_023)));
    }
}
