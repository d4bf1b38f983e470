//! A minimal HTTP/1.0 client for metrics.

use std::fmt;
use std::io::{Read as _, Write as _};
use std::net::{TcpStream, ToSocketAddrs as _};
use std::str::FromStr;
use std::time::Duration;

/// Time limit for connecting and for each read.
const PATIENCE: Duration = Duration::from_secs(5);
/// Maximum length of an answer in bytes: some 100,000 peers.
const MAX_ANSWER: u64 = 64 << 20;

/// An `http` URL.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Url {
    /// Host and port, as in the URL.
    authority: String,
    /// Path and query, with the leading slash.
    path: String,
}

impl FromStr for Url {
    type Err = String;

    /// Parses `http://HOST[:PORT][/PATH]`; without a path, `/metrics` is meant.
    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let rest = match text.split_once("://") {
            Some(("http", rest)) => rest,
            Some((scheme, _)) => return Err(format!("the scheme {scheme:?} is not supported; use http://")),
            None => text,
        };
        let (authority, path) = rest.split_at(rest.find('/').unwrap_or(rest.len()));
        let valid = |c: char| c.is_ascii_graphic() && c != '@';
        if authority.is_empty()
            || !authority.chars().all(valid)
            || !path.chars().all(|c| c.is_ascii_graphic())
        {
            return Err("expected http://HOST:PORT/metrics".to_owned());
        }
        let path = if path.len() < 2 { "/metrics" } else { path };
        Ok(Url { authority: authority.to_owned(), path: path.to_owned() })
    }
}

impl fmt::Display for Url {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "http://{}{}", self.authority, self.path)
    }
}

impl Url {
    /// Returns host and port, which is 80 if the URL has none.
    fn address(&self) -> String {
        // The colons of an IPv6 address are in brackets.
        let after_address = self.authority.rfind(']').map_or(0, |end| end + 1);
        if self.authority[after_address..].contains(':') {
            self.authority.clone()
        } else {
            format!("{}:80", self.authority)
        }
    }
}

/// Returns the body of the answer to a GET request.
///
/// # Errors
/// A description of what failed: the connection, the status, or the form of the answer.
pub(super) fn get(url: &Url) -> Result<String, String> {
    let addresses = url.address().to_socket_addrs().map_err(|error| format!("unknown host: {error}"))?;
    let mut failure = "the host has no address".to_owned();
    for address in addresses {
        match TcpStream::connect_timeout(&address, PATIENCE) {
            Ok(stream) => return ask(stream, url),
            Err(error) => failure = format!("cannot connect to {address}: {error}"),
        }
    }
    Err(failure)
}

fn ask(mut stream: TcpStream, url: &Url) -> Result<String, String> {
    let mut answer = Vec::new();
    let mut exchange = || {
        stream.set_read_timeout(Some(PATIENCE))?;
        stream.set_write_timeout(Some(PATIENCE))?;
        // The answer to HTTP/1.0 ends with the connection and is not in chunks (RFC 1945, section 7.2.2).
        let request = format!("GET {} HTTP/1.0\r\nHost: {}\r\n\r\n", url.path, url.authority);
        stream.write_all(request.as_bytes())?;
        (&stream).take(MAX_ANSWER).read_to_end(&mut answer)
    };
    exchange().map_err(|error| format!("no answer: {error}"))?;
    body(&String::from_utf8_lossy(&answer)).map(str::to_owned)
}

/// Returns the body of an answer with status 200.
fn body(answer: &str) -> Result<&str, String> {
    let (head, body) = answer.split_once("\r\n\r\n").ok_or("the answer is not HTTP")?;
    let status = head.lines().next().unwrap_or_default();
    match status.split(' ').nth(1) {
        Some("200") => {}
        Some(_) if status.starts_with("HTTP/") => {
            let (_, status) = status.split_once(' ').unwrap_or_default();
            return Err(format!("the server answered {status}: {}", body.lines().next().unwrap_or_default()));
        }
        _ => return Err("the answer is not HTTP".to_owned()),
    }
    // A connection that was cut shows in the length.
    let length = head.lines().find_map(|line| {
        let (name, value) = line.split_once(':')?;
        name.eq_ignore_ascii_case("content-length").then(|| value.trim().parse::<usize>().ok())?
    });
    match length {
        Some(length) if length > body.len() => Err("the answer was cut off".to_owned()),
        _ => Ok(body),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_url_may_leave_out_its_scheme_port_and_path() {
        for (text, url, address) in [
            ("http://127.0.0.1:9586/metrics", "http://127.0.0.1:9586/metrics", "127.0.0.1:9586"),
            ("router", "http://router/metrics", "router:80"),
            ("http://[::1]:9586/", "http://[::1]:9586/metrics", "[::1]:9586"),
            ("http://[::1]/x?y", "http://[::1]/x?y", "[::1]:80"),
        ] {
            let parsed: Url = text.parse().unwrap();
            assert_eq!((parsed.to_string().as_str(), parsed.address().as_str()), (url, address));
        }
        for text in ["", "http://", "ftp://x", "http://a b", "http://a/b\r\nc", "http://user@x", "/metrics"] {
            assert!(text.parse::<Url>().is_err(), "{text:?}");
        }
    }

    #[test]
    fn only_whole_answers_with_status_200_count() {
        assert_eq!(body("HTTP/1.0 200 OK\r\nContent-Length: 2\r\n\r\nup"), Ok("up"));
        assert_eq!(body("HTTP/1.1 200 OK\r\n\r\nup"), Ok("up"));
        for (answer, told) in [
            ("HTTP/1.0 200 OK\r\ncontent-length: 3\r\n\r\nup", "cut off"),
            ("HTTP/1.0 403 Forbidden\r\n\r\nnot to this name\n", "403 Forbidden: not to this name"),
            ("SSH-2.0-x\r\n\r\n", "not HTTP"),
            ("", "not HTTP"),
        ] {
            let error = body(answer).unwrap_err();
            assert!(error.contains(told), "{error}");
        }
    }
}
