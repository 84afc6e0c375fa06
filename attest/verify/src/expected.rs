//! What evidence is compared with.

use std::collections::BTreeSet;

use coffer_evidence::{ChipId, HostData, KeyDigest, LaunchDigest, ReportData, TcbVersion};

use crate::collateral::Collateral;
use crate::reference::ReferenceValues;

/// The part of an enrollment that evidence is compared with. It adds to a project's reference values and takes nothing away.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Enrolled {
    /// The site config it is for.
    pub host_data: HostData,
    /// The bases that site config may run on.
    pub launch_digests: Vec<LaunchDigest>,
    /// SHA-384 of the author key that must have signed the ID key.
    pub author_key_digest: Option<KeyDigest>,
    /// SHA-384 of the ID key that must have signed the ID block.
    pub id_key_digest: Option<KeyDigest>,
    /// Lowest GUEST_SVN.
    pub minimum_guest_svn: Option<u32>,
    /// The chips it may run on.
    pub chip_ids: Option<Vec<ChipId>>,
    /// The oldest TCB, for all four of a report's.
    pub tcb_floor: Option<TcbVersion>,
}

impl Enrolled {
    /// A record of this site config for these bases that asks for nothing more.
    #[must_use]
    pub const fn new(host_data: HostData, launch_digests: Vec<LaunchDigest>) -> Self {
        Self {
            host_data,
            launch_digests,
            author_key_digest: None,
            id_key_digest: None,
            minimum_guest_svn: None,
            chip_ids: None,
            tcb_floor: None,
        }
    }
}

/// What was revoked, for every project of a service.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Revoked {
    /// Chips, by CHIP_ID (Turin: 8 bytes and zeros). They do not reach a VLEK, which hides the chip.
    pub chips: BTreeSet<ChipId>,
    /// Bases, by launch digest.
    pub launch_digests: BTreeSet<LaunchDigest>,
    /// ID keys and author keys, by SHA-384.
    pub keys: BTreeSet<KeyDigest>,
}

/// What one piece of evidence is compared with.
#[derive(Clone, Copy, Debug)]
pub struct Expected<'a> {
    /// The challenge: SHA-384 of the runtime-data, then 16 zeros.
    pub report_data: ReportData,
    /// The project's reference values; `None` refuses everything.
    pub reference_values: Option<&'a ReferenceValues>,
    /// The current enrollment of the report's HOST_DATA, looked up by the caller from
    /// `evidence.report.fields().host_data`; `None` if there is none or it is revoked. A record of another HOST_DATA is refused.
    pub enrolled: Option<&'a Enrolled>,
    /// What was revoked service-wide.
    pub revoked: &'a Revoked,
    /// Revocation lists.
    pub collateral: &'a Collateral,
}
