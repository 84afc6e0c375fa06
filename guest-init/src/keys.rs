//! The keys of this boot: made once, before the first handshake, from the kernel's random numbers; never stored, never sent. Every
//! report of this boot binds their public halves (DESIGN, REPORT_DATA), so whatever a token carries as `cnf` or `node_jkt` is a key of
//! this very boot.

use std::fmt;

use coffer_manifest::{Role, SiteConfig};
use coffer_protocol::{JwkError, KeySet, P384Key};
use p384::SecretKey;
use p384::elliptic_curve::sec1::ToSec1Point as _;
use p384::pkcs8::{EncodePrivateKey as _, SecretDocument};
use rustix::rand::{GetRandomFlags, getrandom};
use zeroize::Zeroizing;

/// How often a scalar is drawn: random bytes are none once in 2^192 draws, so a second in vain is a broken source.
const DRAWS: usize = 2;

/// This boot has no keys.
#[derive(Debug, thiserror::Error)]
pub enum KeysError {
    /// getrandom(2) does not give what was asked for.
    #[error("the kernel gives no random numbers")]
    Random,
    /// Random bytes are no scalar, or a key does not encode.
    #[error("P-384 key generation failed")]
    Generate,
    /// The public half is malformed.
    #[error(transparent)]
    Public(#[from] JwkError),
}

/// The keys of one boot.
#[derive(Debug)]
pub struct BootKeys {
    /// Authenticates this boot's connections to the gate.
    pub tls: TlsKey,
    /// The workload's identity towards its SuperLink or, as a gate, towards sites; see [`has_node`].
    pub node: NodeSecret,
}

impl BootKeys {
    /// Draws both.
    ///
    /// # Errors
    /// See [`KeysError`].
    pub fn generate() -> Result<Self, KeysError> {
        let (tls, public) = draw()?;
        let pkcs8 = tls.to_pkcs8_der().map_err(|_| KeysError::Generate)?;
        let tls = TlsKey { pkcs8, public };
        let (node, public) = draw()?;
        let scalar = Zeroizing::new(node.to_bytes().into());
        Ok(Self { tls, node: NodeSecret { scalar, public } })
    }

    /// The public halves that this site's reports bind.
    #[must_use]
    pub fn bound(&self, site: &SiteConfig) -> KeySet {
        KeySet { tls: self.tls.public.clone(), node: has_node(site).then(|| self.node.public.clone()), wg: None }
    }
}

/// Whether the workload has a node key: where a gate admits it by that key, and where it is itself the gate, whose certificate is over
/// that key. Nobody else would ask for it.
#[must_use]
pub fn has_node(site: &SiteConfig) -> bool {
    site.gate.is_some() || site.role == Role::Superlink
}

/// The key of this boot's TLS connections.
pub struct TlsKey {
    pkcs8: SecretDocument,
    public: P384Key,
}

impl TlsKey {
    /// The private key as PKCS#8 (RFC 5958) with its public half, DER.
    #[must_use]
    pub fn expose_pkcs8(&self) -> &[u8] {
        self.pkcs8.as_bytes()
    }

    /// The public half.
    #[must_use]
    pub const fn public(&self) -> &P384Key {
        &self.public
    }
}

impl fmt::Debug for TlsKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("TlsKey(<P-384 private key redacted>)")
    }
}

/// The workload's node key.
pub struct NodeSecret {
    scalar: Zeroizing<[u8; 48]>,
    public: P384Key,
}

impl NodeSecret {
    /// The private scalar, 48 bytes, big-endian.
    #[must_use]
    pub fn expose(&self) -> &[u8; 48] {
        &self.scalar
    }

    /// The public half.
    #[must_use]
    pub const fn public(&self) -> &P384Key {
        &self.public
    }
}

impl fmt::Debug for NodeSecret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("NodeSecret(<48 bytes redacted>)")
    }
}

fn draw() -> Result<(SecretKey, P384Key), KeysError> {
    for _ in 0..DRAWS {
        let random: Zeroizing<[u8; 48]> = random()?;
        if let Ok(secret) = SecretKey::from_slice(&*random) {
            let public = P384Key::from_sec1(secret.public_key().to_sec1_point(false).as_bytes())?;
            return Ok((secret, public));
        }
    }
    Err(KeysError::Generate)
}

/// Bytes of the kernel's random numbers, at most 256: what one call gives whole.
///
/// # Errors
/// [`KeysError::Random`].
pub fn random<const N: usize>() -> Result<Zeroizing<[u8; N]>, KeysError> {
    let mut bytes = Zeroizing::new([0; N]);
    match getrandom(&mut *bytes, GetRandomFlags::empty()) {
        Ok(got) if got == N => Ok(bytes),
        _ => Err(KeysError::Random),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use ring::rand::SystemRandom;
    use ring::signature::{ECDSA_P384_SHA384_ASN1_SIGNING, EcdsaKeyPair, KeyPair as _};

    #[test]
    fn a_boot_has_keys_of_its_own() {
        let (one, other) = (BootKeys::generate().expect("keys"), BootKeys::generate().expect("keys"));
        assert_ne!(one.tls.public(), other.tls.public());
        assert_ne!(one.node.public(), other.node.public());
        assert_ne!(one.tls.public(), one.node.public());
    }

    #[test]
    fn private_and_public_halves_belong_together() {
        let keys = BootKeys::generate().expect("keys");
        let tls = EcdsaKeyPair::from_pkcs8(&ECDSA_P384_SHA384_ASN1_SIGNING, keys.tls.expose_pkcs8(), &SystemRandom::new()).expect("taken");
        assert_eq!(tls.public_key().as_ref(), keys.tls.public().to_sec1());
        let node = SecretKey::from_slice(keys.node.expose()).expect("a scalar").public_key();
        assert_eq!(node.to_sec1_point(false).as_bytes(), keys.node.public().to_sec1());
    }

    #[test]
    fn a_node_key_is_bound_where_there_is_a_gate_or_in_the_gate_itself() {
        let keys = BootKeys::generate().expect("keys");
        let mut site = crate::workload::tests::site("amd-sev-snp");
        let bound = keys.bound(&site);
        assert_eq!((&bound.tls, bound.node), (keys.tls.public(), None));
        site.gate = Some(crate::workload::tests::gate());
        assert_eq!(keys.bound(&site).node.as_ref(), Some(keys.node.public()));
        (site.gate, site.role) = (None, Role::Superlink);
        assert_eq!(keys.bound(&site).node.as_ref(), Some(keys.node.public()));
        site.role = Role::Server;
        assert_eq!(keys.bound(&site).node, None);
    }

    #[test]
    fn secrets_are_not_printed() {
        let keys = BootKeys::generate().expect("keys");
        let shown = format!("{keys:?}");
        assert_eq!(shown, "BootKeys { tls: TlsKey(<P-384 private key redacted>), node: NodeSecret(<48 bytes redacted>) }");
    }
}
