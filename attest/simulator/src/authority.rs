//! The keys that sign certificates: ARK and ASK.

use std::fmt;

use coffer_evidence::{Family, UnixTime};
use ring::rand::{SecureRandom, SystemRandom};
use ring::rsa::KeyPair;
use rsa::pkcs8::EncodePrivateKey;
use rsa::rand_core::{TryCryptoRng, TryRng, UnwrapErr};
use zeroize::Zeroizing;

use crate::x509::{Template, ca_extensions, rsa_public_key};

/// AMD's ARKs and ASKs are RSA keys of this many bits.
const RSA_BITS: usize = 4096;

/// Seconds AMD's ARKs and ASKs live: 25 years.
const CA_LIFETIME: u64 = 25 * 365 * 86_400;

/// How far back a new certificate is valid: clocks of guests and verifiers differ.
pub(crate) const BACKDATED: u64 = 86_400;

/// A key could not be made, read or used.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum KeyError {
    /// RSA key generation failed.
    #[error("cannot generate an RSA key of {RSA_BITS} bits")]
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
    key: KeyPair,
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
            let other = scope.spawn(rsa_key);
            let ask = rsa_key();
            // A panic in the thread is a panic here.
            (other.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic)), ask)
        });
        let (ark_key, ask_key) = (load(&ark_key?)?, load(&ask_key?)?);
        let (ark_name, ask_name) = (format!("ARK-{}", family.amd_name()), format!("SEV-{}", family.amd_name()));
        let certificate = |serial, subject: &str, key: &KeyPair| {
            let template = Template {
                serial,
                issuer: &ark_name,
                subject,
                not_before: UnixTime(now.0.saturating_sub(BACKDATED)),
                not_after: UnixTime(now.0.saturating_add(CA_LIFETIME)),
                public_key: rsa_public_key(key.public().as_ref()),
                extensions: ca_extensions(),
            };
            template.sign(&ark_key)
        };
        let (ark_certificate, ask_certificate) = (certificate(1, &ark_name, &ark_key)?, certificate(2, &ask_name, &ask_key)?);
        let ark = Authority { common_name: ark_name, certificate: ark_certificate, key: ark_key };
        let ask = Authority { common_name: ask_name, certificate: ask_certificate, key: ask_key };
        Ok(Self { family, ark, ask })
    }
}

fn rsa_key() -> Result<Zeroizing<Vec<u8>>, KeyError> {
    let mut random = UnwrapErr(SystemRng(SystemRandom::new()));
    let key = rsa::RsaPrivateKey::new(&mut random, RSA_BITS).map_err(KeyError::Generate)?;
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
