//! HTTPS and logins for the metrics, with the clients that operators have: curl and Prometheus.

use std::fs;
use std::io::{Read as _, Write as _};
use std::net::{Ipv4Addr, SocketAddr, TcpStream};
use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering::Relaxed};
use std::thread;

use crate::support::binary::{Laneway, command};
use crate::support::certificates::certify;
use crate::support::folder::Folder;
use crate::support::metrics::parse;
use crate::support::process::command_in;
use crate::support::prometheus::Prometheus;
use crate::support::{DEADLINE, Finally, lab, require_root, wait_until};
use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;
use laneway::cli::demo::lab::Side;

/// Where the metrics are served.
const ADDRESS: (Ipv4Addr, u16) = (Ipv4Addr::LOCALHOST, 9586);

/// The variable that names it.
const METRICS: (&str, &str) = ("LANEWAY_METRICS_ADDR", "127.0.0.1:9586");

/// What curl got.
#[derive(Debug)]
struct Answer {
    /// The status, 0 if there was no answer.
    status: u16,
    text: String,
}

/// Asks for `path` over `scheme`, with more arguments for curl.
fn curl(side: &Side, scheme: &str, path: &str, arguments: &[&str]) -> Answer {
    let mut curl = command_in(&side.namespace, "curl");
    curl.args(["--silent", "--include", "--max-time", "30", "--noproxy", "*"]).args(arguments);
    let done = curl.arg(format!("{scheme}://{}{path}", SocketAddr::from(ADDRESS))).output().expect("start");
    let text = String::from_utf8_lossy(&done.stdout).into_owned();
    let status = text.split(' ').nth(1).and_then(|status| status.parse().ok()).unwrap_or(0);
    Answer { status: if done.status.success() { status } else { 0 }, text }
}

/// Returns a hash of `password`.
fn hash(password: &str, cost: u32) -> String {
    bcrypt::hash(password, cost).expect("a cost in range")
}

#[test]
fn metrics_are_served_over_https_to_those_who_log_in_and_probes_to_all() {
    require_root!();
    let (lab, folder) = (lab(), Folder::new());
    certify(&folder, "server", None);
    let users = format!("basic_auth_users: {{alice: {}}}\n", hash("secret", 4));
    let tls = "tls_server_config: {cert_file: server.crt, key_file: server.key, min_version: TLS13}\n";
    let web = folder.write("web.yml", &format!("{tls}{users}"));
    let left = Laneway::start(&lab.left, &[METRICS, ("LANEWAY_METRICS_CONFIG", &web)]);
    assert!(left.process.said().contains("metrics=\"https://"), "{}", left.process.said());
    let config = folder.write("lw9.conf", "[Interface]\n");
    let environment = [("LANEWAY_METRICS_CONFIG", &*web)];
    let checked = command(&lab.left, &["check", "--config", &config], &environment).output();
    let checked = String::from_utf8_lossy(&checked.expect("start laneway").stdout).into_owned();
    assert!(checked.contains("  metrics: https://127.0.0.1:9586/metrics, with a login\n"), "{checked}");
    let trusted = folder.join("server.crt");
    let ask = |path: &str, arguments: &[&str]| {
        curl(&lab.left, "https", path, &[&["--cacert", &trusted], arguments].concat())
    };

    let anonymous = ask("/metrics", &[]);
    assert_eq!(anonymous.status, 401, "{anonymous:?}");
    assert!(anonymous.text.to_lowercase().contains("www-authenticate: basic realm"), "{anonymous:?}");
    for wrong in ["alice:Secret", "bob:secret", "alice:"] {
        assert_eq!(ask("/metrics", &["--user", wrong]).status, 401, "{wrong}");
    }
    assert_eq!(ask("/", &[]).status, 401);
    for _ in 0..2 {
        let answer = ask("/metrics", &["--user", "alice:secret"]);
        assert!(answer.status == 200 && answer.text.contains("\nlaneway_build_info{"), "{answer:?}");
    }
    assert_eq!(ask("/healthz", &[]).status, 200);
    let unready = ask("/readyz", &[]);
    assert!(unready.status == 503 && unready.text.contains("interface is down"), "{unready:?}");
    assert_eq!(curl(&lab.left, "http", "/healthz", &[]).status, 0, "plain HTTP is answered");
    assert_eq!(ask("/healthz", &["--tls-max", "1.2"]).status, 0, "TLS 1.2 is accepted");
    assert_eq!(curl(&lab.left, "https", "/healthz", &[]).status, 0, "curl trusts any certificate");

    let counted = |result: &str| {
        let text = ask("/metrics", &["--user", "alice:secret"]).text;
        let (_, metrics) = text.split_once("\r\n\r\n").expect("a head and a body");
        parse(metrics).sum("laneway_http_connections_total", &[("result", result)])
    };
    assert!((counted("no_login") - 5.0).abs() < 0.5);
    assert!(counted("answered") > 3.5 && counted("tls_failed") > 2.5 && counted("displaced") < 0.5);

    let scrape = format!(
        "global: {{scrape_interval: 1s}}\nscrape_configs:\n- job_name: laneway\n  scheme: https\n  \
         tls_config: {{ca_file: {trusted}}}\n  basic_auth: {{username: alice, password: secret}}\n  \
         static_configs: [{{targets: [\"{}\"]}}]\n",
        SocketAddr::from(ADDRESS)
    );
    let prometheus = Prometheus::start(&lab.left, Path::new(&folder.write("prometheus.yml", &scrape)));
    wait_until("a scrape", || !prometheus.query("laneway_build_info and on() up == 1").is_empty());
    drop(prometheus);

    // A renewed certificate is served without a restart; a broken file changes nothing.
    let before = folder.write("before.crt", &fs::read_to_string(&trusted).expect("a certificate"));
    certify(&folder, "server", None);
    wait_until("the new certificate", || ask("/healthz", &[]).status == 200);
    assert_eq!(
        curl(&lab.left, "https", "/healthz", &["--cacert", &before]).status,
        0,
        "the old one is served"
    );
    folder.write("web.yml", "tls_server_config: {cert_file: server.crt}\n");
    wait_until("the mistake to be reported", || {
        let status = ask("/metrics", &["--user", "alice:secret"]).status;
        assert_eq!(status, 200);
        left.process.said().contains("key_file")
    });
    assert!(left.process.said().contains("the settings before stay in force"), "{}", left.process.said());
}

#[test]
fn client_certificates_are_verified_and_probes_need_none() {
    require_root!();
    let (lab, folder) = (lab(), Folder::new());
    for (name, by) in
        [("server", None), ("authority", None), ("client", Some("authority")), ("stranger", None)]
    {
        certify(&folder, name, by);
    }
    let tls = "tls_server_config: {cert_file: server.crt, key_file: server.key, client_ca_file: authority.crt, \
               client_auth_type: RequireAndVerifyClientCert}\n";
    let web = folder.write("web.yml", tls);
    let _left = Laneway::start(&lab.left, &[METRICS, ("LANEWAY_METRICS_CONFIG", &web)]);
    let ask = |path: &str, name: Option<&str>| {
        let mut arguments = vec!["--cacert".to_owned(), folder.join("server.crt")];
        if let Some(name) = name {
            arguments.extend(["--cert".to_owned(), folder.join(&format!("{name}.crt"))]);
            arguments.extend(["--key".to_owned(), folder.join(&format!("{name}.key"))]);
        }
        let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
        curl(&lab.left, "https", path, &arguments).status
    };
    assert_eq!(ask("/metrics", Some("client")), 200);
    assert_eq!(ask("/metrics", None), 403);
    assert_eq!(ask("/metrics", Some("stranger")), 0, "a certificate of another authority is accepted");
    assert_eq!(
        (ask("/healthz", None), ask("/readyz", None)),
        (200, 503),
        "probes of an interface that is down"
    );
}

/// Sends a request with this login, without TLS. Returns the status, 0 if there was no answer.
fn request(side: &Side, path: &str, login: &str) -> u16 {
    let asked = || -> std::io::Result<String> {
        let mut stream = side.namespace.run(|| TcpStream::connect(ADDRESS)).expect("enter a namespace")?;
        stream.set_read_timeout(Some(DEADLINE))?;
        let login = BASE64_STANDARD.encode(login);
        write!(stream, "GET {path} HTTP/1.1\r\nHost: localhost\r\nAuthorization: Basic {login}\r\n\r\n")?;
        let mut answer = String::new();
        stream.read_to_string(&mut answer)?;
        Ok(answer)
    };
    asked().ok().and_then(|answer| answer.split(' ').nth(1)?.parse().ok()).unwrap_or(0)
}

#[test]
fn a_flood_of_logins_keeps_out_neither_probes_nor_known_logins() {
    /// Each takes a multiple of a fast answer.
    const COST: u32 = 10;
    const ROUNDS: u32 = 20;
    require_root!();
    let (lab, folder) = (lab(), Folder::new());
    let web = folder.write("web.yml", &format!("basic_auth_users: {{alice: {}}}\n", hash("secret", COST)));
    let _left = Laneway::start(&lab.left, &[METRICS, ("LANEWAY_METRICS_CONFIG", &web)]);
    assert_eq!(request(&lab.left, "/metrics", "alice:secret"), 200);
    let (over, refused) = (AtomicBool::new(false), AtomicU32::new(0));
    thread::scope(|scope| {
        let _end = Finally(&over);
        for user in ["alice", "bob", "alice", "bob"] {
            let (side, over, refused) = (&lab.left, &over, &refused);
            scope.spawn(move || {
                while !over.load(Relaxed) {
                    refused.fetch_add(
                        u32::from(request(side, "/metrics", &format!("{user}:x")) == 401),
                        Relaxed,
                    );
                }
            });
        }
        wait_until("the first refusal", || refused.load(Relaxed) > 0);
        let before = refused.load(Relaxed);
        for _ in 0..ROUNDS {
            assert_eq!(request(&lab.left, "/healthz", ""), 200);
            assert_eq!(request(&lab.left, "/metrics", "alice:secret"), 200);
        }
        // Had the answers waited for the checks of the flood, there would be one for each.
        let meanwhile = refused.load(Relaxed) - before;
        assert!(meanwhile < ROUNDS, "{meanwhile} logins were checked during {ROUNDS} rounds");
    });
}

#[test]
fn mistakes_are_named_before_anything_is_created() {
    require_root!();
    let (lab, folder) = (lab(), Folder::new());
    let web = folder.write("web.yml", "basic_auth_users: {alice: secret}\n");
    let file =
        folder.write("lw.conf", "[Interface]\nPrivateKey = AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAEA=\n");
    for verb in ["run", "check"] {
        let environment = [("LANEWAY_METRICS_CONFIG", &*web)];
        let done = command(&lab.left, &[verb, "--config", &file], &environment).output().expect("start");
        let said = String::from_utf8_lossy(&done.stderr);
        assert_eq!(done.status.code(), Some(2), "{said}");
        assert!(said.contains("LANEWAY_METRICS_CONFIG") && said.contains("alice"), "{said}");
    }
    assert!(!crate::support::links(&lab.left).contains(&"lw".to_owned()));
}
