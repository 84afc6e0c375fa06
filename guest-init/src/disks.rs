//! Finding a bundle's disks: by the serial number that launch_vm.sh gives each, never by their order.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

/// Where the kernel lists virtio disks and their serial numbers.
const BLOCK: &str = "/sys/block";
/// How long a disk's driver may take to show it.
const PATIENCE: Duration = Duration::from_secs(10);

/// `crypt_root`.
pub const ROOT: &str = "coffer-root";
/// `applog`.
pub const APPLOG: &str = "coffer-applog";
/// `user_config`.
pub const USER_CONFIG: &str = "coffer-config";
/// `user_data`.
pub const USER_DATA: &str = "coffer-data";

/// A virtio disk.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Disk {
    /// `/dev/vdX`.
    pub device: PathBuf,
    /// Size in bytes, as the host says.
    pub bytes: u64,
}

/// The disk with this serial number, if the host attached one. The serial is the host's word: what is on the disk proves
/// itself (root, kit) or is untrusted anyway (the others).
pub fn find(serial: &str) -> Option<Disk> {
    find_in(Path::new(BLOCK), serial)
}

/// [`find`], waiting for the disk to appear.
pub fn await_disk(serial: &str) -> Option<Disk> {
    let deadline = Instant::now() + PATIENCE;
    loop {
        match find(serial) {
            None if Instant::now() < deadline => std::thread::sleep(Duration::from_millis(50)),
            found => return found,
        }
    }
}

fn find_in(block: &Path, serial: &str) -> Option<Disk> {
    let mut names: Vec<_> = fs::read_dir(block).ok()?.flatten().map(|entry| entry.file_name()).collect();
    names.sort();
    names.into_iter().filter_map(|name| name.into_string().ok()).filter(|name| name.starts_with("vd")).find_map(|name| {
        let read = |file: &str| fs::read_to_string(block.join(&name).join(file)).ok();
        if read("serial")?.trim() != serial {
            return None;
        }
        // 512-byte sectors, whatever the disk's own sectors are.
        let sectors: u64 = read("size")?.trim().parse().ok()?;
        Some(Disk { device: Path::new("/dev").join(&name), bytes: sectors.checked_mul(512)? })
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn disks_are_found_by_serial() {
        let dir = tempfile::tempdir().expect("tempdir");
        for (name, serial) in [("vda", "coffer-applog"), ("vdb", "coffer-root\n"), ("sda", "coffer-data"), ("vdc", "")] {
            let disk = dir.path().join(name);
            fs::create_dir(&disk).expect("mkdir");
            fs::write(disk.join("serial"), serial).expect("write");
            fs::write(disk.join("size"), "2048\n").expect("write");
        }
        let root = Disk { device: "/dev/vdb".into(), bytes: 1 << 20 };
        assert_eq!(find_in(dir.path(), ROOT), Some(root));
        assert_eq!(find_in(dir.path(), USER_DATA), None);
        assert_eq!(find_in(Path::new("/nonexistent"), ROOT), None);
    }
}
