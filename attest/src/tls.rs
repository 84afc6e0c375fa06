//! TLS: the service's own CA and certificate, and rustls configurations. TLS 1.3 only, no resumption, no 0-RTT.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use rcgen::{
    BasicConstraints, CertificateParams, DistinguishedName, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair, KeyUsagePurpose,
    PKCS_ECDSA_P256_SHA256, PKCS_ECDSA_P384_SHA384, SanType,
};
use rustls::ServerConfig;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::server::NoServerSessionStorage;
use ureq::tls::{Certificate, RootCerts, TlsConfig, TlsProvider};
use zeroize::Zeroizing;

use crate::clock::unix_now;
use crate::layout::{Layout, LayoutError, private_folder, read_private, read_small, write_new};

/// How long the certificates that `init` makes are valid. Guests pin the CA, so its life is the service's.
const VALIDITY: Duration = Duration::from_secs(10 * 365 * 24 * 3600);
/// Guests' clocks may lag at boot.
const BACKDATED: Duration = Duration::from_secs(24 * 3600);

/// Certificates cannot be made or used.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum TlsError {
    /// A file.
    #[error(transparent)]
    File(#[from] LayoutError),
    /// Making a certificate; a name that is no DNS name lands here.
    #[error("cannot make a certificate for `{name}`: {source}")]
    Make {
        /// The TLS name.
        name: String,
        /// rcgen's error.
        source: rcgen::Error,
    },
    /// Not PEM of the expected kind.
    #[error("{path} does not parse: {source}")]
    Pem {
        /// The file.
        path: String,
        /// What is wrong.
        source: rustls::pki_types::pem::Error,
    },
    /// rustls refuses the pair.
    #[error("certificate {path} is not usable: {source}")]
    Unusable {
        /// The certificate file.
        path: String,
        /// rustls' error.
        source: rustls::Error,
    },
    /// The guest compares names as DNS names.
    #[error("TLS name `{name}` is not a DNS name")]
    Name {
        /// The name given.
        name: String,
    },
}

/// Makes CA and server certificate in `tls/`.
///
/// The certificate also carries `localhost` and the loopback addresses, for the admin commands on the same machine; a guest
/// checks its site config's `tls_name` and nothing else. The CA's private key is not kept: a new certificate means a new CA.
///
/// # Errors
/// See [`TlsError`].
pub fn make_certificates(layout: &Layout, tls_name: &str) -> Result<(), TlsError> {
    if rustls::pki_types::DnsName::try_from(tls_name).is_err() {
        return Err(TlsError::Name { name: tls_name.to_owned() });
    }
    let made = make(tls_name).map_err(|source| TlsError::Make { name: tls_name.to_owned(), source })?;
    private_folder(&layout.dir().join("tls"))?;
    write_new(&layout.tls_ca(), 0o644, made.ca.as_bytes())?;
    write_new(&layout.tls_cert(), 0o644, made.server.as_bytes())?;
    Ok(write_new(&layout.tls_key(), 0o600, made.key.as_bytes())?)
}

struct Made {
    ca: String,
    server: String,
    key: Zeroizing<String>,
}

fn make(tls_name: &str) -> Result<Made, rcgen::Error> {
    let ca_key = KeyPair::generate_for(&PKCS_ECDSA_P384_SHA384)?;
    let mut ca = params(&format!("{tls_name} CA"))?;
    ca.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
    ca.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
    let ca_certificate = ca.self_signed(&ca_key)?;
    let issuer = Issuer::new(ca, ca_key);

    let key = KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256)?;
    let mut server = params(tls_name)?;
    server.subject_alt_names = vec![
        SanType::DnsName(tls_name.try_into()?),
        SanType::DnsName("localhost".try_into()?),
        SanType::IpAddress(IpAddr::V4(Ipv4Addr::LOCALHOST)),
        SanType::IpAddress(IpAddr::V6(Ipv6Addr::LOCALHOST)),
    ];
    server.key_usages = vec![KeyUsagePurpose::DigitalSignature];
    server.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
    server.use_authority_key_identifier_extension = true;
    let server = server.signed_by(&key, &issuer)?;
    Ok(Made { ca: ca_certificate.pem(), server: server.pem(), key: Zeroizing::new(key.serialize_pem()) })
}

fn params(common_name: &str) -> Result<CertificateParams, rcgen::Error> {
    let mut params = CertificateParams::new(Vec::new())?;
    let epoch = rcgen::date_time_ymd(1970, 1, 1);
    let now = Duration::from_secs(unix_now());
    params.not_before = epoch + now.saturating_sub(BACKDATED);
    params.not_after = epoch + now + VALIDITY;
    params.distinguished_name = DistinguishedName::new();
    params.distinguished_name.push(DnType::CommonName, common_name);
    Ok(params)
}

/// The server's side.
///
/// # Errors
/// See [`TlsError`].
pub fn server_config(layout: &Layout) -> Result<Arc<ServerConfig>, TlsError> {
    let path = layout.tls_cert();
    let chain = certificates(&path)?;
    let key_path = layout.tls_key();
    let key = PrivateKeyDer::from_pem_slice(&read_private(&key_path)?)
        .map_err(|source| TlsError::Pem { path: key_path.display().to_string(), source })?;
    let unusable = |source| TlsError::Unusable { path: path.display().to_string(), source };
    let mut config = ServerConfig::builder_with_provider(Arc::new(rustls::crypto::ring::default_provider()))
        .with_protocol_versions(&[&rustls::version::TLS13])
        .map_err(unusable)?
        .with_no_client_auth()
        .with_single_cert(chain, key)
        .map_err(unusable)?;
    config.session_storage = Arc::new(NoServerSessionStorage {});
    config.send_tls13_tickets = 0;
    config.max_early_data_size = 0;
    config.alpn_protocols = vec![b"http/1.1".to_vec()];
    Ok(Arc::new(config))
}

/// Every certificate of a PEM file.
///
/// # Errors
/// See [`TlsError`].
pub fn certificates(path: &Path) -> Result<Vec<CertificateDer<'static>>, TlsError> {
    let bytes = read_small(path)?;
    CertificateDer::pem_slice_iter(&bytes)
        .collect::<Result<Vec<_>, _>>()
        .map_err(|source| TlsError::Pem { path: path.display().to_string(), source })
}

/// What this program's own calls trust: these authorities and no others.
pub fn client_config(roots: &[CertificateDer<'_>]) -> TlsConfig {
    let roots: Vec<_> = roots.iter().map(|root| Certificate::from_der(root).to_owned()).collect();
    TlsConfig::builder()
        .provider(TlsProvider::Rustls)
        .root_certs(RootCerts::new_with_certs(&roots))
        .unversioned_rustls_crypto_provider(Arc::new(rustls::crypto::ring::default_provider()))
        .build()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn made_certificates_are_usable_and_never_resumed() {
        let dir = tempfile::tempdir().unwrap();
        let layout = Layout::new(dir.path());
        make_certificates(&layout, "attest.demo.test").unwrap();
        let config = server_config(&layout).unwrap();
        assert_eq!((config.send_tls13_tickets, config.max_early_data_size), (0, 0));
        assert!(!config.session_storage.can_cache());
        assert_eq!(certificates(&layout.tls_ca()).unwrap().len(), 1);
    }

    #[test]
    fn a_name_that_is_no_dns_name_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        for name in ["", "a b", "127.0.0.1/x", "é"] {
            let made = make_certificates(&Layout::new(dir.path()), name);
            assert!(matches!(made, Err(TlsError::Name { .. })), "{name}: {made:?}");
        }
    }
}
