//! Flower's own TLS at both ends of the gate: the certificate that Flower's clients trust, and the authority of the SuperLink's.
//!
//! TLS 1.3 only, no resumption, no 0-RTT. The SuperLink is never spoken to in the clear.

use std::path::Path;
use std::sync::Arc;

use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, InvalidDnsNameError, PrivateKeyDer, ServerName};
use rustls::server::NoServerSessionStorage;
use rustls::{ClientConfig, RootCertStore, ServerConfig};
use tokio_rustls::{TlsAcceptor, TlsConnector};

/// Flower's certificates do not serve.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum FlowerTlsError {
    /// A file is no PEM of this kind.
    #[error("{path} is no PEM file with {what}: {source}")]
    Pem {
        /// The file.
        path: String,
        /// What it should have.
        what: &'static str,
        /// The cause.
        source: rustls::pki_types::pem::Error,
    },
    /// rustls does not take them.
    #[error("{path}: {source}; hint: `ca`, `certificate` and `key` in [flower], X.509 version 3")]
    Rustls {
        /// The file.
        path: String,
        /// The cause.
        source: rustls::Error,
    },
    /// Not a name.
    #[error("[flower] server_name {name:?} is no host name")]
    Name {
        /// As configured.
        name: String,
        /// The cause.
        source: InvalidDnsNameError,
    },
}

/// Answers as the SuperLink does.
///
/// # Errors
/// See [`FlowerTlsError`].
pub fn acceptor(certificate: &Path, key: &Path, alpn: &[u8]) -> Result<TlsAcceptor, FlowerTlsError> {
    let chain = certificates(certificate)?;
    let pem = |source| FlowerTlsError::Pem { path: key.display().to_string(), what: "a private key", source };
    let secret = PrivateKeyDer::from_pem_file(key).map_err(pem)?;
    let rustls = |source| FlowerTlsError::Rustls { path: certificate.display().to_string(), source };
    let builder = ServerConfig::builder_with_provider(Arc::new(rustls::crypto::ring::default_provider()));
    let builder = builder.with_protocol_versions(&[&rustls::version::TLS13]).map_err(rustls)?;
    let mut config = builder.with_no_client_auth().with_single_cert(chain, secret).map_err(rustls)?;
    config.alpn_protocols = vec![alpn.to_vec()];
    config.session_storage = Arc::new(NoServerSessionStorage {});
    config.send_tls13_tickets = 0;
    Ok(TlsAcceptor::from(Arc::new(config)))
}

/// Speaks to a SuperLink under this authority.
///
/// # Errors
/// See [`FlowerTlsError`].
pub fn connector(ca: &Path, alpn: &[u8]) -> Result<TlsConnector, FlowerTlsError> {
    let rustls = |source| FlowerTlsError::Rustls { path: ca.display().to_string(), source };
    let mut roots = RootCertStore::empty();
    for certificate in certificates(ca)? {
        roots.add(certificate).map_err(rustls)?;
    }
    let builder = ClientConfig::builder_with_provider(Arc::new(rustls::crypto::ring::default_provider()));
    let builder = builder.with_protocol_versions(&[&rustls::version::TLS13]).map_err(rustls)?;
    let mut config = builder.with_root_certificates(roots).with_no_client_auth();
    config.alpn_protocols = vec![alpn.to_vec()];
    config.resumption = rustls::client::Resumption::disabled();
    Ok(TlsConnector::from(Arc::new(config)))
}

/// The name that the SuperLink's certificate must have.
///
/// # Errors
/// [`FlowerTlsError::Name`].
pub fn server_name(name: &str) -> Result<ServerName<'static>, FlowerTlsError> {
    ServerName::try_from(name.to_owned()).map_err(|source| FlowerTlsError::Name { name: name.to_owned(), source })
}

fn certificates(path: &Path) -> Result<Vec<CertificateDer<'static>>, FlowerTlsError> {
    let pem = |source| FlowerTlsError::Pem { path: path.display().to_string(), what: "certificates", source };
    let read: Result<Vec<_>, _> = CertificateDer::pem_file_iter(path).map_err(pem)?.collect();
    match read.map_err(pem)? {
        none if none.is_empty() => Err(pem(rustls::pki_types::pem::Error::NoItemsFound)),
        some => Ok(some),
    }
}
