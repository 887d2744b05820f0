//! A proxy that is cut off together with a container: what begins there would be a second call, because its client repeats it elsewhere.

mod support;

use std::time::Duration;

use proxy::forward::{Config, DropReason, LinkId};
use support::{Proxy, config, one, partition, request, tag, tcp, udp};
use ucf::PartitionId;
use ucf::flow::Flow;
use ucf::wire::{Body, Hello, MemberState, Report};

const A: u64 = 0xa;
const B: u64 = 0xb;
const URI: &str = "sip:bob@192.0.2.10";
const CALLER: &str = "192.0.2.1:5060";
const TICK: Duration = Duration::from_millis(50);

/// A proxy with two containers, beside another proxy.
struct Island {
    proxy: Proxy,
    a: LinkId,
    b: LinkId,
}

impl Island {
    fn new() -> Self {
        Self::of(config(1))
    }

    fn of(config: Config) -> Self {
        let mut proxy = Proxy::new(config);
        // Another proxy, which says nothing.
        let hello = Hello {
            version: 1,
            cluster: "demo".to_owned(),
            incarnation: 2,
            worker: Some(0),
            ..Hello::default()
        };
        proxy.forwarder.peer_up(proxy.now, &hello).expect("a proxy of ours");
        let a = proxy.container(A, &[0, 1, 2, 3], 1);
        let b = proxy.container(B, &[4, 5, 6, 7], 1);
        let mut island = Self { proxy, a, b };
        island.says(b, false);
        island
    }

    /// Time in which A says whether it holds its output and B says something, or nothing.
    fn wait(&mut self, time: Duration, a_holds: bool, b_speaks: bool) {
        for _ in 0..(time.as_millis() / TICK.as_millis()) {
            self.proxy.wait(TICK);
            self.says(self.a, a_holds);
            if b_speaks {
                self.says(self.b, false);
            }
        }
    }

    fn says(&mut self, link: LinkId, holds: bool) {
        let report = Report {
            state: MemberState::Active as i32,
            // New dialogs go to A.
            open_transactions: if link == self.b { 1000 } else { 0 },
            holds,
            ..Report::default()
        };
        self.proxy.frame(link, Body::Report(report));
    }

    /// An island for more than a second, with nothing on its way.
    fn cut_off() -> Self {
        let mut island = Self::new();
        island.wait(Duration::from_secs(2), true, false);
        island.arrived();
        island
    }

    fn arrived(&mut self) -> (Vec<String>, Vec<String>) {
        (self.proxy.arrived(self.a), self.proxy.arrived(self.b))
    }

    fn left_to_repetition(&self) -> u64 {
        self.dropped(DropReason::Apart)
    }

    fn dropped(&self, why: DropReason) -> u64 {
        self.proxy.forwarder.counters().drops[why as usize]
    }

    /// The link with B has ended in its silence: what is for B waits from now on.
    fn lose_b(&mut self, a_holds: bool) {
        self.wait(Duration::from_secs(1), a_holds, false);
        self.proxy.down(self.b);
        self.proxy.out();
    }

    /// Nobody is heard any more: its container has ended.
    fn alone() -> Self {
        let mut island = Self::cut_off();
        island.lose_b(true);
        island.wait(Duration::from_secs(1), true, false);
        island.proxy.down(island.a);
        island
    }

    /// How the clients were answered since this was last asked.
    fn answers(&mut self) -> Vec<String> {
        let sent = self.proxy.out().clients.into_iter();
        sent.map(|(_, answer)| answer.lines().next().unwrap_or_default().to_owned())
            .collect()
    }
}

/// A container tells that it has begun the INVITE with this branch.
fn begun(branch: &str, partition: u32) -> Body {
    support::begun(&invite(branch), partition)
}

fn invite(branch: &str) -> String {
    request("INVITE", URI, branch, "", "")
}

/// A request in a dialog of this partition.
fn in_dialog(method: &str, branch: &str, at: u16) -> String {
    request(method, URI, branch, &tag(PartitionId(at)), "")
}

/// Longer than anything waits for an owner.
const LATE: Duration = Duration::from_secs(13);

const REFUSED: &str = "SIP/2.0 500 Server Internal Error";

fn connection() -> Flow {
    tcp("192.0.2.1:4711", 1, 0, 3)
}

#[test]
fn what_begins_on_an_island_waits_until_the_others_are_heard() {
    let mut island = Island::cut_off();
    for _ in 0..3 {
        island.proxy.client(udp(CALLER), &invite("i1"));
    }
    island.wait(Duration::from_secs(5), true, false);
    assert_eq!(island.arrived(), (vec![], vec![]));
    assert!(
        island.proxy.out().clients.is_empty(),
        "an answer would end the call that the other side has begun"
    );
    // The container does not hold its output any more; those who were silent may still be about to say what they have begun.
    island.wait(Duration::from_secs(1), false, false);
    island.proxy.client(udp(CALLER), &invite("i1"));
    assert_eq!(island.arrived(), (vec![], vec![]));
    island.wait(Duration::from_millis(1200), false, true);
    let (a, b) = island.arrived();
    assert_eq!(a.len() + b.len(), 1, "its repetitions waited with it");
}

#[test]
fn what_has_waited_goes_on_when_no_copy_of_it_reaches_another_proxy() {
    for before in 0..10 {
        let mut island = Island::cut_off();
        island.proxy.client(udp(CALLER), &invite("i1"));
        // It ends at any moment between two copies.
        island.wait(TICK * before, true, false);
        let mut age = TICK * before;
        while island.arrived() == (vec![], vec![]) {
            assert!(age < Duration::from_secs(4), "it goes on some time");
            island.wait(TICK, false, true);
            age += TICK;
        }
        let since_copy = age.as_millis() % 500;
        assert!(
            (150..=350).contains(&since_copy),
            "{since_copy} ms after a copy, {age:?} old"
        );
    }
}

#[test]
fn what_the_others_have_begun_meanwhile_goes_there() {
    let mut island = Island::cut_off();
    island.proxy.client(udp(CALLER), &invite("i1"));
    island.wait(Duration::from_secs(1), true, false);
    island.proxy.frame(island.b, begun("i1", 6));
    island.wait(Duration::from_millis(2200), false, true);
    assert_eq!(partition(&one(island.proxy.arrived(island.b))), PartitionId(6));
}

#[test]
fn one_that_is_heard_again_ends_it_and_another_is_waited_for() {
    let mut island = Island::cut_off();
    island.says(island.b, false);
    island.wait(Duration::from_millis(200), true, true);
    island.proxy.client(udp(CALLER), &invite("i1"));
    island.wait(Duration::from_secs(1), true, true);
    assert_eq!(island.arrived(), (vec![], vec![]));
    let c = island.proxy.container(0xc, &[4], 2);
    island.proxy.frame(c, begun("i1", 4));
    island.wait(Duration::from_millis(1200), true, true);
    assert_eq!(partition(&one(island.proxy.arrived(c))), PartitionId(4));
}

#[test]
fn a_cancel_goes_by_as_well() {
    let mut island = Island::cut_off();
    island.proxy.client(udp(CALLER), &request("CANCEL", URI, "i1", "", ""));
    island.wait(Duration::from_secs(1), true, false);
    assert!(
        island.proxy.out().clients.is_empty(),
        "481 would let the call ring on the other side"
    );
    island.proxy.frame(island.b, begun("i1", 6));
    island.proxy.client(udp(CALLER), &request("CANCEL", URI, "i1", "", ""));
    assert_eq!(partition(&one(island.proxy.arrived(island.b))), PartitionId(6));
}

#[test]
fn a_cancel_of_what_still_waits_ends_it() {
    let mut island = Island::cut_off();
    // The others are heard for as long as it takes to link with them again, but the client is just about to repeat its INVITE.
    island.wait(Duration::from_millis(1500), false, true);
    island.proxy.client(udp(CALLER), &invite("i1"));
    island.wait(Duration::from_millis(550), false, true);
    assert_eq!(
        island.arrived(),
        (vec![], vec![]),
        "it waits, although no island is left"
    );
    island.proxy.client(udp(CALLER), &request("CANCEL", URI, "i1", "", ""));
    island.wait(Duration::from_secs(1), false, true);
    assert_eq!(island.arrived(), (vec![], vec![]));
    assert!(
        island.proxy.out().clients.is_empty(),
        "481 would let the call ring on the other side"
    );
}

#[test]
fn a_short_island_after_a_long_one_is_the_same() {
    let mut island = Island::cut_off();
    island.wait(Duration::from_millis(300), false, true);
    // Silent for little longer than makes it an island, and heard again.
    island.wait(Duration::from_millis(900), true, false);
    island.wait(Duration::from_secs(1), false, true);
    island.proxy.client(udp(CALLER), &invite("i1"));
    assert_eq!(island.arrived(), (vec![], vec![]), "links may still be missing");
}

#[test]
fn what_waits_there_for_longer_than_it_is_repeated_is_dropped() {
    let mut island = Island::cut_off();
    island.proxy.client(udp(CALLER), &invite("i1"));
    island.proxy.client(udp(CALLER), &request("CANCEL", URI, "i1", "", ""));
    island.proxy.client(udp(CALLER), &request("MESSAGE", URI, "m1", "", ""));
    island.wait(Duration::from_secs(33), true, false);
    assert_eq!(island.left_to_repetition(), 3, "the INVITE, its CANCEL and the MESSAGE");
    island.wait(Duration::from_secs(2), false, true);
    assert_eq!(island.arrived(), (vec![], vec![]));
}

#[test]
fn dialogs_and_what_is_not_repeated_go_on() {
    let mut island = Island::cut_off();
    island
        .proxy
        .client(udp(CALLER), &request("BYE", URI, "b1", &tag(PartitionId(1)), ""));
    assert_eq!(partition(&one(island.arrived().0)), PartitionId(1));
    island.proxy.client(connection(), &invite("i1"));
    let (a, b) = island.arrived();
    assert_eq!(a.len() + b.len(), 1, "over a connection nothing comes twice");
    assert_eq!(island.left_to_repetition(), 0);
}

#[test]
fn most_are_on_no_island() {
    let mut island = Island::new();
    let c = island.proxy.container(0xc, &[], 1);
    for _ in 0..20 {
        island.proxy.wait(TICK);
        island.says(island.a, true);
        island.says(c, false);
    }
    island.proxy.client(udp(CALLER), &invite("i1"));
    let (a, b) = island.arrived();
    assert_eq!(a.len() + b.len(), 1, "it is B and the other proxy that are cut off");
}

#[test]
fn a_container_that_holds_its_output_is_given_more_as_long_as_nobody_is_out_of_reach() {
    let mut island = Island::new();
    island.wait(Duration::from_secs(1), true, true);
    island.proxy.client(udp(CALLER), &invite("i1"));
    assert_eq!(
        island.arrived().0.len(),
        1,
        "the store is away for all: it waits there as anywhere"
    );
}

/// What is heard when a cut is healed, in whatever order.
#[derive(Clone, Copy)]
enum News {
    Owns,
    Returned,
    Begun,
}

#[test]
fn what_a_container_took_before_it_was_cut_off_is_not_given_to_another_after_its_repetition() {
    use News::{Begun, Owns, Returned};
    for order in [
        [Owns, Returned, Begun],
        [Begun, Owns, Returned],
        [Begun, Returned, Owns],
        [Returned, Begun, Owns],
    ] {
        let mut island = Island::new();
        // B falls silent, which nobody knows yet.
        island.proxy.client(udp(CALLER), &invite("i1"));
        one(island.arrived().0);
        island.wait(Duration::from_secs(3), true, false);
        for news in order {
            match news {
                Owns => island.proxy.owns(island.b, B, &[0, 1, 2, 3], 2),
                Returned => island.proxy.confirm(island.a, 1, &[1]),
                Begun => island.proxy.frame(island.b, begun("i1", 6)),
            }
        }
        assert_eq!(island.proxy.arrived(island.b), Vec::<String>::new());
        assert_eq!(island.left_to_repetition(), 1);
        // One more repetition finds the call.
        island.proxy.client(udp(CALLER), &invite("i1"));
        assert_eq!(partition(&one(island.proxy.arrived(island.b))), PartitionId(6));
    }
}

#[test]
fn what_waits_there_in_vain_in_a_dialog_is_left_to_its_repetition() {
    let mut island = Island::cut_off();
    island.lose_b(true);
    // One for B, and one that A leaves behind when it ends; the CANCEL is of a re-INVITE.
    for (at, method) in [(5, "INVITE"), (5, "CANCEL"), (5, "INFO"), (1, "INVITE"), (1, "BYE")] {
        island.proxy.client(udp(CALLER), &in_dialog(method, "d1", at));
    }
    island.proxy.client(udp(CALLER), &in_dialog("ACK", "d2", 5));
    assert_eq!(island.proxy.arrived(island.a).len(), 2);
    island.wait(Duration::from_secs(1), true, false);
    island.proxy.down(island.a);
    island.proxy.wait(LATE);
    assert_eq!(
        island.answers(),
        Vec::<String>::new(),
        "its client goes on, and finds a proxy that is well"
    );
    assert_eq!(
        (island.left_to_repetition(), island.dropped(DropReason::Late)),
        (5, 1),
        "nobody repeats an ACK by itself"
    );
    assert_eq!(island.proxy.forwarder.counters().holding, 0);
}

#[test]
fn it_lasts_when_its_container_ends_until_somebody_is_heard() {
    let mut island = Island::alone();
    island.proxy.wait(Duration::from_secs(1));
    island.proxy.client(udp(CALLER), &in_dialog("INVITE", "d1", 5));
    island.proxy.wait(LATE);
    assert_eq!(island.answers(), Vec::<String>::new());
    assert_eq!(island.left_to_repetition(), 1);
    island.b = island.proxy.container(B, &[4, 5, 6, 7], 2);
    for _ in 0..4 {
        island.says(island.b, false);
        island.proxy.wait(TICK);
    }
    island.proxy.client(udp(CALLER), &in_dialog("INVITE", "d2", 5));
    assert_eq!(island.proxy.arrived(island.b).len(), 1);
    island.proxy.down(island.b);
    island.proxy.wait(LATE);
    assert_eq!(island.answers(), [REFUSED]);
}

#[test]
fn nor_for_longer_than_what_came_by_then_is_repeated() {
    let mut island = Island::alone();
    island.proxy.wait(Duration::from_secs(33));
    island.proxy.client(udp(CALLER), &in_dialog("INVITE", "d1", 5));
    island.proxy.wait(LATE);
    assert_eq!(island.answers(), [REFUSED]);
}

#[test]
fn what_waits_there_in_vain_and_comes_only_once_is_answered() {
    let mut island = Island::cut_off();
    island.lose_b(true);
    island.proxy.client(connection(), &in_dialog("INVITE", "d1", 5));
    island.wait(LATE, true, false);
    assert_eq!(island.answers(), [REFUSED]);
    assert_eq!(island.left_to_repetition(), 0);
}

#[test]
fn an_island_at_any_time_of_its_wait_leaves_a_request_to_its_repetition_and_one_before_does_not() {
    for (before, first, then, is_left) in [
        (false, false, false, false),
        (true, false, false, false),
        (true, true, false, true),
        (false, false, true, true),
        (false, true, false, true),
    ] {
        let mut island = Island::new();
        island.lose_b(before);
        island.wait(Duration::from_millis(300), first, false);
        island.proxy.client(udp(CALLER), &in_dialog("INVITE", "d1", 5));
        island.wait(Duration::from_secs(5), first, false);
        island.wait(LATE - Duration::from_secs(5), then, false);
        let answers = if is_left { vec![] } else { vec![REFUSED.to_owned()] };
        let when = format!("before: {before}, as it came: {first}, then: {then}");
        assert_eq!(island.answers(), answers, "{when}");
        assert_eq!(island.left_to_repetition(), u64::from(is_left), "{when}");
    }
}

#[test]
fn what_finds_no_room_there_is_left_to_its_repetition_too() {
    for (cut_off, source, left) in [(true, udp(CALLER), 2), (true, connection(), 0), (false, udp(CALLER), 0)] {
        let mut full = config(1);
        full.limits.hold_count = 0;
        let mut island = Island::of(full);
        island.lose_b(cut_off);
        // As it comes, and as it comes back.
        island.proxy.client(source, &in_dialog("INVITE", "d1", 5));
        island.proxy.client(source, &in_dialog("BYE", "d2", 1));
        one(island.proxy.arrived(island.a));
        island.proxy.confirm(island.a, 1, &[1]);
        assert_eq!(
            island.answers(),
            vec![REFUSED; 2 - left],
            "cut off: {cut_off}, {source:?}"
        );
        assert_eq!(island.left_to_repetition(), left as u64);
    }
}

#[test]
fn what_would_be_refused_anywhere_is_refused_there() {
    let mut island = Island::cut_off();
    island
        .proxy
        .client(udp(CALLER), &request("BYE", URI, "d1", "not-ours", ""));
    assert_eq!(island.answers(), ["SIP/2.0 481 Call/Transaction Does Not Exist"]);
}

#[test]
fn a_cancel_that_waits_when_an_island_begins_goes_by_as_well() {
    for a_holds in [true, false] {
        let mut island = Island::new();
        island.lose_b(false);
        island.proxy.client(udp(CALLER), &request("CANCEL", URI, "i1", "", ""));
        island.wait(Duration::from_secs(2), a_holds, false);
        let answers = if a_holds { vec![] } else { vec![REFUSED.to_owned()] };
        assert_eq!(island.answers(), answers);
        assert_eq!(island.left_to_repetition(), u64::from(a_holds));
    }
}
