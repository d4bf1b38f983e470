//! HTTP server for monitoring: `/metrics`, `/healthz`, `/readyz`.
//!
//! It may be reachable from a network, so it bounds the number of concurrent connections, the requests for
//! each connection (one) and the duration of a connection.

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
use super::threads::ThreadRegistry;
use crate::clock;
use crate::metrics::Registry;

/// Maximum number of concurrent connections. Further connections wait in the listener's backlog.
const CONNECTIONS: usize = 32;
/// Time limit for a client to send its request header.
const HEADER: Duration = Duration::from_secs(5);
/// Time limit for a connection.
const CONNECTION: Duration = Duration::from_secs(20);
/// Delay before the next accept after one failed, for example because descriptors ran out.
const PAUSE: Duration = Duration::from_millis(200);
/// How long a thread may take to answer a heartbeat before it counts as stuck. On a busy machine a healthy
/// thread may wait some hundred milliseconds for a CPU.
const PATIENCE: Duration = Duration::from_secs(2);
/// How often `/healthz` checks for heartbeats.
const LOOK: Duration = Duration::from_millis(1);

/// State shared by the request handlers.
#[derive(Clone, Debug)]
pub(crate) struct Shown {
    pub(crate) registry: Arc<Registry>,
    pub(crate) threads: Arc<ThreadRegistry>,
    pub(crate) readiness: Arc<Readiness>,
}

/// Serves `listener` on the current runtime until that runtime is shut down.
///
/// # Errors
/// Fails if the listener cannot be registered with the runtime.
pub(crate) fn spawn(listener: TcpListener, shown: Shown) -> io::Result<()> {
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
        let place = Arc::clone(&places).acquire_owned().await.expect("the semaphore is never closed");
        match listener.accept().await {
            Ok((stream, _)) => {
                let answered = answer(stream, router.clone());
                tokio::spawn(async move {
                    // Errors here are the client's: a malformed request, a timeout or a lost connection.
                    let _ = timeout(CONNECTION, answered).await;
                    drop(place);
                });
            }
            Err(error) => {
                tracing::warn!("cannot accept an HTTP connection: {error}");
                sleep(PAUSE).await;
            }
        }
    }
}

/// Serves one request on `stream`.
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

/// Responds 200 if every thread answers its heartbeat, otherwise 503 with the names of the stuck threads.
async fn healthz(State(shown): State<Shown>) -> (StatusCode, String) {
    shown.threads.call(clock::now());
    loop {
        let silent = shown.threads.silent(clock::now());
        if silent.is_empty() {
            return (StatusCode::OK, "ok\n".to_owned());
        }
        // A heartbeat may have been outstanding since an earlier request.
        if silent.iter().any(|(_, since)| *since >= PATIENCE) {
            let stuck = silent.into_iter().filter(|(_, since)| *since >= PATIENCE);
            let line =
                |(name, since): (String, Duration)| format!("{name} has not run for {} s\n", since.as_secs());
            return (StatusCode::SERVICE_UNAVAILABLE, stuck.map(line).collect());
        }
        sleep(LOOK).await;
    }
}

/// Responds 200 if the router is ready for traffic, otherwise 503 with the reason.
async fn readyz(State(shown): State<Shown>) -> (StatusCode, String) {
    match shown.readiness.check(clock::now()) {
        Ok(()) => (StatusCode::OK, "ok\n".to_owned()),
        Err(missing) => (StatusCode::SERVICE_UNAVAILABLE, format!("{missing}\n")),
    }
}
