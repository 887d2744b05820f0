//! The command line and environment, parsed to final types before any port is bound.

use std::fmt;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use crate::application::Application;
use crate::store::Place;
use admin::logging::Format;
use clap::Parser;
use ucf::token::{Key, Unfit, other_keys};

use super::start::Applications;

/// Exit code of a wrong configuration (EX_USAGE).
pub const EXIT_USAGE: u8 = 64;

/// Workers of one process, at most: a connection's number has its worker in ten bits.
pub const MAX_WORKERS: u16 = 1024;

/// The SIP container of a cluster: owns partitions, runs the application, replicates to Redis.
#[derive(Debug, Parser)]
#[command(name = "sipcluster-container", version)]
struct Arguments {
    /// The cluster's name.
    #[arg(long, env = "SIPCLUSTER_CLUSTER")]
    cluster: String,
    /// This container's name, such as demo-0: the same in its next life.
    #[arg(long, env = "SIPCLUSTER_NAME")]
    name: String,
    /// Where Redis is, such as redis://127.0.0.1:6379, or who knows: Sentinels, such as redis-sentinel://10.0.0.1,10.0.0.2,10.0.0.3/#MASTER, or
    /// nodes of a Redis Cluster, such as redis-cluster://10.0.0.1,10.0.0.2. With a password better given by the environment.
    #[arg(long, env = "SIPCLUSTER_REDIS", hide_env_values = true)]
    redis: String,
    /// A file of the CAs (PEM) that may have signed the certificates of Redis, its Sentinels or nodes, where the URL begins with rediss. It is read at
    /// each connection.
    #[arg(long, env = "SIPCLUSTER_REDIS_CA")]
    redis_ca: Option<PathBuf>,
    /// Replicas behind that server or master. With any, a write, a lease or a claim counts once a majority of all servers
    /// has it.
    #[arg(long, env = "SIPCLUSTER_REDIS_REPLICAS", default_value = "0")]
    redis_replicas: String,
    /// Address for SIP from proxies.
    #[arg(long, env = "SIPCLUSTER_SIP")]
    sip: String,
    /// Address for UCF from proxies and containers.
    #[arg(long, env = "SIPCLUSTER_UCF")]
    ucf: String,
    /// Address of health, metrics and state, over HTTP.
    #[arg(long, env = "SIPCLUSTER_ADMIN")]
    admin: Option<String>,
    /// HOST:PORT as clients reach the cluster; stands in Via and Contact.
    #[arg(long, env = "SIPCLUSTER_ADVERTISED")]
    advertised: String,
    /// The application and its options as JSON, such as {"answer": {"ring": "3s"}}; an executable with an application of its own has
    /// {"custom": {"options": {}}}. Default: without options.
    #[arg(long, env = "SIPCLUSTER_APPLICATION")]
    application: Option<String>,
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
    /// Its share of the partitions against that of others.
    #[arg(long, env = "SIPCLUSTER_WEIGHT", default_value = "100")]
    weight: String,
    /// The lease of members, in milliseconds.
    #[arg(long, env = "SIPCLUSTER_LEASE_MS", default_value = "2000")]
    lease_ms: String,
    /// How long, in milliseconds, handing everything over may take after SIGTERM.
    #[arg(long, env = "SIPCLUSTER_QUIESCE_MS", default_value = "20000")]
    quiesce_ms: String,
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

/// The configuration in final types.
#[derive(Clone)]
pub struct Config {
    /// The cluster's name.
    pub cluster: String,
    /// This container's name.
    pub name: String,
    /// Where Redis is.
    pub redis: Place,
    /// Where proxies bring SIP.
    pub sip: SocketAddr,
    /// Where UCF links are taken.
    pub ucf: SocketAddr,
    /// Where to show health, metrics and state.
    pub admin: Option<SocketAddr>,
    /// Host and port in Via and Contact.
    pub advertised: String,
    /// What handles the calls.
    pub application: Arc<dyn Application>,
    /// Worker threads.
    pub workers: u16,
    /// Partitions of the cluster.
    pub partitions: u16,
    /// The current key.
    pub key: Key,
    /// Others that verify.
    pub other_keys: Vec<Key>,
    /// Share of the partitions.
    pub weight: u16,
    /// The lease of members.
    pub lease: Duration,
    /// How long handing over may take at the end.
    pub quiesce: Duration,
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
    pub fn from_process(applications: &Applications<'_>) -> Self {
        let arguments = Arguments::try_parse().unwrap_or_else(|error| {
            let _ = error.print();
            std::process::exit(if error.use_stderr() { EXIT_USAGE.into() } else { 0 });
        });
        arguments.check(applications).unwrap_or_else(|invalid| {
            eprintln!("{}: {invalid}", program());
            std::process::exit(EXIT_USAGE.into());
        })
    }
}

impl Arguments {
    fn check(self, applications: &Applications<'_>) -> Result<Config, Invalid> {
        let cores = std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
        let workers = match &self.workers {
            Some(text) => number("--workers", text, 1, MAX_WORKERS.into())?,
            None => cores.min(MAX_WORKERS.into()) as u64,
        };
        let wrong = |field, value: &str, remedy: &str| Invalid {
            field,
            value: value.into(),
            remedy: remedy.into(),
        };
        let application = self.application.as_deref().unwrap_or(applications.default);
        let application =
            (applications.make)(application).map_err(|remedy| wrong("--application", application, &remedy))?;
        let log_format = self
            .log_format
            .parse()
            .map_err(|_| wrong("--log-format", &self.log_format, "give text or json"))?;
        let current = key("--key", &self.key)?;
        Ok(Config {
            cluster: named("--cluster", self.cluster)?,
            name: named("--name", self.name)?,
            redis: redis(
                &self.redis,
                number("--redis-replicas", &self.redis_replicas, 0, 8)? as u8,
                self.redis_ca.as_deref(),
            )?,
            sip: address("--sip", &self.sip)?,
            ucf: address("--ucf", &self.ucf)?,
            admin: self.admin.map(|text| address("--admin", &text)).transpose()?,
            advertised: advertised(&self.advertised)?,
            application,
            workers: workers as u16,
            partitions: number("--partitions", &self.partitions, 1, 65_535)? as u16,
            key: current,
            other_keys: other_keys(current, &self.other_key).map_err(|unfit| Invalid::key("--other-key", unfit))?,
            weight: number("--weight", &self.weight, 1, 10_000)? as u16,
            lease: Duration::from_millis(number("--lease-ms", &self.lease_ms, 100, 600_000)?),
            quiesce: Duration::from_millis(number("--quiesce-ms", &self.quiesce_ms, 0, 86_400_000)?),
            log_format,
        })
    }
}

/// The executable's name, for messages.
fn program() -> String {
    let path = std::env::args_os().next().unwrap_or_default();
    let name = std::path::Path::new(&path).file_name().unwrap_or_default();
    name.to_string_lossy().into_owned()
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

fn address(field: &'static str, text: &str) -> Result<SocketAddr, Invalid> {
    // The brackets of an IPv6 address may be missing, as where Kubernetes puts in a pod's address.
    let bare = || {
        let (ip, port) = text.rsplit_once(':')?;
        Some(SocketAddr::new(ip.parse().ok()?, port.parse().ok()?))
    };
    text.parse().ok().or_else(bare).ok_or_else(|| Invalid {
        field,
        value: text.into(),
        remedy: "give ADDRESS:PORT, such as 127.0.0.1:6060".into(),
    })
}

/// It stands in messages as it is given, so it must be a sent-by (RFC 3261 s25.1).
fn advertised(text: &str) -> Result<String, Invalid> {
    let host_and_port = text
        .rsplit_once(':')
        .filter(|(_, port)| port.parse::<u16>().is_ok_and(|port| port > 0));
    let fits = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '.');
    let good =
        host_and_port.is_some_and(
            |(host, _)| match host.strip_prefix('[').and_then(|v6| v6.strip_suffix(']')) {
                Some(v6) => v6.parse::<std::net::Ipv6Addr>().is_ok(),
                None => !host.is_empty() && host.chars().all(fits),
            },
        );
    if !good {
        let remedy = "give HOST:PORT or [IPV6]:PORT as clients reach the cluster, such as 192.0.2.1:5060".into();
        return Err(Invalid {
            field: "--advertised",
            value: text.into(),
            remedy,
        });
    }
    Ok(text.into())
}

/// Where Redis is, by the variables of the environment alone.
///
/// # Errors
/// What is wrong with them.
pub(super) fn redis_of_environment() -> Result<Place, Invalid> {
    let url = std::env::var("SIPCLUSTER_REDIS").unwrap_or_default();
    let ca = std::env::var_os("SIPCLUSTER_REDIS_CA").map(PathBuf::from);
    redis(&url, 0, ca.as_deref())
}

/// Its password is not repeated in the message.
fn redis(url: &str, replicas: u8, ca: Option<&Path>) -> Result<Place, Invalid> {
    Place::new(url, replicas, ca).map_err(|error| Invalid {
        field: "--redis",
        value: match url.rsplit_once('@') {
            Some((_, rest)) => format!("...@{rest}"),
            None => url.into(),
        },
        remedy: format!(
            "give redis://HOST:PORT, such as redis://127.0.0.1:6379, redis-sentinel://HOST[,HOST...]/#MASTER or redis-cluster://HOST[,HOST...]; \
             with rediss for TLS ({error})"
        ),
    })
}

fn key(field: &'static str, text: &str) -> Result<Key, Invalid> {
    text.parse().map_err(|unfit| Invalid::key(field, unfit))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(more: &[&str]) -> Result<Config, Invalid> {
        let base = [
            "container",
            "--cluster",
            "demo",
            "--name",
            "demo-0",
            "--key",
            "000102030405060708090a0b0c0d0e0f",
        ];
        let rest = [
            "--redis",
            "redis://127.0.0.1:1",
            "--sip",
            "127.0.0.1:0",
            "--ucf",
            "127.0.0.1:0",
        ];
        let advertised = if more.contains(&"--advertised") {
            &[][..]
        } else {
            &["--advertised", "192.0.2.1:5060"][..]
        };
        Arguments::try_parse_from(base.iter().chain(&rest).chain(advertised).chain(more))
            .expect("known flags")
            .check(&crate::process::start::BUILT_IN)
    }

    #[test]
    fn a_good_command_line_is_taken() {
        let config = parse(&["--application", r#"{"answer": {"ring": "3s"}}"#, "--partitions", "16"]).expect("good");
        assert_eq!((config.partitions, config.key.id), (16, 0));
    }

    #[test]
    fn a_wrong_redis_is_named_without_its_password() {
        let message = redis("redis-sentinel://:secret@h", 0, None)
            .expect_err("no master")
            .to_string();
        assert!(
            message.starts_with("--redis: \"...@h\"") && message.contains("#MASTER"),
            "{message}"
        );
        assert!(!message.contains("secret"), "{message}");
    }

    #[test]
    fn a_wrong_value_names_its_field_and_the_remedy() {
        for (field, value, remedy) in [
            ("--partitions", "0", "1 to 65535"),
            ("--advertised", "nowhere", "HOST:PORT"),
            ("--application", r#"{"answer": {"ring": "soon"}}"#, "500ms"),
            ("--application", r#"{"b2bua": {}}"#, "answer"),
            ("--log-format", "xml", "text or json"),
            ("--redis-replicas", "9", "0 to 8"),
            ("--other-key", "1:0", "32 hexadecimal digits"),
            ("--other-key", "000102030405060708090a0b0c0d0e0f", "an id of its own"),
        ] {
            let message = parse(&[field, value]).err().expect("wrong").to_string();
            assert!(message.starts_with(field) && message.contains(remedy), "{message}");
        }
    }
}
