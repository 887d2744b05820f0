//! The control task's way to the store: batches in order, one pipeline at a time, so that the member never waits for Redis.

use std::collections::VecDeque;
use std::ops::RangeInclusive;
use std::time::Duration;

use crate::store::{Answer, Store};
use sip::Instant;
use tokio::sync::mpsc::{UnboundedReceiver, UnboundedSender};
use ucf::member::RequestId;
use ucf::store::StoreRequest;

/// Requests of one pipeline. A claim brings a partition's records along (several hundred KB in a full cluster), and all of a pipeline must be
/// answered within the store's budget: so it starts at the least, and grows only while answers are small. Each pipeline takes two ways to the
/// store and back, and the replicas' confirmation: with the least only, a takeover of 512 empty partitions takes 128 times that.
const PIPELINE: RangeInclusive<usize> = 4..=64;

/// What the answers of one pipeline may come to, in bytes, as far as those of the last one tell.
const ANSWERS: usize = 1 << 20;

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
    let mut pipeline = *PIPELINE.start();
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
        let chunk: Vec<_> = queue.drain(..queue.len().min(pipeline)).collect();
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
                pipeline = next_pipeline(&answers);
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
                pipeline = *PIPELINE.start();
                let _ = events.send(StoreEvent::Lost(lost.to_string()));
            }
            // Given up by the member: the connection went with the call.
            None => {}
        }
    }
}

/// How many requests the next pipeline has, if their answers are like these.
fn next_pipeline(answers: &[Answer]) -> usize {
    let largest = answers.iter().map(Answer::bytes).max().unwrap_or(0).max(1);
    (ANSWERS / largest).clamp(
        *PIPELINE.start(),
        (2 * answers.len()).max(*PIPELINE.start()).min(*PIPELINE.end()),
    )
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

#[cfg(test)]
mod tests {
    use super::*;

    /// The answers of one pipeline, each of which brings a record of so many bytes along.
    fn answers(count: usize, bytes: usize) -> Vec<Answer> {
        let answer = || Answer {
            reply: ucf::store::StoreReply::Removed(true),
            records: vec![(bytes::Bytes::new(), vec![0_u8; bytes].into())],
        };
        std::iter::repeat_with(answer).take(count).collect()
    }

    #[test]
    fn a_pipeline_grows_while_answers_are_small_and_shrinks_at_once() {
        let sizes = [(4, 10), (8, 10), (64, 10), (64, 32 << 10), (64, 900 << 10), (1, 10)];
        let next = sizes.map(|(count, bytes)| next_pipeline(&answers(count, bytes)));
        assert_eq!(next, [8, 16, 64, 32, 4, 4]);
    }
}
