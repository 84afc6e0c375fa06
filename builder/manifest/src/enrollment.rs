//! The enrollment: one record that ties a HOST_DATA to what it may have.

use coffer_evidence::{ChipId, HostData, KeyDigest, LaunchDigest, TcbVersion};
use serde::{Deserialize, Serialize};
use zeroize::Zeroizing;

use crate::base::OpenRisks;
use crate::canonical::{DocumentError, decode, document_type, encode};
use crate::disk::RootSecret;
use crate::kit::KitKey;
use crate::names::{ProjectName, RootOfTrust, SiteName};
use crate::site::Role;

document_type!(EnrollmentType, "coffer/enrollment/v1");

/// HOST_DATA → what it is and what it may have. Compared as a whole at each decision.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Enrollment {
    /// Always `coffer/enrollment/v1`.
    #[serde(rename = "type")]
    pub kind: EnrollmentType,
    /// SHA-256 of the site config.
    pub host_data: HostData,
    /// Project.
    pub project: ProjectName,
    /// Site.
    pub site: SiteName,
    /// Role.
    pub role: Role,
    /// The site config's own counter.
    pub site_svn: u32,
    /// The base's counter.
    pub base_svn: u32,
    /// Must equal the service's own.
    pub root_of_trust: RootOfTrust,
    /// The bases this site config may run on.
    pub launch_digests: Vec<LaunchDigest>,
    /// Seconds a job token of this site lives.
    pub token_expiration: u32,
    /// What the base leaves open; enrolling `aml: unrestricted` needs the operator's word.
    pub open_risks: OpenRisks,
    /// Revokes this HOST_DATA in the same transaction, or after the overlap.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub supersedes: Option<HostData>,
    /// For how many seconds after this enrollment the superseded config may still boot and renew, 1 to [`MAX_OVERLAP_SECONDS`];
    /// not at all if absent. Counted from the enrollment, so that a file may wait before it is enrolled.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub overlap_seconds: Option<u32>,
    /// The author key of the site's ID blocks: evidence must show it. No ID block is asked for if absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub author_key_digest: Option<KeyDigest>,
    /// GUEST_SVN of the evidence must be at least this.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub minimum_guest_svn: Option<u32>,
    /// The chips this site may run on; any, as far as this record is concerned, if there are none. Left out when empty.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub chip_ids: Vec<ChipId>,
    /// Every TCB of the evidence must be at least this, besides what the project's values ask for.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tcb_floor: Option<TcbVersion>,
}

/// The longest overlap of two configs of a site: 30 days. Both are as good as each other for so long, so it is not for ever.
pub const MAX_OVERLAP_SECONDS: u32 = 30 * 86_400;

/// The secrets of one site config.
#[derive(Debug)]
pub struct Secrets {
    /// `<project>/<site>/<hex>`.
    pub root: RootSecret,
    /// `<project>/<site>/<hex>.kit`.
    pub kit: Option<KitKey>,
}

/// `enroll/<site>.json`: the record and its secrets; also the admin's backup of the keys. Mode 0600, never in a bundle.
#[derive(Debug)]
pub struct EnrollmentFile {
    /// The record.
    pub record: Enrollment,
    /// Its secrets.
    pub secrets: Secrets,
}

/// The file's shape. Private: secrets have no serde of their own.
#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Raw {
    record: Enrollment,
    secrets: RawSecrets,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct RawSecrets {
    root: Zeroizing<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    kit: Option<Zeroizing<String>>,
}

impl EnrollmentFile {
    /// Canonical JSON `{record, secrets: {root, kit?}}`, secrets as 64 hexadecimal digits.
    ///
    /// # Errors
    /// See [`DocumentError::Encode`].
    pub fn to_bytes(&self) -> Result<Zeroizing<Vec<u8>>, DocumentError> {
        let hex = |bytes: &[u8]| Zeroizing::new(data_encoding::HEXLOWER.encode(bytes));
        let raw = Raw {
            record: self.record.clone(),
            secrets: RawSecrets { root: hex(self.secrets.root.expose()), kit: self.secrets.kit.as_ref().map(|key| hex(key.expose())) },
        };
        encode(&raw).map(Zeroizing::new)
    }

    /// Parses what [`Self::to_bytes`] wrote, and nothing else.
    ///
    /// # Errors
    /// See [`DocumentError`]; a secret of another length or alphabet is a parse error that does not repeat it.
    pub fn from_bytes(bytes: &[u8]) -> Result<Self, DocumentError> {
        let raw: Raw = decode(bytes)?;
        let key = |text: &str| {
            let bytes = Zeroizing::new(data_encoding::HEXLOWER.decode(text.as_bytes()).unwrap_or_default());
            <[u8; 32]>::try_from(bytes.as_slice())
                .map_err(|_| DocumentError::Parse(serde::de::Error::custom("a secret is not 64 lower-case hexadecimal digits")))
        };
        let root = RootSecret::new(key(&raw.secrets.root)?);
        let kit = raw.secrets.kit.map(|text| key(&text).map(KitKey::new)).transpose()?;
        Ok(Self { record: raw.record, secrets: Secrets { root, kit } })
    }
}
