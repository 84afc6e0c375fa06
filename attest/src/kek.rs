//! Sealing at rest: AES-256-GCM envelopes under a key-encryption key that lives in one file.
//!
//! Envelope, version 1: `01` ‖ 12-byte nonce ‖ wrapped data key (32 + 16 tag) ‖ 12-byte nonce ‖ ciphertext ‖ 16-byte tag.
//! Both layers carry the same associated data: context ‖ 0 ‖ name ‖ 0 ‖ version as u64 big-endian. A data key seals once.

use std::fmt;
use std::path::Path;

use aes_gcm::aead::{Aead, KeyInit, Payload};
use aes_gcm::{Aes256Gcm, Key, Nonce};
use zeroize::{ZeroizeOnDrop, Zeroizing};

use crate::layout::{LayoutError, read_private};

const NONCE_BYTES: usize = 12;
const TAG_BYTES: usize = 16;
const VERSION: u8 = 1;
const CONTEXT: &[u8] = b"coffer/at-rest/v1";

/// Why an envelope does not seal or open.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum SealError {
    /// The key file holds something else than 32 bytes.
    #[error("key file {path} holds {got} bytes, expected {}", Kek::LEN)]
    KeyLength {
        /// The file.
        path: String,
        /// Its size in bytes.
        got: usize,
    },
    /// The key file cannot be read, or others may read it.
    #[error(transparent)]
    KeyFile(#[from] LayoutError),
    /// Wrong key, wrong name or damaged bytes.
    #[error("sealed `{name}` version {version} does not open under this key file")]
    Open {
        /// What was sealed.
        name: String,
        /// Its version.
        version: u64,
    },
    /// The cipher refuses, which it does only past 64 GiB.
    #[error("`{name}` of {bytes} bytes cannot be sealed")]
    Seal {
        /// What was to be sealed.
        name: String,
        /// Its size in bytes.
        bytes: usize,
    },
    /// The operating system gives no random bytes.
    #[error("no random bytes from the operating system: {0}")]
    Random(String),
}

/// `N` bytes from the operating system's generator.
///
/// # Errors
/// [`SealError::Random`] if there is none.
pub fn random<const N: usize>() -> Result<[u8; N], SealError> {
    let mut bytes = [0; N];
    getrandom::fill(&mut bytes).map_err(|e| SealError::Random(e.to_string()))?;
    Ok(bytes)
}

/// The key-encryption key: 32 raw bytes in a file of mode 0600.
#[derive(ZeroizeOnDrop)]
pub struct Kek([u8; Self::LEN]);

impl fmt::Debug for Kek {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Kek(<32 bytes redacted>)")
    }
}

impl Kek {
    /// Length in bytes.
    pub const LEN: usize = 32;

    /// Makes a new key.
    ///
    /// # Errors
    /// See [`random`].
    pub fn generate() -> Result<Self, SealError> {
        random().map(Self)
    }

    /// Reads a key file that nobody but its owner may read.
    ///
    /// # Errors
    /// See [`SealError`].
    pub fn read(path: &Path) -> Result<Self, SealError> {
        let bytes = read_private(path)?;
        let got = bytes.len();
        <[u8; Self::LEN]>::try_from(bytes.as_slice()).map(Self).map_err(|_| SealError::KeyLength { path: path.display().to_string(), got })
    }

    /// The key itself, for its file.
    #[must_use]
    pub const fn expose(&self) -> &[u8; Self::LEN] {
        &self.0
    }

    /// Seals `plain` for one name and version.
    ///
    /// # Errors
    /// See [`SealError`].
    pub fn seal(&self, name: &str, version: u64, plain: &[u8]) -> Result<Vec<u8>, SealError> {
        let aad = associated_data(name, version);
        let refuse = || SealError::Seal { name: name.to_owned(), bytes: plain.len() };
        let data_key = Zeroizing::new(random::<{ Self::LEN }>()?);
        let (outer, inner) = (random::<NONCE_BYTES>()?, random::<NONCE_BYTES>()?);
        let mut out = vec![VERSION];
        out.extend_from_slice(&outer);
        out.extend(gcm_seal(&self.0, outer, data_key.as_slice(), &aad).ok_or_else(refuse)?);
        out.extend_from_slice(&inner);
        out.extend(gcm_seal(&data_key, inner, plain, &aad).ok_or_else(refuse)?);
        Ok(out)
    }

    /// Opens what [`Self::seal`] made for the same name and version.
    ///
    /// # Errors
    /// [`SealError::Open`] for anything else.
    pub fn open(&self, name: &str, version: u64, sealed: &[u8]) -> Result<Zeroizing<Vec<u8>>, SealError> {
        self.try_open(name, version, sealed).ok_or_else(|| SealError::Open { name: name.to_owned(), version })
    }

    fn try_open(&self, name: &str, version: u64, sealed: &[u8]) -> Option<Zeroizing<Vec<u8>>> {
        let aad = associated_data(name, version);
        let (&format, rest) = sealed.split_first()?;
        if format != VERSION {
            return None;
        }
        let (outer, rest) = rest.split_first_chunk::<NONCE_BYTES>()?;
        let (wrapped, rest) = rest.split_first_chunk::<{ Self::LEN + TAG_BYTES }>()?;
        let (inner, body) = rest.split_first_chunk::<NONCE_BYTES>()?;
        let data_key = gcm_open(&self.0, *outer, wrapped, &aad)?;
        let data_key = Zeroizing::new(<[u8; Self::LEN]>::try_from(data_key.as_slice()).ok()?);
        gcm_open(&data_key, *inner, body, &aad)
    }
}

/// AES-256-GCM; `nonce` must be new for each call with the same key.
#[must_use]
pub fn gcm_seal(key: &[u8; 32], nonce: [u8; NONCE_BYTES], plain: &[u8], aad: &[u8]) -> Option<Vec<u8>> {
    Aes256Gcm::new(&Key::<Aes256Gcm>::from(*key)).encrypt(&Nonce::from(nonce), Payload { msg: plain, aad }).ok()
}

/// Opens what [`gcm_seal`] made.
#[must_use]
pub fn gcm_open(key: &[u8; 32], nonce: [u8; NONCE_BYTES], sealed: &[u8], aad: &[u8]) -> Option<Zeroizing<Vec<u8>>> {
    Aes256Gcm::new(&Key::<Aes256Gcm>::from(*key)).decrypt(&Nonce::from(nonce), Payload { msg: sealed, aad }).ok().map(Zeroizing::new)
}

fn associated_data(name: &str, version: u64) -> Vec<u8> {
    [CONTEXT, b"\0", name.as_bytes(), b"\0", &version.to_be_bytes()].concat()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn an_envelope_opens_only_under_its_key_name_and_version() {
        let kek = Kek([7; 32]);
        let sealed = kek.seal("demo/site-1/00", 1, b"secret").unwrap();
        assert_eq!(kek.open("demo/site-1/00", 1, &sealed).unwrap().as_slice(), b"secret");
        for refused in [
            kek.open("demo/site-2/00", 1, &sealed),
            kek.open("demo/site-1/00", 2, &sealed),
            Kek([8; 32]).open("demo/site-1/00", 1, &sealed),
        ] {
            assert!(matches!(refused, Err(SealError::Open { .. })), "{refused:?}");
        }
    }

    #[test]
    fn every_changed_byte_of_an_envelope_is_noticed() {
        let kek = Kek([7; 32]);
        let sealed = kek.seal("n", 1, b"secret").unwrap();
        for at in 0..sealed.len() {
            let mut changed = sealed.clone();
            changed[at] ^= 1;
            assert!(kek.open("n", 1, &changed).is_err(), "byte {at}");
        }
    }

    #[test]
    fn the_key_is_not_shown() {
        assert!(!format!("{:?}", Kek([0x5a; 32])).contains("5a"));
    }

    proptest! {
        #[test]
        fn opening_never_panics(bytes: Vec<u8>) {
            let _ = Kek([7; 32]).open("n", 1, &bytes);
        }
    }
}
