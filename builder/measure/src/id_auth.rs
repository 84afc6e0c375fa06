//! ID authentication information: who signed an ID block, and who vouches for that key.

use core::fmt;
use core::ops::Range;

use coffer_evidence::KeyDigest;

use crate::id_block::IdBlock;
use crate::id_key::{IdKeyError, IdPrivateKey, IdPublicKey, SIGNATURE_LEN, SignatureFault};

/// Byte ranges of the structure, all integers little-endian; whatever lies between them is reserved and zero.
///
/// Source: AMD 56860, "SEV Secure Nested Paging Firmware ABI Specification", table "ID Authentication Information Structure".
mod offset {
    use super::Range;

    pub const ID_KEY_ALGO: Range<usize> = 0x000..0x004; // u32
    pub const AUTH_KEY_ALGO: Range<usize> = 0x004..0x008; // u32; 0 where no author key is used
    pub const ID_BLOCK_SIG: Range<usize> = 0x040..0x240; // over the ID block, by the ID key
    pub const ID_KEY: Range<usize> = 0x240..0x644;
    pub const ID_KEY_SIG: Range<usize> = 0x680..0x880; // over ID_KEY, by the author key
    pub const AUTHOR_KEY: Range<usize> = 0x880..0xC84;
    pub const RESERVED: [Range<usize>; 3] = [0x008..0x040, 0x644..0x680, 0xC84..0x1000];
}

/// ECDSA P-384 with SHA-384 (AMD 56860, table "Encodings for the Signature Algorithm").
const ECDSA_P384_SHA384: u32 = 1;

/// The 4096 bytes QEMU takes as `id-auth`.
#[derive(Clone, PartialEq, Eq)]
pub struct IdAuth(Box<[u8; Self::LEN]>);

/// Who signed, as reports say it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct IdKeys {
    /// SHA-384 of the key that signed the ID block.
    pub id_key_digest: KeyDigest,
    /// SHA-384 of the key that signed that one, if it was asked for.
    pub author_key_digest: Option<KeyDigest>,
}

/// Which of the two keys.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Which {
    /// Signs the ID block.
    Id,
    /// Signs the ID key.
    Author,
}

impl fmt::Display for Which {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Id => "ID",
            Self::Author => "author",
        })
    }
}

/// Bytes that firmware would refuse with an ID block.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum IdAuthError {
    /// Another length than [`IdAuth::LEN`].
    #[error("ID authentication information is {got} bytes long, expected {}", IdAuth::LEN)]
    Length {
        /// How many bytes were given.
        got: usize,
    },
    /// Another algorithm than ECDSA P-384 with SHA-384.
    #[error("{which} key has algorithm {got}, expected {ECDSA_P384_SHA384} (ECDSA P-384 with SHA-384)")]
    Algorithm {
        /// Of which key.
        which: Which,
        /// The field.
        got: u32,
    },
    /// A byte that must be zero.
    #[error("ID authentication information has {got:#04x} in the reserved byte at {at:#x}, expected 0")]
    Reserved {
        /// Offset.
        at: usize,
        /// The byte.
        got: u8,
    },
    /// Not a key.
    #[error("{which} key: {source}")]
    Key {
        /// Which one.
        which: Which,
        /// Why.
        source: IdKeyError,
    },
    /// Not this key's signature.
    #[error("the {which} key's signature does not hold over {}", match which { Which::Id => "this ID block", Which::Author => "the ID key" })]
    Signature {
        /// Whose.
        which: Which,
    },
}

impl IdAuth {
    /// Length in bytes.
    pub const LEN: usize = 0x1000;

    /// Signs a block with the ID key, and the ID key with the author key. Deterministic: the same keys and block, the same bytes.
    #[must_use]
    pub fn sign(block: &IdBlock, id_key: &IdPrivateKey, author_key: &IdPrivateKey) -> Self {
        let mut bytes = Box::new([0; Self::LEN]);
        let id_key_bytes = id_key.public().to_bytes();
        bytes[offset::ID_KEY_ALGO].copy_from_slice(&ECDSA_P384_SHA384.to_le_bytes());
        bytes[offset::AUTH_KEY_ALGO].copy_from_slice(&ECDSA_P384_SHA384.to_le_bytes());
        bytes[offset::ID_BLOCK_SIG].copy_from_slice(&id_key.sign(&block.to_bytes()));
        bytes[offset::ID_KEY].copy_from_slice(&id_key_bytes);
        bytes[offset::ID_KEY_SIG].copy_from_slice(&author_key.sign(&id_key_bytes));
        bytes[offset::AUTHOR_KEY].copy_from_slice(&author_key.public().to_bytes());
        Self(bytes)
    }

    /// Takes bytes of the right length; [`Self::check`] looks at them.
    ///
    /// # Errors
    /// [`IdAuthError::Length`].
    pub fn from_bytes(bytes: &[u8]) -> Result<Self, IdAuthError> {
        let own: Box<[u8]> = bytes.into();
        own.try_into().map(Self).map_err(|_| IdAuthError::Length { got: bytes.len() })
    }

    /// The bytes firmware reads.
    #[must_use]
    pub fn as_bytes(&self) -> &[u8; Self::LEN] {
        &self.0
    }

    /// Checks the signatures over an ID block as firmware does at SNP_LAUNCH_FINISH; the author key's part only where
    /// AUTHOR_KEY_EN was set, because firmware does not read it otherwise.
    ///
    /// Says nothing about whose keys they are: anybody can make a pair. A verifier compares the digests.
    ///
    /// # Errors
    /// See [`IdAuthError`]. Total: any bytes give an answer.
    pub fn check(&self, block: &[u8; IdBlock::LEN], author_key_enabled: bool) -> Result<IdKeys, IdAuthError> {
        let reserved = offset::RESERVED.into_iter().flatten().find(|at| self.0[*at] != 0);
        if let Some(at) = reserved {
            return Err(IdAuthError::Reserved { at, got: self.0[at] });
        }
        self.algorithm(Which::Id, offset::ID_KEY_ALGO)?;
        let id_key = self.key(Which::Id, offset::ID_KEY)?;
        self.signature(Which::Id, &id_key, block, offset::ID_BLOCK_SIG)?;
        let author_key_digest = if author_key_enabled {
            self.algorithm(Which::Author, offset::AUTH_KEY_ALGO)?;
            let author_key = self.key(Which::Author, offset::AUTHOR_KEY)?;
            self.signature(Which::Author, &author_key, &self.0[offset::ID_KEY], offset::ID_KEY_SIG)?;
            Some(author_key.digest())
        } else {
            None
        };
        Ok(IdKeys { id_key_digest: id_key.digest(), author_key_digest })
    }

    fn algorithm(&self, which: Which, at: Range<usize>) -> Result<(), IdAuthError> {
        match u32::from_le_bytes(core::array::from_fn(|i| self.0[at.start + i])) {
            ECDSA_P384_SHA384 => Ok(()),
            got => Err(IdAuthError::Algorithm { which, got }),
        }
    }

    fn key(&self, which: Which, at: Range<usize>) -> Result<IdPublicKey, IdAuthError> {
        IdPublicKey::parse(&self.0[at]).map_err(|source| IdAuthError::Key { which, source })
    }

    fn signature(&self, which: Which, key: &IdPublicKey, message: &[u8], at: Range<usize>) -> Result<(), IdAuthError> {
        let signature: [u8; SIGNATURE_LEN] = core::array::from_fn(|i| self.0[at.start + i]);
        key.verifies(message, &signature).map_err(|fault| match fault {
            SignatureFault::Wrong => IdAuthError::Signature { which },
            SignatureFault::Reserved((inside, got)) => IdAuthError::Reserved { at: at.start + inside, got },
        })
    }
}

impl fmt::Debug for IdAuth {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("IdAuth(4096 bytes)")
    }
}

#[cfg(test)]
mod tests {
    use coffer_evidence::{GuestPolicy, LaunchDigest};
    use proptest::prelude::{any, prop_assert, proptest};

    use super::*;

    fn key(byte: u8) -> IdPrivateKey {
        IdPrivateKey::from_scalar(&[byte; 48]).expect("a scalar")
    }

    fn block() -> IdBlock {
        IdBlock {
            launch_digest: LaunchDigest::new([1; 48]),
            family_id: [2; 16],
            image_id: [3; 16],
            guest_svn: 4,
            policy: GuestPolicy(0x30000),
        }
    }

    fn with(at: usize, byte: u8) -> IdAuth {
        let mut bytes = *IdAuth::sign(&block(), &key(5), &key(6)).as_bytes();
        bytes[at] = byte;
        IdAuth::from_bytes(&bytes).expect("the length")
    }

    #[test]
    fn a_signed_block_names_both_keys() {
        let auth = IdAuth::sign(&block(), &key(5), &key(6));
        let digests = |author| IdKeys { id_key_digest: key(5).public().digest(), author_key_digest: author };
        assert_eq!(auth.check(&block().to_bytes(), true), Ok(digests(Some(key(6).public().digest()))));
        assert_eq!(auth.check(&block().to_bytes(), false), Ok(digests(None)));
        assert_eq!(IdAuth::sign(&block(), &key(5), &key(6)), auth);
        assert_eq!(IdAuth::from_bytes(&[0; 4095]), Err(IdAuthError::Length { got: 4095 }));
    }

    #[test]
    fn anything_else_is_refused_by_name() {
        let bytes = block().to_bytes();
        let auth = IdAuth::sign(&block(), &key(5), &key(6));
        for at in 0..bytes.len() {
            let mut other = bytes;
            other[at] ^= 1;
            assert_eq!(auth.check(&other, true), Err(IdAuthError::Signature { which: Which::Id }), "{at}");
        }
        // The author's part of one file on the ID key's part of another.
        let foreign = IdAuth::sign(&block(), &key(7), &key(6));
        let mut mixed = *auth.as_bytes();
        mixed[0x680..0x880].copy_from_slice(&foreign.as_bytes()[0x680..0x880]);
        let mixed = IdAuth::from_bytes(&mixed).expect("the length");
        assert_eq!(mixed.check(&bytes, true), Err(IdAuthError::Signature { which: Which::Author }));
        assert!(mixed.check(&bytes, false).is_ok(), "without AUTHOR_KEY_EN nobody reads it");
        assert_eq!(with(0, 2).check(&bytes, true), Err(IdAuthError::Algorithm { which: Which::Id, got: 2 }));
        assert_eq!(with(4, 0).check(&bytes, true), Err(IdAuthError::Algorithm { which: Which::Author, got: 0 }));
        for at in [0x008, 0x03F, 0x644, 0x67F, 0xC84, 0xFFF, 0x040 + 48, 0x240 - 1, 0x680 + 72 + 71, 0x880 - 1] {
            assert_eq!(with(at, 9).check(&bytes, true), Err(IdAuthError::Reserved { at, got: 9 }), "{at:#x}");
        }
        let curve = IdKeyError::Curve { got: 3 };
        assert_eq!(with(0x240, 3).check(&bytes, true), Err(IdAuthError::Key { which: Which::Id, source: curve }));
        assert_eq!(with(0x880, 3).check(&bytes, true), Err(IdAuthError::Key { which: Which::Author, source: curve }));
    }

    proptest! {
        /// Any one byte changed: nothing is signed any more.
        #[test]
        fn no_byte_may_change(at in any::<proptest::sample::Index>(), byte: u8) {
            let good = IdAuth::sign(&block(), &key(5), &key(6));
            let changed = with(at.index(IdAuth::LEN), byte);
            prop_assert!(changed == good || changed.check(&block().to_bytes(), true).is_err());
        }

        #[test]
        fn checking_is_total(bytes in proptest::collection::vec(any::<u8>(), 4096), enabled: bool) {
            let _ = IdAuth::from_bytes(&bytes).expect("the length").check(&block().to_bytes(), enabled);
        }
    }
}
