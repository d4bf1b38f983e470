//! Parses the file (YAML) and makes TLS settings of it.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::str;
use std::sync::Arc;

use rustls::crypto::{CryptoProvider, aws_lc_rs};
use rustls::pki_types::CertificateDer;
use rustls::server::WebPkiClientVerifier;
use rustls::server::danger::ClientCertVerifier;
use rustls::version::{TLS12, TLS13};
use rustls::{RootCertStore, ServerConfig, SupportedProtocolVersion};
use serde::Deserialize;
use serde_json::Value;
use yaml_rust2::parser::{Event, Parser};
use yaml_rust2::{Yaml, YamlLoader};

use super::{Files, Logins, WebError, WebSettings};
use crate::config::reading;

/// Maximum length of the file in bytes, enough for some 10,000 logins.
const MAX_FILE: usize = 1 << 20;

/// The file.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct File {
    tls_server_config: Option<Tls>,
    basic_auth_users: Option<BTreeMap<String, String>>,
}

/// `tls_server_config`.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Tls {
    cert_file: PathBuf,
    key_file: PathBuf,
    #[serde(default)]
    min_version: Version,
    #[serde(default)]
    max_version: Option<Version>,
    #[serde(default)]
    client_auth_type: ClientAuth,
    client_ca_file: Option<PathBuf>,
}

/// `min_version` and `max_version`. Older versions are not offered.
#[derive(Clone, Copy, Default, Deserialize, PartialEq, Eq, PartialOrd, Ord)]
enum Version {
    #[default]
    #[serde(rename = "TLS12")]
    Tls12,
    #[serde(rename = "TLS13")]
    Tls13,
}

/// `client_auth_type`. The toolkit's kinds that do not verify the certificate are not offered.
#[derive(Clone, Copy, Default, Deserialize, PartialEq, Eq)]
enum ClientAuth {
    #[default]
    NoClientCert,
    VerifyClientCertIfGiven,
    RequireAndVerifyClientCert,
}

/// Reads the settings from the file at `path`. Relative paths in it are relative to its directory.
pub(super) fn settings(path: &Path, files: &mut Files) -> Result<WebSettings, WebError> {
    let bytes = files.read(path)?;
    let invalid = |why: String| WebError::invalid(path, why);
    if bytes.len() > MAX_FILE {
        return Err(invalid(format!("longer than {MAX_FILE} bytes")));
    }
    let text = str::from_utf8(&bytes).map_err(|error| invalid(error.to_string()))?;
    let File { tls_server_config, basic_auth_users } = parse(text).map_err(invalid)?;
    if tls_server_config.is_none() && basic_auth_users.is_none() {
        return Err(invalid("expected tls_server_config or basic_auth_users, or both".to_owned()));
    }
    let logins = basic_auth_users.map(Logins::new).transpose().map_err(invalid)?;
    let needs_certificate = tls_server_config
        .as_ref()
        .is_some_and(|tls| tls.client_auth_type == ClientAuth::RequireAndVerifyClientCert);
    let tls = tls_server_config.map(|tls| server(&tls, path, files)).transpose()?;
    Ok(WebSettings { tls, needs_certificate, logins: logins.map(Arc::new) })
}

fn parse(text: &str) -> Result<File, String> {
    refuse_aliases(text)?;
    let documents = YamlLoader::load_from_str(text).map_err(|error| error.to_string())?;
    let value = match &documents[..] {
        [] => Value::Object(serde_json::Map::new()),
        [document] => value(document)?,
        _ => return Err("expected one YAML document".to_owned()),
    };
    let value = if value.is_null() { Value::Object(serde_json::Map::new()) } else { value };
    expect(&value)?;
    serde_json::from_value(value).map_err(|error| error.to_string())
}

/// Refuses aliases before the loader expands them: ten lines can name each other to gigabytes.
fn refuse_aliases(text: &str) -> Result<(), String> {
    let mut parser = Parser::new_from_str(text);
    loop {
        match parser.next_token().map_err(|error| error.to_string())? {
            (Event::Alias(_), at) => return Err(format!("aliases are not supported (line {})", at.line())),
            (Event::StreamEnd, _) => return Ok(()),
            _ => {}
        }
    }
}

/// Checks the types of the values. The messages of serde quote values, and these may hold password hashes.
fn expect(file: &Value) -> Result<(), String> {
    let Some(file) = file.as_object() else { return Err("expected a map of keys to values".to_owned()) };
    names(file)?;
    for part in ["tls_server_config", "basic_auth_users"] {
        let Some(entries) = file.get(part) else { continue };
        let Some(entries) = entries.as_object() else {
            let of = if part == "basic_auth_users" { "users to bcrypt hashes" } else { "keys to values" };
            return Err(format!("{part}: expected a map of {of}"));
        };
        names(entries).map_err(|why| format!("{part}: {why}"))?;
        if let Some((key, _)) = entries.iter().find(|(_, value)| !value.is_string()) {
            return Err(format!("{part}: {key}: expected a string"));
        }
    }
    Ok(())
}

/// Returns a YAML value as one that serde can read. Keys are text, as in the toolkit.
fn value(yaml: &Yaml) -> Result<Value, String> {
    Ok(match yaml {
        Yaml::Real(text) | Yaml::String(text) => Value::String(text.clone()),
        Yaml::Integer(number) => (*number).into(),
        Yaml::Boolean(is) => (*is).into(),
        Yaml::Array(array) => Value::Array(array.iter().map(value).collect::<Result<_, _>>()?),
        Yaml::Hash(hash) => {
            let entry = |(key, of): (&Yaml, &Yaml)| match value(key)? {
                Value::String(key) => Ok((key, value(of)?)),
                Value::Number(key) => Ok((key.to_string(), value(of)?)),
                _ => Err("expected a string as the name of a key".to_owned()),
            };
            Value::Object(hash.iter().map(entry).collect::<Result<_, String>>()?)
        }
        Yaml::Null => Value::Null,
        Yaml::Alias(_) | Yaml::BadValue => return Err("aliases are not supported".to_owned()),
    })
}

/// Refuses names with a colon or `$`: without the space after the colon, a password hash is part of the name.
fn names(entries: &serde_json::Map<String, Value>) -> Result<(), String> {
    match entries.keys().find_map(|key| key.split_once([':', '$'])) {
        Some((name, _)) => Err(format!("{name}: expected a colon and a space after the name")),
        None => Ok(()),
    }
}

/// Makes the TLS settings.
fn server(tls: &Tls, path: &Path, files: &mut Files) -> Result<Arc<ServerConfig>, WebError> {
    let beside = |named: &Path| path.parent().unwrap_or(Path::new("")).join(named);
    let invalid = |why: &str| WebError::invalid(path, why);
    let certificates = certificates(&beside(&tls.cert_file), files)?;
    let key_file = beside(&tls.key_file);
    let key =
        reading::private_key(&files.read(&key_file)?).map_err(|why| WebError::invalid(&key_file, why))?;
    let provider = Arc::new(aws_lc_rs::default_provider());
    let builder = ServerConfig::builder_with_provider(Arc::clone(&provider))
        .with_protocol_versions(&versions(tls.min_version, tls.max_version))
        .map_err(|_| invalid("max_version is below min_version"))?;
    let verifier = match (tls.client_auth_type, &tls.client_ca_file) {
        (ClientAuth::NoClientCert, None) => WebPkiClientVerifier::no_client_auth(),
        (ClientAuth::NoClientCert, Some(_)) => {
            return Err(invalid("client_ca_file has no effect without client_auth_type"));
        }
        (_, None) => return Err(invalid("client_auth_type needs client_ca_file")),
        (_, Some(authority)) => verifier(&beside(authority), provider, files)?,
    };
    let mut server =
        builder.with_client_cert_verifier(verifier).with_single_cert(certificates, key).map_err(|error| {
            WebError::invalid(&key_file, format!("cannot be used with the certificate: {error}"))
        })?;
    server.alpn_protocols = vec![b"http/1.1".to_vec()];
    Ok(Arc::new(server))
}

fn versions(min: Version, max: Option<Version>) -> Vec<&'static SupportedProtocolVersion> {
    let offered = [(Version::Tls13, &TLS13), (Version::Tls12, &TLS12)].into_iter();
    let within = offered.filter(|(version, _)| *version >= min && max.is_none_or(|max| *version <= max));
    within.map(|(_, version)| version).collect()
}

fn certificates(path: &Path, files: &mut Files) -> Result<Vec<CertificateDer<'static>>, WebError> {
    reading::certificates(&files.read(path)?).map_err(|why| WebError::invalid(path, why))
}

/// Returns what verifies the certificates of clients by those in the file at `path`. Clients without one get through
/// the handshake: probes need none.
fn verifier(
    path: &Path,
    provider: Arc<CryptoProvider>,
    files: &mut Files,
) -> Result<Arc<dyn ClientCertVerifier>, WebError> {
    let mut roots = RootCertStore::empty();
    for certificate in certificates(path, files)? {
        roots.add(certificate).map_err(|error| WebError::invalid(path, error.to_string()))?;
    }
    WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider)
        .allow_unauthenticated()
        .build()
        .map_err(|error| WebError::invalid(path, error.to_string()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn mistake(text: &str) -> String {
        parse(text).map(|_| ()).expect_err(text)
    }

    #[test]
    fn aliases_are_refused_before_they_are_expanded() {
        let mut bomb = "a0: &a0 x\n".to_owned();
        for level in 1..30 {
            let below = format!("*a{}", level - 1);
            bomb +=
                &["a", &level.to_string(), ": &a", &level.to_string(), " [", &[&*below; 10].join(","), "]\n"]
                    .concat();
        }
        assert_eq!(refuse_aliases(&bomb).unwrap_err(), "aliases are not supported (line 2)");
    }

    #[test]
    fn the_toolkits_file_is_read() {
        let file = parse(
            "tls_server_config:\n  cert_file: server.crt\n  key_file: /etc/server.key\n  min_version: \"TLS13\"\n  \
             client_auth_type: RequireAndVerifyClientCert\n  client_ca_file: ca.crt\nbasic_auth_users:\n  \
             alice: $2y$10$mDwo.lAisC94iLAyP81MCesa29IzH37oigHC/42V2pdJlUprsJPze\n  7: x\n",
        );
        let file = file.unwrap_or_else(|why| panic!("{why}"));
        let tls = file.tls_server_config.expect("TLS");
        assert_eq!(
            (tls.cert_file.to_str(), tls.key_file.to_str()),
            (Some("server.crt"), Some("/etc/server.key"))
        );
        assert!(tls.min_version == Version::Tls13 && tls.max_version.is_none());
        assert!(tls.client_auth_type == ClientAuth::RequireAndVerifyClientCert);
        let users = file.basic_auth_users.expect("users");
        assert_eq!(users.keys().collect::<Vec<_>>(), ["7", "alice"]);
        for empty in ["", "# nothing\n", "{}"] {
            let file = parse(empty).unwrap_or_else(|why| panic!("{empty:?}: {why}"));
            assert!(file.tls_server_config.is_none() && file.basic_auth_users.is_none());
        }
    }

    #[test]
    fn mistakes_are_named() {
        for (text, part) in [
            ("tls_server_confg: {}", "tls_server_confg"),
            ("tls_server_config: {cert_file: a}", "key_file"),
            ("tls_server_config: {cert_file: a, key_file: b, min_version: TLS11}", "TLS11"),
            (
                "tls_server_config: {cert_file: a, key_file: b, client_auth_type: RequestClientCert}",
                "RequestClientCert",
            ),
            ("basic_auth_users: [alice]", "map"),
            ("basic_auth_users:\n", "basic_auth_users: expected a map"),
            ("tls_server_config:\n", "tls_server_config: expected a map"),
            ("basic_auth_users: {alice: 1}", "alice: expected a string"),
            ("tls_server_config: {cert_file: [a], key_file: b}", "cert_file: expected a string"),
            ("alice", "expected a map"),
            ("a: 1\na: 2\n", "duplicated"),
            ("a: [", "line"),
            ("{}\n---\n{}\n", "one YAML document"),
        ] {
            let why = mistake(text);
            assert!(why.contains(part), "{text}: {why}");
        }
    }

    #[test]
    fn messages_do_not_show_values() {
        for text in [
            "basic_auth_users:\n  alice:$2y$10$hash\n",
            "basic_auth_users: [$2y$10$hash]\n",
            "basic_auth_users: {alice:$2y$10$hash}\n",
            "basic_auth_users: {alice: [$2y$10$hash]}\n",
            "basic_auth_users: {alice: {$2y$10$hash: 1}}\n",
            "basic_auth_users: {[$2y$10$hash]: alice}\n",
            "alice:$2y$10$hash\n",
            "- $2y$10$hash\n",
        ] {
            let why = mistake(text);
            assert!(!why.contains("$10"), "{text}: {why}");
        }
    }
}
