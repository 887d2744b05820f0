//! Stands in for a container or a proxy in the tests of the supervisor: answers on its admin port as they do, or fails as its cluster's name
//! asks for.

use std::io::{BufRead, BufReader, Write};
use std::net::{TcpListener, TcpStream};

fn main() {
    let arguments: Vec<String> = std::env::args().collect();
    if arguments.iter().any(|argument| argument == "--check-redis") {
        return check_redis();
    }
    let option = |name: &str| {
        let at = arguments.iter().position(|argument| argument == name);
        at.and_then(|at| arguments.get(at + 1)).cloned().unwrap_or_default()
    };
    assert_eq!(
        std::env::var("SIPCLUSTER_KEY").map(|key| key.len()),
        Ok(32),
        "a key of 16 bytes in hexadecimal"
    );
    match option("--cluster").as_str() {
        "misled" => {
            eprintln!("--workers: 0: nothing can be done by nobody");
            std::process::exit(64);
        }
        "broken" => {
            eprintln!("an internal promise was broken");
            std::process::exit(1);
        }
        // SAFETY: no handler is installed, the signal is ignored.
        "stubborn" => unsafe {
            libc::signal(libc::SIGTERM, libc::SIG_IGN);
        },
        _ => {}
    }
    if option("--workers") == "13" {
        eprintln!("thirteen workers bring no luck");
        std::process::exit(1);
    }
    let listener = TcpListener::bind(option("--admin")).expect("a free admin port");
    for stream in listener.incoming().flatten() {
        let mut lines = BufReader::new(&stream).lines();
        // The request's end; a closed connection ends it too.
        while lines.next().is_some_and(|line| line.is_ok_and(|line| !line.is_empty())) {}
        let body = r#"{"state":"Active","partitions":7,"dialogs":5,"load":3}"#;
        let _ = write!(&stream, "HTTP/1.0 200 OK\r\n\r\n{body}");
    }
}

/// Fails as a container does if nobody listens where Redis should be.
fn check_redis() {
    let url = std::env::var("SIPCLUSTER_REDIS").expect("where Redis is");
    let address = url.trim_start_matches("redis://").rsplit('@').next();
    if let Err(error) = TcpStream::connect(address.expect("an address")) {
        eprintln!("{error}");
        std::process::exit(1);
    }
}
