//! A connection to Redis of our own making: made when it is needed, given up when an answer is late.
//!
//! The crate's connection manager would hold on to a connection that is a black hole; here an answer that has not come within the
//! budget means that the store is lost, and the next request makes a new connection.

use std::time::Duration;

use redis::aio::MultiplexedConnection;
use redis::{ErrorKind, Pipeline, Script, ServerErrorKind, Value};

use super::connection::{Connection, Patience};
use super::place::{self, Place};
use super::scripts;

/// The store did not answer in time, or not sensibly. Whatever was asked may have been done, now or later.
#[derive(Debug)]
pub struct Lost(pub String);

impl std::fmt::Display for Lost {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for Lost {}

impl From<redis::RedisError> for Lost {
    fn from(error: redis::RedisError) -> Self {
        Self(error.to_string())
    }
}

/// The connection.
pub struct Link {
    place: Place,
    /// Whose master it leads to in a Redis Cluster.
    key: String,
    budget: Duration,
    connection: Option<Connection>,
    /// Where it is, or was, connected to.
    address: String,
    /// Connections made so far.
    made: u64,
    run_id: u64,
}

impl Link {
    /// A link that connects at its first request; an answer later than `budget` counts as lost. Of a Redis Cluster it leads to the master that
    /// has `key`, and all keys of its hash tag.
    #[must_use]
    pub fn new(place: Place, key: &str, budget: Duration) -> Self {
        Self {
            place,
            key: key.to_owned(),
            budget,
            connection: None,
            address: "no server yet".into(),
            made: 0,
            run_id: 0,
        }
    }

    /// The server that it connected to last.
    #[must_use]
    pub fn address(&self) -> &str {
        &self.address
    }

    /// Hash of the run id of the server that this connection is to; 0 before the first.
    #[must_use]
    pub fn run_id(&self) -> u64 {
        self.run_id
    }

    /// Makes sure that there is a connection and gives its number; another connection has another.
    ///
    /// # Errors
    /// The store is lost.
    pub async fn open(&mut self) -> Result<u64, Lost> {
        let connection = self.connect().await?;
        self.connection = Some(connection);
        Ok(self.made)
    }

    /// Gives the connection up.
    pub fn close(&mut self) {
        self.connection = None;
    }

    /// Sends the commands at once and waits for all answers.
    ///
    /// # Errors
    /// The store is lost: the next call connects anew.
    pub async fn run(&mut self, commands: &Pipeline) -> Result<Vec<Value>, Lost> {
        let mut connection = self.connect().await?;
        let mut result = commands.query_async::<Vec<Value>>(&mut connection.commands).await;
        if result
            .as_ref()
            .is_err_and(|error| error.kind() == ErrorKind::Server(ServerErrorKind::NoScript))
        {
            // Someone flushed the scripts. Every request is harmless if it is carried out twice.
            load_scripts(&mut connection.commands).await?;
            result = commands.query_async::<Vec<Value>>(&mut connection.commands).await;
        }
        match result {
            Ok(values) => {
                self.connection = Some(connection);
                Ok(values)
            }
            Err(error) => Err(error.into()),
        }
    }

    /// Sends the commands, which write, at once and waits for all answers, and until so many replicas have what was written.
    ///
    /// # Errors
    /// The store is lost, a master that is cut off from its replicas too.
    pub async fn run_replicated(&mut self, mut commands: Pipeline, replicas: u8) -> Result<Vec<Value>, Lost> {
        if replicas == 0 {
            return self.run(&commands).await;
        }
        // Less than the budget, so that the answer says what is amiss; a server that looks at its clock ten times a second may be too late with it.
        let patience = self.budget * 4 / 5;
        commands.cmd("WAIT").arg(replicas).arg(patience.as_millis() as u64);
        let mut values = self
            .run(&commands)
            .await
            .map_err(|Lost(error)| Lost(format!("{error} (a write counts once {replicas} replicas have it)")))?;
        match values.pop() {
            Some(Value::Int(count)) if count >= replicas.into() => Ok(values),
            Some(Value::Int(count)) => {
                self.close();
                Err(Lost(format!("{count} of {replicas} replicas have what was written")))
            }
            other => Err(Lost(format!("unexpected answer {other:?} to WAIT"))),
        }
    }

    /// The present connection, out of its place: whoever succeeds puts it back.
    async fn connect(&mut self) -> Result<Connection, Lost> {
        if let Some(connection) = self.connection.take() {
            return Ok(connection);
        }
        let (info, watched) = self.place.find(&self.key, self.budget).await?;
        self.address = place::shown(&info);
        let patience = Patience {
            // It comes after a loss, and one that is refused at once costs nothing.
            connection: self.budget * 4,
            answer: self.budget,
        };
        let opened = self.place.open(info, patience).await;
        let mut connection = opened.map_err(|refused| Lost(format!("{}: {}", self.address, refused.lost)))?;
        let commands = &mut connection.commands;
        if watched {
            check_role(commands).await?;
        }
        self.made += 1;
        load_scripts(commands).await?;
        let info: String = redis::cmd("INFO").arg("server").query_async(commands).await?;
        let field = |name: &str| {
            info.lines()
                .find_map(|line| line.strip_prefix(name))
                .unwrap_or_default()
        };
        if field("redis_mode:") == "cluster" && !self.place.is_redis_cluster() {
            return Err(Lost(format!(
                "{}: it is a node of a Redis Cluster; write redis-cluster:// and its nodes",
                self.address
            )));
        }
        let run_id = field("run_id:");
        self.run_id = u64::from_str_radix(run_id.get(..16).unwrap_or("0"), 16).unwrap_or_default();
        Ok(connection)
    }
}

/// Who is asked names a former master until it has heard of the new one.
async fn check_role(connection: &mut MultiplexedConnection) -> Result<(), Lost> {
    let role: Vec<Value> = redis::cmd("ROLE").query_async(connection).await?;
    match role.first() {
        Some(Value::BulkString(role)) if role == b"master" => Ok(()),
        _ => Err(Lost("it is named as the master, and is none".into())),
    }
}

async fn load_scripts(connection: &mut MultiplexedConnection) -> Result<(), Lost> {
    let mut commands = redis::pipe();
    for code in scripts::ALL {
        commands.cmd("SCRIPT").arg("LOAD").arg(code);
    }
    commands.query_async::<Vec<Value>>(connection).await?;
    Ok(())
}

/// A script's name for `EVALSHA`.
#[must_use]
pub fn sha(code: &str) -> String {
    Script::new(code).get_hash().to_owned()
}
