//! HTTP server for monitoring: `/metrics`, `/healthz`, `/readyz`, and a page at `/` that links to them.
//!
//! With [`Web`], it speaks HTTPS and asks for client certificates and logins, but never for the probes, `/healthz` and
//! `/readyz`: they tell nothing but the router's state, and an orchestrator that has no login still must see it.
//!
//! It may be reachable from a network, so it bounds the number of concurrent connections, the requests for
//! each connection (one) and the duration of a connection. Connections over the limit displace older ones
//! ([`Clients`]), so neither idle clients nor one source can keep probes out. Packets from the tunnel do not
//! reach it ([`Bound`]), and on a loopback address it serves only requests made to an address or `localhost`.

use std::convert::Infallible;
use std::io;
use std::net::{IpAddr, Ipv6Addr};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use axum::Router;
use axum::extract::State;
use axum::http::header::{ACCEPT, AUTHORIZATION, CONTENT_TYPE, HOST, WWW_AUTHENTICATE};
use axum::http::uri::Authority;
use axum::http::{HeaderMap, StatusCode};
use axum::middleware::{self, Next};
use axum::response::{Html, IntoResponse, Response};
use axum::routing::get;
use hyper::server::conn::http1;
use hyper::service::{Service as _, service_fn};
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::service::TowerToHyperService;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tokio::task::yield_now;
use tokio::time::{sleep, timeout};
use tokio_rustls::TlsAcceptor;

use super::listen::Bound;
use super::readiness::Readiness;
use super::threads::ThreadRegistry;
use super::web::{Web, WebSettings};
use crate::clients::{Client, Clients};
use crate::clock;
use crate::metrics::{HttpMetrics, Registry, openmetrics};
use crate::wireguard::limiter::RateLimiter;

/// Class of clients that have not sent their request header.
const IDLE: usize = 0;
/// Class of clients that asked for `/metrics` or something unknown, and may.
const METRICS: usize = 1;
/// Class of clients that asked for `/healthz` or `/readyz`.
const PROBES: usize = 2;
/// Class of clients whose certificate or login is missing, wrong or still being checked.
const LOGINS: usize = 3;
/// Maximum number of clients in each class. A response with metrics may take a megabyte of memory.
const CLIENTS: [usize; 4] = [64, 8, 64, 64];
/// Time limit for a client to send its request header.
const HEADER: Duration = Duration::from_secs(1);
/// How often a client that waits for its TLS handshake looks whether it may begin.
const TURN: Duration = Duration::from_millis(50);
/// Time limit for a TLS handshake, with the wait for it.
const HANDSHAKE: Duration = Duration::from_secs(3);
/// Time limit for a connection.
const CONNECTION: Duration = Duration::from_secs(20);
/// Delay before the next accept after one failed, for example because descriptors ran out.
const PAUSE: Duration = Duration::from_millis(200);
/// How long a thread may take to answer a heartbeat before it counts as stuck. On a busy machine a healthy
/// thread may wait some hundred milliseconds for a CPU.
const PATIENCE: Duration = Duration::from_secs(2);
/// How often `/healthz` tries to count batches, [`LOOK`] apart. That takes a moment in which all workers of a lane
/// sleep. A busy lane is counted by a later request, at the latest when it has no batch left and only sleeps.
const AUDITS: usize = 5;
/// How often `/healthz` checks for heartbeats.
const LOOK: Duration = Duration::from_millis(1);

/// State shared by the request handlers.
#[derive(Clone, Debug)]
pub(crate) struct HttpState {
    pub(crate) registry: Arc<Registry>,
    pub(crate) threads: Arc<ThreadRegistry>,
    pub(crate) readiness: Arc<Readiness>,
}

/// Serves `bound` on the current runtime until that runtime is shut down, protected as `web` says. Packets from the
/// interface with the index `refused` do not reach it.
///
/// # Errors
/// Fails if the address was taken meanwhile or the listener cannot be registered with the runtime.
pub(crate) fn spawn(
    bound: Bound,
    refused: Option<u32>,
    web: Option<Arc<Web>>,
    shown: HttpState,
) -> io::Result<()> {
    let listener = bound.listen(refused)?;
    listener.set_nonblocking(true)?;
    let listener = tokio::net::TcpListener::from_std(listener)?;
    let metrics = HttpMetrics::register(&shown.registry);
    let router = routes(shown, listener.local_addr()?.ip().is_loopback());
    tokio::spawn(serve(listener, web, router, metrics));
    Ok(())
}

/// Returns the pages of the server, on a loopback address or not.
fn routes(shown: HttpState, loopback: bool) -> Router {
    let router = Router::new()
        .route("/", get(landing))
        .route("/metrics", get(metrics))
        .route("/healthz", get(healthz))
        .route("/readyz", get(readyz))
        .with_state(shown);
    if loopback { router.layer(middleware::from_fn(refuse_names)) } else { router }
}

async fn serve(
    listener: tokio::net::TcpListener,
    web: Option<Arc<Web>>,
    router: Router,
    metrics: HttpMetrics,
) -> Infallible {
    let clients = Clients::new(CLIENTS);
    let handshakes = Arc::new(Mutex::new(RateLimiter::new()));
    loop {
        match listener.accept().await {
            Ok((stream, from)) => {
                let (client, displaced) = clients.admit(source(from.ip()), IDLE);
                let settings = web.as_ref().map(|web| web.current()).unwrap_or_default();
                let turn = turn(Arc::clone(&handshakes), from.ip());
                let (router, metrics) = (router.clone(), metrics.clone());
                tokio::spawn(async move {
                    tokio::select! {
                        // Errors here are the client's: a malformed request, a timeout or a lost connection.
                        _ = timeout(CONNECTION, answer(stream, turn, &settings, router, client, &metrics)) => {}
                        _ = displaced => metrics.displaced.increment(1),
                    }
                });
                // Lets the client be heard before the next ones can displace it.
                yield_now().await;
            }
            Err(error) => {
                tracing::warn!("cannot accept an HTTP connection: {error}");
                sleep(PAUSE).await;
            }
        }
    }
}

/// Returns what counts as one source of connections: an IPv4 address, or the /64 of an IPv6 address, since
/// one host may use all addresses in it.
fn source(address: IpAddr) -> IpAddr {
    match address.to_canonical() {
        IpAddr::V6(address) => Ipv6Addr::from_bits(address.to_bits() >> 64 << 64).into(),
        v4 @ IpAddr::V4(_) => v4,
    }
}

/// Waits until `source` may begin a TLS handshake. One costs milliseconds of this thread, which also answers probes.
async fn turn(handshakes: Arc<Mutex<RateLimiter>>, source: IpAddr) {
    let may = || handshakes.lock().unwrap_or_else(PoisonError::into_inner).allow(source, clock::now());
    while !may() {
        sleep(TURN).await;
    }
}

/// Serves one request on `stream`. `turn` ends when a TLS handshake may begin. Errors are the client's.
async fn answer<const CLASSES: usize>(
    stream: TcpStream,
    turn: impl Future<Output = ()>,
    settings: &WebSettings,
    router: Router,
    client: Client<IpAddr, CLASSES>,
    metrics: &HttpMetrics,
) {
    let Some(tls) = settings.tls.clone() else {
        let _ = converse(stream, false, settings, router, client, metrics).await;
        return;
    };
    let handshake = async {
        turn.await;
        TlsAcceptor::from(tls).accept(stream).await
    };
    if let Ok(Ok(stream)) = timeout(HANDSHAKE, handshake).await {
        let identified = stream.get_ref().1.peer_certificates().is_some();
        let _ = converse(stream, identified, settings, router, client, metrics).await;
    } else {
        metrics.tls_failed.increment(1);
    }
}

/// Serves one request of a client that has, or has not, `identified` itself with a certificate.
async fn converse<const CLASSES: usize>(
    stream: impl AsyncRead + AsyncWrite + Unpin,
    identified: bool,
    settings: &WebSettings,
    router: Router,
    client: Client<IpAddr, CLASSES>,
    metrics: &HttpMetrics,
) -> hyper::Result<()> {
    let router = TowerToHyperService::new(router);
    let service = service_fn(async |request: hyper::Request<_>| {
        let is_probe = matches!(request.uri().path(), "/healthz" | "/readyz");
        client.enter(if is_probe { PROBES } else { LOGINS });
        if !is_probe {
            if let Some(refusal) = refusal(settings, identified, request.headers()).await {
                let is_forbidden = refusal.status() == StatusCode::FORBIDDEN;
                let count = if is_forbidden { &metrics.no_certificate } else { &metrics.no_login };
                count.increment(1);
                return Ok(refusal);
            }
            client.enter(METRICS);
        }
        let response = router.call(request).await;
        metrics.answered.increment(1);
        response
    });
    http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(HEADER)
        .keep_alive(false)
        .serve_connection(TokioIo::new(stream), service)
        .await
}

/// Returns the answer to a client that lacks a certificate or login, or `None` if it may ask.
async fn refusal(settings: &WebSettings, identified: bool, headers: &HeaderMap) -> Option<Response> {
    if settings.needs_certificate && !identified {
        return Some((StatusCode::FORBIDDEN, "a client certificate is needed\n").into_response());
    }
    let logins = settings.logins.as_ref()?;
    if let Some(header) = headers.get(AUTHORIZATION)
        && logins.admits(header.as_bytes()).await
    {
        return None;
    }
    let challenge = [(WWW_AUTHENTICATE, "Basic realm=\"laneway\", charset=\"UTF-8\"")];
    Some((StatusCode::UNAUTHORIZED, challenge, "a login is needed\n").into_response())
}

/// Refuses requests that were made to a host name other than `localhost`. A web page may have its name
/// resolve to a loopback address and so have a browser on this host read what only this host may (DNS
/// rebinding). Browsers always send a `Host` header, so a request without one is served.
async fn refuse_names(headers: HeaderMap, request: axum::extract::Request, next: Next) -> Response {
    if headers.get_all(HOST).iter().all(|host| is_local(host.as_bytes())) {
        next.run(request).await
    } else {
        let why = "this address serves only requests to an IP address or to localhost\n";
        (StatusCode::FORBIDDEN, why).into_response()
    }
}

/// Returns whether a `Host` header holds an IP address or `localhost`, with or without a port.
fn is_local(host: &[u8]) -> bool {
    let Ok(authority) = Authority::try_from(host) else { return false };
    let host = authority.host();
    let address = host.strip_prefix('[').and_then(|host| host.strip_suffix(']')).unwrap_or(host);
    host.eq_ignore_ascii_case("localhost") || address.parse::<IpAddr>().is_ok()
}

/// Serves the page that a person finds who opens the address in a browser.
async fn landing() -> Html<&'static str> {
    Html(concat!(
        "<!DOCTYPE html>\n<html lang=\"en\">\n<meta charset=\"utf-8\">\n<title>Laneway</title>\n<h1>Laneway ",
        env!("CARGO_PKG_VERSION"),
        "</h1>\n<ul>\n\
         <li><a href=\"/metrics\">/metrics</a>: metrics for Prometheus\n\
         <li><a href=\"/healthz\">/healthz</a>: whether every thread runs\n\
         <li><a href=\"/readyz\">/readyz</a>: whether the router is ready for traffic\n</ul>\n"
    ))
}

/// Serves the metrics in the Prometheus text format, or in OpenMetrics if the client prefers that.
async fn metrics(State(shown): State<HttpState>, headers: HeaderMap) -> Response {
    let text = shown.registry.render();
    let accepted = headers.get_all(ACCEPT).iter().filter_map(|value| value.to_str().ok());
    if prefers_openmetrics(accepted) {
        ([(CONTENT_TYPE, openmetrics::CONTENT_TYPE)], openmetrics::convert(&text)).into_response()
    } else {
        ([(CONTENT_TYPE, "text/plain; version=0.0.4; charset=utf-8")], text).into_response()
    }
}

/// Returns whether `Accept` headers name OpenMetrics, with at least the weight of the plain format (RFC 9110,
/// section 12.5.1).
fn prefers_openmetrics<'a>(headers: impl Iterator<Item = &'a str>) -> bool {
    let (mut openmetrics, mut plain) = (0.0, 0.0);
    for range in headers.flat_map(|header| header.split(',')) {
        let mut parts = range.split(';').map(str::trim);
        let name = parts.next().unwrap_or_default();
        let weight = parts.find_map(|part| part.strip_prefix("q=")).map_or(Ok(1.0), str::parse);
        let best: &mut f64 = match name.to_ascii_lowercase().as_str() {
            "application/openmetrics-text" => &mut openmetrics,
            "text/plain" => &mut plain,
            _ => continue,
        };
        *best = best.max(weight.unwrap_or(0.0));
    }
    openmetrics > 0.0 && openmetrics >= plain
}

/// Responds 200 if every thread answers its heartbeat and no lane has lost batches, otherwise 503 with the names of the
/// stuck threads, or what is lost.
async fn healthz(State(shown): State<HttpState>) -> (StatusCode, String) {
    // Before the heartbeats, which wake all workers.
    for _ in 0..AUDITS {
        if shown.threads.custody().audit() {
            break;
        }
        sleep(LOOK).await;
    }
    shown.threads.call(clock::now());
    loop {
        let silent = shown.threads.silent(clock::now());
        if silent.is_empty() {
            let missing = shown.threads.custody().missing();
            if missing.is_empty() {
                return (StatusCode::OK, "ok\n".to_owned());
            }
            return (StatusCode::SERVICE_UNAVAILABLE, missing.join("\n") + "\n");
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
async fn readyz(State(shown): State<HttpState>) -> (StatusCode, String) {
    match shown.readiness.check(clock::now()) {
        Ok(()) => (StatusCode::OK, "ok\n".to_owned()),
        Err(missing) => (StatusCode::SERVICE_UNAVAILABLE, format!("{missing}\n")),
    }
}

/// Returns the answer of a server on a loopback address to a client that sends `request` and closes its side.
#[cfg(any(test, fuzzing))]
pub(crate) fn respond_to(request: &[u8]) -> Vec<u8> {
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

    let shutdown = Arc::new(crate::shutdown::Shutdown::new().expect("a descriptor"));
    let readiness = Arc::new(Readiness::new(Arc::default(), None, Arc::default(), shutdown));
    let shown = HttpState { registry: Arc::default(), threads: Arc::default(), readiness };
    let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build().expect("a runtime");
    runtime.block_on(async {
        let (near, far) = tokio::io::duplex(1 << 16);
        let (client, _displaced) = Clients::new(CLIENTS).admit(IpAddr::from([127, 0, 0, 1]), IDLE);
        let (mut reader, mut writer) = tokio::io::split(near);
        let mut response = Vec::new();
        let talk = async {
            // The server may close before it has read everything.
            let _ = writer.write_all(request).await;
            let _ = writer.shutdown().await;
            let _ = reader.read_to_end(&mut response).await;
        };
        let settings = WebSettings::default();
        let metrics = HttpMetrics::register(&shown.registry);
        let _ = tokio::join!(converse(far, false, &settings, routes(shown, true), client, &metrics), talk);
        response
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_addresses_and_localhost_are_local() {
        for host in ["127.0.0.1", "127.0.0.1:9586", "[::1]:9586", "[::1]", "localhost", "LocalHost:80"] {
            assert!(is_local(host.as_bytes()), "{host}");
        }
        for host in ["", "x", "rebound.example:9586", "localhost.example", "127.0.0.1.example", "[::1", "a b"]
        {
            assert!(!is_local(host.as_bytes()), "{host}");
        }
    }

    #[test]
    fn openmetrics_is_served_to_those_who_name_it() {
        let prometheus = "application/openmetrics-text;version=1.0.0,application/openmetrics-text;version=0.0.1;\
                          q=0.75,text/plain;version=0.0.4;q=0.5,*/*;q=0.1";
        for (accept, wanted) in [
            (prometheus, true),
            ("application/openmetrics-text; version=1.0.0; charset=utf-8", true),
            ("text/plain, Application/OpenMetrics-Text", true),
            ("text/plain;q=1, application/openmetrics-text;q=0.5", false),
            ("application/openmetrics-text;q=0", false),
            ("application/openmetrics-text;q=x", false),
            ("text/html, */*", false),
            ("", false),
        ] {
            assert_eq!(prefers_openmetrics(std::iter::once(accept)), wanted, "{accept}");
        }
        assert!(!prefers_openmetrics(std::iter::empty()));
    }

    #[test]
    fn clients_whose_login_is_checked_do_not_displace_those_that_may_ask() {
        use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
        use tokio::sync::oneshot::error::TryRecvError::Empty;

        let hash = bcrypt::hash("secret", 4).unwrap();
        let logins = super::super::web::Logins::new([("alice".to_owned(), hash)].into()).unwrap();
        let settings = WebSettings { logins: Some(Arc::new(logins)), ..WebSettings::default() };
        let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap();
        runtime.block_on(async {
            let clients = Clients::new(CLIENTS);
            // Of the same source, and the oldest: the first to be displaced.
            let source = IpAddr::from([127, 0, 0, 1]);
            let (_scrape, mut displaced) = clients.admit(source, METRICS);
            let settings = Arc::new(settings);
            let mut checks = tokio::task::JoinSet::new();
            for _ in 0..=CLIENTS[METRICS] {
                let (client, keep) = clients.admit(source, IDLE);
                let settings = Arc::clone(&settings);
                checks.spawn(async move {
                    let _keep = keep;
                    let (mut near, far) = tokio::io::duplex(1 << 12);
                    // alice:wrong
                    let request = b"GET /metrics HTTP/1.1\r\nAuthorization: Basic YWxpY2U6d3Jvbmc=\r\n\r\n";
                    near.write_all(request).await.unwrap();
                    let metrics = HttpMetrics::register(&Registry::new());
                    let _ = converse(far, false, &settings, Router::new(), client, &metrics).await;
                    let mut answer = String::new();
                    near.read_to_string(&mut answer).await.unwrap();
                    answer
                });
            }
            while let Some(answer) = checks.join_next().await {
                let answer = answer.unwrap();
                assert!(answer.starts_with("HTTP/1.1 401 "), "{answer}");
            }
            assert_eq!(displaced.try_recv(), Err(Empty), "a scrape was displaced by logins being checked");
        });
    }

    #[test]
    fn a_host_with_many_ipv6_addresses_is_one_source() {
        let [a, b, c] = ["2001:db8::1", "2001:db8::ffff:2", "2001:db8:0:1::1"].map(|a| a.parse().unwrap());
        assert_eq!(source(a), source(b));
        assert_ne!(source(a), source(c));
        let [v4, mapped]: [IpAddr; 2] = ["192.0.2.1", "::ffff:192.0.2.1"].map(|a| a.parse().unwrap());
        assert_eq!(source(v4), source(mapped));
    }
}
