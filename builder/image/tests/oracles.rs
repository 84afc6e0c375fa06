//! What independent programs say about a root disk: qemu-img, cryptsetup, veritysetup, another XTS, the kernel.

mod support;

use std::fs::File;
use std::os::unix::fs::{FileExt, FileTypeExt, MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use aes::cipher::KeyInit;
use coffer_image::container::{Container, ExtraKind, ExtraPath};
use coffer_image::root::{BuiltRoot, RootError, RootRequest, build_root};
use coffer_manifest::disk::{BLOCK_BYTES, DATA_OFFSET, DiskUuid, RootSecret, segment_bytes};
use coffer_manifest::{KitKey, SealedKit, open_kit, seal_kit};
use support::{Header, Image, Saved, Tar, left_in};
use tempfile::TempDir;
use xts_mode::{Xts128, get_tweak_default};

/// Virtual size of the disks here; a multiple of 2^30 would only take longer to unpack.
const DISK_BYTES: u64 = 64 << 20;
const CAPABILITY: &[u8] = b"\x01\0\0\x02\0\x04\0\0\0\0\0\0\0\0\0\0\0\0\0\0";

fn uuid() -> DiskUuid {
    DiskUuid::from_random([0x5a; 16])
}

fn kit() -> SealedKit {
    seal_kit(&KitKey::new([3; 32]), &uuid(), [4; 12], &[9; 100_000]).expect("seals")
}

/// An image with one of everything, and enough data for a tree of two levels.
fn image() -> Image {
    let noise: Vec<u8> = (0_u32..900_000).flat_map(|n| n.wrapping_mul(2_654_435_761).to_le_bytes()).collect();
    let owned = |kind, mode, uid, gid| Header { mode, uid, gid, ..Header::new(kind) };
    let layer = Tar::default()
        .entry("./", owned(b'5', 0o751, 0, 0), b"")
        .pax(&[("SCHILY.xattr.security.capability", CAPABILITY), ("SCHILY.xattr.user.note", b"line\n\0=end")])
        .entry("bin/ping", owned(b'0', 0o4755, 0, 0), b"ping")
        .pax(&[("SCHILY.xattr.user.dir", b"1"), ("SCHILY.xattr.user.large", &[b'x'; 50_000])])
        .entry("home", owned(b'5', 0o2775, 1000, 1001), b"")
        .entry("home/secret", owned(b'0', 0o600, 1000, 1001), b"mine")
        .pax(&[("uid", b"3000000000"), ("gid", b"70000"), ("mtime", b"4000000000.5")])
        .file("home/far", b"large numbers")
        .hard_link("home/again", "home/secret")
        .symlink("link", "home/secret")
        .entry("null", Header { device: (1, 3), mode: 0o666, ..Header::new(b'3') }, b"")
        .entry("disk", Header { device: (259, 70_000), mode: 0o660, ..Header::new(b'4') }, b"")
        .entry("pipe", owned(b'6', 0o620, 5, 5), b"")
        .file("empty", b"")
        .file("noise", &noise)
        .file("zeros", &[0; 1_000_000])
        .pax(&[("GNU.sparse.size", b"50000000"), ("GNU.sparse.map", b"49999990,3")])
        .file("sparse", b"end")
        .file(&"long/".repeat(19), b"");
    let layer = Tar([layer.0, Tar::default().pax(&[("path", &b"p/".repeat(200)[..399])]).file("x", b"deep").0].concat());
    Image::new([layer])
}

struct Built {
    directory: TempDir,
    disk: PathBuf,
    root: BuiltRoot,
}

fn build(container: &Container, secret: &RootSecret, kit: Option<&SealedKit>) -> Built {
    let directory = tempfile::tempdir().expect("a temporary directory");
    let disk = directory.path().join("crypt_root.qcow2");
    let root =
        build_root(RootRequest { container, scratch: directory.path(), out: &disk, virtual_size: DISK_BYTES, secret, uuid: &uuid(), kit })
            .expect("builds");
    Built { directory, disk, root }
}

fn run(program: &str, args: &[&dyn AsRef<std::ffi::OsStr>]) -> Output {
    Command::new(program)
        .args(args.iter().map(|arg| arg.as_ref()))
        .env("LC_ALL", "C")
        .output()
        .unwrap_or_else(|error| panic!("{program}: {error}"))
}

fn passes(program: &str, args: &[&dyn AsRef<std::ffi::OsStr>]) -> String {
    let output = run(program, args);
    let said = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    assert!(output.status.success(), "{program}: {} {}", said(&output.stdout), said(&output.stderr));
    said(&output.stdout)
}

/// The disk as qemu-img unpacks it, not this crate.
fn raw(built: &Built) -> PathBuf {
    passes("qemu-img", &[&"check", &"-f", &"qcow2", &built.disk]);
    let raw = built.directory.path().join("raw");
    passes("qemu-img", &[&"convert", &"-f", &"qcow2", &"-O", &"raw", &built.disk, &raw]);
    assert_eq!(raw.metadata().expect("is there").len(), DISK_BYTES);
    raw
}

/// The dm-crypt segment as another implementation of XTS decrypts it.
fn decrypted(built: &Built, raw: &Path, secret: &RootSecret) -> PathBuf {
    let mut segment = vec![0; segment_bytes(built.root.root_blocks) as usize];
    File::open(raw).expect("opens").read_exact_at(&mut segment, DATA_OFFSET).expect("reads");
    let key = secret.volume_key(&uuid());
    let cipher = |half: &[u8]| aes::Aes256::new_from_slice(half).expect("32 bytes");
    let xts = Xts128::new(cipher(&key.expose()[..32]), cipher(&key.expose()[32..]));
    for (sector, bytes) in (0_u128..).zip(segment.chunks_exact_mut(BLOCK_BYTES as usize)) {
        xts.decrypt_sector(bytes, get_tweak_default(sector * 8));
    }
    let plain = built.directory.path().join("plain");
    std::fs::write(&plain, segment).expect("writes");
    plain
}

#[test]
fn stock_tools_read_the_disk_as_the_format_says() {
    let secret = RootSecret::new([0xa5; 32]);
    let sealed = kit();
    let container = image().open().expect("opens");
    let built = build(&container, &secret, Some(&sealed));
    assert_eq!(left_in(built.directory.path()), ["crypt_root.qcow2"]);
    let raw = raw(&built);

    // cryptsetup: the header, the passphrase, the volume key, the segment.
    let dump = passes("cryptsetup", &[&"luksDump", &raw]);
    for line in [
        "Version:       \t2",
        &format!("UUID:          \t{}", uuid()),
        "cipher: aes-xts-plain64",
        "sector: 4096 [bytes]",
        "offset: 16777216 [bytes]",
        "Cipher key: 512 bits",
    ] {
        assert!(dump.contains(line), "`{line}` in {dump}");
    }
    assert!(dump.contains(&format!("length: {} [bytes]", segment_bytes(built.root.root_blocks))), "{dump}");
    let key_file = built.directory.path().join("s");
    std::fs::write(&key_file, secret.expose()).expect("writes");
    passes("cryptsetup", &[&"open", &"--test-passphrase", &"--key-file", &key_file, &raw]);
    let volume_key = built.directory.path().join("vk");
    passes(
        "cryptsetup",
        &[&"luksDump", &"--batch-mode", &"--dump-volume-key", &"--volume-key-file", &volume_key, &"--key-file", &key_file, &raw],
    );
    assert_eq!(std::fs::read(&volume_key).expect("written"), secret.volume_key(&uuid()).expose());
    std::fs::write(&key_file, [0; 32]).expect("writes");
    assert!(!run("cryptsetup", &[&"open", &"--test-passphrase", &"--key-file", &key_file, &raw]).status.success());
    // The second header alone is enough.
    let damaged = built.directory.path().join("damaged");
    std::fs::copy(&raw, &damaged).expect("copies");
    File::options().write(true).open(&damaged).expect("opens").write_all_at(&[0; 16384], 0).expect("writes");
    assert!(passes("cryptsetup", &[&"luksDump", &damaged]).contains(&uuid().to_string()));

    // veritysetup: every block, by the root hash; and not with one bit changed.
    let plain = decrypted(&built, &raw, &secret);
    let offset = format!("--hash-offset={}", built.root.root_blocks * BLOCK_BYTES);
    let hash = built.root.root_hash.to_string();
    passes("veritysetup", &[&"verify", &plain, &plain, &hash, &offset]);
    let dump = passes("veritysetup", &[&"dump", &plain, &offset]);
    for line in [
        "Hash type:       \t1",
        "Hash algorithm:  \tsha256",
        "Salt:            \t-",
        &format!("Data blocks:     \t{}", built.root.root_blocks),
    ] {
        assert!(dump.contains(line), "`{line}` in {dump}");
    }
    let file = File::options().read(true).write(true).open(&plain).expect("opens");
    let mut byte = [0];
    file.read_exact_at(&mut byte, 5000).expect("reads");
    file.write_all_at(&[byte[0] ^ 1], 5000).expect("writes");
    assert!(!run("veritysetup", &[&"verify", &plain, &plain, &hash, &offset]).status.success());

    // The kit.
    let place = built.root.kit.expect("a kit");
    assert_eq!((place.offset, place.size), (DATA_OFFSET + segment_bytes(built.root.root_blocks), sealed.bytes.len() as u64));
    let mut found = vec![0; place.size as usize];
    File::open(&raw).expect("opens").read_exact_at(&mut found, place.offset).expect("reads");
    assert_eq!(open_kit(&KitKey::new([3; 32]), &uuid(), &place.digest, &found).expect("opens").as_slice(), [9; 100_000]);
    assert_eq!(built.root.used_bytes, place.offset + place.size);
}

#[test]
fn the_kernel_mounts_the_tree_the_layers_make() {
    let secret = RootSecret::new([0xa5; 32]);
    let mut container = image().open().expect("opens");
    container.ensure(&[ExtraPath { path: "/applog".to_owned(), kind: ExtraKind::Directory, mode: 0o700 }]).expect("adds");
    let built = build(&container, &secret, None);
    let plain = decrypted(&built, &raw(&built), &secret);
    let Some(tree) = Mounted::new(&plain, built.directory.path()) else { return };
    let tree = tree.0.as_path();

    let meta = |path: &str| tree.join(path).symlink_metadata().unwrap_or_else(|error| panic!("{path}: {error}"));
    for (path, mode, uid, gid, mtime) in [
        ("", 0o751, 0, 0, 1_700_000_000),
        ("bin", 0o755, 0, 0, 0),
        ("bin/ping", 0o4755, 0, 0, 1_700_000_000),
        ("home", 0o2775, 1000, 1001, 1_700_000_000),
        ("home/secret", 0o600, 1000, 1001, 1_700_000_000),
        ("home/far", 0o644, 3_000_000_000, 70_000, 4_000_000_000),
        ("null", 0o666, 0, 0, 1_700_000_000),
        ("pipe", 0o620, 5, 5, 1_700_000_000),
        ("applog", 0o700, 0, 0, 0),
    ] {
        let found = meta(path);
        assert_eq!((found.permissions().mode() & 0o7777, found.uid(), found.gid(), found.mtime()), (mode, uid, gid, mtime), "{path}");
    }
    assert_eq!(meta("home/again").ino(), meta("home/secret").ino());
    assert_eq!(meta("home/secret").nlink(), 2);
    assert!(meta("null").file_type().is_char_device() && meta("disk").file_type().is_block_device() && meta("pipe").file_type().is_fifo());
    assert_eq!(meta("null").rdev(), rustix::fs::makedev(1, 3));
    assert_eq!(meta("disk").rdev(), rustix::fs::makedev(259, 70_000));
    assert_eq!(std::fs::read_link(tree.join("link")).expect("a link"), Path::new("home/secret"));
    for path in ["bin/ping", "home/far", "empty", "noise", "zeros", "sparse"] {
        let expected = container.read_file(&format!("/{path}"), 1 << 30).expect("reads").expect("is there");
        assert!(std::fs::read(tree.join(path)).expect("reads") == expected, "{path}");
    }
    assert_eq!(std::fs::read(tree.join(&"p/".repeat(200)[..399])).expect("reads the deepest"), b"deep");

    let xattr = |path: &str, name: &str| {
        let mut value = [0; 65536];
        rustix::fs::lgetxattr(tree.join(path), name, &mut value).map(|bytes| value[..bytes].to_vec())
    };
    assert_eq!(xattr("bin/ping", "security.capability").expect("survives"), CAPABILITY);
    assert_eq!(xattr("bin/ping", "user.note").expect("survives"), b"line\n\0=end");
    assert_eq!(xattr("home", "user.dir").expect("survives"), b"1");
    assert_eq!(xattr("home", "user.large").expect("survives").len(), 50_000);
    assert!(xattr("home/secret", "user.dir").is_err());
}

/// Holes of any size cost nothing but time.
#[test]
fn a_file_of_nine_gib_arrives_whole() {
    if std::env::var_os("COFFER_LONG").is_none() {
        println!("skipped: a file of 9 GiB, set COFFER_LONG=1");
        return;
    }
    let secret = RootSecret::new([0xa5; 32]);
    let sparse = Tar::default().pax(&[("GNU.sparse.size", b"9663676416"), ("GNU.sparse.map", b"0,1,9663676415,1")]).file("nine", b"az");
    let built = build(&Image::new([sparse]).open().expect("opens"), &secret, None);
    let plain = decrypted(&built, &raw(&built), &secret);
    let Some(tree) = Mounted::new(&plain, built.directory.path()) else { return };
    let nine = File::open(tree.0.join("nine")).expect("opens");
    assert_eq!(nine.metadata().expect("is there").len(), 9 << 30);
    let mut last = [0; 4096];
    nine.read_exact_at(&mut last, (9 << 30) - 4096).expect("reads");
    assert_eq!((last[4095], last[..4095].iter().any(|byte| *byte != 0)), (b'z', false));
}

/// A squashfs image mounted, or unpacked where there is no loop device.
struct Mounted(PathBuf, bool);

impl Mounted {
    fn new(image: &Path, directory: &Path) -> Option<Self> {
        let point = directory.join("mounted");
        std::fs::create_dir(&point).expect("creates");
        let output = run("mount", &[&"-o", &"loop,ro", &"-t", &"squashfs", &image, &point]);
        if output.status.success() {
            return Some(Self(point, true));
        }
        println!("no loop mount here, unpacking instead: {}", String::from_utf8_lossy(&output.stderr).trim());
        let output = run("unsquashfs", &[&"-no-progress", &"-force", &"-dest", &point, &image]);
        if output.status.success() {
            return Some(Self(point, false));
        }
        println!("skipped: unsquashfs needs root: {}", String::from_utf8_lossy(&output.stderr).trim());
        None
    }
}

impl Drop for Mounted {
    fn drop(&mut self) {
        if self.1 {
            run("umount", &[&self.0]);
        }
    }
}

#[test]
fn the_same_input_gives_the_same_disk_and_only_ciphertext_depends_on_the_secret() {
    let sealed = kit();
    let (one, other) = (RootSecret::new([1; 32]), RootSecret::new([2; 32]));
    let container = image().open().expect("opens");
    let gzipped = Image { gzip_outer: true, ..image() }.open().expect("opens");
    let first = build(&container, &one, Some(&sealed));
    let second = build(&gzipped, &one, Some(&sealed));
    let third = build(&container, &other, Some(&sealed));
    assert!(std::fs::read(&first.disk).expect("reads") == std::fs::read(&second.disk).expect("reads"));
    assert_eq!(first.root, third.root);
    let plain = |built: &Built, secret| std::fs::read(decrypted(built, &raw(built), secret)).expect("reads");
    assert!(plain(&first, &one) == plain(&third, &other), "the same plaintext, superblock and tree included");
    let (a, b) = (std::fs::read(raw(&first)).expect("reads"), std::fs::read(raw(&third)).expect("reads"));
    let equal = a.chunks(4096).zip(b.chunks(4096)).filter(|(a, b)| a == b && a.iter().any(|byte| *byte != 0)).count();
    // Blocks of the kit alone; it has a key of its own.
    assert!(equal as u64 <= sealed.bytes.len() as u64 / 4096 + 1, "{equal} blocks are equal");
}

#[test]
fn failures_leave_nothing_behind() {
    let secret = RootSecret::new([1; 32]);
    let saved: Saved = image().save();
    let container = saved.open().expect("opens");
    let directory = tempfile::tempdir().expect("a temporary directory");
    let out = directory.path().join("crypt_root.qcow2");
    let request = RootRequest {
        container: &container,
        scratch: directory.path(),
        out: &out,
        virtual_size: 17 << 20,
        secret: &secret,
        uuid: &uuid(),
        kit: None,
    };
    let error = build_root(request).expect_err("too small");
    assert!(matches!(error, RootError::TooSmall { size, needed } if needed > size), "{error}");
    assert!(error.to_string().contains("hint: set `root_drive_size` to 1 or more"), "{error}");
    assert_eq!(left_in(directory.path()), [""; 0]);

    // The archive shrinks under the build.
    File::options().write(true).open(&saved.archive).expect("opens").set_len(4096).expect("cuts");
    let error = build_root(RootRequest { virtual_size: DISK_BYTES, ..request }).expect_err("cannot read");
    assert!(matches!(error, RootError::Container(_)), "{error}");
    assert_eq!(left_in(directory.path()), [""; 0]);
}
