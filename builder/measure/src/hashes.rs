//! The SEV hash table: SHA-256 of kernel, initrd and command line, as QEMU writes it with `kernel-hashes=on`.
//!
//! Source: QEMU `target/i386/sev.c` (`SevHashTable`), edk2 `OvmfPkg/AmdSev/BlobVerifierLibSevHashes`. A table starts
//! with a GUID and a u16 length, then come entries {GUID, u16 length, SHA-256}; GUIDs in mixed-endian (RFC 4122
//! little-endian) form, integers little-endian, lengths counted from the GUID.

use sha2::{Digest, Sha256};

use crate::PAGE_BYTES;
use crate::firmware::Guid;

const HEADER: Guid = Guid::parse("9438d606-4f22-4cc9-b479-a793d411fd21");
const CMDLINE: Guid = Guid::parse("97d02dd8-bd20-4c94-aa78-e7714d36ab2a");
const INITRD: Guid = Guid::parse("44baf731-3a2f-4bd7-9af1-41e29169781d");
const KERNEL: Guid = Guid::parse("4de79437-abd2-427f-b835-d5b172d2045b");

const ENTRY_BYTES: usize = 16 + 2 + 32;
const TABLE_BYTES: usize = 16 + 2 + 3 * ENTRY_BYTES;

/// What QEMU tells the firmware about the files it was started with.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct HashTable {
    cmdline: [u8; 32],
    initrd: [u8; 32],
    kernel: [u8; 32],
}

/// The table does not fit behind the offset where the firmware wants it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("a hash table of {} bytes does not fit into a page at offset {offset:#x}", HashTable::LEN)]
pub struct HashTablePlaceError {
    /// Offset within the page.
    pub offset: usize,
}

impl HashTable {
    /// Size in guest memory: the table itself, zero-padded to a multiple of 16.
    pub const LEN: usize = TABLE_BYTES.next_multiple_of(16);

    /// From digests of the files QEMU gets and the command line as given to `-append`, without a trailing NUL.
    ///
    /// No initrd is an empty one: pass the SHA-256 of nothing.
    #[must_use]
    pub fn new(kernel_sha256: [u8; 32], initrd_sha256: [u8; 32], cmdline: &str) -> Self {
        // QEMU hashes the C string, its NUL included.
        let cmdline = Sha256::new().chain_update(cmdline).chain_update([0]).finalize().into();
        Self { cmdline, initrd: initrd_sha256, kernel: kernel_sha256 }
    }

    /// The bytes at the firmware's hash table address.
    #[must_use]
    pub fn to_bytes(&self) -> [u8; Self::LEN] {
        let mut table = Vec::with_capacity(Self::LEN);
        table.extend_from_slice(&HEADER.0);
        table.extend_from_slice(&(TABLE_BYTES as u16).to_le_bytes());
        for (guid, digest) in [(CMDLINE, self.cmdline), (INITRD, self.initrd), (KERNEL, self.kernel)] {
            table.extend_from_slice(&guid.0);
            table.extend_from_slice(&(ENTRY_BYTES as u16).to_le_bytes());
            table.extend_from_slice(&digest);
        }
        let mut padded = [0; Self::LEN];
        padded[..table.len()].copy_from_slice(&table);
        padded
    }

    /// The measured page: zeros around the table at `offset`.
    ///
    /// # Errors
    /// [`HashTablePlaceError`] if the table would cross the end of the page.
    pub fn page(&self, offset: usize) -> Result<[u8; PAGE_BYTES], HashTablePlaceError> {
        let mut page = [0; PAGE_BYTES];
        let place = offset.checked_add(Self::LEN).and_then(|end| page.get_mut(offset..end));
        place.ok_or(HashTablePlaceError { offset })?.copy_from_slice(&self.to_bytes());
        Ok(page)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn table() -> HashTable {
        HashTable::new([0x11; 32], [0x22; 32], "console=ttyS0")
    }

    #[test]
    fn layout_is_qemus() {
        let bytes = table().to_bytes();
        assert_eq!(bytes.len(), 176);
        assert_eq!(bytes[..16], [0x06, 0xd6, 0x38, 0x94, 0x22, 0x4f, 0xc9, 0x4c, 0xb4, 0x79, 0xa7, 0x93, 0xd4, 0x11, 0xfd, 0x21]);
        assert_eq!(bytes[16..18], [168, 0]);
        assert_eq!(bytes[34..36], [50, 0]);
        assert_eq!(bytes[36..68], Sha256::digest(b"console=ttyS0\0")[..]);
        assert_eq!(bytes[86..118], [0x22; 32]);
        assert_eq!(bytes[136..168], [0x11; 32]);
        assert_eq!(bytes[168..], [0; 8]);
    }

    #[test]
    fn page_refuses_what_does_not_fit() {
        let page = table().page(0xc00).unwrap();
        assert_eq!(page[0xc00..0xc00 + 176], table().to_bytes());
        assert!(page[..0xc00].iter().chain(&page[0xc00 + 176..]).all(|b| *b == 0));
        assert!(table().page(PAGE_BYTES - 176).is_ok());
        assert_eq!(table().page(PAGE_BYTES - 175), Err(HashTablePlaceError { offset: PAGE_BYTES - 175 }));
        assert!(table().page(usize::MAX).is_err());
    }
}
