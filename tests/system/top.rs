//! `laneway top` in a real terminal: tmux sends keys, resizes the screen and reads it.

use std::fmt::Write as _;
use std::net::{Ipv4Addr, SocketAddr};
use std::process::{Command, Stdio};

use crate::support::binary::{BINARY, Laneway, command};
use crate::support::certificates::certify;
use crate::support::folder::Folder;
use crate::support::ping::ping;
use crate::support::process::output;
use crate::support::prometheus::get;
use crate::support::tunnel::{Family, address};
use crate::support::wg::{self, KeyPair, Setting};
use crate::support::{lab, require_root, wait_until};
use laneway::wireguard::keys::PublicKey;

const METRICS: (&str, &str) = ("LANEWAY_METRICS_ADDR", "127.0.0.1:9586");
/// Peers beside the one that answers.
const OTHERS: usize = 999;

/// A tmux server of its own with one window, in which a command runs.
struct Terminal {
    socket: String,
    _folder: Folder,
}

impl Terminal {
    /// Starts `command` on a screen of 80 by 24 cells. When it ends, its exit status and the state of the terminal are
    /// shown.
    fn start(command: &str) -> Terminal {
        let folder = Folder::new();
        let socket = folder.join("tmux");
        let terminal = Terminal { socket, _folder: folder };
        let script = format!("{command}; echo \"exit status $?\"; stty -a; sleep 600");
        let size = ["-x", "80", "-y", "24"];
        let words = [&["new-session", "-d"], &size[..], &["sh", "-c", &script]].concat();
        terminal.tmux(&words);
        terminal
    }

    fn tmux(&self, words: &[&str]) -> String {
        let mut tmux = Command::new("tmux");
        tmux.args(["-u", "-f", "/dev/null", "-S", &self.socket]).args(words).env_remove("TMUX");
        let done = tmux.stdin(Stdio::null()).output().expect("tmux, from Debian's package tmux");
        assert!(done.status.success(), "{words:?}: {}", String::from_utf8_lossy(&done.stderr));
        String::from_utf8(done.stdout).expect("text")
    }

    fn keys(&self, keys: &[&str]) {
        self.tmux(&[&["send-keys"], keys].concat());
    }

    fn resize(&self, width: &str, height: &str) {
        self.tmux(&["resize-window", "-x", width, "-y", height]);
    }

    fn screen(&self) -> String {
        self.tmux(&["capture-pane", "-p"])
    }

    /// Waits until the screen has all of `parts`, and returns it.
    fn await_parts(&self, parts: &[&str]) -> String {
        let mut screen = String::new();
        let mut shown = 0;
        wait_until(&format!("{parts:?} on the screen"), || {
            screen = self.screen();
            shown += 1;
            if shown % 100 == 0 {
                eprintln!("{screen}");
            }
            parts.iter().all(|part| screen.contains(part))
        });
        screen
    }
}

impl Drop for Terminal {
    fn drop(&mut self) {
        let _ = Command::new("tmux").args(["-S", &self.socket, "kill-server"]).output();
    }
}

/// Returns the command line that shows a device.
fn top(arguments: &str) -> String {
    format!("{BINARY} top {arguments}")
}

#[test]
fn a_thousand_peers_are_shown_sorted_scrolled_paused_and_resized() {
    require_root!();
    let lab = lab();
    let keys = [KeyPair::generate(&lab.left), KeyPair::generate(&lab.right)];
    let mut left = Laneway::start(&lab.left, &[METRICS]);
    let right = Laneway::start(&lab.right, &[]);
    let endpoint = Family::V4.endpoint(&lab.right);
    let to_right = Setting { endpoint: Some(endpoint), ..Setting::new(&keys[1], 2) };
    wg::set(&lab.left, &left.device, &keys[0], &to_right);
    wg::set(&lab.right, &right.device, &keys[1], &Setting::new(&keys[0], 1));
    let others: String = (1..=OTHERS).fold(String::new(), |mut file, number| {
        let key = PublicKey::from_bytes(std::array::from_fn(|byte| (number >> (8 * (byte % 2))) as u8));
        let (high, low) = (number / 256, number % 256);
        let _ = writeln!(file, "[Peer]\nPublicKey = {key}\nAllowedIPs = 10.99.{high}.{low}/32");
        file
    });
    output(&lab.left.namespace, &["wg", "addconf", &left.device, "/dev/stdin"], &others);
    address(&lab.left, &left.device, 1);
    address(&lab.right, &right.device, 2);
    ping(&lab.left.namespace, Family::V4.inside(2));

    let terminal = Terminal::start(&top(&left.device));
    let screen =
        terminal.await_parts(&["1000 peers, by rate", "queue", "handshake", "q quit", "laneway 0.1.0"]);
    // On 80 columns the key of the only peer with a handshake is cut, and its endpoint shown.
    let endpoint = endpoint.to_string();
    terminal.keys(&["s", "s", "s"]);
    let screen_by_handshake = terminal.await_parts(&["by handshake", &endpoint, &keys[1].public[..8]]);
    assert!(screen.lines().all(|line| line.chars().count() <= 80), "{screen}");
    let row = |screen: &str| screen.lines().position(|line| line.contains(&endpoint));
    let first = row(&screen_by_handshake).expect("the peer with a handshake");
    let head = screen_by_handshake.lines().position(|line| line.contains("out bit/s")).expect("the header");
    assert_eq!(first, head + 1, "{screen_by_handshake}");

    // The other end of the list, and back. Peers that have never been heard have no handshake.
    terminal.keys(&["End"]);
    wait_until("the end of the list", || row(&terminal.screen()).is_none());
    terminal.keys(&["Home", "r"]);
    terminal.await_parts(&["by handshake, reversed"]);
    wait_until("the silent peers", || row(&terminal.screen()).is_none());
    terminal.keys(&["r", "p"]);
    let paused = terminal.await_parts(&["paused", &endpoint]);
    ping(&lab.left.namespace, Family::V4.inside(2));
    assert_eq!(terminal.screen(), paused);
    terminal.keys(&["p"]);
    wait_until("the screen to go on", || !terminal.screen().contains("paused"));

    terminal.resize("44", "12");
    let small = terminal.await_parts(&["1000 peers"]);
    assert!(!small.contains("endpoint") && !small.contains("peak"), "{small}");
    terminal.resize("200", "50");
    terminal.await_parts(&["allowed IPs", &keys[1].public, "10.99.", "peak"]);
    terminal.resize("1", "1");
    terminal.resize("80", "24");
    terminal.keys(&["+"]);
    terminal.await_parts(&["every 2s"]);
    terminal.keys(&["-"]);
    terminal.await_parts(&["every 1s"]);

    // A router that goes is reported, and keys still work.
    terminal.resize("120", "24");
    left.process.signal(nix::sys::signal::Signal::SIGTERM);
    left.process.wait();
    terminal.await_parts(&["no userspace WireGuard serves this interface"]);
    terminal.keys(&["q"]);
    let after = terminal.await_parts(&["exit status 0", "icanon"]);
    assert!(!after.contains("-icanon") && !after.contains("-echo "), "{after}");
}

#[test]
fn without_peers_and_for_pipes_and_other_hosts_there_is_text() {
    require_root!();
    let lab = lab();
    let left = Laneway::start(&lab.left, &[METRICS]);
    let terminal = Terminal::start(&top(&left.device));
    terminal.await_parts(&["0 peers", "queue"]);
    // SIGTERM leaves the terminal as it was, too.
    let pid = terminal.tmux(&["list-panes", "-F", "#{pane_pid}"]);
    let children =
        std::fs::read_to_string(format!("/proc/{0}/task/{0}/children", pid.trim())).expect("children");
    let child = children.split_whitespace().next().expect("a child").parse().expect("a number");
    nix::sys::signal::kill(nix::unistd::Pid::from_raw(child), nix::sys::signal::Signal::SIGTERM)
        .expect("signal");
    let after = terminal.await_parts(&["exit status 0", "icanon"]);
    assert!(!after.contains("-icanon"), "{after}");

    let once = |arguments: &[&str]| {
        let words = [&["top", "--once"], arguments].concat();
        let done = command(&lab.left, &words, &[]).output().expect("start");
        (
            done.status.code(),
            String::from_utf8_lossy(&done.stdout).into_owned(),
            String::from_utf8_lossy(&done.stderr).into_owned(),
        )
    };
    let (status, text, said) = once(&[&left.device]);
    assert_eq!(status, Some(0), "{said}");
    let line = format!("{}: in 0 bit/s, out 0 bit/s, 0 drops/s\n", left.device);
    assert!(text.starts_with(&line) && text.contains("\n0 peers\n") && text.contains("inside"), "{text}");
    let (status, text, said) = once(&["--url", "http://localhost:9586/metrics"]);
    assert_eq!(status, Some(0), "{said}");
    assert!(text.starts_with("http://localhost:9586/metrics: in 0 bit/s"), "{text}");

    // The same server answers what a page, and nothing, is.
    assert!(get(&lab.left, SocketAddr::from((Ipv4Addr::LOCALHOST, 9586)), "/").is_some());
    for (url, told) in [
        ("http://localhost:9586/nothing", "404"),
        ("http://localhost:9/metrics", "cannot connect"),
        ("http://localhost:9586/healthz", "invalid metrics"),
    ] {
        let (status, _, said) = once(&["--url", url]);
        assert!(status == Some(1) && said.contains(told), "{url}: {status:?} {said}");
    }
    let (status, _, said) = once(&["nothing0"]);
    assert!(status == Some(1) && said.contains("--url"), "{status:?} {said}");
}

#[test]
fn metrics_are_read_over_https_with_logins_and_client_certificates() {
    require_root!();
    let (lab, folder) = (lab(), Folder::new());
    for (name, by) in
        [("authority", None), ("signed", Some("authority")), ("alone", None), ("stranger", None)]
    {
        certify(&folder, name, by);
    }
    folder.write("password", "secret\n");
    let users =
        format!("basic_auth_users: {{alice: {}}}\n", bcrypt::hash("secret", 4).expect("a cost in range"));
    let tls = |name: &str| format!("cert_file: {name}.crt, key_file: {name}.key");
    let login = folder.write("login.yml", &format!("tls_server_config: {{{}}}\n{users}", tls("signed")));
    let both = folder.write(
        "both.yml",
        &format!(
            "tls_server_config: {{{}, client_ca_file: authority.crt, \
             client_auth_type: RequireAndVerifyClientCert}}\n",
            tls("alone")
        ),
    );
    let top = |side, url: &str, options: &str| {
        let words = ["top", "--once", "--url", url].map(str::to_owned);
        let options = options.split_whitespace();
        let options =
            options.map(|word| word.strip_prefix('@').map_or(word.to_owned(), |name| folder.join(name)));
        let words: Vec<String> = words.into_iter().chain(options).collect();
        let words: Vec<&str> = words.iter().map(String::as_str).collect();
        let done = command(side, &words, &[]).output().expect("start");
        let text = [done.stdout, done.stderr].concat();
        (done.status.code(), String::from_utf8(text).expect("text"))
    };
    let _left = Laneway::start(&lab.left, &[METRICS, ("LANEWAY_METRICS_CONFIG", &login)]);
    let _right = Laneway::start(&lab.right, &[METRICS, ("LANEWAY_METRICS_CONFIG", &both)]);

    let shown = "https://127.0.0.1:9586/metrics: in 0 bit/s";
    let alice = "https://alice@127.0.0.1:9586/metrics";
    let nobody = "https://127.0.0.1:9586/metrics";
    let known = "--ca-file @authority.crt --password-file @password";
    for (side, url, options) in [
        (&lab.left, alice, known),
        (&lab.left, alice, "--insecure --password-file @password"),
        (&lab.left, alice, "--ca-file @signed.crt --password-file @password"),
        (&lab.right, nobody, "--ca-file @alone.crt --cert-file @signed.crt --key-file @signed.key"),
    ] {
        let (status, text) = top(side, url, options);
        assert!(status == Some(0) && text.starts_with(shown), "{url} {options}: {status:?} {text}");
    }
    for (side, url, options, told) in [
        (&lab.left, nobody, "--ca-file @authority.crt", "401 Unauthorized"),
        (&lab.left, "https://bob@127.0.0.1:9586", known, "401 Unauthorized"),
        (&lab.left, alice, "--ca-file @stranger.crt --password-file @password", "--ca-file names"),
        (&lab.left, alice, "--password-file @password", "--ca-file names"),
        (&lab.left, "https://alice@localhost:9586", known, "--ca-file names"),
        (&lab.left, "http://127.0.0.1:9586", "", "https://"),
        (&lab.right, nobody, "--ca-file @alone.crt", "403 Forbidden"),
    ] {
        let (status, text) = top(side, url, options);
        assert!(status == Some(1) && text.contains(told), "{url} {options}: {status:?} {text}");
    }
    let (status, text) = top(&lab.left, "https://alice:secret@127.0.0.1:9586", "--insecure");
    assert!(status == Some(2) && text.contains("--password-file"), "{status:?} {text}");
}
