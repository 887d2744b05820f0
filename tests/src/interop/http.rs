//! HTTP GET of an admin port: small, blocking, bounded.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::time::Duration;

use anyhow::{Context, ensure};

/// The largest answer that is read, in bytes: `/state` of a container with 65,536 partitions fits.
const MAX_ANSWER: u64 = 16 << 20;

/// The body of `GET path`; an error if the status is not 200.
pub fn get(address: SocketAddr, path: &str) -> anyhow::Result<String> {
    let (status, body) = get_any(address, path)?;
    ensure!(status == 200, "GET {path} of {address}: status {status}");
    Ok(body)
}

/// Status and body of `GET path`.
pub fn get_any(address: SocketAddr, path: &str) -> anyhow::Result<(u16, String)> {
    let limit = Duration::from_secs(5);
    let mut stream = TcpStream::connect_timeout(&address, limit).with_context(|| format!("admin port {address}"))?;
    stream.set_read_timeout(Some(limit))?;
    // HTTP/1.0: the end of the connection ends the body, nothing is chunked.
    write!(stream, "GET {path} HTTP/1.0\r\nHost: {address}\r\n\r\n")?;
    let mut answer = Vec::new();
    stream.take(MAX_ANSWER).read_to_end(&mut answer)?;
    let answer = String::from_utf8(answer).context("admin answer is not UTF-8")?;
    let (head, body) = answer
        .split_once("\r\n\r\n")
        .context("admin answer has no end of headers")?;
    let status = head
        .split(' ')
        .nth(1)
        .and_then(|code| code.parse().ok())
        .context("admin answer has no status")?;
    Ok((status, body.to_owned()))
}

/// The sum of a metric over all its label sets in Prometheus text; `None` if it is not there.
pub fn metric(text: &str, name: &str) -> Option<f64> {
    metric_where(text, name, "")
}

/// The sum of a metric over the label sets that contain `label`, such as `result="absorbed"`.
pub fn metric_where(text: &str, name: &str, label: &str) -> Option<f64> {
    text.lines()
        .filter(|line| !line.starts_with('#'))
        .filter_map(|line| {
            let rest = line.strip_prefix(name)?;
            let (labels, value) = match rest.strip_prefix('{') {
                Some(labelled) => labelled.rsplit_once('}')?,
                None if rest.starts_with(' ') => ("", rest),
                None => return None,
            };
            labels.contains(label).then_some(())?;
            value.split_whitespace().next()?.parse::<f64>().ok()
        })
        .reduce(|a, b| a + b)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_metric_is_summed_over_its_labels() {
        let text = "# HELP a b\na{x=\"1\"} 2\na{x=\"2\"} 3\nab 7\n";
        assert_eq!(metric(text, "a"), Some(5.0));
        assert_eq!(metric_where(text, "a", "x=\"2\""), Some(3.0));
        assert_eq!(metric(text, "c"), None);
    }
}
