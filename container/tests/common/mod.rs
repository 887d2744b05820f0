//! What the tests with a real Redis share.

use std::net::{Ipv4Addr, TcpListener};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use container::store::Place;

/// A redis-server of its own on a loopback port, gone with the value.
pub struct RedisServer {
    child: Child,
    port: u16,
}

impl RedisServer {
    pub fn start() -> Self {
        Self::start_with(&[])
    }

    /// With more words on its command line: the first may be a file of its configuration.
    pub fn start_with(words: &[&str]) -> Self {
        // Another process may take the free port before redis-server does; then it ends, and the next port is tried.
        for _ in 0..10 {
            if let Some(server) = Self::try_start(words, free_port()) {
                return server;
            }
        }
        panic!("redis-server does not start: is it installed?");
    }

    fn try_start(words: &[&str], port: u16) -> Option<Self> {
        let (file, words) = words.split_at(usize::from(words.first().is_some_and(|word| !word.starts_with("--"))));
        // A replica keeps what it was sent in a file, which no other server must find.
        let (directory, data) = (std::env::temp_dir(), data_file(port));
        let (directory, port_word) = (directory.to_string_lossy(), port.to_string());
        let own = ["--bind", "127.0.0.1", "--save", "", "--appendonly", "no"];
        let named = ["--port", &port_word, "--dir", &directory, "--dbfilename", &data];
        let child = Command::new("redis-server")
            .args(file)
            .args(own)
            .args(named)
            .args(words)
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .expect("redis-server is installed");
        let mut server = Self { child, port };
        let deadline = Instant::now() + Duration::from_secs(10);
        while Instant::now() < deadline && server.child.try_wait().expect("our child").is_none() {
            if answers(port, server.child.id()).unwrap_or(false) {
                return Some(server);
            }
            std::thread::yield_now();
        }
        None
    }

    #[allow(dead_code, reason = "not every test that shares this needs it")]
    pub fn port(&self) -> u16 {
        self.port
    }

    pub fn url(&self) -> String {
        format!("redis://127.0.0.1:{}/", self.port)
    }

    /// Where it is, with nothing behind it.
    #[allow(dead_code, reason = "not every test that shares this needs it")]
    pub fn place(&self) -> Place {
        Place::new(&self.url(), 0, None).expect("a good URL")
    }

    /// Its process.
    #[allow(dead_code, reason = "not every test that shares this needs it")]
    pub fn pid(&self) -> u32 {
        self.child.id()
    }
}

impl Drop for RedisServer {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
        let _ = std::fs::remove_file(std::env::temp_dir().join(data_file(self.port)));
    }
}

/// Whether this process answers at the port, as far as one without a password is told. A connection alone says nothing: another test's server may have taken
/// the port, and where nobody listens a connection may be one with itself, by way of the same port.
fn answers(port: u16, pid: u32) -> redis::RedisResult<bool> {
    let client = redis::Client::open((Ipv4Addr::LOCALHOST.to_string(), port))?;
    let mut connection = client.get_connection_with_timeout(Duration::from_secs(1))?;
    connection.set_read_timeout(Some(Duration::from_secs(1)))?;
    let said: redis::RedisResult<String> = redis::cmd("INFO").arg("server").query(&mut connection);
    Ok(match said {
        Ok(said) => said.contains(&format!("\nprocess_id:{pid}\r")),
        Err(error) => error.code() == Some("NOAUTH"),
    })
}

fn data_file(port: u16) -> String {
    format!("sipcluster-redis-{}-{port}.rdb", std::process::id())
}

fn free_port() -> u16 {
    let socket = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).expect("a loopback port");
    socket.local_addr().expect("bound").port()
}
