//! Exchanges with name servers on loopback. No mark is set, because that requires `CAP_NET_ADMIN`.

use std::net::{Ipv4Addr, TcpListener};
use std::thread;
use std::time::Duration;

use simple_dns::rdata::{A, RData};
use simple_dns::{CLASS, Packet, PacketFlag, QTYPE, Question, ResourceRecord, TYPE};

use crate::peers::resolver::conf::Conf;
use crate::peers::resolver::exchange::*;

const ADDRESS: Ipv4Addr = Ipv4Addr::new(192, 0, 2, 7);

/// Returns a reply to `query` with [`ADDRESS`] if it asks for IPv4.
fn reply(query: &[u8], truncated: bool) -> Vec<u8> {
    let query = Packet::parse(query).unwrap();
    let mut reply = Packet::new_reply(query.id());
    let question = query.questions[0].clone();
    if truncated {
        reply.set_flags(PacketFlag::TRUNCATION);
    } else if question.qtype == QTYPE::TYPE(TYPE::A) {
        let address = RData::A(A { address: ADDRESS.to_bits() });
        reply.answers.push(ResourceRecord::new(question.qname.clone(), CLASS::IN, 1, address));
    }
    reply.questions.push(Question::into_owned(question));
    reply.build_bytes_vec().unwrap()
}

fn conf(servers: Vec<SocketAddr>) -> Conf {
    let mut conf = Conf::parse("options timeout:1 attempts:1");
    conf.servers = servers;
    // As long as it takes; only servers that never answer are waited for.
    conf.timeout = Duration::from_secs(30);
    conf
}

fn ask(conf: &Conf) -> io::Result<Vec<IpAddr>> {
    NameServers { conf, mark: 0 }.addresses("gw.example")
}

#[test]
fn what_does_not_fit_a_datagram_is_asked_for_by_tcp() {
    let udp = UdpSocket::bind("127.0.0.1:0").unwrap();
    let server = udp.local_addr().unwrap();
    let tcp = TcpListener::bind(server).unwrap();
    thread::spawn(move || {
        let mut query = [0; 512];
        while let Ok((length, from)) = udp.recv_from(&mut query) {
            udp.send_to(&reply(&query[..length], true), from).unwrap();
        }
    });
    thread::spawn(move || {
        for mut stream in tcp.incoming().flatten() {
            let mut length = [0; 2];
            stream.read_exact(&mut length).unwrap();
            let mut query = vec![0; u16::from_be_bytes(length).into()];
            stream.read_exact(&mut query).unwrap();
            let answer = reply(&query, false);
            stream.write_all(&(answer.len() as u16).to_be_bytes()).unwrap();
            stream.write_all(&answer).unwrap();
        }
    });
    assert_eq!(ask(&conf(vec![server])).unwrap(), [IpAddr::from(ADDRESS)]);
    let mut by_tcp = conf(vec![server]);
    by_tcp.tcp = true;
    assert_eq!(ask(&by_tcp).unwrap(), [IpAddr::from(ADDRESS)]);
}

#[test]
fn the_next_server_is_asked_if_one_is_down() {
    let udp = UdpSocket::bind("127.0.0.1:0").unwrap();
    let good = udp.local_addr().unwrap();
    // A port that nobody listens on.
    let down = UdpSocket::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    thread::spawn(move || {
        let mut query = [0; 512];
        while let Ok((length, from)) = udp.recv_from(&mut query) {
            // Answers to other questions come first.
            udp.send_to(b"garbage", from).unwrap();
            udp.send_to(&reply(&query[..length], false), from).unwrap();
        }
    });
    assert_eq!(ask(&conf(vec![down, good])).unwrap(), [IpAddr::from(ADDRESS)]);
    let message = ask(&conf(vec![down])).unwrap_err().to_string();
    assert!(message.contains(&down.to_string()), "{message}");
}
