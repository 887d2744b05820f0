//! The HTTP server.

use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Instant;

use axum::Router;
use axum::extract::State;
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use prometheus_client::encoding::text::encode;
use prometheus_client::registry::Registry;
use tokio::net::TcpListener;
use tokio::sync::Mutex;

/// A page whose content others have to be asked for.
pub type Later = Pin<Box<dyn Future<Output = serde_json::Value> + Send>>;

/// What the pages show.
pub struct Pages {
    /// All metrics of the process.
    pub metrics: Registry,
    /// Whether the process takes work; the error says why not.
    pub ready: Box<dyn Fn() -> Result<(), String> + Send + Sync>,
    /// The state of the process.
    pub state: Box<dyn Fn() -> serde_json::Value + Send + Sync>,
    /// What it holds of each partition, if it holds any.
    pub digests: Option<Box<dyn Fn() -> Later + Send + Sync>>,
}

/// How many times as long as its making nobody gets the page of digests again.
const REST: u32 = 9;

/// What the handlers share.
#[derive(Clone)]
struct Served {
    pages: Arc<Pages>,
    /// Held while digests are made, and for the rest after.
    turn: Arc<Mutex<()>>,
}

/// A bound server that does not answer yet.
pub struct Server {
    listener: TcpListener,
    address: SocketAddr,
}

impl Server {
    /// Binds `address`; port 0 lets the system choose.
    pub async fn bind(address: SocketAddr) -> io::Result<Self> {
        let listener = TcpListener::bind(address).await?;
        let address = listener.local_addr()?;
        Ok(Self { listener, address })
    }

    /// The address that is bound.
    #[must_use]
    pub fn local_addr(&self) -> SocketAddr {
        self.address
    }

    /// Answers until the future is dropped.
    pub async fn run(self, pages: Pages) -> io::Result<()> {
        let router = Router::new()
            .route("/livez", get(|| async { "ok\n" }))
            .route("/readyz", get(ready))
            .route("/metrics", get(metrics))
            .route("/state", get(state))
            .route("/digests", get(digests))
            .with_state(Served {
                pages: Arc::new(pages),
                turn: Arc::default(),
            });
        axum::serve(self.listener, router).await
    }
}

async fn ready(State(Served { pages, .. }): State<Served>) -> Response {
    match (pages.ready)() {
        Ok(()) => "ok\n".into_response(),
        Err(reason) => (StatusCode::SERVICE_UNAVAILABLE, format!("{reason}\n")).into_response(),
    }
}

async fn metrics(State(Served { pages, .. }): State<Served>) -> Response {
    let mut text = String::new();
    encode(&mut text, &pages.metrics).expect("a String takes all that is written");
    let kind = "application/openmetrics-text; version=1.0.0; charset=utf-8";
    ([(header::CONTENT_TYPE, kind)], text).into_response()
}

/// One at a time, and then a rest that is [`REST`] times as long: whoever may read pages may not keep the workers from their calls.
async fn digests(State(served): State<Served>) -> Response {
    let Some(digests) = &served.pages.digests else {
        return StatusCode::NOT_FOUND.into_response();
    };
    let Ok(turn) = served.turn.clone().try_lock_owned() else {
        return (StatusCode::SERVICE_UNAVAILABLE, "busy\n").into_response();
    };
    let begun = Instant::now();
    let page = digests().await;
    let rest = begun.elapsed() * REST;
    tokio::spawn(async move {
        tokio::time::sleep(rest).await;
        drop(turn);
    });
    axum::Json(page).into_response()
}

async fn state(State(Served { pages, .. }): State<Served>) -> Response {
    axum::Json((pages.state)()).into_response()
}
