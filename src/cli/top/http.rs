//! A minimal HTTP/1.0 client for metrics, over TCP or TLS.

use std::io::{self, Read, Write};
use std::net::{TcpStream, ToSocketAddrs as _};
use std::sync::Arc;
use std::time::Duration;

use rustls::pki_types::ServerName;
use rustls::{ClientConfig, ClientConnection, StreamOwned};
use zeroize::Zeroizing;

use super::access::HttpAccess;
use super::url::Url;

/// Time limit for connecting and for each read.
const PATIENCE: Duration = Duration::from_secs(5);
/// Maximum length of an answer in bytes: some 100,000 peers.
const MAX_ANSWER: u64 = 64 << 20;
/// A server with TLS answers an HTTP request with an alert, or not at all.
const NOT_HTTP: &str = "the answer is not HTTP; is it https:// instead?";

/// Returns the body of the answer to a GET request.
///
/// # Errors
/// A description of what failed: the connection, the status, or the form of the answer.
pub(super) fn get(url: &Url, access: &HttpAccess) -> Result<String, String> {
    let stream = connect(url)?;
    match &access.tls {
        Some(tls) => ask(secure(stream, url, Arc::clone(tls))?, url, access),
        None => ask(stream, url, access),
    }
}

fn connect(url: &Url) -> Result<TcpStream, String> {
    let addresses = url.address().to_socket_addrs().map_err(|error| format!("unknown host: {error}"))?;
    let mut failure = "the host has no address".to_owned();
    for address in addresses {
        let connected = TcpStream::connect_timeout(&address, PATIENCE).and_then(|stream| {
            stream.set_read_timeout(Some(PATIENCE))?;
            stream.set_write_timeout(Some(PATIENCE))?;
            Ok(stream)
        });
        match connected {
            Ok(stream) => return Ok(stream),
            Err(error) => failure = format!("cannot connect to {address}: {error}"),
        }
    }
    Err(failure)
}

/// Performs the TLS handshake.
fn secure(
    mut stream: TcpStream,
    url: &Url,
    tls: Arc<ClientConfig>,
) -> Result<StreamOwned<ClientConnection, TcpStream>, String> {
    let name = ServerName::try_from(url.host().to_owned()).map_err(|error| error.to_string())?;
    let mut connection = ClientConnection::new(tls, name).map_err(|error| error.to_string())?;
    while connection.is_handshaking() {
        connection.complete_io(&mut stream).map_err(|error| refusal(&error))?;
    }
    Ok(StreamOwned::new(connection, stream))
}

/// Describes why there is no TLS connection.
fn refusal(error: &io::Error) -> String {
    let cause = error.get_ref().and_then(|cause| cause.downcast_ref());
    let remedy = match cause {
        Some(rustls::Error::InvalidCertificate(_)) => "; --ca-file names a certificate to trust",
        Some(rustls::Error::InvalidMessage(_)) => "; is it http:// instead?",
        _ => "",
    };
    format!("no TLS connection: {error}{remedy}")
}

fn ask(mut stream: impl Read + Write, url: &Url, access: &HttpAccess) -> Result<String, String> {
    let mut answer = Vec::new();
    let mut exchange = || {
        // The answer to HTTP/1.0 ends with the connection and is not in chunks (RFC 1945, section 7.2.2).
        let head = format!("GET {} HTTP/1.0\r\nHost: {}\r\n", url.path, url.authority);
        let login = access.authorization.as_ref().map(|login| ["Authorization: ", login, "\r\n"].concat());
        let login = Zeroizing::new(login.unwrap_or_default());
        let request = Zeroizing::new([&head, &*login, "\r\n"].concat());
        stream.write_all(request.as_bytes())?;
        Read::take(&mut stream, MAX_ANSWER).read_to_end(&mut answer)
    };
    exchange().map_err(|error| format!("no answer: {error}"))?;
    body(&String::from_utf8_lossy(&answer), access.authorization.is_some()).map(str::to_owned)
}

/// Returns the body of an answer with status 200. `with_login` says whether the request had one.
fn body(answer: &str, with_login: bool) -> Result<&str, String> {
    let (head, body) = answer.split_once("\r\n\r\n").ok_or(NOT_HTTP)?;
    let status = head.lines().next().unwrap_or_default();
    match status.split(' ').nth(1) {
        Some("200") => {}
        Some(_) if status.starts_with("HTTP/") => {
            let (_, status) = status.split_once(' ').unwrap_or_default();
            let why = body.lines().next().unwrap_or_default();
            let remedy = match (status.starts_with("401"), with_login) {
                (true, false) => "; use https://USER@HOST and --password-file",
                (true, true) => "; the user or the password is wrong",
                _ => "",
            };
            return Err(format!("the server answered {status}: {why}{remedy}"));
        }
        _ => return Err(NOT_HTTP.to_owned()),
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
    fn only_whole_answers_with_status_200_count() {
        assert_eq!(body("HTTP/1.0 200 OK\r\nContent-Length: 2\r\n\r\nup", false), Ok("up"));
        assert_eq!(body("HTTP/1.1 200 OK\r\n\r\nup", false), Ok("up"));
        for (answer, told) in [
            ("HTTP/1.0 200 OK\r\ncontent-length: 3\r\n\r\nup", "cut off"),
            ("HTTP/1.0 403 Forbidden\r\n\r\nnot to this name\n", "403 Forbidden: not to this name"),
            ("SSH-2.0-x\r\n\r\n", "not HTTP"),
            ("", "not HTTP"),
        ] {
            let error = body(answer, false).unwrap_err();
            assert!(error.contains(told), "{error}");
        }
    }
}
