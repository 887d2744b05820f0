//! Which container takes a new dialog: the one with the least open work.
//!
//! Open work is what a container reported plus what this proxy has sent it since. What was sent fades over one report
//! interval instead of being forgotten at once: otherwise the container whose report came last would get everything until
//! it caught up with the others. And work that waits for [`SLOWED`] counts twice: of what was sent to a slow container more
//! lies unread before it, where it does not count it itself.
//!
//! Overload: the longer a container lets its input wait, the smaller the part of its share of new dialogs that it is given, from all of it
//! at [`EASY`] on half for each [`HALVES`]. That begins when its input has waited for [`STALL`] on end: a takeover or a slow
//! moment of the store is no overload, and for [`AWAY`] it is none to wait for one that is lost. So the queue settles where
//! what is admitted is what the container can do, whoever else sends: all proxies see the same queue, and none has to know of
//! the others. What one does not take goes to those that hold nothing back, and is refused if all do: given to the one of them
//! whose queue is the shortest, it would come all at once, and each call brings requests of its own for as long as it lasts, so
//! that this one would drown next, and they would never settle. Emergency calls are held back by the same law, but later:
//! whoever floods with them does not take the calls that are up with him. In-dialog requests are never held back.

use std::time::Duration;

use sip::Instant;

use crate::routing::Slot;
use crate::wire::{MemberState, Report};

/// Containers report this often, and what was sent fades in this time.
const REPORT: Duration = Duration::from_millis(100);

/// For each such time that a container lets its input wait, its work counts once more. So one of half the speed has half the others' calls when its
/// input waits for so much longer than theirs; a tenth of what calls may wait, and longer than a turn and a confirmation take.
const SLOWED: Duration = Duration::from_millis(20);

/// A container whose report is older than this takes new dialogs only if no other can.
const SILENT: Duration = Duration::from_millis(700);

/// From this age on a report says nothing.
const WORTHLESS: Duration = Duration::from_secs(2);

/// A container whose oldest input has waited no longer than this is given any new dialog. Well above a turn and a write to a slow store.
pub const EASY: Duration = Duration::from_millis(60);

/// For each such time that it has waited longer, half as many. So at twice the capacity the queue settles at one of them above [`EASY`],
/// at four times at two: below T1 (500 ms), when peers begin to repeat what is not answered. Not shorter, because reports are up to
/// 100 ms old, and a limit that changes faster than it is seen to work swings.
pub const HALVES: Duration = Duration::from_millis(100);

/// One whose oldest input has waited longer than this is given none.
pub const BUSY: Duration = Duration::from_millis(860);

/// How long on end input has to wait longer than [`EASY`] before any new dialog is held back, and has to wait less before all are given
/// again.
pub const STALL: Duration = Duration::from_secs(1);

/// What of a wait is the store's, at most. A turn waits for the writes of the one before it and then for its own, so twice what the store
/// takes to answer is no sign of too much to do: refusing calls would not make it shorter.
const STORE: Duration = Duration::from_millis(250);

/// For so long a container that waits for the store to come back is not taken for overloaded: longer than it mostly takes until another server
/// is promoted, or a lost container given up. What would take longer had better be tried elsewhere. A store that is back for less than that is away still:
/// one that drowns in what it is asked comes and goes.
const AWAY: Duration = Duration::from_secs(5);

/// How much longer input may have waited for emergency calls: when the first of them is refused, of sixteen others one is taken. More
/// would be better for them and worse for the calls that are up, should they come in a flood.
const EMERGENCY: Duration = HALVES.saturating_mul(4);

/// How long a fresh container gets less than its share: caches are cold and connections young.
const RAMP: Duration = Duration::from_secs(10);

/// How urgent a new dialog is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Urgency {
    /// As any.
    Usual,
    /// An emergency call (RFC 5031): refused last.
    Emergency,
}

/// The half of a random number that says whose share a call is of.
const LOW: u64 = 0xffff_ffff;

/// One transaction, in the units of [`Load::sent`].
const ONE: u64 = 1 << 16;

#[derive(Clone, Copy, Debug)]
struct Load {
    state: MemberState,
    /// Transactions in progress by the last report.
    open: u32,
    /// How long its oldest input had waited by the last report.
    delay: Duration,
    /// What of a wait is the store's.
    store: Duration,
    /// How long the oldest input of ours had waited when it was last looked at.
    seen: Duration,
    /// Since when that has been too long, or short, on end.
    since: Instant,
    is_long: bool,
    /// Since when it is overloaded, if it is.
    sheds: Option<Instant>,
    /// It waits for the store to come back.
    holds: bool,
    /// When it began to wait for that, and when it last did.
    held: Option<(Instant, Instant)>,
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
        let delay = Duration::from_micros(report.queue_delay_us.into());
        let mut load = Load {
            state,
            open: report.open_transactions,
            delay,
            store: Duration::from_micros(report.store_us.into())
                .saturating_mul(2)
                .min(STORE),
            seen: before.map_or(Duration::ZERO, |load| load.seen),
            since: before.map_or(now, |load| load.since),
            is_long: before.is_some_and(|load| load.is_long),
            sheds: before.and_then(|load| load.sheds),
            holds: report.holds,
            held: before.and_then(|load| load.held),
            reported: now,
            active_since: was_active.map_or(now, |load| load.active_since),
            sent: before.map_or(0, |load| load.sent),
            faded: before.map_or(now, |load| load.faded),
        };
        load.note_held(now);
        load.note(now);
        self.loads[at] = Some(load);
    }

    /// How long the oldest input that this proxy has sent to a container has waited; to be told as often as containers report.
    pub fn waited(&mut self, now: Instant, slot: Slot, waited: Duration) {
        if let Some(Some(load)) = self.loads.get_mut(usize::from(slot.0)) {
            load.seen = waited;
            load.note(now);
        }
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
    /// proxies that all choose the least loaded one would run to it as a herd. `waits` says of a container how long the oldest input
    /// that this proxy has sent it has waited so far, or that it may take none. None if the call is to be refused.
    #[must_use]
    pub fn choose(
        &self,
        now: Instant,
        random: u64,
        urgency: Urgency,
        waits: impl Fn(Slot) -> Option<Duration>,
    ) -> Option<Slot> {
        let heard = |load: &Load| now.since(load.reported) < SILENT;
        let more = match urgency {
            Urgency::Usual => Duration::ZERO,
            Urgency::Emergency => EMERGENCY,
        };
        let waited = |slot: Slot, load: &Load| {
            let waited = load.wait(waits(slot).unwrap_or_default());
            waited.saturating_sub(more)
        };
        let draw = random.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 48;
        // Whose share this call is of, if that one holds back and takes it.
        let reached = self.active().filter(|(slot, _)| waits(*slot).is_some());
        let count = reached.clone().count() as u64;
        let home = reached.clone().nth(((random & LOW) % count.max(1)) as usize);
        let home = home.filter(|(slot, load)| load.sheds.is_some() && draw < admitted(waited(*slot, load)));
        if let Some((slot, _)) = home.filter(|(_, load)| heard(load)) {
            return Some(slot);
        }
        let score = |slot: Slot, load: &Load, mean| load.score(now, mean, waits(slot).unwrap_or_default());
        let may = |slot: Slot, load: &Load| load.sheds.is_none() && waits(slot).is_some();
        self.choose_among(random, |slot, load| heard(load) && may(slot, load), score)
            .or_else(|| self.choose_among(random, may, score))
            .or_else(|| home.map(|(slot, _)| slot))
    }

    /// Of a hundred usual new dialogs, how many are refused at present: what whoever sends them had better keep to himself. `waits` as for
    /// [`Self::choose`].
    #[must_use]
    pub fn refused_percent(&self, waits: impl Fn(Slot) -> Option<Duration>) -> u8 {
        let (mut admits, mut count) = (0, 0);
        for (slot, load) in self.active() {
            let Some(waited) = waits(slot) else { continue };
            if load.sheds.is_none() {
                // It takes what the others refuse.
                return 0;
            }
            admits += admitted(load.wait(waited));
            count += 1;
        }
        ((ONE * count - admits) * 100).checked_div(ONE * count).unwrap_or(0) as u8
    }

    fn active(&self) -> impl Iterator<Item = (Slot, &Load)> + Clone {
        self.loads.iter().enumerate().filter_map(|(at, load)| {
            let load = load.as_ref().filter(|load| load.state == MemberState::Active)?;
            Some((Slot(at as u16), load))
        })
    }

    fn choose_among(
        &self,
        random: u64,
        may_take: impl Fn(Slot, &Load) -> bool,
        score: impl Fn(Slot, &Load, u64) -> u64,
    ) -> Option<Slot> {
        let candidates = || self.active().filter(|(slot, load)| may_take(*slot, load));
        let (count, open) = candidates().fold((0, 0), |(n, open), (_, load)| (n + 1, open + u64::from(load.open)));
        if count == 0 {
            return None;
        }
        let mean = open / count;
        let (low, high) = (random & LOW, random >> 32);
        let first = low % count;
        // Another one than the first, if there is another.
        let second = (first + 1 + high % (count - 1).max(1)) % count;
        let score = |n: u64| {
            let (slot, load) = candidates().nth(n as usize)?;
            Some((score(slot, load, mean), slot))
        };
        let (first, second) = (score(first)?, score(second)?);
        Some(if second.0 < first.0 { second.1 } else { first.1 })
    }
}

impl Load {
    /// Whether it waits for the store, by what was heard last.
    fn note_held(&mut self, now: Instant) {
        if !self.holds {
            return;
        }
        let goes_on = self.held.filter(|(_, last)| now.since(*last) < AWAY);
        if goes_on.is_none() {
            // A container notices only after a while: an overload that has just begun was that wait.
            self.sheds = self.sheds.filter(|at| now.since(*at) >= STALL);
        }
        self.held = Some((goes_on.map_or(now, |(since, _)| since), now));
    }

    /// Whether it is overloaded, by what was heard and seen last.
    fn note(&mut self, now: Instant) {
        let away = self.held.filter(|_| self.holds);
        if away.is_some_and(|(since, _)| now.since(since) < AWAY) {
            // Neither too much to do nor the end of it.
            self.since = now;
            return;
        }
        let is_long = self.wait(self.seen) > EASY;
        if is_long != self.is_long {
            self.is_long = is_long;
            self.since = now;
        }
        if now.since(self.since) >= STALL {
            self.sheds = is_long.then(|| self.sheds.unwrap_or(now));
        }
    }

    /// How long its oldest input has waited for it: what it says itself or what we see, without the store's part.
    fn wait(&self, seen: Duration) -> Duration {
        self.delay.max(seen).saturating_sub(self.store)
    }

    /// Open work; comparable, of no unit.
    fn score(&self, now: Instant, mean: u64, waited: Duration) -> u64 {
        // The older the report, the more the container counts as like the others.
        let worth = fraction(now.since(self.reported), WORTHLESS);
        let open = (u64::from(self.open) * (ONE - worth) + mean * worth) / ONE;
        let work = open * ONE + self.faded_sent(now) + ONE;
        let slowed = SLOWED.as_micros() as u64;
        let waits = self.wait(waited).min(BUSY).as_micros() as u64;
        let work = work.saturating_mul(slowed + waits) / slowed;
        let ramp = fraction(now.since(self.active_since).max(RAMP / 10), RAMP);
        work.saturating_mul(ONE) / ramp
    }

    fn faded_sent(&self, now: Instant) -> u64 {
        self.sent.saturating_mul(ONE - fraction(now.since(self.faded), REPORT)) / ONE
    }
}

/// The part of new dialogs, in parts of [`ONE`], for a container whose oldest input has waited this long.
fn admitted(waited: Duration) -> u64 {
    if waited >= BUSY {
        return 0;
    }
    let over = waited.saturating_sub(EASY).as_micros() as u64;
    let half = HALVES.as_micros() as u64;
    let whole = ONE >> (over / half);
    // Straight between the halvings.
    whole - whole / 2 * (over % half) / half
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

    fn anybody(_: Slot) -> Option<Duration> {
        Some(Duration::ZERO)
    }

    fn spread(balancer: &mut Balancer, now: Instant, calls: u64) -> Vec<u64> {
        let mut random = 0x9e37_79b9_7f4a_7c15_u64;
        let mut chosen = vec![0; balancer.loads.len()];
        for _ in 0..calls {
            random ^= random << 13;
            random ^= random >> 7;
            random ^= random << 17;
            let slot = balancer.choose(now, random, Urgency::Usual, anybody).unwrap();
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
    fn one_whose_input_waits_gets_less_than_one_with_as_much_open_work() {
        let (mut balancer, now) = warm(&[0, 0]);
        let waits = |slot: Slot| Some(if slot == Slot(0) { 2 * SLOWED } else { Duration::ZERO });
        let mut given = [0; 2];
        for random in 0..300_u64 {
            let slot = balancer
                .choose(now, random << 32 | random, Urgency::Usual, waits)
                .unwrap();
            balancer.sent(now, slot);
            given[usize::from(slot.0)] += 1;
        }
        assert!(
            (60..90).contains(&given[0]),
            "a quarter, where work counts three times: {given:?}"
        );
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
            assert_eq!(
                balancer.choose(now, random << 31, Urgency::Usual, anybody),
                Some(Slot(1))
            );
        }
        assert_eq!(
            balancer.choose(now, 0, Urgency::Usual, |slot| (slot != Slot(1))
                .then_some(Duration::ZERO)),
            None
        );
        balancer.forget(Slot(1));
        assert_eq!(balancer.choose(now, 0, Urgency::Usual, anybody), None);
    }

    /// Reports these waits for as long as it takes to be believed.
    fn overloaded(balancer: &mut Balancer, from: Instant, slot: u16, reported: Duration, seen: Duration) -> Instant {
        let mut now = from;
        while now.since(from) <= STALL {
            let waits = Report {
                queue_delay_us: reported.as_micros() as u32,
                ..report(ACTIVE, 10)
            };
            balancer.report(now, Slot(slot), &waits);
            balancer.waited(now, Slot(slot), seen);
            now = now + REPORT;
        }
        now
    }

    #[test]
    fn what_an_overloaded_one_refuses_goes_to_those_that_hold_nothing_back() {
        let (mut balancer, now) = warm(&[10, 10, 10]);
        let now = overloaded(&mut balancer, now, 0, BUSY, EASY);
        let now = overloaded(&mut balancer, now, 1, EASY + HALVES, EASY);
        let now = overloaded(&mut balancer, now, 2, EASY, EASY);
        let waits = |wait: Duration| Report {
            queue_delay_us: wait.as_micros() as u32,
            ..report(ACTIVE, 10)
        };
        balancer.report(now, Slot(0), &waits(BUSY));
        balancer.report(now, Slot(1), &waits(EASY + HALVES));
        let randoms = || (0..3000_u64).map(|n| n.wrapping_mul(0x1234_5678_9abc_def1));
        let chosen = |balancer: &Balancer, slot: Slot| {
            let waits = randoms().map(|random| balancer.choose(now, random, Urgency::Usual, anybody));
            waits.filter(|chosen| *chosen == Some(slot)).count()
        };
        // The second takes half of its third, the last all the rest.
        let all = [Slot(0), Slot(1), Slot(2)].map(|slot| chosen(&balancer, slot));
        assert_eq!((all[0], all[1] + all[2]), (0, 3000));
        assert!((450..550).contains(&all[1]), "{all:?}");
        let now = overloaded(&mut balancer, now, 2, EASY + HALVES, EASY);
        balancer.report(now, Slot(1), &report(ACTIVE, 10));
        // It still holds back, so it takes no more than its third, although its queue is short now.
        let all = [Slot(0), Slot(1), Slot(2)].map(|slot| chosen(&balancer, slot));
        assert!((950..1050).contains(&all[1]), "{all:?}");
        assert!((450..550).contains(&all[2]), "{all:?}");
        balancer.report(now, Slot(0), &waits(BUSY));
        assert_eq!(
            balancer.refused_percent(anybody),
            50,
            "all of one third, none of the next, half of the last"
        );
        balancer.report(now, Slot(2), &report(MemberState::Quiescing, 10));
        assert_eq!(balancer.refused_percent(anybody), 50);
        balancer.report(now, Slot(3), &report(ACTIVE, 10));
        assert_eq!(balancer.refused_percent(anybody), 0, "one holds nothing back");
        let reached = |slot: Slot| (slot != Slot(3)).then_some(Duration::ZERO);
        assert_eq!(balancer.refused_percent(reached), 50, "but it is out of reach");
    }

    #[test]
    fn an_overloaded_container_takes_nothing_new() {
        let (mut balancer, now) = warm(&[10, 10]);
        let now = overloaded(&mut balancer, now, 0, BUSY, EASY);
        balancer.report(now, Slot(1), &report(ACTIVE, 100));
        assert_eq!(balancer.choose(now, 0, Urgency::Usual, anybody), Some(Slot(1)));
        let now = overloaded(&mut balancer, now, 1, BUSY, EASY);
        balancer.report(
            now,
            Slot(0),
            &Report {
                queue_delay_us: BUSY.as_micros() as u32,
                ..report(ACTIVE, 10)
            },
        );
        let usual = balancer.choose(now, 0, Urgency::Usual, anybody);
        assert_eq!(usual, None, "now the caller is told");
    }

    #[test]
    fn emergency_calls_are_held_back_later_and_in_the_end_as_well() {
        let taken = |waited: Duration, urgency: Urgency| {
            let (mut balancer, now) = warm(&[10]);
            let now = overloaded(&mut balancer, now, 0, waited, EASY);
            let randoms = (0..1000_u64).map(|n| n.wrapping_mul(0x1234_5678_9abc_def1));
            let chosen = randoms.filter(|random| balancer.choose(now, *random, urgency, anybody).is_some());
            chosen.count()
        };
        let late = EASY + EMERGENCY;
        assert_eq!(taken(late, Urgency::Emergency), 1000);
        assert!((40..90).contains(&taken(late, Urgency::Usual)));
        assert!((450..550).contains(&taken(late + HALVES, Urgency::Emergency)));
        assert_eq!(taken(BUSY + EMERGENCY, Urgency::Emergency), 0);
    }

    #[test]
    fn one_that_holds_back_and_is_silent_is_given_its_part_if_no_other_can() {
        let (mut balancer, now) = warm(&[10]);
        let now = overloaded(&mut balancer, now, 0, EASY + HALVES, EASY) + SILENT;
        let randoms = (0..1000_u64).map(|n| n.wrapping_mul(0x1234_5678_9abc_def1));
        let chosen = randoms.filter(|random| balancer.choose(now, *random, Urgency::Usual, anybody).is_some());
        assert!((450..550).contains(&chosen.count()));
    }

    #[test]
    fn the_part_that_is_admitted_shrinks_with_the_wait_that_is_reported_or_seen() {
        let part = |reported: Duration, seen: Duration| {
            let (mut balancer, now) = warm(&[10]);
            let now = overloaded(&mut balancer, now, 0, reported, seen);
            let randoms = (0..1000_u64).map(|n| n.wrapping_mul(0x1234_5678_9abc_def1));
            let chosen = randoms.filter(|random| {
                let chosen = balancer.choose(now, *random, Urgency::Usual, |_| Some(seen));
                chosen.is_some()
            });
            chosen.count()
        };
        assert_eq!((part(EASY, EASY), part(BUSY, EASY), part(EASY, BUSY)), (1000, 0, 0));
        for half in [part(EASY + HALVES, EASY), part(EASY, EASY + HALVES)] {
            assert!((450..550).contains(&half), "{half}");
        }
    }

    #[test]
    fn a_slow_store_is_no_overload() {
        let chosen = |store: Duration, seen: Duration| {
            let (mut balancer, mut now) = warm(&[10]);
            for _ in 0..30 {
                let slow = Report {
                    queue_delay_us: 100_000,
                    store_us: store.as_micros() as u32,
                    ..report(ACTIVE, 10)
                };
                balancer.report(now, Slot(0), &slow);
                balancer.waited(now, Slot(0), seen);
                now = now + REPORT;
            }
            balancer.choose(now, 0xffff, Urgency::Usual, |_| Some(seen)).is_some()
        };
        let millis = Duration::from_millis;
        assert!(chosen(millis(100), millis(210)), "two rounds of the store");
        assert!(!chosen(millis(1), millis(210)), "not the store's");
        assert!(!chosen(millis(100), BUSY + STORE), "nor this, whatever the store takes");
    }

    /// For how long calls are taken by a container whose input waits longer and longer, while it says for so many milliseconds each that it waits
    /// for the store, or that it does not.
    fn taken_for(phases: &[(u64, bool)]) -> Duration {
        let (mut balancer, from) = warm(&[10]);
        let (mut now, mut taken) = (from, Duration::ZERO);
        for (millis, holds) in phases {
            let begun = now;
            while now.since(begun) < Duration::from_millis(*millis) {
                let waited = now.since(from) + BUSY;
                let report = Report {
                    queue_delay_us: waited.as_micros() as u32,
                    holds: *holds,
                    ..report(ACTIVE, 10)
                };
                balancer.report(now, Slot(0), &report);
                balancer.waited(now, Slot(0), waited);
                if balancer.choose(now, 0, Urgency::Usual, |_| Some(waited)).is_some() {
                    taken = now.since(from);
                }
                now = now + REPORT;
            }
        }
        taken
    }

    #[test]
    fn to_wait_for_the_store_to_come_back_is_no_overload_for_a_while() {
        let millis = Duration::from_millis;
        assert_eq!(taken_for(&[(5000, false)]), STALL - REPORT, "it never was away");
        assert_eq!(taken_for(&[(300, false), (4000, true)]), millis(4200), "it is away");
        let late = taken_for(&[(1200, false), (3000, true)]);
        assert_eq!(late, millis(4100), "that was noticed late");
        let back = taken_for(&[(300, false), (3000, true), (600, false)]);
        assert_eq!(back, millis(3800), "it is back, and what waited is dealt with");
        let for_good = taken_for(&[(300, false), (9000, true)]);
        assert_eq!(for_good, millis(300) + AWAY + STALL - 2 * REPORT, "it is away for good");
    }

    #[test]
    fn a_store_that_comes_and_goes_is_away_the_whole_time() {
        for back in [600, 1300, 1900, 3000] {
            let phases: Vec<_> = (0..20).flat_map(|_| [(300, true), (back, false)]).collect();
            let taken = taken_for(&phases);
            assert!(taken < AWAY + 2 * STALL, "{taken:?} where it is back for {back} ms");
        }
    }

    #[test]
    fn an_overloaded_container_that_loses_the_store_is_overloaded_still() {
        let (mut balancer, now) = warm(&[10]);
        let now = overloaded(&mut balancer, now, 0, BUSY, EASY);
        let mut now = overloaded(&mut balancer, now, 0, BUSY, EASY);
        for _ in 0..40 {
            let holds = Report {
                holds: true,
                ..report(ACTIVE, 10)
            };
            balancer.report(now, Slot(0), &holds);
            assert_eq!(balancer.choose(now, 0, Urgency::Usual, |_| Some(BUSY)), None);
            now = now + REPORT;
        }
    }

    #[test]
    fn a_short_stall_is_no_overload_and_a_short_rest_no_end_of_one() {
        let (mut balancer, mut now) = warm(&[10]);
        for (rest, taken) in [(false, true), (true, false)] {
            for n in 0..30_u32 {
                // Nine tenths of a second one way, then once the other way.
                let is_odd = n % 10 == 9;
                balancer.waited(now, Slot(0), if is_odd == rest { BUSY } else { EASY });
                balancer.report(now, Slot(0), &report(ACTIVE, 10));
                let chosen = balancer.choose(now, 0, Urgency::Usual, |_| Some(BUSY));
                assert_eq!(chosen.is_some(), taken, "{n}");
                now = now + REPORT;
            }
            now = overloaded(&mut balancer, now, 0, BUSY, BUSY);
            balancer.report(now, Slot(0), &report(ACTIVE, 10));
        }
    }

    #[test]
    fn a_silent_container_is_chosen_only_if_no_other_is_left() {
        let (mut balancer, now) = warm(&[10, 10]);
        let later = now + Duration::from_secs(1);
        balancer.report(later, Slot(1), &report(ACTIVE, 1000));
        assert_eq!(balancer.choose(later, 0, Urgency::Usual, anybody), Some(Slot(1)));
        assert_eq!(
            balancer.choose(later, 0, Urgency::Usual, |slot| (slot == Slot(0))
                .then_some(Duration::ZERO)),
            Some(Slot(0))
        );
    }
}
