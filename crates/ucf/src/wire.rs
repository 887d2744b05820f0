//! What proxies and containers tell each other: protobuf frames, each behind a four-byte big-endian length.
//!
//! Tags are never reused, unknown ones are skipped: a part one version older or newer can be spoken with.

use std::ops::RangeInclusive;

/// The largest frame that is accepted, in bytes: a complete list of 65,536 partitions fits.
pub const MAX_FRAME: usize = 2 << 20;

/// One frame.
#[derive(Clone, PartialEq, prost::Message)]
pub struct Frame {
    /// What it says; a frame whose body is unknown is ignored.
    #[prost(oneof = "Body", tags = "1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13")]
    pub body: Option<Body>,
}

/// The kinds of frames.
#[derive(Clone, PartialEq, prost::Oneof)]
pub enum Body {
    /// On every link behind the challenge, in both directions.
    #[prost(message, tag = "1")]
    Hello(Hello),
    /// Proxy to container, and to proxy, every 100 ms.
    #[prost(message, tag = "2")]
    Heartbeat(Heartbeat),
    /// Container to proxy, every 100 ms: load, and the answer to the heartbeat.
    #[prost(message, tag = "3")]
    Report(Report),
    /// Container to proxy: what of the SIP connection needs no keeping any more.
    #[prost(message, tag = "4")]
    Confirm(Confirm),
    /// Container to proxy and to container: what it owns.
    #[prost(message, tag = "5")]
    Ownership(Ownership),
    /// Container to proxy: transactions of new dialogs that it has taken on.
    #[prost(message, tag = "6")]
    Transactions(Transactions),
    /// Proxy to container: output was dropped, another owns the partition.
    #[prost(message, tag = "7")]
    Fenced(Fenced),
    /// Container to container: may I act from memory; and claims of hand-over.
    #[prost(message, tag = "8")]
    Peer(Peer),
    /// Container to proxy: flows of its dialogs that a NAT's binding carries.
    #[prost(message, tag = "9")]
    KeepOpen(KeepOpen),
    /// Proxy to proxy: a message for a container that the speaker does not reach.
    #[prost(message, tag = "10")]
    Relay(Relay),
    /// Proxy to proxy: a message for a client whose connection the receiver holds, or whose datagrams come from the receiver's address.
    #[prost(message, tag = "11")]
    ToClient(ToClient),
    /// Proxy to proxy: what a container that the receiver does not reach has told the speaker.
    #[prost(message, tag = "12")]
    Heard(Heard),
    /// First on every link, in both directions (`ucf::greeting`).
    #[prost(message, tag = "13")]
    Challenge(Challenge),
}

/// What the other end's `Hello` has to prove.
#[derive(Clone, PartialEq, prost::Message)]
pub struct Challenge {
    /// Random bytes, never sent before.
    #[prost(bytes = "vec", tag = "1")]
    pub nonce: Vec<u8>,
}

/// Who speaks.
#[derive(Clone, PartialEq, prost::Message)]
pub struct Hello {
    /// Version of this protocol; 1.
    #[prost(uint32, tag = "1")]
    pub version: u32,
    /// The cluster's name; a link to another cluster is closed.
    #[prost(string, tag = "2")]
    pub cluster: String,
    /// Name of the pod or process, such as `demo-0`.
    #[prost(string, tag = "3")]
    pub name: String,
    /// Incarnation of the process.
    #[prost(fixed64, tag = "4")]
    pub incarnation: u64,
    /// For a proxy: its worker, from 0.
    #[prost(uint32, optional, tag = "5")]
    pub worker: Option<u32>,
    /// Of a proxy to a container: the local address of the worker's SIP connection to it, which ties the two connections together. Of a proxy to a
    /// proxy, where each has an address of its own: that address. (A new field would be none of what an earlier version takes as proved.)
    #[prost(string, tag = "6")]
    pub sip: String,
    /// Keyed check of the fields above and of the challenges of both ends (`ucf::greeting`): the speaker has the cluster's key.
    #[prost(bytes = "vec", tag = "7")]
    pub proof: Vec<u8>,
}

/// A proxy lives, and says which containers it reaches.
#[derive(Clone, PartialEq, prost::Message)]
pub struct Heartbeat {
    /// Running number of the speaker over all its links, from 1.
    #[prost(uint64, tag = "1")]
    pub number: u64,
    /// Its view of every container it knows.
    #[prost(message, repeated, tag = "2")]
    pub views: Vec<View>,
}

/// How one proxy worker sees one container.
#[derive(Clone, Copy, PartialEq, prost::Message)]
pub struct View {
    /// The container's incarnation.
    #[prost(fixed64, tag = "1")]
    pub incarnation: u64,
    /// Milliseconds since it was last heard.
    #[prost(uint32, tag = "2")]
    pub silent_ms: u32,
    /// Its connections closed (reset, or end of stream); `silent_ms` counts from then.
    #[prost(bool, tag = "3")]
    pub closed: bool,
}

/// A container's life and load.
#[derive(Clone, PartialEq, prost::Message)]
pub struct Report {
    /// The last heartbeat heard on this link.
    #[prost(uint64, tag = "1")]
    pub heartbeat: u64,
    /// Whether new dialogs are welcome.
    #[prost(enumeration = "MemberState", tag = "2")]
    pub state: i32,
    /// Transactions in progress.
    #[prost(uint32, tag = "3")]
    pub open_transactions: u32,
    /// How long the oldest waiting input has waited, in microseconds.
    #[prost(uint32, tag = "4")]
    pub queue_delay_us: u32,
    /// Dialogs, early and confirmed.
    #[prost(uint32, tag = "5")]
    pub dialogs: u32,
    /// CPU used since the last report, in thousandths of one core.
    #[prost(uint32, tag = "6")]
    pub cpu_permille: u32,
    /// How long the store took to answer last, in microseconds.
    #[prost(uint32, tag = "7")]
    pub store_us: u32,
    /// What it would send waits: the store is lost, and somebody may own what it owns.
    #[prost(bool, tag = "8")]
    pub holds: bool,
}

/// Where a container stands between start and end.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, prost::Enumeration)]
#[repr(i32)]
pub enum MemberState {
    /// Started, not yet admitted or not yet handed its share.
    Joining = 0,
    /// Takes new dialogs.
    Active = 1,
    /// Hands everything over and leaves.
    Quiescing = 2,
}

/// Counts of the SIP connection that `Hello::sip` names, from 1 in the order written by the proxy.
#[derive(Clone, PartialEq, prost::Message)]
pub struct Confirm {
    /// All up to and including this one are committed or finished, except those returned.
    #[prost(uint64, tag = "1")]
    pub upto: u64,
    /// Above the last `upto`: not owned here, to be sent to the owner.
    #[prost(uint64, repeated, tag = "2")]
    pub returned: Vec<u64>,
    /// Above `upto`: kept until it is known who owns the partition (a hand-over, a claim whose outcome is not known). Confirmed or returned
    /// later; until then it is no sign of too much to do.
    #[prost(uint64, repeated, tag = "3")]
    pub kept: Vec<u64>,
    /// Finished above `upto`, each told once, as runs: how many are not, how many are, how many are not, and so on. What is kept holds `upto` up,
    /// and is not to hold up what came after it. A version that does not know this waits for `upto`.
    #[prost(uint64, repeated, tag = "4")]
    pub finished: Vec<u64>,
}

impl Confirm {
    /// The value of [`finished`](Self::finished) for these numbers, which ascend and are above `upto`.
    #[must_use]
    pub fn runs(upto: u64, numbers: impl IntoIterator<Item = u64>) -> Vec<u64> {
        let mut runs: Vec<u64> = Vec::new();
        let mut next = upto + 1;
        for number in numbers {
            if number < next {
                continue;
            }
            match runs.last_mut().filter(|_| number == next) {
                Some(run) => *run += 1,
                None => runs.extend([number - next, 1]),
            }
            next = number + 1;
        }
        runs
    }

    /// The numbers that [`finished`](Self::finished) names, as far as there are such numbers.
    pub fn finished(&self) -> impl Iterator<Item = RangeInclusive<u64>> + '_ {
        let mut told = self.upto;
        self.finished.chunks_exact(2).map_while(move |run| {
            let before = told.checked_add(run[0])?;
            told = before.checked_add(run[1])?;
            Some(before.checked_add(1)?..=told)
        })
    }
}

/// What a container owns.
#[derive(Clone, PartialEq, prost::Message)]
pub struct Ownership {
    /// The owner; the speaker itself, or in a gossip another member.
    #[prost(fixed64, tag = "1")]
    pub owner: u64,
    /// Partitions, parallel to `epochs`.
    #[prost(uint32, repeated, tag = "2")]
    pub partitions: Vec<u32>,
    /// Epochs, parallel to `partitions`.
    #[prost(uint64, repeated, tag = "3")]
    pub epochs: Vec<u64>,
    /// Partitions that are being handed over: hold their messages for whoever announces a higher epoch.
    #[prost(uint32, repeated, tag = "4")]
    pub leaving: Vec<u32>,
    /// This is all that the owner owns, not a change.
    #[prost(bool, tag = "5")]
    pub complete: bool,
}

/// Server transactions of new dialogs, for proxies that did not carry the first request.
#[derive(Clone, PartialEq, prost::Message)]
pub struct Transactions {
    /// `ucf::transactions` key of the client's Via (RFC 3261 s17.2.3), parallel to `partitions`.
    #[prost(fixed64, repeated, tag = "1")]
    pub keys: Vec<u64>,
    /// Key of Call-ID, From tag and CSeq (merged requests, RFC 3261 s8.2.2.2), parallel to `partitions`.
    #[prost(fixed64, repeated, tag = "2")]
    pub merged: Vec<u64>,
    /// Their partitions.
    #[prost(uint32, repeated, tag = "3")]
    pub partitions: Vec<u32>,
    /// Keys whose final response has been sent: to be forgotten 32 s from now.
    #[prost(fixed64, repeated, tag = "4")]
    pub ended: Vec<u64>,
}

/// A message as it is to be written to the owner of its partition. The receiver answers for it from then on.
#[derive(Clone, PartialEq, prost::Message)]
pub struct Relay {
    /// Its partition.
    #[prost(uint32, tag = "1")]
    pub partition: u32,
    /// One whole SIP message.
    #[prost(bytes = "vec", tag = "2")]
    pub message: Vec<u8>,
}

/// A message as it is to be sent to a client.
#[derive(Clone, PartialEq, prost::Message)]
pub struct ToClient {
    /// Flow token, which names a connection of the receiver's process, or its address.
    #[prost(bytes = "vec", tag = "1")]
    pub flow: Vec<u8>,
    /// One whole SIP message.
    #[prost(bytes = "vec", tag = "2")]
    pub message: Vec<u8>,
}

/// What a container has told a proxy, passed on.
#[derive(Clone, PartialEq, prost::Message)]
pub struct Heard {
    /// The container's incarnation.
    #[prost(fixed64, tag = "1")]
    pub incarnation: u64,
    /// Its life and load.
    #[prost(message, optional, tag = "2")]
    pub report: Option<Report>,
    /// What it owns; never taken as complete.
    #[prost(message, optional, tag = "3")]
    pub ownership: Option<Ownership>,
    /// Transactions that it has taken on or finished.
    #[prost(message, optional, tag = "4")]
    pub transactions: Option<Transactions>,
}

/// Something is to be sent on each of these flows, or a NAT forgets them.
#[derive(Clone, PartialEq, prost::Message)]
pub struct KeepOpen {
    /// Flow tokens.
    #[prost(bytes = "vec", repeated, tag = "1")]
    pub flows: Vec<Vec<u8>>,
}

/// Output of the receiver was dropped, or what it announced goes unheard, because another owns the partition.
#[derive(Clone, PartialEq, prost::Message)]
pub struct Fenced {
    /// The partition.
    #[prost(uint32, tag = "1")]
    pub partition: u32,
    /// Its owner as the proxy knows it; 0 if that one is forgotten.
    #[prost(fixed64, tag = "2")]
    pub owner: u64,
    /// The owner's epoch.
    #[prost(uint64, tag = "3")]
    pub epoch: u64,
}

/// Between containers; the meaning is `ucf::member`'s.
#[derive(Clone, PartialEq, prost::Message)]
pub struct Peer {
    /// Running number of the speaker over all its links: what is older than what was heard is known as late.
    #[prost(uint64, tag = "1")]
    pub number: u64,
    /// What it says; unknown is ignored.
    #[prost(oneof = "PeerBody", tags = "2, 3, 4, 5, 6, 7, 8, 9, 10")]
    pub body: Option<PeerBody>,
}

/// The kinds of words between containers.
#[derive(Clone, PartialEq, prost::Oneof)]
pub enum PeerBody {
    /// On link-up and on change.
    #[prost(message, tag = "2")]
    Status(PeerStatus),
    /// A joiner asks to be admitted.
    #[prost(message, tag = "3")]
    Admit(Empty),
    /// It is: the speaker will ask it before acting from memory.
    #[prost(message, tag = "4")]
    Admitted(Empty),
    /// Hand-over: the receiver may claim this partition now.
    #[prost(message, tag = "5")]
    Offer(PartitionEpoch),
    /// The speaker lacks the store: may it act from memory?
    #[prost(message, tag = "6")]
    Ask(Round),
    /// The speaker lacks it too, and will claim nothing for a lease period.
    #[prost(message, tag = "7")]
    Promise(Promise),
    /// The speaker has the store.
    #[prost(message, tag = "8")]
    Refuse(Round),
    /// The store is back: what do you own?
    #[prost(message, tag = "9")]
    Tell(Round),
    /// All that the speaker owns.
    #[prost(message, tag = "10")]
    Owns(Owns),
}

/// Nothing to say but the kind.
#[derive(Clone, Copy, PartialEq, prost::Message)]
pub struct Empty {}

/// Where a container stands.
#[derive(Clone, Copy, PartialEq, prost::Message)]
pub struct PeerStatus {
    /// Between start and end.
    #[prost(enumeration = "MemberState", tag = "1")]
    pub state: i32,
    /// It reaches the store, which holds all that its memory does.
    #[prost(bool, tag = "2")]
    pub stored: bool,
    /// It is cut off from the store while others are not: they are to claim what it owns.
    #[prost(bool, tag = "3")]
    pub cut_off: bool,
    /// It has acted from memory and not yet written what came of it.
    #[prost(bool, tag = "4")]
    pub from_memory: bool,
    /// Every member has admitted it: it may claim.
    #[prost(bool, tag = "5")]
    pub admitted: bool,
    /// The life of the store's data that `stored` speaks of.
    #[prost(fixed64, tag = "6")]
    pub era: u64,
}

/// A partition at an epoch.
#[derive(Clone, Copy, PartialEq, prost::Message)]
pub struct PartitionEpoch {
    /// The partition.
    #[prost(uint32, tag = "1")]
    pub partition: u32,
    /// The epoch.
    #[prost(uint64, tag = "2")]
    pub epoch: u64,
}

/// Ties answers to a question.
#[derive(Clone, Copy, PartialEq, prost::Message)]
pub struct Round {
    /// Running number of the asker.
    #[prost(uint64, tag = "1")]
    pub round: u64,
}

/// A promise to claim nothing for a lease period from when the question was heard.
#[derive(Clone, PartialEq, prost::Message)]
pub struct Promise {
    /// The question's.
    #[prost(uint64, tag = "1")]
    pub round: u64,
    /// What the speaker owns, parallel to `epochs`.
    #[prost(uint32, repeated, tag = "2")]
    pub partitions: Vec<u32>,
    /// Epochs, parallel to `partitions`.
    #[prost(uint64, repeated, tag = "3")]
    pub epochs: Vec<u64>,
    /// Partitions that it has claimed without hearing the outcome.
    #[prost(uint32, repeated, tag = "4")]
    pub unresolved: Vec<u32>,
    /// The members that it knows of: the asker needs the promise of each.
    #[prost(fixed64, repeated, tag = "5")]
    pub members: Vec<u64>,
}

/// All that a container owns.
#[derive(Clone, PartialEq, prost::Message)]
pub struct Owns {
    /// The question's.
    #[prost(uint64, tag = "1")]
    pub round: u64,
    /// Partitions, parallel to `epochs`.
    #[prost(uint32, repeated, tag = "2")]
    pub partitions: Vec<u32>,
    /// Epochs, parallel to `partitions`.
    #[prost(uint64, repeated, tag = "3")]
    pub epochs: Vec<u64>,
}

#[cfg(test)]
mod tests {
    use prost::Message as _;

    use super::*;

    /// `Confirm` without what is finished above.
    #[derive(Clone, PartialEq, prost::Message)]
    struct Earlier {
        #[prost(uint64, tag = "1")]
        upto: u64,
        #[prost(uint64, repeated, tag = "2")]
        returned: Vec<u64>,
        #[prost(uint64, repeated, tag = "3")]
        kept: Vec<u64>,
    }

    fn named(confirm: &Confirm) -> Vec<u64> {
        confirm.finished().flatten().collect()
    }

    #[test]
    fn what_is_finished_above_is_named_by_runs() {
        for numbers in [&[][..], &[8], &[12, 13, 14], &[8, 9, 11, 12, 200]] {
            let confirm = Confirm {
                upto: 7,
                finished: Confirm::runs(7, numbers.iter().copied()),
                ..Confirm::default()
            };
            assert_eq!(named(&confirm), numbers);
        }
        assert_eq!(Confirm::runs(7, [8, 9, 11]), [0, 2, 1, 1]);
        assert_eq!(Confirm::runs(7, [3, 8, 8, 9, 8]), [0, 2], "none below, each once");
    }

    #[test]
    fn runs_that_name_no_numbers_are_passed_over() {
        for (finished, expected) in [
            (vec![2], 0),
            (vec![0, 0], 0),
            (vec![u64::MAX, 1], 0),
            (vec![0, 2, u64::MAX, u64::MAX], 2),
        ] {
            let confirm = Confirm {
                upto: 7,
                finished,
                ..Confirm::default()
            };
            assert_eq!(
                confirm.finished().map(|run| run.count()).sum::<usize>(),
                expected,
                "{confirm:?}"
            );
        }
    }

    #[test]
    fn a_version_without_runs_is_understood_and_understands() {
        let confirm = Confirm {
            upto: 7,
            returned: vec![9],
            kept: vec![8],
            finished: Confirm::runs(7, [10, 11]),
        };
        let earlier = Earlier::decode(&*confirm.encode_to_vec()).expect("it passes over what it does not know");
        assert_eq!(
            (earlier.upto, &earlier.returned[..], &earlier.kept[..]),
            (7, &[9][..], &[8][..])
        );
        let later = Confirm::decode(&*earlier.encode_to_vec()).expect("it is understood");
        assert_eq!((later.upto, named(&later)), (7, vec![]));
    }
}
