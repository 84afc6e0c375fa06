//! The ID block of a launch, checked as firmware checks it.

use coffer_evidence::{GuestPolicy, KeyDigest, LaunchDigest};
use coffer_measure::{IdAuth, IdAuthError, IdBlock, IdBlockError};

/// What a host hands SNP_LAUNCH_FINISH with ID_BLOCK_EN set.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct IdPair {
    /// QEMU's `id-block`: 96 bytes.
    pub block: Vec<u8>,
    /// QEMU's `id-auth`: 4096 bytes.
    pub auth: Vec<u8>,
    /// QEMU's `author-key-enabled`.
    pub author_key_enabled: bool,
}

/// What reports say of a guest that was launched with an ID block; zeros for one without.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Identity {
    /// GUEST_SVN.
    pub guest_svn: u32,
    /// FAMILY_ID.
    pub family_id: [u8; 16],
    /// IMAGE_ID.
    pub image_id: [u8; 16],
    /// ID_KEY_DIGEST.
    pub id_key_digest: Option<KeyDigest>,
    /// AUTHOR_KEY_DIGEST; with it AUTHOR_KEY_EN is set.
    pub author_key_digest: Option<KeyDigest>,
}

/// An ID block firmware would refuse this launch for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum IdError {
    /// Not an ID block.
    #[error(transparent)]
    Block(#[from] IdBlockError),
    /// Not signed as it has to be.
    #[error(transparent)]
    Auth(#[from] IdAuthError),
    /// Something else was measured.
    #[error("the ID block expects launch digest {expected}, measured was {got}")]
    LaunchDigest {
        /// In the ID block.
        expected: LaunchDigest,
        /// Measured.
        got: LaunchDigest,
    },
    /// Another policy.
    #[error("the ID block expects guest policy {expected}, the launch has {got}")]
    Policy {
        /// In the ID block.
        expected: GuestPolicy,
        /// Of the launch.
        got: GuestPolicy,
    },
}

impl Identity {
    /// SNP_LAUNCH_FINISH: the signatures hold, and digest and policy are those of this launch (AMD 56860, SNP_LAUNCH_FINISH).
    ///
    /// # Errors
    /// See [`IdError`].
    pub fn check(pair: &IdPair, launch_digest: LaunchDigest, policy: GuestPolicy) -> Result<Self, IdError> {
        let block = IdBlock::parse(&pair.block)?;
        let keys = IdAuth::from_bytes(&pair.auth)?.check(&block.to_bytes(), pair.author_key_enabled)?;
        if block.launch_digest != launch_digest {
            return Err(IdError::LaunchDigest { expected: block.launch_digest, got: launch_digest });
        }
        if block.policy != policy {
            return Err(IdError::Policy { expected: block.policy, got: policy });
        }
        Ok(Self {
            guest_svn: block.guest_svn,
            family_id: block.family_id,
            image_id: block.image_id,
            id_key_digest: Some(keys.id_key_digest),
            author_key_digest: keys.author_key_digest,
        })
    }
}
