//! The kit: a tar sealed with AES-256-GCM under its own key.
//!
//! Sealed form: 12-byte nonce ‖ ciphertext ‖ 16-byte tag. Associated data: `coffer/kit/v1` ‖ the 16 bytes of disk_uuid.

use std::fmt;

use aes_gcm::aead::{Aead, KeyInit, Payload};
use aes_gcm::{Aes256Gcm, Key, Nonce};
use zeroize::{ZeroizeOnDrop, Zeroizing};

use crate::disk::DiskUuid;
use crate::names::Sha256Digest;

const NONCE_BYTES: usize = 12;
const CONTEXT: &[u8] = b"coffer/kit/v1";

/// The key of one kit. New for each build.
#[derive(ZeroizeOnDrop)]
pub struct KitKey([u8; Self::LEN]);

impl KitKey {
    /// Length in bytes.
    pub const LEN: usize = 32;

    /// Wraps 32 random bytes.
    #[must_use]
    pub const fn new(bytes: [u8; Self::LEN]) -> Self {
        Self(bytes)
    }

    /// The key itself, for transport inside an encrypted envelope.
    #[must_use]
    pub const fn expose(&self) -> &[u8; Self::LEN] {
        &self.0
    }
}

impl fmt::Debug for KitKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("KitKey(<32 bytes redacted>)")
    }
}

/// A sealed kit, as it lies on the disk.
pub struct SealedKit {
    /// Nonce, ciphertext, tag.
    pub bytes: Vec<u8>,
    /// SHA-256 of `bytes`, for the site config.
    pub digest: Sha256Digest,
}

/// A kit does not seal or open.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum KitSealError {
    /// Too large for AES-GCM.
    #[error("kit of {got} bytes is too large to seal")]
    TooLarge {
        /// Size of the plain tar in bytes.
        got: usize,
    },
    /// The sealed bytes are not those the site config names.
    #[error("sealed kit has digest {got}, the site config says {expected}")]
    Digest {
        /// Digest of the bytes read.
        got: Sha256Digest,
        /// Digest in the site config.
        expected: Sha256Digest,
    },
    /// Wrong key, wrong disk or damaged bytes.
    #[error("sealed kit of {size} bytes does not open with this key on this disk")]
    Open {
        /// Sealed size in bytes.
        size: usize,
    },
}

fn associated_data(uuid: &DiskUuid) -> Vec<u8> {
    [CONTEXT, uuid.as_bytes()].concat()
}

/// Seals `tar` under `key` for one disk; `nonce` must be new for each call with the same key.
///
/// # Errors
/// [`KitSealError::TooLarge`] past AES-GCM's limit of 64 GiB.
pub fn seal_kit(key: &KitKey, uuid: &DiskUuid, nonce: [u8; NONCE_BYTES], tar: &[u8]) -> Result<SealedKit, KitSealError> {
    let cipher = Aes256Gcm::new(&Key::<Aes256Gcm>::from(*key.expose()));
    let aad = associated_data(uuid);
    let sealed =
        cipher.encrypt(&Nonce::from(nonce), Payload { msg: tar, aad: &aad }).map_err(|_| KitSealError::TooLarge { got: tar.len() })?;
    let bytes = [&nonce[..], &sealed].concat();
    let digest = Sha256Digest::of(&bytes);
    Ok(SealedKit { bytes, digest })
}

/// Checks the digest, then opens the kit.
///
/// # Errors
/// [`KitSealError::Digest`] before any decryption, [`KitSealError::Open`] if the tag does not hold.
pub fn open_kit(key: &KitKey, uuid: &DiskUuid, expected: &Sha256Digest, sealed: &[u8]) -> Result<Zeroizing<Vec<u8>>, KitSealError> {
    let got = Sha256Digest::of(sealed);
    if got != *expected {
        return Err(KitSealError::Digest { got, expected: *expected });
    }
    let refuse = KitSealError::Open { size: sealed.len() };
    let Some((nonce, ciphertext)) = sealed.split_first_chunk::<NONCE_BYTES>() else {
        return Err(refuse);
    };
    let cipher = Aes256Gcm::new(&Key::<Aes256Gcm>::from(*key.expose()));
    let aad = associated_data(uuid);
    cipher.decrypt(&Nonce::from(*nonce), Payload { msg: ciphertext, aad: &aad }).map(Zeroizing::new).map_err(|_| refuse)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn opens_only_on_its_own_disk_with_its_own_key() {
        let uuid = DiskUuid::from_random([1; 16]);
        let key = KitKey::new([2; 32]);
        let kit = seal_kit(&key, &uuid, [3; 12], b"tar").expect("small");
        assert_eq!(open_kit(&key, &uuid, &kit.digest, &kit.bytes).expect("opens").as_slice(), b"tar");
        let other_disk = DiskUuid::from_random([9; 16]);
        assert!(matches!(open_kit(&key, &other_disk, &kit.digest, &kit.bytes), Err(KitSealError::Open { .. })));
        assert!(matches!(open_kit(&KitKey::new([4; 32]), &uuid, &kit.digest, &kit.bytes), Err(KitSealError::Open { .. })));
        let mut flipped = kit.bytes.clone();
        flipped[14] ^= 1;
        assert!(matches!(open_kit(&key, &uuid, &kit.digest, &flipped), Err(KitSealError::Digest { .. })));
        assert!(open_kit(&key, &uuid, &Sha256Digest::of(b""), b"").is_err());
    }
}
