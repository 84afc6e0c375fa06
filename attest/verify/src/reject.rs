//! Why evidence was refused: one variant per rule.

use core::fmt;

use coffer_evidence::{
    CertificateError, ChipId, Cpuid, EvidenceError, Family, GuestPolicy, HostData, Hwid, LaunchDigest, Name, ReportData, ReportError,
    SigningKey, TcbVersion, UnixTime,
};

/// The first rule evidence broke, with both values. [`Reject::code`] is for machines and peers, the text for the log.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Reject {
    /// The JSON or the report in it cannot be read.
    #[error("evidence cannot be read")]
    Evidence(#[source] EvidenceError),
    /// A report version that is unknown or switched off.
    #[error("attestation report has version {got}, allowed are {allowed:?}")]
    ReportVersion {
        /// VERSION of the report.
        got: u32,
        /// What is allowed.
        allowed: Vec<u32>,
    },
    /// Not exactly one VCEK certificate.
    #[error("evidence has {got} VCEK certificates, expected 1")]
    VcekCount {
        /// How many it has.
        got: usize,
    },
    /// Signed by a key the cloud provider loaded.
    #[error("{by} is of a VLEK, only VCEK evidence is taken")]
    Vlek {
        /// What shows it: the report or the certificate.
        by: &'static str,
    },
    /// KEY_INFO names neither VCEK nor VLEK.
    #[error("report was signed by {got}, expected VCEK")]
    SigningKey {
        /// What KEY_INFO says.
        got: SigningKey,
    },
    /// A certificate cannot be read.
    #[error("{which} certificate cannot be read")]
    Certificate {
        /// `VCEK` or `ASK`.
        which: &'static str,
        /// What is wrong with it.
        #[source]
        source: CertificateError,
    },
    /// The chain does not lead from the VCEK to our root.
    #[error("certificate of {subject} by {issuer} {fault}")]
    Chain {
        /// The certificate at fault.
        subject: Name,
        /// Who it says signed it.
        issuer: Name,
        /// What is wrong with it.
        fault: ChainFault,
    },
    /// A certificate of the chain is expired or not yet valid.
    #[error("certificate of {subject} is valid from {not_before} to {not_after}, now is {now}")]
    CertificateDates {
        /// The certificate.
        subject: Name,
        /// First second of validity.
        not_before: UnixTime,
        /// Last second of validity.
        not_after: UnixTime,
        /// The time verified at.
        now: UnixTime,
    },
    /// The VCEK was derived for another TCB than the report's.
    #[error("VCEK is for {certificate}; the report says {report}")]
    CertificateTcb {
        /// The certificate's levels.
        certificate: TcbVersion,
        /// REPORTED_TCB.
        report: TcbVersion,
    },
    /// The VCEK is another chip's.
    #[error("VCEK is for chip {}, the report is from chip {report}", certificate.as_ref().map_or_else(|| "(none)".into(), ToString::to_string))]
    ChipId {
        /// The certificate's hardware id.
        certificate: Option<Hwid>,
        /// CHIP_ID.
        report: Box<ChipId>,
    },
    /// Not ECDSA P-384 with SHA-384.
    #[error("report names signature algorithm {got}, expected 1 (ECDSA P-384 with SHA-384)")]
    SignatureAlgorithm {
        /// SIGNATURE_ALGO.
        got: u32,
    },
    /// The report was not signed by the VCEK, or was changed since, or had reserved bytes the wire JSON lost.
    #[error("report signature does not verify under the VCEK")]
    Signature,
    /// The report answers another challenge.
    #[error("REPORT_DATA is {got}, expected {expected}")]
    ReportData {
        /// What the report holds.
        got: Box<ReportData>,
        /// What this challenge needs.
        expected: Box<ReportData>,
    },
    /// The report was asked for by something below the guest's highest privilege level.
    #[error("report was made at VMPL {got}, expected 0")]
    Vmpl {
        /// VMPL of the report.
        got: u32,
    },
    /// The host may read the guest's memory.
    #[error("guest policy {got} allows debugging")]
    DebugPolicy {
        /// The policy.
        got: GuestPolicy,
    },
    /// The host may move the guest to a machine of its choice.
    #[error("guest policy {got} allows migration")]
    MigrationPolicy {
        /// The policy.
        got: GuestPolicy,
    },
    /// Nobody said how old this family's firmware may be.
    #[error("no TCB floor is configured for {family}")]
    NoTcbFloor {
        /// The family.
        family: Family,
    },
    /// Firmware older than the floor in some component.
    #[error("{which} TCB is {got}; the floor is {floor}")]
    TcbFloor {
        /// Which of the report's TCBs.
        which: TcbKind,
        /// What it is.
        got: TcbVersion,
        /// What it must be at least.
        floor: TcbVersion,
    },
    /// Root, CPUID and certificate do not name one family.
    #[error("root is {anchor}'s, but the processor is {} and the VCEK's product `{}`", cpuid.map_or_else(|| "(not named)".into(), |c| c.to_string()), product.escape_debug())]
    FamilyMismatch {
        /// Product of the anchoring root.
        anchor: Family,
        /// What the report says.
        cpuid: Option<Cpuid>,
        /// What the certificate says.
        product: String,
    },
    /// A family that is switched off.
    #[error("processor family {got} is not allowed, only {}", allowed.iter().map(ToString::to_string).collect::<Vec<_>>().join(", "))]
    Family {
        /// The family.
        got: Family,
        /// What is allowed.
        allowed: Vec<Family>,
    },
    /// No current enrollment of this site config.
    #[error("HOST_DATA {got} is not enrolled{}", enrolled.map_or_else(String::new, |other| format!(", the record given is of {other}")))]
    HostData {
        /// What the report holds.
        got: HostData,
        /// HOST_DATA of the record the caller gave, if any.
        enrolled: Option<HostData>,
    },
    /// The site config is enrolled, but not for what was launched.
    #[error("launch digest {got} is not one of the {} this site config is enrolled for", allowed.len())]
    LaunchDigest {
        /// What was launched.
        got: LaunchDigest,
        /// What may be.
        allowed: Vec<LaunchDigest>,
    },
}

impl Reject {
    /// The rule's name, `snake_case`, stable: the reason code of logs, errors and tokens.
    #[must_use]
    pub const fn code(&self) -> &'static str {
        match self {
            Self::Evidence(_) => "evidence",
            Self::ReportVersion { .. } => "report_version",
            Self::VcekCount { .. } => "vcek_count",
            Self::Vlek { .. } => "vlek",
            Self::SigningKey { .. } => "signing_key",
            Self::Certificate { .. } => "certificate",
            Self::Chain { .. } => "chain",
            Self::CertificateDates { .. } => "certificate_dates",
            Self::CertificateTcb { .. } => "certificate_tcb",
            Self::ChipId { .. } => "chip_id",
            Self::SignatureAlgorithm { .. } => "signature_algorithm",
            Self::Signature => "signature",
            Self::ReportData { .. } => "report_data",
            Self::Vmpl { .. } => "vmpl",
            Self::DebugPolicy { .. } => "debug_policy",
            Self::MigrationPolicy { .. } => "migration_policy",
            Self::NoTcbFloor { .. } => "tcb_floor_missing",
            Self::TcbFloor { .. } => "tcb_floor",
            Self::FamilyMismatch { .. } => "family_mismatch",
            Self::Family { .. } => "family",
            Self::HostData { .. } => "host_data",
            Self::LaunchDigest { .. } => "launch_digest",
        }
    }

    /// Whether the guest that the report describes has spoken in this very handshake: the signature had verified and REPORT_DATA
    /// had answered the challenge. Only then may a refusal be held against a site or enter its audit log: a genuine report over
    /// another challenge is a copy, and reports lie in public repositories.
    #[must_use]
    pub const fn is_authenticated(&self) -> bool {
        matches!(
            self,
            Self::Vmpl { .. }
                | Self::DebugPolicy { .. }
                | Self::MigrationPolicy { .. }
                | Self::NoTcbFloor { .. }
                | Self::TcbFloor { .. }
                | Self::FamilyMismatch { .. }
                | Self::Family { .. }
                | Self::HostData { .. }
                | Self::LaunchDigest { .. }
        )
    }
}

/// Evidence that cannot be read is refused like any other; an unknown report version keeps its own name.
impl From<EvidenceError> for Reject {
    fn from(error: EvidenceError) -> Self {
        match error {
            EvidenceError::Report(ReportError::Version { got }) => {
                Self::ReportVersion { got, allowed: coffer_evidence::Report::VERSIONS.to_vec() }
            }
            other => Self::Evidence(other),
        }
    }
}

/// What is wrong with a link of the chain.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[non_exhaustive]
pub enum ChainFault {
    /// Nothing we have, built in or beside the report, has its issuer's name.
    NoIssuer,
    /// Its issuer is no root of ours.
    UnknownRoot,
    /// Its common name is not the one its place in the chain has.
    CommonName,
    /// It is not allowed to sign certificates.
    NotCa,
    /// It is not signed by RSA-PSS with SHA-384.
    Algorithm,
    /// It has a critical extension this build does not know.
    CriticalExtension,
    /// Its key is not of the kind its place in the chain has.
    KeyType,
    /// Its signature does not verify under its issuer's key.
    Signature,
}

impl fmt::Display for ChainFault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::NoIssuer => "has an issuer this verifier does not know",
            Self::UnknownRoot => "does not lead to this verifier's root of trust",
            Self::CommonName => "has a name that does not belong in its place",
            Self::NotCa => "may not sign certificates",
            Self::Algorithm => "is not signed by RSA-PSS with SHA-384",
            Self::CriticalExtension => "has an unknown critical extension",
            Self::KeyType => "has a key of a kind that does not belong in its place",
            Self::Signature => "does not verify under its issuer's key",
        })
    }
}

/// One of a report's four TCB versions.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum TcbKind {
    /// What the VCEK is derived from.
    Reported,
    /// What the platform can no longer go below.
    Committed,
    /// What runs now.
    Current,
    /// What ran at launch.
    Launch,
}

impl fmt::Display for TcbKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Reported => "reported",
            Self::Committed => "committed",
            Self::Current => "current",
            Self::Launch => "launch",
        })
    }
}
