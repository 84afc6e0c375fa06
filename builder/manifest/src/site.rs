//! The site config: what a site is and may do. Its SHA-256 is HOST_DATA. It holds no secret.

use std::collections::BTreeMap;
use std::net::IpAddr;

use coffer_evidence::HostData;
use serde::{Deserialize, Serialize};

use crate::canonical::{DocumentError, decode, document_type, encode};
use crate::disk::{DiskFormat, DiskUuid, KeyCheck, RootHash};
use crate::names::{ProjectName, RootOfTrust, Sha256Digest, SiteName};

document_type!(SiteType, "coffer/site/v1");

/// `site.json` (DESIGN, Formats). Absent optional members are left out, never `null`.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SiteConfig {
    /// Always `coffer/site/v1`.
    #[serde(rename = "type")]
    pub kind: SiteType,
    /// What must have signed this site's evidence. The production PID 1 refuses `simulated:…`, the simulated one the other.
    pub root_of_trust: RootOfTrust,
    /// The federation.
    pub project: ProjectName,
    /// The participant.
    pub site: SiteName,
    /// What the workload is in the federation.
    pub role: Role,
    /// Counts up when an older config of this site must not be accepted any more.
    pub site_svn: u32,
    /// Unix seconds. A floor for the guest's clock until the service has told it the time; not a validity period.
    pub not_before: u64,
    /// Disk format, a constant.
    pub disk_format: DiskFormat,
    /// LUKS2 UUID, and the salt of the key derivation.
    pub disk_uuid: DiskUuid,
    /// dm-verity root hash of the root file system.
    pub root_hash: RootHash,
    /// How many 4096-byte blocks the root file system has, dm-verity tree not counted.
    pub root_blocks: u64,
    /// Proves to the guest that it derived the right volume key, without parsing a disk header.
    pub key_check: KeyCheck,
    /// Where the guest attests and gets its secrets.
    pub key_service: KeyService,
    /// The sealed kit on the disk, if there is one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub kit: Option<KitRef>,
    /// What runs.
    pub container: Container,
    /// What it may reach, and what may reach it.
    pub network: Network,
    /// The gate in front of its SuperLink, if it has one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub gate: Option<Gate>,
    /// How often it proves itself, and what happens when it cannot.
    pub attestation: Attestation,
    /// The GPUs it needs, if any.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub gpu: Option<Gpu>,
}

impl SiteConfig {
    /// Parses canonical bytes.
    ///
    /// # Errors
    /// See [`DocumentError`].
    pub fn from_bytes(bytes: &[u8]) -> Result<Self, DocumentError> {
        decode(bytes)
    }

    /// The canonical bytes: what HOST_DATA is the SHA-256 of.
    ///
    /// # Errors
    /// See [`DocumentError::Encode`].
    pub fn to_bytes(&self) -> Result<Vec<u8>, DocumentError> {
        encode(self)
    }

    /// HOST_DATA of a site config, given its canonical bytes.
    #[must_use]
    pub fn host_data(bytes: &[u8]) -> HostData {
        HostData::new(*Sha256Digest::of(bytes).as_bytes())
    }
}

/// What a workload is in its federation.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Role {
    /// A participant that trains on its own data (Flower SuperNode).
    Client,
    /// The aggregator of a federation that is not Flower's (NVFLARE's server).
    Server,
    /// The aggregator of a Flower federation, with its gate (SuperLink).
    Superlink,
}

impl Role {
    /// Its name, as in documents and tokens.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Client => "client",
            Self::Server => "server",
            Self::Superlink => "superlink",
        }
    }
}

/// Which protocol the key service speaks.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum KeyServiceKind {
    /// `coffer-attest`: KBS 0.4 with bound keys; the guest insists on them.
    Coffer,
    /// A stock Trustee: KBS 0.4 without bound keys.
    Trustee,
}

/// Where the guest attests.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct KeyService {
    /// Protocol.
    pub kind: KeyServiceKind,
    /// `https://host:port`, tried in order.
    pub urls: Vec<String>,
    /// The name the service's certificate must carry, whatever the URL says.
    pub tls_name: String,
    /// One to four CA certificates, DER in standard base64. Nothing else is trusted.
    pub ca: Vec<String>,
}

/// The sealed kit on `crypt_root` (disk format 1).
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct KitRef {
    /// Byte offset on the disk, after the verity tree.
    pub offset: u64,
    /// Sealed size in bytes.
    pub size: u64,
    /// SHA-256 of the sealed bytes.
    pub digest: Sha256Digest,
}

/// What runs: decided at build time, so that the guest parses no image config and no passwd file.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Container {
    /// Digest of the image config (OCI image ID).
    pub image: Sha256Digest,
    /// argv; element 0 is looked up in the container's PATH if it has no slash.
    pub command: Vec<String>,
    /// `NAME=value`, in order.
    pub env: Vec<String>,
    /// Absolute path.
    pub workdir: String,
    /// Numeric identity.
    pub user: User,
    /// Signal number sent at an orderly stop (15 is SIGTERM).
    pub stop_signal: u8,
}

/// Numeric identity of the workload.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct User {
    /// User ID.
    pub uid: u32,
    /// Primary group ID.
    pub gid: u32,
    /// Supplementary group IDs.
    pub groups: Vec<u32>,
}

/// What the workload may reach, and what may reach it.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Network {
    /// Inbound TCP ports.
    pub allowed_ports: Vec<u16>,
    /// Outbound TCP ports.
    pub allowed_out_ports: Vec<u16>,
    /// Lines for the container's `/etc/hosts`.
    pub hosts_entries: BTreeMap<String, IpAddr>,
}

/// Where the workload's one way out leads: from a port on loopback, over mutual TLS with this boot's attested key, to the gate.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Gate {
    /// `host:port`, tried in order.
    pub addresses: Vec<String>,
    /// The name the gate's certificate must carry, whatever the address says.
    pub tls_name: String,
    /// One to four CA certificates, DER in standard base64. Nothing else is trusted.
    pub ca: Vec<String>,
    /// Where the workload finds its server.
    pub workload: WorkloadEnd,
    /// Whether the gate must itself be attested: its job token of role `superlink`, checked before a byte is sent to it.
    pub attested: bool,
}

/// The workload's end of its way to the gate.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct WorkloadEnd {
    /// The name by which the workload calls its server; 127.0.0.1 in the container's `/etc/hosts`.
    pub name: String,
    /// The port on loopback, 1024 to 65535.
    pub port: u16,
}

/// The attestation schedule.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Attestation {
    /// Seconds a job token lives; less than `check_frequency`.
    pub token_expiration: u32,
    /// Seconds after which a lease without a newer token ends.
    pub check_frequency: u32,
    /// What happens at an authenticated refusal.
    pub failure_action: FailureAction,
    /// Seconds for which the guest tries to reach the service at boot before it powers off.
    pub retry_for: u32,
    /// NVFLARE token issuers, carried for its runtime.
    pub issuers: Vec<Issuer>,
}

/// What the guest does when its renewal is refused.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum FailureAction {
    /// Stop the workload, retry in quarantine for a bounded time, then power off.
    StopJob,
    /// Power off at once.
    Shutdown,
    /// Only report.
    None,
}

/// An NVFLARE `cc_issuers` entry.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Issuer {
    /// Component id.
    pub id: String,
    /// Python class path.
    pub path: String,
    /// Constructor arguments, values as text.
    pub args: BTreeMap<String, String>,
    /// Seconds.
    pub token_expiration: u32,
}

/// The GPU a site needs.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Gpu {
    /// Which confidential-computing mechanism.
    pub mechanism: GpuMechanism,
}

/// Confidential GPU mechanisms.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum GpuMechanism {
    /// NVIDIA confidential computing.
    NvidiaCc,
}
