//! SNP reports and certificates as parsed bytes, and their wire JSON. No cryptography, no I/O.
//!
//! Nothing this crate returns has been verified; `coffer-verify` does that. Every parser is total: whatever the bytes,
//! it returns a value or a named error. The guest links this crate to send evidence, the service to read it, and the
//! simulator to make it.
//!
//! | what | where |
//! |---|---|
//! | the 1184 bytes of a report, versions 2, 3 and 5 | [`Report`], [`ReportFields`] |
//! | TCB versions of Milan and Genoa, and of Turin | [`TcbVersion`], [`TcbLayout`] |
//! | certificates a host hands over, and its GHCB table | [`CertEntry`], [`parse_cert_table`], [`build_cert_table`] |
//! | evidence as JSON, stock and lossless | [`SnpEvidence`] |
//! | X.509 as AMD issues it, and AMD's extensions | [`Certificate`], [`Crl`], [`VekExtensions`] |
#![forbid(unsafe_code)]

mod bytes;
mod certificate;
mod chain;
mod crl;
mod der;
mod family;
mod report;
mod tcb;
mod vek;
mod wire;

pub use bytes::{BytesError, parse_hex};
pub use certificate::{Certificate, CertificateError, Name, PublicKey, SignatureAlgorithm, UnixTime, pem_certificates};
pub use chain::{CertEntry, CertKind, CertTableError, Guid, MAX_ENTRIES, MAX_ENTRY_LEN, NotGuid, build_cert_table, parse_cert_table};
pub use crl::{Crl, Serial};
pub use family::{Cpuid, Family, UnknownFamily};
pub use report::{FirmwareVersion, GuestPolicy, KeyInfo, Report, ReportError, ReportFields, SigningKey};
pub use tcb::{TcbLayout, TcbVersion};
pub use vek::{AMD_ARC, Hwid, VekExtensions, VekKind};
pub use wire::{EvidenceError, SnpEvidence};

hex_bytes! {
    /// SHA-384 launch digest: MEASUREMENT, the 48 bytes at 0x090 of an SNP attestation report.
    LaunchDigest, 48
}

hex_bytes! {
    /// HOST_DATA, the 32 bytes at 0x0C0 of an SNP attestation report: SHA-256 of the site config.
    HostData, 32
}

hex_bytes! {
    /// REPORT_DATA, the 64 bytes at 0x050 of an SNP attestation report, chosen by the guest.
    ReportData, 64
}

hex_bytes! {
    /// CHIP_ID, the 64 bytes at 0x1A0 of an SNP attestation report; Turin uses the first 8.
    ChipId, 64
}

hex_bytes! {
    /// REPORT_ID, the 32 bytes at 0x140 of an SNP attestation report: random, of one guest's life.
    ReportId, 32
}

hex_bytes! {
    /// SHA-384 of an ID or author key, at 0x0E0 and 0x110 of an SNP attestation report.
    KeyDigest, 48
}
