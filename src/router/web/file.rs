//! Parses the file (YAML) and makes TLS settings of it.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::str;
use std::sync::Arc;

use rustls::crypto::{CryptoProvider, aws_lc_rs};
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::server::WebPkiClientVerifier;
use rustls::server::danger::ClientCertVerifier;
use rustls::version::{TLS12, TLS13};
use rustls::{RootCertStore, ServerConfig, SupportedProtocolVersion};
use serde::Deserialize;
use serde_json::Value;
use yaml_rust2::{Yaml, YamlLoader};
use zeroize::Zeroizing;

use super::{Files, Logins, Settings, WebError};

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
pub(super) fn settings(path: &Path, files: &mut Files) -> Result<Settings, WebError> {
    let bytes = files.read(path)?;
    let invalid = |why: String| WebError::invalid(path, why);
    if bytes.len() > MAX_FILE {
        return Err(invalid(format!("longer than {MAX_FILE} bytes")));
    }
    let text = str::from_utf8(&bytes).map_err(|error| invalid(error.to_string()))?;
    let File { tls_server_config, basic_auth_users } = parse(text).map_err(invalid)?;
    let logins = basic_auth_users.filter(|users| !users.is_empty());
    let logins = logins.map(Logins::new).transpose().map_err(invalid)?;
    let needs_certificate = tls_server_config
        .as_ref()
        .is_some_and(|tls| tls.client_auth_type == ClientAuth::RequireAndVerifyClientCert);
    let tls = tls_server_config.map(|tls| server(&tls, path, files)).transpose()?;
    Ok(Settings { tls, needs_certificate, logins: logins.map(Arc::new) })
}

fn parse(text: &str) -> Result<File, String> {
    let documents = YamlLoader::load_from_str(text).map_err(|error| error.to_string())?;
    let value = match &documents[..] {
        [] => Value::Object(serde_json::Map::new()),
        [document] => value(document)?,
        _ => return Err("expected one YAML document".to_owned()),
    };
    let value = if value.is_null() { Value::Object(serde_json::Map::new()) } else { value };
    serde_json::from_value(value).map_err(|error| error.to_string())
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
                key => Err(format!("{key} is not a name")),
            };
            Value::Object(hash.iter().map(entry).collect::<Result<_, String>>()?)
        }
        Yaml::Null => Value::Null,
        Yaml::Alias(_) | Yaml::BadValue => return Err("aliases are not supported".to_owned()),
    })
}

/// Makes the TLS settings.
fn server(tls: &Tls, path: &Path, files: &mut Files) -> Result<Arc<ServerConfig>, WebError> {
    let beside = |named: &Path| path.parent().unwrap_or(Path::new("")).join(named);
    let invalid = |why: &str| WebError::invalid(path, why);
    let certificates = certificates(&beside(&tls.cert_file), files)?;
    let key_file = beside(&tls.key_file);
    let key = PrivateKeyDer::from_pem_slice(&Zeroizing::new(files.read(&key_file)?))
        .map_err(|error| WebError::invalid(&key_file, format!("not a private key in PEM: {error}")))?;
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
    let certificates: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(&files.read(path)?).collect();
    match certificates {
        Ok(certificates) if !certificates.is_empty() => Ok(certificates),
        Ok(_) => Err(WebError::invalid(path, "no certificate in PEM")),
        Err(error) => Err(WebError::invalid(path, format!("not certificates in PEM: {error}"))),
    }
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
            ("a: 1\na: 2\n", "duplicated"),
            ("a: [", "line"),
            ("{}\n---\n{}\n", "one YAML document"),
        ] {
            let why = mistake(text);
            assert!(why.contains(part), "{text}: {why}");
        }
    }
}
