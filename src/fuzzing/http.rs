//! Requests to the HTTP server.

use crate::router::http::respond_to;

/// Sends bytes to the server of a loopback address.
///
/// # Panics
/// If the answer is not one whole response with a status of ours, or a request that names a host is served.
pub fn http(bytes: &[u8]) {
    let answer = respond_to(bytes);
    if answer.is_empty() {
        return;
    }
    let text = String::from_utf8_lossy(&answer);
    let (head, body) = text.split_once("\r\n\r\n").expect("a response has a head");
    let status = head.strip_prefix("HTTP/1.").and_then(|rest| rest.get(2..5)).expect("a status");
    assert!(
        ["200", "400", "403", "404", "405", "408", "414", "431", "501", "503", "505"].contains(&status),
        "{head}"
    );
    let length: Option<usize> = head
        .lines()
        .find_map(|line| line.to_ascii_lowercase().strip_prefix("content-length: ")?.parse().ok());
    if let Some(length) = length {
        let head_only = bytes.starts_with(b"HEAD ");
        assert!(
            body.len() == length || head_only && body.is_empty(),
            "a response was cut off or followed by more"
        );
    }
    // A browser that was led here by the name of a host says so in the first line of its headers.
    let named = b"GET /metrics HTTP/1.1\r\nHost: rebound.example\r\n";
    assert!(status != "200" || !bytes.starts_with(named), "a request made to a host name was served");
}
