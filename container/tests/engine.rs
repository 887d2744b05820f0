//! A worker in virtual time: calls, losses, crashes at every point that matters, and successors.

#[path = "common/world.rs"]
mod world;

use std::sync::Arc;
use std::time::Duration;

use container::engine::{Confirm, ConnectionId, Fate, Input, Released};
use ucf::Epoch;
use ucf::member::Notice;
use ucf::token::{Key, Keyring};
use world::{Caller, PARTITION, World, status, statuses, texts, to_tag};

const AT_ONCE: &str = r#"{"answer": {}}"#;
const RINGS: &str = r#"{"answer": {"ring": "3s"}}"#;
const SECOND: Duration = Duration::from_secs(1);

fn fates(released: &Released) -> Vec<Fate> {
    released.confirms.iter().map(|confirm| confirm.fate).collect()
}

#[test]
fn a_call_answered_at_once_costs_two_writes() {
    let mut world = World::new();
    let mut life = world.life(1, AT_ONCE);
    let mut caller = Caller::new("one");
    let invite = caller.request(&world, "INVITE", 1, "");
    let answers = world.exchange(&mut life, &invite);
    assert_eq!(statuses(&answers), [200]);
    assert!(
        answers[0].contains("Record-Route: <sip:192.0.2.1:5060;lr;a="),
        "{}",
        answers[0]
    );
    assert!(answers[0].contains("Contact: <sip:192.0.2.1:5060;a="), "{}", answers[0]);
    caller.to_tag = to_tag(&answers[0]);
    let ack = caller.request(&world, "ACK", 1, "");
    assert!(world.exchange(&mut life, &ack).is_empty());
    assert_eq!(world.writes, 1);
    assert_eq!(life.engine.holdings().dialogs, 1);
    assert!(world.pass(&mut life, SECOND * 60).is_empty(), "the ACK stops the 200");
    let before = world.writes;
    let bye = caller.next(&world, "BYE");
    assert_eq!(statuses(&world.exchange(&mut life, &bye)), [200]);
    assert_eq!(world.writes, before + 1);
    assert_eq!(life.engine.holdings().dialogs, 0);
    world.pass(&mut life, SECOND * 120);
    assert!(
        world.store.partition(PARTITION).expect("owned").records.is_empty(),
        "nothing stays behind"
    );
}

#[test]
fn a_ringing_call_costs_three_writes() {
    let mut world = World::new();
    let mut life = world.life(1, RINGS);
    let mut caller = Caller::new("one");
    let invite = caller.request(&world, "INVITE", 1, "");
    let ringing = world.exchange(&mut life, &invite);
    assert_eq!(statuses(&ringing), [180]);
    let left = world.pass(&mut life, SECOND * 3);
    assert_eq!(
        left.iter().map(|(at, text)| (*at, status(text))).collect::<Vec<_>>(),
        [(SECOND * 3, 200)]
    );
    caller.to_tag = to_tag(&left[0].1);
    assert_eq!(to_tag(&ringing[0]), caller.to_tag);
    let ack = caller.request(&world, "ACK", 1, "");
    world.exchange(&mut life, &ack);
    let bye = caller.next(&world, "BYE");
    assert_eq!(statuses(&world.exchange(&mut life, &bye)), [200]);
    assert_eq!(world.writes, 3);
}

#[test]
fn a_repeated_request_gets_the_same_answer_and_costs_nothing() {
    let mut world = World::new();
    let mut life = world.life(1, RINGS);
    let caller = Caller::new("one");
    let invite = caller.request(&world, "INVITE", 1, "");
    let first = world.exchange(&mut life, &invite);
    assert_eq!(world.exchange(&mut life, &invite), first);
    assert_eq!((world.writes, life.engine.counters().repeated), (1, 1));
}

#[test]
fn a_200_is_repeated_over_udp_until_the_ack_and_then_the_call_is_ended() {
    let mut world = World::new();
    let mut life = world.life(1, AT_ONCE);
    let caller = Caller::new("one");
    let invite = caller.request(&world, "INVITE", 1, "");
    world.exchange(&mut life, &invite);
    let left = world.pass(&mut life, SECOND * 33);
    let repeats = left.iter().filter(|(_, text)| text.starts_with("SIP/2.0 200")).count();
    assert!(repeats >= 8, "{repeats}");
    assert!(
        left.iter()
            .any(|(at, text)| text.starts_with("BYE ") && *at == SECOND * 32)
    );
}

#[test]
fn cancel_ends_a_ringing_call_with_487() {
    let mut world = World::new();
    let mut life = world.life(1, RINGS);
    let caller = Caller::new("one");
    let invite = caller.request(&world, "INVITE", 1, "");
    let ringing = world.exchange(&mut life, &invite);
    let cancel = caller.request(&world, "CANCEL", 1, "");
    let answers = world.exchange(&mut life, &cancel);
    assert_eq!(statuses(&answers), [200, 487]);
    assert_eq!(to_tag(&answers[0]), to_tag(&ringing[0]));
    assert_eq!(statuses(&world.exchange(&mut life, &cancel)), [200]);
    assert!(
        world
            .pass(&mut life, SECOND * 5)
            .iter()
            .all(|(_, text)| status(text) == 487),
        "never answered after all"
    );
}

#[test]
fn what_makes_no_sense_is_refused() {
    let mut world = World::new();
    let mut life = world.life(1, AT_ONCE);
    let mut caller = Caller::new("one");
    let mut ask = |world: &mut World, caller: &Caller, method: &str, cseq, extra: &str| {
        let request = caller.request(world, method, cseq, extra);
        world.exchange(&mut life, &request)
    };
    assert_eq!(statuses(&ask(&mut world, &caller, "BYE", 1, "")), [481]);
    assert_eq!(statuses(&ask(&mut world, &caller, "SUBSCRIBE", 1, "")), [405]);
    assert_eq!(statuses(&ask(&mut world, &caller, "WIBBLE", 1, "")), [501]);
    let refused = ask(&mut world, &caller, "INVITE", 1, "Require: foo, timer\r\n");
    assert!(refused[0].starts_with("SIP/2.0 420") && refused[0].contains("\r\nUnsupported: foo\r\n"));
    assert_eq!(statuses(&ask(&mut world, &caller, "OPTIONS", 1, "")), [200]);
    let answers = ask(&mut world, &caller, "INVITE", 7, "");
    caller.to_tag = to_tag(&answers[0]);
    assert_eq!(statuses(&ask(&mut world, &caller, "INFO", 3, "")), [500]);
    assert_eq!(statuses(&ask(&mut world, &caller, "UPDATE", 8, "")), [200]);
    assert_eq!(statuses(&ask(&mut world, &caller, "OPTIONS", 9, "")), [200]);
    caller.to_tag.push('x');
    assert_eq!(statuses(&ask(&mut world, &caller, "BYE", 10, "")), [481]);
}

#[test]
fn a_reinvite_is_answered() {
    let mut world = World::new();
    let mut life = world.life(1, RINGS);
    let mut caller = Caller::new("one");
    let invite = caller.request(&world, "INVITE", 1, "");
    world.exchange(&mut life, &invite);
    let answered = world.pass(&mut life, SECOND * 3);
    caller.to_tag = to_tag(&answered[0].1);
    let ack = caller.request(&world, "ACK", 1, "");
    world.exchange(&mut life, &ack);
    let again = caller.next(&world, "INVITE");
    let answers = world.exchange(&mut life, &again);
    assert_eq!(statuses(&answers), [200], "at once: it does not ring again");
    let ack = caller.request(&world, "ACK", 2, "");
    world.exchange(&mut life, &ack);
    assert!(world.pass(&mut life, SECOND * 40).is_empty());
}

#[test]
fn nothing_leaves_before_it_is_written() {
    let mut world = World::new();
    let mut life = world.life(1, AT_ONCE);
    world.turn(&mut life);
    let (one, two) = (Caller::new("one"), Caller::new("two"));
    let invite = one.request(&world, "INVITE", 1, "");
    world.give(&mut life, &invite);
    let first = life.engine.end_turn(world.now).expect("a turn");
    let invite = two.request(&world, "INVITE", 1, "");
    world.give(&mut life, &invite);
    let second = life.engine.end_turn(world.now).expect("a turn");
    assert!(world.released(&mut life).outputs.is_empty());
    world.write(&mut life, &first);
    let released = world.released(&mut life);
    assert_eq!(released.outputs.len(), 1);
    assert!(texts(&released.outputs)[0].contains("Call-ID: one@"));
    let input = Input {
        connection: ConnectionId(1),
        number: 1,
    };
    let fate = Fate::Done;
    assert_eq!(released.confirms, [Confirm { input, fate }]);
    world.write(&mut life, &second);
    assert_eq!(world.released(&mut life).outputs.len(), 1);
}

#[test]
fn a_stale_write_drops_the_partition_and_gives_its_input_back() {
    let mut world = World::new();
    let mut old = world.life(1, AT_ONCE);
    world.turn(&mut old);
    let mut caller = Caller::new("one");
    let invite = caller.request(&world, "INVITE", 1, "");
    caller.to_tag = to_tag(&world.exchange(&mut old, &invite)[0]);
    let mut new = world.life(2, AT_ONCE);
    assert_eq!(statuses(&texts(&world.turn(&mut new).outputs)), [] as [u16; 0]);
    let bye = caller.next(&world, "BYE");
    world.give(&mut old, &bye);
    let released = world.turn(&mut old);
    assert!(released.outputs.is_empty());
    assert_eq!(released.confirms[0].fate, Fate::Returned);
    assert_eq!(old.engine.epoch(PARTITION), None);
    let notices: Vec<_> = std::iter::from_fn(|| old.engine.poll_notice()).collect();
    let stale = Notice::Stale {
        partition: PARTITION,
        written: Epoch(1),
        owner: Some(new.member),
        epoch: Epoch(2),
    };
    assert!(notices.contains(&stale), "{notices:?}");
    assert_eq!(statuses(&world.exchange(&mut new, &bye)), [200]);
}

#[test]
fn a_crash_between_write_and_output_is_made_good_by_the_successor() {
    for mut caller in [Caller::new("udp"), Caller::tcp("tcp")] {
        let mut world = World::new();
        let mut old = world.life(1, AT_ONCE);
        let invite = caller.request(&world, "INVITE", 1, "");
        world.give(&mut old, &invite);
        let turn = old.engine.end_turn(world.now).expect("a turn");
        world.write(&mut old, &turn);
        drop(old);
        let mut new = world.life(2, AT_ONCE);
        let answers: Vec<String> = world
            .pass(&mut new, SECOND / 10)
            .into_iter()
            .map(|(_, text)| text)
            .collect();
        assert_eq!(statuses(&answers), [200], "{}", caller.call);
        caller.to_tag = to_tag(&answers[0]);
        // The proxy sends what was not confirmed once more: absorbed.
        assert!(world.exchange(&mut new, &invite).iter().all(|text| status(text) == 200));
        let ack = caller.request(&world, "ACK", 1, "");
        world.exchange(&mut new, &ack);
        assert!(world.pass(&mut new, SECOND * 40).is_empty());
        let bye = caller.next(&world, "BYE");
        assert_eq!(statuses(&world.exchange(&mut new, &bye)), [200]);
    }
}

#[test]
fn a_crash_before_the_write_leaves_nothing_and_the_message_is_taken_anew() {
    let mut world = World::new();
    let mut old = world.life(1, AT_ONCE);
    let caller = Caller::new("one");
    let invite = caller.request(&world, "INVITE", 1, "");
    world.give(&mut old, &invite);
    old.engine.end_turn(world.now).expect("a turn that is never written");
    drop(old);
    let mut new = world.life(2, AT_ONCE);
    assert!(world.turn(&mut new).outputs.is_empty());
    assert_eq!(statuses(&world.exchange(&mut new, &invite)), [200]);
}

#[test]
fn a_ringing_call_is_answered_by_the_successor_when_it_is_due() {
    let mut world = World::new();
    let mut old = world.life(1, RINGS);
    let mut caller = Caller::new("one");
    let invite = caller.request(&world, "INVITE", 1, "");
    let ringing = world.exchange(&mut old, &invite);
    world.pass(&mut old, SECOND);
    drop(old);
    let mut new = world.life(2, RINGS);
    let resent = texts(&world.turn(&mut new).outputs);
    assert_eq!(resent, ringing, "the last response again");
    let left = world.pass(&mut new, SECOND * 2);
    assert_eq!(
        left.iter().map(|(at, text)| (*at, status(text))).collect::<Vec<_>>(),
        [(SECOND * 2, 200)]
    );
    caller.to_tag = to_tag(&left[0].1);
    assert_eq!(caller.to_tag, to_tag(&ringing[0]));
    let ack = caller.request(&world, "ACK", 1, "");
    world.exchange(&mut new, &ack);
    let bye = caller.next(&world, "BYE");
    assert_eq!(statuses(&world.exchange(&mut new, &bye)), [200]);
}

#[test]
fn a_successor_tells_proxies_of_calls_that_ring_and_that_are_answered() {
    for handed_over in [false, true] {
        let mut world = World::new();
        let mut old = world.life(1, RINGS);
        world.exchange(&mut old, &Caller::new("answered").request(&world, "INVITE", 1, ""));
        world.pass(&mut old, SECOND * 4);
        world.exchange(&mut old, &Caller::new("rings").request(&world, "INVITE", 1, ""));
        let mut told = old.engine.take_announcements();
        assert_eq!(
            told.iter().map(|one| one.ended).collect::<Vec<_>>(),
            [false, true, false]
        );
        drop(old);
        let mut again = world.successor(2, RINGS, handed_over).engine.take_announcements();
        // Of the end its INVITE's key says enough.
        [&mut told, &mut again]
            .into_iter()
            .flatten()
            .filter(|one| one.ended)
            .for_each(|one| one.merged = 0);
        let place = |one: &container::engine::Announcement| (one.key, one.ended);
        told.sort_by_key(place);
        again.sort_by_key(place);
        assert_eq!(again, told, "handed over: {handed_over}");
    }
}

#[test]
fn a_call_that_has_a_hold_is_ended_once_whoever_owns_it_when_it_is_due() {
    const HOLDS: &str = r#"{"answer": {"hold": "10s"}}"#;
    for crash_at in [3, 10] {
        let mut world = World::new();
        let mut old = world.life(1, HOLDS);
        let mut caller = Caller::new("one");
        let invite = caller.request(&world, "INVITE", 1, "");
        caller.to_tag = to_tag(&world.exchange(&mut old, &invite)[0]);
        let ack = caller.request(&world, "ACK", 1, "");
        world.exchange(&mut old, &ack);
        // At 10 s the timer is consumed and written, and the old owner falls before the BYE leaves.
        world.pass(&mut old, SECOND * crash_at - Duration::from_millis(1));
        world.now = world.now + Duration::from_millis(1);
        old.engine.handle_timeout(world.now);
        if let Some(turn) = old.engine.end_turn(world.now) {
            world.write(&mut old, &turn);
        }
        drop(old);
        let mut new = world.life(2, HOLDS);
        let mut left: Vec<String> = texts(&world.turn(&mut new).outputs);
        left.extend(world.pass(&mut new, SECOND * 8).into_iter().map(|(_, text)| text));
        let byes: Vec<&String> = left.iter().filter(|text| text.starts_with("BYE ")).collect();
        assert!(!byes.is_empty(), "crash at {crash_at}: {left:?}");
        assert!(
            byes.iter().all(|bye| *bye == byes[0]),
            "one BYE, however often it is repeated"
        );
        assert!(byes[0].contains("Route: <sip:192.0.2.1:5060;lr;a="), "{}", byes[0]);
        assert_eq!(new.engine.counters().timers, u64::from(crash_at == 3));
        let bye = world::scan(byes[0].as_bytes());
        let mut ok = Vec::new();
        sip::ResponseBuilder::new(&mut ok, &bye.as_message(), 200, "OK", None).finish();
        world.exchange(&mut new, &String::from_utf8(ok).expect("text"));
        assert_eq!(new.engine.holdings().dialogs, 0);
        world.pass(&mut new, SECOND * 120);
        assert!(world.store.partition(PARTITION).expect("owned").records.is_empty());
    }
}

#[test]
fn a_session_that_nobody_refreshes_is_ended() {
    let mut world = World::new();
    let mut life = world.life(1, AT_ONCE);
    let mut caller = Caller::new("one");
    let timer = "Supported: timer\r\nSession-Expires: 90;refresher=uac\r\n";
    let invite = caller.request(&world, "INVITE", 1, timer);
    let answer = &world.exchange(&mut life, &invite)[0];
    assert!(answer.contains("\r\nSession-Expires: 90;refresher=uac\r\n") && answer.contains("\r\nRequire: timer\r\n"));
    caller.to_tag = to_tag(answer);
    let ack = caller.request(&world, "ACK", 1, "");
    world.exchange(&mut life, &ack);
    drop(life);
    let mut life = world.life(2, AT_ONCE);
    let left = world.pass(&mut life, SECOND * 90);
    assert!(
        left.iter()
            .any(|(at, text)| text.starts_with("BYE ") && *at >= SECOND * 50),
        "{left:?}"
    );
    caller.to_tag.clear();
    let small = caller.request(&world, "INVITE", 2, "Supported: timer\r\nSession-Expires: 60\r\n");
    assert!(world.exchange(&mut life, &small).iter().any(|text| status(text) == 422));
}

#[test]
fn a_caller_that_requires_100rel_gets_a_reliable_180_and_its_prack_is_answered() {
    let mut world = World::new();
    let mut life = world.life(1, RINGS);
    let mut caller = Caller::new("one");
    let invite = caller.request(&world, "INVITE", 1, "Require: 100rel\r\n");
    let ringing = &world.exchange(&mut life, &invite)[0];
    let rseq = ringing
        .lines()
        .find_map(|line| line.strip_prefix("RSeq: "))
        .expect("an RSeq")
        .to_owned();
    caller.to_tag = to_tag(ringing);
    let repeats = world.pass(&mut life, SECOND);
    assert_eq!(repeats.len(), 1, "repeated after T1 until its PRACK");
    let prack = caller.request(&world, "PRACK", 2, &format!("RAck: {rseq} 1 INVITE\r\n"));
    assert_eq!(statuses(&world.exchange(&mut life, &prack)), [200]);
    let left = world.pass(&mut life, SECOND * 2);
    assert_eq!(left.iter().map(|(_, text)| status(text)).collect::<Vec<_>>(), [200]);
}

#[test]
fn a_frozen_partition_keeps_its_input_until_it_is_thawed_or_another_s() {
    let mut world = World::new();
    let mut life = world.life(1, AT_ONCE);
    world.turn(&mut life);
    while life.engine.poll_notice().is_some() {}
    let mut caller = Caller::new("one");
    let invite = caller.request(&world, "INVITE", 1, "");
    world.give(&mut life, &invite);
    life.engine.freeze(PARTITION);
    assert_eq!(life.engine.poll_notice(), None, "its write is under way");
    let answers = texts(&world.turn(&mut life).outputs);
    assert_eq!(statuses(&answers), [200]);
    assert_eq!(life.engine.poll_notice(), Some(Notice::Frozen(PARTITION)));
    caller.to_tag = to_tag(&answers[0]);
    let bye = caller.next(&world, "BYE");
    assert!(world.exchange(&mut life, &bye).is_empty());
    life.engine.thaw(world.now, PARTITION);
    assert_eq!(statuses(&texts(&world.turn(&mut life).outputs)), [200]);
    life.engine.freeze(PARTITION);
    world.give(&mut life, &bye);
    assert_eq!(fates(&world.turn(&mut life)), [Fate::Kept], "nobody is waited for");
    life.engine.drop_partition(PARTITION);
    assert_eq!(fates(&world.turn(&mut life)), [Fate::Returned]);
    let counters = life.engine.counters();
    assert_eq!((counters.returned_requests, counters.returned_responses), (1, 0));
}

/// Whoever dies may have died before its answers left; who hands over has sent them.
#[test]
fn what_was_answered_or_rings_is_sent_again_after_a_takeover_and_not_after_a_hand_over() {
    for handed_over in [true, false] {
        let mut world = World::new();
        let mut life = world.life(1, AT_ONCE);
        let mut talking = Caller::new("talking");
        let invite = talking.request(&world, "INVITE", 1, "");
        talking.to_tag = to_tag(&world.exchange(&mut life, &invite)[0]);
        let ack = talking.request(&world, "ACK", 1, "");
        assert!(world.exchange(&mut life, &ack).is_empty());
        let options = talking.request(&world, "OPTIONS", 2, "");
        assert_eq!(statuses(&world.exchange(&mut life, &options)), [200]);
        let unheard = Caller::new("unheard").request(&world, "INVITE", 1, "");
        assert_eq!(statuses(&world.exchange(&mut life, &unheard)), [200]);
        while life.engine.poll_notice().is_some() {}
        life.engine.freeze(PARTITION);
        assert_eq!(
            life.engine.poll_notice(),
            None,
            "which answer was acknowledged is written first"
        );
        assert!(world.turn(&mut life).outputs.is_empty());
        assert_eq!(life.engine.poll_notice(), Some(Notice::Frozen(PARTITION)));

        let mut next = world.successor(2, AT_ONCE, handed_over);
        let mut sent = texts(&world.turn(&mut next).outputs);
        sent.extend(world.pass(&mut next, SECOND).into_iter().map(|(_, text)| text));
        let of = |call: &str| sent.iter().filter(|text| text.contains(call)).count();
        // What nobody has acknowledged is repeated, at once and after T1.
        assert!(of("unheard") >= 2, "{sent:?}");
        // The answer to OPTIONS; that the INVITE's was acknowledged is written.
        assert_eq!(of("talking"), usize::from(!handed_over), "{sent:?}");
        let bye = talking.request(&world, "BYE", 3, "");
        assert_eq!(statuses(&world.exchange(&mut next, &bye)), [200]);
    }
}

#[test]
fn what_nobody_has_acknowledged_is_repeated_through_many_hand_overs() {
    let mut world = World::new();
    let mut life = world.life(1, AT_ONCE);
    let mut caller = Caller::new("unheard");
    let invite = caller.request(&world, "INVITE", 1, "");
    caller.to_tag = to_tag(&world.exchange(&mut life, &invite)[0]);
    for member in 2..5 {
        life.engine.freeze(PARTITION);
        world.turn(&mut life);
        life = world.successor(member, AT_ONCE, true);
        let sent = world.pass(&mut life, SECOND / 10);
        let sent: Vec<_> = sent.into_iter().map(|(_, text)| text).collect();
        assert_eq!(statuses(&sent), [200], "member {member}");
    }
    let ack = caller.request(&world, "ACK", 1, "");
    world.exchange(&mut life, &ack);
    life.engine.freeze(PARTITION);
    world.turn(&mut life);
    life = world.successor(5, AT_ONCE, true);
    assert!(world.pass(&mut life, SECOND * 40).is_empty(), "now it is acknowledged");
}

/// The call begins where the first key issues, and is handed to a container that issues with the second; proxies have it by then, too.
#[test]
fn a_call_survives_a_change_of_the_key() {
    let key = |id| Key {
        id,
        secret: [id + 7; 16],
    };
    let mut world = World::new();
    world.keyring = Arc::new(Keyring::new(key(0), &[key(1)], 8));
    let mut life = world.life(1, AT_ONCE);
    let mut caller = Caller::new("one");
    let invite = caller.request(&world, "INVITE", 1, "");
    let first = world.exchange(&mut life, &invite);
    caller.to_tag = to_tag(&first[0]);

    let rotated = Keyring::new(key(1), &[key(0)], 8).hashing_transactions_with(key(0));
    let issued = |text: &str| text.as_bytes().get(1).copied();
    world.keyring = Arc::new(rotated);
    let mut life = world.successor(2, AT_ONCE, true);
    let repeated = caller.request(&world, "INVITE", 1, "");
    let mut again = world.exchange(&mut life, &repeated);
    again.extend(world.pass(&mut life, SECOND).into_iter().map(|(_, text)| text));
    assert!(!again.is_empty(), "it is answered again until it is acknowledged");
    for answer in &again {
        assert_eq!(to_tag(answer), caller.to_tag, "no second call");
    }
    let ack = caller.request(&world, "ACK", 1, "");
    assert!(world.exchange(&mut life, &ack).is_empty());

    let other = Caller::new("two");
    let invite = other.request(&world, "INVITE", 1, "");
    let answer = world.exchange(&mut life, &invite);
    assert_eq!(issued(&to_tag(&answer[0])), Some(b'1'), "new calls have the new key");
    assert_eq!(issued(&caller.to_tag), Some(b'0'));
    let bye = caller.next(&world, "BYE");
    assert_eq!(statuses(&world.exchange(&mut life, &bye)), [200]);
    assert_eq!(life.engine.holdings().dialogs, 1, "the other one");
}

#[test]
fn a_reconciled_partition_is_written_whole() {
    let mut world = World::new();
    let mut life = world.life(1, AT_ONCE);
    let caller = Caller::new("one");
    let invite = caller.request(&world, "INVITE", 1, "");
    world.exchange(&mut life, &invite);
    let stored = world.store.partition(PARTITION).expect("owned").records.clone();
    world.store.flush(ucf::store::Era(2));
    life.engine.reconcile(9, &[(PARTITION, Epoch(1))]);
    world.turn(&mut life);
    let again = world.store.partition(PARTITION).expect("written");
    assert_eq!(
        again.records.keys().collect::<Vec<_>>(),
        stored.keys().collect::<Vec<_>>()
    );
    assert_eq!(again.owner, Some(life.member));
    let notices: Vec<_> = std::iter::from_fn(|| life.engine.poll_notice()).collect();
    assert!(notices.contains(&Notice::Reconciled(9)), "{notices:?}");
}

#[test]
fn a_record_of_a_confirmed_dialog_is_small() {
    let mut world = World::new();
    let mut life = world.life(1, AT_ONCE);
    let caller = Caller::new("one");
    let invite = caller.request(&world, "INVITE", 1, "");
    world.exchange(&mut life, &invite);
    let records = &world.store.partition(PARTITION).expect("owned").records;
    let session = records
        .iter()
        .find(|(key, _)| key[0] == b's')
        .expect("a session")
        .1
        .len();
    assert!(session <= 600, "{session}");
}

#[test]
fn a_repeat_of_what_a_dialog_rejected_gets_the_same_answer() {
    let mut world = World::new();
    let mut life = world.life(1, RINGS);
    let mut caller = Caller::new("one");
    let invite = caller.request(&world, "INVITE", 1, "");
    let ringing = world.exchange(&mut life, &invite);
    caller.to_tag = to_tag(&ringing[0]);
    let overlapping = caller.request(&world, "INVITE", 2, "");
    let first = world.exchange(&mut life, &overlapping);
    assert_eq!(statuses(&first), [500]);
    assert!(first[0].contains("Retry-After: "), "{}", first[0]);
    assert_eq!(world.exchange(&mut life, &overlapping), first);
    // A successor says no other.
    let mut successor = world.life(2, RINGS);
    world.turn(&mut successor);
    assert_eq!(world.exchange(&mut successor, &overlapping), first);
    // The call itself goes on.
    let left = world.pass(&mut successor, SECOND * 3);
    assert!(left.iter().any(|(_, text)| status(text) == 200), "{left:?}");
}

#[test]
fn a_partition_that_is_flooded_refuses_new_calls_and_lets_others_end() {
    let mut world = World::new();
    let mut life = world.life(1, AT_ONCE);
    let mut first = Caller::new("first");
    let invite = first.request(&world, "INVITE", 1, "");
    first.to_tag = to_tag(&world.exchange(&mut life, &invite)[0]);
    let mut refused = 0;
    for call in 0..33_500 {
        let invite = Caller::new(&format!("c{call}")).request(&world, "INVITE", 1, "");
        world.give(&mut life, &invite);
    }
    while let Some(turn) = life.engine.end_turn(world.now) {
        world.write(&mut life, &turn);
    }
    for answer in texts(&world.released(&mut life).outputs) {
        refused += usize::from(status(&answer) == 503);
    }
    assert!(refused > 0 && refused < 1000, "{refused}");
    assert!(life.engine.holdings().dialogs <= 32_768 + 1);
    let bye = first.next(&world, "BYE");
    assert_eq!(statuses(&world.exchange(&mut life, &bye)), [200]);
}

#[test]
fn a_jump_of_the_store_s_clock_moves_no_timer() {
    for stepwise in [0, 1] {
        let mut world = World::new();
        let mut life = world.life(1, RINGS);
        let caller = Caller::new("one");
        let invite = caller.request(&world, "INVITE", 1, "");
        assert_eq!(statuses(&world.exchange(&mut life, &invite)), [180]);
        // At once, or in steps of which none is worth a word.
        let steps = if stepwise == 1 { 36 } else { 1 };
        for _ in 0..steps {
            world.jump += 3_600 / steps;
            life.engine.set_store_clock(world.now, world.store_time());
            world.turn(&mut life);
        }
        let mut successor = world.life(2, RINGS);
        let left = world.pass(&mut successor, SECOND * 4);
        let (at, _) = left
            .iter()
            .find(|(_, text)| status(text) == 200)
            .expect("it is answered");
        let wrong = at.abs_diff(SECOND * 3);
        assert!(wrong <= Duration::from_millis(301), "{wrong:?}");
    }
}

#[test]
fn a_successor_repeats_the_answer_to_the_last_of_many_re_invites() {
    let mut world = World::new();
    let mut life = world.life(1, AT_ONCE);
    world.turn(&mut life);
    let mut caller = Caller::new("one");
    let invite = caller.request(&world, "INVITE", 1, "");
    caller.to_tag = to_tag(&world.exchange(&mut life, &invite)[0]);
    for cseq in 2..=8 {
        world.exchange(&mut life, &caller.request(&world, "ACK", cseq - 1, ""));
        let again = caller.next(&world, "INVITE");
        assert_eq!(statuses(&world.exchange(&mut life, &again)), [200]);
    }
    let mut heir = world.life(2, AT_ONCE);
    // At once or soon, and to no other: their ACKs have come.
    let mut repeated = texts(&world.turn(&mut heir).outputs);
    repeated.extend(world.pass(&mut heir, SECOND).into_iter().map(|(_, text)| text));
    assert!(!repeated.is_empty());
    assert!(
        repeated.iter().all(|text| text.contains("CSeq: 8 INVITE")),
        "{repeated:?}"
    );
}
