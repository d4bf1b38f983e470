//! HTTP for those who watch: `/metrics`, `/healthz`, `/readyz`.
//!
//! It may face a network, so all is bounded: so many connections at a time, one request each, and so
//! long for all of it.

use std::convert::Infallible;
use std::io;
use std::net::TcpListener;
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::extract::State;
use axum::http::StatusCode;
use axum::http::header::CONTENT_TYPE;
use axum::response::IntoResponse;
use axum::routing::get;
use hyper::server::conn::http1;
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::service::TowerToHyperService;
use tokio::net::TcpStream;
use tokio::sync::Semaphore;
use tokio::time::{sleep, timeout};

use super::readiness::Readiness;
use super::roll::Roll;
use crate::lane::telemetry::Registry;
use crate::sys::clock;

/// Connections at a time. More wait until one is done.
const CONNECTIONS: usize = 32;
/// How long a client may take to send its request's header.
const HEADER: Duration = Duration::from_secs(5);
/// How long a connection may last.
const CONNECTION: Duration = Duration::from_secs(20);
/// How long we wait before we accept again after the system had no descriptor for us.
const PAUSE: Duration = Duration::from_millis(200);
/// How long a thread may take to show that its loop runs. On a busy machine one may wait its turn for
/// some hundred milliseconds; none that works takes this long.
const PATIENCE: Duration = Duration::from_secs(2);
/// How often we look for the answers.
const LOOK: Duration = Duration::from_millis(1);

/// What is shown.
#[derive(Clone, Debug)]
pub(super) struct Shown {
    pub(super) registry: Arc<Registry>,
    pub(super) roll: Arc<Roll>,
    pub(super) readiness: Arc<Readiness>,
}

/// Serves `listener` for ever, on the current runtime.
///
/// # Errors
/// The listener cannot be served.
pub(super) fn spawn(listener: TcpListener, shown: Shown) -> io::Result<()> {
    listener.set_nonblocking(true)?;
    let listener = tokio::net::TcpListener::from_std(listener)?;
    let router = Router::new()
        .route("/metrics", get(metrics))
        .route("/healthz", get(healthz))
        .route("/readyz", get(readyz))
        .with_state(shown);
    tokio::spawn(serve(listener, router));
    Ok(())
}

async fn serve(listener: tokio::net::TcpListener, router: Router) -> Infallible {
    let places = Arc::new(Semaphore::new(CONNECTIONS));
    loop {
        let place = Arc::clone(&places).acquire_owned().await.expect("nobody closes the semaphore");
        match listener.accept().await {
            Ok((stream, _)) => {
                let answered = answer(stream, router.clone());
                tokio::spawn(async move {
                    // What a client loses by its own fault, or by going away, is no news.
                    let _ = timeout(CONNECTION, answered).await;
                    drop(place);
                });
            }
            Err(error) => {
                tracing::warn!("a connection for /metrics cannot be accepted: {error}");
                sleep(PAUSE).await;
            }
        }
    }
}

/// Answers one request.
async fn answer(stream: TcpStream, router: Router) -> hyper::Result<()> {
    http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(HEADER)
        .keep_alive(false)
        .serve_connection(TokioIo::new(stream), TowerToHyperService::new(router))
        .await
}

async fn metrics(State(shown): State<Shown>) -> impl IntoResponse {
    ([(CONTENT_TYPE, "text/plain; version=0.0.4; charset=utf-8")], shown.registry.render())
}

/// 200 if every thread shows that its loop runs, else 503 with the names of those that do not.
async fn healthz(State(shown): State<Shown>) -> (StatusCode, String) {
    shown.roll.call(clock::now());
    loop {
        let silent = shown.roll.silent(clock::now());
        if silent.is_empty() {
            return (StatusCode::OK, "ok\n".to_owned());
        }
        // A question may have been open before this one was asked.
        if silent.iter().any(|(_, since)| *since >= PATIENCE) {
            let stuck = silent.into_iter().filter(|(_, since)| *since >= PATIENCE);
            let line =
                |(name, since): (String, Duration)| format!("{name} has not run for {} s\n", since.as_secs());
            return (StatusCode::SERVICE_UNAVAILABLE, stuck.map(line).collect());
        }
        sleep(LOOK).await;
    }
}

/// 200 if the router can be given traffic, else 503 with what is missing.
async fn readyz(State(shown): State<Shown>) -> (StatusCode, String) {
    match shown.readiness.check(clock::now()) {
        Ok(()) => (StatusCode::OK, "ok\n".to_owned()),
        Err(missing) => (StatusCode::SERVICE_UNAVAILABLE, format!("{missing}\n")),
    }
}
