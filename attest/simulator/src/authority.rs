//! The keys that sign certificates: ARK and ASK.

use std::fmt;
use std::sync::Arc;

use coffer_evidence::{Family, UnixTime};
use ring::rand::{SecureRandom, SystemRandom};
use ring::rsa::KeyPair;
use rsa::pkcs8::EncodePrivateKey;
use rsa::rand_core::{TryCryptoRng, TryRng, UnwrapErr};
use zeroize::Zeroizing;

use crate::x509::{ORGANISATION, Template, ca_extensions, rsa_public_key};

/// AMD's ARKs and ASKs are RSA keys of this many bits.
const RSA_BITS: usize = 4096;

/// Seconds AMD's ARKs and ASKs live: 25 years.
pub(crate) const CA_LIFETIME: u64 = 25 * 365 * 86_400;

/// Serial numbers, in the manner of AMD's Genoa.
pub(crate) const ARK_SERIAL: u32 = 0x02_0000;
/// Of the intermediate for VCEKs.
pub const ASK_SERIAL: u32 = 0x02_0002;
/// Of the intermediate for VLEKs.
pub const ASVK_SERIAL: u32 = 0x02_0101;

/// How far back a new certificate is valid: clocks of guests and verifiers differ.
pub(crate) const BACKDATED: u64 = 86_400;

/// A key could not be made, read or used.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum KeyError {
    /// RSA key generation failed.
    #[error("cannot generate an RSA key")]
    Generate(#[source] rsa::Error),
    /// A generated key has no PKCS #8 form.
    #[error("cannot encode an RSA key")]
    Encode(#[source] rsa::pkcs8::Error),
    /// PKCS #8 bytes are no key of the kind expected.
    #[error("not a usable {kind} key in PKCS #8: {cause}")]
    Rejected {
        /// `RSA` or `P-384`.
        kind: &'static str,
        /// What ring says.
        cause: ring::error::KeyRejected,
    },
    /// The system's random number generator failed.
    #[error("no random numbers from the system")]
    Random,
    /// Signing failed.
    #[error("cannot sign")]
    Sign,
}

/// A key and the certificate others trust it by.
pub struct Authority {
    common_name: String,
    certificate: Vec<u8>,
    key: Arc<KeyPair>,
}

/// What an authority's certificate is to say. [`AuthoritySpec::named`] is what AMD would say; tests change one thing.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct AuthoritySpec {
    /// Common name, for example `SEV-VLEK-Genoa`.
    pub common_name: String,
    /// Organisation in its name.
    pub organisation: String,
    /// Serial number.
    pub serial: u32,
    /// First second of validity.
    pub not_before: UnixTime,
    /// Last second of validity.
    pub not_after: UnixTime,
    /// Whether it may sign certificates.
    pub signs_certificates: bool,
    /// Whether it may sign revocation lists. Only AMD's roots may.
    pub signs_crls: bool,
}

impl AuthoritySpec {
    /// The certificate of an intermediate of this name, made at `now`.
    #[must_use]
    pub fn named(common_name: &str, serial: u32, now: UnixTime) -> Self {
        Self {
            common_name: common_name.to_owned(),
            organisation: ORGANISATION.to_owned(),
            serial,
            not_before: UnixTime(now.0.saturating_sub(BACKDATED)),
            not_after: UnixTime(now.0.saturating_add(CA_LIFETIME)),
            signs_certificates: true,
            signs_crls: false,
        }
    }
}

impl Authority {
    /// DER of its certificate.
    #[must_use]
    pub fn certificate(&self) -> &[u8] {
        &self.certificate
    }

    /// Its common name, for example `SEV-Genoa`.
    #[must_use]
    pub fn common_name(&self) -> &str {
        &self.common_name
    }

    /// Makes a key of this many bits and certifies it.
    ///
    /// # Errors
    /// See [`KeyError`].
    pub fn certify_new(&self, spec: &AuthoritySpec, bits: usize) -> Result<Self, KeyError> {
        Self::issue(spec, Arc::new(load(&rsa_key(bits)?)?), &self.common_name, &self.key)
    }

    /// Certifies another authority's key once more, so that its certificate says something else.
    ///
    /// # Errors
    /// See [`KeyError`].
    pub fn certify(&self, other: &Self, spec: &AuthoritySpec) -> Result<Self, KeyError> {
        Self::issue(spec, Arc::clone(&other.key), &self.common_name, &self.key)
    }

    fn issue(spec: &AuthoritySpec, key: Arc<KeyPair>, issuer: &str, by: &KeyPair) -> Result<Self, KeyError> {
        let template = Template {
            serial: spec.serial,
            issuer,
            subject: &spec.common_name,
            organisation: &spec.organisation,
            not_before: spec.not_before,
            not_after: spec.not_after,
            public_key: rsa_public_key(key.public().as_ref()),
            extensions: if spec.signs_certificates { ca_extensions(spec.signs_crls) } else { Vec::new() },
        };
        Ok(Self { common_name: spec.common_name.clone(), certificate: template.sign(by)?, key })
    }

    pub(crate) fn key(&self) -> &KeyPair {
        &self.key
    }
}

impl fmt::Debug for Authority {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Authority({}, <key redacted>)", self.common_name)
    }
}

/// ARK and ASK of one processor family.
#[derive(Debug)]
pub struct Hierarchy {
    /// Family in the names.
    pub family: Family,
    /// The self-signed root.
    pub ark: Authority,
    /// The intermediate that signs VCEKs.
    pub ask: Authority,
}

impl Hierarchy {
    /// Makes both keys and certificates. Takes about a second: two RSA keys of 4096 bits, in parallel.
    ///
    /// # Errors
    /// See [`KeyError`].
    pub fn generate(family: Family, now: UnixTime) -> Result<Self, KeyError> {
        let (ark_key, ask_key) = std::thread::scope(|scope| {
            let other = scope.spawn(|| rsa_key(RSA_BITS));
            let ask = rsa_key(RSA_BITS);
            // A panic in the thread is a panic here.
            (other.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic)), ask)
        });
        let (ark_key, ask_key) = (Arc::new(load(&ark_key?)?), Arc::new(load(&ask_key?)?));
        let ark_name = format!("ARK-{}", family.amd_name());
        let root = AuthoritySpec { signs_crls: true, ..AuthoritySpec::named(&ark_name, ARK_SERIAL, now) };
        let ark = Authority::issue(&root, Arc::clone(&ark_key), &ark_name, &ark_key)?;
        let spec = AuthoritySpec::named(&format!("SEV-{}", family.amd_name()), ASK_SERIAL, now);
        let ask = Authority::issue(&spec, ask_key, &ark_name, &ark_key)?;
        Ok(Self { family, ark, ask })
    }

    /// Makes the intermediate that signs VLEKs, and its key. Takes about a second.
    ///
    /// # Errors
    /// See [`KeyError`].
    pub fn asvk(&self, now: UnixTime) -> Result<Authority, KeyError> {
        let spec = AuthoritySpec::named(&format!("SEV-VLEK-{}", self.family.amd_name()), ASVK_SERIAL, now);
        self.ark.certify_new(&spec, RSA_BITS)
    }
}

fn rsa_key(bits: usize) -> Result<Zeroizing<Vec<u8>>, KeyError> {
    let mut random = UnwrapErr(SystemRng(SystemRandom::new()));
    let key = rsa::RsaPrivateKey::new(&mut random, bits).map_err(KeyError::Generate)?;
    let document = key.to_pkcs8_der().map_err(KeyError::Encode)?;
    Ok(document.to_bytes())
}

fn load(pkcs8: &[u8]) -> Result<KeyPair, KeyError> {
    KeyPair::from_pkcs8(pkcs8).map_err(|cause| KeyError::Rejected { kind: "RSA", cause })
}

/// ring's source of random numbers, for the one thing ring does not make.
struct SystemRng(SystemRandom);

impl TryRng for SystemRng {
    type Error = std::io::Error;

    fn try_next_u32(&mut self) -> Result<u32, Self::Error> {
        let mut bytes = [0; 4];
        self.try_fill_bytes(&mut bytes)?;
        Ok(u32::from_le_bytes(bytes))
    }

    fn try_next_u64(&mut self) -> Result<u64, Self::Error> {
        let mut bytes = [0; 8];
        self.try_fill_bytes(&mut bytes)?;
        Ok(u64::from_le_bytes(bytes))
    }

    fn try_fill_bytes(&mut self, bytes: &mut [u8]) -> Result<(), Self::Error> {
        self.0.fill(bytes).map_err(|_| std::io::Error::other("no random numbers from the system"))
    }
}

impl TryCryptoRng for SystemRng {}
