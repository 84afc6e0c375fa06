//! What policies see. The names here are the names in the rego files.

use coffer_verify::{Claims, Verified};
use serde::{Deserialize, Serialize};

/// What verified evidence says. Made of [`Verified`] claims only; it may travel through a sealed session, which nobody but the
/// service can write.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct EvidenceFacts {
    pub(crate) root_of_trust: String,
    pub(crate) family: String,
    pub(crate) chip_id: String,
    pub(crate) host_data: String,
    pub(crate) launch_digest: String,
    pub(crate) report_id: String,
    pub(crate) report_version: u32,
    pub(crate) guest_svn: u32,
    pub(crate) author_key_digest: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) id_key_digest: Option<String>,
    pub(crate) debug_allowed: bool,
    pub(crate) migration_allowed: bool,
    pub(crate) smt_allowed: bool,
    pub(crate) single_socket: bool,
    pub(crate) abi_major: u8,
    pub(crate) abi_minor: u8,
    pub(crate) platform_info: u64,
    pub(crate) reported_tcb: Tcb,
    pub(crate) launch_mit_vector: Option<u64>,
    pub(crate) current_mit_vector: Option<u64>,
}

/// A TCB as policies see it.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Tcb {
    pub(crate) fmc: Option<u8>,
    pub(crate) bootloader: u8,
    pub(crate) tee: u8,
    pub(crate) snp: u8,
    pub(crate) microcode: u8,
}

impl EvidenceFacts {
    /// Takes what policies see out of verified claims.
    #[must_use]
    pub fn of(claims: &Verified<Claims>) -> Self {
        let tcb = claims.reported_tcb;
        Self {
            root_of_trust: claims.root_of_trust.to_string(),
            family: claims.family.to_string(),
            chip_id: claims.chip_id.to_string(),
            host_data: claims.host_data.to_string(),
            launch_digest: claims.launch_digest.to_string(),
            report_id: claims.report_id.to_string(),
            report_version: claims.report_version,
            guest_svn: claims.guest_svn,
            author_key_digest: claims.author_key_digest.map(|digest| digest.to_string()),
            id_key_digest: claims.id_key_digest.as_bytes().iter().any(|b| *b != 0).then(|| claims.id_key_digest.to_string()),
            debug_allowed: claims.policy.debug_allowed(),
            migration_allowed: claims.policy.migration_allowed(),
            smt_allowed: claims.policy.smt_allowed(),
            single_socket: claims.policy.single_socket(),
            abi_major: claims.policy.abi().0,
            abi_minor: claims.policy.abi().1,
            platform_info: claims.platform_info,
            reported_tcb: Tcb { fmc: tcb.fmc, bootloader: tcb.bootloader, tee: tcb.tee, snp: tcb.snp, microcode: tcb.microcode },
            launch_mit_vector: claims.launch_mit_vector,
            current_mit_vector: claims.current_mit_vector,
        }
    }

    /// HOST_DATA, 64 hexadecimal digits: under which the record is looked up.
    #[must_use]
    pub fn host_data(&self) -> &str {
        &self.host_data
    }

    /// REPORT_ID, 64 hexadecimal digits: which boot it is.
    #[must_use]
    pub fn report_id(&self) -> &str {
        &self.report_id
    }

    /// CHIP_ID, 128 hexadecimal digits: it may be revoked after the attestation.
    #[must_use]
    pub fn chip_id(&self) -> &str {
        &self.chip_id
    }

    /// Launch digest, 96 hexadecimal digits: it may be revoked after the attestation.
    #[must_use]
    pub fn launch_digest(&self) -> &str {
        &self.launch_digest
    }

    /// Digests of the author key and the ID key, as far as the report shows any: they may be revoked after the attestation.
    pub fn key_digests(&self) -> impl Iterator<Item = &str> {
        [&self.author_key_digest, &self.id_key_digest].into_iter().flatten().map(String::as_str)
    }
}

/// An enrollment as it stands at the moment of the decision.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Record {
    /// Project.
    pub project: String,
    /// Site.
    pub site: String,
    /// Role, such as `client`.
    pub role: String,
    /// SHA-256 of the site config, 64 hexadecimal digits.
    pub host_data: String,
    /// Allowed launch digests, 96 hexadecimal digits each.
    pub launch_digests: Vec<String>,
    /// Root of trust it was enrolled under.
    pub root_of_trust: String,
    /// The site config's own counter.
    pub site_svn: u32,
    /// The base's counter.
    pub base_svn: u32,
    /// Whether it was revoked or superseded.
    pub revoked: bool,
    /// Whether its site is suspended.
    pub suspended: bool,
}

/// A parsed resource path.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Resource {
    /// First segment.
    pub project: String,
    /// Second segment.
    pub site: String,
    /// The 64 hexadecimal digits of the third.
    pub host_data: String,
    /// `root`, or the name after the digits, such as `kit`.
    pub secret: String,
}

/// A token about to be issued.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TokenRequest {
    /// `job` or `kbs`.
    pub kind: String,
    /// Whether the report binds a key that the token will name in `cnf`.
    pub bound_key: bool,
    /// What the handshake is for: `boot`, `gpu` or `renew`; absent from stock clients.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub purpose: Option<String>,
}
