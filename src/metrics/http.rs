//! Metrics of the HTTP server.

use std::fmt;

use metrics::Counter;

use super::registry::Registry;

/// Counts the connections to the HTTP server by their result.
#[derive(Clone)]
pub struct HttpMetrics {
    /// The request was answered, probes included.
    pub answered: Counter,
    /// The login was missing or wrong.
    pub no_login: Counter,
    /// The client certificate was missing.
    pub no_certificate: Counter,
    /// The TLS handshake failed or took too long. An invalid client certificate ends it too.
    pub tls_failed: Counter,
    /// Another client took the connection's place before it was served.
    pub displaced: Counter,
}

impl HttpMetrics {
    /// Registers the metrics.
    pub fn register(registry: &Registry) -> Self {
        let result = |result| registry.counter("laneway_http_connections_total", &[("result", result)]);
        HttpMetrics {
            answered: result("answered"),
            no_login: result("no_login"),
            no_certificate: result("no_certificate"),
            tls_failed: result("tls_failed"),
            displaced: result("displaced"),
        }
    }
}

impl fmt::Debug for HttpMetrics {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("HttpMetrics").finish_non_exhaustive()
    }
}
