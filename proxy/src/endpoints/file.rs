//! A file that is read again whenever it changes.

use std::io;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use tokio::sync::watch;
use tracing::warn;

use super::{Endpoint, publish_if_new};

/// How often the file is looked at: a new container is found well within the time that it needs to join.
const LOOK_EVERY: Duration = Duration::from_millis(100);

/// The longest file that is read: some ten thousand entries.
const MAX_FILE: u64 = 1 << 20;

/// Why the list cannot be read.
#[derive(Debug)]
pub enum Unreadable {
    /// There is no such file (yet).
    Missing,
    /// It is not what it should be.
    Wrong(String),
}

/// Reads the list.
pub fn read(path: &Path) -> Result<Vec<Endpoint>, Unreadable> {
    let read = || {
        if std::fs::metadata(path)?.len() > MAX_FILE {
            return Err(io::Error::new(io::ErrorKind::FileTooLarge, "it is longer than 1 MiB"));
        }
        std::fs::read(path)
    };
    let bytes = read().map_err(|error| match error.kind() {
        io::ErrorKind::NotFound => Unreadable::Missing,
        _ => Unreadable::Wrong(error.to_string()),
    })?;
    serde_json::from_slice(&bytes).map_err(|error| Unreadable::Wrong(error.to_string()))
}

/// Follows the file for ever and publishes each new list. A list that cannot be read changes nothing.
pub async fn follow(path: PathBuf, publish: watch::Sender<Vec<Endpoint>>) {
    let mut last: Option<(SystemTime, u64)> = None;
    let mut clock = tokio::time::interval(LOOK_EVERY);
    loop {
        clock.tick().await;
        let seen = std::fs::metadata(&path)
            .ok()
            .and_then(|meta| Some((meta.modified().ok()?, meta.len())));
        // A list as old as the last look may still be written to within the clock's grain: it is read again until it is older.
        let settled = seen.is_none_or(|(modified, _)| modified.elapsed().is_ok_and(|age| age > 10 * LOOK_EVERY));
        if seen == last && settled {
            continue;
        }
        last = seen;
        match read(&path) {
            Ok(list) => publish_if_new(&publish, list),
            Err(Unreadable::Missing) => {}
            Err(Unreadable::Wrong(why)) => {
                warn!(file = %path.display(), %why, "the list of containers cannot be read; the old one holds")
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_changed_file_is_read_again_and_a_broken_one_changes_nothing() {
        let path = std::env::temp_dir().join(format!("endpoints-{}.json", std::process::id()));
        std::fs::write(&path, "[]").unwrap();
        let (publish, mut list) = watch::channel(Vec::new());
        let following = tokio::spawn(follow(path.clone(), publish));
        let text = |name: &str| format!(r#"[{{"name":"{name}","sip":"127.0.0.1:1","ucf":"127.0.0.1:2"}}]"#);
        for name in ["a-0", "b-0"] {
            std::fs::write(&path, text(name)).unwrap();
            let seen = tokio::time::timeout(
                Duration::from_secs(10),
                list.wait_for(|list| list.iter().any(|e| e.name == name)),
            );
            drop(seen.await.unwrap().unwrap());
            std::fs::write(&path, "[{").unwrap();
        }
        following.abort();
        std::fs::remove_file(&path).unwrap();
        assert_eq!(list.borrow()[0].name, "b-0");
    }
}
