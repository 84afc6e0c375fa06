//! `coffer build`: decided plans become bundles, archives and enrollments.

mod base_dir;
mod id_block;
mod kit;
mod root;
mod script;
mod seal;
mod site;
mod space;
mod staging;
mod successor;

use std::fs::{self, OpenOptions};
use std::io::Write;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::time::{SystemTime, UNIX_EPOCH};

use coffer_manifest::disk::{DiskUuid, RootSecret};
use coffer_manifest::{
    DocumentError, Enrollment, EnrollmentFile, HostData, KitKey, KitSealError, SealedKit, Secrets, SiteConfig, seal_kit,
};

use crate::cli::BuildArgs;
use crate::failure::{Exit, Failure, Hint};
use crate::fault::{Fault, SpecError};
use crate::memory;
use crate::plan::{ENROLL_DIR, Plan, Project};
use crate::ui::Ui;
use base_dir::BaseDir;
pub use id_block::{IdSigner, block as id_block, names as id_block_names};
use seal::Member;
use staging::Staging;
pub use successor::Supersedes;
use successor::{Place, SuccessorError};

/// What a base without an open AML risk says; the key service enrolls any other only with `--accept-aml-risk`.
const AML_RESTRICTED: &str = "restricted";

/// A build stopped.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum BuildError {
    /// A spec says something wrong.
    #[error(transparent)]
    Spec(#[from] SpecError),
    /// The base is not whole.
    #[error("base {}: {what}", dir.display())]
    Base { dir: PathBuf, what: String },
    /// The destination is taken.
    #[error("{} exists already", path.display())]
    Exists { path: PathBuf },
    /// `--supersedes`.
    #[error(transparent)]
    Successor(#[from] SuccessorError),
    /// Not enough space.
    #[error("{} has {free} bytes free, this build needs about {needed}", dir.display())]
    Space { dir: PathBuf, free: u64, needed: u64 },
    /// A file cannot be read.
    #[error("cannot read {}", path.display())]
    Read { path: PathBuf, source: std::io::Error },
    /// A file cannot be written.
    #[error("cannot write {}", path.display())]
    Write { path: PathBuf, source: std::io::Error },
    /// The kernel gives no random bytes.
    #[error("no random bytes: {0}")]
    Random(getrandom::Error),
    /// Signal handlers cannot be installed.
    #[error("cannot handle signals")]
    Signals(#[source] std::io::Error),
    /// site.json, manifest.json or the enrollment cannot be encoded.
    #[error("cannot encode a document")]
    Document(#[source] DocumentError),
    /// The site config is too large for its readers.
    #[error("site.json would be {got} bytes long, at most {most} are read by the guest")]
    SiteTooLong { got: usize, most: usize },
    /// The image names no program.
    #[error("the image in {} has neither entrypoint nor command", archive.display())]
    NoCommand { archive: PathBuf },
    /// The kit does not seal.
    #[error("the kit cannot be sealed")]
    Kit(#[source] KitSealError),
    /// Container, root file system or disks.
    #[error(transparent)]
    Image(Box<root::ImageError>),
}

impl From<root::ImageError> for BuildError {
    fn from(error: root::ImageError) -> Self {
        Self::Image(Box::new(error))
    }
}

impl Hint for BuildError {
    fn hint(&self) -> Option<String> {
        Some(match self {
            Self::Spec(error) => return error.hint(),
            Self::Base { .. } => "build it again: `coffer base build -o DIR`".to_owned(),
            Self::Exists { .. } => {
                "a built site's keys exist nowhere else: move it away, or build into another directory with -o".to_owned()
            }
            Self::Successor(error) => error.hint(),
            Self::Space { .. } => "free some space there, or give another directory with -o".to_owned(),
            Self::SiteTooLong { .. } => "shorten hosts_entries, container.env or cc_issuers".to_owned(),
            Self::NoCommand { .. } => "add `container: {command: [program, argument]}`".to_owned(),
            _ => return None,
        })
    }

    fn exit(&self) -> Exit {
        match self {
            Self::Spec(_) | Self::Base { .. } | Self::Exists { .. } | Self::Successor(_) | Self::NoCommand { .. } => Exit::Input,
            Self::Image(error) => error.exit(),
            _ => Exit::Failed,
        }
    }
}

/// Decides every site first, then builds each beside its destination, then moves all of them into place.
pub fn run(ui: Ui, args: &BuildArgs) -> Result<(), Failure> {
    memory::keep_keys_off_the_disk();
    let base = BaseDir::open(&args.base)?;
    let project = Project::read(&project_file(args), base.root()).map_err(BuildError::Spec)?;
    let plans = read_plans(args, &project)?;
    let mut places = Vec::new();
    for plan in &plans {
        refuse_existing(&args.out, plan)?;
        places.push(successor::place(args, plan, &project, plans.len())?);
    }
    space::check(&args.out, &base, &plans)?;
    staging::clean_up_on_signals()?;
    let mut staging = Staging::new(&args.out)?;
    let mut built = Vec::new();
    for (plan, place) in plans.iter().zip(places) {
        for line in plan.not_enforced() {
            ui.warn(format_args!("{}: not enforced yet: {line}", plan.site));
        }
        built.push(build_site(ui, staging.path(), plan, &project, &base, place)?);
    }
    staging.add_dir(&args.out.join(ENROLL_DIR), 0o700)?;
    let moves = destinations(&args.out, staging.path(), &plans);
    staging.publish(&moves)?;
    for site in &built {
        site.say(ui, &args.out, &project);
    }
    Ok(())
}

fn project_file(args: &BuildArgs) -> PathBuf {
    let beside = || args.sites.first().and_then(|file| file.parent()).unwrap_or(Path::new("")).join("project.yml");
    args.project.clone().unwrap_or_else(beside)
}

fn read_plans(args: &BuildArgs, project: &Project) -> Result<Vec<Plan>, BuildError> {
    let mut plans: Vec<Plan> = Vec::new();
    for file in &args.sites {
        let plan = Plan::read(file, project.gate.as_ref())?;
        if let Some(twin) = plans.iter().find(|other| other.site == plan.site) {
            let fault = Fault::SiteTwice { site: plan.site.to_string(), other: twin.file.clone() };
            return Err(SpecError { file: file.clone(), line: 1, field: "site".into(), fault }.into());
        }
        plans.push(plan);
    }
    Ok(plans)
}

/// Where a site's directory and its enrollment go.
fn targets(out: &Path, site: &str) -> (PathBuf, PathBuf) {
    (out.join(site), out.join(ENROLL_DIR).join(format!("{site}.json")))
}

fn refuse_existing(out: &Path, plan: &Plan) -> Result<(), BuildError> {
    let (dir, enrollment) = targets(out, plan.site.as_str());
    for path in [dir, enrollment] {
        if fs::symlink_metadata(&path).is_ok() {
            return Err(BuildError::Exists { path });
        }
    }
    Ok(())
}

/// The moves that end a build: enrollments first, so that no bundle is there without its keys.
fn destinations(out: &Path, staging: &Path, plans: &[Plan]) -> Vec<(PathBuf, PathBuf)> {
    let (enrollments, dirs): (Vec<_>, Vec<_>) = plans
        .iter()
        .map(|plan| {
            let (dir, enrollment) = targets(out, plan.site.as_str());
            let (built_dir, built_enrollment) = targets(staging, plan.site.as_str());
            ((built_enrollment, enrollment), (built_dir, dir))
        })
        .unzip();
    enrollments.into_iter().chain(dirs).collect()
}

/// What was built, for the words at the end.
struct Built {
    site: SiteConfig,
    name: String,
    /// Enrolling needs the operator's word: the base leaves the host's ACPI tables unmeasured.
    aml_risk: bool,
}

/// Builds `<staging>/<site>/` and `<staging>/enroll/<site>.json`.
fn build_site(ui: Ui, staging: &Path, plan: &Plan, project: &Project, base: &BaseDir, place: Place) -> Result<Built, BuildError> {
    let (site_dir, enrollment_file) = targets(staging, plan.site.as_str());
    let unnamed = site_dir.join("cvm");
    make_dir(&unnamed, 0o755)?;
    ui.say(format_args!("{}: reading {}", plan.site, plan.archive.display()));
    let image = root::Image::open(&plan.archive, staging)?;
    let container = site::container(plan, &image)?;
    let secret = RootSecret::new(random()?);
    let uuid = DiskUuid::from_random(random()?);
    let kit = seal_plan_kit(plan, &container.user, &uuid)?;
    ui.say(format_args!("{}: writing disks", plan.site));
    let sealed = kit.as_ref().map(|(_, sealed)| sealed);
    let disk = root::write_root(&image, &unnamed, plan, &secret, &uuid, sealed)?;
    root::write_side_disks(&unnamed, plan)?;
    let config = site::config(plan, project, container, &disk, (place.site_svn, not_before()?), (&secret, &uuid));
    let bytes = site::bytes(&config)?;
    let host_data = SiteConfig::host_data(&bytes);
    let name = format!("cvm_{}", &host_data.to_string()[..12]);
    let dir = site_dir.join(&name);
    fs::rename(&unnamed, &dir).map_err(|source| BuildError::Write { path: dir.clone(), source })?;
    write_file(&dir.join("site.json"), &bytes, 0o644)?;
    write_base(&dir, base)?;
    let id_files = id_block::write(&dir, project, base)?;
    let signed = !id_files.is_empty();
    write_file(&dir.join("launch_vm.sh"), script::launch_vm(&config, &base.base, &host_data, signed).as_bytes(), 0o755)?;
    write_file(&dir.join("README.txt"), script::readme(&config, &base.base, &host_data, signed).as_bytes(), 0o644)?;
    ui.say(format_args!("{}: packing", plan.site));
    seal::seal(&dir, &site_dir.join(format!("{}.tgz", plan.site)), &members(plan, id_files), &config, host_data)?;
    make_dir(&staging.join(ENROLL_DIR), 0o700)?;
    let secrets = Secrets { root: secret, kit: kit.map(|(key, _)| key) };
    let file = EnrollmentFile { record: record(plan, &config, project, base, host_data, place), secrets };
    write_file(&enrollment_file, &file.to_bytes().map_err(BuildError::Document)?, 0o600)?;
    Ok(Built { site: config, name, aml_risk: base.base.open_risks.aml != AML_RESTRICTED })
}

fn seal_plan_kit(plan: &Plan, user: &coffer_manifest::User, uuid: &DiskUuid) -> Result<Option<(KitKey, SealedKit)>, BuildError> {
    let Some(kit) = &plan.kit else { return Ok(None) };
    let key = KitKey::new(random()?);
    let tar = kit::pack(kit, user)?;
    let sealed = seal_kit(&key, uuid, random()?, &tar).map_err(BuildError::Kit)?;
    Ok(Some((key, sealed)))
}

fn write_base(dir: &Path, base: &BaseDir) -> Result<(), BuildError> {
    for name in base_dir::FILES {
        seal::copy(&base.dir.join(name), &dir.join(name))?;
    }
    write_file(&dir.join("base.json"), &base.bytes, 0o644)
}

/// Every file of a bundle but manifest.json.
fn members(plan: &Plan, id_files: Vec<String>) -> Vec<Member> {
    let fixed = |name: &'static str| Member { name: name.into(), disk_bytes: None };
    let disk = |name: &'static str, bytes| Member { name: name.into(), disk_bytes: Some(bytes) };
    let mut members = vec![
        fixed("README.txt"),
        fixed("launch_vm.sh"),
        fixed("site.json"),
        fixed("base.json"),
        fixed("OVMF.amdsev.fd"),
        fixed("vmlinuz"),
        fixed("initrd.img"),
        disk("applog.qcow2", plan.drives.applog),
        disk("user_config.qcow2", plan.drives.user_config),
        disk("user_data.qcow2", plan.drives.user_data),
        fixed("crypt_root.qcow2"),
    ];
    members.extend(id_files.into_iter().map(|name| Member { name: name.into(), disk_bytes: None }));
    members
}

fn record(plan: &Plan, site: &SiteConfig, project: &Project, base: &BaseDir, host_data: HostData, place: Place) -> Enrollment {
    let author_key_digest = project.id_signer.as_ref().map(IdSigner::author_key_digest);
    Enrollment {
        kind: Default::default(),
        host_data,
        project: site.project.clone(),
        site: site.site.clone(),
        role: site.role,
        site_svn: site.site_svn,
        base_svn: base.base.base_svn,
        root_of_trust: site.root_of_trust,
        launch_digests: base.launch_digests(),
        token_expiration: site.attestation.token_expiration,
        open_risks: base.base.open_risks.clone(),
        supersedes: place.supersedes,
        overlap_seconds: place.overlap_seconds,
        author_key_digest,
        // The ID blocks say the base's counter: a site config counts on its own.
        minimum_guest_svn: author_key_digest.map(|_| base.base.base_svn),
        chip_ids: plan.chip_ids.clone(),
        tcb_floor: plan.tcb_floor,
    }
}

impl Built {
    /// The result on stdout, what to type next on stderr.
    fn say(&self, ui: Ui, out: &Path, project: &Project) {
        let site = &self.site.site;
        let (dir, enrollment) = targets(out, site.as_str());
        let bundle = dir.join(&self.name);
        let simulated = matches!(self.site.root_of_trust, coffer_manifest::RootOfTrust::Simulated(_));
        let state = project.simulator_state.as_deref().unwrap_or(Path::new("DIR")).display();
        let simulate = if simulated { format!(" --simulate --simulator-state {state}") } else { String::new() };
        ui.result(format_args!("{}", bundle.display()));
        ui.result(format_args!("{}", dir.join(format!("{site}.tgz")).display()));
        ui.result(format_args!("{}", enrollment.display()));
        ui.say(format_args!("\n{site} is built; {} holds its keys: keep it, and do not send it to the site. Next:", enrollment.display()));
        let accept = if self.aml_risk { " --accept-aml-risk   # the host's ACPI tables are not measured: you accept that" } else { "" };
        ui.say(format_args!("  coffer-attest site enroll {} --dir SERVICE{accept}", enrollment.display()));
        ui.say(format_args!("  {}/launch_vm.sh{simulate} --check", bundle.display()));
        ui.say(format_args!("  {}/launch_vm.sh{simulate}", bundle.display()));
    }
}

/// Unix seconds: SOURCE_DATE_EPOCH where it is set, so that a build can be repeated, else now.
fn not_before() -> Result<u64, BuildError> {
    match std::env::var("SOURCE_DATE_EPOCH") {
        Ok(text) => text.parse().map_err(|_| BuildError::Read {
            path: "SOURCE_DATE_EPOCH".into(),
            source: std::io::Error::other(format!("`{text}` is not a number of seconds")),
        }),
        Err(_) => Ok(SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs())),
    }
}

/// `N` bytes from the kernel.
fn random<const N: usize>() -> Result<[u8; N], BuildError> {
    let mut bytes = [0; N];
    getrandom::fill(&mut bytes).map_err(BuildError::Random)?;
    Ok(bytes)
}

fn make_dir(path: &Path, mode: u32) -> Result<(), BuildError> {
    let make = || {
        fs::create_dir_all(path)?;
        fs::set_permissions(path, std::os::unix::fs::PermissionsExt::from_mode(mode))
    };
    make().map_err(|source| BuildError::Write { path: path.to_owned(), source })
}

/// Writes a new file and waits until it is on the disk.
fn write_file(path: &Path, bytes: &[u8], mode: u32) -> Result<(), BuildError> {
    let write = || {
        let mut file = OpenOptions::new().write(true).create_new(true).mode(mode).open(path)?;
        file.write_all(bytes)?;
        file.set_permissions(std::os::unix::fs::PermissionsExt::from_mode(mode))?;
        file.sync_all()
    };
    write().map_err(|source| BuildError::Write { path: path.to_owned(), source })
}
