//! The command line and environment, parsed to final types before any port is bound.

use std::fmt;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use admin::logging::Format;
use clap::Parser;
use proxy::forward::{Config as ForwarderConfig, Listener};
use ucf::flow::MAX_LISTENERS;
use ucf::token::{Key, Unfit, other_keys};

use crate::endpoints::file::{self, Unreadable};
use crate::endpoints::{Endpoint, Source};

/// Exit code of a wrong configuration (EX_USAGE).
pub const EXIT_USAGE: i32 = 64;

/// Workers of one process, at most: a flow names one in two bytes, and no machine has more cores to use.
const MAX_WORKERS: u16 = 1024;

/// The SIP proxy of a cluster: clients on one side, containers on the other.
#[derive(Debug, Parser)]
#[command(name = "sipcluster-proxy", version)]
struct Arguments {
    /// The cluster's name.
    #[arg(long, env = "SIPCLUSTER_CLUSTER")]
    cluster: String,
    /// This proxy's name, as it stands in logs and in what it tells containers.
    #[arg(long, env = "SIPCLUSTER_NAME")]
    name: String,
    /// An address for clients, such as udp:192.0.2.1:5060 or tcp:[2001:db8::1]:5060; repeat for more.
    #[arg(long, env = "SIPCLUSTER_LISTEN", value_delimiter = ',', required = true)]
    listen: Vec<String>,
    /// HOST:PORT as clients reach a listener; once for all listeners, or once for each in their order. Default: its address.
    #[arg(long, env = "SIPCLUSTER_ADVERTISED", value_delimiter = ',')]
    advertised: Vec<String>,
    /// Another host name under which clients reach the cluster; repeat for more.
    #[arg(long, env = "SIPCLUSTER_ALIASES", value_delimiter = ',')]
    alias: Vec<String>,
    /// A host name that leads to every proxy of the cluster, where each has an address of its own: it stands in Record-Route in place of the
    /// address, and is an alias.
    #[arg(long, env = "SIPCLUSTER_ROUTE_HOST")]
    route_host: Option<String>,
    /// The host that containers are told as the advertised one, where each proxy has an address of its own: in Contact that address takes its place.
    #[arg(long, env = "SIPCLUSTER_STAND_IN")]
    stand_in: Option<String>,
    /// A number, or a service such as urn:service:police, whose calls are refused last in an overload, as those to urn:service:sos always are;
    /// repeat for more.
    #[arg(long, env = "SIPCLUSTER_EMERGENCY", value_delimiter = ',')]
    emergency: Vec<String>,
    /// JSON file with the containers and, without "sip", the proxies: [{"name": ..., "sip": ADDRESS, "ucf": ADDRESS}]; read again
    /// whenever it changes.
    #[arg(
        long,
        env = "SIPCLUSTER_ENDPOINTS",
        required_unless_present = "endpoints_of",
        conflicts_with = "endpoints_of"
    )]
    endpoints: Option<PathBuf>,
    /// In place of the file, on Kubernetes: NAMESPACE/SERVICE whose EndpointSlices list containers (ports "sip" and "ucf") or proxies
    /// ("ucf"); repeat for more.
    #[arg(long, env = "SIPCLUSTER_ENDPOINTS_OF", value_delimiter = ',')]
    endpoints_of: Vec<String>,
    /// Worker threads. Default: one per core.
    #[arg(long, env = "SIPCLUSTER_WORKERS")]
    workers: Option<String>,
    /// Partitions of the cluster.
    #[arg(long, env = "SIPCLUSTER_PARTITIONS", default_value = "1024")]
    partitions: String,
    /// The cluster's secret: 32 hexadecimal digits, with another id than 0 as ID:DIGITS. Better given by the environment.
    #[arg(long, env = "SIPCLUSTER_KEY", hide_env_values = true)]
    key: String,
    /// Another secret that counts, one that is retired or is yet to be taken, as ID:DIGITS; repeat for more.
    #[arg(long, env = "SIPCLUSTER_OTHER_KEYS", hide_env_values = true, value_delimiter = ',')]
    other_key: Vec<String>,
    /// The cluster's first secret, whichever it is that it has now: by it requests are told apart, and all proxies must do so alike. Default: the
    /// secret that it has now.
    #[arg(long, env = "SIPCLUSTER_TRANSACTION_KEY", hide_env_values = true)]
    transaction_key: Option<String>,
    /// The lease of members, in milliseconds.
    #[arg(long, env = "SIPCLUSTER_LEASE_MS", default_value = "2000")]
    lease_ms: String,
    /// How long, in milliseconds, client connections may take to come to rest after SIGTERM.
    #[arg(long, env = "SIPCLUSTER_DRAIN_MS", default_value = "10000")]
    drain_ms: String,
    /// Address for the cluster's other proxies, through which they reach containers that they do not reach themselves. Default: none.
    #[arg(long, env = "SIPCLUSTER_UCF")]
    ucf: Option<String>,
    /// Address of health, metrics and state, over HTTP.
    #[arg(long, env = "SIPCLUSTER_ADMIN")]
    admin: Option<String>,
    /// Log format: text or json.
    #[arg(long, env = "SIPCLUSTER_LOG_FORMAT", default_value = "text")]
    log_format: String,
}

/// A wrong setting.
#[derive(Debug, PartialEq, Eq)]
pub struct Invalid {
    field: &'static str,
    value: String,
    remedy: String,
}

/// What one listener's address takes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Binding {
    /// Where.
    pub address: SocketAddr,
    /// Datagrams.
    pub udp: bool,
    /// Connections.
    pub tcp: bool,
}

/// The configuration in final types.
#[derive(Debug)]
pub struct Config {
    /// The cluster's name.
    pub cluster: String,
    /// This proxy's name.
    pub name: String,
    /// What is bound, parallel to `listeners`.
    pub bindings: Vec<Binding>,
    /// The same for the forwarder.
    pub listeners: Vec<Listener>,
    /// Other names of the cluster.
    pub aliases: Vec<String>,
    /// A name of all proxies, for Record-Route.
    pub route_host: Option<String>,
    /// What containers write in place of an address.
    pub stand_in: Option<String>,
    /// Numbers and services of emergency calls.
    pub emergency: Vec<String>,
    /// Where containers and proxies are listed.
    pub source: Source,
    /// What a file said at the start; nothing if it does not exist yet.
    pub endpoints: Vec<Endpoint>,
    /// Worker threads.
    pub workers: u16,
    /// Partitions of the cluster.
    pub partitions: u32,
    /// The current key.
    pub key: Key,
    /// Others that verify.
    pub other_keys: Vec<Key>,
    /// The one that hashes transactions.
    pub transaction_key: Key,
    /// The lease of members.
    pub lease: Duration,
    /// How long client connections may take to come to rest after SIGTERM.
    pub drain: Duration,
    /// Where other proxies link.
    pub ucf: Option<SocketAddr>,
    /// Where to show health, metrics and state.
    pub admin: Option<SocketAddr>,
    /// How log lines look.
    pub log_format: Format,
}

impl fmt::Display for Invalid {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {:?} is not valid; {}", self.field, self.value, self.remedy)
    }
}

impl Invalid {
    fn key(field: &'static str, Unfit { value, remedy }: Unfit) -> Self {
        Self {
            field,
            value,
            remedy: remedy.into(),
        }
    }
}

impl Config {
    /// The process's configuration; ends the process with what is wrong and how to mend it if it is not valid.
    pub fn from_process() -> Self {
        let arguments = Arguments::try_parse().unwrap_or_else(|error| {
            let _ = error.print();
            std::process::exit(if error.use_stderr() { EXIT_USAGE } else { 0 });
        });
        arguments.check().unwrap_or_else(|invalid| {
            eprintln!("sipcluster-proxy: {invalid}");
            std::process::exit(EXIT_USAGE);
        })
    }

    /// One worker's part of it; `local` are the addresses that were bound.
    pub fn forwarder(
        &self,
        me: ucf::ProxyId,
        keyring: std::sync::Arc<ucf::token::Keyring>,
        entropy: u64,
        started: Duration,
    ) -> ForwarderConfig {
        ForwarderConfig {
            me,
            workers: self.workers,
            cluster: self.cluster.clone(),
            keyring,
            listeners: self.listeners.clone(),
            aliases: self.aliases.clone(),
            route_host: self.route_host.clone(),
            stand_in: self.stand_in.clone(),
            emergency: self.emergency.clone(),
            lease: self.lease,
            entropy,
            started,
            limits: proxy::forward::Limits::default(),
        }
    }
}

impl Arguments {
    fn check(self) -> Result<Config, Invalid> {
        let bindings = bindings(&self.listen)?;
        let listeners = listeners(&bindings, &self.advertised)?;
        let cores = std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
        let workers = match &self.workers {
            Some(text) => number("--workers", text, 1, MAX_WORKERS.into())?,
            None => cores.min(MAX_WORKERS.into()) as u64,
        };
        let admin = self
            .admin
            .map(|text| address("--admin", &text, "give ADDRESS:PORT, such as 127.0.0.1:9090"))
            .transpose()?;
        let ucf = self
            .ucf
            .map(|text| address("--ucf", &text, "give ADDRESS:PORT, such as 127.0.0.1:6062"))
            .transpose()?;
        let (source, endpoints) = match self.endpoints {
            Some(path) => {
                let endpoints = listed(&path)?;
                (Source::File(path), endpoints)
            }
            None => (services(&self.endpoints_of)?, Vec::new()),
        };
        let current = key("--key", &self.key)?;
        Ok(Config {
            cluster: named("--cluster", self.cluster)?,
            name: named("--name", self.name)?,
            bindings,
            listeners,
            aliases: self.alias,
            route_host: self.route_host.map(|name| host("--route-host", name)).transpose()?,
            stand_in: self.stand_in.map(|name| host("--stand-in", name)).transpose()?,
            emergency: self.emergency,
            source,
            endpoints,
            workers: workers as u16,
            partitions: number("--partitions", &self.partitions, 1, 65_536)? as u32,
            key: current,
            other_keys: other_keys(current, &self.other_key).map_err(|unfit| Invalid::key("--other-key", unfit))?,
            transaction_key: match &self.transaction_key {
                Some(text) => key("--transaction-key", text)?,
                None => current,
            },
            lease: Duration::from_millis(number("--lease-ms", &self.lease_ms, 100, 600_000)?),
            drain: Duration::from_millis(number("--drain-ms", &self.drain_ms, 0, 600_000)?),
            ucf,
            admin,
            log_format: self.log_format.parse().map_err(|_| Invalid {
                field: "--log-format",
                value: self.log_format.clone(),
                remedy: "give text or json".into(),
            })?,
        })
    }
}

/// What the file lists at the start.
fn listed(path: &Path) -> Result<Vec<Endpoint>, Invalid> {
    match file::read(path) {
        Ok(list) => Ok(list),
        Err(Unreadable::Missing) => Ok(Vec::new()),
        Err(Unreadable::Wrong(why)) => Err(Invalid {
            field: "--endpoints",
            value: path.display().to_string(),
            remedy: format!(
                "{why}; the file must be [{{\"name\": \"demo-0\", \"sip\": \"127.0.0.1:6060\", \"ucf\": \"127.0.0.1:6061\"}}]"
            ),
        }),
    }
}

fn services(names: &[String]) -> Result<Source, Invalid> {
    let service = |text: &String| {
        text.parse().map_err(|()| Invalid {
            field: "--endpoints-of",
            value: text.clone(),
            remedy: "give NAMESPACE/SERVICE, such as default/demo-containers".into(),
        })
    };
    names
        .iter()
        .map(service)
        .collect::<Result<_, _>>()
        .map(Source::Services)
}

fn named(field: &'static str, value: String) -> Result<String, Invalid> {
    // What a Kubernetes name may be; it stands in Redis keys and logs.
    let fits = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '.' | '_');
    if value.is_empty() || value.len() > 253 || !value.chars().all(fits) {
        return Err(Invalid {
            field,
            value,
            remedy: "give 1 to 253 letters, digits, '-', '.' or '_'".into(),
        });
    }
    Ok(value)
}

/// A host name as it may stand in a URI (RFC 3261 s25.1).
fn host(field: &'static str, name: String) -> Result<String, Invalid> {
    if name.is_empty() || !name.chars().all(is_of_host) {
        return Err(Invalid {
            field,
            value: name,
            remedy: "give a host name, such as sip.example.com".into(),
        });
    }
    Ok(name)
}

fn is_of_host(c: char) -> bool {
    c.is_ascii_alphanumeric() || matches!(c, '-' | '.')
}

fn number(field: &'static str, text: &str, least: u64, most: u64) -> Result<u64, Invalid> {
    text.parse()
        .ok()
        .filter(|value| (least..=most).contains(value))
        .ok_or_else(|| Invalid {
            field,
            value: text.into(),
            remedy: format!("give a number from {least} to {most}"),
        })
}

fn address(field: &'static str, text: &str, remedy: &str) -> Result<SocketAddr, Invalid> {
    // The brackets of an IPv6 address may be missing, as where Kubernetes puts in a pod's address.
    let bare = || {
        let (ip, port) = text.rsplit_once(':')?;
        Some(SocketAddr::new(ip.parse().ok()?, port.parse().ok()?))
    };
    text.parse().ok().or_else(bare).ok_or_else(|| Invalid {
        field,
        value: text.into(),
        remedy: remedy.into(),
    })
}

fn key(field: &'static str, text: &str) -> Result<Key, Invalid> {
    text.parse().map_err(|unfit| Invalid::key(field, unfit))
}

/// Groups the listeners by address: UDP and TCP on one address are one listener.
fn bindings(listen: &[String]) -> Result<Vec<Binding>, Invalid> {
    const REMEDY: &str = "give udp:ADDRESS:PORT or tcp:ADDRESS:PORT, such as udp:127.0.0.1:5060";
    let mut found: Vec<Binding> = Vec::new();
    for text in listen {
        let invalid = |remedy: &str| Invalid {
            field: "--listen",
            value: text.clone(),
            remedy: remedy.into(),
        };
        let (transport, rest) = text.split_once(':').ok_or_else(|| invalid(REMEDY))?;
        let (udp, tcp) = match transport {
            "udp" => (true, false),
            "tcp" => (false, true),
            _ => return Err(invalid(REMEDY)),
        };
        let address = address("--listen", rest, REMEDY).map_err(|_| invalid(REMEDY))?;
        if address.port() == 0 {
            return Err(invalid("give the port that clients are to use, not 0"));
        }
        match found.iter_mut().find(|binding| binding.address == address) {
            Some(same) if (udp && same.udp) || (tcp && same.tcp) => {
                return Err(invalid("it is given twice; leave one out"));
            }
            Some(same) => {
                same.udp |= udp;
                same.tcp |= tcp;
            }
            None => found.push(Binding { address, udp, tcp }),
        }
        if found.len() > MAX_LISTENERS {
            return Err(invalid("at most 16 addresses are possible; leave this one out"));
        }
    }
    Ok(found)
}

fn listeners(bindings: &[Binding], advertised: &[String]) -> Result<Vec<Listener>, Invalid> {
    if !matches!(advertised.len(), 0 | 1) && advertised.len() != bindings.len() {
        return Err(Invalid {
            field: "--advertised",
            value: advertised.join(","),
            remedy: format!(
                "give it once, or once for each of the {} listening addresses",
                bindings.len()
            ),
        });
    }
    let each = bindings.iter().enumerate();
    each.map(|(index, binding)| {
        let (host, port) = match advertised.get(index).or_else(|| advertised.first()) {
            Some(text) => advertised_address(text)?,
            None if binding.address.ip().is_unspecified() => {
                return Err(Invalid {
                    field: "--listen",
                    value: binding.address.to_string(),
                    remedy: "an unspecified address cannot be called; add --advertised HOST:PORT as clients reach it"
                        .into(),
                });
            }
            None => (binding.address.ip().to_string(), binding.address.port()),
        };
        Ok(Listener {
            local: binding.address,
            host,
            port,
        })
    })
    .collect()
}

fn advertised_address(text: &str) -> Result<(String, u16), Invalid> {
    let split = text
        .rsplit_once(':')
        .and_then(|(host, port)| Some((host, port.parse::<u16>().ok().filter(|port| *port > 0)?)));
    let host = split.and_then(
        |(host, port)| match host.strip_prefix('[').and_then(|rest| rest.strip_suffix(']')) {
            Some(v6) => v6.parse::<std::net::Ipv6Addr>().ok().map(|_| (v6.to_owned(), port)),
            None => (!host.is_empty() && host.chars().all(is_of_host)).then(|| (host.to_owned(), port)),
        },
    );
    host.ok_or_else(|| Invalid {
        field: "--advertised",
        value: text.into(),
        remedy: "give HOST:PORT or [IPV6]:PORT as clients reach the cluster, such as 192.0.2.1:5060".into(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(more: &[&str]) -> Result<Config, Invalid> {
        let base = [
            "proxy",
            "--cluster",
            "demo",
            "--name",
            "p0",
            "--endpoints",
            "/nonexistent",
        ];
        Arguments::try_parse_from(base.iter().chain(more))
            .expect("known flags")
            .check()
    }

    const KEY: [&str; 2] = ["--key", "000102030405060708090a0b0c0d0e0f"];

    fn with_key(more: &[&'static str]) -> Result<Config, Invalid> {
        let all: Vec<&str> = KEY.into_iter().chain(more.iter().copied()).collect();
        parse(&all)
    }

    #[test]
    fn both_transports_of_an_address_are_one_listener() {
        let config = with_key(&["--listen", "udp:127.0.0.1:5060", "--listen", "tcp:127.0.0.1:5060"]).unwrap();
        let address = "127.0.0.1:5060".parse().unwrap();
        assert_eq!(
            config.bindings,
            [Binding {
                address,
                udp: true,
                tcp: true
            }]
        );
        assert_eq!(
            (config.listeners[0].host.as_str(), config.listeners[0].port),
            ("127.0.0.1", 5060)
        );
        assert_eq!(
            config.key.secret,
            [0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15]
        );
    }

    #[test]
    fn the_advertised_address_is_what_leaves() {
        let config = with_key(&["--listen", "udp:[::]:5060", "--advertised", "[2001:db8::1]:5070"]).unwrap();
        assert_eq!(
            (config.listeners[0].host.as_str(), config.listeners[0].port),
            ("2001:db8::1", 5070)
        );
        let config = with_key(&["--listen", "udp:0.0.0.0:5060", "--advertised", "sip.example.org:5060"]).unwrap();
        assert_eq!(config.listeners[0].host, "sip.example.org");
    }

    #[test]
    fn a_wrong_value_names_field_value_and_remedy() {
        let udp = "udp:127.0.0.1:5060";
        let cases: [(&[&'static str], &str); 11] = [
            (&["--listen", "sctp:127.0.0.1:5060"], "--listen"),
            (&["--listen", "udp:localhost"], "--listen"),
            (&["--listen", "udp:127.0.0.1:0"], "--listen"),
            (&["--listen", "udp:0.0.0.0:5060"], "--listen"),
            (&["--listen", udp, "--listen", udp], "--listen"),
            (&["--listen", udp, "--advertised", "nowhere"], "--advertised"),
            (
                &["--listen", udp, "--route-host", "sip.example.com:5060"],
                "--route-host",
            ),
            (&["--listen", udp, "--stand-in", "a b"], "--stand-in"),
            (&["--listen", udp, "--workers", "0"], "--workers"),
            (&["--listen", udp, "--partitions", "70000"], "--partitions"),
            (&["--listen", udp, "--admin", "9090"], "--admin"),
        ];
        for (arguments, field) in cases {
            let invalid = with_key(arguments).map(|_| ()).unwrap_err();
            assert_eq!(invalid.field, field, "{arguments:?}");
            assert!(!invalid.value.is_empty() && !invalid.remedy.is_empty());
        }
    }

    #[test]
    fn a_wrong_key_is_not_repeated() {
        let wrong = |more: &[&str]| {
            let listen = ["--listen", "udp:127.0.0.1:5060"];
            let all: Vec<&str> = listen.iter().chain(more).copied().collect();
            let message = parse(&all).unwrap_err().to_string();
            assert!(
                !message.contains("topsecret") && !message.contains("0c0d0e0f"),
                "{message}"
            );
            message
        };
        assert!(wrong(&["--key", "topsecret"]).starts_with("--key: "));
        for field in ["--other-key", "--transaction-key"] {
            assert!(wrong(&[KEY[0], KEY[1], field, "topsecret"]).starts_with(field));
        }
        let twice = wrong(&[KEY[0], KEY[1], "--other-key", KEY[1]]);
        assert_eq!(
            twice,
            "--other-key: \"0:<digits>\" is not valid; another key has that id; give each an id of its own, as ID:DIGITS"
        );
    }

    #[test]
    fn transactions_are_hashed_with_the_key_that_is_named_for_it() {
        let digits = "f0f1f2f3f4f5f6f7f8f9fafbfcfdfeff";
        let second = format!("1:{digits}");
        let config = |more: &[&str]| {
            let listen = [
                "--listen",
                "udp:127.0.0.1:5060",
                "--key",
                &second,
                "--other-key",
                KEY[1],
            ];
            parse(&[&listen[..], more].concat()).expect("it is good")
        };
        let (plain, told) = (config(&[]), config(&["--transaction-key", KEY[1]]));
        assert_eq!((plain.key.id, plain.other_keys[0].id), (1, 0));
        assert_eq!(plain.transaction_key.secret, plain.key.secret);
        assert_eq!(told.transaction_key.secret, plain.other_keys[0].secret);
    }
}
