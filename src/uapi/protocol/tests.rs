//! Tests of the UAPI protocol.

use std::time::Duration;

use ipnet::IpNet;
use proptest::prelude::*;

use crate::config::update::PeerStatus;
use crate::uapi::protocol::*;

const KEY: &str = "e84b5a6d2717c1003a13b431570353dbaca9146cf150c5f8575680feba52027a";
const PEER: &str = "b85996fecc9c7f1fc6d2572a76eda11d59bcd20be8e543b15ce4bd85a8e75a33";
const OTHER: &str = "58402e695ba1772b1cc9309755f043251ea77fdcf10fbe63989ceb7e19321376";

/// Parses the requests in `text`.
fn requests(text: &str) -> Vec<Request> {
    let mut parser = RequestParser::default();
    text.lines().filter_map(|line| parser.line(line).expect("requests only")).collect()
}

fn set(lines: &str) -> Result<DeviceUpdate, Errno> {
    match requests(&format!("set=1\n{lines}\n\n")).as_slice() {
        [Request::Set(result)] => result.clone(),
        other => panic!("{other:?}"),
    }
}

#[test]
fn the_example_of_the_specification_is_read() {
    // From wireguard.com/xplatform, shortened to two peers.
    let update = set(&format!(
        "private_key={KEY}\nfwmark=0\nlisten_port=12912\nreplace_peers=true\n\
         public_key={PEER}\npreshared_key={OTHER}\nreplace_allowed_ips=true\nallowed_ip=192.168.4.4/32\n\
         endpoint=[abcd:23::33%1]:51820\npublic_key={OTHER}\nremove=true"
    ))
    .unwrap();
    assert_eq!(update.private_key, Some(Some(PrivateKey::from_hex(KEY).unwrap())));
    assert_eq!((update.fwmark, update.listen_port, update.replace_peers), (Some(0), Some(12912), true));
    let [first, second] = update.peers.as_slice() else { panic!("two peers") };
    assert_eq!(first.endpoint, Some(PeerEndpoint::Address("[abcd:23::33%1]:51820".parse().unwrap())));
    let net = "192.168.4.4/32".parse::<IpNet>().unwrap();
    assert_eq!(first.allowed_ips, [AllowedIpChange { net, remove: false }]);
    assert!(first.replace_allowed_ips && !first.remove);
    assert!(second.remove && second.public_key == PublicKey::from_hex(OTHER).unwrap());
}

#[test]
fn an_allowed_ip_with_a_minus_is_taken_away() {
    let update = set(&format!("public_key={PEER}\nallowed_ip=-10.0.0.0/8\nallowed_ip=::/0")).unwrap();
    let removes: Vec<_> = update.peers[0].allowed_ips.iter().map(|change| change.remove).collect();
    assert_eq!(removes, [true, false]);
}

#[test]
fn a_private_key_of_zeros_takes_the_key_away() {
    assert_eq!(set(&format!("private_key={}", "0".repeat(64))).unwrap().private_key, Some(None));
}

#[test]
fn a_mistake_changes_nothing_and_is_told_as_a_negative_errno() {
    for lines in [
        "listen_port=65536",
        "listen_port=",
        "fwmark=0x1",
        "replace_peers=false",
        "private_key=00",
        "no_such_key=1",
        "endpoint=1.2.3.4:5",
        &format!("public_key={PEER}\nendpoint=host:1"),
        &format!("public_key={PEER}\nallowed_ip=10.0.0.0/33"),
        &format!("public_key={PEER}\nprotocol_version=2"),
        &format!("public_key={PEER}\nlisten_port=1"),
        &format!("public_key={PEER}\npersistent_keepalive_interval=off"),
    ] {
        assert_eq!(set(lines), Err(Errno::EINVAL), "{lines}");
    }
    assert_eq!(set("listen_port"), Err(Errno::EPROTO));
    assert_eq!(set_answer(Err(Errno::EINVAL)), "errno=-22\n\n");
    assert_eq!(set_answer(Ok(())), "errno=0\n\n");
}

#[test]
fn after_a_mistake_the_next_request_is_read_as_if_nothing_had_been() {
    let all = requests("set=1\nbad=1\nlisten_port=1\n\nget=1\n\nset=1\nlisten_port=2\n\n");
    assert_eq!(all[0], Request::Set(Err(Errno::EINVAL)));
    assert_eq!(all[1], Request::Get);
    assert!(matches!(&all[2], Request::Set(Ok(update)) if update.listen_port == Some(2)));
}

#[test]
fn what_does_not_begin_a_request_closes_the_connection() {
    for line in ["", "get=2", "hello", "listen_port=1"] {
        assert_eq!(RequestParser::default().line(line), Err(NotARequest), "{line}");
    }
    assert_eq!(requests("get=1\nx=1\n\n"), [Request::BadGet]);
    assert_eq!(requests("take_over=1\n\n"), [Request::TakeOver]);
}

fn status() -> DeviceStatus {
    DeviceStatus {
        private_key: Some(PrivateKey::from_hex(KEY).unwrap()),
        listen_port: 12912,
        fwmark: 7,
        peers: vec![PeerStatus {
            public_key: PublicKey::from_hex(PEER).unwrap(),
            preshared_key: PresharedKey::none(),
            suite: Suite::default(),
            endpoint: Some("[abcd:23::33%1]:51820".parse().unwrap()),
            last_handshake: Some(Duration::new(1_700_000_000, 5)),
            sent_bytes: 38_333,
            received_bytes: 2224,
            persistent_keepalive: 111,
            allowed_ips: vec!["192.168.4.4/32".parse().unwrap()],
        }],
    }
}

#[test]
fn a_status_is_told_in_the_order_that_wg_reads() {
    let expected = format!(
        "private_key={KEY}\nlisten_port=12912\nfwmark=7\npublic_key={PEER}\npreshared_key={}\n\
         protocol_version=1\nendpoint=[abcd:23::33%lo]:51820\nlast_handshake_time_sec=1700000000\n\
         last_handshake_time_nsec=5\ntx_bytes=38333\nrx_bytes=2224\npersistent_keepalive_interval=111\n\
         allowed_ip=192.168.4.4/32\nerrno=0\n\n",
        "0".repeat(64)
    );
    assert_eq!(*get_answer(Ok(status())), expected);
    assert_eq!(*get_answer(Ok(DeviceStatus::default())), "errno=0\n\n");
    assert_eq!(*get_answer(Err(Errno::ENODEV)), "errno=19\n\n");
}

#[test]
fn an_answer_never_outgrows_its_room() {
    let mut status = status();
    let v6 = "ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff";
    let peer = &mut status.peers[0];
    peer.endpoint = Some(format!("[{v6}%4294967295]:65535").parse().unwrap());
    peer.last_handshake = Some(Duration::MAX);
    (peer.sent_bytes, peer.received_bytes, peer.persistent_keepalive) = (u64::MAX, u64::MAX, u16::MAX);
    peer.allowed_ips = vec![format!("{v6}/128").parse().unwrap(); 100];
    status.peers = vec![status.peers[0].clone(); 100];
    assert!(get_answer(Ok(status.clone())).len() <= room_for(&status));
}

proptest! {
    #[test]
    fn no_lines_make_the_parser_panic(lines in proptest::collection::vec("\\PC*", 0..20)) {
        let mut parser = RequestParser::default();
        let _ = parser.line("set=1");
        for line in lines {
            let _ = parser.line(&line);
        }
    }

    #[test]
    fn no_values_make_the_parser_panic(
        lines in proptest::collection::vec(
            ("(private_key|public_key|endpoint|allowed_ip|fwmark|remove|preshared_key)", "[-0-9a-f.:/%\\[\\]]{0,70}"),
            0..20,
        )
    ) {
        let mut parser = RequestParser::default();
        let _ = parser.line("set=1");
        for (key, value) in lines {
            prop_assert_eq!(parser.line(&format!("{key}={value}")), Ok(None));
        }
    }
}
