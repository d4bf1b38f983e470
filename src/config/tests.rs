//! Tests of configuration from files and the environment.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;

use crate::config::*;
use crate::netlink::{DefaultRule, IpVersion};
use crate::testing::Folder;

const FILE: &str = "[Interface]\nPrivateKey = yAnz5TF+lXXJte14tji3zlMNq+hd2rYUIgJBgB3fBmk=\n\
                    ListenPort = 1000\nMTU = 1300\nAddress = 10.0.0.1/24\n";
const OTHER_KEY: &str = "xTIBA5rboUvnH4htodjb6e697QjLERt1NAB4mZqp8Dg=";

#[test]
fn the_environment_wins_over_the_file() {
    let folder = Folder::new("config-wins");
    let path = folder.write("wg7.conf", FILE);
    let key = folder.write("key", &format!("{OTHER_KEY}\n"));
    let environment = Environment {
        mtu: Some(1280),
        listen_port: Some(2000),
        private_key_file: Some(key),
        ..Environment::default()
    };
    let router = RouterConfig::for_run(Some(&path), &environment).unwrap();
    assert_eq!((router.mtu, router.update.listen_port), (1280, Some(2000)));
    assert_eq!(router.update.private_key, Some(Some(OTHER_KEY.parse().unwrap())));
    assert_eq!(router.interface, "wg7");
    assert_eq!(router.addresses, ["10.0.0.1/24".parse().unwrap()]);
    assert_eq!(router.metrics_addr, Some("127.0.0.1:9586".parse().unwrap()));
}

#[test]
fn a_reload_reads_the_file_as_it_is_now() {
    let folder = Folder::new("config-reload");
    let path = folder.write("wg8.conf", FILE);
    let environment = Environment::default();
    let router = RouterConfig::for_run(Some(&path), &environment).unwrap();
    folder.write("wg8.conf", &format!("{FILE}[Peer]\nPublicKey={OTHER_KEY}\n"));
    assert_eq!(router.read_again(&environment).unwrap().unwrap().update.peers.len(), 1);
    folder.write("wg8.conf", "[Interface");
    assert!(router.read_again(&environment).is_err());
    assert_eq!(RouterConfig::named("lw0").read_again(&environment).unwrap(), None);
}

#[test]
fn a_pipe_is_read_once() {
    let folder = Folder::new("config-pipe");
    let path = folder.0.join("wg9.conf");
    nix::unistd::mkfifo(&path, nix::sys::stat::Mode::S_IRWXU).unwrap();
    let writer = path.clone();
    let writing = std::thread::spawn(move || fs::write(writer, FILE).unwrap());
    let environment = Environment::default();
    let router = RouterConfig::for_run(Some(&path), &environment).unwrap();
    writing.join().unwrap();
    assert_eq!(router.interface, "wg9");
    let again = router.read_again(&environment).unwrap_err();
    assert!(again.to_string().contains("for reloads, use a file"), "{again}");
}

#[test]
fn a_run_without_file_and_key_is_refused() {
    let message = RouterConfig::for_run(None, &Environment::default()).unwrap_err().to_string();
    assert!(message.starts_with("nothing to run: name a file with --config"), "{message}");
}

#[test]
fn what_is_valid_but_hardly_meant_is_warned_of_with_its_line() {
    let folder = Folder::new("config-warnings");
    let warned = |name: &str, text: &str| -> Vec<String> {
        let path = folder.write(name, text);
        fs::set_permissions(&path, fs::Permissions::from_mode(0o600)).unwrap();
        let router = RouterConfig::for_run(Some(&path), &Environment::default()).unwrap();
        let place = path.display().to_string();
        router.warnings.iter().map(|warning| warning.to_string().replace(&place, "F")).collect()
    };
    let begins = |warnings: Vec<String>, beginnings: &[&str]| {
        assert_eq!(warnings.len(), beginnings.len(), "{warnings:#?}");
        for (warning, beginning) in warnings.iter().zip(beginnings) {
            assert!(warning.starts_with(beginning), "{warning}");
        }
    };
    begins(
        warned("a.conf", "\n[Interface]\nMTU = 1400\n"),
        &["F:2: no private key", "F:2: no [Peer] section"],
    );
    let key: PrivateKey = "yAnz5TF+lXXJte14tji3zlMNq+hd2rYUIgJBgB3fBmk=".parse().unwrap();
    let own = key.public_key();
    let other = PublicKey::from_bytes([7; 32]);
    let peers = format!(
        "[Peer]\nPublicKey = {OTHER_KEY}\nAllowedIPs = 10.1.0.1/16\n[Peer]\nPublicKey = {other}\nAllowedIPs = 10.1.0.0/16\n\
         [Peer]\nPublicKey = {own}\nAllowedIPs = 10.1.0.0/16\n[Peer]\nPublicKey = {OTHER_KEY}\n"
    );
    begins(
        warned("b.conf", &format!("{FILE}{peers}")),
        &[
            "F:8: AllowedIPs: 10.1.0.1/16 has host bits set; 10.1.0.0/16 is used",
            &format!("F:10: AllowedIPs: 10.1.0.0/16 is taken from the peer {OTHER_KEY} in line 7"),
            &format!("F:13: PublicKey: {own} is this router's own key"),
            &format!("F:16: PublicKey: the peer {OTHER_KEY} is listed before, in line 7"),
        ],
    );
    let open = folder.write("c.conf", &format!("{FILE}[Peer]\nPublicKey = {other}\n"));
    fs::set_permissions(&open, fs::Permissions::from_mode(0o604)).unwrap();
    fs::set_permissions(&folder.0, fs::Permissions::from_mode(0o755)).unwrap();
    let router = RouterConfig::for_run(Some(&open), &Environment::default()).unwrap();
    assert_eq!(router.warnings.len(), 1);
    assert!(router.warnings[0].text.starts_with("the keys in it are open to other users"), "{router:?}");
    fs::set_permissions(&folder.0, fs::Permissions::from_mode(0o750)).unwrap();
    let router = RouterConfig::for_run(Some(&open), &Environment::default()).unwrap();
    assert_eq!(router.warnings, []);

    // A preshared key is a secret as well.
    fs::set_permissions(&folder.0, fs::Permissions::from_mode(0o755)).unwrap();
    let key = folder.write("key", OTHER_KEY);
    fs::set_permissions(&key, fs::Permissions::from_mode(0o600)).unwrap();
    let environment = Environment { private_key_file: Some(key), ..Environment::default() };
    for (preshared, count) in [(String::new(), 0), (format!("PresharedKey = {OTHER_KEY}\n"), 1)] {
        fs::write(&open, format!("[Interface]\n[Peer]\nPublicKey = {other}\n{preshared}")).unwrap();
        let router = RouterConfig::for_run(Some(&open), &environment).unwrap();
        assert_eq!(router.warnings.len(), count, "{router:?}");
    }
}

#[test]
fn a_plain_interface_has_no_metrics_and_leaves_the_link_to_others() {
    let router = RouterConfig::for_interface("wg0", &Environment::default()).unwrap();
    assert_eq!((router.metrics_addr, router.up), (None, false));
    assert_eq!(router.update, DeviceUpdate::default());
}

#[test]
fn routes_lead_to_allowed_ips_once_and_never_take_our_own_datagrams_back_in() {
    let folder = Folder::new("config-routes");
    let peers = format!(
        "[Peer]\nPublicKey={OTHER_KEY}\nAllowedIPs=10.0.0.0/24,10.2.0.0/16,10.2.0.0/16,0.0.0.0/0,fd00::/8\n"
    );
    let path = folder.write("wg9.conf", &format!("{FILE}{peers}"));
    let mut router = RouterConfig::for_run(Some(&path), &Environment::default()).unwrap();
    let told = |router: &RouterConfig| {
        router.routes().iter().map(|route| format!("{} {}", route.net, route.table)).collect::<Vec<_>>()
    };
    // The kernel adds 10.0.0.0/24 with the interface's address.
    assert_eq!(told(&router), ["0.0.0.0/0 51820", "10.2.0.0/16 254", "fd00::/8 254"]);
    let rule = DefaultRule { version: IpVersion::V4, mark: 51820 };
    assert_eq!((router.rules(), router.update.fwmark), (vec![rule], Some(51820)));
    router.update.fwmark = Some(7);
    assert_eq!(told(&router)[0], "0.0.0.0/0 7", "a configured mark is also the table's number");
    router.table = Table::Number(7);
    // The kernel adds 10.0.0.0/24 to the main table only.
    assert_eq!(told(&router), ["0.0.0.0/0 7", "10.0.0.0/24 7", "10.2.0.0/16 7", "fd00::/8 7"]);
    router.table = Table::Number(Table::MAIN);
    assert_eq!(told(&router), ["0.0.0.0/0 254", "10.2.0.0/16 254", "fd00::/8 254"]);
    assert_eq!(router.rules(), [], "a table chosen by number gets no rules");
    router.table = Table::Off;
    assert!(router.routes().is_empty());
}

#[test]
fn lanes_are_half_the_cpus_unless_told() {
    let counts = [1, 2, 5, 1000].map(|cpus| Queues::Auto.count(cpus));
    assert_eq!((counts, Queues::Fixed(3).count(1)), ([1, 1, 2, 256], 3));
}

#[test]
fn a_missing_file_says_who_named_it() {
    let environment = Environment { config: Some("/nonexistent/lw.conf".into()), ..Environment::default() };
    let message = RouterConfig::for_run(None, &environment).unwrap_err().to_string();
    assert!(message.starts_with("/nonexistent/lw.conf: cannot read the file: "), "{message}");
    assert!(message.ends_with("(named by LANEWAY_CONFIG)"), "{message}");
}

#[test]
fn a_key_file_without_a_key_is_named_and_not_shown() {
    let folder = Folder::new("config-key");
    let environment = Environment {
        private_key_file: Some(folder.write("key", "hunter2hunter2")),
        ..Environment::default()
    };
    let message = RouterConfig::for_run(None, &environment).unwrap_err().to_string();
    assert!(message.contains("44 characters of base64") && !message.contains("hunter2"), "{message}");
}

#[test]
fn interface_names_are_those_that_linux_takes() {
    for name in ["wg0", "a", "lw_0.1-x+=", "fifteen_letters"] {
        assert!(is_interface_name(name), "{name}");
    }
    for name in ["", ".", "..", "sixteen__letters", "a/b", "a b", "wg%d", "é"] {
        assert!(!is_interface_name(name), "{name}");
    }
}
