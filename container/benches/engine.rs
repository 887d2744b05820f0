//! What a call costs in the engine, and what a confirmed dialog takes in memory and in the store.
//!
//! `cargo bench -p container`. CPU is that of this thread alone; the messages are made before, the writes are taken as done.

#[path = "../tests/common/world.rs"]
#[allow(dead_code)]
mod world;

use std::alloc::{GlobalAlloc, Layout, System};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use container::engine::{ConnectionId, Input, Leaving, WriteOutcome};
use container::records::Kind;
use sip::OwnedMessage;
use world::{Caller, Life, PROXY, World, scan, to_tag};

/// Counts what is allocated, as asked for; the allocator's own overhead is about 8 bytes for each.
struct Counting;

static HELD: AtomicUsize = AtomicUsize::new(0);
static PIECES: AtomicUsize = AtomicUsize::new(0);
static MADE: AtomicUsize = AtomicUsize::new(0);

// SAFETY: everything is passed on to the system's allocator.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        HELD.fetch_add(layout.size(), Ordering::Relaxed);
        PIECES.fetch_add(1, Ordering::Relaxed);
        MADE.fetch_add(1, Ordering::Relaxed);
        // SAFETY: the caller's promise is passed on.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
        HELD.fetch_sub(layout.size(), Ordering::Relaxed);
        PIECES.fetch_sub(1, Ordering::Relaxed);
        // SAFETY: the caller's promise is passed on.
        unsafe { System.dealloc(pointer, layout) }
    }
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

/// As many as a busy worker has per turn.
const PER_TURN: usize = 16;
const CALLS: usize = 20_000;

/// One step of all calls.
struct Step {
    took: Duration,
    allocations: usize,
    outputs: Vec<Leaving>,
    sessions: usize,
    bytes: usize,
}

fn main() {
    let mut world = World::new();
    let mut life = world.life(1, r#"{"answer": {}}"#);
    life.engine.end_turn(world.now);
    let before = (HELD.load(Ordering::Relaxed), PIECES.load(Ordering::Relaxed));
    let mut callers: Vec<Caller> = (0..CALLS)
        .map(|call| Caller::new(&format!("call-{call:08}-4f3a9c21")))
        .collect();
    let messages = |world: &World, callers: &[Caller], method: &str, cseq| -> Vec<OwnedMessage> {
        callers
            .iter()
            .map(|caller| scan(caller.request(world, method, cseq, "").as_bytes()))
            .collect()
    };
    let invites = messages(&world, &callers, "INVITE", 1);
    let invite = step(&world, &mut life, invites);
    for (caller, output) in callers.iter_mut().zip(&invite.outputs) {
        caller.to_tag = to_tag(std::str::from_utf8(&output.output.bytes).expect("text"));
    }
    let acks = messages(&world, &callers, "ACK", 1);
    let ack = step(&world, &mut life, acks);
    // Server transactions are kept for 32 s; a dialog that merely talks is what remains.
    world.now = world.now + Duration::from_secs(40);
    life.engine.handle_timeout(world.now);
    let swept = step(&world, &mut life, Vec::new());
    let outside: usize = callers
        .iter()
        .map(|caller| caller.call.capacity() + caller.to_tag.capacity())
        .sum();
    drop((invite.outputs, ack.outputs, swept.outputs));
    let now = (HELD.load(Ordering::Relaxed), PIECES.load(Ordering::Relaxed));
    let callers_own = outside + CALLS * size_of::<Caller>();
    let held = (now.0 - before.0 - callers_own) as f64 / CALLS as f64;
    let pieces = (now.1 - before.1) as f64 / CALLS as f64 - 2.0;
    let byes = messages(&world, &callers, "BYE", 2);
    let bye = step(&world, &mut life, byes);
    let each = |step: &Duration| step.as_secs_f64() * 1e6 / CALLS as f64;
    let total = each(&invite.took) + each(&ack.took) + each(&bye.took);
    println!(
        "engine: {total:.2} us per call (INVITE {:.2}, ACK {:.2}, BYE {:.2})",
        each(&invite.took),
        each(&ack.took),
        each(&bye.took)
    );
    let made = (invite.allocations + ack.allocations + bye.allocations) as f64 / CALLS as f64;
    println!("allocations per call: {made:.1}");
    println!("memory per confirmed dialog: {held:.0} bytes in {pieces:.1} pieces");
    let (all, session) = (invite.bytes / CALLS, invite.sessions / CALLS);
    println!("records of an INVITE: {all} bytes, of which the session that stays is {session}");
}

fn step(world: &World, life: &mut Life, messages: Vec<OwnedMessage>) -> Step {
    let mut step = Step {
        took: Duration::ZERO,
        allocations: 0,
        outputs: Vec::new(),
        sessions: 0,
        bytes: 0,
    };
    let mut messages = messages.into_iter().peekable();
    let mut first = true;
    while messages.peek().is_some() || std::mem::take(&mut first) {
        let batch: Vec<OwnedMessage> = messages.by_ref().take(PER_TURN).collect();
        let (start, made) = (Instant::now(), MADE.load(Ordering::Relaxed));
        for message in batch {
            life.number += 1;
            let input = Input {
                connection: ConnectionId(1),
                number: life.number,
            };
            life.engine.handle_sip(world.now, input, PROXY, message);
        }
        let turn = life.engine.end_turn(world.now);
        step.took += start.elapsed();
        let writes = turn.as_ref().map_or(0, |turn| turn.writes.len());
        if let Some(turn) = &turn {
            for write in &turn.writes {
                step.bytes += write.sets.iter().map(|(_, value)| value.len()).sum::<usize>();
                let sessions = write.sets.iter().filter(|(key, _)| key.kind == Kind::Session);
                step.sessions += sessions.map(|(_, value)| value.len()).sum::<usize>();
            }
        }
        let start = Instant::now();
        if let Some(turn) = turn {
            life.engine
                .handle_written(turn.number, &vec![WriteOutcome::Written; writes]);
        }
        let released = world.released(life);
        step.took += start.elapsed();
        step.allocations += MADE.load(Ordering::Relaxed) - made;
        step.outputs.extend(released.outputs);
    }
    step
}
