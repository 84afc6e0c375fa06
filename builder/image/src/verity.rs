//! dm-verity, hash type 1: SHA-256, 4096-byte blocks, empty salt.
//!
//! Source: Linux `Documentation/admin-guide/device-mapper/verity.rst`; cryptsetup `lib/verity/verity.c` for the superblock. The
//! tree lies behind data and superblock, top level first. While data streams past, only its digests stay in memory: 1/128.

use coffer_manifest::disk::{BLOCK_BYTES, RootHash, VERITY_HASH};
use sha2::{Digest, Sha256};

/// A block, for slicing.
const BLOCK: usize = BLOCK_BYTES as usize;

/// Digests of whole blocks, one behind the other.
#[must_use]
pub fn digests(blocks: &[u8]) -> Vec<u8> {
    blocks.chunks_exact(BLOCK).flat_map(|block| <[u8; 32]>::from(Sha256::digest(block))).collect()
}

/// A hash tree as it lies on the disk.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Tree {
    /// All levels, top first; `verity_tree_blocks` × 4096 bytes.
    pub bytes: Vec<u8>,
    /// Digest of the top block.
    pub root_hash: RootHash,
}

impl Tree {
    /// Builds the tree over data whose blocks have these digests.
    ///
    /// # Panics
    /// If there are fewer than two: then the kernel has no tree at all and takes the one digest for the root hash, which disk
    /// format 1 does not provide for. Callers pad.
    #[must_use]
    pub fn new(mut digests_below: Vec<u8>) -> Self {
        assert!(digests_below.len() >= 64, "a verity tree needs two blocks of data");
        let mut levels = Vec::new();
        loop {
            digests_below.resize(digests_below.len().next_multiple_of(BLOCK), 0);
            let above = digests(&digests_below);
            levels.push(digests_below);
            if let Ok(top) = <[u8; 32]>::try_from(above.as_slice()) {
                levels.reverse();
                return Self { bytes: levels.concat(), root_hash: RootHash::new(top) };
            }
            digests_below = above;
        }
    }
}

/// The superblock for stock veritysetup, in a block of its own. Its UUID is zero: it must not tell two disks apart.
#[must_use]
pub fn superblock(data_blocks: u64) -> Vec<u8> {
    let mut block = vec![0; BLOCK];
    let mut put = |at: usize, field: &[u8]| block[at..at + field.len()].copy_from_slice(field);
    put(0, b"verity\0\0");
    put(8, &1_u32.to_le_bytes()); // version of the superblock
    put(12, &1_u32.to_le_bytes()); // hash type
    put(32, VERITY_HASH.as_bytes()); // 32 bytes, zero-padded
    put(64, &(BLOCK_BYTES as u32).to_le_bytes()); // data block
    put(68, &(BLOCK_BYTES as u32).to_le_bytes()); // hash block
    put(72, &data_blocks.to_le_bytes());
    // From byte 80: salt size 0, salt.
    block
}

#[cfg(test)]
mod tests {
    use coffer_manifest::disk::verity_tree_blocks;

    use super::*;

    #[test]
    fn the_tree_has_the_size_the_format_says() {
        for blocks in [2, 127, 128, 129, 128 * 128, 128 * 128 + 1] {
            let tree = Tree::new(vec![1; blocks * 32]);
            assert_eq!(tree.bytes.len() as u64, verity_tree_blocks(blocks as u64) * BLOCK_BYTES, "{blocks}");
            assert_eq!(tree.root_hash.as_bytes().as_slice(), digests(&tree.bytes[..BLOCK]), "{blocks}: top level first");
        }
    }

    #[test]
    fn the_root_hash_depends_on_every_block() {
        let root = |data: &[u8]| Tree::new(digests(data)).root_hash;
        let data = vec![7; 300 * BLOCK];
        let honest = root(&data);
        for block in [0, 127, 128, 299] {
            let mut changed = data.clone();
            changed[block * BLOCK] ^= 1;
            assert_ne!(root(&changed), honest, "block {block}");
        }
    }
}
