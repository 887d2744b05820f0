//! The store in Redis: the requests of `ucf::store` as scripts, over a link of our own.
//!

mod asked;
mod connection;
mod fence;
mod keys;
mod link;
mod place;
mod reply;
mod scripts;
mod tls;
mod write;

use std::time::Duration;

use bytes::Bytes;
use prost::Message as _;
use redis::{Cmd, Pipeline, Value};
use ucf::store::{MemberRecord, StoreReply, StoreRequest};
use ucf::{Incarnation, PartitionId};

use fence::Fence;
use keys::Keys;
pub use link::{Link, Lost};
pub use place::Place;
pub use write::Paths;

/// A worker's or the control task's way to Redis.
pub struct Store {
    link: Link,
    keys: Keys,
    shas: Shas,
    /// Offered as the data's `era` if it has none.
    entropy: u64,
    fence: Fence,
    /// How many replicas must have what is written before it counts.
    replicas: u8,
    /// Writes may go by plain commands.
    watches: bool,
    paths: Paths,
}

/// Names of the scripts.
struct Shas {
    join: String,
    renew: String,
    remove: String,
    claim: String,
    target: String,
    register: String,
    write: String,
    room: String,
}

/// An answer, and for a won claim the records.
#[derive(Debug)]
pub struct Answer {
    /// The answer.
    pub reply: StoreReply,
    /// Keys and values.
    pub records: Vec<(Bytes, Bytes)>,
}

impl Answer {
    /// Bytes of the records that it brings.
    #[must_use]
    pub fn bytes(&self) -> usize {
        (self.records.iter()).map(|(key, value)| key.len() + value.len()).sum()
    }
}

/// A member as it is stored.
#[derive(Clone, PartialEq, prost::Message)]
struct MemberValue {
    #[prost(string, tag = "1")]
    name: String,
    #[prost(string, tag = "2")]
    sip: String,
    #[prost(string, tag = "3")]
    ucf: String,
    #[prost(uint32, tag = "4")]
    weight: u32,
}

impl Store {
    /// A store that connects at its first request; what is not answered within `budget` counts as lost.
    #[must_use]
    pub fn new(place: Place, cluster: &str, budget: Duration, entropy: u64) -> Self {
        let shas = Shas {
            join: link::sha(scripts::JOIN),
            renew: link::sha(scripts::RENEW),
            remove: link::sha(scripts::REMOVE),
            claim: link::sha(scripts::CLAIM),
            target: link::sha(scripts::TARGET),
            register: link::sha(scripts::REGISTER),
            write: link::sha(scripts::WRITE),
            room: link::sha(scripts::ROOM),
        };
        let replicas = place.awaited_replicas();
        let keys = Keys::new(cluster, place.is_redis_cluster());
        Self {
            link: Link::new(place, &keys.members(), budget),
            replicas,
            keys,
            shas,
            entropy,
            fence: Fence::new(),
            watches: true,
            paths: Paths::default(),
        }
    }

    /// Carries requests out in one pipeline, and reads the records of won claims in a second one; answers stand in the same order.
    ///
    /// # Errors
    /// The store is lost; whatever was asked may have been done.
    pub async fn ask(&mut self, requests: &[StoreRequest]) -> Result<Vec<Answer>, Lost> {
        if requests.is_empty() {
            return Ok(Vec::new());
        }
        let mut pipeline = Pipeline::with_capacity(requests.len());
        for request in requests {
            self.append(&mut pipeline, request);
        }
        let values = self.link.run_replicated(pipeline, self.replicas).await?;
        let mut values = values.into_iter();
        let era = self.link.run_id();
        let mut answers = requests
            .iter()
            .map(|request| reply::answer(request, era, &mut values))
            .collect::<Result<Vec<_>, _>>()?;
        self.load(requests, &mut answers).await?;
        Ok(answers)
    }

    /// Reads the records of won claims. After the claim no other can write, so what a plain command reads is whole; through the script each
    /// record would be copied twice more (three times the cost in Redis), and in the same pipeline a lost claim would bring them along.
    async fn load(&mut self, requests: &[StoreRequest], answers: &mut [Answer]) -> Result<(), Lost> {
        let mut pipeline = Pipeline::new();
        let mut won = Vec::new();
        for (request, answer) in requests.iter().zip(answers) {
            if let (StoreRequest::Claim { partition, .. }, StoreReply::Claimed { .. }) = (request, &answer.reply) {
                pipeline.cmd("HGETALL").arg(self.keys.records(*partition));
                won.push(answer);
            }
        }
        if won.is_empty() {
            return Ok(());
        }
        let values = self.link.run(&pipeline).await?;
        for (answer, records) in won.into_iter().zip(values) {
            answer.records = reply::pairs(records)?;
        }
        Ok(())
    }

    /// The store's clock, in milliseconds of the Unix epoch.
    ///
    /// # Errors
    /// The store is lost.
    pub async fn time(&mut self) -> Result<u64, Lost> {
        let mut pipeline = Pipeline::with_capacity(1);
        pipeline.cmd("TIME");
        let value = self.link.run(&pipeline).await?.pop().unwrap_or(Value::Nil);
        let (seconds, micros): (u64, u64) = redis::from_redis_value(value).map_err(|error| Lost(error.to_string()))?;
        Ok(seconds * 1000 + micros / 1000)
    }

    /// The server that it connected to last.
    #[must_use]
    pub fn address(&self) -> &str {
        self.link.address()
    }

    fn append(&self, pipeline: &mut Pipeline, request: &StoreRequest) {
        match request {
            StoreRequest::Join { record } => {
                let mut command = self.on_members(&self.shas.join);
                command
                    .arg(hex(record.incarnation))
                    .arg(encode(record))
                    .arg(self.entropy);
                pipeline.add_command(command).add_command(self.ask_for_room());
            }
            StoreRequest::Renew { member, counter } => {
                let mut command = self.on_members(&self.shas.renew);
                command.arg(hex(*member)).arg(*counter).arg(self.entropy);
                pipeline.add_command(command).add_command(self.ask_for_room());
            }
            StoreRequest::Remove { member, counter } => {
                let mut command = self.on_members(&self.shas.remove);
                command
                    .arg(hex(*member))
                    .arg(counter.map(|c| c.to_string()).unwrap_or_default())
                    .arg(self.keys.fences());
                pipeline.add_command(command);
            }
            StoreRequest::Inspect { partitions } => {
                for partition in partitions {
                    let key = self.keys.owner(*partition);
                    pipeline.cmd("HMGET").arg(key).arg("owner").arg("epoch").arg("target");
                }
            }
            StoreRequest::Claim {
                partition,
                member,
                expected,
                at_least,
                as_target,
            } => {
                let mut command = self.on_owner(&self.shas.claim, *partition);
                command.arg(hex(*member)).arg(expected.map(hex).unwrap_or_default());
                command.arg(at_least.0).arg(u8::from(*as_target));
                command.arg(self.keys.fences());
                pipeline.add_command(command);
            }
            StoreRequest::Write(write) => {
                // Of no generation: only the running number tells that it comes late.
                let partition = std::iter::once(write.partition);
                let mut command = self.write_command(write.member, ["", "", ""], partition);
                append_plain_write(&mut command, write);
                pipeline.add_command(command);
            }
            StoreRequest::Mark {
                partition,
                member,
                epoch,
                target,
            } => {
                let mut command = self.on_owner(&self.shas.target, *partition);
                command.arg(hex(*member)).arg(epoch.0).arg(hex(*target));
                pipeline.add_command(command);
            }
            StoreRequest::Withdraw {
                partition,
                member,
                epoch,
            } => {
                let mut command = self.on_owner(&self.shas.target, *partition);
                command.arg(hex(*member)).arg(epoch.0).arg("");
                pipeline.add_command(command);
            }
        }
    }

    fn on_members(&self, sha: &str) -> Cmd {
        let mut command = evalsha(sha, 2);
        command.arg(self.keys.members()).arg(self.keys.counters());
        command
    }

    fn ask_for_room(&self) -> Cmd {
        let mut command = evalsha(&self.shas.room, 1);
        command.arg(self.keys.room());
        command
    }

    fn on_owner(&self, sha: &str, partition: PartitionId) -> Cmd {
        let mut command = evalsha(sha, 1);
        command.arg(self.keys.owner(partition));
        command
    }
}

fn evalsha(sha: &str, keys: usize) -> Cmd {
    let mut command = redis::cmd("EVALSHA");
    command.arg(sha).arg(keys);
    command
}

fn append_plain_write(command: &mut Cmd, write: &ucf::store::Write) {
    command.arg(write.epoch.0).arg(write.seq).arg(u8::from(write.replace));
    command.arg(write.sets.len()).arg(write.deletes.len());
    for (key, value) in &write.sets {
        command.arg(key.as_slice()).arg(value.as_slice());
    }
    for key in &write.deletes {
        command.arg(key.as_slice());
    }
}

fn encode(record: &MemberRecord) -> Vec<u8> {
    let value = MemberValue {
        name: record.name.clone(),
        sip: record.sip.clone(),
        ucf: record.ucf.clone(),
        weight: u32::from(record.weight),
    };
    value.encode_to_vec()
}

/// Sixteen digits, as members stand in the store.
fn hex(member: Incarnation) -> String {
    member.to_string()
}
