//! How much a worker takes on. Whoever knows one token can aim all of a flood at its partition, so a partition has a bound of its own.
//!
//! What is counted are sessions and transactions together. One costs about 4 KB with its messages and what the maps add, so that the
//! two workers of a container with 24 GiB stay below half of it, and a partition below 400 MB, which its successor has to load.

/// Of a worker: ten minutes of 1500 calls a second that talk, or five of calls that never end their transactions.
const WORKER: usize = 1_000_000;

/// Of a partition: thirty times its share of a full worker with 512 of them.
const PARTITION: usize = 65_536;

/// Whether there is room for a new dialog, or a request outside of any.
pub(super) fn takes_new(worker: usize, partition: usize) -> bool {
    worker < WORKER && partition < PARTITION
}

/// Whether there is room for a request within a dialog: a quarter more, so that calls can end where none can begin.
pub(super) fn takes_more(worker: usize, partition: usize) -> bool {
    worker < WORKER / 4 * 5 && partition < PARTITION / 4 * 5
}
