//! Step 5 of the boot, first half: from S to a read-only, verified block device.
//!
//! Every parameter is a constant of disk format 1 or a value of the site config. No byte of the disk is parsed here: not its
//! LUKS2 header (CVE-2025-59054, CVE-2025-58356), not its verity superblock.

use std::fmt::Write as _;
use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use coffer_manifest::disk::{BLOCK_BYTES, CIPHER, DATA_OFFSET, VERITY_HASH, VolumeKey, segment_bytes};
use coffer_manifest::{KitKey, KitSealError, SiteConfig, open_kit};
use coffer_sys::dm::{Control, Target};
use zeroize::Zeroizing;

use crate::attest::Secrets;
use crate::disks::{self, Disk};

/// Sectors of the device mapper's tables, in bytes.
const SECTOR_BYTES: u64 = 512;
/// The largest root file system, in blocks: 16 TiB. Keeps all arithmetic on a site config's number far from overflow.
const MAX_ROOT_BLOCKS: u64 = 1 << 32;
/// The largest sealed kit read into memory; the builder makes none over 64 MiB.
const MAX_KIT_BYTES: u64 = 80 << 20;

/// The root disk does not open.
#[derive(Debug, thiserror::Error)]
pub enum UnlockError {
    /// The host attached no such disk.
    #[error("no disk with serial `{}` appeared", disks::ROOT)]
    NoDisk,
    /// The key service released a secret of another disk.
    #[error("released secret does not match the site config's key_check")]
    KeyCheck,
    /// The disk is too short for what the site config says.
    #[error("root disk has {got} bytes, the site config needs {needed}")]
    TooShort {
        /// Size of the disk in bytes.
        got: u64,
        /// End of the last part in bytes.
        needed: u64,
    },
    /// A number of the site config is out of range.
    #[error("site config says {what} = {got}, at most {max} is taken")]
    Range {
        /// Which number.
        what: &'static str,
        /// What it is.
        got: u64,
        /// Its limit.
        max: u64,
    },
    /// The device mapper refuses.
    #[error("device mapper refuses {what}: {source}")]
    DeviceMapper {
        /// Which mapping.
        what: &'static str,
        /// Why.
        source: io::Error,
    },
    /// The kit cannot be read from the disk.
    #[error("cannot read the kit: {0}")]
    ReadKit(#[source] io::Error),
    /// The service released no key for the kit.
    #[error("site config has a kit, but its key was not released")]
    NoKitKey,
    /// The kit does not open.
    #[error(transparent)]
    Kit(#[from] KitSealError),
}

/// The root file system behind dm-crypt and dm-verity.
pub struct Volume {
    /// The verity device.
    pub device: PathBuf,
}

/// The opened kit, a tar.
pub type Kit = Zeroizing<Vec<u8>>;

/// Opens the root disk and the kit, and forgets the secrets.
pub fn open(site: &SiteConfig, secrets: Secrets) -> Result<(Volume, Option<Kit>), UnlockError> {
    let disk = disks::await_disk(disks::ROOT).ok_or(UnlockError::NoDisk)?;
    check_size(site, &disk)?;
    if !secrets.root.opens(&site.disk_uuid, &site.key_check) {
        return Err(UnlockError::KeyCheck);
    }
    let key = secrets.root.volume_key(&site.disk_uuid);
    let refused = |what| move |source| UnlockError::DeviceMapper { what, source };
    let control = Control::open().map_err(refused("to be opened"))?;
    let sectors = segment_bytes(site.root_blocks) / SECTOR_BYTES;
    let table = crypt_table(&key, &disk.device);
    let crypt =
        control.create_read_only("coffer-crypt", &Target { kind: "crypt", sectors, params: &table }).map_err(refused("dm-crypt"))?;
    drop((table, key));

    let sectors = site.root_blocks * BLOCK_BYTES / SECTOR_BYTES;
    let table = verity_table(site, crypt);
    let verity =
        control.create_read_only("coffer-root", &Target { kind: "verity", sectors, params: &table }).map_err(refused("dm-verity"))?;
    let kit = read_kit(site, &disk.device, secrets.kit.as_ref())?;
    Ok((Volume { device: format!("/dev/dm-{verity}").into() }, kit))
}

fn check_size(site: &SiteConfig, disk: &Disk) -> Result<(), UnlockError> {
    if site.root_blocks > MAX_ROOT_BLOCKS {
        return Err(UnlockError::Range { what: "root_blocks", got: site.root_blocks, max: MAX_ROOT_BLOCKS });
    }
    let mut needed = DATA_OFFSET + segment_bytes(site.root_blocks);
    if let Some(kit) = &site.kit {
        if kit.size > MAX_KIT_BYTES {
            return Err(UnlockError::Range { what: "kit.size", got: kit.size, max: MAX_KIT_BYTES });
        }
        needed = needed.max(kit.offset.saturating_add(kit.size));
    }
    if disk.bytes < needed { Err(UnlockError::TooShort { got: disk.bytes, needed }) } else { Ok(()) }
}

/// `<cipher> <key> <iv_offset> <device> <start> <#opt> sector_size:4096`: plain64 counts 512-byte sectors from the start of
/// the segment, as LUKS2 does, so there is no `iv_large_sectors`.
fn crypt_table(key: &VolumeKey, device: &Path) -> Zeroizing<String> {
    let mut table = Zeroizing::new(String::with_capacity(512));
    table.push_str(CIPHER);
    table.push(' ');
    for byte in key.expose() {
        // Writing to a String does not fail. Its capacity was reserved: no unwiped copy stays behind.
        let _ = write!(table, "{byte:02x}");
    }
    let _ = write!(table, " 0 {} {} 1 sector_size:{BLOCK_BYTES}", device.display(), DATA_OFFSET / SECTOR_BYTES);
    table
}

/// `<version> <data> <hash> <data block> <hash block> <#blocks> <hash start> <algorithm> <root> <salt> <#opt> …`: version 1,
/// empty salt, the tree one block (the superblock) after the data on the same device.
fn verity_table(site: &SiteConfig, crypt_minor: u32) -> String {
    let device = format!("/dev/dm-{crypt_minor}");
    let (blocks, hash_start) = (site.root_blocks, site.root_blocks + 1);
    let root = site.root_hash;
    format!("1 {device} {device} {BLOCK_BYTES} {BLOCK_BYTES} {blocks} {hash_start} {VERITY_HASH} {root} - 1 panic_on_corruption")
}

fn read_kit(site: &SiteConfig, disk: &Path, key: Option<&KitKey>) -> Result<Option<Kit>, UnlockError> {
    let Some(kit) = &site.kit else { return Ok(None) };
    let key = key.ok_or(UnlockError::NoKitKey)?;
    // At most MAX_KIT_BYTES, see check_size.
    let mut sealed = vec![0; kit.size as usize];
    File::open(disk).and_then(|file| file.read_exact_at(&mut sealed, kit.offset)).map_err(UnlockError::ReadKit)?;
    Ok(Some(open_kit(key, &site.disk_uuid, &kit.digest, &sealed)?))
}

#[cfg(test)]
mod tests {
    use super::*;
    use coffer_manifest::disk::{DiskUuid, RootSecret};
    use coffer_manifest::{KitRef, Sha256Digest, seal_kit};

    fn site() -> SiteConfig {
        crate::workload::tests::site("amd-sev-snp")
    }

    #[test]
    fn the_crypt_table_is_luks2s() {
        let key = RootSecret::new([1; 32]).volume_key(&DiskUuid::from_random([2; 16]));
        let table = crypt_table(&key, Path::new("/dev/vda"));
        let words: Vec<&str> = table.split(' ').collect();
        assert_eq!(words.len(), 7);
        assert_eq!(words[0], "aes-xts-plain64");
        assert_eq!(words[1].len(), 128);
        assert!(words[1].starts_with(&format!("{:02x}{:02x}", key.expose()[0], key.expose()[1])));
        assert_eq!(words[2..], ["0", "/dev/vda", "32768", "1", "sector_size:4096"]);
    }

    #[test]
    fn the_verity_table_has_the_formats_constants() {
        let mut site = site();
        site.root_blocks = 100;
        let root = site.root_hash;
        assert_eq!(verity_table(&site, 0), format!("1 /dev/dm-0 /dev/dm-0 4096 4096 100 101 sha256 {root} - 1 panic_on_corruption"));
    }

    #[test]
    fn sizes_are_checked_before_anything_is_mapped() {
        let mut site = site();
        site.root_blocks = 100;
        let needed = DATA_OFFSET + segment_bytes(100);
        let disk = |bytes| Disk { device: "/dev/vda".into(), bytes };
        assert!(check_size(&site, &disk(needed)).is_ok());
        assert!(matches!(check_size(&site, &disk(needed - 1)), Err(UnlockError::TooShort { .. })));
        site.root_blocks = u64::MAX;
        assert!(matches!(check_size(&site, &disk(u64::MAX)), Err(UnlockError::Range { .. })));
        site.root_blocks = 100;
        site.kit = Some(KitRef { offset: u64::MAX, size: 8, digest: Sha256Digest::of(b"") });
        assert!(matches!(check_size(&site, &disk(needed)), Err(UnlockError::TooShort { .. })));
        site.kit = Some(KitRef { offset: 0, size: u64::MAX, digest: Sha256Digest::of(b"") });
        assert!(matches!(check_size(&site, &disk(needed)), Err(UnlockError::Range { .. })));
    }

    #[test]
    fn a_kit_opens_from_its_place_on_the_disk_and_from_no_other() {
        let mut site = site();
        let key = KitKey::new([3; 32]);
        let sealed = seal_kit(&key, &site.disk_uuid, [4; 12], b"tar").expect("small");
        let disk = tempfile::NamedTempFile::new().expect("tempfile");
        disk.as_file().write_all_at(&sealed.bytes, 4096).expect("write");
        site.kit = Some(KitRef { offset: 4096, size: sealed.bytes.len() as u64, digest: sealed.digest });
        let kit = read_kit(&site, disk.path(), Some(&key)).expect("opens").expect("there");
        assert_eq!(kit.as_slice(), b"tar");
        assert!(matches!(read_kit(&site, disk.path(), None), Err(UnlockError::NoKitKey)));
        disk.as_file().write_all_at(&[0xff], 4100).expect("write");
        assert!(matches!(read_kit(&site, disk.path(), Some(&key)), Err(UnlockError::Kit(_))));
    }
}
