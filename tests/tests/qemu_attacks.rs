//! What an untrusted host can do to a bundle, and how each attempt ends: the guest stops, or the service refuses.

use std::fs;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::process::Command;
use std::thread::sleep;
use std::time::{Duration, Instant};

use coffer_manifest::disk::{BLOCK_BYTES, DATA_OFFSET};
use coffer_manifest::{HostData, SiteConfig};
use system_tests::lab::{Boot, Bundle, Lab, SECRET_MARK, Service, Site, run};
use system_tests::repo;

/// A site that would run if nothing were wrong with it, and its service.
fn enrolled() -> (Lab, Service, Bundle) {
    let lab = Lab::new();
    let service = lab.serve();
    let bundle = lab.build(&Site::default());
    lab.enroll(&bundle);
    (lab, service, bundle)
}

/// The guest booted, and the service named `code`; both sides have the same id.
fn assert_refused(boot: &Boot, service: &Service, code: &str) {
    boot.assert_failed("attest", &format!("cause={code} "));
    let line = boot.console.lines().find(|line| line.contains("failed stage=attest")).expect("checked above");
    let id = line.split("id=").nth(1).map(str::trim).expect("a refusal id");
    let log = service.log_text();
    assert!(id.len() >= 8 && log.contains(id), "the service's log does not have `{id}`:\n{log}");
}

#[test]
fn an_extra_member_in_the_initrd_boots_and_is_refused() {
    let (lab, service, bundle) = enrolled();
    let initrd = bundle.file("initrd.img");
    let mut bytes = fs::read(&initrd).expect("the initrd");
    bytes.resize(bytes.len().next_multiple_of(4), 0);
    bytes.extend(cpio_member("etc/extra", b"the host's own\n"));
    bytes.extend(cpio_member("TRAILER!!!", b""));
    fs::write(&initrd, bytes).expect("the initrd is replaced");
    assert_refused(&lab.boot(&bundle), &service, "launch_digest");
}

#[test]
fn an_extra_word_on_the_command_line_boots_and_is_refused() {
    let (lab, service, bundle) = enrolled();
    edit_script(&bundle, "readonly CMDLINE=", |line| {
        line.strip_suffix('\'').map(|line| format!("{line} extra=1'")).expect("a quoted command line")
    });
    assert_refused(&lab.boot(&bundle), &service, "launch_digest");
}

#[test]
fn another_kernel_boots_and_is_refused() {
    let (lab, service, bundle) = enrolled();
    let kernel = bundle.file("vmlinuz");
    let mut bytes = fs::read(&kernel).expect("the kernel");
    // Beyond the image's own end nothing reads it: another kernel by its digest, and it boots.
    bytes.extend([0x90; 512]);
    fs::write(&kernel, bytes).expect("the kernel is replaced");
    assert_refused(&lab.boot(&bundle), &service, "launch_digest");
}

#[test]
fn a_changed_file_under_the_old_hash_table_does_not_boot() {
    let (lab, _service, bundle) = enrolled();
    let before = lab.boot(&bundle);
    before.assert_ran();

    let initrd = bundle.file("initrd.img");
    let kept = lab.path("kept.img");
    fs::copy(&initrd, &kept).expect("a copy of the initrd");
    let mut bytes = fs::read(&initrd).expect("the initrd");
    bytes.extend([0; 4]);
    fs::write(&initrd, bytes).expect("the initrd is replaced");
    // Measures the file it was given before, while QEMU gets the new one.
    let simulator = repo::program("coffer-simulator");
    let text = format!("#!/bin/bash\nexec {} \"${{@/{}/{}}}\"\n", simulator.display(), shell_pattern(&initrd), shell_pattern(&kept));
    let liar = lab.script("old-table", &text);
    let running = lab.start(&bundle, &["--simulator".as_ref(), liar.as_os_str()]);
    sleep(before.took * 2 + Duration::from_secs(5));
    let console = running.console();
    drop(running);
    assert!(!console.contains("coffer-init") && !console.contains("Linux version"), "it booted:\n{console}");

    fs::copy(&kept, &initrd).expect("the initrd is back");
    lab.start(&bundle, &["--simulator".as_ref(), liar.as_os_str()]).wait().assert_ran();
}

#[test]
fn a_site_config_changed_in_the_file_only_is_refused_by_the_guest() {
    let (lab, _service, bundle) = enrolled();
    change_site_config(&bundle);
    lab.boot(&bundle).assert_failed("config", "cause=");
}

#[test]
fn a_site_config_changed_with_its_host_data_is_refused_by_the_service() {
    let (lab, service, bundle) = enrolled();
    let changed = change_site_config(&bundle);
    edit_script(&bundle, "readonly HOST_DATA=", |_| format!("readonly HOST_DATA='{changed}'"));
    assert_refused(&lab.boot(&bundle), &service, "host_data");
}

#[test]
fn a_root_block_changed_where_the_mount_reads_it_panics() {
    let (lab, _service, bundle) = enrolled();
    // The file system's superblock is its first block.
    corrupt_root(&lab, &bundle, |_blocks| 0);
    let boot = lab.boot(&bundle);
    assert_panicked(&boot);
    assert!(!boot.said_by_guest("stage=root"), "{boot:#?}");
}

#[test]
fn a_root_block_changed_where_the_workload_reads_it_panics() {
    let lab = Lab::new();
    let _service = lab.serve();
    let bundle = lab.build(&Site { script: "echo reading; cat /data/blob > /dev/null; echo read it all", ..Site::default() });
    lab.enroll(&bundle);
    // `/data/blob` is more than half of the image and does not compress: this block is in the midst of it.
    corrupt_root(&lab, &bundle, |blocks| blocks * 7 / 10);
    let boot = lab.boot(&bundle);
    assert_panicked(&boot);
    assert!(boot.said_by_guest("stage=root"), "the damage was met too early: {boot:#?}");
}

#[test]
fn a_host_that_offers_a_store_for_error_records_gets_no_kernel_log() {
    let (lab, _service, bundle) = enrolled();
    corrupt_root(&lab, &bundle, |_blocks| 0);
    let store = lab.path("erst");
    let device =
        format!("-object memory-backend-file,id=erst,share=on,size=256K,mem-path={} -device acpi-erst,memdev=erst", store.display());
    let qemu = lab.script("qemu", &format!("#!/bin/sh\nexec qemu-system-x86_64 \"$@\" {device}\n"));
    assert_panicked(&lab.start(&bundle, &["--qemu".as_ref(), qemu.as_os_str()]).wait());
    let store = fs::read(store).expect("the device's memory");
    assert!(store.starts_with(b"ERSTSTOR"), "the guest had no such device");
    // CPER: UEFI specification, appendix N. Each record begins so.
    assert!(memchr::memmem::find(&store, b"CPER").is_none(), "the guest's kernel left a record with the host");
}

#[test]
fn links_that_a_host_plants_on_its_disks_lead_nowhere() {
    let lab = Lab::new();
    let _service = lab.serve();
    let script = "cat /user_config/settings /applog/log; cat /etc/kit/node.key > /dev/null && echo it could read its key itself";
    let bundle = lab.build(&Site { script, ..Site::default() });
    lab.enroll(&bundle);
    edit_files(&lab, &bundle, "user_config", "symlink settings /etc/kit/node.key\n");
    edit_files(&lab, &bundle, "applog", "mkdir workload\nsymlink workload/log /etc/kit/node.key\n");
    lab.boot(&bundle).assert_ran();
    let logs = bundle.logs();
    assert!(logs.contains("it could read its key itself"), "{logs}");
    for link in ["/user_config/settings", "/applog/log"] {
        assert!(logs.contains(&format!("cat: can't open '{link}': Too many levels of symbolic links")), "{link}:\n{logs}");
    }
    assert!(!logs.contains(SECRET_MARK), "{logs}");
}

#[test]
fn an_older_disk_is_not_opened() {
    let lab = Lab::new();
    let _service = lab.serve();
    // Without a kit, whose digest the guest would compare first.
    let [older, newer] = ["older", "newer"].map(|name| lab.build(&Site { name, kit: false, ..Site::default() }));
    lab.enroll(&older);
    lab.enroll(&newer);
    fs::copy(older.file("crypt_root.qcow2"), newer.file("crypt_root.qcow2")).expect("the disk is replaced");
    let boot = lab.boot(&newer);
    assert_panicked(&boot);
    assert!(boot.said_by_guest("stage=attest") && !boot.said_by_guest("stage=root"), "{boot:#?}");
}

#[test]
fn an_older_kit_is_not_opened() {
    let lab = Lab::new();
    let _service = lab.serve();
    let [older, newer] = ["older", "newer"].map(|name| lab.build(&Site { name, ..Site::default() }));
    lab.enroll(&newer);
    fs::copy(older.file("crypt_root.qcow2"), newer.file("crypt_root.qcow2")).expect("the disk is replaced");
    lab.boot(&newer).assert_failed("unlock", "sealed kit has digest");
}

#[test]
fn a_changed_luks_header_changes_nothing() {
    let (lab, _service, bundle) = enrolled();
    edit_root(&lab, &bundle, |disk| {
        let nothing = vec![0; usize::try_from(DATA_OFFSET).expect("16 MiB")];
        disk.write_all_at(&nothing, 0).expect("the header is gone");
    });
    lab.boot(&bundle).assert_ran();
}

#[test]
fn a_server_under_another_ca_gets_nothing() {
    let lab = Lab::new();
    lab.init_service("impostor");
    let bundle = lab.build(&Site { retry_for: 5, ..Site::default() });
    let impostor = lab.serve_as("impostor");
    let boot = lab.boot(&bundle);
    boot.assert_failed("attest", "cause=");
    assert!(boot.said_by_guest("ertificate"), "the reason is not the certificate: {boot:#?}");
    assert!(!impostor.log_text().contains("challenge"), "it was spoken to:\n{}", impostor.log_text());
}

#[test]
fn an_unreachable_service_is_named_and_the_guest_goes_off() {
    let lab = Lab::new();
    let bundle = lab.build(&Site { retry_for: 5, ..Site::default() });
    let mut running = lab.start(&bundle, &[]);
    running.wait_for("coffer-init: waiting stage=attest");
    running.wait_for("coffer-init: failed stage=attest");
    let last_line = Instant::now();
    let boot = running.wait();
    assert!(last_line.elapsed() < Duration::from_secs(5), "off only after {:?}", last_line.elapsed());
    boot.assert_failed("attest", &lab.url());
    assert!(boot.said.contains("the guest stopped before the workload"), "{boot:#?}");
}

/// The kernel itself ended the VM, by its own reset and without a word: QEMU was not killed, and PID 1 did not get to power it off.
fn assert_panicked(boot: &Boot) {
    assert!(boot.code == Some(5) && boot.said.contains("QEMU's status 0)"), "{boot:#?}");
    for word in ["workload exit=", "workload signal=", "failed ", "power-off"] {
        assert!(!boot.said_by_guest(word), "`{word}`: {boot:#?}");
    }
    for word in ["Kernel panic", "Call Trace", "RIP:"] {
        assert!(!boot.console.contains(word), "the host reads the kernel's `{word}`: {boot:#?}");
    }
}

/// Rewrites the one line of launch_vm.sh that begins with `mark`.
fn edit_script(bundle: &Bundle, mark: &str, edit: impl Fn(&str) -> String) {
    let path = bundle.file("launch_vm.sh");
    let text = fs::read_to_string(&path).expect("launch_vm.sh");
    assert_eq!(text.lines().filter(|line| line.starts_with(mark)).count(), 1, "{mark}");
    let lines = text.lines().map(|line| if line.starts_with(mark) { edit(line) } else { line.to_owned() });
    fs::write(&path, lines.map(|line| line + "\n").collect::<String>()).expect("launch_vm.sh is replaced");
}

/// Gives the site a longer patience; returns the new HOST_DATA.
fn change_site_config(bundle: &Bundle) -> HostData {
    let path = bundle.file("site.json");
    let mut site = SiteConfig::from_bytes(&fs::read(&path).expect("site.json")).expect("a site config");
    site.attestation.retry_for += 1;
    let bytes = site.to_bytes().expect("a site config");
    fs::write(&path, &bytes).expect("site.json is replaced");
    SiteConfig::host_data(&bytes)
}

/// Flips one bit of the root disk in the block that `choose` picks, given the number of blocks.
fn corrupt_root(lab: &Lab, bundle: &Bundle, choose: impl Fn(u64) -> u64) {
    let site = SiteConfig::from_bytes(&fs::read(bundle.file("site.json")).expect("site.json")).expect("a site config");
    let at = DATA_OFFSET + choose(site.root_blocks) * BLOCK_BYTES + 100;
    edit_root(lab, bundle, |disk| {
        let mut byte = [0];
        disk.read_exact_at(&mut byte, at).expect("a byte");
        disk.write_all_at(&[byte[0] ^ 1], at).expect("a byte");
    });
}

/// Changes the root disk as a guest would see it, not as qcow2 lays it out.
fn edit_root(lab: &Lab, bundle: &Bundle, edit: impl Fn(&fs::File)) {
    edit_raw(lab, bundle, "crypt_root", |raw| edit(&fs::File::options().read(true).write(true).open(raw).expect("a disk")));
}

/// Changes the file system of a clear disk with commands of debugfs.
fn edit_files(lab: &Lab, bundle: &Bundle, disk: &str, commands: &str) {
    let script = lab.path("commands");
    fs::write(&script, commands).expect("commands");
    edit_raw(lab, bundle, disk, |raw| drop(run(Command::new("/sbin/debugfs").arg("-w").arg("-f").arg(&script).arg(raw))));
}

fn edit_raw(lab: &Lab, bundle: &Bundle, disk: &str, edit: impl Fn(&Path)) {
    let (qcow2, raw) = (bundle.file(&format!("{disk}.qcow2")), lab.path(&format!("{disk}.raw")));
    run(Command::new("qemu-img").args(["convert", "-O", "raw"]).arg(&qcow2).arg(&raw));
    edit(&raw);
    run(Command::new("qemu-img").args(["convert", "-O", "qcow2"]).arg(&raw).arg(&qcow2));
}

/// One member of a newc archive (kernel documentation, initramfs-buffer-format), owned by root, mode 0644.
fn cpio_member(name: &str, data: &[u8]) -> Vec<u8> {
    let mode = if name == "TRAILER!!!" { 0 } else { 0o100_644 };
    let fields = [721, mode, 0, 0, 1, 0, data.len(), 0, 0, 0, 0, name.len() + 1, 0];
    let mut member = b"070701".to_vec();
    member.extend(fields.iter().flat_map(|field| format!("{field:08X}").into_bytes()));
    member.extend(name.bytes().chain([0]));
    member.resize(member.len().next_multiple_of(4), 0);
    member.extend(data);
    member.resize(member.len().next_multiple_of(4), 0);
    member
}

/// A path as a pattern of bash's `${name/pattern/string}`: slashes escaped.
fn shell_pattern(path: &Path) -> String {
    path.display().to_string().replace('/', "\\/")
}
