//! The control task's way to the store: batches in order, one pipeline at a time, so that the member never waits for Redis.

use std::collections::VecDeque;
use std::time::Duration;

use crate::store::{Answer, Store};
use sip::Instant;
use tokio::sync::mpsc::{UnboundedReceiver, UnboundedSender};
use ucf::member::RequestId;
use ucf::store::StoreRequest;

/// Requests of one pipeline: a claim brings a partition's records along (several hundred KB in a full cluster), and all of a pipeline must be
/// answered within the store's budget.
const PIPELINE: usize = 4;

/// How often the store's clock is asked for.
const CLOCK_EVERY: Duration = Duration::from_secs(1);

/// A sample of the clock that took longer says too little: the answer's place within it is unknown.
const CLOCK_PATIENCE: Duration = Duration::from_millis(100);

/// What the member wants. Bounded by what it has under way: a few requests per partition.
pub enum Ask {
    /// Carry these out.
    Requests(Vec<(RequestId, StoreRequest)>),
    /// Give up everything up to this one, and the connection.
    Reset(RequestId),
}

/// What came of it.
pub enum StoreEvent {
    /// How long the store took to answer a pipeline.
    Took(Duration),
    /// The store's time.
    Clock { at: Instant, millis: u64 },
    /// An answer.
    Answer {
        id: RequestId,
        answer: Box<Answer>,
        request: StoreRequest,
    },
    /// Nothing under way will be answered.
    Lost(String),
}

type Queue = VecDeque<(RequestId, StoreRequest)>;

/// Runs until nobody asks any more.
pub async fn run(
    mut store: Store,
    mut asks: UnboundedReceiver<Ask>,
    events: UnboundedSender<StoreEvent>,
    start: std::time::Instant,
) {
    let mut queue = Queue::new();
    let mut clock_at: Option<std::time::Instant> = None;
    loop {
        if queue.is_empty() {
            match asks.recv().await {
                Some(ask) => take(ask, &mut queue),
                None => return,
            };
        }
        while let Ok(ask) = asks.try_recv() {
            take(ask, &mut queue);
        }
        let chunk: Vec<_> = queue.drain(..queue.len().min(PIPELINE)).collect();
        if chunk.is_empty() {
            continue;
        }
        let wants_clock = clock_at.is_none_or(|at| at.elapsed() >= CLOCK_EVERY);
        let outcome = tokio::select! {
            outcome = ask_store(&mut store, &chunk, wants_clock, start) => Some(outcome),
            reset = wait_for_reset(&mut asks, &mut queue, chunk.last().map(|(id, _)| *id)) => {
                if reset { None } else { return }
            }
        };
        match outcome {
            Some(Ok((clock, took, answers))) => {
                let _ = events.send(StoreEvent::Took(took));
                // The first one is better than none; the next will tell how wrong it was.
                let good = |took: Duration| took <= CLOCK_PATIENCE || clock_at.is_none();
                if let Some((at, millis, _)) = clock.filter(|(.., took)| good(*took)) {
                    clock_at = Some(std::time::Instant::now());
                    let _ = events.send(StoreEvent::Clock { at, millis });
                }
                for ((id, request), answer) in chunk.into_iter().zip(answers) {
                    let _ = events.send(StoreEvent::Answer {
                        id,
                        answer: Box::new(answer),
                        request,
                    });
                }
            }
            Some(Err(lost)) => {
                queue.clear();
                let _ = events.send(StoreEvent::Lost(lost.to_string()));
            }
            // Given up by the member: the connection went with the call.
            None => {}
        }
    }
}

type Outcome = Result<(Option<(Instant, u64, Duration)>, Duration, Vec<Answer>), crate::store::Lost>;

async fn ask_store(
    store: &mut Store,
    chunk: &[(RequestId, StoreRequest)],
    wants_clock: bool,
    start: std::time::Instant,
) -> Outcome {
    let clock = if wants_clock {
        let before = super::since(start);
        let millis = store.time().await?;
        let after = super::since(start);
        let took = after.since(before);
        Some((before + took / 2, millis, took))
    } else {
        None
    };
    let requests: Vec<StoreRequest> = chunk.iter().map(|(_, request)| request.clone()).collect();
    let before = super::since(start);
    let answers = store.ask(&requests).await?;
    Ok((clock, super::since(start).since(before), answers))
}

/// Gathers what is asked meanwhile; `true` when what is under way is given up, `false` at the end.
async fn wait_for_reset(asks: &mut UnboundedReceiver<Ask>, queue: &mut Queue, under_way: Option<RequestId>) -> bool {
    loop {
        match asks.recv().await {
            None => return false,
            Some(ask) => {
                if take(ask, queue).is_some_and(|upto| under_way.is_some_and(|id| id <= upto)) {
                    return true;
                }
            }
        }
    }
}

/// Queues requests, those that keep the lease before all others: behind the claims of a takeover it would run out. Gives the number up to
/// which all are given up.
fn take(ask: Ask, queue: &mut Queue) -> Option<RequestId> {
    match ask {
        Ask::Requests(requests) => {
            for (id, request) in requests {
                if matches!(request, StoreRequest::Join { .. } | StoreRequest::Renew { .. }) {
                    queue.push_front((id, request));
                } else {
                    queue.push_back((id, request));
                }
            }
            None
        }
        Ask::Reset(upto) => {
            queue.retain(|(id, _)| *id > upto);
            Some(upto)
        }
    }
}
