//! Nothing in flight is lost: owners that fall, move and return messages.

mod support;

use std::time::Duration;

use proxy::forward::{DropReason, Limits, LinkId};
use support::{Proxy, begun, config, fields, keyring, one, partition, request, response, tag, udp};
use ucf::PartitionId;
use ucf::wire::{Body, Fenced, Ownership};

const A: u64 = 0xa;
const B: u64 = 0xb;
const ALL: [u32; 8] = [0, 1, 2, 3, 4, 5, 6, 7];
const CALLER: &str = "192.0.2.1:5060";

/// Two containers; the first owns everything.
fn pair() -> (Proxy, LinkId, LinkId) {
    let mut proxy = Proxy::new(config(1));
    let a = proxy.container(A, &ALL, 1);
    let b = proxy.container(B, &[], 0);
    (proxy, a, b)
}

/// The n-th in-dialog request, in partition n modulo 8.
fn info(n: usize) -> String {
    let tag = tag(PartitionId((n % 8) as u16));
    request(
        "INFO",
        "sip:bob@192.0.2.10",
        &format!("i{n}"),
        &tag,
        &format!("X-Number: {n}\r\n"),
    )
}

fn numbers(messages: &[String]) -> Vec<usize> {
    messages
        .iter()
        .map(|message| fields(message, "X-Number")[0].parse().unwrap())
        .collect()
}

fn leaving(owner: u64, partitions: &[u32]) -> Body {
    Body::Ownership(Ownership {
        owner,
        leaving: partitions.to_vec(),
        ..Ownership::default()
    })
}

#[test]
fn unconfirmed_messages_go_to_the_new_owner_oldest_first_and_none_twice() {
    let (mut proxy, a, b) = pair();
    for n in 0..20 {
        proxy.client(udp(CALLER), &info(n));
    }
    assert_eq!(proxy.arrived(a).len(), 20);
    for n in 20..30 {
        proxy.client(udp(CALLER), &info(n)); // never written
    }
    proxy.confirm(a, 7, &[]);
    proxy.down(a);
    for n in 30..40 {
        proxy.client(udp(CALLER), &info(n)); // held
    }
    assert_eq!(proxy.forwarder.counters().holding, 33);
    assert!(proxy.arrived(b).is_empty());
    proxy.owns(b, B, &ALL, 2);
    assert_eq!(numbers(&proxy.arrived(b)), (7..40).collect::<Vec<_>>());
    for n in 40..42 {
        proxy.client(udp(CALLER), &info(n));
    }
    assert_eq!(numbers(&proxy.arrived(b)), [40, 41]);
    let counters = proxy.forwarder.counters();
    assert_eq!((counters.holding, counters.rerouted), (0, 23));
    assert!(proxy.out().clients.is_empty());
}

#[test]
fn partitions_that_are_claimed_one_by_one_are_released_one_by_one() {
    let (mut proxy, a, b) = pair();
    for n in 0..16 {
        proxy.client(udp(CALLER), &info(n));
    }
    proxy.down(a);
    proxy.owns(b, B, &[3, 5], 2);
    assert_eq!(numbers(&proxy.arrived(b)), [3, 5, 11, 13]);
    proxy.owns(b, B, &[0, 1], 2);
    assert_eq!(numbers(&proxy.arrived(b)), [0, 1, 8, 9]);
    assert_eq!(proxy.forwarder.counters().holding, 8);
}

#[test]
fn a_claim_before_the_close_is_seen_moves_what_is_unconfirmed() {
    let (mut proxy, a, b) = pair();
    for n in 0..8 {
        proxy.client(udp(CALLER), &info(n));
    }
    proxy.arrived(a);
    proxy.owns(b, B, &[2, 3], 2);
    proxy.client(udp(CALLER), &info(10));
    proxy.wait(Duration::from_millis(40));
    assert!(
        proxy.arrived(b).is_empty(),
        "their former owner may have answered already"
    );
    proxy.wait(Duration::from_millis(10));
    assert_eq!(numbers(&proxy.arrived(b)), [2, 3, 10]);
    proxy.confirm(a, 8, &[3, 4]);
    assert!(proxy.arrived(b).is_empty(), "what was returned has gone already");
    proxy.owns(b, B, &ALL, 3);
    assert!(proxy.arrived(b).is_empty(), "all else was confirmed");
}

#[test]
fn what_the_former_owner_has_answered_is_not_sent_to_the_new_one_however_late_its_word() {
    let (mut proxy, a, b) = pair();
    for n in [2, 10, 3] {
        proxy.client(udp(CALLER), &info(n));
    }
    proxy.arrived(a);
    proxy.owns(b, B, &[2, 3], 2);
    proxy.client(udp(CALLER), &info(18));
    proxy.confirm(a, 1, &[2]);
    assert_eq!(
        numbers(&proxy.arrived(b)),
        [10, 18],
        "all is accounted for: oldest first"
    );
    proxy.confirm(a, 3, &[]);
    proxy.client(udp(CALLER), &info(19));
    proxy.wait(Duration::from_millis(200));
    assert_eq!(numbers(&proxy.arrived(b)), [19]);
}

#[test]
fn a_proxy_that_stood_still_hears_the_former_owner_out() {
    let (mut proxy, a, b) = pair();
    proxy.client(udp(CALLER), &info(2));
    proxy.arrived(a);
    // Nothing runs for longer than a lively container is silent; then the news of the new owner is read first.
    proxy.now = proxy.now + Duration::from_millis(400);
    proxy.owns(b, B, &[2], 2);
    assert!(proxy.arrived(b).is_empty());
    proxy.confirm(a, 1, &[]);
    proxy.wait(Duration::from_millis(100));
    assert!(proxy.arrived(b).is_empty(), "it was answered");
}

#[test]
fn every_former_owner_is_heard_not_the_latest_alone() {
    let (mut proxy, a, b) = pair();
    let c = proxy.container(0xc, &[], 0);
    for n in [2, 10] {
        proxy.client(udp(CALLER), &info(n));
    }
    proxy.arrived(a);
    proxy.owns(b, B, &[2], 2);
    proxy.owns(c, 0xc, &[2], 3);
    assert!(proxy.arrived(c).is_empty());
    proxy.confirm(a, 2, &[2]);
    assert_eq!(numbers(&proxy.arrived(c)), [10]);
    assert!(proxy.arrived(b).is_empty());
}

#[test]
fn a_former_owner_that_falls_or_has_been_silent_is_not_waited_for() {
    let (mut proxy, a, b) = pair();
    for n in [2, 3] {
        proxy.client(udp(CALLER), &info(n));
    }
    proxy.arrived(a);
    proxy.owns(b, B, &[2], 2);
    assert!(proxy.arrived(b).is_empty());
    proxy.down(a);
    assert_eq!(numbers(&proxy.arrived(b)), [2]);

    let (mut proxy, a, b) = pair();
    proxy.client(udp(CALLER), &info(2));
    proxy.arrived(a);
    for _ in 0..3 {
        proxy.wait(Duration::from_millis(100));
        proxy.active(b);
    }
    proxy.owns(b, B, &[2], 2);
    assert_eq!(numbers(&proxy.arrived(b)), [2]);
}

#[test]
fn new_calls_go_to_the_survivors_and_calls_in_set_up_follow() {
    let (mut proxy, a, b) = pair();
    proxy.client(udp(CALLER), &request("INVITE", "sip:bob@192.0.2.10", "1", "", ""));
    let invite = one(proxy.arrived(a));
    proxy.down(a);
    proxy.owns(b, B, &ALL, 2);
    assert_eq!(one(proxy.arrived(b)), invite, "unchanged");
    proxy.client(udp(CALLER), &request("INVITE", "sip:bob@192.0.2.10", "1", "", ""));
    assert_eq!(one(proxy.arrived(b)), invite, "its retransmission follows");
    let other = request("INVITE", "sip:bob@192.0.2.10", "2", "", "").replace("call-1@", "call-2@");
    proxy.client(udp(CALLER), &other);
    assert_eq!(proxy.arrived(b).len(), 1);
}

#[test]
fn returned_messages_wait_for_the_owner_and_go_before_later_ones() {
    let (mut proxy, a, b) = pair();
    for n in [2, 10, 3] {
        proxy.client(udp(CALLER), &info(n));
    }
    proxy.arrived(a);
    proxy.frame(a, leaving(A, &[2]));
    proxy.client(udp(CALLER), &info(18));
    proxy.confirm(a, 3, &[1, 2]);
    assert!(proxy.arrived(a).is_empty() && proxy.arrived(b).is_empty());
    proxy.owns(b, B, &[2], 2);
    assert_eq!(numbers(&proxy.arrived(b)), [2, 10, 18]);
    assert!(proxy.arrived(a).is_empty());
}

#[test]
fn a_withdrawn_hand_over_releases_at_the_old_owner() {
    let (mut proxy, a, b) = pair();
    proxy.frame(a, leaving(A, &[2]));
    proxy.client(udp(CALLER), &info(2));
    assert!(proxy.arrived(a).is_empty());
    proxy.owns(a, A, &[2], 1);
    assert_eq!(numbers(&proxy.arrived(a)), [2]);
    assert!(proxy.arrived(b).is_empty());
}

#[test]
fn a_message_that_is_returned_for_ever_is_given_up() {
    let (mut proxy, a, _) = pair();
    proxy.client(udp(CALLER), &info(2));
    let mut sent = 0;
    while !proxy.arrived(a).is_empty() {
        sent += 1;
        proxy.confirm(a, sent, &[sent]);
        assert!(proxy.arrived(a).is_empty());
        proxy.wait(Duration::from_millis(200)); // it is asked again
        proxy.active(a);
    }
    assert!((10..100).contains(&sent), "{sent}");
    let answers = proxy.out().clients;
    assert_eq!(answers.len(), 1);
    assert!(answers[0].1.starts_with("SIP/2.0 500 "));
}

#[test]
fn a_message_with_which_link_after_link_falls_is_given_up_and_those_that_fell_once_are_not() {
    let (mut proxy, mut a, _) = pair();
    proxy.client(udp(CALLER), &info(2));
    let mut sent = 0;
    while !numbers(&proxy.arrived(a)).is_empty() && sent < 100 {
        sent += 1;
        if sent == 2 {
            proxy.client(udp(CALLER), &info(3));
        }
        proxy.down(a);
        if !proxy.out().clients.is_empty() {
            break;
        }
        a = proxy.link(A);
    }
    assert!((2..6).contains(&sent), "{sent}");
    assert_eq!(proxy.forwarder.counters().holding, 1, "the other one goes on");
    let a = proxy.link(A);
    assert_eq!(numbers(&proxy.arrived(a)), [3]);
}

#[test]
fn past_the_window_500_with_retry_after_but_never_to_an_ack() {
    let (mut proxy, a, _) = pair();
    proxy.down(a);
    proxy.client(udp(CALLER), &info(1));
    proxy.client(udp(CALLER), &info(2).replace("INFO", "ACK"));
    proxy.wait(Limits::default().hold_age - Duration::from_millis(1));
    assert!(proxy.out().clients.is_empty());
    proxy.wait(Duration::from_millis(1));
    let (to, answer) = proxy.sent();
    assert_eq!(to, udp(CALLER));
    assert!(answer.starts_with("SIP/2.0 500 "));
    assert_eq!(fields(&answer, "Via").len(), 1, "ours is taken off");
    assert_eq!(
        (fields(&answer, "Retry-After").len(), fields(&answer, "CSeq")),
        (1, vec!["2 INFO"])
    );
    assert_eq!(proxy.forwarder.counters().drops[DropReason::Late as usize], 1);
}

#[test]
fn what_is_held_and_what_is_unconfirmed_is_bounded() {
    let mut limited = config(1);
    limited.limits.hold_count = 3;
    limited.limits.window_bytes = 4000;
    let mut proxy = Proxy::new(limited);
    let a = proxy.container(A, &ALL, 1);
    for n in 0..100 {
        proxy.client(udp(CALLER), &info(n));
    }
    let sent = proxy.arrived(a).len();
    assert!((1..9).contains(&sent), "{sent}");
    let refused = proxy.out().clients;
    assert_eq!(refused.len(), 100 - sent);
    assert!(refused.iter().all(|(_, answer)| answer.starts_with("SIP/2.0 500 ")));
    proxy.down(a);
    assert_eq!(
        (proxy.forwarder.counters().holding, proxy.out().clients.len()),
        (3, sent - 3)
    );
    for n in 0..100 {
        proxy.client(udp(CALLER), &info(n));
    }
    assert_eq!(
        (proxy.forwarder.counters().holding, proxy.out().clients.len()),
        (3, 100)
    );
    // 32 s later nobody wants what was sent then.
    let b = proxy.container(B, &ALL, 2);
    proxy.wait(Duration::from_secs(33));
    proxy.client(udp(CALLER), &info(1));
    assert_eq!(proxy.arrived(b).len(), 4);
}

#[test]
fn a_stale_owners_output_is_dropped_and_it_is_told() {
    let (mut proxy, a, b) = pair();
    proxy.client(udp(CALLER), &info(2));
    let inner = one(proxy.arrived(a));
    proxy.owns(b, B, &[2], 7);
    proxy.out();
    let own_request = request(
        "BYE",
        "sip:alice@192.0.2.1",
        &format!("{}-1", keyring().token(PartitionId(2))),
        "alice",
        "",
    );
    for output in [response(&inner, "200 OK", ""), own_request] {
        proxy.container_says(a, &output);
        let out = proxy.out();
        let fenced = Fenced {
            partition: 2,
            owner: B,
            epoch: 7,
        };
        assert_eq!((out.clients.len(), out.frames), (0, vec![(a, Body::Fenced(fenced))]));
        proxy.container_says(b, &output);
        assert_eq!(proxy.out().clients.len(), 1);
    }
    proxy.wait(Duration::from_millis(500));
    assert_eq!(proxy.out().clients.len(), 0, "it has waited in vain");
    assert_eq!(proxy.forwarder.counters().drops[DropReason::Fenced as usize], 2);
}

#[test]
fn a_successors_output_that_outruns_its_announcement_is_sent_after_it_in_order() {
    let (mut proxy, a, b) = pair();
    proxy.client(udp(CALLER), &info(2));
    let inner = one(proxy.arrived(a));
    for status in ["180 Ringing", "200 OK"] {
        proxy.container_says(b, &response(&inner, status, ""));
        assert_eq!(proxy.out().clients.len(), 0);
    }
    proxy.owns(b, B, &[2], 7);
    let sent: Vec<_> = proxy.out().clients.into_iter().map(|(_, bytes)| bytes).collect();
    assert_eq!(sent.len(), 2);
    assert!(sent[0].starts_with("SIP/2.0 180") && sent[1].starts_with("SIP/2.0 200"));
    assert_eq!(proxy.forwarder.counters().drops[DropReason::Fenced as usize], 0);
}

#[test]
fn output_from_memory_needs_a_fresh_heartbeat() {
    let (mut proxy, a, _) = pair();
    proxy.client(udp(CALLER), &info(2));
    let inner = one(proxy.arrived(a));
    proxy.wait(Duration::from_millis(2000));
    let beats = proxy.out().frames;
    let number = beats.iter().rev().find_map(|(_, body)| match body {
        Body::Heartbeat(heartbeat) => Some(heartbeat.number),
        _ => None,
    });
    let last = number.unwrap();
    let answer = response(&inner, "200 OK", "");
    for (stamp, passes) in [
        (last, true),
        (last - 7, true),
        (last - 9, false),
        (last + 1, false),
        (0, false),
    ] {
        let stamped = answer.replace("\r\nCSeq", &format!("\r\nUCF-Heartbeat: {stamp}\r\nCSeq"));
        proxy.container_says(a, &stamped);
        let out = proxy.out().clients;
        assert_eq!(out.len(), usize::from(passes), "{stamp} of {last}");
        assert!(out.iter().all(|(_, message)| !message.contains("UCF-")));
    }
}

#[test]
fn a_heartbeat_of_an_earlier_link_is_not_fresh_whatever_the_later_one_has_sent() {
    let (mut proxy, a, _) = pair();
    proxy.client(udp(CALLER), &info(2));
    let inner = one(proxy.arrived(a));
    let last = |proxy: &mut Proxy, link: LinkId| {
        proxy.wait(Duration::from_secs(1));
        let frames = proxy.out().frames;
        let numbers = frames.iter().rev().filter(|(to, _)| *to == link);
        let number = |body: &Body| match body {
            Body::Heartbeat(heartbeat) => Some(heartbeat.number),
            _ => None,
        };
        numbers.filter_map(|(_, body)| number(body)).next().expect("it is told")
    };
    let earlier = last(&mut proxy, a);
    proxy.down(a);
    let a = proxy.container(A, &[0, 1, 2, 3], 1);
    let later = last(&mut proxy, a);
    let answer = response(&inner, "200 OK", "");
    for (stamp, passes) in [(earlier, false), (later, true)] {
        let stamped = answer.replace("\r\nCSeq", &format!("\r\nUCF-Heartbeat: {stamp}\r\nCSeq"));
        proxy.container_says(a, &stamped);
        assert_eq!(proxy.out().clients.len(), usize::from(passes), "{stamp} of {later}");
    }
}

#[test]
fn heartbeats_say_how_every_container_is() {
    let (mut proxy, a, b) = pair();
    proxy.wait(Duration::from_millis(1050));
    let beats = proxy.out().frames;
    assert_eq!(beats.iter().filter(|(link, _)| *link == b).count(), 11);
    proxy.down(a);
    proxy.active(b);
    proxy.wait(Duration::ZERO); // at once: as long as one proxy vouches for it, nobody takes over
    let frames = proxy.out().frames;
    let [(link, Body::Heartbeat(heartbeat))] = &frames[..] else {
        panic!("{frames:?}");
    };
    assert_eq!((*link, heartbeat.number), (b, 12));
    let view = |of: u64| heartbeat.views.iter().find(|view| view.incarnation == of).unwrap();
    assert!(view(A).closed && !view(B).closed);
    assert!(view(A).silent_ms <= 100 && view(B).silent_ms <= 100);
    proxy.wait(Duration::from_secs(61));
    let frames = proxy.out().frames;
    let (_, Body::Heartbeat(last)) = frames.last().unwrap() else {
        panic!()
    };
    assert_eq!(last.views.len(), 1, "it is forgotten in the end");
}

#[test]
fn a_link_that_is_silent_is_closed() {
    let (mut proxy, a, b) = pair();
    for _ in 0..120 {
        proxy.wait(Duration::from_millis(100));
        proxy.active(b);
    }
    let closed = proxy.out().closed;
    assert!(!closed.is_empty() && closed.iter().all(|link| *link == a));
}

#[test]
fn a_link_that_comes_back_gets_again_what_it_did_not_confirm() {
    let (mut proxy, a, _) = pair();
    proxy.client(udp(CALLER), &info(1));
    proxy.client(udp(CALLER), &info(2));
    proxy.arrived(a);
    proxy.confirm(a, 1, &[]);
    proxy.down(a);
    let again = proxy.link(A);
    assert_eq!(numbers(&proxy.arrived(again)), [2]);
    proxy.confirm(a, 9, &[]);
    assert!(proxy.forwarder.containers().count() == 2, "the old link is nobody's");
}

#[test]
fn lives_that_are_only_heard_of_fill_no_table() {
    let (mut proxy, a, _) = pair();
    for life in 0..3000 {
        proxy.owns(a, 1000 + life, &[3], 10 + life);
        proxy.wait(Duration::from_millis(100));
    }
    assert!(proxy.try_link("demo", 0xc).is_some());
    proxy.client(udp(CALLER), &info(3));
    assert_eq!(proxy.forwarder.counters().holding, 1, "its owner is not linked");
    let last = proxy.link(1000 + 2999);
    assert_eq!(numbers(&proxy.arrived(last)), [3]);
}

#[test]
fn a_link_of_another_cluster_is_refused() {
    let (mut proxy, ..) = pair();
    assert!(proxy.try_link("other", 0xc).is_none());
    assert!(proxy.try_link("demo", 0).is_none());
    assert!(proxy.try_link("demo", 0xc).is_some());
}

/// Random claims, closes, returns and confirmations: no message is lost unless link after link has fallen with it (and then it is
/// answered), none is at two containers at once unconfirmed, and within a partition each container gets them in their order.
#[test]
fn generated_faults_lose_no_message_and_keep_their_order() {
    let mut worst = 0;
    for seed in 1..200_u64 {
        let mut random = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15);
        let mut next = move |below: usize| {
            random ^= random << 13;
            random ^= random >> 7;
            random ^= random << 17;
            (random >> 20) as usize % below
        };
        let mut proxy = Proxy::new(config(1));
        let mut links = [
            (A, Some(proxy.container(A, &ALL, 1))),
            (B, Some(proxy.container(B, &[], 0))),
        ];
        let mut owner = [0_usize; 8];
        let mut epoch = 1;
        let mut sent = 0;
        // By container: numbers that arrived on its present link, and how many of them it has confirmed.
        let mut got: [Vec<usize>; 2] = Default::default();
        let mut confirmed = [0_usize; 2];
        let mut finished = std::collections::BTreeSet::new();
        for _ in 0..300 {
            match next(10) {
                0..=4 => {
                    proxy.client(udp(CALLER), &info(sent * 8 + next(8)));
                    sent += 1;
                }
                5 => {
                    let to = next(2);
                    if let (incarnation, Some(link)) = links[to] {
                        epoch += 1;
                        let p = next(8);
                        owner[p] = to;
                        proxy.owns(link, incarnation, &[p as u32], epoch);
                    }
                }
                6 => {
                    let which = next(2);
                    if let (_, Some(link)) = links[which] {
                        proxy.down(link);
                        links[which].1 = None;
                        got[which].clear();
                        confirmed[which] = 0;
                    }
                }
                7 => {
                    let which = next(2);
                    if links[which].1.is_none() {
                        links[which].1 = Some(proxy.link(links[which].0));
                    }
                }
                _ => {
                    let which = next(2);
                    if let (_, Some(link)) = links[which] {
                        let arrived = numbers(&proxy.arrived(link));
                        got[which].extend(arrived);
                        let upto = confirmed[which] + next(got[which].len() - confirmed[which] + 1);
                        let mut returned = Vec::new();
                        for (at, number) in got[which].iter().copied().enumerate().take(upto).skip(confirmed[which]) {
                            if owner[number % 8] == which {
                                finished.insert(number);
                            } else {
                                returned.push(at as u64 + 1);
                            }
                        }
                        confirmed[which] = upto;
                        proxy.confirm(link, upto as u64, &returned);
                    }
                }
            }
        }
        // Faults end: both are linked, and each partition is announced once more.
        for which in 0..2 {
            if links[which].1.is_none() {
                links[which].1 = Some(proxy.link(links[which].0));
                got[which].clear();
            }
        }
        for p in 0..8 {
            epoch += 1;
            let (incarnation, link) = links[owner[p]];
            proxy.owns(link.unwrap(), incarnation, &[p as u32], epoch);
        }
        // No former owner says anything more.
        proxy.wait(Duration::from_millis(50));
        for which in 0..2 {
            let arrived = numbers(&proxy.arrived(links[which].1.unwrap()));
            for p in 0..8 {
                let of_partition: Vec<usize> = arrived.iter().copied().filter(|n| n % 8 == p).collect();
                assert!(of_partition.is_sorted(), "seed {seed}: {of_partition:?}");
            }
            got[which].extend(arrived);
        }
        let given_up: Vec<usize> = proxy
            .out()
            .clients
            .iter()
            .filter(|(_, answer)| answer.starts_with("SIP/2.0 500 "))
            .map(|(_, answer)| {
                let branch = support::param(fields(answer, "Via")[0], "branch").unwrap();
                branch.trim_start_matches("z9hG4bKi").parse().unwrap()
            })
            .collect();
        worst = worst.max(given_up.len());
        let everywhere: std::collections::BTreeSet<usize> = got
            .iter()
            .flatten()
            .chain(&finished)
            .chain(&given_up)
            .copied()
            .collect();
        assert_eq!(everywhere.len(), sent, "seed {seed}: something is lost");
        assert_eq!(proxy.forwarder.counters().holding, 0, "seed {seed}");
    }
    assert!(worst < 20, "{worst}");
}

#[test]
fn a_request_whose_repetition_was_begun_elsewhere_does_not_follow_its_partition() {
    for begun_elsewhere in [true, false] {
        let mut proxy = Proxy::new(config(1));
        let a = proxy.container(0xa, &[0, 1, 2, 3, 4, 5, 6, 7], 1);
        let b = proxy.container(0xb, &[], 1);
        let invite = request("INVITE", "sip:bob@192.0.2.10", "r1", "", "");
        proxy.client(udp("192.0.2.1:5060"), &invite);
        let sent_to = partition(&one(proxy.arrived(a)));
        let another = if sent_to == PartitionId(6) { 5 } else { 6 };
        // A hears nothing of it; another proxy has given the repetition to B.
        proxy.wait(Duration::from_millis(600));
        if begun_elsewhere {
            proxy.frame(b, begun(&invite, another));
        }
        proxy.down(a);
        proxy.owns(b, 0xb, &[0, 1, 2, 3, 4, 5, 6, 7], 2);
        assert_eq!(proxy.arrived(b).len(), usize::from(!begun_elsewhere));
        proxy.client(udp("192.0.2.1:5060"), &invite);
        let found = u32::from(partition(&one(proxy.arrived(b))).0);
        assert_eq!(found == another, begun_elsewhere);
    }
}
