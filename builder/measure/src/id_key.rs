//! ID and author keys: ECDSA P-384, in the form firmware reads.

use core::fmt;

use coffer_evidence::KeyDigest;
use hkdf::Hkdf;
use p384::ecdsa::signature::{Signer as _, Verifier as _};
use p384::ecdsa::{Signature, SigningKey, VerifyingKey};
use p384::pkcs8::{DecodePrivateKey as _, EncodePrivateKey as _, LineEnding};
use sha2::{Digest as _, Sha384, Sha512};
use zeroize::Zeroizing;

/// Bytes of a P-384 coordinate or scalar.
const WORD: usize = 48;
/// Bytes firmware keeps for one: room for P-521, little-endian, the rest zero.
const FIELD: usize = 72;
/// CURVE of P-384 (AMD 56860, table "Encodings for ECC Curves").
const CURVE_P384: u32 = 2;
/// What an ID key's derivation is bound to, before the project's name.
const ID_KEY_INFO: &[u8] = b"coffer/id-key/v1/";

/// Bytes or text that are no key of this kind.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum IdKeyError {
    /// Not a PKCS #8 PEM file with a P-384 private key. Does not repeat the text.
    #[error("not a PKCS #8 PEM file with a P-384 private key")]
    Pem,
    /// Not a scalar of P-384: zero, or too large. Once in 2^190 random draws.
    #[error("the bytes are no P-384 private key")]
    Scalar,
    /// Another length than [`IdPublicKey::LEN`].
    #[error("public key is {got} bytes long, expected {}", IdPublicKey::LEN)]
    Length {
        /// How many bytes were given.
        got: usize,
    },
    /// Another curve than P-384.
    #[error("public key has curve {got}, expected {CURVE_P384} (P-384)")]
    Curve {
        /// The CURVE field.
        got: u32,
    },
    /// A byte that must be zero.
    #[error("public key has {got:#04x} in the reserved byte at {at:#x}, expected 0")]
    Reserved {
        /// Offset.
        at: usize,
        /// The byte.
        got: u8,
    },
    /// QX and QY are no point of the curve.
    #[error("public key is not a point of P-384")]
    Point,
}

/// A private ID or author key. Zeroized on drop.
pub struct IdPrivateKey(SigningKey);

impl IdPrivateKey {
    /// Makes a key of 48 random bytes, or takes one's scalar, big-endian.
    ///
    /// # Errors
    /// [`IdKeyError::Scalar`].
    pub fn from_scalar(random: &[u8; WORD]) -> Result<Self, IdKeyError> {
        SigningKey::from_slice(random).map(Self).map_err(|_| IdKeyError::Scalar)
    }

    /// Reads a PKCS #8 PEM file (`-----BEGIN PRIVATE KEY-----`).
    ///
    /// # Errors
    /// [`IdKeyError::Pem`].
    pub fn from_pem(pem: &str) -> Result<Self, IdKeyError> {
        SigningKey::from_pkcs8_pem(pem).map(Self).map_err(|_| IdKeyError::Pem)
    }

    /// The PKCS #8 PEM form, for a 0600 file.
    ///
    /// # Errors
    /// [`IdKeyError::Pem`] never in practice: a key always encodes.
    pub fn expose_pem(&self) -> Result<Zeroizing<String>, IdKeyError> {
        self.0.to_pkcs8_pem(LineEnding::LF).map_err(|_| IdKeyError::Pem)
    }

    /// The ID key of a project: the same for the same author key and name, so that a build can be repeated and a policy can
    /// name it; without the author key nobody can tell it from a random one.
    ///
    /// HKDF-SHA-512 of this key's scalar, no salt, info `coffer/id-key/v1/<project>`, 48 bytes.
    ///
    /// # Errors
    /// [`IdKeyError::Scalar`], for one project name in 2^190.
    pub fn id_key_of(&self, project: &str) -> Result<Self, IdKeyError> {
        let own = Zeroizing::new(<[u8; WORD]>::from(self.0.to_bytes()));
        let mut scalar = Zeroizing::new([0; WORD]);
        let info = [ID_KEY_INFO, project.as_bytes()];
        Hkdf::<Sha512>::new(None, &own[..]).expand_multi_info(&info, &mut scalar[..]).map_err(|_| IdKeyError::Scalar)?;
        Self::from_scalar(&scalar)
    }

    /// The public half.
    #[must_use]
    pub fn public(&self) -> IdPublicKey {
        IdPublicKey(*self.0.verifying_key())
    }

    /// ECDSA with SHA-384, deterministic (RFC 6979), as firmware reads it.
    pub(crate) fn sign(&self, message: &[u8]) -> [u8; SIGNATURE_LEN] {
        let signature: Signature = self.0.sign(message);
        let big_endian = signature.to_bytes();
        let mut bytes = [0; SIGNATURE_LEN];
        put(&mut bytes[..FIELD], &big_endian[..WORD]);
        put(&mut bytes[FIELD..2 * FIELD], &big_endian[WORD..]);
        bytes
    }
}

impl fmt::Debug for IdPrivateKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "IdPrivateKey(<of {}, private key redacted>)", self.public().digest())
    }
}

/// A public ID or author key.
///
/// 0x404 bytes: CURVE, u32; QX and QY, 72 bytes each, little-endian; the rest zero.
/// Source: AMD 56860, table "Format for an ECDSA P-384 Public Key".
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct IdPublicKey(VerifyingKey);

impl IdPublicKey {
    /// Length in bytes.
    pub const LEN: usize = 0x404;

    /// The bytes firmware reads; what [`Self::digest`] hashes and the author key signs.
    #[must_use]
    pub fn to_bytes(&self) -> [u8; Self::LEN] {
        let point = self.0.to_sec1_point(false);
        let mut bytes = [0; Self::LEN];
        bytes[..4].copy_from_slice(&CURVE_P384.to_le_bytes());
        // Uncompressed: 0x04, then both coordinates, big-endian.
        let coordinates = &point.as_bytes()[1..];
        put(&mut bytes[4..4 + FIELD], &coordinates[..WORD]);
        put(&mut bytes[4 + FIELD..4 + 2 * FIELD], &coordinates[WORD..]);
        bytes
    }

    /// Reads the bytes.
    ///
    /// # Errors
    /// See [`IdKeyError`]. Total: any input gives a key or an error.
    pub fn parse(bytes: &[u8]) -> Result<Self, IdKeyError> {
        let bytes: &[u8; Self::LEN] = bytes.try_into().map_err(|_| IdKeyError::Length { got: bytes.len() })?;
        let curve = u32::from_le_bytes(core::array::from_fn(|i| bytes[i]));
        if curve != CURVE_P384 {
            return Err(IdKeyError::Curve { got: curve });
        }
        let mut point = [4; 1 + 2 * WORD];
        let (x, y) = (take(bytes, 4), take(bytes, 4 + FIELD));
        point[1..=WORD].copy_from_slice(&x.map_err(reserved)?);
        point[1 + WORD..].copy_from_slice(&y.map_err(reserved)?);
        if let Some(at) = (4 + 2 * FIELD..Self::LEN).find(|at| bytes[*at] != 0) {
            return Err(IdKeyError::Reserved { at, got: bytes[at] });
        }
        VerifyingKey::from_sec1_bytes(&point).map(Self).map_err(|_| IdKeyError::Point)
    }

    /// SHA-384 of the bytes: ID_KEY_DIGEST or AUTHOR_KEY_DIGEST of reports.
    #[must_use]
    pub fn digest(&self) -> KeyDigest {
        KeyDigest::new(Sha384::digest(self.to_bytes()).into())
    }

    /// Whether `signature`, as firmware reads it, is this key's over `message`.
    pub(crate) fn verifies(&self, message: &[u8], signature: &[u8; SIGNATURE_LEN]) -> Result<(), SignatureFault> {
        let (r, s) = (take(signature, 0), take(signature, FIELD));
        let both = [r.map_err(SignatureFault::Reserved)?, s.map_err(SignatureFault::Reserved)?].concat();
        if let Some(at) = (2 * FIELD..SIGNATURE_LEN).find(|at| signature[*at] != 0) {
            return Err(SignatureFault::Reserved((at, signature[at])));
        }
        let signature = Signature::from_slice(&both).map_err(|_| SignatureFault::Wrong)?;
        self.0.verify(message, &signature).map_err(|_| SignatureFault::Wrong)
    }
}

/// A signature: R and S, 72 bytes each, little-endian, the rest zero.
///
/// Source: AMD 56860, table "Format for an ECDSA P-384 Signature".
pub(crate) const SIGNATURE_LEN: usize = 0x200;

/// Why a signature does not hold.
#[derive(Debug)]
pub(crate) enum SignatureFault {
    /// Somebody else's, over something else, or of no number of the curve.
    Wrong,
    /// (offset, value) of a byte that must be zero.
    Reserved((usize, u8)),
}

fn reserved((at, got): (usize, u8)) -> IdKeyError {
    IdKeyError::Reserved { at, got }
}

/// Writes a big-endian word little-endian; the rest of the field stays zero.
fn put(field: &mut [u8], big_endian: &[u8]) {
    field.iter_mut().zip(big_endian.iter().rev()).for_each(|(to, from)| *to = *from);
}

/// Reads the little-endian field at `at` as a big-endian word, or says which of its upper bytes is not zero.
fn take(bytes: &[u8], at: usize) -> Result<[u8; WORD], (usize, u8)> {
    match (at + WORD..at + FIELD).find(|at| bytes[*at] != 0) {
        Some(at) => Err((at, bytes[at])),
        None => Ok(core::array::from_fn(|i| bytes[at + WORD - 1 - i])),
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::{any, prop_assert, prop_assert_eq, proptest};

    use super::*;

    fn key(byte: u8) -> IdPrivateKey {
        IdPrivateKey::from_scalar(&[byte; 48]).expect("a scalar")
    }

    #[test]
    fn keys_come_back_from_their_files_and_say_nothing() {
        let (key, other) = (key(7), key(8));
        let pem = key.expose_pem().expect("encodes");
        assert!(pem.starts_with("-----BEGIN PRIVATE KEY-----\n"), "PKCS #8");
        assert_eq!(IdPrivateKey::from_pem(&pem).expect("reads").public(), key.public());
        assert_ne!(other.public().digest(), key.public().digest());
        for bad in ["", "x", &pem.replace("PRIVATE", "PUBLIC"), &pem[..pem.len() / 2]] {
            assert_eq!(IdPrivateKey::from_pem(bad).err(), Some(IdKeyError::Pem));
        }
        let shown = format!("{key:?}");
        assert!(shown.contains("redacted") && !shown.contains("0707"), "{shown}");
        assert_eq!(IdPrivateKey::from_scalar(&[0; 48]).err(), Some(IdKeyError::Scalar));
        assert_eq!(IdPrivateKey::from_scalar(&[0xff; 48]).err(), Some(IdKeyError::Scalar));
    }

    #[test]
    fn a_projects_id_key_is_its_own_and_always_the_same() {
        let digest = |author: u8, project| key(author).id_key_of(project).expect("a scalar").public().digest();
        assert_eq!(digest(7, "demo"), digest(7, "demo"));
        assert_ne!(digest(7, "demo"), digest(7, "demo2"));
        assert_ne!(digest(7, "demo"), digest(8, "demo"));
        assert_ne!(digest(7, "demo"), key(7).public().digest());
        // Python: hmac twice for HKDF-SHA-512, cryptography for the point. Must never change: policies name it.
        assert_eq!(digest(7, "demo").to_string(), include_str!("../tests/golden/id-key-of-demo.txt").trim());
    }

    #[test]
    fn other_public_keys_are_refused_by_name() {
        let good = key(7).public().to_bytes();
        assert_eq!(IdPublicKey::parse(&good), Ok(key(7).public()));
        let with = |at: usize, byte: u8| {
            let mut bytes = good;
            bytes[at] = byte;
            IdPublicKey::parse(&bytes)
        };
        assert_eq!(with(0, 1), Err(IdKeyError::Curve { got: 1 }));
        for at in [4 + 48, 4 + 71, 0x4C + 48, 0x4C + 71, 0x94, 0x403] {
            assert_eq!(with(at, 3), Err(IdKeyError::Reserved { at, got: 3 }), "{at:#x}");
        }
        assert_eq!(with(4, good[4] ^ 1), Err(IdKeyError::Point));
        assert_eq!(IdPublicKey::parse(&good[1..]), Err(IdKeyError::Length { got: 0x403 }));
    }

    proptest! {
        #[test]
        fn reading_is_total(bytes: Vec<u8>, changed in any::<proptest::sample::Index>(), byte: u8) {
            let _ = IdPublicKey::parse(&bytes);
            let mut key = key(9).public().to_bytes();
            key[changed.index(key.len())] = byte;
            if let Ok(read) = IdPublicKey::parse(&key) {
                prop_assert_eq!(read.to_bytes(), key);
            }
        }

        #[test]
        fn signatures_hold_for_one_message_and_one_key(message: Vec<u8>, other: Vec<u8>) {
            let signature = key(7).sign(&message);
            prop_assert!(key(7).public().verifies(&message, &signature).is_ok());
            prop_assert_eq!(key(7).sign(&message), signature);
            prop_assert!(key(8).public().verifies(&message, &signature).is_err());
            prop_assert!(other == message || key(7).public().verifies(&other, &signature).is_err());
        }
    }
}
