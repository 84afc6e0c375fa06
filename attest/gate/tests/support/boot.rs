//! One boot of a site, as a gate sees it: the key its tokens are bound to, and who it says it is.

use std::sync::Arc;

use coffer_token::lease::NodeKey;
use coffer_token::{Hex, Jkt};
use rcgen::PublicKeyData;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer};
use rustls::sign::CertifiedKey;

/// A P-384 key made for one boot.
#[derive(Clone)]
pub struct BootKey {
    /// What TLS signs with; its "certificate" is the bare SubjectPublicKeyInfo (RFC 7250).
    pub raw: Arc<CertifiedKey>,
    /// The uncompressed point.
    pub sec1: [u8; 97],
}

impl BootKey {
    pub fn generate() -> Self {
        Self::of(&rcgen::PKCS_ECDSA_P384_SHA384)
    }

    /// A key of another kind than guests have. Its point is all zeros.
    pub fn of(algorithm: &'static rcgen::SignatureAlgorithm) -> Self {
        let pair = rcgen::KeyPair::generate_for(algorithm).unwrap();
        let spki = pair.subject_public_key_info();
        let pkcs8 = PrivateKeyDer::Pkcs8(PrivatePkcs8KeyDer::from(pair.serialize_der()));
        let key = rustls::crypto::ring::sign::any_supported_type(&pkcs8).unwrap();
        let raw = Arc::new(CertifiedKey::new(vec![CertificateDer::from(spki)], key));
        let sec1 = pair.der_bytes().try_into().unwrap_or([0; 97]);
        Self { raw, sec1 }
    }

    /// What tokens of this boot have as `cnf.jkt`.
    pub fn jkt(&self) -> Jkt {
        Jkt::of_ec_point("P-384", &self.sec1).unwrap()
    }

    /// As a node key, for tests that need any.
    pub fn as_node(&self) -> NodeKey {
        NodeKey::from_sec1(&self.sec1).unwrap()
    }
}

/// A boot of a site config.
#[derive(Clone)]
pub struct Boot {
    pub site: String,
    pub host_data: Hex<32>,
    /// The report's REPORT_ID.
    pub instance: Hex<32>,
    pub key: BootKey,
    /// The workload's node key, where its site has one.
    pub node: Option<NodeKey>,
}

impl Boot {
    /// The first boot of `site`, whose HOST_DATA nobody needs to see.
    pub fn of(site: &str) -> Self {
        let mut host_data = [0x5A; 32];
        for (byte, letter) in host_data.iter_mut().zip(site.bytes()) {
            *byte = letter;
        }
        Self { site: site.to_owned(), host_data: Hex(host_data), instance: Hex(super::random()), key: BootKey::generate(), node: None }
    }

    /// The same site config booted once more: another REPORT_ID, another key.
    pub fn again(&self) -> Self {
        Self { instance: Hex(super::random()), key: BootKey::generate(), ..self.clone() }
    }
}
