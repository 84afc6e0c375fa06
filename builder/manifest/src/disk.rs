//! Disk format 1: the layout of `crypt_root` and the keys of its parts (DESIGN, Disk format 1).
//!
//! ```text
//! byte 0          LUKS2 header, 16 MiB, for stock cryptsetup only; the guest never reads it
//! DATA_OFFSET     dm-crypt segment, aes-xts-plain64, 4096-byte sectors, IV = little-endian 64-bit number of the sector's
//!                 first 512-byte unit in the segment (0, 8, 16, …), as LUKS2 has it: no `iv_large_sectors`:
//!                   root file system    root_blocks × 4096
//!                   verity superblock   4096, for stock veritysetup only; the guest never reads it
//!                   verity hash tree    verity_tree_blocks(root_blocks) × 4096
//! after it        sealed kit, not under dm-crypt, at `kit.offset`
//! ```

use std::fmt;
use std::str::FromStr;

use coffer_evidence::hex_bytes;
use hkdf::Hkdf;
use serde::{Deserialize, Deserializer, Serialize, Serializer};
use sha2::Sha512;
use subtle::ConstantTimeEq;
use zeroize::ZeroizeOnDrop;

/// dm-crypt sector, dm-verity data block and hash block, in bytes.
pub const BLOCK_BYTES: u64 = 4096;
/// Where the dm-crypt segment starts on the disk, in bytes.
pub const DATA_OFFSET: u64 = 16 * 1024 * 1024;
/// dm-crypt cipher specification.
pub const CIPHER: &str = "aes-xts-plain64";
/// dm-verity hash algorithm. Hash type (version) is 1, the salt is empty.
pub const VERITY_HASH: &str = "sha256";
/// SHA-256 digests per verity hash block.
pub const HASHES_PER_BLOCK: u64 = BLOCK_BYTES / 32;

hex_bytes! {
    /// dm-verity root hash: SHA-256 over the top block of the tree, empty salt.
    RootHash, 32
}

hex_bytes! {
    /// `key_check` of a site config: HKDF-SHA-512(S, disk_uuid, `coffer/key-check/v1`, 32). Not secret.
    KeyCheck, 32
}

/// The only disk format: 1.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct DiskFormat;

impl Serialize for DiskFormat {
    fn serialize<S: Serializer>(&self, s: S) -> Result<S::Ok, S::Error> {
        s.serialize_u32(1)
    }
}

impl<'de> Deserialize<'de> for DiskFormat {
    fn deserialize<D: Deserializer<'de>>(d: D) -> Result<Self, D::Error> {
        match u32::deserialize(d)? {
            1 => Ok(Self),
            n => Err(serde::de::Error::custom(format!("disk format {n} is not supported; this build reads 1"))),
        }
    }
}

/// UUID of the disk: LUKS2 header UUID and HKDF salt. Text form is 8-4-4-4-12 lower-case hexadecimal.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct DiskUuid([u8; 16]);

impl DiskUuid {
    /// Makes a version 4 UUID of 16 random bytes.
    #[must_use]
    pub const fn from_random(mut bytes: [u8; 16]) -> Self {
        bytes[6] = (bytes[6] & 0x0f) | 0x40;
        bytes[8] = (bytes[8] & 0x3f) | 0x80;
        Self(bytes)
    }

    /// The 16 bytes in text order; the HKDF salt.
    #[must_use]
    pub const fn as_bytes(&self) -> &[u8; 16] {
        &self.0
    }
}

impl fmt::Display for DiskUuid {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (i, byte) in self.0.iter().enumerate() {
            let dash = if matches!(i, 4 | 6 | 8 | 10) { "-" } else { "" };
            write!(f, "{dash}{byte:02x}")?;
        }
        Ok(())
    }
}

/// A disk UUID did not parse.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("`{got}` is not a UUID of the form 8-4-4-4-12 lower-case hexadecimal digits")]
pub struct UuidError {
    got: String,
}

impl FromStr for DiskUuid {
    type Err = UuidError;

    fn from_str(text: &str) -> Result<Self, UuidError> {
        let refuse = || UuidError { got: text.chars().take(60).collect() };
        let hex: String = text.chars().filter(|c| *c != '-').collect();
        let uuid = coffer_evidence::parse_hex::<16>("disk uuid", &hex).map(Self).map_err(|_| refuse())?;
        if uuid.to_string() == text { Ok(uuid) } else { Err(refuse()) }
    }
}

impl Serialize for DiskUuid {
    fn serialize<S: Serializer>(&self, s: S) -> Result<S::Ok, S::Error> {
        s.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for DiskUuid {
    fn deserialize<D: Deserializer<'de>>(d: D) -> Result<Self, D::Error> {
        String::deserialize(d)?.parse().map_err(serde::de::Error::custom)
    }
}

/// S: the 32 random bytes everything on a root disk derives from; the secret a service releases.
#[derive(ZeroizeOnDrop)]
pub struct RootSecret([u8; Self::LEN]);

impl RootSecret {
    /// Length in bytes.
    pub const LEN: usize = 32;

    /// Wraps 32 random bytes.
    #[must_use]
    pub const fn new(bytes: [u8; Self::LEN]) -> Self {
        Self(bytes)
    }

    /// The secret itself, for transport inside an encrypted envelope and for a LUKS2 keyslot.
    #[must_use]
    pub const fn expose(&self) -> &[u8; Self::LEN] {
        &self.0
    }

    /// VK = HKDF-SHA-512(S, salt disk_uuid, info `coffer/luks-vk/v1`, 64).
    #[must_use]
    pub fn volume_key(&self, uuid: &DiskUuid) -> VolumeKey {
        let mut key = VolumeKey([0; VolumeKey::LEN]);
        self.derive(uuid, b"coffer/luks-vk/v1", &mut key.0);
        key
    }

    /// key_check = HKDF-SHA-512(S, salt disk_uuid, info `coffer/key-check/v1`, 32).
    #[must_use]
    pub fn key_check(&self, uuid: &DiskUuid) -> KeyCheck {
        let mut check = [0; KeyCheck::LEN];
        self.derive(uuid, b"coffer/key-check/v1", &mut check);
        KeyCheck::new(check)
    }

    /// Whether this secret belongs to a disk, in constant time.
    #[must_use]
    pub fn opens(&self, uuid: &DiskUuid, expected: &KeyCheck) -> bool {
        self.key_check(uuid).as_bytes().ct_eq(expected.as_bytes()).into()
    }

    fn derive(&self, uuid: &DiskUuid, info: &[u8], out: &mut [u8]) {
        // HKDF-Expand fails only past 255 × 64 bytes of output; both callers ask for at most 64.
        let expanded = Hkdf::<Sha512>::new(Some(uuid.as_bytes()), &self.0).expand(info, out);
        debug_assert!(expanded.is_ok());
    }
}

impl fmt::Debug for RootSecret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("RootSecret(<32 bytes redacted>)")
    }
}

/// VK: the AES-256-XTS key of the dm-crypt segment, data key first, tweak key second.
#[derive(ZeroizeOnDrop)]
pub struct VolumeKey([u8; Self::LEN]);

impl VolumeKey {
    /// Length in bytes.
    pub const LEN: usize = 64;

    /// The key itself, for the kernel's dm-crypt table and for the builder's XTS.
    #[must_use]
    pub const fn expose(&self) -> &[u8; Self::LEN] {
        &self.0
    }
}

impl fmt::Debug for VolumeKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("VolumeKey(<64 bytes redacted>)")
    }
}

/// Number of hash blocks in the verity tree over `data_blocks` blocks, superblock not counted.
///
/// One level per power of 128 until a single hash is left; a single data block has no tree: its hash is the root hash.
#[must_use]
pub fn verity_tree_blocks(data_blocks: u64) -> u64 {
    let mut total = 0;
    let mut level = data_blocks;
    while level > 1 {
        level = level.div_ceil(HASHES_PER_BLOCK);
        total += level;
    }
    total
}

/// Length in bytes of the dm-crypt segment: data, superblock, tree.
#[must_use]
pub fn segment_bytes(data_blocks: u64) -> u64 {
    (data_blocks + 1 + verity_tree_blocks(data_blocks)) * BLOCK_BYTES
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tree_sizes() {
        assert_eq!(verity_tree_blocks(1), 0);
        assert_eq!(verity_tree_blocks(2), 1);
        assert_eq!(verity_tree_blocks(128), 1);
        assert_eq!(verity_tree_blocks(129), 3);
        assert_eq!(verity_tree_blocks(128 * 128), 129);
        assert_eq!(verity_tree_blocks(128 * 128 + 1), 129 + 1 + 2);
    }

    #[test]
    fn uuid_text_is_strict() {
        let uuid = DiskUuid::from_random([0xff; 16]);
        assert_eq!(uuid.to_string(), "ffffffff-ffff-4fff-bfff-ffffffffffff");
        assert_eq!(uuid.to_string().parse::<DiskUuid>(), Ok(uuid));
        for bad in ["", "FFFFFFFF-ffff-4fff-bfff-ffffffffffff", "ffffffffffff4fffbfffffffffffffff"] {
            assert!(bad.parse::<DiskUuid>().is_err(), "{bad}");
        }
    }

    #[test]
    fn secrets_do_not_print() {
        let secret = RootSecret::new([0x41; 32]);
        let shown = format!("{secret:?} {:?}", secret.volume_key(&DiskUuid::from_random([0; 16])));
        assert!(!shown.contains("41") && !shown.contains("65"), "{shown}");
    }
}
