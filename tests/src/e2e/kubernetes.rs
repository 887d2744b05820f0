//! A real Kubernetes: one on this machine, by the script `tests/e2e/cluster/cluster`, or the one that KUBECONFIG names.

use std::fs::File;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context, bail};
use serde_json::Value;

use crate::interop::process::source_root;

/// The network namespace of a host outside the cluster.
pub const OUTSIDE: &str = "e2e-client";

/// The network namespace of a control plane alone.
pub const CONTROL_PLANE: &str = "control-plane";

/// The images that `make images` has put together.
pub const IMAGES: [&str; 4] = ["operator", "proxy", "container", "redis"];

/// What the image of a part is called: as E2E_IMAGE says, in which PART stands for the part.
#[must_use]
pub fn image(part: &str) -> String {
    let name = std::env::var("E2E_IMAGE").unwrap_or_else(|_| "localhost/sipcluster-PART:e2e".into());
    name.replace("PART", part)
}

/// A running cluster.
pub struct Kubernetes(Whose);

enum Whose {
    /// Ended when dropped.
    Ours(Ours),
    /// What `kubectl` and `helm` reach by KUBECONFIG.
    Named,
}

struct Ours {
    script: PathBuf,
    nodes: &'static str,
    /// Where the script keeps what belongs to it.
    state: PathBuf,
    keep: bool,
    /// Whoever else wants one of this kind waits, until this one is dropped, or its process is no more.
    _lock: File,
}

impl Kubernetes {
    /// Starts one of three nodes.
    pub fn up() -> anyhow::Result<Self> {
        let state = std::env::var_os("E2E_STATE").map(PathBuf::from);
        Self::of("3", state.unwrap_or_else(|| scratch("sipcluster-kubernetes")))
    }

    /// Starts a control plane alone, without a scheduler, whose API server writes down every request. Another may be up beside it.
    pub fn without_nodes() -> anyhow::Result<Self> {
        Self::of("0", scratch("sipcluster-control-plane"))
    }

    /// Starts etcd and an API server, and nobody who does anything about what it is told. Another may be up beside it.
    pub fn api_server() -> anyhow::Result<Self> {
        Self::of("none", scratch("sipcluster-api-server"))
    }

    fn of(nodes: &'static str, state: PathBuf) -> anyhow::Result<Self> {
        let lock = state.with_extension("lock");
        // One that another user has made is opened, but not made again.
        let lock = File::open(&lock).or_else(|_| File::create(&lock));
        let lock = lock.context("the lock of a Kubernetes")?;
        lock.lock()?;
        let kubernetes = Self(Whose::Ours(Ours {
            script: source_root().join("tests/e2e/cluster/cluster"),
            nodes,
            state,
            keep: false,
            _lock: lock,
        }));
        // What an earlier run may have left, if it was killed.
        kubernetes.run(&["down"])?;
        kubernetes
            .run(&["up"])
            .with_context(|| format!("a Kubernetes, of nodes: {nodes}"))?;
        Ok(kubernetes)
    }

    /// The one that KUBECONFIG names, if it names one.
    #[must_use]
    pub fn named() -> Option<Self> {
        let named = std::env::var_os("KUBECONFIG").is_some_and(|files| !files.is_empty());
        named.then_some(Self(Whose::Named))
    }

    /// The network namespace of a host outside of it, if it is one of ours.
    #[must_use]
    pub fn outside(&self) -> Option<&'static str> {
        matches!(self.0, Whose::Ours(_)).then_some(OUTSIDE)
    }

    /// Leaves it up.
    pub fn keep(&mut self) {
        if let Whose::Ours(ours) = &mut self.0 {
            ours.keep = true;
        }
    }

    /// The script with these arguments; its output. Of a cluster that is not ours, `kubectl` and `helm` alone.
    pub fn run(&self, arguments: &[&str]) -> anyhow::Result<String> {
        let mut command = match (&self.0, arguments) {
            (Whose::Ours(ours), _) => ours.script(arguments),
            (Whose::Named, [program @ ("kubectl" | "helm"), rest @ ..]) => {
                let mut command = Command::new(program);
                // A namespace that is named comes later, and counts.
                command.arg("--namespace=default").args(rest);
                command
            }
            (Whose::Named, _) => bail!("{}: not of a cluster that KUBECONFIG names", arguments.join(" ")),
        };
        let output = command
            .stdin(Stdio::null())
            .output()
            .with_context(|| format!("{command:?}"))?;
        if !output.status.success() {
            bail!(
                "{}: {}",
                arguments.join(" "),
                String::from_utf8_lossy(&output.stderr).trim()
            );
        }
        Ok(String::from_utf8_lossy(&output.stdout).into_owned())
    }

    /// `kubectl` with these arguments.
    pub fn kubectl(&self, arguments: &[&str]) -> anyhow::Result<String> {
        self.run(&[&["kubectl"], arguments].concat())
    }

    /// What `kubectl get` of these arguments gives.
    pub fn get(&self, arguments: &[&str]) -> anyhow::Result<Value> {
        let text = self.kubectl(&[&["get", "-o", "json"], arguments].concat())?;
        serde_json::from_str(&text).with_context(|| format!("kubectl get {}", arguments.join(" ")))
    }

    /// Where nodes of ours have their pods' logs: a directory for each pod, and in it one for each container.
    pub fn pods(&self) -> Vec<PathBuf> {
        let entries = |directory: PathBuf| std::fs::read_dir(directory).into_iter().flatten().flatten();
        let Whose::Ours(ours) = &self.0 else {
            return Vec::new();
        };
        let nodes = entries(ours.state.clone()).map(|entry| entry.path().join("pods"));
        nodes.flat_map(entries).map(|entry| entry.path()).collect()
    }

    /// The process that runs as this, such as `apiserver`.
    pub fn pid(&self, name: &str) -> anyhow::Result<u32> {
        let file = self.state().join("pid").join(name);
        let text = std::fs::read_to_string(&file).with_context(|| file.display().to_string())?;
        text.trim()
            .parse()
            .with_context(|| format!("{name} has the pid {text:?}"))
    }

    /// The file to which the API server of a control plane alone writes every request.
    pub fn audit_log(&self) -> PathBuf {
        self.state().join("log/audit.log")
    }

    /// How somebody gets in who may do everything.
    pub fn admin(&self) -> PathBuf {
        self.state().join("admin.kubeconfig")
    }

    /// Nowhere, if it is not ours.
    fn state(&self) -> &Path {
        match &self.0 {
            Whose::Ours(ours) => &ours.state,
            Whose::Named => Path::new(""),
        }
    }

    /// Writes to `file` how a ServiceAccount that is there gets in.
    pub fn kubeconfig(&self, namespace: &str, account: &str, file: &Path) -> anyhow::Result<()> {
        let token = self.kubectl(&["create", "token", account, "-n", namespace, "--duration=6h"])?;
        let admin = std::fs::read_to_string(self.admin())?;
        let mut config: Value = serde_yaml_ng::from_str(&admin)?;
        config["users"][0]["user"]["token"] = token.trim().into();
        Ok(std::fs::write(file, config.to_string())?)
    }

    /// Installs the chart, with these arguments of `helm install` besides.
    pub fn install(&self, more: &[&str]) -> anyhow::Result<()> {
        let images = IMAGES.map(|part| format!("--set=images.{part}={}", image(part)));
        let mut words = vec!["--create-namespace"];
        words.extend(images.iter().map(String::as_str).chain(more.iter().copied()));
        self.helm("install", &words)
    }

    /// The same of `helm upgrade`.
    pub fn upgrade(&self, more: &[&str]) -> anyhow::Result<()> {
        self.helm("upgrade", more)
    }

    fn helm(&self, verb: &str, more: &[&str]) -> anyhow::Result<()> {
        let chart = source_root().join("charts/sipcluster").display().to_string();
        let words = ["helm", verb, "sipcluster", &chart, "-n", "sipcluster"];
        self.run(&[&words[..], more].concat()).map(drop)
    }

    /// What the API server says to a new object, which it does not keep.
    ///
    /// # Errors
    /// It does not take it, and says why.
    pub fn try_create(&self, manifest: &str, scratch: &Path) -> anyhow::Result<String> {
        let file = scratch.join("tried.yaml");
        std::fs::write(&file, manifest)?;
        self.kubectl(&["create", "--dry-run=server", "-f", &file.display().to_string()])
    }

    /// Applies a manifest.
    pub fn apply(&self, manifest: &str, scratch: &Path) -> anyhow::Result<String> {
        let file = scratch.join("manifest.yaml");
        std::fs::write(&file, manifest)?;
        self.kubectl(&["apply", "-f", &file.display().to_string()])
    }

    /// Builds the image of `directory` and gives it to all nodes.
    pub fn load(&self, image: &str, directory: &Path) -> anyhow::Result<()> {
        self.run(&["load", image, &directory.display().to_string()]).map(drop)
    }
}

fn scratch(name: &str) -> PathBuf {
    std::env::temp_dir().join(name)
}

impl Ours {
    fn script(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(&self.script);
        // A node that is lost is known to be sooner than Kubernetes' 50 s, so that the tests do not wait.
        command.env("E2E_NODE_GRACE", "20s");
        command.env("E2E_NODES", self.nodes).env("E2E_STATE", &self.state);
        command.args(arguments);
        command
    }
}

impl Drop for Kubernetes {
    fn drop(&mut self) {
        if matches!(&self.0, Whose::Ours(ours) if !ours.keep)
            && let Err(error) = self.run(&["down"])
        {
            eprintln!("the cluster does not end: {error:#}");
        }
    }
}
