//! Two copies of everything: what the containers hold of each partition against what Redis has of it.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::net::SocketAddr;
use std::time::Duration;

use anyhow::{Context, bail};
use bytes::Bytes;
use container::records::{Key, digest};
use serde::Deserialize;

use super::http;
use super::process::wait_every;

/// How often they are compared.
const ASK: Duration = Duration::from_millis(100);

/// A partition on a container's page `/digests`.
#[derive(Debug, Deserialize)]
struct Held {
    partition: u32,
    epoch: u64,
    records: usize,
    digest: String,
    /// Keys of stored records that nobody needs and that wait to be deleted.
    ripe: Vec<String>,
}

/// Where both copies are.
#[derive(Clone, Debug)]
pub struct Copies {
    /// The cluster's name in Redis.
    pub cluster: String,
    /// Its number of partitions.
    pub partitions: u32,
    /// The containers' admin ports.
    pub containers: Vec<SocketAddr>,
    /// Redis.
    pub redis: SocketAddr,
    /// It is a Redis Cluster, in which all keys have one hash tag.
    pub redis_cluster: bool,
}

/// Epoch and records of a partition in Redis.
type Stored = (Option<u64>, HashMap<Vec<u8>, Vec<u8>>);

/// When a container that rests is asked again, and for how long at most.
const AGAIN: Duration = Duration::from_millis(20);
const PATIENCE: Duration = Duration::from_secs(5);

/// One look at both.
#[derive(Debug, Default)]
pub struct Seen {
    /// Records in partitions that are equal.
    pub records: usize,
    /// In what the others differ.
    pub differences: BTreeMap<u32, String>,
}

impl Copies {
    /// Compares every partition: one owner, the same epoch, the same records.
    pub fn compare(&self) -> anyhow::Result<Seen> {
        let mut owners: HashMap<u32, Vec<Held>> = HashMap::new();
        for admin in &self.containers {
            // A container rests after each such page.
            let page = wait_every(AGAIN, "a container's digests", PATIENCE, || {
                http::get(*admin, "/digests").ok()
            })?;
            for held in serde_json::from_str::<Vec<Held>>(&page).with_context(|| page.clone())? {
                owners.entry(held.partition).or_default().push(held);
            }
        }
        let stored = self.stored()?;
        let mut seen = Seen::default();
        for (partition, (epoch, records)) in (0..).zip(stored) {
            let held = owners.remove(&partition).unwrap_or_default();
            match difference(&held, epoch, records) {
                None => seen.records += held[0].records,
                Some(what) => _ = seen.differences.insert(partition, what),
            }
        }
        Ok(seen)
    }

    /// Waits until each partition has been seen equal: calls go on meanwhile, so not all of them at the same moment. Gives the number of records
    /// at the last look.
    pub fn until_equal(&self, limit: Duration) -> anyhow::Result<usize> {
        let mut left: BTreeSet<u32> = (0..self.partitions).collect();
        let mut last: anyhow::Result<Seen> = Ok(Seen::default());
        let equal = wait_every(ASK, "two copies of everything", limit, || {
            last = self.compare();
            let seen = last.as_ref().ok()?;
            left.retain(|partition| seen.differences.contains_key(partition));
            left.is_empty().then_some(seen.records)
        });
        if let Ok(records) = equal {
            return Ok(records);
        }
        let seen = last?;
        let examples = left
            .iter()
            .filter_map(|partition| seen.differences.get_key_value(partition));
        let examples: Vec<_> = examples.take(5).collect();
        bail!("{} partitions differ after {limit:?}: {examples:?}", left.len())
    }

    /// Epoch and records of every partition in Redis.
    fn stored(&self) -> anyhow::Result<Vec<Stored>> {
        let client = redis::Client::open(format!("redis://{}/", self.redis))?;
        let mut connection = client.get_connection()?;
        let mut pipeline = redis::pipe();
        for partition in 0..self.partitions {
            let key = if self.redis_cluster {
                format!("sc:{{{}}}:p{partition}", self.cluster)
            } else {
                format!("sc:{{{}:p{partition}}}", self.cluster)
            };
            pipeline.cmd("HGET").arg(format!("{key}:o")).arg("epoch");
            pipeline.cmd("HGETALL").arg(format!("{key}:r"));
        }
        let values: Vec<redis::Value> = pipeline.query(&mut connection)?;
        let read = |pair: &[redis::Value]| {
            let epoch: Option<u64> = redis::from_redis_value(pair[0].clone())?;
            anyhow::Ok((epoch, redis::from_redis_value(pair[1].clone())?))
        };
        values.chunks(2).map(read).collect()
    }
}

/// In what a partition differs between its owners' memory and Redis.
fn difference(held: &[Held], epoch: Option<u64>, stored: HashMap<Vec<u8>, Vec<u8>>) -> Option<String> {
    let [held] = held else {
        let epochs: Vec<_> = held.iter().map(|held| held.epoch).collect();
        return Some(format!("{} owners, at {epochs:?}", held.len()));
    };
    if epoch != Some(held.epoch) {
        return Some(format!("epoch {} in memory, {epoch:?} in Redis", held.epoch));
    }
    let is_ripe = |name: &Vec<u8>| {
        let hex: String = name.iter().map(|byte| format!("{byte:02x}")).collect();
        held.ripe.contains(&hex)
    };
    let kept = stored.into_iter().filter(|(name, _)| !is_ripe(name));
    let records: Option<Vec<(Key, Bytes)>> = kept
        .map(|(name, value)| Some((Key::parse(&name)?, value.into())))
        .collect();
    let Some(records) = records else {
        return Some("a record of an unknown kind".into());
    };
    let count = records.len();
    if count != held.records {
        return Some(format!("{} records in memory, {count} in Redis", held.records));
    }
    (format!("{:016x}", digest(records)) != held.digest).then(|| format!("one of {count} records is another in Redis"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn held(records: &[(Key, Bytes)]) -> Held {
        Held {
            partition: 0,
            epoch: 3,
            records: records.len(),
            digest: format!("{:016x}", digest(records.to_vec())),
            ripe: vec!["740000000000000009".into()],
        }
    }

    #[test]
    fn whatever_differs_is_seen() {
        let record = |name: &[u8], value: &[u8]| (name.to_vec(), value.to_vec());
        let name = |id: u8| [b's', 0, 0, 0, 0, 0, 0, 0, id];
        let all: HashMap<_, _> = [record(&name(1), b"\x28\x01"), record(&name(2), b"\x28\x02")].into();
        let keyed: Vec<_> = (all.iter())
            .map(|(name, value)| (Key::parse(name).expect("a key"), Bytes::from(value.clone())))
            .collect();
        let memory = || [held(&keyed)];
        assert_eq!(difference(&memory(), Some(3), all.clone()), None);
        let mut with_ripe = all.clone();
        with_ripe.extend([record(&[b't', 0, 0, 0, 0, 0, 0, 0, 9], b"\x28\x09")]);
        assert_eq!(difference(&memory(), Some(3), with_ripe), None);
        let mut fewer = all.clone();
        fewer.remove(&name(1)[..]);
        let mut other = all.clone();
        other.extend([record(&name(1), b"\x28\x07")]);
        let mut more = all.clone();
        more.extend([record(&name(3), b"\x28\x01")]);
        for stored in [fewer, other, more] {
            assert!(difference(&memory(), Some(3), stored).is_some());
        }
        assert!(difference(&memory(), Some(4), all.clone()).is_some(), "another epoch");
        assert!(difference(&[], Some(3), all.clone()).is_some(), "no owner");
        assert!(
            difference(&[held(&keyed), held(&keyed)], Some(3), all).is_some(),
            "two owners"
        );
    }
}
