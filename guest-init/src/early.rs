//! Step 1 of the boot: pseudo file systems, kernel modules, kernel settings.

use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};

use rustix::fs::{Mode, mkdir};
use rustix::io::Errno;
use rustix::mount::{MountFlags, mount};
use rustix::system::finit_module;

/// Where the initrd keeps its modules, named in load order.
const MODULES: &str = "/modules";

/// Step 1 did not work.
#[derive(Debug, thiserror::Error)]
pub enum EarlyError {
    /// A pseudo file system does not mount.
    #[error("cannot mount {what} on {target}: {errno}")]
    Mount {
        /// File system type.
        what: &'static str,
        /// Where.
        target: &'static str,
        /// What the kernel says.
        errno: Errno,
    },
    /// The module folder or a file in it cannot be read.
    #[error("cannot read {}: {source}", path.display())]
    Read {
        /// Which one.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// A kernel setting does not take.
    #[error("{} is `{got}`, expected `{value}`", path.display())]
    Setting {
        /// Its file.
        path: PathBuf,
        /// What it is.
        got: String,
        /// What was written.
        value: &'static str,
    },
    /// The kernel refuses a module.
    #[error("kernel refuses module {}: {errno}", path.display())]
    Module {
        /// Which one.
        path: PathBuf,
        /// Why.
        errno: Errno,
    },
}

/// Mounts /proc, /sys, /dev, /run, /tmp and /mnt, each where the initrd has its empty folder, made if it is missing.
pub fn mount_pseudo_filesystems() -> Result<(), EarlyError> {
    let strict = MountFlags::NOSUID | MountFlags::NODEV | MountFlags::NOEXEC;
    let table: [(&'static str, &'static str, MountFlags, &str); 6] = [
        ("proc", "/proc", strict, ""),
        ("sysfs", "/sys", strict, ""),
        ("devtmpfs", "/dev", MountFlags::NOSUID | MountFlags::NOEXEC, "mode=0755"),
        ("tmpfs", "/run", strict, "mode=0755,size=16m"),
        ("tmpfs", "/tmp", strict, "mode=0700,size=16m"),
        ("tmpfs", "/mnt", strict, "mode=0755,size=1m"),
    ];
    for (what, target, flags, data) in table {
        let data = std::ffi::CString::new(data).unwrap_or_default();
        make_folder(target)
            .and_then(|()| match mount(what, target, what, flags, data.as_c_str()) {
                // The kernel may have mounted /dev itself.
                Err(Errno::BUSY) if target == "/dev" => Ok(()),
                other => other,
            })
            .map_err(|errno| EarlyError::Mount { what, target, errno })?;
    }
    Ok(())
}

/// Kernel settings that close doors nobody here goes through; written after the modules are loaded. Where the kernel has no
/// such setting there is no such door.
const SETTINGS: [(&str, &str); 11] = [
    // Soon there are secrets, and the console is the host's: from here on the kernel's own words (an oops prints registers, a
    // panic what was not printed yet) go nowhere. 0 is the one level that a panic does not raise; the rest are the defaults.
    ("kernel/printk", "0\t4\t1\t7"),
    // Nothing after the initrd's own list, whoever asks.
    ("kernel/modules_disabled", "1"),
    ("kernel/kexec_load_disabled", "1"),
    // The serial line, and with it the magic keys, is the host's.
    ("kernel/sysrq", "0"),
    ("kernel/dmesg_restrict", "1"),
    ("kernel/kptr_restrict", "2"),
    ("kernel/perf_event_paranoid", "3"),
    ("kernel/unprivileged_bpf_disabled", "1"),
    // In a user namespace of its own a workload without rights has them all, over everything in the kernel that asks for no
    // more than that; and io_uring is a second way to most system calls. Container engines close both by default.
    ("user/max_user_namespaces", "0"),
    ("kernel/io_uring_disabled", "2"),
    // A core dump would be written where the workload's limits do not reach.
    ("kernel/core_pattern", "/dev/null"),
];

/// Writes the settings, and reads each back: a kernel that ignores one should not go unnoticed.
pub fn harden() -> Result<(), EarlyError> {
    for (name, value) in SETTINGS {
        let path = Path::new("/proc/sys").join(name);
        match fs::write(&path, value) {
            Err(source) if source.kind() == io::ErrorKind::NotFound => continue,
            // unprivileged_bpf_disabled cannot be changed any more once it is 1, which is what we want.
            Ok(()) | Err(_) => {}
        }
        let got = fs::read_to_string(&path).map_err(|source| EarlyError::Read { path: path.clone(), source })?;
        if got.trim() != value {
            return Err(EarlyError::Setting { path, got: got.trim().to_owned(), value });
        }
    }
    Ok(())
}

/// Makes a folder, content if it is there already.
pub fn make_folder(path: &str) -> Result<(), Errno> {
    match mkdir(path, Mode::from_raw_mode(0o755)) {
        Ok(()) | Err(Errno::EXIST) => Ok(()),
        Err(errno) => Err(errno),
    }
}

/// Loads the initrd's modules in name order, then frees the memory they took.
///
/// A module whose hardware is absent (ENODEV: sev-guest without SEV-SNP, aesni-intel without AES) or that is built in
/// already (EEXIST) is passed over: what really misses shows in the stage that needs it.
pub fn load_modules() -> Result<(), EarlyError> {
    for path in modules_in(Path::new(MODULES))? {
        let file = File::open(&path).map_err(|source| EarlyError::Read { path: path.clone(), source })?;
        match finit_module(&file, c"", 0) {
            Ok(()) | Err(Errno::NODEV | Errno::EXIST) => {}
            Err(errno) => return Err(EarlyError::Module { path, errno }),
        }
        drop(file);
        // The initrd is memory; a module that stays costs only that.
        let _ = fs::remove_file(&path);
    }
    // configfs is a module here and mounts where sysfs made it a place; without it reports come from /dev/sev-guest.
    let _ = mount("configfs", "/sys/kernel/config", "configfs", MountFlags::NOSUID | MountFlags::NODEV | MountFlags::NOEXEC, c"");
    Ok(())
}

fn modules_in(folder: &Path) -> Result<Vec<PathBuf>, EarlyError> {
    let unreadable = |source| EarlyError::Read { path: folder.to_owned(), source };
    let entries = fs::read_dir(folder).map_err(unreadable)?;
    let mut paths = entries.map(|entry| entry.map(|e| e.path())).collect::<Result<Vec<_>, _>>().map_err(unreadable)?;
    paths.retain(|path| path.extension().is_some_and(|e| e == "ko"));
    paths.sort();
    Ok(paths)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn modules_come_in_name_order() {
        let dir = tempfile::tempdir().expect("tempdir");
        for name in ["10-b.ko", "02-z.ko", "01-a.ko", "notes.txt"] {
            fs::write(dir.path().join(name), "").expect("write");
        }
        let names: Vec<_> = modules_in(dir.path())
            .expect("readable")
            .into_iter()
            .filter_map(|p| p.file_name().map(|n| n.to_string_lossy().into_owned()))
            .collect();
        assert_eq!(names, ["01-a.ko", "02-z.ko", "10-b.ko"]);
    }

    #[test]
    fn a_missing_folder_is_named() {
        let error = modules_in(Path::new("/nonexistent/modules")).expect_err("missing");
        assert!(error.to_string().contains("/nonexistent/modules"), "{error}");
    }
}
