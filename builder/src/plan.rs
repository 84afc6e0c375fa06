//! Decides what will be built. Holding a [`Plan`] means that every field of the `cc_*.yml` has been resolved and checked.

mod folders;
mod gate;
mod platform;
mod project;
mod values;

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::path::{Path, PathBuf};

use coffer_manifest::{Attestation, ChipId, Gate, Gpu, GpuMechanism, Issuer, Network, Role, SiteName, TcbVersion};
use serde_saphyr::Spanned;

use crate::fault::{Fault, SpecError};
use crate::spec::{self, AttestationSpec, ContainerSpec, IssuerSpec, SiteSpec, Source};
pub use folders::{Folder, Kit, MAX_KIT_BYTES, sorted};
pub use project::Project;
use values::{GIB, in_range, one_of};

/// GiB of `crypt_root.qcow2`. It is sparse; a container past a tebibyte is a mistake.
const ROOT_GIB: (u64, u64) = (1, 1024);
/// GiB of `applog.qcow2` and `user_config.qcow2`: text.
const SMALL_GIB: (u64, u64) = (1, 64);
/// GiB of `user_data.qcow2`; larger data comes over NFS.
const DATA_GIB: (u64, u64) = (1, 4096);
/// Seconds a job token lives. The service signs none for longer than ten minutes.
const EXPIRATION_S: (u64, u64) = (30, 600);
/// Seconds after which a lease without a newer token ends.
const FREQUENCY_S: (u64, u64) = (60, 86_400);
/// Seconds for which a guest tries to reach its key service.
const RETRY_S: (u64, u64) = (1, 86_400);
/// Token issuers of one site.
const MAX_ISSUERS: usize = 16;
/// Lines of `/etc/hosts`, and ports in each direction: keeps site.json far below its 64 KiB.
const MAX_ENTRIES: usize = 256;
/// Length of one argument or one environment value, in bytes.
const MAX_TEXT: usize = 4096;

/// Where `coffer build` puts enrollments, beside the sites' directories.
pub const ENROLL_DIR: &str = "enroll";

/// Seconds, where `cc_attestation` does not say: NVFLARE's default period, and half of it.
const DEFAULT_FREQUENCY_S: u64 = 600;
const DEFAULT_EXPIRATION_S: u64 = 300;
const DEFAULT_RETRY_S: u64 = 300;

/// One site, decided.
#[derive(Debug)]
pub struct Plan {
    /// The file it came from, for messages.
    pub file: PathBuf,
    /// Who it is.
    pub site: SiteName,
    /// Counter of its configs, if its file says it.
    pub site_svn: Option<u32>,
    /// What its workload is.
    pub role: Role,
    /// Bytes of each disk.
    pub drives: Drives,
    /// A regular file.
    pub archive: PathBuf,
    /// Folders of `/user_config`.
    pub user_config: Vec<Folder>,
    /// What is sealed, if anything is.
    pub kit: Option<Kit>,
    /// Replaces the image's entrypoint and command.
    pub command: Option<Vec<String>>,
    /// Overrides the image's environment.
    pub env: BTreeMap<String, String>,
    /// Ports and hosts.
    pub network: Network,
    /// The gate it is behind: a client's, where the project has one.
    pub gate: Option<Gate>,
    /// Schedule and issuers.
    pub attestation: Attestation,
    /// A GPU, if one is needed.
    pub gpu: Option<Gpu>,
    /// The chips it may run on, sorted; any, if there are none.
    pub chip_ids: Vec<ChipId>,
    /// The oldest TCB it may run on, if its file says one.
    pub tcb_floor: Option<TcbVersion>,
}

/// Virtual sizes in bytes.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Drives {
    /// `crypt_root.qcow2`.
    pub root: u64,
    /// `applog.qcow2`.
    pub applog: u64,
    /// `user_config.qcow2`.
    pub user_config: u64,
    /// `user_data.qcow2`.
    pub user_data: u64,
}

impl Plan {
    /// Reads and decides one `cc_*.yml` of a project with this gate. Looks at the files it names, writes nothing.
    ///
    /// # Errors
    /// The first wrong thing, with file, line and field.
    pub fn read(file: &Path, gate: Option<&Gate>) -> Result<Self, SpecError> {
        let source = Source { file: file.to_owned() };
        let spec: SiteSpec = spec::read(&source)?;
        decide(&source, spec, gate)
    }

    /// What site.json carries and this build does not enforce, a line each. Empty if nothing.
    pub fn not_enforced(&self) -> Vec<String> {
        not_enforced(&self.network, &self.attestation, self.gate.is_some(), self.gpu.is_some())
    }
}

/// What a site config says and no program enforces yet. `coffer inspect` prints the same lines.
pub fn not_enforced(network: &Network, attestation: &Attestation, gate: bool, gpu: bool) -> Vec<String> {
    let mut lines = Vec::new();
    if !network.allowed_ports.is_empty() {
        lines.push("allowed_ports: forwarded by QEMU on the host; the guest itself does not filter what comes in".to_owned());
    }
    if !network.allowed_out_ports.is_empty() {
        lines.push("allowed_out_ports: the guest does not filter what goes out".to_owned());
    }
    if !attestation.issuers.is_empty() {
        lines.push("cc_issuers: carried in site.json for NVFLARE's runtime, not started".to_owned());
    }
    if !gate {
        lines.push("cc_attestation.check_frequency: this site is behind no gate, so nothing ends when it does not renew".to_owned());
    }
    if gpu {
        lines.push("cc_gpu_mechanism: carried in site.json; no GPU is attached or attested".to_owned());
    }
    lines
}

fn decide(source: &Source, spec: SiteSpec, gate: Option<&Gate>) -> Result<Plan, SpecError> {
    environment(source, &spec)?;
    let role = role(source, &spec.role)?;
    let gate = gate.filter(|_| role == Role::Client);
    let network = network(source, &spec, gate)?;
    let site = site_name(source, spec.site.as_ref())?;
    let svn = spec.site_svn.as_ref().map(|svn| in_range(source, svn, "site_svn", (1, u64::from(u32::MAX)), "")).transpose()?;
    let (command, env) = container(source, spec.container)?;
    Ok(Plan {
        site,
        site_svn: svn.map(|svn| u32::try_from(svn).unwrap_or(u32::MAX)),
        role,
        drives: Drives {
            root: in_range(source, &spec.root_drive_size, "root_drive_size", ROOT_GIB, " GiB")? * GIB,
            applog: in_range(source, &spec.applog_drive_size, "applog_drive_size", SMALL_GIB, " GiB")? * GIB,
            user_config: in_range(source, &spec.user_config_drive_size, "user_config_drive_size", SMALL_GIB, " GiB")? * GIB,
            user_data: in_range(source, &spec.user_data_drive_size, "user_data_drive_size", DATA_GIB, " GiB")? * GIB,
        },
        archive: values::regular_file(source, &spec.docker_archive, "docker_archive")?,
        user_config: folders::user_config(source, &spec.user_config)?,
        kit: folders::kit(source, &spec.kit)?,
        command,
        env,
        network,
        gate: gate.cloned(),
        attestation: attestation(source, spec.cc_attestation, spec.cc_issuers)?,
        gpu: match &spec.cc_gpu_mechanism {
            None => None,
            Some(text) => {
                let mechanism = one_of(source, text, "cc_gpu_mechanism", &[("nvidia_cc", GpuMechanism::NvidiaCc)], "`nvidia_cc`")?;
                Some(Gpu { mechanism })
            }
        },
        chip_ids: platform::chip_ids(source, spec.chip_ids.as_ref())?,
        tcb_floor: platform::tcb_floor(source, spec.tcb_floor.as_ref())?,
        file: source.file.clone(),
    })
}

fn environment(source: &Source, spec: &SiteSpec) -> Result<(), SpecError> {
    if spec.compute_env.value != "onprem_cvm" {
        let fault = Fault::ComputeEnv { got: spec.compute_env.value.clone() };
        return Err(source.refuse(&spec.compute_env, "compute_env", fault));
    }
    if spec.cc_cpu_mechanism.value != "amd_sev_snp" {
        let fault = Fault::CpuMechanism { got: spec.cc_cpu_mechanism.value.clone() };
        return Err(source.refuse(&spec.cc_cpu_mechanism, "cc_cpu_mechanism", fault));
    }
    Ok(())
}

fn role(source: &Source, given: &Spanned<String>) -> Result<Role, SpecError> {
    let known = [Role::Client, Role::Server, Role::Superlink].map(|role| (role.name(), role));
    one_of(source, given, "role", &known, "`client`, `server` or `superlink`")
}

fn network(source: &Source, spec: &SiteSpec, gate: Option<&Gate>) -> Result<Network, SpecError> {
    let network = Network {
        allowed_ports: ports(source, &spec.allowed_ports, "allowed_ports")?,
        allowed_out_ports: ports(source, &spec.allowed_out_ports, "allowed_out_ports")?,
        hosts_entries: hosts(source, &spec.hosts_entries)?,
    };
    if let Some(gate) = gate {
        gate::refuse_its_port(source, gate, &spec.allowed_ports)?;
        gate::refuse_its_name(source, gate, &spec.hosts_entries)?;
    }
    Ok(network)
}

/// `site:`, or what lies between `cc_` and `.yml`, `_local` left out. Names a directory beside `enroll/`.
fn site_name(source: &Source, given: Option<&Spanned<String>>) -> Result<SiteName, SpecError> {
    let name = given_or_file_name(source, given)?;
    if name.as_str() == ENROLL_DIR {
        let error = format!("site `{name}` would lie where the enrollments go");
        return Err(given.map_or_else(
            || source.refuse_file("site", Fault::Name { error: error.clone() }),
            |given| source.refuse(given, "site", Fault::Name { error: error.clone() }),
        ));
    }
    Ok(name)
}

fn given_or_file_name(source: &Source, given: Option<&Spanned<String>>) -> Result<SiteName, SpecError> {
    if let Some(given) = given {
        let name = given.value.parse();
        return name.map_err(|error: coffer_manifest::NameError| source.refuse(given, "site", Fault::Name { error: error.to_string() }));
    }
    let file = source.file.file_name().unwrap_or_default().to_string_lossy().into_owned();
    let stem = file.strip_suffix(".yml").or_else(|| file.strip_suffix(".yaml")).and_then(|stem| stem.strip_prefix("cc_"));
    let stem = stem.map(|stem| stem.strip_suffix("_local").unwrap_or(stem));
    stem.and_then(|stem| stem.parse().ok()).ok_or_else(|| source.refuse_file("site", Fault::NoSiteName { got: file }))
}

type Override = (Option<Vec<String>>, BTreeMap<String, String>);

fn container(source: &Source, spec: Option<ContainerSpec>) -> Result<Override, SpecError> {
    let Some(spec) = spec else { return Ok((None, BTreeMap::new())) };
    let text = |value: &Spanned<String>, field: String| {
        if value.value.len() > MAX_TEXT || value.value.contains('\0') {
            return Err(source.refuse(value, field, Fault::Text { most: MAX_TEXT }));
        }
        Ok(value.value.clone())
    };
    let mut env = BTreeMap::new();
    for (name, value) in &spec.env {
        let first = name.bytes().next().is_some_and(|b| b.is_ascii_alphabetic() || b == b'_');
        if !first || !name.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'_') {
            return Err(source.refuse(value, "container.env", Fault::EnvName { got: name.clone() }));
        }
        env.insert(name.clone(), text(value, format!("container.env.{name}"))?);
    }
    let Some(words) = spec.command else { return Ok((None, env)) };
    let Some(program) = words.value.first() else {
        return Err(source.refuse(&words, "container.command", Fault::Empty));
    };
    if program.value.is_empty() {
        return Err(source.refuse(program, "container.command[0]", Fault::EmptyProgram));
    }
    let command = words.value.iter().enumerate().map(|(i, word)| text(word, format!("container.command[{i}]")));
    Ok((Some(command.collect::<Result<_, _>>()?), env))
}

fn ports(source: &Source, given: &[Spanned<u64>], field: &str) -> Result<Vec<u16>, SpecError> {
    if let Some(extra) = given.get(MAX_ENTRIES) {
        return Err(source.refuse(extra, field, Fault::TooMany { got: given.len(), most: MAX_ENTRIES }));
    }
    let mut seen = BTreeSet::new();
    for (i, port) in given.iter().enumerate() {
        let at = || format!("{field}[{i}]");
        let number = u16::try_from(port.value).ok().filter(|n| *n != 0);
        let Some(number) = number else {
            return Err(source.refuse(port, at(), Fault::Port { got: port.value }));
        };
        if !seen.insert(number) {
            return Err(source.refuse(port, at(), Fault::PortTwice { got: port.value }));
        }
    }
    Ok(seen.into_iter().collect())
}

fn hosts(source: &Source, given: &BTreeMap<String, Spanned<String>>) -> Result<BTreeMap<String, IpAddr>, SpecError> {
    if given.len() > MAX_ENTRIES {
        return Err(source.refuse_file("hosts_entries", Fault::TooMany { got: given.len(), most: MAX_ENTRIES }));
    }
    let mut table = BTreeMap::new();
    for (name, address) in given {
        let field = format!("hosts_entries.{name}");
        if !values::is_host_name(name) {
            return Err(source.refuse(address, field, Fault::HostName { got: name.clone() }));
        }
        let parsed = address.value.parse();
        let ip = parsed.map_err(|_| source.refuse(address, field, Fault::Address { got: address.value.clone() }))?;
        table.insert(name.clone(), ip);
    }
    Ok(table)
}

fn attestation(source: &Source, spec: Option<AttestationSpec>, issuers: Vec<IssuerSpec>) -> Result<Attestation, SpecError> {
    use coffer_manifest::FailureAction::{None as Nothing, Shutdown, StopJob};
    if let Some(extra) = issuers.get(MAX_ISSUERS) {
        return Err(source.refuse(&extra.id, "cc_issuers", Fault::TooMany { got: issuers.len(), most: MAX_ISSUERS }));
    }
    let spec = spec.unwrap_or(AttestationSpec { check_frequency: None, failure_action: None, retry_for: None });
    let frequency = match &spec.check_frequency {
        Some(given) => in_range(source, given, "cc_attestation.check_frequency", FREQUENCY_S, " s")?,
        None => DEFAULT_FREQUENCY_S,
    };
    let failure_action = match &spec.failure_action {
        Some(given) => {
            let known = [("stop_job", StopJob), ("shutdown", Shutdown), ("none", Nothing)];
            one_of(source, given, "cc_attestation.failure_action", &known, "`stop_job`, `shutdown` or `none`")?
        }
        None => StopJob,
    };
    let retry_for = match &spec.retry_for {
        Some(given) => in_range(source, given, "cc_attestation.retry_for", RETRY_S, " s")?,
        None => DEFAULT_RETRY_S,
    };
    // The shortest-lived issuer decides, so that no token of this site outlives what its file allows.
    let mut expiration = None;
    for (i, issuer) in issuers.iter().enumerate() {
        let field = format!("cc_issuers[{i}].token_expiration");
        let seconds = in_range(source, &issuer.token_expiration, &field, EXPIRATION_S, " s")?;
        if seconds >= frequency {
            let fault = Fault::ExpirationTooLong { expiration: seconds, frequency };
            return Err(source.refuse(&issuer.token_expiration, field, fault));
        }
        expiration = Some(expiration.map_or(seconds, |least: u64| least.min(seconds)));
    }
    let expiration = expiration.unwrap_or_else(|| DEFAULT_EXPIRATION_S.min(frequency / 2));
    let seconds = |n: u64| u32::try_from(n).unwrap_or(u32::MAX);
    Ok(Attestation {
        token_expiration: seconds(expiration),
        check_frequency: seconds(frequency),
        failure_action,
        retry_for: seconds(retry_for),
        issuers: issuers
            .into_iter()
            .map(|issuer| Issuer {
                id: issuer.id.value,
                path: issuer.path.value,
                args: issuer.args,
                token_expiration: seconds(issuer.token_expiration.value),
            })
            .collect(),
    })
}
