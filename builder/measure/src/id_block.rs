//! The ID block: what a launch must measure to, or the AMD secure processor refuses to finish it.

use core::ops::Range;

use coffer_evidence::{GuestPolicy, LaunchDigest};

/// Byte ranges of an ID block, all integers little-endian.
///
/// Source: AMD 56860, "SEV Secure Nested Paging Firmware ABI Specification", table "ID Block Structure".
mod offset {
    use super::Range;

    pub const LD: Range<usize> = 0x00..0x30; // 48 bytes, the expected launch digest
    pub const FAMILY_ID: Range<usize> = 0x30..0x40; // chosen by the guest's owner, goes into reports
    pub const IMAGE_ID: Range<usize> = 0x40..0x50; // chosen by the guest's owner, goes into reports
    pub const VERSION: Range<usize> = 0x50..0x54; // u32, 1
    pub const GUEST_SVN: Range<usize> = 0x54..0x58; // u32, chosen by the guest's owner, goes into reports
    pub const POLICY: Range<usize> = 0x58..0x60; // u64, the expected guest policy
}

/// What the guest's owner expects of a launch: the 96 bytes QEMU takes as `id-block`.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct IdBlock {
    /// The launch digest. Firmware fails a launch that measures to another one.
    pub launch_digest: LaunchDigest,
    /// FAMILY_ID of reports.
    pub family_id: [u8; 16],
    /// IMAGE_ID of reports.
    pub image_id: [u8; 16],
    /// GUEST_SVN of reports.
    pub guest_svn: u32,
    /// The guest policy. Firmware fails a launch with another one.
    pub policy: GuestPolicy,
}

/// Bytes that are no ID block firmware would take.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum IdBlockError {
    /// Another length than [`IdBlock::LEN`].
    #[error("ID block is {got} bytes long, expected {}", IdBlock::LEN)]
    Length {
        /// How many bytes were given.
        got: usize,
    },
    /// Another version than [`IdBlock::VERSION`].
    #[error("ID block has version {got}, expected {}", IdBlock::VERSION)]
    Version {
        /// The VERSION field.
        got: u32,
    },
}

impl IdBlock {
    /// Length in bytes.
    pub const LEN: usize = 0x60;
    /// The only VERSION there is.
    pub const VERSION: u32 = 1;

    /// The bytes firmware reads, and the ID key signs.
    #[must_use]
    pub fn to_bytes(&self) -> [u8; Self::LEN] {
        let mut bytes = [0; Self::LEN];
        bytes[offset::LD].copy_from_slice(self.launch_digest.as_bytes());
        bytes[offset::FAMILY_ID].copy_from_slice(&self.family_id);
        bytes[offset::IMAGE_ID].copy_from_slice(&self.image_id);
        bytes[offset::VERSION].copy_from_slice(&Self::VERSION.to_le_bytes());
        bytes[offset::GUEST_SVN].copy_from_slice(&self.guest_svn.to_le_bytes());
        bytes[offset::POLICY].copy_from_slice(&self.policy.0.to_le_bytes());
        bytes
    }

    /// Reads the bytes. Says nothing about who signed them: that is [`crate::IdAuth::check`]'s job.
    ///
    /// # Errors
    /// See [`IdBlockError`]. Total: any input gives a block or an error.
    pub fn parse(bytes: &[u8]) -> Result<Self, IdBlockError> {
        let bytes: &[u8; Self::LEN] = bytes.try_into().map_err(|_| IdBlockError::Length { got: bytes.len() })?;
        let version = u32::from_le_bytes(field(bytes, offset::VERSION));
        if version != Self::VERSION {
            return Err(IdBlockError::Version { got: version });
        }
        Ok(Self {
            launch_digest: LaunchDigest::new(field(bytes, offset::LD)),
            family_id: field(bytes, offset::FAMILY_ID),
            image_id: field(bytes, offset::IMAGE_ID),
            guest_svn: u32::from_le_bytes(field(bytes, offset::GUEST_SVN)),
            policy: GuestPolicy(u64::from_le_bytes(field(bytes, offset::POLICY))),
        })
    }
}

/// `N` bytes from the range's start on; the ranges above lie within the structure and are `N` long.
fn field<const N: usize>(bytes: &[u8; IdBlock::LEN], at: Range<usize>) -> [u8; N] {
    core::array::from_fn(|i| bytes[at.start + i])
}

#[cfg(test)]
mod tests {
    use proptest::prelude::{any, prop_assert_eq, proptest};

    use super::*;

    #[test]
    fn every_field_has_its_place() {
        let block = IdBlock {
            launch_digest: LaunchDigest::new([1; 48]),
            family_id: [2; 16],
            image_id: [3; 16],
            guest_svn: 0x0807_0605,
            policy: GuestPolicy(0x30000),
        };
        let bytes = [&[1; 48][..], &[2; 16], &[3; 16], &[1, 0, 0, 0], &[5, 6, 7, 8], &[0, 0, 3, 0, 0, 0, 0, 0]].concat();
        assert_eq!(block.to_bytes()[..], bytes);
        let mut other = bytes.clone();
        other[0x50] = 2;
        assert_eq!(IdBlock::parse(&other), Err(IdBlockError::Version { got: 2 }));
        assert_eq!(IdBlock::parse(&bytes[..95]), Err(IdBlockError::Length { got: 95 }));
        assert_eq!(IdBlock::parse(&[&bytes[..], &[0]].concat()), Err(IdBlockError::Length { got: 97 }));
    }

    proptest! {
        #[test]
        fn reading_is_total_and_exact(bytes in proptest::collection::vec(any::<u8>(), 96), version in 0_u32..3, other: Vec<u8>) {
            let _ = IdBlock::parse(&other);
            let mut bytes = bytes;
            bytes[0x50..0x54].copy_from_slice(&version.to_le_bytes());
            match IdBlock::parse(&bytes) {
                Ok(block) => prop_assert_eq!(&block.to_bytes()[..], &bytes[..]),
                Err(error) => prop_assert_eq!(error, IdBlockError::Version { got: version }),
            }
        }
    }
}
