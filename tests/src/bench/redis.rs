//! What a redis-server says of itself.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpStream;
use std::time::Duration;

use anyhow::{Context, ensure};

/// `INFO` of one moment.
#[derive(Clone, Debug, Default)]
pub struct Info(String);

impl Info {
    /// Asks the server of a URL such as `redis://127.0.0.1:6379`.
    pub fn of(url: &str) -> anyhow::Result<Self> {
        let address = url.strip_prefix("redis://").context("a redis:// URL")?;
        let address = address.split('/').next().unwrap_or(address);
        let mut stream = TcpStream::connect(address).with_context(|| format!("Redis at {address}"))?;
        stream.set_read_timeout(Some(Duration::from_secs(5)))?;
        stream.write_all(b"INFO everything\r\n")?;
        let mut reader = BufReader::new(stream);
        let mut head = String::new();
        reader.read_line(&mut head)?;
        let length: usize = head
            .trim()
            .strip_prefix('$')
            .with_context(|| format!("INFO answers {head:?}"))?
            .parse()?;
        ensure!(length < 1 << 20, "INFO of {length} bytes");
        let mut text = vec![0; length];
        reader.read_exact(&mut text)?;
        Ok(Self(String::from_utf8_lossy(&text).into_owned()))
    }

    /// A plain number, such as `used_memory`.
    #[must_use]
    pub fn number(&self, name: &str) -> u64 {
        let value = self
            .0
            .lines()
            .find_map(|line| line.strip_prefix(name)?.strip_prefix(':'));
        value.and_then(|value| value.trim().parse().ok()).unwrap_or(0)
    }

    /// How often a command was called, in scripts too.
    #[must_use]
    pub fn calls(&self, command: &str) -> u64 {
        let line = self.0.lines().find_map(|line| {
            line.strip_prefix("cmdstat_")?
                .strip_prefix(command)?
                .strip_prefix(":calls=")
        });
        line.and_then(|rest| rest.split(',').next()?.parse().ok()).unwrap_or(0)
    }

    /// Turns written: a turn is one transaction, or one script where the fence has to be asked.
    #[must_use]
    pub fn turns(&self) -> u64 {
        self.calls("exec") + self.calls("evalsha")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_and_turns_are_found() {
        let info = Info("# Memory\r\nused_memory:1024\r\nused_memory_human:1K\r\ncmdstat_evalsha:calls=7,usec=1\r\ncmdstat_exec:calls=2,u\r\n".into());
        assert_eq!((info.number("used_memory"), info.turns()), (1024, 9));
    }
}
