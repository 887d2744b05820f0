//! The command line and environment, parsed to final types before anything is done.

use std::ffi::OsString;
use std::net::SocketAddr;

use admin::logging::Format;
use clap::{Args as _, Command, CommandFactory as _, FromArgMatches as _, Parser};

use crate::check::Check;

/// Exit code of a wrong configuration (EX_USAGE).
pub const EXIT_USAGE: i32 = 64;

/// The operator of SipCluster resources.
#[derive(Debug, Parser)]
#[command(name = "sipcluster-operator", version)]
pub struct Config {
    /// The namespace that the operator runs in; the Lease of its leader lies there.
    #[arg(long, env = "POD_NAMESPACE", default_value = "default")]
    pub namespace: String,
    /// This replica's name, by which it holds the Lease.
    #[arg(long, env = "POD_NAME", default_value = "sipcluster-operator")]
    pub name: String,
    /// Whose SipClusters are looked after.
    #[command(flatten)]
    pub scope: Scope,
    /// What pods run where a manifest names no image.
    #[command(flatten)]
    pub images: Images,
    /// Address of health and metrics, over HTTP.
    #[arg(long, env = "SIPCLUSTER_ADMIN", default_value = "0.0.0.0:9090")]
    pub admin: SocketAddr,
    /// Log format: text or json.
    #[arg(long, env = "SIPCLUSTER_LOG_FORMAT", default_value = "text", value_parser = format)]
    pub log_format: Format,
}

/// What pods run where a manifest names no image.
#[derive(Clone, Debug, clap::Args)]
pub struct Images {
    /// The image of containers.
    #[arg(long, env = "SIPCLUSTER_CONTAINER_IMAGE")]
    pub container: String,
    /// The image of proxies.
    #[arg(long, env = "SIPCLUSTER_PROXY_IMAGE")]
    pub proxy: String,
    /// The image of a cluster's own Redis.
    #[arg(long, env = "SIPCLUSTER_REDIS_IMAGE")]
    pub redis: String,
    /// When nodes pull images: Always, IfNotPresent or Never.
    #[arg(long, env = "SIPCLUSTER_IMAGE_PULL_POLICY", default_value = "IfNotPresent", value_parser = ["Always", "IfNotPresent", "Never"])]
    pub pull_policy: String,
}

/// Whose SipClusters are meant.
#[derive(Clone, Debug, clap::Args)]
pub struct Scope {
    /// The namespace of the SipClusters. Default: all.
    #[arg(long, env = "SIPCLUSTER_WATCH_NAMESPACE")]
    watch_namespace: Option<String>,
}

impl Scope {
    /// The namespace; an empty one means all.
    #[must_use]
    pub fn namespace(&self) -> Option<&str> {
        self.watch_namespace
            .as_deref()
            .filter(|namespace| !namespace.is_empty())
    }

    /// The SipClusters that are meant.
    #[must_use]
    pub fn clusters(&self, client: kube::Client) -> kube::Api<crds::SipCluster> {
        match self.namespace() {
            Some(namespace) => kube::Api::namespaced(client, namespace),
            None => kube::Api::all(client),
        }
    }
}

/// What the process is started for.
#[derive(Debug)]
pub enum Task {
    /// To look after SipClusters.
    Operate(Config),
    /// To see whether they answer.
    Check(Check),
}

fn format(text: &str) -> Result<Format, String> {
    text.parse().map_err(|_| "give text or json".to_owned())
}

impl Task {
    /// The process's task and configuration; ends the process with what is wrong and how to mend it if it is not valid.
    #[must_use]
    pub fn from_process() -> Self {
        Self::parse(std::env::args_os()).unwrap_or_else(|error| {
            let _ = error.print();
            std::process::exit(if error.use_stderr() { EXIT_USAGE } else { 0 });
        })
    }

    fn parse(arguments: impl IntoIterator<Item = OsString>) -> Result<Self, clap::Error> {
        let check = Check::augment_args(Command::new("check"));
        // A check needs none of the images.
        let command = Config::command().subcommand(check).subcommand_negates_reqs(true);
        let given = command.try_get_matches_from(arguments)?;
        match given.subcommand() {
            Some((_, check)) => Check::from_arg_matches(check).map(Self::Check),
            None => Config::from_arg_matches(&given).map(Self::Operate),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::Task;

    fn parse(line: &str) -> Result<Task, clap::Error> {
        Task::parse(line.split(' ').map(Into::into))
    }

    #[test]
    fn a_check_needs_no_images_and_everything_else_does() {
        let given = parse("sipcluster-operator check --watch-namespace telephony").expect("a check");
        let Task::Check(check) = given else {
            panic!("{given:?}");
        };
        assert_eq!(check.scope.namespace(), Some("telephony"));
        let images = "--container c:1 --proxy p:1 --redis r:1";
        let given = parse(&format!("sipcluster-operator {images}"));
        assert!(matches!(given, Ok(Task::Operate(_))), "{given:?}");
        let error = parse("sipcluster-operator").expect_err("no images");
        assert!(error.to_string().contains("--container"), "{error}");
    }
}
