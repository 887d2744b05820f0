//! A connection to Redis of our own making: made when it is needed, given up when an answer is late.
//!
//! The crate's connection manager would hold on to a connection that is a black hole; here an answer that has not come within the
//! budget means that the store is lost, and the next request makes a new connection.

use std::time::Duration;

use redis::aio::MultiplexedConnection;
use redis::{
    AsyncConnectionConfig, Client, ConnectionAddr, ErrorKind, IntoConnectionInfo as _, Pipeline, Script,
    ServerErrorKind, Value,
};

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
    client: Client,
    config: AsyncConnectionConfig,
    connection: Option<MultiplexedConnection>,
    /// Connections made so far.
    made: u64,
    run_id: u64,
}

impl Link {
    /// A link that connects at its first request; an answer later than `budget` counts as lost.
    ///
    /// # Errors
    /// Fails if `url` is none.
    pub fn new(url: &str, budget: Duration) -> Result<Self, Lost> {
        let info = url.into_connection_info()?;
        let tcp = info.tcp_settings().clone().set_nodelay(true);
        let client = Client::open(info.set_tcp_settings(tcp))?;
        // A new connection may take four budgets: it comes after a loss, and one that is refused at once costs nothing.
        let config = AsyncConnectionConfig::new()
            .set_connection_timeout(Some(budget * 4))
            .set_response_timeout(Some(budget));
        Ok(Self {
            client,
            config,
            connection: None,
            made: 0,
            run_id: 0,
        })
    }

    /// Where it connects to.
    #[must_use]
    pub fn address(&self) -> String {
        match self.client.get_connection_info().addr() {
            ConnectionAddr::Tcp(host, port) => format!("{host}:{port}"),
            other => other.to_string(),
        }
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
        let mut result = commands.query_async::<Vec<Value>>(&mut connection).await;
        if result
            .as_ref()
            .is_err_and(|error| error.kind() == ErrorKind::Server(ServerErrorKind::NoScript))
        {
            // Someone flushed the scripts. Every request is harmless if it is carried out twice.
            load_scripts(&mut connection).await?;
            result = commands.query_async::<Vec<Value>>(&mut connection).await;
        }
        match result {
            Ok(values) => {
                self.connection = Some(connection);
                Ok(values)
            }
            Err(error) => Err(error.into()),
        }
    }

    /// The present connection, out of its place: whoever succeeds puts it back.
    async fn connect(&mut self) -> Result<MultiplexedConnection, Lost> {
        if let Some(connection) = self.connection.take() {
            return Ok(connection);
        }
        let mut connection = self
            .client
            .get_multiplexed_async_connection_with_config(&self.config)
            .await?;
        self.made += 1;
        load_scripts(&mut connection).await?;
        let info: String = redis::cmd("INFO").arg("server").query_async(&mut connection).await?;
        let run_id = info
            .lines()
            .find_map(|line| line.strip_prefix("run_id:"))
            .unwrap_or_default();
        self.run_id = u64::from_str_radix(run_id.get(..16).unwrap_or("0"), 16).unwrap_or_default();
        Ok(connection)
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
