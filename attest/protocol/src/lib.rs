//! What guest and service say to each other: KBS 0.4 messages, runtime-data hashing, JWE.
//!
//! Source: the Confidential Containers KBS attestation protocol, version 0.4.0, as stock clients speak it, and Coffer's one
//! addition, the member `coffer` of runtime-data (DESIGN, REPORT_DATA). Everything here is bytes in, values out: no clock, no
//! network, no random source. Callers hand in what they drew. The feature `service` adds the key service's half.
#![forbid(unsafe_code)]

#[cfg(feature = "service")]
mod attestation;
#[cfg(feature = "service")]
mod client_key;
mod error_information;
mod json;
mod jwe;
mod jwk;
mod message;
#[cfg(feature = "service")]
mod received;
mod runtime;
#[cfg(feature = "service")]
mod seal;
#[cfg(feature = "service")]
mod strict;

#[cfg(feature = "service")]
pub use attestation::{Attestation, InitData};
#[cfg(feature = "service")]
pub use client_key::{ClientKey, P521PublicKey, RsaKey};
pub use coffer_evidence::ReportData;
pub use error_information::{ErrorInformation, ErrorKind, Refusal};
pub use json::JsonError;
pub use jwe::{Jwe, JweError, MAX_JWE_BYTES, open};
pub use jwk::{JwkError, P384Key, TeeKey, TeePublicKey, X25519Key};
pub use message::{
    Challenge, MAX_ATTESTATION_BYTES, MAX_MESSAGE_BYTES, MAX_TOKEN_BYTES, MessageError, PROTOCOL_VERSION, Request, Tee, TokenResponse,
    attestation_body,
};
#[cfg(feature = "service")]
pub use received::ReceivedRuntimeData;
pub use runtime::{BoundKeys, KeySet, Nonce, Purpose, RuntimeData, RuntimeDataError};
#[cfg(feature = "service")]
pub use seal::{SealRandom, seal};
