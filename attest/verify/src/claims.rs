//! What is known once every rule has passed.

use core::ops::Deref;

use coffer_evidence::{
    ChipId, Cpuid, Family, FirmwareVersion, GuestPolicy, HostData, KeyDigest, LaunchDigest, Report, ReportData, ReportId, TcbVersion,
    VekKind,
};

use crate::chain::Endorsement;
use crate::reference::BlockId;
use crate::roots::RootOfTrust;

/// A value that passed every check. Only [`crate::verify`] can make one.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Verified<T>(T);

impl<T> Verified<T> {
    pub(crate) fn new(value: T) -> Self {
        Self(value)
    }

    /// Gives up the proof and keeps the value.
    #[must_use]
    pub fn into_inner(self) -> T {
        self.0
    }
}

impl<T> Deref for Verified<T> {
    type Target = T;

    fn deref(&self) -> &T {
        &self.0
    }
}

/// What a report says about a guest and its platform. Meaningful as [`Verified<Claims>`].
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Claims {
    /// What vouches for all of this.
    pub root_of_trust: RootOfTrust,
    /// Product of the anchoring root.
    pub family: Family,
    /// What kind of key signed.
    pub signing_key: VekKind,
    /// The cloud provider a VLEK was made for.
    pub csp_id: Option<String>,
    /// Which chip, by its certificate, even where the report hides it. Zero under a VLEK.
    pub chip_id: ChipId,
    /// CPUID of the processor; none in version 2 reports.
    pub cpuid: Option<Cpuid>,
    /// VERSION of the report.
    pub report_version: u32,
    /// The challenge it answers.
    pub report_data: ReportData,
    /// SHA-256 of the site config.
    pub host_data: HostData,
    /// What was launched.
    pub launch_digest: LaunchDigest,
    /// Random, of this guest's life: tells clones apart.
    pub report_id: ReportId,
    /// FAMILY_ID of the ID block.
    pub family_id: BlockId,
    /// IMAGE_ID of the ID block.
    pub image_id: BlockId,
    /// GUEST_SVN of the ID block.
    pub guest_svn: u32,
    /// What the host may do with the guest. Debugging and migration are off.
    pub policy: GuestPolicy,
    /// PLATFORM_INFO bits.
    pub platform_info: u64,
    /// SHA-384 of the ID key; zero without an ID block.
    pub id_key_digest: KeyDigest,
    /// SHA-384 of the author key, if one signed the ID key.
    pub author_key_digest: Option<KeyDigest>,
    /// What the VCEK was derived from.
    pub reported_tcb: TcbVersion,
    /// What the platform can no longer go below.
    pub committed_tcb: TcbVersion,
    /// What runs now.
    pub current_tcb: TcbVersion,
    /// What ran when the guest was launched.
    pub launch_tcb: TcbVersion,
    /// SNP firmware that runs now.
    pub current_version: FirmwareVersion,
    /// SNP firmware the platform can no longer go below.
    pub committed_version: FirmwareVersion,
    /// Mitigations at launch; none before version 5.
    pub launch_mit_vector: Option<u64>,
    /// Mitigations now; none before version 5.
    pub current_mit_vector: Option<u64>,
}

impl Claims {
    pub(crate) fn of(report: &Report, endorsement: &Endorsement) -> Self {
        let fields = report.fields();
        Self {
            root_of_trust: endorsement.root_of_trust(),
            family: endorsement.family(),
            signing_key: endorsement.kind(),
            csp_id: endorsement.extensions().csp_id.clone(),
            chip_id: endorsement.chip().copied().unwrap_or(fields.chip_id),
            cpuid: fields.cpuid,
            report_version: fields.version,
            report_data: fields.report_data,
            host_data: fields.host_data,
            launch_digest: fields.measurement,
            report_id: fields.report_id,
            family_id: BlockId::new(fields.family_id),
            image_id: BlockId::new(fields.image_id),
            guest_svn: fields.guest_svn,
            policy: fields.policy,
            platform_info: fields.platform_info,
            id_key_digest: fields.id_key_digest,
            author_key_digest: fields.key_info.author_key_enabled().then_some(fields.author_key_digest),
            reported_tcb: fields.reported_tcb,
            committed_tcb: fields.committed_tcb,
            current_tcb: fields.current_tcb,
            launch_tcb: fields.launch_tcb,
            current_version: fields.current_version,
            committed_version: fields.committed_version,
            launch_mit_vector: fields.launch_mit_vector,
            current_mit_vector: fields.current_mit_vector,
        }
    }
}
