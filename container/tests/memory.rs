//! Acting from memory: what leaves before it is written, what waits all the same, and that the store has everything afterwards.

#[path = "common/world.rs"]
#[allow(dead_code, reason = "shared with other tests")]
mod world;

use std::time::Duration;

use container::engine::{Fate, Released, Turn, WriteOutcome};
use ucf::member::{Gate, Notice};
use ucf::{Epoch, PartitionId, ProxyId};
use world::{Caller, Life, PARTITION, PROXY, World, status, statuses, texts, to_tag};

const AT_ONCE: &str = r#"{"answer": {}}"#;
const SECOND: Duration = Duration::from_secs(1);

const OTHER: ProxyId = ProxyId {
    incarnation: 78,
    worker: 0,
};

/// Output may leave for a second, to the proxies that were heard.
fn memory(world: &World, heartbeats: &[(ProxyId, u64)], held: &[PartitionId]) -> Gate {
    Gate::Memory {
        until: world.now + SECOND,
        heartbeats: heartbeats.to_vec(),
        held: held.to_vec(),
    }
}

/// Ends turns, which are written by nobody; what leaves.
fn from_memory(world: &World, life: &mut Life) -> Released {
    while let Some(turn) = life.engine.end_turn(world.now) {
        assert_eq!(turn.writes, [], "from memory nothing is written");
    }
    world.released(life)
}

/// The store is back: everything is written whole.
fn reconcile(world: &mut World, life: &mut Life) -> Vec<Turn> {
    life.engine.set_gate(Gate::Hold);
    let epoch = life.engine.epoch(PARTITION).expect("owned");
    life.engine.reconcile(1, &[(PARTITION, epoch)]);
    let mut turns = Vec::new();
    while let Some(turn) = life.engine.end_turn(world.now) {
        world.write(life, &turn);
        turns.push(turn);
    }
    let done = std::iter::from_fn(|| life.engine.poll_notice()).any(|notice| notice == Notice::Reconciled(1));
    assert!(done, "the store equals memory");
    assert!(world.released(life).outputs.is_empty(), "the gate is closed");
    life.engine.set_gate(Gate::Committed);
    turns
}

fn fates(released: &Released) -> Vec<Fate> {
    released.confirms.iter().map(|confirm| confirm.fate).collect()
}

fn stored(world: &World) -> usize {
    world
        .store
        .partition(PARTITION)
        .map_or(0, |partition| partition.records.len())
}

#[test]
fn what_leaves_from_memory_names_the_heartbeat_and_is_written_once_the_store_is_back() {
    let mut world = World::new();
    let mut life = world.life(1, AT_ONCE);
    world.turn(&mut life);
    let mut caller = Caller::new("one");
    let gate = memory(&world, &[(PROXY, 7)], &[]);
    life.engine.set_gate(gate);
    world.give(&mut life, &caller.request(&world, "INVITE", 1, ""));
    let released = from_memory(&world, &mut life);
    let [answer] = &texts(&released.outputs)[..] else {
        panic!("one answer: {released:?}")
    };
    assert_eq!(status(answer), 200);
    assert!(
        answer.starts_with("SIP/2.0 200 OK\r\nUCF-Heartbeat: 7\r\nVia:"),
        "{answer}"
    );
    assert!(released.outputs[0].from_memory);
    assert_eq!(released.confirms.len(), 1, "the proxy need not keep it");
    assert_eq!(stored(&world), 0);
    caller.to_tag = to_tag(answer);

    reconcile(&mut world, &mut life);
    assert_eq!(stored(&world), 2, "session and transaction");
    let mut heir = world.life(2, AT_ONCE);
    world.turn(&mut heir);
    let bye = caller.next(&world, "BYE");
    let answers = world.exchange(&mut heir, &bye);
    assert_eq!(statuses(&answers), [200]);
    assert!(!answers[0].contains("UCF-Heartbeat"), "it is written");
}

#[test]
fn output_waits_where_another_may_own_its_partition_or_the_promises_have_run_out() {
    let mut world = World::new();
    let mut life = world.life(1, AT_ONCE);
    world.turn(&mut life);
    let gate = memory(&world, &[(PROXY, 7)], &[PARTITION]);
    life.engine.set_gate(gate);
    world.give(&mut life, &Caller::new("one").request(&world, "INVITE", 1, ""));
    let held = from_memory(&world, &mut life);
    assert_eq!((held.outputs.len(), fates(&held)), (0, vec![Fate::Kept]), "held");
    assert_eq!(from_memory(&world, &mut life), Released::default(), "told once");

    let gate = memory(&world, &[(PROXY, 9)], &[]);
    life.engine.set_gate(gate);
    world.now = world.now + SECOND;
    assert_eq!(from_memory(&world, &mut life), Released::default(), "too late");

    let gate = memory(&world, &[(PROXY, 9)], &[]);
    life.engine.set_gate(gate);
    life.engine.freeze(PARTITION);
    assert_eq!(from_memory(&world, &mut life), Released::default(), "being handed over");

    life.engine.thaw(world.now, PARTITION);
    let released = from_memory(&world, &mut life);
    assert!(texts(&released.outputs)[0].contains("\r\nUCF-Heartbeat: 9\r\n"));
    assert_eq!(fates(&released), [Fate::Done]);
}

#[test]
fn output_waits_for_a_proxy_that_was_not_heard_and_takes_another_way_if_that_is_gone() {
    let mut world = World::new();
    let mut life = world.life(1, AT_ONCE);
    world.turn(&mut life);
    let gate = memory(&world, &[(OTHER, 3)], &[]);
    life.engine.set_gate(gate);
    world.give(&mut life, &Caller::new("one").request(&world, "INVITE", 1, ""));
    while life.engine.end_turn(world.now).is_some() {}
    let released = life.engine.take_released(world.now, &[PROXY, OTHER]);
    assert!(released.outputs.is_empty(), "it is connected, and was not heard");
    let released = life.engine.take_released(world.now, &[OTHER]);
    assert_eq!(released.outputs[0].output.proxy, Some(OTHER));
    assert!(texts(&released.outputs)[0].contains("\r\nUCF-Heartbeat: 3\r\n"));
}

#[test]
fn what_a_store_took_that_had_forgotten_waits_until_all_have_said_what_they_own() {
    let mut world = World::new();
    let mut life = world.life(1, AT_ONCE);
    world.turn(&mut life);
    world.give(&mut life, &Caller::new("one").request(&world, "INVITE", 1, ""));
    let turn = life.engine.end_turn(world.now).expect("an answer to be written");
    let outcomes = vec![WriteOutcome::Behind; turn.writes.len()];
    life.engine.handle_written(turn.number, &outcomes);
    assert_eq!(world.released(&mut life), Released::default());
    let told = std::iter::from_fn(|| life.engine.poll_notice()).any(|notice| notice == Notice::Behind(PARTITION));
    assert!(told, "the member sees to it");
    life.engine.set_gate(Gate::Committed);
    assert_eq!(statuses(&texts(&world.released(&mut life).outputs)), [200]);
}

#[test]
fn writes_under_way_are_given_up_and_their_partition_is_written_whole_next() {
    let mut world = World::new();
    let mut life = world.life(1, AT_ONCE);
    world.turn(&mut life);
    let mut caller = Caller::new("one");
    world.give(&mut life, &caller.request(&world, "INVITE", 1, ""));
    let lost = life.engine.end_turn(world.now).expect("a turn");
    assert_eq!(lost.writes.len(), 1);
    assert!(world.released(&mut life).outputs.is_empty());
    let gate = memory(&world, &[(PROXY, 7)], &[]);
    life.engine.set_gate(gate);
    let answers = texts(&world.released(&mut life).outputs);
    assert_eq!(statuses(&answers), [200], "it waits for no write any more");
    caller.to_tag = to_tag(&answers[0]);
    // What was asked of the store is carried out late. It says nothing about what was done since.
    world.write(&mut life, &lost);

    life.engine.set_gate(Gate::Committed);
    world.give(&mut life, &caller.next(&world, "INVITE"));
    let turn = life.engine.end_turn(world.now).expect("a turn");
    assert!(turn.writes[0].replace && turn.writes[0].number > lost.writes[0].number);
    world.write(&mut life, &turn);
    assert_eq!(statuses(&texts(&world.released(&mut life).outputs)), [200]);
    assert_eq!(stored(&world), 3, "a session and two transactions");
}

#[test]
fn a_long_outage_leaves_no_more_to_be_written_than_there_is() {
    let mut world = World::new();
    let mut life = world.life(1, AT_ONCE);
    world.turn(&mut life);
    for call in 0..2_000 {
        let gate = memory(&world, &[(PROXY, call)], &[]);
        life.engine.set_gate(gate);
        let mut caller = Caller::new(&format!("c{call}"));
        world.give(&mut life, &caller.request(&world, "INVITE", 1, ""));
        caller.to_tag = to_tag(&texts(&from_memory(&world, &mut life).outputs)[0]);
        world.give(&mut life, &caller.request(&world, "ACK", 1, ""));
        world.give(&mut life, &caller.next(&world, "BYE"));
        assert_eq!(statuses(&texts(&from_memory(&world, &mut life).outputs)), [200]);
        world.now = world.now + SECOND / 10;
        life.engine.handle_timeout(world.now);
    }
    let turns = reconcile(&mut world, &mut life);
    let records: usize = turns
        .iter()
        .flat_map(|turn| &turn.writes)
        .map(|write| write.sets.len() + write.deletes.len())
        .sum();
    // Two transactions of each call of the last 32 s.
    assert!((600..700).contains(&records), "{records} records");
    assert_eq!(stored(&world), records);
    assert_eq!(life.engine.epoch(PARTITION), Some(Epoch(1)));
}
