//! TLS: the authority that guests pin, the gate's certificate, and rustls' settings. TLS 1.3 only, no resumption, no 0-RTT.
//!
//! Guests authenticate with the bare public key of their boot (RFC 7250), P-384. The handshake proves that they hold it; what it is
//! worth is the token's word.

use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use coffer_token::Jkt;
use coffer_token::lease::{ALPN, ALPN_ATTESTED};
use p384::pkcs8::EncodePrivateKey as _;
use rcgen::{
    BasicConstraints, CertificateParams, DistinguishedName, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair, KeyUsagePurpose,
    PKCS_ECDSA_P256_SHA256, PKCS_ECDSA_P384_SHA384,
};
use rustls::client::danger::HandshakeSignatureValid;
use rustls::crypto::{CryptoProvider, verify_tls13_signature_with_raw_key};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer, SubjectPublicKeyInfoDer, UnixTime};
use rustls::server::NoServerSessionStorage;
use rustls::server::danger::{ClientCertVerified, ClientCertVerifier};
use rustls::{
    CertificateError, ClientConfig, DigitallySignedStruct, DistinguishedName as Subject, PeerIncompatible, RootCertStore, ServerConfig,
    SignatureScheme,
};
use zeroize::Zeroizing;

use crate::guests::openssh::{self, OpensshError};
use crate::layout::{Layout, LayoutError, private_folder, read_private, read_small, write_new};

/// How long certificates are valid. Guests pin the authority, so its life is the gate's; a leaf's key lives as long as the process.
const VALIDITY: Duration = Duration::from_secs(10 * 365 * 24 * 3600);
/// Guests' clocks may lag at boot.
const BACKDATED: Duration = Duration::from_secs(24 * 3600);
/// Subject of every gate's authority: `serve` builds the issuer from the key alone.
const AUTHORITY: &str = "coffer-gate CA";

/// Certificates cannot be made or used.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum TlsError {
    /// A file.
    #[error(transparent)]
    File(#[from] LayoutError),
    /// Making a certificate.
    #[error("cannot make a certificate for `{name}`: {source}")]
    Make {
        /// The TLS name.
        name: String,
        /// rcgen's error.
        source: rcgen::Error,
    },
    /// Not PEM of the expected kind.
    #[error("{path} is not PEM of the expected kind: {source}")]
    Pem {
        /// The file.
        path: String,
        /// What is wrong.
        source: rustls::pki_types::pem::Error,
    },
    /// A PEM file without a certificate.
    #[error("{path} has no certificate")]
    Empty {
        /// The file.
        path: String,
    },
    /// The authority's key is not what its certificate is for.
    #[error("{key} is not the key of {certificate}\nhint: `init` makes both; restore the pair from one backup")]
    Pair {
        /// The key file.
        key: String,
        /// The certificate file.
        certificate: String,
    },
    /// The node key of this boot.
    #[error("[attested] node_key {path}: {source}")]
    NodeKey {
        /// The file.
        path: String,
        /// What is wrong.
        source: OpensshError,
    },
    /// rustls refuses.
    #[error("TLS settings are not usable: {0}")]
    Unusable(#[from] rustls::Error),
    /// Guests compare names as DNS names.
    #[error("TLS name `{name}` is not a DNS name")]
    Name {
        /// The name given.
        name: String,
    },
}

/// Makes the authority in `tls/`.
///
/// # Errors
/// See [`TlsError`].
pub fn make_authority(layout: &Layout, name: &str) -> Result<(), TlsError> {
    if rustls::pki_types::DnsName::try_from(name).is_err() {
        return Err(TlsError::Name { name: name.to_owned() });
    }
    let make = || {
        let key = KeyPair::generate_for(&PKCS_ECDSA_P384_SHA384)?;
        let certificate = authority_params()?.self_signed(&key)?.pem();
        Ok((certificate, Zeroizing::new(key.serialize_pem())))
    };
    let (certificate, key) = make().map_err(|source| TlsError::Make { name: name.to_owned(), source })?;
    private_folder(&layout.dir().join("tls"))?;
    write_new(&layout.ca(), 0o644, certificate.as_bytes())?;
    Ok(write_new(&layout.ca_key(), 0o600, key.as_bytes())?)
}

fn authority_params() -> Result<CertificateParams, rcgen::Error> {
    let mut params = params(AUTHORITY)?;
    params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
    Ok(params)
}

fn params(common_name: &str) -> Result<CertificateParams, rcgen::Error> {
    let mut params = CertificateParams::new(Vec::new())?;
    let epoch = rcgen::date_time_ymd(1970, 1, 1);
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or(Duration::ZERO);
    params.not_before = epoch + now.saturating_sub(BACKDATED);
    params.not_after = epoch + now + VALIDITY;
    params.distinguished_name = DistinguishedName::new();
    params.distinguished_name.push(DnType::CommonName, common_name);
    Ok(params)
}

/// The gate's side, and the thumbprint of its certificate's key.
pub struct Server {
    /// For rustls.
    pub config: Arc<ServerConfig>,
    /// What a gate token has as `node_jkt`, where the key is the boot's node key.
    pub key: Jkt,
}

/// Issues the gate's certificate: over a key of this process, or over the node key of this boot.
///
/// # Errors
/// See [`TlsError`].
pub fn server(layout: &Layout, name: &str, node_key: Option<&Path>) -> Result<Server, TlsError> {
    let make = |source| TlsError::Make { name: name.to_owned(), source };
    let issuer = issuer(layout, name)?;
    let key = match node_key {
        Some(path) => node_key_pair(path, name)?,
        None => KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256).map_err(make)?,
    };
    let mut leaf = params(name).map_err(make)?;
    leaf.subject_alt_names = vec![rcgen::SanType::DnsName(name.try_into().map_err(make)?)];
    leaf.key_usages = vec![KeyUsagePurpose::DigitalSignature];
    leaf.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
    leaf.use_authority_key_identifier_extension = true;
    let certificate = leaf.signed_by(&key, &issuer).map_err(make)?;
    let private = Zeroizing::new(key.serialize_der());
    let private = PrivateKeyDer::Pkcs8(PrivatePkcs8KeyDer::from(private.as_slice()).clone_key());
    let mut config = ServerConfig::builder_with_provider(provider())
        .with_protocol_versions(&[&rustls::version::TLS13])?
        .with_client_cert_verifier(Arc::new(BootKeys(provider())))
        .with_single_cert(vec![certificate.der().clone()], private)?;
    config.session_storage = Arc::new(NoServerSessionStorage {});
    config.send_tls13_tickets = 0;
    config.max_early_data_size = 0;
    config.alpn_protocols = vec![ALPN.to_vec(), ALPN_ATTESTED.to_vec()];
    let point = key.public_key_raw();
    let curve = if node_key.is_some() { "P-384" } else { "P-256" };
    let unusable = || TlsError::Make { name: name.to_owned(), source: rcgen::Error::UnsupportedSignatureAlgorithm };
    let key = Jkt::of_ec_point(curve, point).ok_or_else(unusable)?;
    Ok(Server { config: Arc::new(config), key })
}

fn issuer(layout: &Layout, name: &str) -> Result<Issuer<'static, KeyPair>, TlsError> {
    let make = |source| TlsError::Make { name: name.to_owned(), source };
    let pem = read_private(&layout.ca_key())?;
    let shown = |path: &Path| path.display().to_string();
    let der = PrivatePkcs8KeyDer::from_pem_slice(&pem).map_err(|source| TlsError::Pem { path: shown(&layout.ca_key()), source })?;
    let key = KeyPair::from_pkcs8_der_and_sign_algo(&der, &PKCS_ECDSA_P384_SHA384).map_err(make)?;
    let [certificate, ..] = &certificates(&layout.ca())?[..] else { return Err(TlsError::Empty { path: shown(&layout.ca()) }) };
    // The certificate holds its public key as it is, once.
    if !certificate.windows(key.public_key_raw().len()).any(|window| window == key.public_key_raw()) {
        return Err(TlsError::Pair { key: shown(&layout.ca_key()), certificate: shown(&layout.ca()) });
    }
    Ok(Issuer::new(authority_params().map_err(make)?, key))
}

fn node_key_pair(path: &Path, name: &str) -> Result<KeyPair, TlsError> {
    let text = read_private(path)?;
    let failed = |source| TlsError::NodeKey { path: path.display().to_string(), source };
    let secret = openssh::read_p384(&text).map_err(failed)?;
    let pkcs8 = secret.to_pkcs8_der().map_err(|_| failed(OpensshError::Key))?;
    KeyPair::from_pkcs8_der_and_sign_algo(&PrivatePkcs8KeyDer::from(pkcs8.as_bytes()), &PKCS_ECDSA_P384_SHA384)
        .map_err(|source| TlsError::Make { name: name.to_owned(), source })
}

fn provider() -> Arc<CryptoProvider> {
    Arc::new(rustls::crypto::ring::default_provider())
}

/// Every certificate of a PEM file.
///
/// # Errors
/// See [`TlsError`].
pub fn certificates(path: &Path) -> Result<Vec<CertificateDer<'static>>, TlsError> {
    let shown = path.display().to_string();
    let bytes = read_small(path)?;
    let found = CertificateDer::pem_slice_iter(&bytes).collect::<Result<Vec<_>, _>>();
    let found = found.map_err(|source| TlsError::Pem { path: shown.clone(), source })?;
    if found.is_empty() { Err(TlsError::Empty { path: shown }) } else { Ok(found) }
}

/// For calls to the key service: these authorities and no others.
///
/// # Errors
/// See [`TlsError`].
pub fn client(ca: &Path) -> Result<Arc<ClientConfig>, TlsError> {
    let mut roots = RootCertStore::empty();
    for certificate in certificates(ca)? {
        roots.add(certificate)?;
    }
    let mut config = ClientConfig::builder_with_provider(provider())
        .with_protocol_versions(&[&rustls::version::TLS13])?
        .with_root_certificates(roots)
        .with_no_client_auth();
    config.resumption = rustls::client::Resumption::disabled();
    config.alpn_protocols = vec![b"http/1.1".to_vec()];
    Ok(Arc::new(config))
}

/// Takes any bare P-384 key whose holder signs the handshake with it, and nothing else.
#[derive(Debug)]
struct BootKeys(Arc<CryptoProvider>);

impl ClientCertVerifier for BootKeys {
    fn root_hint_subjects(&self) -> &[Subject] {
        &[]
    }

    fn verify_client_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        _intermediates: &[CertificateDer<'_>],
        _now: UnixTime,
    ) -> Result<ClientCertVerified, rustls::Error> {
        Jkt::of_p384_spki(end_entity).map(|_| ClientCertVerified::assertion()).ok_or_else(|| CertificateError::BadEncoding.into())
    }

    fn verify_tls12_signature(
        &self,
        _message: &[u8],
        _cert: &CertificateDer<'_>,
        _dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        Err(PeerIncompatible::Tls12NotOffered.into())
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        let spki = SubjectPublicKeyInfoDer::from(cert.as_ref());
        verify_tls13_signature_with_raw_key(message, &spki, dss, &self.0.signature_verification_algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        vec![SignatureScheme::ECDSA_NISTP384_SHA384]
    }

    fn requires_raw_public_keys(&self) -> bool {
        true
    }
}

#[cfg(test)]
mod tests {
    use rcgen::PublicKeyData as _;

    use super::*;

    fn folder() -> (tempfile::TempDir, Layout) {
        let dir = tempfile::tempdir().unwrap();
        let layout = Layout::new(dir.path());
        make_authority(&layout, "gate.demo.test").unwrap();
        (dir, layout)
    }

    #[test]
    fn what_is_made_is_usable_private_and_never_resumed() {
        use std::os::unix::fs::PermissionsExt;
        let (_dir, layout) = folder();
        let server = server(&layout, "gate.demo.test", None).unwrap();
        assert_eq!((server.config.send_tls13_tickets, server.config.max_early_data_size), (0, 0));
        assert!(!server.config.session_storage.can_cache());
        assert_eq!(std::fs::metadata(layout.ca_key()).unwrap().permissions().mode() & 0o777, 0o600);
        assert!(client(&layout.ca()).is_ok());
        for name in ["", "a b", "127.0.0.1/x", "é"] {
            let dir = tempfile::tempdir().unwrap();
            let made = make_authority(&Layout::new(dir.path()), name);
            assert!(matches!(made, Err(TlsError::Name { .. })), "{name}: {made:?}");
        }
    }

    #[test]
    fn an_authority_with_anothers_key_is_refused() {
        let ((_one, layout), (_other, other)) = (folder(), folder());
        std::fs::copy(other.ca_key(), layout.ca_key()).unwrap();
        let refused = server(&layout, "gate.demo.test", None).map(|server| server.key);
        assert!(matches!(refused, Err(TlsError::Pair { .. })), "{refused:?}");
    }

    #[test]
    fn only_a_bare_p384_key_is_a_boot_key() {
        let spki = |algorithm| KeyPair::generate_for(algorithm).unwrap().subject_public_key_info();
        let key = spki(&PKCS_ECDSA_P384_SHA384);
        assert_eq!(Jkt::of_p384_spki(&key), Jkt::of_ec_point("P-384", &key[23..]));
        assert!(Jkt::of_p384_spki(&key).is_some());
        assert_eq!(Jkt::of_p384_spki(&spki(&PKCS_ECDSA_P256_SHA256)), None);
        assert_eq!(Jkt::of_p384_spki(&spki(&rcgen::PKCS_ED25519)), None);
        assert_eq!(Jkt::of_p384_spki(&key[..key.len() - 1]), None);
        assert_eq!(Jkt::of_p384_spki(&[key.as_slice(), &[0]].concat()), None);
        assert_eq!(Jkt::of_p384_spki(&[]), None);
    }
}
