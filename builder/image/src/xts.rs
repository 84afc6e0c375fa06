//! AES-256-XTS over whole sectors, as dm-crypt's `aes-xts-plain64` does it. Encrypts only: nothing here opens a disk.
//!
//! Source: IEEE 1619-2007. Own code because the `xts-mode` crate does one block at a time, at a quarter of the speed; the
//! tests decrypt with that crate. The sector number is what dm-crypt calls plain64: counted in 512-byte units.

use aes::cipher::{BlockCipherEncrypt, KeyInit};
use aes::{Aes256, Block};
use coffer_manifest::disk::VolumeKey;
use zeroize::Zeroize;

/// Bytes per unit of sector numbers, whatever the sector size.
pub const UNIT_BYTES: u64 = 512;
const BLOCK_BYTES: usize = 16;
/// Largest sector, in cipher blocks.
const MAX_SECTOR_BLOCKS: usize = 4096 / BLOCK_BYTES;

/// A key, expanded.
pub struct Xts {
    data: Aes256,
    tweak: Aes256,
}

impl Xts {
    /// Expands a volume key.
    #[must_use]
    pub fn new(key: &VolumeKey) -> Self {
        Self::from_bytes(key.expose())
    }

    /// Expands 64 bytes: data key, then tweak key.
    #[must_use]
    pub fn from_bytes(key: &[u8; 64]) -> Self {
        let (mut data, mut tweak) = ([0; 32], [0; 32]);
        data.copy_from_slice(&key[..32]);
        tweak.copy_from_slice(&key[32..]);
        let expanded = Self { data: Aes256::new(&data.into()), tweak: Aes256::new(&tweak.into()) };
        data.zeroize();
        tweak.zeroize();
        expanded
    }

    /// Encrypts whole sectors in place. `first_unit` is the number of the first one, in 512-byte units.
    ///
    /// # Panics
    /// If `sector_bytes` is not a multiple of 512 up to 4096, or `sectors` is not a multiple of it.
    pub fn encrypt(&self, sectors: &mut [u8], sector_bytes: usize, first_unit: u64) {
        assert!(sector_bytes.is_multiple_of(UNIT_BYTES as usize) && sector_bytes <= MAX_SECTOR_BLOCKS * BLOCK_BYTES);
        assert!(sectors.len().is_multiple_of(sector_bytes), "{} bytes are no whole sectors", sectors.len());
        let mut unit = u128::from(first_unit);
        for sector in sectors.chunks_exact_mut(sector_bytes) {
            self.encrypt_sector(sector, unit);
            unit += (sector_bytes as u128) / u128::from(UNIT_BYTES);
        }
    }

    fn encrypt_sector(&self, sector: &mut [u8], unit: u128) {
        let mut first = Block::from(unit.to_le_bytes());
        self.tweak.encrypt_block(&mut first);
        let (blocks, _) = Block::slice_as_chunks_mut(sector);
        let mut tweaks = [0_u128; MAX_SECTOR_BLOCKS];
        let mut tweak = u128::from_le_bytes(first.into());
        for slot in &mut tweaks[..blocks.len()] {
            *slot = tweak;
            tweak = (tweak << 1) ^ if tweak >> 127 == 1 { 0x87 } else { 0 };
        }
        whiten(blocks, &tweaks);
        self.data.encrypt_blocks(blocks);
        whiten(blocks, &tweaks);
    }
}

fn whiten(blocks: &mut [Block], tweaks: &[u128]) {
    for (block, tweak) in blocks.iter_mut().zip(tweaks) {
        let whitened = u128::from_le_bytes((*block).into()) ^ tweak;
        *block = whitened.to_le_bytes().into();
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::{any, prop, prop_assert_eq, proptest};
    use xts_mode::{Xts128, get_tweak_default};

    use super::*;

    proptest! {
        #[test]
        fn agrees_with_another_implementation(key: [u8; 32], other: [u8; 32], data in prop::collection::vec(any::<u8>(), 8192), large: bool, first in 0_u64..1 << 40) {
            let sector_bytes = if large { 4096 } else { 512 };
            let units = sector_bytes as u64 / UNIT_BYTES;
            let mut ours = data.clone();
            let mut both = [0; 64];
            both[..32].copy_from_slice(&key);
            both[32..].copy_from_slice(&other);
            Xts::from_bytes(&both).encrypt(&mut ours, sector_bytes, first);
            let theirs = Xts128::new(Aes256::new(&key.into()), Aes256::new(&other.into()));
            for (index, sector) in ours.chunks_exact_mut(sector_bytes).enumerate() {
                theirs.decrypt_sector(sector, get_tweak_default(u128::from(first + index as u64 * units)));
            }
            prop_assert_eq!(ours, data);
        }
    }
}
