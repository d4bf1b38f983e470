//! What a metrics URL with TLS or a login needs: whom to trust, and who asks.

use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;
use clap::Args;
use rustls::client::WebPkiServerVerifier;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::{CryptoProvider, aws_lc_rs};
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::{ClientConfig, DigitallySignedStruct, RootCertStore, SignatureScheme};
use zeroize::Zeroizing;

use super::TopError;
use super::url::Url;
use crate::config::reading;

/// Options for `https` URLs and logins.
#[derive(Clone, Debug, Args)]
pub(super) struct HttpAccessArgs {
    /// Trust the certificates in this PEM file, and those they have signed, instead of the system's authorities
    #[arg(long, value_name = "FILE", requires = "url", conflicts_with = "insecure")]
    ca_file: Option<PathBuf>,

    /// Do not verify who the server is: whoever answers gets the password
    #[arg(long, requires = "url")]
    insecure: bool,

    /// PEM file with the certificate to show to the server
    #[arg(long, value_name = "FILE", requires = "key_file")]
    cert_file: Option<PathBuf>,

    /// PEM file with the key of that certificate
    #[arg(long, value_name = "FILE", requires = "cert_file", requires = "url")]
    key_file: Option<PathBuf>,

    /// File with the password of the user in the URL, on its first line
    #[arg(long, value_name = "FILE", requires = "url")]
    password_file: Option<PathBuf>,
}

/// What is sent and checked with each request.
#[derive(Clone)]
pub(super) struct HttpAccess {
    /// TLS, for an `https` URL.
    pub(super) tls: Option<Arc<ClientConfig>>,
    /// The value of the `Authorization` header (RFC 7617).
    pub(super) authorization: Option<Zeroizing<String>>,
}

impl HttpAccess {
    /// Reads what `url` needs from the files that `args` names.
    ///
    /// # Errors
    /// A file cannot be read or is not what it should be, or the user of the URL lacks a password, or the other way
    /// round.
    pub(super) fn new(url: &Url, args: &HttpAccessArgs) -> Result<Self, TopError> {
        let authorization = match (&url.user, &args.password_file) {
            (Some(user), Some(file)) => Some(authorization(user, file)?),
            (None, None) => None,
            (Some(user), None) => {
                return Err(TopError::Access(format!("--password-file is missing for the user {user}")));
            }
            (None, Some(_)) => {
                return Err(TopError::Access("--password-file needs a user: https://USER@HOST".to_owned()));
            }
        };
        let tls = if url.tls { Some(Arc::new(tls(args)?)) } else { None };
        Ok(HttpAccess { tls, authorization })
    }
}

impl fmt::Debug for HttpAccess {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("HttpAccess").field("tls", &self.tls.is_some()).finish_non_exhaustive()
    }
}

fn authorization(user: &str, file: &Path) -> Result<Zeroizing<String>, TopError> {
    let bytes = read(file)?;
    let line = bytes.split(|byte| *byte == b'\n').next().unwrap_or_default();
    let password = line.strip_suffix(b"\r").unwrap_or(line);
    let login = Zeroizing::new([user.as_bytes(), b":", password].concat());
    Ok(Zeroizing::new(format!("Basic {}", *Zeroizing::new(BASE64_STANDARD.encode(&*login)))))
}

fn tls(args: &HttpAccessArgs) -> Result<ClientConfig, TopError> {
    let provider = Arc::new(aws_lc_rs::default_provider());
    let verifier = ServerVerifier::new(args, &provider)?;
    let builder = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .map_err(|error| TopError::Access(error.to_string()))?
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(verifier));
    let (Some(cert_file), Some(key_file)) = (&args.cert_file, &args.key_file) else {
        return Ok(builder.with_no_client_auth());
    };
    let key = reading::private_key(&read(key_file)?).map_err(|why| file_error(key_file, why))?;
    builder
        .with_client_auth_cert(certificates(cert_file)?, key)
        .map_err(|error| file_error(key_file, format!("cannot be used with the certificate: {error}")))
}

fn certificates(path: &Path) -> Result<Vec<CertificateDer<'static>>, TopError> {
    reading::certificates(&read(path)?).map_err(|why| file_error(path, why))
}

fn read(path: &Path) -> Result<Zeroizing<Vec<u8>>, TopError> {
    reading::read(path).map_err(|error| file_error(path, error.to_string()))
}

fn file_error(path: &Path, why: impl fmt::Display) -> TopError {
    TopError::Access(format!("{}: {why}", path.display()))
}

/// Verifies the server's certificate.
#[derive(Debug)]
struct ServerVerifier {
    /// Whether any certificate will do.
    insecure: bool,
    /// Certificates that are trusted as they are, for any host. One that is signed by itself is usually marked as an
    /// authority, and those are refused as the certificate of a server otherwise.
    named: Vec<CertificateDer<'static>>,
    /// Verifies by authorities; `None` if there are none.
    authorities: Option<Arc<WebPkiServerVerifier>>,
    provider: Arc<CryptoProvider>,
}

impl ServerVerifier {
    fn new(args: &HttpAccessArgs, provider: &Arc<CryptoProvider>) -> Result<Self, TopError> {
        let named = args.ca_file.as_deref().map(certificates).transpose()?;
        let mut roots = RootCertStore::empty();
        match &named {
            Some(named) => {
                roots.add_parsable_certificates(named.iter().cloned());
            }
            None if args.insecure => {}
            None => {
                roots.add_parsable_certificates(rustls_native_certs::load_native_certs().certs);
            }
        }
        let authorities = if roots.is_empty() {
            None
        } else {
            let builder = WebPkiServerVerifier::builder_with_provider(Arc::new(roots), Arc::clone(provider));
            Some(builder.build().map_err(|error| TopError::Access(error.to_string()))?)
        };
        Ok(ServerVerifier {
            insecure: args.insecure,
            named: named.unwrap_or_default(),
            authorities,
            provider: Arc::clone(provider),
        })
    }
}

impl ServerCertVerifier for ServerVerifier {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        server_name: &ServerName<'_>,
        ocsp_response: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        if self.insecure || self.named.contains(end_entity) {
            return Ok(ServerCertVerified::assertion());
        }
        let unknown = rustls::CertificateError::UnknownIssuer;
        let authorities = self.authorities.as_ref().ok_or(rustls::Error::InvalidCertificate(unknown))?;
        authorities.verify_server_cert(end_entity, intermediates, server_name, ocsp_response, now)
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        let algorithms = &self.provider.signature_verification_algorithms;
        rustls::crypto::verify_tls12_signature(message, cert, dss, algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        let algorithms = &self.provider.signature_verification_algorithms;
        rustls::crypto::verify_tls13_signature(message, cert, dss, algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.provider.signature_verification_algorithms.supported_schemes()
    }
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;
    use crate::testing::Folder;

    fn args() -> HttpAccessArgs {
        HttpAccessArgs {
            ca_file: None,
            insecure: false,
            cert_file: None,
            key_file: None,
            password_file: None,
        }
    }

    fn mistake(url: &str, args: &HttpAccessArgs) -> String {
        HttpAccess::new(&url.parse().unwrap(), args).unwrap_err().to_string()
    }

    #[test]
    fn the_password_is_the_first_line_and_not_shown() {
        let folder = Folder::new("top-password");
        let file = folder.0.join("password");
        for text in ["sec:ret", "sec:ret\n", "sec:ret\r\n", "sec:ret\nmore\n"] {
            fs::write(&file, text).unwrap();
            let args = HttpAccessArgs { password_file: Some(file.clone()), ..args() };
            let access = HttpAccess::new(&"http://alice@router".parse().unwrap(), &args).unwrap();
            let encoded = BASE64_STANDARD.encode("alice:sec:ret");
            assert_eq!(access.authorization.as_deref(), Some(&format!("Basic {encoded}")));
            assert!(!format!("{access:?}").contains(&encoded));
        }
    }

    #[test]
    fn what_is_missing_or_wrong_is_named() {
        let folder = Folder::new("top-access");
        let file = folder.0.join("not-pem");
        fs::write(&file, "nothing").unwrap();
        assert!(mistake("http://alice@router", &args()).contains("--password-file"));
        let with_password = HttpAccessArgs { password_file: Some(file.clone()), ..args() };
        assert!(mistake("http://router", &with_password).contains("USER@HOST"));
        let authority = HttpAccessArgs { ca_file: Some(file.clone()), ..args() };
        assert!(mistake("https://router", &authority).contains("not-pem: no certificate"));
        let identity =
            HttpAccessArgs { cert_file: Some(file.clone()), key_file: Some(file), insecure: true, ..args() };
        assert!(mistake("https://router", &identity).contains("not-pem: not a private key"));
        let nowhere = HttpAccessArgs { ca_file: Some(folder.0.join("nowhere")), ..args() };
        assert!(mistake("https://router", &nowhere).contains("nowhere: "));
    }
}
