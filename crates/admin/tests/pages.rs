//! The pages as a client sees them.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use admin::prometheus::metrics::counter::Counter;
use admin::prometheus::registry::Registry;
use admin::{Pages, Server};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::sync::Notify;

async fn page(address: SocketAddr, path: &str) -> String {
    let mut stream = TcpStream::connect(address).await.unwrap();
    let request = format!("GET {path} HTTP/1.1\r\nHost: admin\r\nConnection: close\r\n\r\n");
    stream.write_all(request.as_bytes()).await.unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await.unwrap();
    answer
}

#[tokio::test]
async fn pages_show_health_metrics_and_state() {
    let is_ready = Arc::new(AtomicBool::new(false));
    let counter: Counter = Counter::default();
    let mut metrics = Registry::default();
    metrics.register("calls", "Calls so far", counter.clone());
    counter.inc_by(3);
    let seen = is_ready.clone();
    let pages = Pages {
        metrics,
        ready: Box::new(move || match seen.load(Ordering::Relaxed) {
            true => Ok(()),
            false => Err("no container is reachable".into()),
        }),
        state: Box::new(|| serde_json::json!({"name": "demo"})),
        digests: None,
    };
    let server = Server::bind("127.0.0.1:0".parse().unwrap()).await.unwrap();
    let address = server.local_addr();
    let running = tokio::spawn(server.run(pages));

    assert!(page(address, "/livez").await.starts_with("HTTP/1.1 200"));
    assert!(page(address, "/digests").await.starts_with("HTTP/1.1 404"));
    let refused = page(address, "/readyz").await;
    assert!(
        refused.starts_with("HTTP/1.1 503") && refused.contains("no container is reachable"),
        "{refused}"
    );
    is_ready.store(true, Ordering::Relaxed);
    assert!(page(address, "/readyz").await.starts_with("HTTP/1.1 200"));
    assert!(page(address, "/metrics").await.contains("calls_total 3"));
    assert!(page(address, "/state").await.contains(r#"{"name":"demo"}"#));
    assert!(page(address, "/other").await.starts_with("HTTP/1.1 404"));
    running.abort();
}

#[tokio::test]
async fn digests_are_made_for_one_at_a_time() {
    let (asked, made) = (Arc::new(Notify::new()), Arc::new(Notify::new()));
    let (told, awaited) = (asked.clone(), made.clone());
    let pages = Pages {
        metrics: Registry::default(),
        ready: Box::new(|| Ok(())),
        state: Box::new(|| serde_json::json!({})),
        digests: Some(Box::new(move || {
            let (told, awaited) = (told.clone(), awaited.clone());
            Box::pin(async move {
                told.notify_one();
                awaited.notified().await;
                serde_json::json!([1])
            })
        })),
    };
    let server = Server::bind("127.0.0.1:0".parse().unwrap()).await.unwrap();
    let address = server.local_addr();
    let running = tokio::spawn(server.run(pages));
    let first = tokio::spawn(async move { page(address, "/digests").await });
    asked.notified().await;
    assert!(page(address, "/digests").await.starts_with("HTTP/1.1 503"));
    made.notify_one();
    assert!(first.await.unwrap().ends_with("[1]"));
    running.abort();
}
