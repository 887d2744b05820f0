//! Which container takes a new dialog: the one with the least open work.
//!
//! Open work is what a container reported plus what this proxy has sent it since. What was sent fades over one report
//! interval instead of being forgotten at once: otherwise the container whose report came last would get everything until
//! it caught up with the others.

use std::time::Duration;

use sip::Instant;

use crate::routing::Slot;
use crate::wire::{MemberState, Report};

/// Containers report this often, and what was sent fades in this time.
const REPORT: Duration = Duration::from_millis(100);

/// A container whose report is older than this takes new dialogs only if no other can.
const SILENT: Duration = Duration::from_millis(700);

/// From this age on a report says nothing.
const WORTHLESS: Duration = Duration::from_secs(2);

/// A container whose oldest input has waited longer takes no new dialogs: it works on what callers have given up.
const OVERLOAD: Duration = Duration::from_secs(2);

/// How long a fresh container gets less than its share: caches are cold and connections young.
const RAMP: Duration = Duration::from_secs(10);

/// One transaction, in the units of [`Load::sent`].
const ONE: u64 = 1 << 16;

#[derive(Clone, Copy, Debug)]
struct Load {
    state: MemberState,
    /// Transactions in progress by the last report.
    open: u32,
    /// How long its oldest input had waited.
    delay: Duration,
    reported: Instant,
    active_since: Instant,
    /// Transactions sent, fading since `faded`.
    sent: u64,
    faded: Instant,
}

/// What is known of the containers' load.
#[derive(Debug, Default)]
pub struct Balancer {
    loads: Vec<Option<Load>>,
}

impl Balancer {
    /// Takes a container's report.
    pub fn report(&mut self, now: Instant, slot: Slot, report: &Report) {
        let at = usize::from(slot.0);
        if self.loads.len() <= at {
            self.loads.resize(at + 1, None);
        }
        let state = report.state();
        let before = self.loads[at];
        let was_active = before.filter(|load| load.state == MemberState::Active);
        self.loads[at] = Some(Load {
            state,
            open: report.open_transactions,
            delay: Duration::from_micros(report.queue_delay_us.into()),
            reported: now,
            active_since: was_active.map_or(now, |load| load.active_since),
            sent: before.map_or(0, |load| load.sent),
            faded: before.map_or(now, |load| load.faded),
        });
    }

    /// A new transaction has been sent to a container.
    pub fn sent(&mut self, now: Instant, slot: Slot) {
        if let Some(Some(load)) = self.loads.get_mut(usize::from(slot.0)) {
            load.sent = load.faded_sent(now) + ONE;
            load.faded = now;
        }
    }

    /// A container is gone.
    pub fn forget(&mut self, slot: Slot) {
        if let Some(load) = self.loads.get_mut(usize::from(slot.0)) {
            *load = None;
        }
    }

    /// As it last reported.
    #[must_use]
    pub fn state(&self, slot: Slot) -> Option<MemberState> {
        Some((*self.loads.get(usize::from(slot.0))?)?.state)
    }

    /// The container for a new dialog: of two active ones that `random` picks, the one with less open work. Two, because many
    /// proxies that all choose the least loaded one would run to it as a herd.
    #[must_use]
    pub fn choose(&self, now: Instant, random: u64, may_take: impl Fn(Slot) -> bool) -> Option<Slot> {
        self.choose_among(now, random, |slot, load| {
            now.since(load.reported) < SILENT && may_take(slot)
        })
        .or_else(|| self.choose_among(now, random, |slot, _| may_take(slot)))
    }

    fn choose_among(&self, now: Instant, random: u64, may_take: impl Fn(Slot, &Load) -> bool) -> Option<Slot> {
        let candidates = || {
            let active = |load: &&Load| load.state == MemberState::Active && load.delay < OVERLOAD;
            self.loads.iter().enumerate().filter_map(move |(at, load)| {
                let slot = Slot(at as u16);
                load.as_ref().filter(active).map(|load| (slot, load))
            })
        };
        let candidates = || candidates().filter(|(slot, load)| may_take(*slot, load));
        let (count, open) = candidates().fold((0, 0), |(n, open), (_, load)| (n + 1, open + u64::from(load.open)));
        if count == 0 {
            return None;
        }
        let mean = open / count;
        let (low, high) = (random & 0xffff_ffff, random >> 32);
        let first = low % count;
        // Another one than the first, if there is another.
        let second = (first + 1 + high % (count - 1).max(1)) % count;
        let score = |n: u64| {
            let (slot, load) = candidates().nth(n as usize)?;
            Some((load.score(now, mean), slot))
        };
        let (first, second) = (score(first)?, score(second)?);
        Some(if second.0 < first.0 { second.1 } else { first.1 })
    }
}

impl Load {
    /// Open work; comparable, of no unit.
    fn score(&self, now: Instant, mean: u64) -> u64 {
        // The older the report, the more the container counts as like the others.
        let worth = fraction(now.since(self.reported), WORTHLESS);
        let open = (u64::from(self.open) * (ONE - worth) + mean * worth) / ONE;
        let work = open * ONE + self.faded_sent(now) + ONE;
        let ramp = fraction(now.since(self.active_since).max(RAMP / 10), RAMP);
        work.saturating_mul(ONE) / ramp
    }

    fn faded_sent(&self, now: Instant) -> u64 {
        self.sent.saturating_mul(ONE - fraction(now.since(self.faded), REPORT)) / ONE
    }
}

/// `part` of `whole` in parts of [`ONE`], at most [`ONE`].
fn fraction(part: Duration, whole: Duration) -> u64 {
    let part = part.min(whole).as_micros() as u64;
    part * ONE / whole.as_micros() as u64
}

#[cfg(test)]
mod tests {
    use super::*;

    const ACTIVE: MemberState = MemberState::Active;

    fn at(millis: u64) -> Instant {
        Instant::from_micros(millis * 1000)
    }

    fn report(state: MemberState, open: u32) -> Report {
        Report {
            state: state as i32,
            open_transactions: open,
            ..Report::default()
        }
    }

    fn spread(balancer: &mut Balancer, now: Instant, calls: u64) -> Vec<u64> {
        let mut random = 0x9e37_79b9_7f4a_7c15_u64;
        let mut chosen = vec![0; balancer.loads.len()];
        for _ in 0..calls {
            random ^= random << 13;
            random ^= random >> 7;
            random ^= random << 17;
            let slot = balancer.choose(now, random, |_| true).unwrap();
            balancer.sent(now, slot);
            chosen[usize::from(slot.0)] += 1;
        }
        chosen
    }

    fn warm(opens: &[u32]) -> (Balancer, Instant) {
        let mut balancer = Balancer::default();
        for millis in [0, 20_000] {
            for (slot, open) in opens.iter().enumerate() {
                balancer.report(at(millis), Slot(slot as u16), &report(ACTIVE, *open));
            }
        }
        (balancer, at(20_000))
    }

    #[test]
    fn equal_containers_get_equal_shares() {
        let (mut balancer, now) = warm(&[10, 10, 10]);
        for share in spread(&mut balancer, now, 3000) {
            assert!((950..1050).contains(&share), "{share}");
        }
    }

    #[test]
    fn the_loaded_container_gets_less_until_the_others_have_caught_up() {
        let (mut balancer, now) = warm(&[500, 10, 10]);
        let shares = spread(&mut balancer, now, 600);
        assert!(shares[0] < 20, "{shares:?}");
    }

    #[test]
    fn a_fresh_container_ramps_up() {
        let (mut balancer, now) = warm(&[10, 10]);
        balancer.report(now, Slot(2), &report(ACTIVE, 0));
        let shares = spread(&mut balancer, now, 1000);
        assert!(shares[2] > 20 && shares[2] < 120, "{shares:?}");
    }

    #[test]
    fn only_active_ones_that_may_are_chosen() {
        let (mut balancer, now) = warm(&[10, 10]);
        balancer.report(now, Slot(0), &report(MemberState::Quiescing, 0));
        balancer.report(now, Slot(2), &report(MemberState::Joining, 0));
        for random in 0..100 {
            assert_eq!(balancer.choose(now, random << 31, |_| true), Some(Slot(1)));
        }
        assert_eq!(balancer.choose(now, 0, |slot| slot != Slot(1)), None);
        balancer.forget(Slot(1));
        assert_eq!(balancer.choose(now, 0, |_| true), None);
    }

    #[test]
    fn an_overloaded_container_takes_nothing_new() {
        let (mut balancer, now) = warm(&[10, 10]);
        let overloaded = Report {
            queue_delay_us: 2_000_000,
            ..report(ACTIVE, 0)
        };
        balancer.report(now, Slot(0), &overloaded);
        assert_eq!(balancer.choose(now, 0, |_| true), Some(Slot(1)));
        balancer.report(now, Slot(1), &overloaded);
        assert_eq!(balancer.choose(now, 0, |_| true), None, "now the caller is told");
    }

    #[test]
    fn a_silent_container_is_chosen_only_if_no_other_is_left() {
        let (mut balancer, now) = warm(&[10, 10]);
        let later = now + Duration::from_secs(1);
        balancer.report(later, Slot(1), &report(ACTIVE, 1000));
        assert_eq!(balancer.choose(later, 0, |_| true), Some(Slot(1)));
        assert_eq!(balancer.choose(later, 0, |slot| slot == Slot(0)), Some(Slot(0)));
    }
}
