//! A real Kubernetes on this machine, by the script `tests/e2e/cluster/cluster`.

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

/// A running cluster; ended when dropped.
pub struct Kubernetes {
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
        Self::of("3", "sipcluster-kubernetes")
    }

    /// Starts a control plane alone, without a scheduler, whose API server writes down every request. Another may be up beside it.
    pub fn without_nodes() -> anyhow::Result<Self> {
        Self::of("0", "sipcluster-control-plane")
    }

    /// Starts etcd and an API server, and nobody who does anything about what it is told. Another may be up beside it.
    pub fn api_server() -> anyhow::Result<Self> {
        Self::of("none", "sipcluster-api-server")
    }

    fn of(nodes: &'static str, state: &str) -> anyhow::Result<Self> {
        let state = std::env::var_os("E2E_STATE").map_or_else(|| std::env::temp_dir().join(state), PathBuf::from);
        let lock = state.with_extension("lock");
        // One that another user has made is opened, but not made again.
        let lock = File::open(&lock).or_else(|_| File::create(&lock));
        let lock = lock.context("the lock of a Kubernetes")?;
        lock.lock()?;
        let kubernetes = Self {
            script: source_root().join("tests/e2e/cluster/cluster"),
            nodes,
            state,
            keep: false,
            _lock: lock,
        };
        // What an earlier run may have left, if it was killed.
        kubernetes.run(&["down"])?;
        kubernetes
            .run(&["up"])
            .with_context(|| format!("a Kubernetes, of nodes: {nodes}"))?;
        Ok(kubernetes)
    }

    /// Leaves it up.
    pub fn keep(&mut self) {
        self.keep = true;
    }

    /// The script with these arguments; its output.
    pub fn run(&self, arguments: &[&str]) -> anyhow::Result<String> {
        let output = Command::new(&self.script)
            // A node that is lost is known to be sooner than Kubernetes' 40 s, so that the tests do not wait.
            .env("E2E_NODE_GRACE", "20s")
            .env("E2E_NODES", self.nodes)
            .env("E2E_STATE", &self.state)
            .args(arguments)
            .stdin(Stdio::null())
            .output()
            .context("tests/e2e/cluster")?;
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

    /// Where nodes have their pods' logs: a directory for each pod, and in it one for each container.
    pub fn pods(&self) -> Vec<PathBuf> {
        let entries = |directory: PathBuf| std::fs::read_dir(directory).into_iter().flatten().flatten();
        let nodes = entries(self.state.clone()).map(|entry| entry.path().join("pods"));
        nodes.flat_map(entries).map(|entry| entry.path()).collect()
    }

    /// The process that runs as this, such as `apiserver`.
    pub fn pid(&self, name: &str) -> anyhow::Result<u32> {
        let file = self.state.join("pid").join(name);
        let text = std::fs::read_to_string(&file).with_context(|| file.display().to_string())?;
        text.trim()
            .parse()
            .with_context(|| format!("{name} has the pid {text:?}"))
    }

    /// The file to which the API server of a control plane alone writes every request.
    pub fn audit_log(&self) -> PathBuf {
        self.state.join("log/audit.log")
    }

    /// How somebody gets in who may do everything.
    pub fn admin(&self) -> PathBuf {
        self.state.join("admin.kubeconfig")
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
        let chart = source_root().join("charts/sipcluster").display().to_string();
        let install = [
            "helm",
            "install",
            "sipcluster",
            &chart,
            "-n",
            "sipcluster",
            "--create-namespace",
        ];
        self.run(&[&install[..], more].concat()).map(drop)
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

impl Drop for Kubernetes {
    fn drop(&mut self) {
        if !self.keep
            && let Err(error) = self.run(&["down"])
        {
            eprintln!("the cluster does not end: {error:#}");
        }
    }
}
