//! The files in deploy/: units and manifests match this program and each other.

use std::ffi::OsString;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use laneway::config::env::Environment;
use laneway::config::file::FileConfig;

/// A key in the format of `wg genkey`.
const KEY: &str = "xTIBA5rboUvnH4htodjb6e697QjLERt1NAB4mZqp8Dg=";

#[test]
fn every_manifest_names_the_image_of_this_version() {
    let image = concat!("laneway:", env!("CARGO_PKG_VERSION"));
    let default = concat!("laneway:${LANEWAY_VERSION:-", env!("CARGO_PKG_VERSION"), "}");
    let mut images = 0;
    for (path, text) in manifests() {
        for line in text.lines().filter_map(|line| line.trim().strip_prefix("image: laneway")) {
            let found = format!("laneway{line}");
            assert!(found == image || found == default, "{}: {found}", path.display());
            images += 1;
        }
    }
    assert!(images >= 4, "{images} images");
}

#[test]
fn every_variable_that_a_manifest_sets_is_one_that_the_router_takes() {
    let mut variables = 0;
    for (path, text) in manifests() {
        let lines: Vec<&str> = text.lines().map(str::trim).collect();
        for pair in lines.windows(2) {
            let named = pair[0].strip_prefix("- name: ").filter(|name| name.starts_with("LANEWAY_"));
            let (Some(name), Some(value)) = (named, pair[1].strip_prefix("value: ")) else { continue };
            // Substitutions by Kubernetes.
            let value = value.trim_matches('"').replace("$(HOST)", "192.0.2.1").replace("$(NODE)", "node-a");
            let read = Environment::read([(OsString::from(name), OsString::from(value))]);
            assert!(read.is_ok(), "{}: {}", path.display(), read.unwrap_err());
            variables += 1;
        }
    }
    assert!(variables >= 10, "{variables} variables");
}

#[test]
fn the_sidecars_configuration_is_valid_once_its_placeholders_are_filled() {
    let path = repository("deploy/kubernetes/sidecar/sidecar.yaml");
    let text = fs::read_to_string(&path).expect("the manifest");
    let file = text.lines().skip_while(|line| line.trim() != "lw0.conf: |").skip(1);
    let file: Vec<&str> = file.take_while(|line| *line != "---").map(str::trim).collect();
    let file = file.join("\n");

    let refused = FileConfig::parse(&path, &file).expect_err("the peer's key is missing");
    assert!(refused.to_string().contains("PublicKey"), "{refused}");
    let filled = file
        .replace("REPLACE with the peer's public key", KEY)
        .replace("REPLACE with the peer's address", "gateway.example.org");
    let filled = FileConfig::parse(&path, &filled).unwrap_or_else(|error| panic!("{error}"));
    assert_eq!((filled.addresses.len(), filled.update.peers.len()), (1, 1));
    assert!(filled.warnings.is_empty(), "{:?}", filled.warnings);
}

#[test]
fn systemd_analyze_accepts_the_unit_and_rates_its_exposure_low() {
    let unit = fs::read_to_string(repository("deploy/systemd/laneway@.service")).expect("the unit");
    // The program may not be installed.
    let installed = "/usr/local/bin/laneway";
    assert!(unit.contains(installed));
    let folder = Path::new(env!("CARGO_TARGET_TMPDIR")).join(format!("units-{}", std::process::id()));
    fs::create_dir_all(&folder).expect("a folder");
    let copy = folder.join("laneway@.service");
    fs::write(&copy, unit.replace(installed, env!("CARGO_BIN_EXE_laneway"))).expect("write the unit");

    // systemd rates exposure from 0 to 10; the threshold is ten times that.
    let checks: [&[&str]; 2] =
        [&["verify", "--man=no"], &["security", "--offline=yes", "--threshold=30", "--no-pager"]];
    for arguments in checks {
        let done = Command::new("systemd-analyze").args(arguments).arg(&copy).output();
        let done = done.expect("systemd-analyze, from Debian's package systemd");
        let said = [done.stdout, done.stderr].concat();
        let said = String::from_utf8_lossy(&said);
        // It reports an unknown key with a line that names the file, but does not fail.
        let complains = arguments[0] == "verify" && said.contains("laneway@.service:");
        assert!(done.status.success() && !complains, "{arguments:?}: {said}");
    }
    fs::remove_dir_all(&folder).expect("remove the folder");
}

#[test]
fn the_sbom_tells_what_is_in_the_binary_from_what_builds_it_and_leaves_out_tests() {
    let sbom = || {
        let mut sbom = Command::new(repository("deploy/sbom"));
        sbom.args(["x86_64-unknown-linux-gnu", "Cargo.toml"]).env("SOURCE_DATE_EPOCH", "0");
        let done = sbom.current_dir(repository("")).output().expect("deploy/sbom, a Python program");
        assert!(done.status.success(), "{}", String::from_utf8_lossy(&done.stderr));
        done.stdout
    };
    let text = sbom();
    assert_eq!(text, sbom(), "two runs differ");
    let bom: serde_json::Value = serde_json::from_slice(&text).expect("JSON");
    let scope = |name: &str| {
        let components = bom["components"].as_array().expect("components");
        let component = components.iter().find(|component| component["name"] == name)?;
        assert!(component["hashes"][0]["content"].is_string(), "{component}");
        Some(component["scope"].as_str().expect("a scope").to_owned())
    };
    for (name, expected) in [
        ("aws-lc-sys", Some("required")),
        ("tokio", Some("required")),
        ("clap_derive", Some("excluded")),
        ("cc", Some("excluded")),
        ("boringtun", None),
        ("proptest", None),
    ] {
        assert_eq!(scope(name).as_deref(), expected, "{name}");
    }
}

/// Returns path and content of the YAML files in deploy/ that run containers.
fn manifests() -> Vec<(PathBuf, String)> {
    let folders = [
        "kubernetes/base",
        "kubernetes/sidecar",
        "kubernetes/gateway",
        "kubernetes/mesh",
        "kubernetes/https",
        "compose",
    ];
    let folders = folders.map(|folder| repository("deploy").join(folder));
    let entries = folders.iter().flat_map(|folder| fs::read_dir(folder).expect("a folder"));
    let paths = entries.map(|entry| entry.expect("an entry").path());
    let manifests = paths.filter(|path| path.extension().is_some_and(|extension| extension == "yaml"));
    manifests.map(|path| (path.clone(), fs::read_to_string(&path).expect("a manifest"))).collect()
}

/// Returns a path in this repository.
fn repository(path: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join(path)
}
