//! `coffer base build`: inputs → firmware, kernel, initrd, command line → launch digests → a directory.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use coffer_manifest::{Base, BaseFile, BaseRoot, LaunchShape, OpenRisks, Sha256Digest};
use coffer_measure::HashTable;

use super::error::BaseError;
use super::inputs::{self, Input, Source};
use super::kernel::Kernel;
use super::lock::BaseLock;
use super::modules::{self, Module};
use super::output;
use super::shapes::{self, ShapeArgs};
use super::{firmware, initrd};

/// Counts up when bases made before must not be enrolled any more.
const BASE_SVN: u32 = 1;

/// File names of a base.
pub mod name {
    /// The firmware.
    pub const FIRMWARE: &str = "OVMF.amdsev.fd";
    /// The kernel.
    pub const KERNEL: &str = "vmlinuz";
    /// The initial root.
    pub const INITRD: &str = "initrd.img";
    /// What they measure to.
    pub const DOCUMENT: &str = "base.json";
}

/// The command line of every base, one word per line, each with its reason.
///
/// Measured, so nothing here can be a per-site choice. Not taken although peers have them: `init_on_free=1` (resets seen
/// while pages are converted to shared), `pci=nommconf` (GPUs with large BARs need ECAM).
const CMDLINE: [&str; 19] = [
    // PID 1's own lines, and a panic's until PID 1 closes the console to the kernel; the workload's output goes to a file.
    "console=ttyS0",
    "quiet",
    "loglevel=1",
    // Fail closed: no half-dead kernel holds keys. -1 reboots at once, which launch_vm.sh makes a power-off.
    "panic=-1",
    "oops=panic",
    // The host injects machine checks; nothing in a guest can act on them.
    "mce=off",
    // The host's ACPI tables offer error records: to be believed, and (ERST) to keep a panicking kernel's whole log in.
    "bert_disable",
    "erst_disable",
    "hest_disable",
    // Entropy from RDRAND, not from what the host's boot loader hands over; time from the TSC, not from the host's clock.
    "random.trust_cpu=y",
    "random.trust_bootloader=n",
    "tsc=reliable",
    "no-kvmclock",
    // Heap and stack layouts that an attacker inside the workload cannot predict.
    "slab_nomerge",
    "page_alloc.shuffle=1",
    "randomize_kstack_offset=on",
    "vsyscall=none",
    // Only modules Debian signed; no kexec, /dev/mem, ACPI table override or kernel memory through BPF and perf.
    "module.sig_enforce=1",
    "lockdown=confidentiality",
];

/// What goes into a base, decided.
pub struct Plan {
    /// Which PID 1 and hence which root of trust.
    pub root: BaseRoot,
    /// The PID 1.
    pub init: PathBuf,
    /// Shapes beyond the usual ones.
    pub shapes: ShapeArgs,
}

/// A base in memory: every file by name, base.json last.
pub struct Built {
    /// What base.json says.
    pub document: Base,
    /// Contents of the directory.
    pub files: BTreeMap<&'static str, Vec<u8>>,
}

/// Makes a base in memory.
///
/// # Errors
/// See [`BaseError`].
pub fn build(plan: &Plan, source: &Source, lock: &BaseLock) -> Result<Built, BaseError> {
    let firmware_image = source.firmware(lock)?;
    let firmware = firmware::check(&firmware_image.name, &firmware_image.data)?;
    let package = source.kernel(lock)?;
    let kernel = Kernel::from_deb(&package.name, &package.data)?;
    if plan.root == BaseRoot::AmdSevSnp && !kernel.has_option("SEV_GUEST") {
        return Err(BaseError::NoSevGuest { release: kernel.release });
    }
    let modules = modules::load_order(&kernel, plan.root)?;
    let init = read_init(&plan.init)?;
    let initrd = initrd::build(&init.name, &init.data, &modules)?;
    let cmdline = CMDLINE.join(" ");
    let digest = |data: &[u8]| *Sha256Digest::of(data).as_bytes();
    let table = HashTable::new(digest(&kernel.vmlinuz), digest(&initrd), &cmdline);
    let launch_digests = shapes::measure_all(&firmware, &table, &plan.shapes.with_defaults()?)?;
    let release = kernel.release.clone();
    let files = BTreeMap::from([(name::FIRMWARE, firmware_image.data), (name::KERNEL, kernel.vmlinuz), (name::INITRD, initrd)]);
    finish(describe(plan, &files, cmdline, release, &modules, &init, launch_digests), files)
}

fn finish(document: Base, mut files: BTreeMap<&'static str, Vec<u8>>) -> Result<Built, BaseError> {
    let refuse = |error| BaseError::Document { path: name::DOCUMENT.into(), error };
    let bytes = coffer_manifest::encode(&document).map_err(refuse)?;
    // A base.json that no reader would accept, for example one of too many shapes, is not written.
    coffer_manifest::decode::<Base>(&bytes).map_err(refuse)?;
    files.insert(name::DOCUMENT, bytes);
    Ok(Built { document, files })
}

fn describe(
    plan: &Plan,
    files: &BTreeMap<&'static str, Vec<u8>>,
    cmdline: String,
    kernel_release: String,
    modules: &[Module],
    init: &Input,
    launch_digests: Vec<LaunchShape>,
) -> Base {
    let described = |data: &Vec<u8>| BaseFile { size: data.len() as u64, sha256: Sha256Digest::of(data) };
    Base {
        kind: Default::default(),
        base_svn: BASE_SVN,
        root: plan.root,
        files: files.iter().map(|(name, data)| ((*name).to_owned(), described(data))).collect(),
        cmdline,
        kernel_release,
        modules: modules.iter().map(|m| m.name.as_str().to_owned()).collect(),
        init: Sha256Digest::of(&init.data),
        vmm: "qemu".to_owned(),
        launch_digests,
        // Debian's kernels run whatever AML the host's ACPI tables hold; see SECURITY.md.
        open_risks: OpenRisks { aml: "unrestricted".to_owned() },
    }
}

fn read_init(path: &Path) -> Result<Input, BaseError> {
    if path.is_file() { inputs::read(path) } else { Err(BaseError::NoInit { path: path.to_owned() }) }
}

/// The PID 1 for a root of trust that was installed beside this program.
///
/// # Errors
/// [`BaseError::File`] if the system does not say where this program is.
pub fn installed_init(root: BaseRoot) -> Result<PathBuf, BaseError> {
    let program = std::env::current_exe().map_err(|error| BaseError::File { action: "find", path: "coffer".into(), error })?;
    let name = match root {
        BaseRoot::AmdSevSnp => "coffer-init",
        BaseRoot::Simulated => "coffer-init-simulated",
    };
    Ok(program.with_file_name(name))
}

/// Requires that what was built is what `path` describes.
///
/// # Errors
/// [`BaseError::Differs`], naming the members that differ.
pub fn verify(built: &Built, path: &Path) -> Result<(), BaseError> {
    let refuse = |error| BaseError::Document { path: path.to_owned(), error };
    let expected: Base = coffer_manifest::decode(&inputs::read(path)?.data).map_err(refuse)?;
    if expected == built.document {
        return Ok(());
    }
    let (ours, theirs) = (&built.document, &expected);
    let mut differences: Vec<String> = [
        ("base_svn", ours.base_svn == theirs.base_svn),
        ("root", ours.root == theirs.root),
        ("cmdline", ours.cmdline == theirs.cmdline),
        ("kernel_release", ours.kernel_release == theirs.kernel_release),
        ("modules", ours.modules == theirs.modules),
        ("init", ours.init == theirs.init),
        ("vmm", ours.vmm == theirs.vmm),
        ("launch_digests", ours.launch_digests == theirs.launch_digests),
        ("open_risks", ours.open_risks == theirs.open_risks),
    ]
    .into_iter()
    .filter(|(_, same)| !same)
    .map(|(member, _)| member.to_owned())
    .collect();
    for name in ours.files.keys().chain(theirs.files.keys()) {
        let (a, b) = (ours.files.get(name), theirs.files.get(name));
        if a != b && !differences.contains(name) {
            differences.push(name.clone());
        }
    }
    Err(BaseError::Differs { path: path.to_owned(), differences: differences.join(", ") })
}

/// Writes a base beside `directory` and renames it there.
///
/// # Errors
/// See [`output::replace`].
pub fn write(built: &Built, directory: &Path) -> Result<(), BaseError> {
    output::replace(directory, &built.files)
}
