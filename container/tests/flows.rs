//! Flows that are kept open, in virtual time: which are asked for, how often, and by whom after a takeover.

#[path = "common/world.rs"]
#[allow(dead_code, reason = "not every test that shares this needs all of it")]
mod world;

use std::time::Duration;

use ucf::flow::{Flow, Transport};
use world::{Caller, Life, PROXY, World, statuses, to_tag};

const ANSWER: &str = r#"{"answer": {}}"#;
/// The shortest time after which a NAT forgets a binding.
const BINDING: Duration = Duration::from_secs(30);

fn token(world: &World, port: u16, transport: Transport, translated: bool) -> String {
    let flow = Flow {
        transport,
        listener: 0,
        remote: ([203, 0, 113, 7], port).into(),
        translated,
        held: None,
    };
    String::from_utf8(flow.encode(&world.keyring).as_bytes().to_vec()).expect("ASCII")
}

/// Sets a call up on a flow.
fn call(world: &mut World, life: &mut Life, mut caller: Caller, flow: &str) -> Caller {
    let invite = caller.request(world, "INVITE", 1, "").replace("flow1", flow);
    let answers = world.exchange(life, &invite);
    assert_eq!(statuses(&answers), [200]);
    caller.to_tag = to_tag(&answers[0]);
    let ack = caller.request(world, "ACK", 1, "").replace("flow1", flow);
    world.exchange(life, &ack);
    caller
}

/// What is asked for within a time, asked ten times a second: when, and the token.
fn asked(world: &mut World, life: &mut Life, time: Duration) -> Vec<(Duration, String)> {
    let start = world.now;
    let mut asked = Vec::new();
    while world.now.since(start) < time {
        for due in life.engine.take_due_flows(world.now) {
            assert_eq!(due.proxy, PROXY);
            let token = String::from_utf8(due.token.to_vec()).expect("ASCII");
            asked.push((world.now.since(start), token));
        }
        world.pass(life, Duration::from_millis(100));
    }
    asked
}

#[test]
fn a_flow_behind_a_nat_is_pinged_within_each_binding_for_as_long_as_its_dialog_lives() {
    let mut world = World::new();
    let mut life = world.life(1, ANSWER);
    let flow = token(&world, 1024, Transport::Udp, true);
    let mut caller = call(&mut world, &mut life, Caller::new("one"), &flow);
    let asked_for = asked(&mut world, &mut life, Duration::from_secs(600));
    let mut last = Duration::ZERO;
    for (at, token) in &asked_for {
        assert_eq!(token, &flow);
        assert!(*at - last < BINDING, "{asked_for:?}");
        last = *at;
    }
    assert!((20..=30).contains(&asked_for.len()), "{asked_for:?}");
    let bye = caller.next(&world, "BYE");
    world.exchange(&mut life, &bye);
    assert_eq!(asked(&mut world, &mut life, Duration::from_secs(60)), []);
}

#[test]
fn only_datagrams_through_a_nat_need_pings() {
    let mut world = World::new();
    let mut life = world.life(1, ANSWER);
    let open = token(&world, 1024, Transport::Udp, false);
    let stream = token(&world, 1025, Transport::Tcp, false);
    call(&mut world, &mut life, Caller::new("open"), &open);
    call(&mut world, &mut life, Caller::tcp("stream"), &stream);
    call(
        &mut world,
        &mut life,
        Caller::new("foreign"),
        "0123456789abcdefghjkmnpq",
    );
    assert_eq!(asked(&mut world, &mut life, Duration::from_secs(60)), []);
}

#[test]
fn a_flow_that_many_dialogs_share_is_asked_for_once() {
    let mut world = World::new();
    let mut life = world.life(1, ANSWER);
    let flow = token(&world, 1024, Transport::Udp, true);
    for n in 0..50 {
        call(&mut world, &mut life, Caller::new(&format!("c{n}")), &flow);
    }
    let asked_for = asked(&mut world, &mut life, Duration::from_secs(100));
    assert!((4..=6).contains(&asked_for.len()), "{asked_for:?}");
}

#[test]
fn the_flow_of_the_peers_latest_message_counts() {
    let mut world = World::new();
    let mut life = world.life(1, ANSWER);
    let (old, new) = (
        token(&world, 1024, Transport::Udp, true),
        token(&world, 1025, Transport::Udp, true),
    );
    let mut caller = call(&mut world, &mut life, Caller::new("one"), &old);
    let options = caller.next(&world, "OPTIONS").replace("flow1", &new);
    assert_eq!(statuses(&world.exchange(&mut life, &options)), [200]);
    let asked_for = asked(&mut world, &mut life, Duration::from_secs(60));
    assert!(!asked_for.is_empty() && asked_for.iter().all(|(_, token)| *token == new));
}

#[test]
fn a_successor_asks_at_once() {
    let mut world = World::new();
    let mut life = world.life(1, ANSWER);
    let flow = token(&world, 1024, Transport::Udp, true);
    call(&mut world, &mut life, Caller::new("one"), &flow);
    drop(life);
    let mut successor = world.life(2, ANSWER);
    let asked_for = asked(&mut world, &mut successor, Duration::from_secs(1));
    assert_eq!(asked_for, [(Duration::ZERO, flow)]);
}
