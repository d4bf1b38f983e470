//! Asks the name servers, by UDP and, if an answer does not fit a datagram, by TCP (RFC 7766).

use std::io::{self, ErrorKind, Read as _, Write as _};
use std::net::{IpAddr, SocketAddr, TcpStream, UdpSocket};
use std::time::Instant;

use socket2::{Domain, Protocol, Socket, Type};

use super::conf::Conf;
use super::message::{Query, RecordKind, Reply};

/// Largest answer that is read from a datagram, in bytes.
const DATAGRAM: usize = 4096;

/// The name servers of a configuration, asked from sockets that carry the mark.
#[derive(Debug)]
pub(super) struct NameServers<'a> {
    pub(super) conf: &'a Conf,
    pub(super) mark: u32,
}

impl NameServers<'_> {
    /// Returns the addresses of the absolute name `name`; none if a server says that it has none.
    ///
    /// # Errors
    /// No server answered, or the name cannot be asked for.
    pub(super) fn addresses(&self, name: &str) -> io::Result<Vec<IpAddr>> {
        let kinds: &[RecordKind] =
            if self.conf.no_ipv6 { &[RecordKind::V4] } else { &[RecordKind::V6, RecordKind::V4] };
        let queries = kinds.iter().map(|kind| Query::new(name, *kind)).collect::<io::Result<Vec<_>>>()?;
        let messages = queries.iter().map(Query::encode).collect::<io::Result<Vec<_>>>()?;
        let asked: Vec<_> =
            queries.iter().zip(&messages).map(|(query, message)| Asked { query, message }).collect();
        let mut failure = io::Error::new(ErrorKind::TimedOut, "no name server answered");
        for _ in 0..self.conf.attempts {
            for server in &self.conf.servers {
                match self.ask(*server, &asked) {
                    Ok(Some(addresses)) => return Ok(addresses),
                    Ok(None) => {}
                    Err(error) if error.kind() == ErrorKind::PermissionDenied => return Err(error),
                    Err(error) => {
                        failure = io::Error::new(error.kind(), format!("name server {server}: {error}"));
                    }
                }
            }
        }
        Err(failure)
    }

    /// Asks one server all questions. Returns `None` if it did not answer them.
    fn ask(&self, server: SocketAddr, asked: &[Asked<'_>]) -> io::Result<Option<Vec<IpAddr>>> {
        let replies = if self.conf.tcp {
            vec![Some(Reply::Truncated); asked.len()]
        } else {
            self.by_udp(server, asked)?
        };
        let mut addresses = Vec::new();
        let mut complete = true;
        for (asked, reply) in asked.iter().zip(replies) {
            let reply = match reply {
                Some(Reply::Truncated) => Some(self.by_tcp(server, asked)?),
                reply => reply,
            };
            match reply {
                Some(Reply::Addresses(found)) => addresses.extend(found),
                _ => complete = false,
            }
        }
        // Some servers answer questions for one kind of address only. Its addresses are good all the same.
        Ok((complete || !addresses.is_empty()).then_some(addresses))
    }

    fn by_udp(&self, server: SocketAddr, asked: &[Asked<'_>]) -> io::Result<Vec<Option<Reply>>> {
        let socket = self.socket(server, Type::DGRAM, Protocol::UDP)?;
        socket.connect(&server.into())?;
        let socket = UdpSocket::from(socket);
        for Asked { message, .. } in asked {
            socket.send(message)?;
        }
        let mut replies = vec![None; asked.len()];
        let mut datagram = [0; DATAGRAM];
        let deadline = Instant::now() + self.conf.timeout;
        while replies.contains(&None) {
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() {
                break;
            }
            socket.set_read_timeout(Some(left))?;
            let length = match socket.recv(&mut datagram) {
                Ok(length) => length,
                Err(error) if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::Interrupted) => {
                    continue;
                }
                Err(error) => return Err(error),
            };
            for (asked, reply) in asked.iter().zip(&mut replies) {
                if let Some(read) = asked.query.read(&datagram[..length]) {
                    *reply = Some(read);
                }
            }
        }
        Ok(replies)
    }

    fn by_tcp(&self, server: SocketAddr, asked: &Asked<'_>) -> io::Result<Reply> {
        let socket = self.socket(server, Type::STREAM, Protocol::TCP)?;
        socket.connect_timeout(&server.into(), self.conf.timeout)?;
        let mut stream = TcpStream::from(socket);
        stream.set_read_timeout(Some(self.conf.timeout))?;
        stream.set_write_timeout(Some(self.conf.timeout))?;
        let length = u16::try_from(asked.message.len()).map_err(io::Error::other)?;
        stream.write_all(&[&length.to_be_bytes(), asked.message].concat())?;
        let mut length = [0; 2];
        stream.read_exact(&mut length)?;
        let mut answer = vec![0; u16::from_be_bytes(length).into()];
        stream.read_exact(&mut answer)?;
        Ok(asked.query.read(&answer).unwrap_or(Reply::Failed))
    }

    /// Opens a socket that carries the mark.
    fn socket(&self, server: SocketAddr, kind: Type, protocol: Protocol) -> io::Result<Socket> {
        marked(Domain::for_address(server), kind, protocol, self.mark)
    }
}

/// A question and its message.
struct Asked<'a> {
    query: &'a Query,
    message: &'a [u8],
}

/// Opens a socket with the mark `mark`.
///
/// # Errors
/// `EPERM` without `CAP_NET_ADMIN`, or the process is out of descriptors.
pub(super) fn marked(domain: Domain, kind: Type, protocol: Protocol, mark: u32) -> io::Result<Socket> {
    let socket = Socket::new(domain, kind, Some(protocol))?;
    socket.set_mark(mark)?;
    Ok(socket)
}

#[cfg(test)]
mod tests;
