//! Whole base builds from made-up packages: no network, no tools, the same bytes on every machine.

use std::fs;
use std::path::{Path, PathBuf};

use coffer_manifest::{BaseRoot, Sha256Digest};

use super::build::{self, Built, Plan};
use super::error::BaseError;
use super::inputs::Source;
use super::lock::BaseLock;
use super::shapes::ShapeArgs;
use crate::failure::Hint;
use crate::ui::Ui;

/// A volume of two pages whose end is a footer table: reset block, hash table, SEV metadata with one section.
fn firmware() -> Vec<u8> {
    let guid = |text: &str| -> Vec<u8> {
        let f: Vec<Vec<u8>> =
            text.split('-').map(|f| (0..f.len()).step_by(2).map(|i| u8::from_str_radix(&f[i..i + 2], 16).unwrap()).collect()).collect();
        f[..3].iter().flat_map(|f| f.iter().rev().copied()).chain(f[3..].concat()).collect()
    };
    let entry = |data: &[u32], name: &str| {
        let data: Vec<u8> = data.iter().flat_map(|w| w.to_le_bytes()).collect();
        let length = (data.len() as u16 + 18).to_le_bytes();
        [data, length.to_vec(), guid(name)].concat()
    };
    let entries = [
        entry(&[0x80_b004], "00f771de-1a7e-4fcb-890e-68c77e2fb44e"),
        entry(&[0x81_0c00, 0x400], "7255371f-3a3b-4b04-927b-1da6efa8d454"),
        entry(&[0x800], "dc886566-984a-4798-a75e-5585a7bf67cc"),
    ]
    .concat();
    let length = (entries.len() as u16 + 18).to_le_bytes();
    let table = [&entries[..], &length, &guid("96b582de-1fb2-45f7-baea-a366c55a082d")].concat();
    let metadata: Vec<u8> = [28_u32, 1, 1, 0x81_0000, 0x1000, 0x10].iter().flat_map(|w| w.to_le_bytes()).collect();
    let mut image = vec![0; 0x2000];
    image[0x20..0x28].copy_from_slice(&0x2000_u64.to_le_bytes());
    image[0x28..0x2c].copy_from_slice(b"_FVH");
    image[0x1800..0x1804].copy_from_slice(b"ASEV");
    image[0x1804..0x1804 + metadata.len()].copy_from_slice(&metadata);
    image[0x2000 - 32 - table.len()..0x2000 - 32].copy_from_slice(&table);
    image
}

/// A static program of one empty segment.
fn init() -> Vec<u8> {
    let mut elf = vec![0; 64 + 56];
    elf[..6].copy_from_slice(b"\x7fELF\x02\x01");
    elf[18] = 62;
    elf[32] = 64;
    elf[54] = 56;
    elf[56] = 1;
    elf[64] = 1; // PT_LOAD
    elf
}

/// A package whose kernel has every module built in, with this configuration.
fn kernel_deb(config: &str) -> Vec<u8> {
    let mut vmlinuz = vec![0; 0x400];
    vmlinuz[0x202..0x206].copy_from_slice(b"HdrS");
    let names = "virtio_blk dm_mod dm_crypt dm_verity squashfs overlay xts aesni_intel sha256_ssse3 virtio_net configfs qemu_fw_cfg \
        button evdev virtio_pci virtio_console ext4 tsm sev_guest";
    let builtin: String = names.split_whitespace().map(|name| format!("kernel/{name}.ko\n")).collect();
    let mut tar = tar::Builder::new(Vec::new());
    for (path, data) in [
        ("boot/vmlinuz-9.9-test", &vmlinuz[..]),
        ("boot/config-9.9-test", config.as_bytes()),
        ("usr/lib/modules/9.9-test/modules.builtin", builtin.as_bytes()),
    ] {
        let mut header = tar::Header::new_gnu();
        header.set_size(data.len() as u64);
        header.set_mode(0o644);
        tar.append_data(&mut header, path, data).unwrap();
    }
    let tar = tar.into_inner().unwrap();
    let header = format!("{:<16}{:<12}{:<6}{:<6}{:<8}{:<10}`\n", "data.tar", 0, 0, 0, 644, tar.len());
    [b"!<arch>\n", header.as_bytes(), &tar].concat()
}

/// A folder with every input and a lock that pins them.
struct Inputs {
    dir: tempfile::TempDir,
    lock: BaseLock,
}

impl Inputs {
    fn new(config: &str) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let (deb, fd) = (kernel_deb(config), firmware());
        for (name, data) in [("kernel.deb", &deb), ("OVMF.fd", &fd), ("init", &init())] {
            fs::write(dir.path().join(name), data).unwrap();
        }
        let pins = [deb, Vec::new(), fd].map(|data| Sha256Digest::of(&data).to_string());
        let mut pins = pins.iter();
        let mut text = String::new();
        for line in BaseLock::compiled_in().unwrap().render().lines() {
            match line.split_once(" = \"").filter(|(key, _)| key.ends_with("sha256")) {
                Some((key, _)) => text += &format!("{key} = \"{}\"\n", pins.next().unwrap()),
                None => text += &format!("{line}\n"),
            }
        }
        Self { lock: BaseLock::parse("test", &text).unwrap(), dir }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    fn build(&self, root: BaseRoot, unlocked: bool) -> Result<Built, BaseError> {
        let shapes = ShapeArgs::none();
        let source = Source {
            kernel_deb: Some(self.path("kernel.deb")),
            ovmf: Some(self.path("OVMF.fd")),
            offline: true,
            unlocked,
            cache: self.path("cache"),
            ui: Ui::new(true),
        };
        build::build(&Plan { root, init: self.path("init"), shapes }, &source, &self.lock)
    }

    /// The error of a production build, as `main` prints it: text and hint.
    fn refused(&self) -> String {
        let error = self.build(BaseRoot::AmdSevSnp, false).err().expect("a refusal");
        format!("{error}; hint: {}", error.hint().unwrap_or_default())
    }
}

const PRODUCTION: &str = "CONFIG_SEV_GUEST=m\n";

/// Compares with a committed file; `BLESS=1` writes it.
fn assert_golden(name: &str, got: &[u8]) {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("src/base/testdata").join(name);
    if std::env::var_os("BLESS").is_some() {
        return fs::write(&path, got).unwrap();
    }
    let golden = String::from_utf8(fs::read(&path).unwrap()).unwrap();
    assert_eq!(String::from_utf8(got.to_vec()).unwrap(), golden, "run BLESS=1 cargo test and review the diff");
}

#[test]
fn a_base_is_the_golden_one() {
    let built = Inputs::new(PRODUCTION).build(BaseRoot::AmdSevSnp, false).unwrap();
    assert_golden("base.json", &built.files["base.json"]);
    let other = Inputs::new(PRODUCTION).build(BaseRoot::AmdSevSnp, false).unwrap();
    assert_eq!(built.files, other.files);
    assert_eq!(built.files.keys().copied().collect::<Vec<_>>(), ["OVMF.amdsev.fd", "base.json", "initrd.img", "vmlinuz"]);
}

#[test]
fn the_initrd_holds_pid_1_and_nothing_of_this_machine() {
    let built = Inputs::new(PRODUCTION).build(BaseRoot::AmdSevSnp, false).unwrap();
    let cpio = zstd::stream::decode_all(&built.files["initrd.img"][..]).unwrap();
    let mut names = Vec::new();
    let mut at = 0;
    while cpio[at..].starts_with(b"070701") {
        let field = |i: usize| u32::from_str_radix(std::str::from_utf8(&cpio[at + 6 + 8 * i..][..8]).unwrap(), 16).unwrap() as usize;
        let (uid, gid, mtime, size, name_size) = (field(2), field(3), field(5), field(6), field(11));
        assert_eq!((uid, gid, mtime), (0, 0, 0));
        names.push(String::from_utf8(cpio[at + 110..][..name_size - 1].to_vec()).unwrap());
        at = ((at + 110 + name_size).next_multiple_of(4) + size).next_multiple_of(4);
    }
    assert_eq!(names, ["dev", "modules", "proc", "run", "sys", "dev/console", "init", "TRAILER!!!"]);
}

#[test]
fn a_simulated_base_says_so() {
    let inputs = Inputs::new("# CONFIG_SEV_GUEST is not set\n");
    let built = inputs.build(BaseRoot::Simulated, false).unwrap();
    assert_eq!(built.document.root, BaseRoot::Simulated);
    let text = inputs.refused();
    assert!(text.contains("kernel 9.9-test was built without CONFIG_SEV_GUEST") && text.contains("`--simulated`"), "{text}");
}

#[test]
fn wrong_firmware_is_refused_with_a_hint() {
    let whole = firmware();
    let mut no_hashes = whole.clone();
    no_hashes[0x1818] = 1; // the section's type
    let mut no_metadata = whole.clone();
    no_metadata[0x1800] = b'X';
    let mut no_footer = whole.clone();
    no_footer[0x2000 - 33] ^= 1;
    let cases: [(&[u8], &str); 6] = [
        (&whole[..0x1000], "is 4096 bytes long but holds whole firmware volumes of 0 bytes"),
        (&whole[0x1000..], "is 4096 bytes long but holds whole firmware volumes of 0 bytes"),
        (b"", "is 0 bytes long"),
        (&no_hashes, "no measured place for kernel hashes"),
        (&no_metadata, "signature is not ASEV"),
        (&no_footer, "OVMF footer table"),
    ];
    for (image, expected) in cases {
        let inputs = Inputs::new(PRODUCTION);
        fs::write(inputs.path("OVMF.fd"), image).unwrap();
        let text = inputs.refused();
        assert!(text.contains("OVMF.fd") && text.contains(expected) && text.contains("hint: the firmware is the whole"), "{text}");
    }
}

#[test]
fn inputs_are_held_against_the_lock() {
    let inputs = Inputs::new(PRODUCTION);
    let mut fd = firmware();
    fd[0x1000] ^= 1;
    fs::write(inputs.path("OVMF.fd"), &fd).unwrap();
    let text = inputs.refused();
    assert!(text.contains("is not the ovmf-amdsev") && text.contains("`coffer base lock --update`"), "{text}");
    assert!(text.contains(&Sha256Digest::of(&fd).to_string()) && text.contains(&Sha256Digest::of(&firmware()).to_string()), "{text}");
    assert!(inputs.build(BaseRoot::AmdSevSnp, true).is_ok());

    let inputs = Inputs::new(PRODUCTION);
    fs::write(inputs.path("kernel.deb"), kernel_deb("CONFIG_SEV_GUEST=y\n")).unwrap();
    assert!(inputs.refused().contains("kernel.deb is not the linux-image-"), "{}", inputs.refused());
}

#[test]
fn an_init_that_cannot_be_pid_1_is_refused() {
    let mut dynamic = init();
    dynamic[64] = 3; // PT_INTERP
    for (bytes, expected) in [(b"#!/bin/sh\n".to_vec(), "not an x86-64 program"), (dynamic, "not statically linked")] {
        let inputs = Inputs::new(PRODUCTION);
        fs::write(inputs.path("init"), bytes).unwrap();
        assert!(inputs.refused().contains(expected), "{}", inputs.refused());
    }
    let inputs = Inputs::new(PRODUCTION);
    fs::remove_file(inputs.path("init")).unwrap();
    let text = inputs.refused();
    assert!(text.contains("no PID 1") && text.contains("guest-init/build.sh"), "{text}");
}

#[test]
fn offline_takes_the_cache_or_says_what_is_missing() {
    let inputs = Inputs::new(PRODUCTION);
    let source =
        |kernel_deb, ovmf| Source { kernel_deb, ovmf, offline: true, unlocked: false, cache: inputs.path("cache"), ui: Ui::new(true) };
    let missing = source(None, None).kernel(&inputs.lock).err().unwrap();
    assert!(missing.to_string().contains("neither given as a file nor in the cache"), "{missing}");
    assert!(missing.hint().unwrap().contains("`--kernel-deb FILE`"));
    fs::create_dir(inputs.path("cache")).unwrap();
    let cached = inputs.path(&format!("cache/{}.deb", inputs.lock.kernel.sha256));
    fs::write(&cached, "something else").unwrap();
    assert!(source(None, None).kernel(&inputs.lock).is_err());
    fs::copy(inputs.path("kernel.deb"), &cached).unwrap();
    assert_eq!(source(None, None).kernel(&inputs.lock).unwrap().data, kernel_deb(PRODUCTION));
}

#[test]
fn verify_names_what_differs() {
    let inputs = Inputs::new(PRODUCTION);
    let built = inputs.build(BaseRoot::AmdSevSnp, false).unwrap();
    let path = inputs.path("base.json");
    fs::write(&path, &built.files["base.json"]).unwrap();
    build::verify(&built, &path).unwrap();
    let simulated = inputs.build(BaseRoot::Simulated, false).unwrap();
    assert!(build::verify(&simulated, &path).unwrap_err().to_string().ends_with("base.json in root"));
    fs::write(inputs.path("init"), [init(), vec![0]].concat()).unwrap();
    let other = inputs.build(BaseRoot::AmdSevSnp, false).unwrap();
    assert!(build::verify(&other, &path).unwrap_err().to_string().ends_with("in init, launch_digests, initrd.img"));
}

#[test]
fn measure_agrees_until_a_file_changes() {
    let inputs = Inputs::new(PRODUCTION);
    let base = inputs.path("base");
    build::write(&inputs.build(BaseRoot::AmdSevSnp, false).unwrap(), &base).unwrap();
    let measure = || super::measure::run(&base, &ShapeArgs::none(), Ui::new(true));
    measure().unwrap();
    let initrd = base.join("initrd.img");
    let mut bytes = fs::read(&initrd).unwrap();
    bytes.push(0);
    fs::write(&initrd, &bytes).unwrap();
    let error = measure().unwrap_err().to_string();
    assert!(error.contains("initrd.img has sha256") && error.contains("base.json says"), "{error}");

    // A base.json with another digest, canonical and otherwise right.
    build::write(&inputs.build(BaseRoot::AmdSevSnp, false).unwrap(), &base).unwrap();
    let text = fs::read_to_string(base.join("base.json")).unwrap();
    let at = text.find("\"digest\":\"").unwrap() + 10;
    let flipped = if &text[at..=at] == "0" { "1" } else { "0" };
    fs::write(base.join("base.json"), format!("{}{flipped}{}", &text[..at], &text[at + 1..])).unwrap();
    let error = measure().unwrap_err().to_string();
    assert!(error.contains("for EPYC-v4 vcpus=1 guest-features=0x1, its files measure to"), "{error}");
}
