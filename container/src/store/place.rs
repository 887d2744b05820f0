//! Where Redis is: one server, or Sentinels that know which of several servers is the master.

use std::borrow::Cow;
use std::collections::HashMap;
use std::path::Path;
use std::time::Duration;

use redis::{ConnectionAddr, ConnectionInfo, IntoConnectionInfo as _, RedisConnectionInfo, RedisResult};
use tokio::task::JoinSet;

use super::Lost;
use super::connection::{self, Connection, Patience, Refused};
use super::tls::Tls;

/// Where a Sentinel listens if nothing is said.
const SENTINEL_PORT: u16 = 26_379;

/// More Sentinels than anybody runs; bounds what one reconnection asks.
const MAX_SENTINELS: usize = 15;

/// One server, or the Sentinels of several, and how many replicas there are to wait for.
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
}

/// What a Sentinel says of the master.
#[derive(Debug, PartialEq, Eq)]
struct Said {
    /// Grows with every promotion that the Sentinel has heard of.
    epoch: u64,
    host: String,
    port: u16,
    /// A quorum has found it dead, and nothing was promoted yet.
    down: bool,
}

impl Place {
    /// By `redis://[[user]:password@]host[:port][/database]`, or `redis-sentinel://[[user]:password@]host[:port][,host[:port]…][/database]#master`
    /// with the hosts of Sentinels; behind the server, or the master, stand so many replicas. With `rediss` in place of `redis` all of them are
    /// spoken to over TLS, and `ca` is a file of the CAs (PEM) that may have signed their certificates.
    ///
    /// # Errors
    /// Fails if `url` is neither, or if only one of `url` and `ca` is about TLS.
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
        let servers = match url.strip_prefix("redis-sentinel://") {
            Some(rest) => watched(rest)?,
            None if is_secured && url.contains('#') => {
                return Err(Lost(
                    "certificates are checked always: nothing follows behind a #".into(),
                ));
            }
            None => Servers::One(Box::new(url.as_ref().into_connection_info()?)),
        };
        Ok(Self { servers, replicas, tls })
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

    /// The server, or whom a majority of the Sentinels lets take for the master at present, and whether it has yet to show that it is one.
    ///
    /// # Errors
    /// Too few Sentinels answer within `patience`, or the master is down and no other was promoted yet.
    pub(super) async fn find(&self, patience: Duration) -> Result<(ConnectionInfo, bool), Lost> {
        match &self.servers {
            Servers::One(server) => Ok((server.as_ref().clone(), false)),
            Servers::Watched {
                sentinels,
                master,
                settings,
            } => {
                let said = ask_all(sentinels, master, self.tls.as_ref(), patience).await?;
                if said.down {
                    return Err(Lost(format!(
                        "the master {}:{} is down, and the Sentinels have promoted no other yet",
                        said.host, said.port
                    )));
                }
                let info = (said.host, said.port).into_connection_info()?;
                Ok((info.set_redis_settings(settings.as_ref().clone()), true))
            }
        }
    }
}

/// The URL as it would be without TLS, and whether it is for TLS.
fn without_tls(url: &str) -> (Cow<'_, str>, bool) {
    match url.strip_prefix("rediss") {
        Some(rest) if rest.starts_with("://") || rest.starts_with("-sentinel://") => {
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
            format!(":{SENTINEL_PORT}")
        };
        format!("redis://{user}{host}{port}{path}").into_connection_info()
    };
    let servers: Vec<_> = hosts.split(',').map(server).collect::<RedisResult<_>>()?;
    let Some(first) = servers.first().filter(|_| servers.len() <= MAX_SENTINELS) else {
        return Err(Lost(format!("1 to {MAX_SENTINELS} Sentinels can be named")));
    };
    let settings = Box::new(first.redis_settings().clone());
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

/// Asks all Sentinels at once. Of the first majority that answers, who has heard of the latest promotion is believed: a single one may be cut
/// off together with a former master, and a lost node's would have to be waited for.
async fn ask_all(
    sentinels: &[ConnectionInfo],
    master: &str,
    tls: Option<&Tls>,
    patience: Duration,
) -> Result<Said, Lost> {
    let majority = sentinels.len() / 2 + 1;
    let mut asked = JoinSet::new();
    for sentinel in sentinels {
        let (sentinel, master, tls) = (sentinel.clone(), master.to_owned(), tls.cloned());
        asked.spawn(async move { ask(sentinel, &master, tls.as_ref(), patience).await });
    }
    let (mut said, mut why) = (Vec::new(), String::new());
    while let Some(answer) = asked.join_next().await {
        match answer.map_err(|error| Lost(error.to_string())).flatten() {
            Ok(answer) => said.push(answer),
            Err(error) => why = error.0,
        }
        if said.len() == majority {
            break;
        }
    }
    if said.len() < majority {
        let (some, all) = (said.len(), sentinels.len());
        return Err(Lost(format!(
            "{some} of {all} Sentinels name a master called {master}: {why}"
        )));
    }
    // Of two that have heard of the same promotion one may know that its master is down.
    let latest = said.into_iter().max_by_key(|said| (said.epoch, said.down));
    latest.ok_or_else(|| Lost("no Sentinel".into()))
}

async fn ask(sentinel: ConnectionInfo, master: &str, tls: Option<&Tls>, patience: Duration) -> Result<Said, Lost> {
    let address = sentinel.addr().to_string();
    ask_one(sentinel, master, tls, patience)
        .await
        .map_err(|error| Lost(format!("{address}: {error}")))
}

async fn ask_one(sentinel: ConnectionInfo, master: &str, tls: Option<&Tls>, patience: Duration) -> Result<Said, Lost> {
    let patience = Patience {
        connection: patience,
        answer: patience,
    };
    let opened = match connection::open(sentinel.clone(), tls, patience).await {
        // The servers' password may be none of the Sentinel's, which then has none.
        Err(refused) if refused.of_password => {
            let without = sentinel.set_redis_settings(RedisConnectionInfo::default());
            connection::open(without, tls, patience).await
        }
        other => other,
    };
    let mut connection = opened.map_err(|refused| refused.lost)?;
    let mut commands = redis::pipe();
    commands.cmd("SENTINEL").arg("MASTER").arg(master);
    commands.cmd("SENTINEL").arg("GET-MASTER-ADDR-BY-NAME").arg(master);
    let (fields, address): (HashMap<String, String>, (String, u16)) =
        commands.query_async(&mut connection.commands).await?;
    said(&fields, address).ok_or_else(|| Lost("an answer without the master's address".into()))
}

/// The address is that of the second question. While the Sentinel that leads a promotion still leads the other replicas away, it gives the new
/// epoch and the former master's fields in answer to the first, and only there.
fn said(fields: &HashMap<String, String>, (host, port): (String, u16)) -> Option<Said> {
    let is_former = fields.get("ip")? != &host || fields.get("port")?.parse() != Ok(port);
    let is_down = fields.get("flags")?.split(',').any(|flag| flag == "o_down");
    Some(Said {
        epoch: fields.get("config-epoch")?.parse().ok()?,
        host,
        port,
        down: is_down && !is_former,
    })
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
            Servers::One(_) => panic!("{url} names Sentinels"),
            Servers::Watched {
                sentinels,
                master,
                settings,
            } => (sentinels.iter().map(shown).collect(), master, *settings),
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
    fn a_url_that_names_nothing_is_refused() {
        let many = format!("redis-sentinel://{}#demo", ["h"; 16].join(","));
        for url in [
            "redis-sentinel://10.0.0.1",
            "redis-sentinel://#demo",
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
        for url in ["rediss://:p@h:6380/2", "rediss-sentinel://h,i#demo"] {
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

    #[test]
    fn whoever_leads_a_promotion_names_the_new_master_and_not_that_the_former_is_down() {
        let fields = |flags: &str| {
            [
                ("ip", "10.0.0.1"),
                ("port", "6379"),
                ("config-epoch", "7"),
                ("flags", flags),
            ]
            .map(|(field, value)| (field.to_owned(), value.to_owned()))
            .into()
        };
        let leads = said(&fields("master,o_down,failover_in_progress"), ("10.0.0.2".into(), 6379)).expect("good");
        assert_eq!((leads.host.as_str(), leads.epoch, leads.down), ("10.0.0.2", 7, false));
        let waits = said(&fields("master,s_down,o_down"), ("10.0.0.1".into(), 6379)).expect("good");
        assert_eq!((waits.host.as_str(), waits.down), ("10.0.0.1", true));
    }
}
