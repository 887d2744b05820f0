//! The control task's way to the store: batches in order, one pipeline at a time, so that the member never waits for Redis.

use std::collections::VecDeque;
use std::ops::RangeInclusive;
use std::time::Duration;

use crate::store::{Answer, Store};
use sip::Instant;
use tokio::sync::mpsc::{UnboundedReceiver, UnboundedSender};
use ucf::member::RequestId;
use ucf::store::{StoreReply, StoreRequest};

/// Requests of one pipeline at most.
const PIPELINE: usize = 64;

/// Claims of one pipeline. A claim brings a partition's records along (several hundred KB in a full cluster), and all of a pipeline must be
/// answered within the store's budget: so they start at the least, and become more only while answers are small. Each pipeline takes two ways to
/// the store and back, and the replicas' confirmation: with the least only, a takeover of 512 empty partitions takes 128 times that.
const CLAIMS: RangeInclusive<usize> = 4..=PIPELINE;

/// What the answers of one pipeline may come to, in bytes, as far as those to the last claims tell.
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
    let mut claims = *CLAIMS.start();
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
        let chunk = next_chunk(&mut queue, claims);
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
                claims = match chunk.iter().chain(&queue).any(|(_, request)| is_claim(request)) {
                    true => next_claims(claims, &answers),
                    // The next ones may be of another time, with fuller partitions.
                    false => *CLAIMS.start(),
                };
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
                claims = *CLAIMS.start();
                let _ = events.send(StoreEvent::Lost(lost.to_string()));
            }
            // Given up by the member: the connection went with the call. It may have been too much at once.
            None => claims = *CLAIMS.start(),
        }
    }
}

fn is_claim(request: &StoreRequest) -> bool {
    matches!(request, StoreRequest::Claim { .. })
}

/// The requests of the next pipeline, in their order; no more than so many `claims`.
fn next_chunk(queue: &mut Queue, claims: usize) -> Vec<(RequestId, StoreRequest)> {
    let one_too_many = queue
        .iter()
        .enumerate()
        .filter(|(_, (_, request))| is_claim(request))
        .nth(claims);
    let end = one_too_many.map_or(queue.len(), |(at, _)| at).min(PIPELINE);
    queue.drain(..end).collect()
}

/// How many claims the next pipeline may have after one with `claims` at most. A refused one brings nothing and says nothing.
fn next_claims(claims: usize, answers: &[Answer]) -> usize {
    let claimed = answers
        .iter()
        .filter(|answer| matches!(answer.reply, StoreReply::Claimed { .. }));
    let (count, largest) = claimed.fold((0, 1), |(count, largest), answer| {
        (count + 1, answer.bytes().max(largest))
    });
    if count == 0 {
        return claims;
    }
    let most = (2 * count).clamp(*CLAIMS.start(), *CLAIMS.end());
    (ANSWERS / largest).clamp(*CLAIMS.start(), most)
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
    use ucf::{Epoch, Incarnation, PartitionId};

    fn answers(count: usize, reply: &StoreReply, bytes: usize) -> Vec<Answer> {
        let answer = || Answer {
            reply: reply.clone(),
            records: vec![(bytes::Bytes::new(), vec![0_u8; bytes].into())],
        };
        std::iter::repeat_with(answer).take(count).collect()
    }

    #[test]
    fn claims_become_more_while_answers_are_small_and_fewer_at_once() {
        let claimed = StoreReply::Claimed { epoch: Epoch(2) };
        let sizes = [(4, 10), (8, 10), (64, 10), (64, 32 << 10), (64, 900 << 10), (1, 10)];
        let next = sizes.map(|(count, bytes)| next_claims(8, &answers(count, &claimed, bytes)));
        assert_eq!(next, [8, 16, 64, 32, 4, 4]);
        let removed = StoreReply::Removed(true);
        assert_eq!(
            next_claims(8, &answers(20, &removed, 0)),
            8,
            "no claim says nothing of claims"
        );
    }

    #[test]
    fn a_pipeline_is_bounded_and_so_are_the_claims_in_it() {
        let (partition, member) = (PartitionId(1), Incarnation(1));
        let claim = StoreRequest::Claim {
            partition,
            member,
            expected: None,
            at_least: Epoch(2),
            as_target: false,
        };
        let other = StoreRequest::Withdraw {
            partition,
            member,
            epoch: Epoch(2),
        };
        let requests = (0..200).map(|at| if at % 4 == 0 { &claim } else { &other });
        let mut queue: Queue = (0..).map(RequestId).zip(requests.cloned()).collect();
        let sizes = [4, 4, 64, 64].map(|claims| {
            let chunk = next_chunk(&mut queue, claims);
            (chunk[0].0.0, chunk.len())
        });
        assert_eq!(sizes, [(0, 16), (16, 16), (32, 64), (96, 64)]);
    }
}
