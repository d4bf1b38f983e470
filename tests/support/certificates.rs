//! Certificates, made by openssl.

use std::process::Command;

use super::folder::Folder;

/// Makes a key `NAME.key` and a certificate `NAME.crt` for this host, signed with the key and certificate of `by`, or by
/// itself.
///
/// # Panics
/// If openssl fails.
pub fn certify(folder: &Folder, name: &str, by: Option<&str>) {
    let (key, certificate) = (folder.join(&format!("{name}.key")), folder.join(&format!("{name}.crt")));
    let mut openssl = Command::new("openssl");
    openssl.args([
        "req",
        "-x509",
        "-nodes",
        "-newkey",
        "ec",
        "-pkeyopt",
        "ec_paramgen_curve:prime256v1",
        "-days",
        "9",
    ]);
    openssl.args(["-keyout", &key, "-out", &certificate, "-subj", &format!("/CN={name}")]);
    openssl.args(["-addext", "subjectAltName=IP:127.0.0.1"]);
    if let Some(by) = by {
        openssl.args([
            "-CA",
            &folder.join(&format!("{by}.crt")),
            "-CAkey",
            &folder.join(&format!("{by}.key")),
        ]);
        openssl.args(["-addext", "basicConstraints=critical,CA:FALSE"]);
    }
    let done = openssl.output().expect("openssl, from Debian's package openssl");
    assert!(done.status.success(), "{}", String::from_utf8_lossy(&done.stderr));
}
