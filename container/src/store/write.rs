//! The write of a turn: plain commands under a watch of the fence ([`super::fence`]), or the script that compares owner and epoch.
//!
//! In steady state one pipeline goes out: `MULTI`, the partitions' `DEL`, `HDEL` and `HSET`, `EXEC`, then `WATCH` and a look at the fence
//! for the next turn. That costs Redis a third of what the script does. The script is taken for what is not known to be owned (the first
//! write to a partition after its claim, all after the fence changed, a new connection) and, in the same call, if `EXEC` was refused.

use redis::{Cmd, Pipeline, Value};
use ucf::{Incarnation, PartitionId};

use super::{Lost, Store, evalsha, fence, hex, reply};
use crate::engine::{Write, WriteOutcome};

/// Records in one command: bounds how long Redis does nothing else for one `replace`.
const RECORDS: usize = 1000;

/// By which way calls of [`Store::write`] went.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Paths {
    /// Under a watch, by plain commands.
    pub watched: u64,
    /// Under a watch, and refused: the fence had been touched. The script came after.
    pub aborted: u64,
    /// By the script.
    pub scripted: u64,
}

impl Store {
    /// Writes the records of one turn: all partitions at once, each under its own epoch.
    ///
    /// After an error the same writes may be sent again, before any other of their partitions: what was done is done once more, to the
    /// same end.
    ///
    /// # Errors
    /// The store is lost; what was asked may have been done, or be done until the store is reached again, but not later.
    pub async fn write(&mut self, member: Incarnation, writes: &[Write]) -> Result<Vec<WriteOutcome>, Lost> {
        if writes.is_empty() {
            return Ok(Vec::new());
        }
        let connection = self.link.open().await?;
        self.fence.turn_to(connection, member);
        let result = self.write_some_way(member, writes).await;
        if result.is_err() {
            // Also if an answer was not understood: whatever is under way must belong to a dead connection.
            self.fence.forget();
            self.link.close();
        }
        result
    }

    /// Never writes under a watch: for measurements.
    #[must_use]
    pub fn by_script_only(mut self) -> Self {
        self.watches = false;
        self
    }

    /// By which way writes went so far.
    #[must_use]
    pub fn paths(&self) -> Paths {
        self.paths
    }

    async fn write_some_way(&mut self, member: Incarnation, writes: &[Write]) -> Result<Vec<WriteOutcome>, Lost> {
        if self.fence.take_right(writes) {
            if self.write_watched(member, writes).await? {
                self.paths.watched += 1;
                return Ok(vec![WriteOutcome::Written; writes.len()]);
            }
            self.paths.aborted += 1;
        }
        // A second time if the store forgot the connection, as it does in a flush.
        for _ in 0..2 {
            let generation = self.generation(member).await?;
            if let Some(outcomes) = self.write_by_script(member, &generation, writes).await? {
                self.paths.scripted += 1;
                return Ok(outcomes);
            }
            self.fence.forget_generation();
        }
        Err(Lost("the store takes the connection for a dead one".into()))
    }

    /// The connection's generation. It is registered and answered before any write carries it, so no write of a dead connection can.
    async fn generation(&mut self, member: Incarnation) -> Result<String, Lost> {
        if let Some(generation) = &self.fence.generation {
            return Ok(generation.clone());
        }
        let generation = fence::random()?;
        let mut command = evalsha(&self.shas.register, 2);
        command.arg(self.keys.fence(member)).arg(self.keys.members());
        command.arg(hex(member)).arg(&self.fence.link).arg(&generation);
        self.link.run(Pipeline::with_capacity(1).add_command(command)).await?;
        self.fence.generation = Some(generation.clone());
        Ok(generation)
    }

    /// `false`: nothing was written, the fence had been touched.
    async fn write_watched(&mut self, member: Incarnation, writes: &[Write]) -> Result<bool, Lost> {
        let mut pipeline = Pipeline::with_capacity(writes.len() * 2 + 4);
        pipeline.cmd("MULTI").ignore();
        for write in writes {
            append_plainly(&mut pipeline, write, &self.keys.records(write.partition));
        }
        pipeline.cmd("EXEC");
        self.append_watch(&mut pipeline, member);
        let values = self.link.run_replicated(pipeline, self.replicas).await?;
        let mut values = values.into_iter();
        let done = match values.next() {
            Some(Value::Array(replies)) => match replies.iter().find(|reply| matches!(reply, Value::ServerError(_))) {
                Some(error) => return Err(Lost(format!("a write failed: {error:?}"))),
                None => true,
            },
            Some(Value::Nil) => false,
            other => return Err(Lost(format!("unexpected answer {other:?} to EXEC"))),
        };
        let (token, generation) = reply::fence(values.next())?;
        self.fence.watched(token, generation);
        Ok(done)
    }

    /// `None`: nothing was written, the store does not know the connection.
    async fn write_by_script(
        &mut self,
        member: Incarnation,
        generation: &str,
        writes: &[Write],
    ) -> Result<Option<Vec<WriteOutcome>>, Lost> {
        let partitions = writes.iter().map(|write| write.partition);
        let mut command = self.write_command(member, [&self.fence.link, generation, &fence::random()?], partitions);
        for write in writes {
            append_to_script(&mut command, write);
        }
        let mut pipeline = Pipeline::with_capacity(4);
        pipeline.add_command(command);
        if self.watches {
            // The script itself may have touched what was watched before.
            pipeline.cmd("UNWATCH").ignore();
            self.append_watch(&mut pipeline, member);
        }
        let values = self.link.run_replicated(pipeline, self.replicas).await?;
        let mut values = values.into_iter();
        let value = values.next().ok_or_else(|| Lost("no answer to a write".into()))?;
        let Some((token, outcomes)) = reply::outcomes(value, writes.len())? else {
            return Ok(None);
        };
        self.fence.verify(token, writes, &outcomes);
        if self.watches {
            let (token, generation) = reply::fence(values.next())?;
            self.fence.watched(token, generation);
        }
        Ok(Some(outcomes))
    }

    /// The script's call up to the writes: keys, then member, link, generation and a token in case there is none.
    pub(super) fn write_command(
        &self,
        member: Incarnation,
        [link, generation, token]: [&str; 3],
        partitions: impl ExactSizeIterator<Item = PartitionId>,
    ) -> Cmd {
        let mut command = evalsha(&self.shas.write, 2 + partitions.len() * 2);
        command.arg(self.keys.fence(member)).arg(self.keys.members());
        for partition in partitions {
            command
                .arg(self.keys.owner(partition))
                .arg(self.keys.records(partition));
        }
        command.arg(hex(member)).arg(link).arg(generation).arg(token);
        command.arg(self.keys.fences());
        command
    }

    fn append_watch(&self, pipeline: &mut Pipeline, member: Incarnation) {
        let key = self.keys.fence(member);
        pipeline.cmd("WATCH").arg(&key).ignore();
        pipeline.cmd("HMGET").arg(key).arg("token").arg(&self.fence.link);
    }
}

fn append_plainly(pipeline: &mut Pipeline, write: &Write, records: &str) {
    if write.replace {
        pipeline.cmd("DEL").arg(records).ignore();
    }
    for keys in write.deletes.chunks(RECORDS) {
        let command = pipeline.cmd("HDEL").arg(records);
        for key in keys {
            command.arg(&key.to_bytes());
        }
        command.ignore();
    }
    for sets in write.sets.chunks(RECORDS) {
        let command = pipeline.cmd("HSET").arg(records);
        for (key, value) in sets {
            command.arg(&key.to_bytes()).arg(value.as_ref());
        }
        command.ignore();
    }
}

fn append_to_script(command: &mut Cmd, write: &Write) {
    command
        .arg(write.epoch.0)
        .arg(write.number)
        .arg(u8::from(write.replace));
    command.arg(write.sets.len()).arg(write.deletes.len());
    for (key, value) in &write.sets {
        command.arg(&key.to_bytes()).arg(value.as_ref());
    }
    for key in &write.deletes {
        command.arg(&key.to_bytes());
    }
}
