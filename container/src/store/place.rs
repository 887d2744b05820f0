//! Where Redis is: one server, or Sentinels or nodes of a Redis Cluster, which know who of several servers is the master.

use std::borrow::Cow;
use std::path::Path;
use std::time::Duration;

use redis::{ConnectionAddr, ConnectionInfo, IntoConnectionInfo as _, RedisConnectionInfo, RedisResult};

use super::Lost;
use super::asked::{Question, ask_all};
use super::connection::{self, Connection, Patience, Refused};
use super::tls::Tls;

/// Where a server listens if nothing is said.
const PORT: u16 = 6379;

/// Where a Sentinel listens if nothing is said.
const SENTINEL_PORT: u16 = 26_379;

/// More than anybody names; bounds what one reconnection asks.
const MAX_NAMED: usize = 15;

/// One server, or who knows the master of several, and how many replicas there are to wait for.
#[derive(Clone, Debug)]
pub struct Place {
    servers: Servers,
    replicas: u8,
    /// For servers and Sentinels alike; nothing where they are spoken to in plain text.
    tls: Option<Tls>,
}

#[derive(Clone, Debug)]
enum Servers {
    One(Box<ConnectionInfo>),
    Watched {
        /// At least one.
        sentinels: Vec<ConnectionInfo>,
        /// The master's name among the Sentinels.
        master: String,
        /// User, password and database at the master.
        settings: Box<RedisConnectionInfo>,
    },
    RedisCluster {
        /// At least one, not necessarily all.
        nodes: Vec<ConnectionInfo>,
    },
}

impl Place {
    /// By `redis://[[user]:password@]host[:port][/database]`, or `redis-sentinel://[[user]:password@]host[:port][,host[:port]…][/database]#master`
    /// with the hosts of Sentinels, or `redis-cluster://[[user]:password@]host[:port][,host[:port]…]` with nodes of a Redis Cluster; behind the
    /// server, or the master, stand so many replicas. With `rediss` in place of `redis` all of them are
    /// spoken to over TLS, and `ca` is a file of the CAs (PEM) that may have signed their certificates.
    ///
    /// # Errors
    /// Fails if `url` is none of them, or if only one of `url` and `ca` is about TLS.
    pub fn new(url: &str, replicas: u8, ca: Option<&Path>) -> Result<Self, Lost> {
        let (url, is_secured) = without_tls(url);
        let tls = match (is_secured, ca) {
            (true, Some(ca)) => Some(Tls::new(ca.to_owned())),
            (false, None) => None,
            (true, None) => {
                return Err(Lost(
                    "for rediss:// name the CA of the certificates (--redis-ca)".into(),
                ));
            }
            (false, Some(_)) => return Err(Lost("there is a CA (--redis-ca), so the URL begins with rediss".into())),
        };
        let servers = match url.split_once("://") {
            Some(("redis-sentinel", rest)) => watched(rest)?,
            Some(("redis-cluster", rest)) => redis_cluster(rest)?,
            _ if is_secured && url.contains('#') => {
                return Err(Lost(
                    "certificates are checked always: nothing follows behind a #".into(),
                ));
            }
            _ => Servers::One(Box::new(url.as_ref().into_connection_info()?)),
        };
        Ok(Self { servers, replicas, tls })
    }

    /// Whether it is a Redis Cluster, in which a script reaches keys of one hash tag only.
    #[must_use]
    pub(super) fn is_redis_cluster(&self) -> bool {
        matches!(self.servers, Servers::RedisCluster { .. })
    }

    /// Connects to the server that was found.
    pub(super) async fn open(&self, server: ConnectionInfo, patience: Patience) -> Result<Connection, Refused> {
        connection::open(server, self.tls.as_ref(), patience).await
    }

    /// How many replicas have to have a write, a lease or a claim before it counts: with the master a majority of all, so that a master which is
    /// cut off from the others acknowledges and grants nothing.
    #[must_use]
    pub fn awaited_replicas(&self) -> u8 {
        self.replicas.div_ceil(2)
    }

    /// The server, or who is taken for the master at present, in a Redis Cluster for that of `key`, and whether it has yet to show that it is one.
    ///
    /// # Errors
    /// Too few of those that know answer within `patience`, or the master is down and no other was promoted yet.
    pub(super) async fn find(&self, key: &str, patience: Duration) -> Result<(ConnectionInfo, bool), Lost> {
        let (asked, question, settings) = match &self.servers {
            Servers::One(server) => return Ok((server.as_ref().clone(), false)),
            Servers::Watched {
                sentinels,
                master,
                settings,
            } => (sentinels, Question::MasterCalled(master.clone()), settings.as_ref()),
            Servers::RedisCluster { nodes } => (nodes, Question::MasterOf(key.into()), nodes[0].redis_settings()),
        };
        let said = ask_all(asked, question, self.tls.as_ref(), patience).await?;
        if said.down {
            return Err(Lost(format!(
                "the master {}:{} is down, and no other has been promoted yet",
                said.host, said.port
            )));
        }
        let info = (said.host, said.port).into_connection_info()?;
        Ok((info.set_redis_settings(settings.clone()), true))
    }
}

/// The URL as it would be without TLS, and whether it is for TLS.
fn without_tls(url: &str) -> (Cow<'_, str>, bool) {
    match url.strip_prefix("rediss") {
        Some(rest)
            if ["://", "-sentinel://", "-cluster://"]
                .iter()
                .any(|kind| rest.starts_with(kind)) =>
        {
            (format!("redis{rest}").into(), true)
        }
        _ => (url.into(), false),
    }
}

/// The hosts of a URL of Sentinels, and the master's name.
fn watched(rest: &str) -> Result<Servers, Lost> {
    let (rest, master) = rest.split_once('#').unwrap_or((rest, ""));
    if master.is_empty() {
        return Err(Lost(
            "the URL of Sentinels ends in #MASTER, the name of their master".into(),
        ));
    }
    let servers = hosts(rest, SENTINEL_PORT)?;
    let settings = Box::new(servers[0].redis_settings().clone());
    // A Sentinel has one database.
    let sentinels = servers
        .into_iter()
        .map(|info| {
            let settings = info.redis_settings().clone().set_db(0);
            info.set_redis_settings(settings)
        })
        .collect();
    Ok(Servers::Watched {
        sentinels,
        master: master.to_owned(),
        settings,
    })
}

/// The hosts of a URL of a Redis Cluster.
fn redis_cluster(rest: &str) -> Result<Servers, Lost> {
    if rest.contains(['/', '#']) {
        return Err(Lost(
            "a Redis Cluster has one database and no name: nothing follows behind the hosts".into(),
        ));
    }
    Ok(Servers::RedisCluster {
        nodes: hosts(rest, PORT)?,
    })
}

/// Those in `[[user]:password@]host[:port][,host[:port]…][/database]`: at least one.
fn hosts(rest: &str, port: u16) -> Result<Vec<ConnectionInfo>, Lost> {
    let (authority, path) = rest.find('/').map_or((rest, ""), |at| rest.split_at(at));
    let (user, hosts) = match authority.rsplit_once('@') {
        Some((user, hosts)) => (format!("{user}@"), hosts),
        None => (String::new(), authority),
    };
    let server = |host: &str| -> RedisResult<ConnectionInfo> {
        // In an IPv6 literal a colon is no sign of a port.
        let after_literal = host.rsplit_once(']').map_or(host, |(_, after)| after);
        let port = if after_literal.contains(':') {
            String::new()
        } else {
            format!(":{port}")
        };
        format!("redis://{user}{host}{port}{path}").into_connection_info()
    };
    let servers: Vec<_> = hosts.split(',').map(server).collect::<RedisResult<_>>()?;
    if servers.len() > MAX_NAMED {
        return Err(Lost(format!("1 to {MAX_NAMED} hosts can be named")));
    }
    Ok(servers)
}

/// `host:port`, for messages.
pub(super) fn shown(info: &ConnectionInfo) -> String {
    match info.addr() {
        ConnectionAddr::Tcp(host, port) if host.contains(':') => format!("[{host}]:{port}"),
        ConnectionAddr::Tcp(host, port) => format!("{host}:{port}"),
        other => other.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sentinels(url: &str) -> (Vec<String>, String, RedisConnectionInfo) {
        match Place::new(url, 2, None).expect("a good URL").servers {
            Servers::Watched {
                sentinels,
                master,
                settings,
            } => (sentinels.iter().map(shown).collect(), master, *settings),
            other => panic!("{url} names Sentinels, not {other:?}"),
        }
    }

    #[test]
    fn a_url_names_sentinels_their_master_and_what_opens_both() {
        let (hosts, master, settings) = sentinels("redis-sentinel://me:p%40w@10.0.0.1,[fd00::2],name:7000/3#demo");
        assert_eq!(hosts, ["10.0.0.1:26379", "[fd00::2]:26379", "name:7000"]);
        assert_eq!(master, "demo");
        assert_eq!(
            (settings.username(), settings.password(), settings.db()),
            (Some("me"), Some("p@w"), 3)
        );
    }

    #[test]
    fn a_url_names_nodes_of_a_redis_cluster() {
        let place = Place::new("redis-cluster://me:p%40w@10.0.0.1,[fd00::2]:7000", 1, None).expect("a good URL");
        let Servers::RedisCluster { nodes } = &place.servers else {
            panic!("{place:?}")
        };
        let hosts: Vec<_> = nodes.iter().map(shown).collect();
        assert_eq!(hosts, ["10.0.0.1:6379", "[fd00::2]:7000"]);
        let settings = nodes[1].redis_settings();
        assert_eq!((settings.username(), settings.password()), (Some("me"), Some("p@w")));
        assert!(place.is_redis_cluster());
    }

    #[test]
    fn a_url_that_names_nothing_is_refused() {
        let many = format!("redis-sentinel://{}#demo", ["h"; 16].join(","));
        for url in [
            "redis-sentinel://10.0.0.1",
            "redis-sentinel://#demo",
            "redis-cluster://",
            "redis-cluster://10.0.0.1/1",
            "redis-cluster://10.0.0.1#demo",
            "http://10.0.0.1",
            &many,
        ] {
            assert!(Place::new(url, 0, None).is_err(), "{url}");
        }
    }

    #[test]
    fn a_url_and_a_ca_go_together() {
        let ca = Some(Path::new("/ca.crt"));
        for (url, ca, what) in [
            ("rediss://h", None, "--redis-ca"),
            ("rediss-sentinel://h#demo", None, "--redis-ca"),
            ("redis://h", ca, "rediss"),
            ("redis-sentinel://h#demo", ca, "rediss"),
            ("rediss://h/#insecure", ca, "always"),
        ] {
            let Lost(message) = Place::new(url, 0, ca).expect_err("half of it");
            assert!(message.contains(what), "{url}: {message}");
        }
        for url in [
            "rediss://:p@h:6380/2",
            "rediss-sentinel://h,i#demo",
            "rediss-cluster://h,i",
        ] {
            assert!(Place::new(url, 0, ca).is_ok_and(|place| place.tls.is_some()), "{url}");
        }
    }

    #[test]
    fn with_the_master_a_majority_is_awaited() {
        let awaited = |replicas| {
            Place::new("redis://h", replicas, None)
                .expect("a good URL")
                .awaited_replicas()
        };
        assert_eq!([0, 1, 2, 3, 4].map(awaited), [0, 1, 1, 2, 2]);
    }
}
