//! How much a worker writes at once, and when it says that all is written.

#[path = "common/world.rs"]
#[allow(dead_code, reason = "shared with other tests")]
mod world;

use container::engine::Turn;
use ucf::Epoch;
use ucf::member::Notice;
use world::{Caller, Life, PARTITION, World, to_tag};

const AT_ONCE: &str = r#"{"answer": {}}"#;

/// Lua's `unpack` takes 8000 values, and a record to be set is two.
const MOST: usize = 2048;

fn records(turn: &Turn) -> usize {
    turn.writes
        .iter()
        .map(|write| write.sets.len() + write.deletes.len())
        .sum()
}

/// Writes turns until nothing is left; gives the number of turns and the largest write.
fn write_all(world: &mut World, life: &mut Life) -> (usize, usize) {
    let (mut turns, mut largest) = (0, 0);
    while let Some(turn) = life.engine.end_turn(world.now) {
        for write in &turn.writes {
            largest = largest.max(write.sets.len() + write.deletes.len());
        }
        assert!(records(&turn) <= 8192, "{}", records(&turn));
        turns += 1;
        world.write(life, &turn);
    }
    (turns, largest)
}

fn reconciled(life: &mut Life) -> bool {
    std::iter::from_fn(|| life.engine.poll_notice()).any(|notice| matches!(notice, Notice::Reconciled(_)))
}

#[test]
fn what_many_inputs_change_at_once_is_written_by_bounded_scripts_and_answered_after_the_last() {
    let mut world = World::new();
    let mut life = world.life(1, AT_ONCE);
    let calls: Vec<Caller> = (0..6000).map(|call| Caller::new(&format!("c{call}"))).collect();
    for caller in &calls {
        let invite = caller.request(&world, "INVITE", 1, "");
        world.give(&mut life, &invite);
    }
    let first = life.engine.end_turn(world.now).expect("a turn");
    world.write(&mut life, &first);
    assert!(world.released(&mut life).outputs.is_empty(), "not all is written");
    let (turns, largest) = write_all(&mut world, &mut life);
    assert!(turns > 0 && largest <= MOST, "{turns} turns, {largest} records");
    assert_eq!(world.released(&mut life).outputs.len(), calls.len());
    let stored = world.store.partition(PARTITION).expect("owned").records.clone();
    assert_eq!(stored.len(), 2 * calls.len());

    // The same, written whole because the store forgot it.
    world.store.flush(ucf::store::Era(2));
    life.engine.reconcile(9, &[(PARTITION, Epoch(1))]);
    let first = life.engine.end_turn(world.now).expect("a turn");
    world.write(&mut life, &first);
    assert!(!reconciled(&mut life), "the rest is not written");
    let (turns, largest) = write_all(&mut world, &mut life);
    assert!(turns > 0 && largest <= MOST, "{turns} turns, {largest} records");
    assert!(reconciled(&mut life));
    let again = &world.store.partition(PARTITION).expect("written").records;
    assert!(stored.keys().eq(again.keys()));
}

#[test]
fn records_of_many_ended_transactions_are_deleted_by_bounded_scripts() {
    let mut world = World::new();
    let mut life = world.life(1, AT_ONCE);
    for call in 0..5000 {
        let mut caller = Caller::new(&format!("c{call}"));
        let invite = caller.request(&world, "INVITE", 1, "");
        world.give(&mut life, &invite);
        if call % 500 == 0 {
            while let Some(turn) = life.engine.end_turn(world.now) {
                world.write(&mut life, &turn);
            }
        }
        if let Some(answer) = world::texts(&world.released(&mut life).outputs).last() {
            caller.to_tag = to_tag(answer);
        }
    }
    write_all(&mut world, &mut life);
    let end = world.now + std::time::Duration::from_secs(120);
    while let Some(next) = life.engine.poll_timeout().filter(|at| *at < end) {
        world.now = world.now.max(next);
        life.engine.handle_timeout(world.now);
        let (_, largest) = write_all(&mut world, &mut life);
        assert!(largest <= MOST, "{largest}");
    }
    let kept = world.store.partition(PARTITION).expect("owned").records.len();
    assert_eq!(kept, life.engine.holdings().dialogs, "nothing but what is alive");
}

#[test]
fn a_reconciliation_whose_partitions_are_all_dropped_is_over() {
    let mut world = World::new();
    let mut life = world.life(1, AT_ONCE);
    life.engine.reconcile(9, &[(PARTITION, Epoch(1))]);
    assert!(!reconciled(&mut life));
    life.engine.drop_partition(PARTITION);
    write_all(&mut world, &mut life);
    assert!(reconciled(&mut life));
}
