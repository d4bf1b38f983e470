//! Encodes queries and reads answers (RFC 1035, section 4).

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use simple_dns::rdata::RData;
use simple_dns::{CLASS, Name, Packet, PacketFlag, QCLASS, QTYPE, Question, RCODE, TYPE};

/// Maximum length of a chain of aliases.
const ALIASES: usize = 16;

/// The kind of address to ask for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum RecordKind {
    /// IPv4 (`A`).
    V4,
    /// IPv6 (`AAAA`).
    V6,
}

/// A question for one kind of address.
#[derive(Clone, Debug)]
pub(crate) struct Query {
    id: u16,
    name: String,
    kind: RecordKind,
}

/// What a server answered.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Reply {
    /// The name's addresses; none if it does not exist or has none of this kind.
    Addresses(Vec<IpAddr>),
    /// The answer did not fit a datagram.
    Truncated,
    /// The server cannot or will not tell.
    Failed,
}

impl Query {
    /// Creates a query with a random identifier.
    ///
    /// # Errors
    /// The name is not valid, or there is no randomness.
    pub(super) fn new(name: &str, kind: RecordKind) -> io::Result<Query> {
        if !is_valid(name) {
            return Err(invalid());
        }
        let mut id = [0; 2];
        getrandom::fill(&mut id).map_err(io::Error::other)?;
        Ok(Query { id: u16::from_be_bytes(id), name: name.to_ascii_lowercase(), kind })
    }

    /// Creates a query with this identifier, for a fuzz target.
    #[cfg(any(test, fuzzing))]
    pub(crate) fn with_id(id: u16, name: &str, kind: RecordKind) -> Query {
        Query { id, name: name.to_owned(), kind }
    }

    /// Returns the message to send.
    pub(super) fn encode(&self) -> io::Result<Vec<u8>> {
        let mut packet = Packet::new_query(self.id);
        packet.set_flags(PacketFlag::RECURSION_DESIRED);
        let name = Name::new(&self.name).map_err(|_| invalid())?;
        packet.questions.push(Question::new(
            name,
            QTYPE::TYPE(self.wanted()),
            QCLASS::CLASS(CLASS::IN),
            false,
        ));
        packet.build_bytes_vec().map_err(|_| invalid())
    }

    /// Reads a message. Returns `None` if it does not answer this query.
    pub(crate) fn read(&self, message: &[u8]) -> Option<Reply> {
        let packet = Packet::parse(message).ok()?;
        let is_asked = |question: &Question<'_>| {
            question.qtype == QTYPE::TYPE(self.wanted()) && self.name == lowercase(&question.qname)
        };
        let is_answer = packet.id() == self.id && packet.has_flags(PacketFlag::RESPONSE);
        if !is_answer || !packet.questions.first().is_some_and(is_asked) {
            return None;
        }
        if packet.has_flags(PacketFlag::TRUNCATION) {
            return Some(Reply::Truncated);
        }
        match packet.rcode() {
            RCODE::NoError => Some(Reply::Addresses(self.addresses(&packet))),
            RCODE::NameError => Some(Reply::Addresses(Vec::new())),
            _ => Some(Reply::Failed),
        }
    }

    /// Returns the addresses of the name that the name is an alias of, or of itself.
    fn addresses(&self, packet: &Packet<'_>) -> Vec<IpAddr> {
        let mut name = self.name.clone();
        for _ in 0..ALIASES {
            let alias = packet.answers.iter().find_map(|record| match &record.rdata {
                RData::CNAME(target) if lowercase(&record.name) == name => Some(lowercase(&target.0)),
                _ => None,
            });
            let Some(target) = alias else { break };
            name = target;
        }
        let records = packet.answers.iter().filter(|record| lowercase(&record.name) == name);
        let addresses = records.filter_map(|record| match (&record.rdata, self.kind) {
            (RData::A(a), RecordKind::V4) => Some(Ipv4Addr::from_bits(a.address).into()),
            (RData::AAAA(aaaa), RecordKind::V6) => Some(Ipv6Addr::from_bits(aaaa.address).into()),
            _ => None,
        });
        addresses.collect()
    }

    fn wanted(&self) -> TYPE {
        match self.kind {
            RecordKind::V4 => TYPE::A,
            RecordKind::V6 => TYPE::AAAA,
        }
    }
}

/// Returns whether the labels and the whole name have lengths that DNS permits (RFC 1035, section 2.3.4).
fn is_valid(name: &str) -> bool {
    const WHOLE: usize = 253;
    const LABEL: usize = 63;
    name.len() <= WHOLE && name.split('.').all(|label| (1..=LABEL).contains(&label.len()))
}

fn invalid() -> io::Error {
    io::Error::new(io::ErrorKind::InvalidInput, "not a valid host name")
}

fn lowercase(name: &impl ToString) -> String {
    name.to_string().to_ascii_lowercase()
}

#[cfg(test)]
mod tests {
    use simple_dns::ResourceRecord;
    use simple_dns::rdata::{A, AAAA, CNAME};

    use super::*;

    /// Answers `query` with records of these names.
    fn answer(query: &Query, code: RCODE, records: &[(&str, RData<'_>)]) -> Vec<u8> {
        let mut packet = Packet::parse(&query.encode().unwrap()).unwrap().into_owned_reply();
        *packet.rcode_mut() = code;
        for (name, data) in records {
            let name = Name::new(name).unwrap().into_owned();
            packet.answers.push(ResourceRecord::new(name, CLASS::IN, 60, data.clone().into_owned()));
        }
        packet.build_bytes_vec_compressed().unwrap()
    }

    trait IntoOwnedReply {
        fn into_owned_reply(self) -> Packet<'static>;
    }

    impl IntoOwnedReply for Packet<'_> {
        fn into_owned_reply(self) -> Packet<'static> {
            let mut reply = Packet::new_reply(self.id());
            reply.questions = self.questions.into_iter().map(Question::into_owned).collect();
            reply
        }
    }

    #[test]
    fn aliases_are_followed_and_records_of_other_names_are_not_believed() {
        let query = Query::new("GW.Example", RecordKind::V4).unwrap();
        let a = |host: u32| RData::A(A { address: 0xc000_0200 + host });
        let alias = RData::CNAME(CNAME(Name::new("Real.example").unwrap()));
        let records =
            [("gw.example", alias), ("real.example", a(1)), ("real.example", a(2)), ("x.example", a(3))];
        let reply = query.read(&answer(&query, RCODE::NoError, &records));
        let addresses = ["192.0.2.1", "192.0.2.2"].map(|address| address.parse().unwrap()).to_vec();
        assert_eq!(reply, Some(Reply::Addresses(addresses)));
    }

    #[test]
    fn a_kind_that_was_not_asked_for_is_no_address() {
        let query = Query::new("gw.example", RecordKind::V6).unwrap();
        let records = [
            ("gw.example", RData::A(A { address: 1 })),
            ("gw.example", RData::AAAA(AAAA { address: 0x2001_0db8 << 96 | 7 })),
        ];
        let reply = query.read(&answer(&query, RCODE::NoError, &records));
        assert_eq!(reply, Some(Reply::Addresses(vec!["2001:db8::7".parse().unwrap()])));
    }

    #[test]
    fn a_name_that_does_not_exist_is_told_from_a_server_that_fails() {
        let query = Query::new("gw.example", RecordKind::V4).unwrap();
        let reply = |code| query.read(&answer(&query, code, &[])).unwrap();
        assert_eq!(reply(RCODE::NameError), Reply::Addresses(Vec::new()));
        assert_eq!(reply(RCODE::ServerFailure), Reply::Failed);
        assert_eq!(reply(RCODE::Refused), Reply::Failed);
    }

    #[test]
    fn answers_to_other_questions_and_garbage_are_ignored() {
        let query = Query::new("gw.example", RecordKind::V4).unwrap();
        let mut other = Query { kind: RecordKind::V6, ..query.clone() };
        assert_eq!(query.read(&answer(&other, RCODE::NoError, &[])), None);
        other = Query { name: "x.example".into(), ..query.clone() };
        assert_eq!(query.read(&answer(&other, RCODE::NoError, &[])), None);
        other = Query { id: query.id ^ 1, ..query.clone() };
        assert_eq!(query.read(&answer(&other, RCODE::NoError, &[])), None);
        assert_eq!(query.read(&query.encode().unwrap()), None, "a query is no answer");
        let whole = answer(&query, RCODE::NoError, &[("gw.example", RData::A(A { address: 1 }))]);
        for length in 0..whole.len() {
            assert_eq!(query.read(&whole[..length]), None, "{length}");
        }
    }

    #[test]
    fn a_name_that_cannot_be_asked_for_is_refused() {
        for name in ["", "a..b", &"x".repeat(64), &"abcdefgh.".repeat(32)] {
            assert!(Query::new(name, RecordKind::V4).is_err(), "{name}");
        }
    }
}
