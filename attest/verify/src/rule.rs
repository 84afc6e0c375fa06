//! Every check of SNP evidence, by name, in the order they are made. A flat table; long on purpose.

use core::fmt;

use serde::{Serialize, Serializer};

macro_rules! rules {
    ($($(#[$doc:meta])* $rule:ident, $code:literal, $subject:literal, $question:literal, $remedy:literal;)*) => {
        /// One check. The order of [`Rule::ALL`] is the order of the checks: the first that fails is the answer.
        #[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
        #[non_exhaustive]
        pub enum Rule {
            $($(#[$doc])* $rule,)*
        }

        impl Rule {
            /// All of them, in order.
            pub const ALL: &'static [Self] = &[$(Self::$rule,)*];

            /// Its name, `snake_case`, stable: the reason code of logs, errors and answers.
            #[must_use]
            pub const fn code(self) -> &'static str {
                match self { $(Self::$rule => $code,)* }
            }

            /// What it looks at, as the subject of "… is …, expected …".
            #[must_use]
            pub const fn subject(self) -> &'static str {
                match self { $(Self::$rule => $subject,)* }
            }

            /// What it asks, one line.
            #[must_use]
            pub const fn question(self) -> &'static str {
                match self { $(Self::$rule => $question,)* }
            }

            /// Where to change what it compares with, or what to do about evidence that breaks it; one line.
            #[must_use]
            pub const fn remedy(self) -> &'static str {
                match self { $(Self::$rule => $remedy,)* }
            }
        }
    };
}

rules! {
    /// The JSON or the report in it can be read.
    Evidence, "evidence", "evidence",
        "is it SNP evidence this build reads, with a report of 1184 bytes?",
        "update the guest's attester, or this service: they disagree about the format";
    /// VERSION is allowed.
    ReportVersion, "report_version", "report version",
        "is the report's version allowed?",
        "update the host's SNP firmware, or add the version to `report_versions` of the project's reference values";
    /// KEY_INFO names a kind of key that is allowed.
    SigningKey, "signing_key", "signing key",
        "was the report signed by a kind of key that is allowed?",
        "`signing_keys` of the project's reference values (a `vlek` needs `csp_ids` too)";
    /// Exactly one certificate of the key that signed.
    VekCount, "vek_count", "number of endorsement key certificates",
        "is there exactly one certificate of the key that signed?",
        "`coffer-attest collateral import` or `fetch`, or have the host hand its certificates to the guest";
    /// Endorsement key and intermediate certificates can be read.
    Certificate, "certificate", "certificate",
        "can the certificates be read, AMD's extensions included?",
        "replace the host's certificate table: what it holds is no certificate of AMD's";
    /// The chain leads to a root this verifier believes.
    Chain, "chain", "certificate chain",
        "do the certificates lead to this service's root of trust, each named, placed and signed as AMD's are?",
        "check that the host is AMD hardware and that site and service have the same root of trust";
    /// The certificate is of the kind of key that KEY_INFO names.
    CertificateKind, "certificate_kind", "kind of the certificate",
        "is the certificate of the kind of key that the report names?",
        "have the host hand over the certificate of the key that signs (VCEK or VLEK)";
    /// Every certificate of the chain is within its dates.
    CertificateDates, "certificate_dates", "certificate",
        "is every certificate of the chain valid now?",
        "fetch the current certificate (a VLEK lives one year), and check this service's clock";
    /// A current CRL is at hand where the project wants one.
    Crl, "crl", "revocation list",
        "is the family's revocation list at hand, and current, where the project requires it?",
        "`coffer-attest collateral fetch` or `import`, or `crl` of the project's reference values";
    /// The CRL does not name the intermediate.
    CertificateRevoked, "certificate_revoked", "serial number of the intermediate",
        "does AMD's revocation list leave the intermediate alone?",
        "AMD revoked this chain: the host needs a certificate of a new one";
    /// The key was derived for REPORTED_TCB.
    CertificateTcb, "certificate_tcb", "TCB of the certificate",
        "was the key derived for the report's REPORTED_TCB?",
        "fetch the certificate for the host's reported TCB: it changed since";
    /// The key is of the chip that reports.
    ChipId, "chip_id", "chip of the certificate",
        "is the certificate of the chip that made the report?",
        "have the host hand over its own chip's certificate";
    /// SIGNATURE_ALGO is ECDSA P-384 with SHA-384.
    SignatureAlgorithm, "signature_algorithm", "signature algorithm",
        "is the report signed by ECDSA P-384 with SHA-384?",
        "update this service: the report is of a firmware it does not know";
    /// R and S lie between 1 and the group order.
    SignatureRange, "signature_range", "signature value",
        "are R and S of the signature numbers that P-384 has?",
        "none: no processor makes such a signature; look for what changed the report on its way";
    /// The report was signed by the certificate's key.
    Signature, "signature", "report signature",
        "was the report signed by the certificate's key, and not changed since?",
        "none: it was changed on its way, is another key's, or had reserved bytes that the stock wire form loses";
    /// REPORT_DATA answers this challenge.
    ReportData, "report_data", "REPORT_DATA",
        "does the report answer this very challenge?",
        "none: it is a copy, or guest and service hash the runtime-data differently";
    /// Reserved bytes and bits are zero.
    ReservedBytes, "reserved_bytes", "reserved bytes",
        "are all reserved bytes of the report zero?",
        "update this service: the report says things it does not know";
    /// VMPL 0.
    Vmpl, "vmpl", "VMPL",
        "did the guest's highest privilege level ask for the report?",
        "start the guest without a paravisor that keeps VMPL 0 for itself";
    /// The host may not read the guest.
    DebugPolicy, "debug_policy", "guest policy",
        "is debugging by the host forbidden?",
        "start the guest with bit 19 of its policy clear";
    /// The host may not move the guest.
    MigrationPolicy, "migration_policy", "guest policy",
        "is migration forbidden?",
        "start the guest with bit 18 of its policy clear";
    /// Bits 17 and 63–26 of the guest policy.
    PolicyReserved, "policy_reserved", "guest policy",
        "is bit 17 of the guest policy one, and are bits 63 to 26 zero?",
        "start the guest with a policy of this form, such as 0x30000; or update this service";
    /// The other bits of the guest policy.
    GuestPolicy, "guest_policy", "guest policy",
        "does the guest policy allow and require what the project wants?",
        "start the guest with another policy, or `guest_policy` of the project's reference values";
    /// The ABI the guest policy asks for.
    GuestPolicyAbi, "guest_policy_abi", "ABI of the guest policy",
        "does the guest policy ask for a firmware ABI that is new enough?",
        "start the guest with a higher ABI in its policy, or `guest_policy.minimum_abi` of the project's reference values";
    /// Somebody said what this project accepts.
    TcbFloorMissing, "tcb_floor_missing", "reference values",
        "did anybody say how old firmware may be for this project?",
        "`coffer-attest policy set` with `reference_values.families`";
    /// Root, certificate and CPUID name one family.
    FamilyMismatch, "family_mismatch", "processor family",
        "do root, certificate and CPUID name the same processor family?",
        "none: certificates and report are of different processors, or this service does not know the model";
    /// The family is allowed.
    Family, "family", "processor family",
        "is this processor family allowed?",
        "`families` of the project's reference values; Milan needs its `risk_accepted`";
    /// The certificate's TCB is not above what runs.
    CertificateCurrentTcb, "certificate_current_tcb", "TCB of the certificate",
        "does firmware run that is at least as new as the key says?",
        "none: a key cannot be newer than the firmware that runs; have AMD look at the host";
    /// REPORTED_TCB ≤ COMMITTED_TCB ≤ CURRENT_TCB.
    TcbOrder, "tcb_order", "TCB",
        "are reported, committed and current TCB in the order that firmware keeps?",
        "none: firmware never reports more than it committed, nor commits more than runs";
    /// All four TCBs are at least the project's floor.
    TcbFloor, "tcb_floor", "TCB",
        "is every component of all four TCBs at least the project's floor?",
        "update the host's firmware and commit it, or `families.<family>.tcb_floor` of the project's reference values";
    /// SNP firmware is new enough.
    MinimumFirmware, "minimum_firmware", "SNP firmware",
        "is the SNP firmware that runs, and the committed one, new enough?",
        "update the host's firmware and commit it, or `families.<family>.minimum_firmware` of the project's reference values";
    /// Mitigations at launch and now.
    Mitigations, "mitigations", "mitigation vector",
        "were the required mitigations on when the guest was launched, and are they now?",
        "update the host's firmware and relaunch, or `families.<family>.launch_mitigations` and `current_mitigations`";
    /// PLATFORM_INFO bits.
    PlatformInfo, "platform_info", "PLATFORM_INFO",
        "is the platform set up as the project wants?",
        "change the host's firmware settings, or `platform` of the project's reference values";
    /// The platform tells which chip it is.
    MaskedChip, "masked_chip", "chip identity",
        "does the report tell which chip made it?",
        "unmask chip id and chip key on the host, or `masked_chip` of the project's reference values";
    /// The VLEK's cloud provider is allowed.
    CspId, "csp_id", "cloud provider of the VLEK",
        "is the cloud provider that the VLEK was made for allowed?",
        "`csp_ids` of the project's reference values";
    /// The chip is on the project's allow-list.
    ChipAllowed, "chip_allowed", "chip",
        "is the chip on the project's list, if it has one?",
        "`chips.allow` of the project's reference values";
    /// The chip is not on the project's deny-list.
    ChipDenied, "chip_denied", "chip",
        "is the chip absent from the project's deny-list?",
        "`chips.deny` of the project's reference values";
    /// The chip was not revoked.
    ChipRevoked, "chip_revoked", "chip",
        "does the chip still stand, service-wide?",
        "none: the chip was revoked; `coffer-attest revocations list` says when and why";
    /// FAMILY_ID of the ID block.
    FamilyId, "family_id", "FAMILY_ID",
        "is FAMILY_ID of the ID block the project's, if it names one?",
        "start the guest with the project's ID block, or `family_id` of the project's reference values";
    /// IMAGE_ID of the ID block.
    ImageId, "image_id", "IMAGE_ID",
        "is IMAGE_ID of the ID block the project's, if it names one?",
        "start the guest with the project's ID block, or `image_id` of the project's reference values";
    /// GUEST_SVN of the ID block.
    GuestSvn, "guest_svn", "GUEST_SVN",
        "is GUEST_SVN of the ID block at least the project's minimum?",
        "rebuild the site with a higher SVN, or `minimum_guest_svn` of the project's reference values";
    /// The ID key is on the project's list.
    IdKey, "id_key", "ID key",
        "is the ID block signed by a key on the project's list, if it has one?",
        "start the guest with the project's ID block, or `id_keys` of the project's reference values";
    /// The author key is on the project's list.
    AuthorKey, "author_key", "author key",
        "is the ID key signed by an author key on the project's list, if it has one?",
        "start the guest with the project's ID block, or `author_keys` of the project's reference values";
    /// Neither ID key nor author key was revoked.
    KeyRevoked, "key_revoked", "ID or author key",
        "do the ID key and the author key still stand, service-wide?",
        "none: the key was revoked; make a new author key, rebuild and enroll again";
    /// REPORT_ID tells this guest's life from others.
    ReportId, "report_id", "REPORT_ID",
        "has the guest a REPORT_ID, so that its life can be told from a clone's?",
        "none: firmware gives every guest one";
    /// No migration agent.
    MigrationAgent, "migration_agent", "REPORT_ID_MA",
        "is the guest without a migration agent (REPORT_ID_MA all ones)?",
        "start the guest without a migration agent";
    /// There is a current enrollment of HOST_DATA.
    HostData, "host_data", "HOST_DATA",
        "is this site config enrolled?",
        "`coffer-attest site enroll`; the site must run the bundle that was enrolled last";
    /// What was launched is in the enrollment.
    LaunchDigest, "launch_digest", "launch digest",
        "is what was launched among what this site config is enrolled for?",
        "enroll the site for this base, vCPU count and CPU model, or start the one it is enrolled for";
    /// The launch digest was not revoked.
    LaunchDigestRevoked, "launch_digest_revoked", "launch digest",
        "does the base still stand, service-wide?",
        "none: the image was revoked; update the site to a base that stands";
    /// The chip is in the enrollment, if it names chips.
    EnrolledChip, "enrolled_chip", "chip",
        "is the chip one that the enrollment names, if it names any?",
        "run the site on an enrolled chip, or enroll it with this one in `chip_ids`";
    /// All four TCBs are at least the enrollment's floor.
    EnrolledTcbFloor, "enrolled_tcb_floor", "TCB",
        "is every component of all four TCBs at least the enrollment's floor, if it has one?",
        "update the host's firmware and commit it, or enroll the site with another `tcb_floor`";
    /// The ID key is the enrollment's.
    EnrolledIdKey, "enrolled_id_key", "ID key",
        "is the ID block signed by the key the enrollment names, if it names one?",
        "start the bundle that was enrolled, with its ID block";
    /// The author key is the enrollment's.
    EnrolledAuthorKey, "enrolled_author_key", "author key",
        "is the ID key signed by the author key the enrollment names, if it names one?",
        "start the bundle that was enrolled, with its ID block";
    /// GUEST_SVN is at least the enrollment's. After the keys: it counts for as much as whoever signed it.
    EnrolledGuestSvn, "enrolled_guest_svn", "GUEST_SVN",
        "is GUEST_SVN at least the enrollment's minimum, if it has one?",
        "start the bundle that was enrolled, with its ID block";
}

impl Rule {
    /// Whether a report that breaks this rule, and none before it, is known to be this guest's answer to this challenge: the
    /// signature had verified and REPORT_DATA had matched. Only then may a refusal be held against a site or enter its audit log: a
    /// genuine report over another challenge is a copy, and reports lie in public repositories.
    #[must_use]
    pub const fn is_authenticated(self) -> bool {
        // The order of the variants is that of `ALL`.
        self as usize > Self::ReportData as usize
    }

    /// The rule of this code.
    #[must_use]
    pub fn of_code(code: &str) -> Option<Self> {
        Self::ALL.iter().copied().find(|rule| rule.code() == code)
    }
}

/// The code.
impl fmt::Display for Rule {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.code())
    }
}

impl Serialize for Rule {
    fn serialize<S: Serializer>(&self, s: S) -> Result<S::Ok, S::Error> {
        s.serialize_str(self.code())
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn every_rule_has_a_name_of_its_own_and_one_line_texts() {
        let codes: BTreeSet<_> = Rule::ALL.iter().map(|rule| rule.code()).collect();
        assert_eq!(codes.len(), Rule::ALL.len());
        for (nth, rule) in Rule::ALL.iter().enumerate() {
            assert_eq!(*rule as usize, nth);
            assert_eq!(Rule::of_code(rule.code()), Some(*rule));
            assert!(rule.code().chars().all(|c| c.is_ascii_lowercase() || c == '_'), "{rule}");
            assert!(rule.question().ends_with('?') && !rule.question().contains('\n'), "{rule}");
            assert!(!rule.remedy().is_empty() && !rule.remedy().contains('\n'), "{rule}");
        }
        assert_eq!(Rule::of_code("nonsense"), None);
    }

    #[test]
    fn nothing_before_the_challenge_is_authenticated() {
        let first = Rule::ALL.iter().position(|rule| rule.is_authenticated());
        assert_eq!(first.map(|first| Rule::ALL[first - 1]), Some(Rule::ReportData));
        assert!(Rule::ALL[first.unwrap()..].iter().all(|rule| rule.is_authenticated()));
        assert!(!Rule::Signature.is_authenticated() && Rule::Vmpl.is_authenticated());
    }
}
