//! Tests of the configuration file parser.

use proptest::prelude::*;

use crate::config::file::*;
use crate::wireguard::keys::PrivateKey;

const PRIVATE: &str = "yAnz5TF+lXXJte14tji3zlMNq+hd2rYUIgJBgB3fBmk=";
const PUBLIC: &str = "xTIBA5rboUvnH4htodjb6e697QjLERt1NAB4mZqp8Dg=";

fn parse(text: &str) -> Result<FileConfig, ConfigError> {
    FileConfig::parse(Path::new("lw0.conf"), text)
}

fn peer(lines: &str) -> Result<PeerUpdate, ConfigError> {
    parse(&format!("[Peer]\nPublicKey = {PUBLIC}\n{lines}")).map(|file| file.update.peers[0].clone())
}

fn refused(text: &str) -> String {
    parse(text).unwrap_err().to_string()
}

#[test]
fn a_file_as_wg_quick_has_it_is_read() {
    let file = parse(&format!(
        "# the gateway\n[interface]\nPRIVATEKEY={PRIVATE} # ours\nListenPort = 51820\nAddress = 10.0.0.1/24, fd00::1\n\
         Address=10.1.0.1/16\nMTU = 1380\nTable = off\nFwMark = 0xca6c\n\n[Peer]\n  publickey\t= {PUBLIC}\n\
         AllowedIPs = 10.0.0.2/32 , 10.9.9.9/8\nAllowedIPs=::/0\nEndpoint = gw.example.net:51820\n\
         PersistentKeepalive = 25\n"
    ))
    .unwrap();
    let nets = |texts: &[&str]| texts.iter().map(|t| t.parse::<IpNet>().unwrap()).collect::<Vec<_>>();
    assert_eq!(file.addresses, nets(&["10.0.0.1/24", "fd00::1/128", "10.1.0.1/16"]));
    assert_eq!((file.mtu, file.table), (Some(1380), Some(Table::Off)));
    let update = file.update;
    assert_eq!(update.private_key, Some(Some(PRIVATE.parse::<PrivateKey>().unwrap())));
    assert_eq!((update.listen_port, update.fwmark, update.replace_peers), (Some(51820), Some(0xca6c), true));
    let peer = &update.peers[0];
    let allowed: Vec<_> = peer.allowed_ips.iter().map(|change| change.net).collect();
    assert_eq!(allowed, nets(&["10.0.0.2/32", "10.0.0.0/8", "::/0"]));
    assert_eq!(peer.endpoint, Some(PeerEndpoint::Name { host: "gw.example.net".into(), port: 51820 }));
    assert_eq!(peer.persistent_keepalive, Some(25));
    let warned: Vec<_> = file.warnings.iter().map(ToString::to_string).collect();
    assert_eq!(warned, ["lw0.conf:13: AllowedIPs: 10.9.9.9/8 has host bits set; 10.0.0.0/8 is used"]);
    assert_eq!(file.lines, SectionLines { interface: Some(2), peers: vec![12] });
}

#[test]
fn a_comment_names_a_peer_as_exporters_read_it() {
    let name = |lines: &str| peer(lines).unwrap().friendly_name.unwrap();
    assert_eq!(name("# friendly_name = the gateway\n"), "the gateway");
    assert_eq!(name("#friendly_name=gw # 2\n"), "gw # 2");
    assert_eq!(name("# a comment\nAllowedIPs = # friendly_name = no\n"), "");
    assert_eq!(name(&format!("# friendly_name = {}\n", "\u{e9}".repeat(1000))), "\u{e9}".repeat(64));
}

#[test]
fn a_comment_above_a_header_names_the_peer_below() {
    let names = |text: String| -> Vec<String> {
        parse(&text).unwrap().update.peers.into_iter().filter_map(|peer| peer.friendly_name).collect()
    };
    let key = format!("PublicKey = {PUBLIC}\n");
    for above in [
        "# friendly_name = b",
        "# Client: b (0b2f)",
        "# Client: b",
        "### Client b",
        "# friendly_name = b\n# more",
    ] {
        let text = format!("[Peer]\n# friendly_name = a\n{key}\n{above}\n[Peer]\n{key}");
        assert_eq!(names(text), ["a", "b"], "{above}");
    }
    // What is set off from the next header belongs to the section above.
    assert_eq!(names(format!("[Peer]\n{key}# friendly_name = a\n\n[Peer]\n{key}")), ["a", ""]);
    assert_eq!(names(format!("[Peer]\n{key}# Client: a\n\n[Peer]\n# a client\n{key}")), ["", ""]);
}

#[test]
fn what_a_file_does_not_say_is_unset_when_it_is_read_again() {
    let peer = peer("").unwrap();
    assert_eq!(peer.preshared_key, Some(PresharedKey::none()));
    assert_eq!(peer.persistent_keepalive, Some(0));
    assert!(peer.replace_allowed_ips);
    // The endpoint is kept: the peer may have roamed.
    assert_eq!(peer.endpoint, None);
}

#[test]
fn commands_and_dns_are_ignored_with_a_warning_that_says_so() {
    let file =
        parse("[Interface]\nDNS = 1.1.1.1\nPostUp = iptables -A FORWARD\nSaveConfig = true\n").unwrap();
    assert_eq!(file.warnings.len(), 3);
    let told = file.warnings[1].to_string();
    assert_eq!(
        told,
        "lw0.conf:3: PostUp: ignored: commands from the file are never run; allow forwarding in the host's firewall if its policy drops"
    );
    let quiet = parse("[Interface]\nDNS =\nPostUp =\nSaveConfig = false\n").unwrap();
    assert_eq!(quiet.warnings, []);
}

#[test]
fn endpoints_may_be_addresses_names_and_scoped_addresses() {
    for text in ["192.0.2.1:51820", "[2001:db8::1]:1", "[fe80::1%3]:51820"] {
        let address = PeerEndpoint::Address(text.parse().unwrap());
        assert_eq!(peer(&format!("Endpoint = {text}")).unwrap().endpoint, Some(address));
    }
    let scoped = PeerEndpoint::Name { host: "fe80::1%eth0".into(), port: 7 };
    assert_eq!(peer("Endpoint = [fe80::1%eth0]:7").unwrap().endpoint, Some(scoped));
    let bare = PeerEndpoint::Address("[2001:db8::1]:51820".parse().unwrap());
    assert_eq!(peer("Endpoint = 2001:db8::1:51820").unwrap().endpoint, Some(bare));
    let bracketed = PeerEndpoint::Address("192.0.2.1:51820".parse().unwrap());
    assert_eq!(peer("Endpoint = [192.0.2.1]:51820").unwrap().endpoint, Some(bracketed));
    let named = PeerEndpoint::Name { host: "x".into(), port: 1 };
    assert_eq!(peer("Endpoint = [x]:1").unwrap().endpoint, Some(named));
    for text in ["", "host", "host:", "host:0", "host:70000", ":1", "[::1]", "[::1]1", "a/b:1", "[:1"] {
        assert!(peer(&format!("Endpoint = {text}")).is_err(), "{text:?}");
    }
}

#[test]
fn a_mistake_names_file_line_key_and_what_is_allowed() {
    let before = "[Interface]\n\n";
    for (line, message) in [
        ("ListenPort = 70000", "lw0.conf:3: ListenPort = 70000: expected a number from 0 to 65535"),
        ("MTU = 1", "lw0.conf:3: MTU = 1: expected a number from 68 to 65535"),
        (
            "Table = none",
            "lw0.conf:3: Table = none: expected `auto`, `off`, or a routing table's number or name",
        ),
        ("Address = 10.0.0.300/8", "lw0.conf:3: Address = 10.0.0.300/8: expected addresses as in"),
        ("PrivateKey = abc", "lw0.conf:3: PrivateKey: not a key: expected 44 characters"),
        ("FwMark = x", "lw0.conf:3: FwMark = x: expected `off` or a 32-bit mark"),
        ("PublicKey = abc", "lw0.conf:3: PublicKey: unknown key in [Interface]; expected"),
        ("[Peers]", "lw0.conf:3: this section: unknown section; expected [Interface] or [Peer]"),
        ("[Peer]", "lw0.conf:3: [Peer]: the peer has no PublicKey"),
    ] {
        let told = refused(&format!("{before}{line}\n"));
        assert!(told.starts_with(message), "{told}");
    }
    assert_eq!(refused("MTU = 1280"), "lw0.conf:1: MTU: expected [Interface] or [Peer] before any key");
    assert!(refused("").contains("the section is missing"));
}

#[test]
fn a_secret_in_a_wrong_place_is_not_printed() {
    for text in [
        format!("[Interface]\n{PRIVATE}\n"),
        format!("[Interface]\nPrivateKey = {PRIVATE}x\n"),
        format!("[Interface]\nFwMark = {PRIVATE}\n"),
    ] {
        assert!(!refused(&text).contains(&PRIVATE[..8]), "{}", refused(&text));
    }
}

proptest! {
    #[test]
    fn no_text_makes_the_parser_panic(text in "\\PC*") {
        let _ = parse(&text);
    }

    #[test]
    fn no_lines_of_the_right_shape_make_the_parser_panic(
        lines in proptest::collection::vec(
            ("(\\[Interface\\]|\\[Peer\\]|Endpoint|AllowedIPs|Address|FwMark|Table|MTU|PublicKey)", "[ =#,:%./\\[\\]0-9a-fx-]{0,24}"),
            0..12,
        )
    ) {
        let text = lines.iter().map(|(key, value)| format!("{key}={value}")).collect::<Vec<_>>().join("\n");
        let _ = parse(&text);
        let _ = parse(&text.replace("]=", "]\n"));
    }
}
