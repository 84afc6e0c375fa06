//! Step 5 of the boot, second half: the container's root as the workload will see it, built under `/mnt/root`.
//!
//! PID 1 itself stays in the initrd: it runs nothing from the container. The workload's own mount namespace makes this tree
//! its `/` and lets go of everything else (`workload/init.rs`).

pub mod tree;

use std::ffi::CString;
use std::fs::{self, File};
use std::net::Ipv4Addr;
use std::path::Path;

use coffer_manifest::{SiteConfig, User};
use rustix::fs::{CWD, FileType, Mode, makedev, mknodat, symlinkat};
use rustix::io::Errno;
use rustix::mount::{MountFlags, UnmountFlags, mount, mount_bind, mount_move, mount_remount, unmount};

use self::tree::{Access, Tree, TreeError, open_log, proc_path};
use crate::early::make_folder;
use crate::keys::{self, KeysError, NodeSecret};
use crate::kit::{self, KitError};
use crate::network::resolv_conf;
use crate::unlock::{Kit, Volume};
use crate::{agent, console, disks, node_key};

/// The container's root, while it is built and until the workload's namespace moves it.
pub const ROOT: &str = "/mnt/root";
const LOWER: &str = "/mnt/lower";
const WRITABLE: &str = "/mnt/writable";
const APPLOG: &str = "/mnt/applog";
/// A place to prepare a file system before it is moved to where the container sees it.
const STAGING: &str = "/mnt/staging";
/// The folder of `applog` that the container sees as `/applog`. PID 1's own logs lie beside it, out of its reach.
const APPLOG_FOLDER: &str = "workload";
/// How much of the guest's memory each of the container's memory file systems may take.
const SHARE_OF_MEMORY: &str = "50%";

const HARMLESS: MountFlags = MountFlags::NOSUID.union(MountFlags::NODEV).union(MountFlags::NOEXEC);
/// For disks of the host's on which no links are expected: one to the kit would make a workload read its keys where it expects
/// settings, and say in its log what is wrong with them; one in place of a log would make it write over its own files.
const NO_LINKS: MountFlags = HARMLESS.union(MountFlags::NOSYMFOLLOW);

/// The container's root could not be built.
#[derive(Debug, thiserror::Error)]
pub enum RootError {
    /// A file system does not mount.
    #[error("cannot mount {what}: {errno}")]
    Mount {
        /// Which one.
        what: &'static str,
        /// Why.
        errno: Errno,
    },
    /// A device node or link of `/dev` cannot be made.
    #[error("cannot make /dev/{name}: {errno}")]
    Device {
        /// Its name.
        name: &'static str,
        /// Why.
        errno: Errno,
    },
    /// A path in the container's root.
    #[error(transparent)]
    Tree(#[from] TreeError),
    /// The kit.
    #[error(transparent)]
    Kit(#[from] KitError),
    /// No random number for the node key's file.
    #[error(transparent)]
    Keys(#[from] KeysError),
}

fn mounting(what: &'static str) -> impl FnOnce(Errno) -> RootError {
    move |errno| RootError::Mount { what, errno }
}

/// The finished root.
pub struct Root {
    /// The container's file system.
    pub tree: Tree,
    /// Where the workload's output goes; none if there is no usable `applog`.
    pub workload_log: Option<File>,
}

/// Builds the container's root: verified file system, writable layer, devices, disks, kit, generated files.
pub fn assemble(
    site: &SiteConfig,
    volume: &Volume,
    kit: Option<Kit>,
    resolvers: &[Ipv4Addr],
    node: &NodeSecret,
) -> Result<Root, RootError> {
    mount_overlay(&volume.device)?;
    let tree = Tree::open(ROOT)?;
    mount_devices(&tree)?;
    mount_cpu_info(&tree)?;
    mount_temporary(&tree)?;
    let workload_log = mount_applog(site, &tree)?;
    mount_site_disk(&tree, "user_config", disks::USER_CONFIG, NO_LINKS)?;
    // Data sets are made of links, often.
    mount_site_disk(&tree, "user_data", disks::USER_DATA, HARMLESS)?;
    // /proc needs the workload's own pid namespace; here is only its place.
    tree.folder("proc")?;
    if let Some(kit) = kit {
        kit::unpack(&kit, &tree)?;
    }
    tree.write("etc/hosts", hosts(site).as_bytes(), Access::root(0o644))?;
    tree.write("etc/resolv.conf", resolv_conf(resolvers).as_bytes(), Access::root(0o644))?;
    tree.write("etc/hostname", format!("{}\n", site.site).as_bytes(), Access::root(0o644))?;
    tree.folder(&site.container.workdir)?;
    mount_agent(&tree)?;
    if keys::has_node(site) {
        write_node_key(&tree, &site.container.user, node)?;
    }
    Ok(Root { workload_log, tree })
}

/// A folder of memory for what PID 1 gives the workload. After the kit: nothing of the project's lies in it.
fn mount_agent(tree: &Tree) -> Result<(), RootError> {
    let target = tree.folder(agent::FOLDER)?;
    mount("tmpfs", proc_path(&target), "tmpfs", HARMLESS, c"mode=0755,size=256k,nr_inodes=64").map_err(mounting("/run/coffer"))
}

/// The node key, born in this guest: for the workload's user alone, and not on any disk.
fn write_node_key(tree: &Tree, user: &User, node: &NodeSecret) -> Result<(), RootError> {
    let check = u32::from_be_bytes(*keys::random()?);
    let private = node_key::openssh_private(node.expose(), node.public(), check);
    let access = |mode| Access { mode, uid: user.uid, gid: user.gid };
    tree.write(&format!("{}/node_key", agent::FOLDER), private.as_bytes(), access(0o400))?;
    let public = node_key::openssh_public(node.public());
    Ok(tree.write(&format!("{}/node_key.pub", agent::FOLDER), public.as_bytes(), access(0o444))?)
}

/// The image, read-only and verified, under a layer of memory.
fn mount_overlay(device: &Path) -> Result<(), RootError> {
    for folder in [LOWER, WRITABLE, ROOT] {
        make_folder(folder).map_err(mounting("the root's parts"))?;
    }
    let read_only = MountFlags::RDONLY | MountFlags::NODEV;
    mount(device, LOWER, "squashfs", read_only, c"").map_err(mounting("the root file system"))?;
    mount("tmpfs", WRITABLE, "tmpfs", MountFlags::NODEV, &*tmpfs_options("0700")).map_err(mounting("the writable layer"))?;
    // The container's `/` has the permissions of the upper folder.
    let (upper, work) = (format!("{WRITABLE}/upper"), format!("{WRITABLE}/work"));
    for folder in [&upper, &work] {
        make_folder(folder).map_err(mounting("the writable layer"))?;
    }
    let options = format!("lowerdir={LOWER},upperdir={upper},workdir={work}");
    let options = CString::new(options).unwrap_or_default();
    mount("overlay", ROOT, "overlay", MountFlags::NODEV, &*options).map_err(mounting("the overlay"))
}

fn tmpfs_options(mode: &str) -> CString {
    CString::new(format!("mode={mode},size={SHARE_OF_MEMORY}")).unwrap_or_default()
}

/// A `/dev` of eight harmless devices. No disk, no virtio port, no sev-guest, no device mapper.
fn mount_devices(tree: &Tree) -> Result<(), RootError> {
    stage("tmpfs", MountFlags::NOSUID | MountFlags::NOEXEC, c"mode=0755,size=1m", "/dev")?;
    let nodes = [("null", 1, 3), ("zero", 1, 5), ("full", 1, 7), ("random", 1, 8), ("urandom", 1, 9), ("tty", 5, 0)];
    for (name, major, minor) in nodes {
        let path = format!("{STAGING}/{name}");
        mknodat(CWD, &path, FileType::CharacterDevice, Mode::from_raw_mode(0o666), makedev(major, minor))
            // mknod's mode went through the umask.
            .and_then(|()| rustix::fs::chmod(&path, Mode::from_raw_mode(0o666)))
            .map_err(|errno| RootError::Device { name, errno })?;
    }
    let links = [
        ("fd", "/proc/self/fd"),
        ("stdin", "/proc/self/fd/0"),
        ("stdout", "/proc/self/fd/1"),
        ("stderr", "/proc/self/fd/2"),
        ("ptmx", "pts/ptmx"),
    ];
    for (name, target) in links {
        symlinkat(target, CWD, format!("{STAGING}/{name}")).map_err(|errno| RootError::Device { name, errno })?;
    }
    let (pts, shm) = (format!("{STAGING}/pts"), format!("{STAGING}/shm"));
    for folder in [&pts, &shm] {
        make_folder(folder).map_err(mounting("/dev"))?;
    }
    mount("devpts", &*pts, "devpts", MountFlags::NOSUID | MountFlags::NOEXEC, c"newinstance,ptmxmode=0666,mode=0620,gid=5")
        .map_err(mounting("/dev/pts"))?;
    mount("shm", &*shm, "tmpfs", HARMLESS, &*tmpfs_options("1777")).map_err(mounting("/dev/shm"))?;
    move_to(tree, "dev", "/dev")
}

/// A `/sys` of nothing but the processors, which run-time libraries count. No firmware tables, no disks, no ports.
fn mount_cpu_info(tree: &Tree) -> Result<(), RootError> {
    stage("tmpfs", HARMLESS, c"mode=0755,size=1m", "/sys")?;
    for part in ["devices/system/cpu", "devices/system/node"] {
        let source = format!("/sys/{part}");
        if !Path::new(&source).is_dir() {
            continue;
        }
        let target = format!("{STAGING}/{part}");
        fs::create_dir_all(&target).map_err(|error| mounting("/sys")(Errno::from_io_error(&error).unwrap_or(Errno::IO)))?;
        mount_bind(&source, &target).map_err(mounting("/sys"))?;
        mount_remount(&target, MountFlags::BIND | MountFlags::RDONLY | HARMLESS, c"").map_err(mounting("/sys"))?;
    }
    mount_remount(STAGING, MountFlags::BIND | MountFlags::RDONLY | HARMLESS, c"").map_err(mounting("/sys"))?;
    move_to(tree, "sys", "/sys")
}

fn mount_temporary(tree: &Tree) -> Result<(), RootError> {
    let flags = MountFlags::NOSUID | MountFlags::NODEV;
    let target = tree.folder("tmp")?;
    mount("tmpfs", proc_path(&target), "tmpfs", flags, &*tmpfs_options("1777")).map_err(mounting("/tmp"))
}

/// Mounts `applog` and opens the logs in it. Without one, or with one that does not work, the guest runs and its logs are
/// lost: they are for the site, whose disk it is.
fn mount_applog(site: &SiteConfig, tree: &Tree) -> Result<Option<File>, RootError> {
    let target = tree.folder("applog")?;
    let Some(disk) = disks::find(disks::APPLOG) else {
        console::line("note: no applog disk, the logs of this run are not kept");
        return Ok(None);
    };
    make_folder(APPLOG).map_err(mounting("applog"))?;
    let mounted = mount(&disk.device, APPLOG, "ext4", NO_LINKS, c"errors=continue");
    let opened = mounted.and_then(|()| {
        console::log_to(open_log(APPLOG, "boot.log")?);
        open_log(APPLOG, "workload.log")
    });
    let log = match opened {
        Ok(log) => log,
        Err(errno) => {
            console::line(&format!("note: applog is not usable ({errno}), the logs of this run are not kept"));
            return Ok(None);
        }
    };
    if let Err(error) = share_applog(site, &target) {
        console::line(&format!("note: {error}; the container has no /applog"));
    }
    Ok(Some(log))
}

fn share_applog(site: &SiteConfig, target: &std::os::fd::OwnedFd) -> Result<(), RootError> {
    let user = &site.container.user;
    let own = Tree::open(APPLOG)?;
    own.make_folder(APPLOG_FOLDER, Access { mode: 0o755, uid: user.uid, gid: user.gid })?;
    let folder = own.folder(APPLOG_FOLDER)?;
    mount_bind(proc_path(&folder), proc_path(target)).map_err(mounting("/applog"))?;
    Ok(())
}

/// Mounts one of the site's own disks, if there is one. A disk that is there but does not mount ends the boot: a workload
/// that expects settings or data should not run for hours without them.
fn mount_site_disk(tree: &Tree, name: &'static str, serial: &str, flags: MountFlags) -> Result<(), RootError> {
    let target = tree.folder(name)?;
    let Some(disk) = disks::find(serial) else { return Ok(()) };
    // noload: the disk is read-only, so a journal could not be replayed.
    mount(&disk.device, proc_path(&target), "ext4", flags | MountFlags::RDONLY, c"noload,errors=continue").map_err(mounting(name))
}

fn hosts(site: &SiteConfig) -> String {
    let mut text = format!("127.0.0.1 localhost\n::1 localhost ip6-localhost ip6-loopback\n127.0.1.1 {}\n", site.site);
    // Where there is a gate, the workload's server is at this end of the way to it, whatever else has the name.
    let gate = site.gate.as_ref().map(|gate| gate.workload.name.as_str());
    if let Some(name) = gate {
        text.push_str(&format!("127.0.0.1 {name}\n"));
    }
    let others = site.network.hosts_entries.iter().filter(|(name, _)| gate.is_none_or(|gate| !name.eq_ignore_ascii_case(gate)));
    for (name, address) in others {
        text.push_str(&format!("{address} {name}\n"));
    }
    text
}

/// Mounts a new file system on [`STAGING`].
fn stage(kind: &str, flags: MountFlags, options: &std::ffi::CStr, what: &'static str) -> Result<(), RootError> {
    make_folder(STAGING).map_err(mounting(what))?;
    mount(kind, STAGING, kind, flags, options).map_err(mounting(what))
}

/// Moves what is mounted on [`STAGING`] to its place in the container.
fn move_to(tree: &Tree, path: &str, what: &'static str) -> Result<(), RootError> {
    let target = tree.folder(path)?;
    mount_move(STAGING, proc_path(&target)).map_err(mounting(what))
}

/// Unmounts `applog`, so that its ext4 is clean; nothing if it was never mounted.
pub fn release_applog() {
    // The container's /applog is a second mount of the same file system.
    let _ = unmount(format!("{ROOT}/applog"), UnmountFlags::DETACH);
    if unmount(APPLOG, UnmountFlags::empty()).is_err() {
        // Somebody still has a file open: leave the file system consistent at least.
        let _ = mount_remount(APPLOG, MountFlags::RDONLY | NO_LINKS, c"");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hosts_has_the_site_and_its_entries() {
        let mut site = crate::workload::tests::site("amd-sev-snp");
        site.network.hosts_entries.insert("superlink.demo.test".into(), std::net::IpAddr::from([10, 1, 2, 3]));
        let text = hosts(&site);
        assert!(text.starts_with("127.0.0.1 localhost\n"));
        assert!(text.contains("127.0.1.1 site-1\n") && text.ends_with("10.1.2.3 superlink.demo.test\n"), "{text}");
    }

    #[test]
    fn behind_a_gate_the_server_is_on_loopback_and_nowhere_else() {
        let mut site = crate::workload::tests::site("amd-sev-snp");
        site.gate = Some(crate::workload::tests::gate());
        site.network.hosts_entries.insert("Superlink.demo.test".into(), std::net::IpAddr::from([10, 1, 2, 3]));
        site.network.hosts_entries.insert("data.demo.test".into(), std::net::IpAddr::from([10, 1, 2, 4]));
        let text = hosts(&site);
        assert!(text.contains("127.0.0.1 superlink.demo.test\n10.1.2.4 data.demo.test\n"), "{text}");
        assert!(!text.contains("10.1.2.3"), "{text}");
    }

    #[test]
    fn the_node_key_is_the_workloads_alone() {
        use std::os::unix::fs::MetadataExt;
        let dir = tempfile::tempdir().expect("tempdir");
        let tree = Tree::open(&dir.path().to_string_lossy()).expect("opens");
        let node = crate::keys::BootKeys::generate().expect("keys").node;
        let user = User { uid: rustix::process::getuid().as_raw(), gid: rustix::process::getgid().as_raw(), groups: vec![] };
        write_node_key(&tree, &user, &node).expect("writes");
        let of = |name: &str| {
            let path = dir.path().join(agent::FOLDER).join(name);
            (fs::metadata(&path).expect("is there").mode() & 0o7777, fs::read_to_string(path).expect("text"))
        };
        let (mode, text) = of("node_key");
        assert!(mode == 0o400 && text.starts_with("-----BEGIN OPENSSH PRIVATE KEY-----\n"), "{mode:o}");
        let (mode, text) = of("node_key.pub");
        assert_eq!((mode, text), (0o444, node_key::openssh_public(node.public())));
    }
}
