//! A corpus of configuration files as people and tools write them. `configurations/outcomes.tsv` says what becomes of
//! each.

use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use nix::unistd::Uid;

const BINARY: &str = env!("CARGO_BIN_EXE_laneway");

/// A public key.
const KEY: &str = "xTIBA5rboUvnH4htodjb6e697QjLERt1NAB4mZqp8Dg=";

fn folder() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/configurations")
}

/// Returns the rows of the table: file, `wg-quick`'s outcome, ours.
fn outcomes() -> Vec<(String, String, String)> {
    let table = std::fs::read_to_string(folder().join("outcomes.tsv")).expect("the table");
    let rows = table.lines().filter(|line| !line.starts_with('#')).map(|line| {
        let fields: Vec<&str> = line.split('\t').collect();
        let [file, quick, ours, ..] = fields[..] else { panic!("{line}") };
        (file.to_owned(), quick.to_owned(), ours.to_owned())
    });
    rows.collect()
}

/// Runs `laneway check` on a file of the corpus. Returns its status, its standard output and its standard error.
fn check(file: &Path, arguments: &[&str]) -> (Option<i32>, String, String) {
    check_with(file, arguments, &[], "")
}

/// Like [`check`], with these variables, and `input` on standard input.
fn check_with(
    file: &Path,
    arguments: &[&str],
    variables: &[(&str, &str)],
    input: &str,
) -> (Option<i32>, String, String) {
    let mut command = Command::new(BINARY);
    for (name, _) in std::env::vars_os() {
        if name.to_string_lossy().starts_with("LANEWAY_") {
            command.env_remove(name);
        }
    }
    command.args(["check", "--config"]).arg(file).args(arguments).envs(variables.iter().copied());
    command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = command.spawn().expect("start laneway");
    // It may end without reading.
    let _ = child.stdin.take().expect("a pipe").write_all(input.as_bytes());
    let done = child.wait_with_output().expect("wait for laneway");
    let text = |bytes: &[u8]| String::from_utf8(bytes.to_vec()).expect("text");
    (done.status.code(), text(&done.stdout), text(&done.stderr))
}

#[test]
fn every_file_has_the_outcome_that_the_table_says() {
    let mut wrong = Vec::new();
    for (name, _, ours) in outcomes() {
        let file = folder().join(format!("{name}.conf"));
        let (status, _, said) = check(&file, &[]);
        let right = match ours.as_str() {
            "takes" => status == Some(0) && said.is_empty(),
            refusal => {
                status == Some(2) && said.starts_with(&format!("laneway: {}:{refusal}", file.display()))
            }
        };
        if !right {
            wrong.push(format!("{name}: expected {ours}, but: {status:?} {said}"));
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join(""));
}

#[test]
fn every_file_is_in_the_table() {
    let mut files: Vec<_> = std::fs::read_dir(folder())
        .expect("the corpus")
        .map(|entry| entry.expect("an entry").path())
        .filter(|path| path.extension().is_some_and(|end| end == "conf"))
        .map(|path| path.file_stem().expect("a name").to_string_lossy().into_owned())
        .collect();
    files.sort();
    let mut listed: Vec<_> = outcomes().into_iter().map(|(name, ..)| name).collect();
    listed.sort();
    assert_eq!(files, listed);
}

#[test]
fn what_wg_quick_takes_is_taken() {
    // Refused on purpose: a port that does not exist, an endpoint that nothing can be sent to, and a router without a
    // configuration.
    let stricter: Vec<_> =
        outcomes().into_iter().filter(|(_, quick, ours)| quick == "takes" && ours != "takes").collect();
    let names: Vec<_> = stricter.iter().map(|(name, ..)| name.as_str()).collect();
    assert_eq!(names, ["port-large", "ep-port-0", "empty"]);
}

#[test]
fn check_prints_what_run_would_do_and_creates_nothing() {
    let folder = std::env::temp_dir().join(format!("laneway-check-{}", std::process::id()));
    std::fs::create_dir_all(&folder).expect("a folder");
    let file = folder.join("lw7.conf");
    let public = KEY;
    let text = format!(
        "[Interface]\nAddress = 10.9.0.1/24\nMTU = 1380\n# friendly_name = the gateway\n[Peer]\nPublicKey = {public}\n\
         AllowedIPs = 0.0.0.0/0, 10.8.0.0/16\nEndpoint = gw.example.net:51820\n"
    );
    std::fs::write(&file, text).expect("a file");
    let (status, said, errors) = check(&file, &[]);
    let (json_status, json, _) = check(&file, &["--json"]);
    let (bad_status, bad, _) = check(&folder.join("missing.conf"), &["--json"]);
    let _ = std::fs::remove_dir_all(&folder);
    assert_eq!((status, errors.as_str()), (Some(0), ""));
    for line in [
        "interface: lw7",
        "  addresses: 10.9.0.1/24",
        "  mtu: 1380 (the file)",
        "  route: 10.8.0.0/16, table main",
        &format!("peer: {public} (the gateway)"),
        "  endpoint: gw.example.net:51820",
        "  allowed ips: 0.0.0.0/0, 10.8.0.0/16",
    ] {
        assert!(said.lines().any(|told| told == line), "{line:?} is not in {said}");
    }
    assert!(said.contains("lw7.conf:1: no private key"), "{said}");
    let json: serde_json::Value = serde_json::from_str(&json).expect("JSON");
    assert_eq!((json_status, &json["valid"], &json["mtu"]), (Some(0), &true.into(), &1380.into()));
    assert_eq!(json["peers"][0]["friendlyName"], "the gateway");
    assert_eq!(json["warnings"][0]["line"], 1);
    let bad: serde_json::Value = serde_json::from_str(&bad).expect("JSON");
    assert_eq!((bad_status, &bad["valid"]), (Some(2), &false.into()));
    if Uid::effective().is_root() {
        assert!(!Path::new("/sys/class/net/lw7").exists());
    }
}

#[test]
fn what_run_would_refuse_is_refused() {
    let file = folder().join("plain.conf");
    let long = format!("/tmp/{}", "x".repeat(90));
    let cases: [(&[(&str, &str)], &str); 4] = [
        (&[("LANEWAY_INSIDE_CPUS", "1023")], "LANEWAY_INSIDE_CPUS names CPU 1023"),
        (&[("LANEWAY_UAPI_DIR", &long)], "the path of the control socket is too long"),
        (
            &[("LANEWAY_SPREAD_PORTS", KEY), ("LANEWAY_LISTEN_PORT", "65535"), ("LANEWAY_QUEUES", "2")],
            "too few UDP ports above 65535",
        ),
        (&[("LANEWAY_METRICS_CONFIG", "/nonexistent")], "/nonexistent"),
    ];
    for (variables, why) in cases {
        let (status, _, said) = check_with(&file, &[], variables, "");
        assert!(status == Some(2) && said.contains(why), "{variables:?}: {status:?} {said}");
    }
}

#[test]
fn a_configuration_can_come_from_a_pipe() {
    let text = std::fs::read_to_string(folder().join("plain.conf")).expect("a file");
    let (status, said, errors) = check_with(Path::new("/dev/stdin"), &[], &[], &text);
    assert!(status == Some(0) && said.starts_with("interface: laneway0\n"), "{said} {errors}");
    let (status, _, errors) = check_with(Path::new("/dev/stdin"), &[], &[], "");
    assert!(status == Some(2) && errors.contains("it is a pipe without content"), "{errors}");
}
