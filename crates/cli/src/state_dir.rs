//! The directory of a running cluster.
//!
//! `lock` is held by the supervisor as long as it lives, however it ends. `cluster.json` is what it last knew ([`Record`]); `desired.json` is what
//! it is to bring about ([`Desired`]): the manifest of `up`, as `scale`, `restart` and `apply` have changed it since. `endpoints.json` is for the
//! proxies; `log/` and `redis/` belong to the children. Files are replaced, never rewritten, so that a reader sees the old or the new.

use std::fs::{self, File, OpenOptions, TryLockError};
use std::io;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use crds::SipCluster;
use crds::status::State;
use serde::{Deserialize, Serialize};

use crate::failure::Failure;

/// A state directory, there or not.
#[derive(Debug)]
pub struct StateDir {
    path: PathBuf,
}

/// The lock; it ends with the process that holds it.
#[derive(Debug)]
pub struct Lock {
    _file: File,
}

/// What the supervisor is to bring about.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Desired {
    /// Grows with every command, so that a command can tell when its own has been taken up.
    pub generation: u64,
    /// What the cluster is to be.
    pub manifest: SipCluster,
    /// How often each kind of part was to be restarted.
    pub restarts: Restarts,
}

/// Restarts that were asked for.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Restarts {
    /// Of all containers.
    pub containers: u64,
    /// Of all proxies.
    pub proxies: u64,
    /// Of the cluster's own Redis.
    pub redis: u64,
}

impl Desired {
    /// What `up` wants.
    pub fn new(manifest: SipCluster) -> Self {
        Self {
            generation: 1,
            manifest,
            restarts: Restarts::default(),
        }
    }
}

/// Something that has happened.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Entry {
    /// Running number, from 1.
    pub number: u64,
    /// What.
    pub text: String,
}

/// What the supervisor knows.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Record {
    /// The cluster's name.
    pub name: String,
    /// Where calls go.
    pub address: String,
    /// The supervisor.
    pub pid: u32,
    /// The generation of [`Desired`] that all this is about.
    pub generation: u64,
    /// Containers wanted.
    pub replicas: u16,
    /// Partitions of the cluster.
    pub partitions: u32,
    /// What the planner waits for.
    pub gate: Option<String>,
    /// Everything is as desired, and works.
    pub done: bool,
    /// Everything has worked at least once.
    pub ready: bool,
    /// The last that happened, oldest first.
    pub journal: Vec<Entry>,
    /// Containers in order.
    pub containers: Vec<PartRecord>,
    /// Proxies in order.
    pub proxies: Vec<PartRecord>,
    /// Redis.
    pub redis: PartRecord,
}

/// What the supervisor knows of one part.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct PartRecord {
    /// Its name.
    pub name: String,
    /// Its process; nothing if none runs, or if it is not ours.
    pub pid: Option<u32>,
    /// Where it stands.
    pub state: State,
    /// Its admin port, or nothing (Redis).
    pub admin: Option<std::net::SocketAddr>,
    /// How often it was started again.
    pub restarts: u32,
    /// Its URL (Redis).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub url: Option<String>,
}

impl StateDir {
    /// The given directory, or the user's own.
    pub fn at(given: Option<PathBuf>) -> Self {
        let path = given.unwrap_or_else(|| match std::env::var_os("XDG_RUNTIME_DIR") {
            Some(runtime) if Path::new(&runtime).is_dir() => Path::new(&runtime).join("sipcluster"),
            // SAFETY: getuid(2) cannot fail and takes no pointers.
            _ => std::env::temp_dir().join(format!("sipcluster-{}", unsafe { libc::getuid() })),
        });
        Self {
            path: std::path::absolute(&path).unwrap_or(path),
        }
    }

    /// A file in it.
    pub fn file(&self, name: &str) -> PathBuf {
        self.path.join(name)
    }

    /// The log of a part.
    pub fn log(&self, part: &str) -> PathBuf {
        self.path.join("log").join(format!("{part}.log"))
    }

    /// How to say `sipcluster COMMAND` about this directory.
    pub fn command(&self, command: &str) -> String {
        let usual = Self::at(std::env::var_os("SIPCLUSTER_STATE").map(PathBuf::from)).path == self.path;
        let option = if usual {
            String::new()
        } else {
            format!(" --state-dir {}", self.path.display())
        };
        format!("sipcluster {command}{option}")
    }

    /// Makes the directory this process's own, empty but for the lock.
    pub fn claim(&self) -> Result<Lock, Failure> {
        self.create().map_err(|error| {
            Failure::here(format!(
                "the state directory {}: {error}; give another with --state-dir",
                self.path.display()
            ))
        })?;
        let lock = self.file("lock");
        let file = OpenOptions::new()
            .create(true)
            .append(true)
            .open(&lock)
            .map_err(|error| {
                Failure::here(format!(
                    "{}: {error}; give another directory with --state-dir",
                    lock.display()
                ))
            })?;
        // Another command that looks whether a supervisor lives holds the lock for a moment.
        let deadline = Instant::now() + Duration::from_millis(300);
        loop {
            match file.try_lock() {
                Ok(()) => break,
                Err(TryLockError::WouldBlock) if Instant::now() < deadline => {
                    std::thread::sleep(Duration::from_millis(10));
                }
                Err(TryLockError::WouldBlock) => return Err(self.taken()),
                Err(TryLockError::Error(error)) => return Err(Failure::system(lock.display(), error)),
            }
        }
        self.clear();
        for sub in ["log", "redis"] {
            fs::create_dir_all(self.file(sub)).map_err(|error| Failure::system(self.file(sub).display(), error))?;
        }
        Ok(Lock { _file: file })
    }

    /// For this user only: the directory of a cluster names processes and holds logs of calls.
    fn create(&self) -> io::Result<()> {
        use std::os::unix::fs::{DirBuilderExt, MetadataExt};
        fs::DirBuilder::new().recursive(true).mode(0o700).create(&self.path)?;
        // SAFETY: getuid(2) cannot fail and takes no pointers.
        if fs::symlink_metadata(&self.path)?.uid() != unsafe { libc::getuid() } {
            return Err(io::Error::other("it belongs to another user"));
        }
        Ok(())
    }

    fn taken(&self) -> Failure {
        let who = self.record().map_or_else(
            |_| "a cluster is being started".to_owned(),
            |record| format!("the cluster {} is running (pid {})", record.name, record.pid),
        );
        Failure::here(format!(
            "{who} with the state directory {}; end it by `{}`, or give this one a directory of its own with --state-dir",
            self.path.display(),
            self.command("down"),
        ))
    }

    /// Whether a supervisor lives.
    pub fn is_running(&self) -> bool {
        File::open(self.file("lock")).is_ok_and(|file| matches!(file.try_lock_shared(), Err(TryLockError::WouldBlock)))
    }

    /// The failure of a command that needs a running cluster.
    pub fn nothing_runs(&self) -> Failure {
        Failure::here(format!(
            "no cluster is running with the state directory {}; start one by `{} -f examples/sipcluster.yaml`",
            self.path.display(),
            self.command("up"),
        ))
    }

    /// What the supervisor last wrote.
    pub fn record(&self) -> io::Result<Record> {
        let text = fs::read(self.file("cluster.json"))?;
        serde_json::from_slice(&text).map_err(io::Error::other)
    }

    /// Replaces a file.
    pub fn write(&self, name: &str, content: &[u8]) -> io::Result<()> {
        let next = self.file(&format!(".{name}.next"));
        fs::write(&next, content)?;
        fs::rename(next, self.file(name))
    }

    /// What is desired, if it can be read.
    pub fn desired(&self) -> Option<Desired> {
        serde_json::from_slice(&fs::read(self.file("desired.json")).ok()?).ok()
    }

    /// Replaces what is desired.
    pub fn desire(&self, desired: &Desired) -> io::Result<()> {
        self.write("desired.json", &serde_json::to_vec_pretty(desired)?)
    }

    /// Lets `change` change what is desired of the running cluster, one command after the other. It says whether anything is to be changed.
    pub fn change_desired(
        &self,
        change: impl FnOnce(&mut Desired) -> Result<bool, Failure>,
    ) -> Result<Desired, Failure> {
        let system = |error: io::Error| Failure::system(format!("the state directory {}", self.path.display()), error);
        if !self.is_running() {
            return Err(self.nothing_runs());
        }
        let commands = OpenOptions::new().create(true).append(true).open(self.file("commands"));
        let commands = commands.map_err(system)?;
        commands.lock().map_err(system)?;
        // A supervisor that has just begun has written nothing yet.
        let mut desired = self.desired().ok_or_else(|| self.nothing_runs())?;
        if change(&mut desired)? {
            desired.generation += 1;
            self.desire(&desired).map_err(system)?;
        }
        Ok(desired)
    }

    /// Removes what a cluster left here, but for the lock. What is gone already is as it should be.
    pub fn clear(&self) {
        for name in [
            "cluster.json",
            "desired.json",
            "endpoints.json",
            "commands",
            ".cluster.json.next",
            ".desired.json.next",
            ".endpoints.json.next",
        ] {
            let _ = fs::remove_file(self.file(name));
        }
        for name in ["log", "redis"] {
            let _ = fs::remove_dir_all(self.file(name));
        }
    }

    /// Removes what a supervisor that was killed has left; says whether there was anything.
    pub fn remove_leftovers(&self) -> bool {
        let Ok(file) = File::open(self.file("lock")) else {
            return false;
        };
        // Held: another one has just begun.
        let free = file.try_lock().is_ok();
        if free {
            self.remove(Lock { _file: file });
        }
        free
    }

    /// Removes it all; the directory too, unless somebody else keeps files in it.
    pub fn remove(&self, lock: Lock) {
        self.clear();
        let _ = fs::remove_file(self.file("lock"));
        let _ = fs::remove_dir(&self.path);
        drop(lock);
    }
}
