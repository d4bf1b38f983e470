//! Answers: those of the kernel over netlink that this crate parses itself, and those of name servers.

use crate::netlink::{acknowledgements, sockets_in};
use crate::peers::resolver::message::{Query, RecordKind, Reply};

/// Parses an answer as a list of sockets and as acknowledgements.
///
/// # Panics
/// If there are more of either than headers fit into the bytes.
pub fn netlink(bytes: &[u8]) {
    /// `struct nlmsghdr` and an error number.
    const LEAST: usize = 20;
    let mut found = Vec::new();
    let _ = sockets_in(bytes, &mut found);
    assert!(found.len() <= bytes.len() / LEAST);
    assert!(acknowledgements(bytes).count() <= bytes.len().div_ceil(LEAST));
}

/// Reads a datagram as the answer to a query.
///
/// # Panics
/// If it is taken for the answer to another query, or has more addresses than fit, or of another kind.
pub fn dns(bytes: &[u8]) {
    /// The least that a record takes: a pointer for the name, ten bytes, and an address.
    const RECORD: usize = 2 + 10 + 4;
    for kind in [RecordKind::V4, RecordKind::V6] {
        let Some(reply) = Query::with_id(0x1234, "peer.example", kind).read(bytes) else { continue };
        assert!(bytes.starts_with(&[0x12, 0x34]) && bytes[2] & 0x80 != 0, "not an answer to this query");
        if let Reply::Addresses(addresses) = reply {
            assert!(addresses.len() <= bytes.len() / RECORD, "more addresses than the message holds");
            assert!(addresses.iter().all(|address| address.is_ipv4() == (kind == RecordKind::V4)));
        }
    }
}
