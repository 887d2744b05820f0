//! One connection to a server or a Sentinel, with TLS or without.

use std::time::Duration;

use redis::aio::MultiplexedConnection;
use redis::{AsyncConnectionConfig, Client, ConnectionAddr, ConnectionInfo, ErrorKind, RedisError};
use tokio::task::AbortHandle;

use super::Lost;
use super::tls::{self, Tls};

/// How long what may take.
#[derive(Clone, Copy, Debug)]
pub(super) struct Patience {
    /// Until the connection is there: a handshake and a greeting too.
    pub connection: Duration,
    /// Until an answer has come.
    pub answer: Duration,
}

/// A connection. It ends with this value: of what it had under way nothing is sent after that.
pub(super) struct Connection {
    /// Takes commands.
    pub commands: MultiplexedConnection,
    /// What moves bytes over TLS; without, the crate sees to it.
    driver: Option<AbortHandle>,
}

impl Drop for Connection {
    fn drop(&mut self) {
        if let Some(driver) = &self.driver {
            driver.abort();
        }
    }
}

/// Why there is none.
#[derive(Debug)]
pub(super) struct Refused {
    /// For people.
    pub lost: Lost,
    /// The password is not the server's, which may have none.
    pub of_password: bool,
}

impl From<Lost> for Refused {
    fn from(lost: Lost) -> Self {
        Self {
            lost,
            of_password: false,
        }
    }
}

impl Refused {
    fn by_redis(error: &RedisError, remedy: Option<&str>) -> Self {
        let lost = match remedy {
            Some(remedy) => format!("{error}; {remedy}"),
            None => error.to_string(),
        };
        Self {
            lost: Lost(lost),
            of_password: error.kind() == ErrorKind::AuthenticationFailed,
        }
    }
}

/// Connects and greets.
pub(super) async fn open(info: ConnectionInfo, tls: Option<&Tls>, patience: Patience) -> Result<Connection, Refused> {
    let config = AsyncConnectionConfig::new()
        .set_connection_timeout(Some(patience.connection))
        .set_response_timeout(Some(patience.answer));
    match tls {
        None => open_plain(info, &config).await,
        Some(tls) => {
            let opened = tokio::time::timeout(patience.connection, open_over(&info, tls, config)).await;
            opened.unwrap_or_else(|_| {
                let within = patience.connection;
                Err(Lost(format!(
                    "no TLS within {within:?}; if it can be reached, {}",
                    tls::OTHER_PORT
                ))
                .into())
            })
        }
    }
}

async fn open_plain(info: ConnectionInfo, config: &AsyncConnectionConfig) -> Result<Connection, Refused> {
    let tcp = info.tcp_settings().clone().set_nodelay(true);
    let client = Client::open(info.set_tcp_settings(tcp)).map_err(|error| Refused::by_redis(&error, None))?;
    let opened = client.get_multiplexed_async_connection_with_config(config).await;
    match opened {
        Ok(commands) => Ok(Connection { commands, driver: None }),
        Err(error) => {
            // A server that waits for a handshake ends a connection that begins otherwise.
            let is_ended = error.is_connection_dropped() && !error.is_connection_refusal();
            let is_ended = is_ended || error.kind() == ErrorKind::Parse;
            Err(Refused::by_redis(&error, is_ended.then_some(tls::OTHER_SCHEME)))
        }
    }
}

async fn open_over(info: &ConnectionInfo, tls: &Tls, config: AsyncConnectionConfig) -> Result<Connection, Refused> {
    let ConnectionAddr::Tcp(host, port) = info.addr() else {
        return Err(Lost(format!("{}: no host and port", info.addr())).into());
    };
    let stream = tls.connect(host, *port).await?;
    let greeted = MultiplexedConnection::new_with_config(info.redis_settings(), stream, config).await;
    let (commands, driver) = greeted.map_err(|error| {
        // Of TLS 1.3 the client's part is over before the server has looked at its certificate.
        let wants_ours = error.to_string().contains("CertificateRequired");
        Refused::by_redis(&error, wants_ours.then_some(tls::WANTS_OURS))
    })?;
    Ok(Connection {
        commands,
        driver: Some(tokio::spawn(driver).abort_handle()),
    })
}
