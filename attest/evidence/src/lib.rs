//! SNP reports and certificates as parsed bytes, and their wire JSON. No cryptography, no I/O.
#![forbid(unsafe_code)]

mod bytes;

pub use bytes::{BytesError, parse_hex};

hex_bytes! {
    /// SHA-384 launch digest: MEASUREMENT, the 48 bytes at 0x090 of an SNP attestation report.
    LaunchDigest, 48
}

hex_bytes! {
    /// HOST_DATA, the 32 bytes at 0x0C0 of an SNP attestation report: SHA-256 of the site config.
    HostData, 32
}
