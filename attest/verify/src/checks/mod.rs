//! The checks themselves: one function per rule, each told what it may look at, none of them opening or asking anything.

mod enrollment;
mod guest;
mod key;
mod platform;

use std::sync::LazyLock;

use coffer_evidence::{Family, Report, ReportFields, TcbVersion, UnixTime};

use crate::chain::Endorsement;
use crate::expected::Expected;
use crate::reference::{FamilyValues, ReferenceValues};
use crate::reject::TcbKind;
use crate::rule::Rule;

/// What the checks look at.
pub(crate) struct Scene<'a> {
    pub(crate) report: &'a Report,
    /// None where the chain did not hold: the checks that need it are then not reached.
    pub(crate) endorsement: Option<&'a Endorsement>,
    pub(crate) expected: &'a Expected<'a>,
    pub(crate) now: UnixTime,
    /// Whether a passed check says what it saw. Only an appraisal wants to know.
    pub(crate) tells: bool,
}

/// What a check found.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) enum Finding {
    /// It holds, for this value (empty unless the scene tells).
    Pass(String),
    /// Nobody asked for it.
    NotAsked,
    /// It needs what an earlier check did not give.
    NotReached,
    /// It does not hold.
    Fail { expected: String, got: String },
}

impl<'a> Scene<'a> {
    pub(crate) fn fields(&self) -> &'a ReportFields {
        self.report.fields()
    }

    /// The project's values; none is as good as values without a family.
    pub(crate) fn values(&self) -> &'a ReferenceValues {
        static CLOSED: LazyLock<ReferenceValues> = LazyLock::new(ReferenceValues::closed);
        self.expected.reference_values.unwrap_or(&CLOSED)
    }

    /// Family of the anchoring root, and its values if it is taken.
    fn family(&self) -> Option<(Family, Option<&'a FamilyValues>)> {
        let family = self.endorsement?.family();
        Some((family, self.values().families.of(family)))
    }

    fn pass(&self, got: impl FnOnce() -> String) -> Finding {
        Finding::Pass(if self.tells { got() } else { String::new() })
    }

    /// Passes if it holds; says both values if not.
    fn judge(&self, holds: bool, expected: impl FnOnce() -> String, got: impl FnOnce() -> String) -> Finding {
        if holds { self.pass(got) } else { Finding::Fail { expected: expected(), got: got() } }
    }

    fn tcbs(&self) -> [(TcbKind, TcbVersion); 4] {
        let fields = self.fields();
        [
            (TcbKind::Reported, fields.reported_tcb),
            (TcbKind::Committed, fields.committed_tcb),
            (TcbKind::Current, fields.current_tcb),
            (TcbKind::Launch, fields.launch_tcb),
        ]
    }

    /// All four TCBs are at least this. Committed and current differ on genuine hosts, so none stands for the others.
    fn at_least(&self, floor: &TcbVersion) -> Finding {
        match self.tcbs().into_iter().find(|(_, got)| !got.is_at_least(floor)) {
            Some((which, got)) => Finding::Fail { expected: format!("at least {floor}"), got: format!("{got} ({which})") },
            None => self.pass(|| self.tcbs().map(|(which, got)| format!("{got} ({which})")).join("; ")),
        }
    }

    /// Makes one check of a report. The rules about evidence and its chain are [`crate::chain::endorse`]'s.
    pub(crate) fn check(&self, rule: Rule) -> Finding {
        match rule {
            Rule::Evidence | Rule::VekCount | Rule::Certificate | Rule::Chain => Finding::NotReached,
            Rule::ReportVersion => key::report_version(self),
            Rule::SigningKey => key::signing_key(self),
            Rule::CertificateKind => key::certificate_kind(self),
            Rule::CertificateDates => key::certificate_dates(self),
            Rule::Crl => key::crl(self),
            Rule::CertificateRevoked => key::certificate_revoked(self),
            Rule::CertificateTcb => key::certificate_tcb(self),
            Rule::ChipId => key::chip_id(self),
            Rule::SignatureAlgorithm => key::signature_algorithm(self),
            Rule::SignatureRange => key::signature_range(self),
            Rule::Signature => key::signature(self),
            Rule::ReportData => key::report_data(self),
            Rule::ReservedBytes => guest::reserved_bytes(self),
            Rule::Vmpl => guest::vmpl(self),
            Rule::DebugPolicy => guest::debug_policy(self),
            Rule::MigrationPolicy => guest::migration_policy(self),
            Rule::PolicyReserved => guest::policy_reserved(self),
            Rule::GuestPolicy => guest::guest_policy(self),
            Rule::GuestPolicyAbi => guest::guest_policy_abi(self),
            Rule::TcbFloorMissing => platform::tcb_floor_missing(self),
            Rule::FamilyMismatch => platform::family_mismatch(self),
            Rule::Family => platform::family(self),
            Rule::CertificateCurrentTcb => platform::certificate_current_tcb(self),
            Rule::TcbOrder => platform::tcb_order(self),
            Rule::TcbFloor => platform::tcb_floor(self),
            Rule::MinimumFirmware => platform::minimum_firmware(self),
            Rule::Mitigations => platform::mitigations(self),
            Rule::PlatformInfo => platform::platform_info(self),
            Rule::MaskedChip => platform::masked_chip(self),
            Rule::CspId => platform::csp_id(self),
            Rule::ChipAllowed => platform::chip_allowed(self),
            Rule::ChipDenied => platform::chip_denied(self),
            Rule::ChipRevoked => platform::chip_revoked(self),
            Rule::FamilyId => guest::family_id(self),
            Rule::ImageId => guest::image_id(self),
            Rule::GuestSvn => guest::guest_svn(self),
            Rule::IdKey => guest::id_key(self),
            Rule::AuthorKey => guest::author_key(self),
            Rule::KeyRevoked => guest::key_revoked(self),
            Rule::ReportId => guest::report_id(self),
            Rule::MigrationAgent => guest::migration_agent(self),
            Rule::HostData => enrollment::host_data(self),
            Rule::LaunchDigest => enrollment::launch_digest(self),
            Rule::LaunchDigestRevoked => enrollment::launch_digest_revoked(self),
            Rule::EnrolledChip => enrollment::chip(self),
            Rule::EnrolledTcbFloor => enrollment::tcb_floor(self),
            Rule::EnrolledGuestSvn => enrollment::guest_svn(self),
            Rule::EnrolledIdKey => enrollment::id_key(self),
            Rule::EnrolledAuthorKey => enrollment::author_key(self),
        }
    }
}

/// `a, b, c`, for messages.
fn listed<T: ToString>(items: impl IntoIterator<Item = T>) -> String {
    items.into_iter().map(|item| item.to_string()).collect::<Vec<_>>().join(", ")
}
