//! runtime-data as the guest makes it: what a report binds, and the 64 bytes of REPORT_DATA it becomes.

use std::fmt;
use std::str::FromStr;

use coffer_evidence::ReportData;
use data_encoding::BASE64;
use serde::{Deserialize, Deserializer, Serialize, Serializer};
use serde_json::{Map, Value, json};
use sha2::{Digest as _, Sha384};

use crate::json::{JsonError, canonical};
use crate::jwk::{JwkError, P384Key, TeePublicKey, X25519Key};

/// The version of the member `coffer`.
pub(crate) const COFFER_VERSION: u64 = 1;

/// Why runtime-data is refused.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum RuntimeDataError {
    /// Not the JSON we hash.
    #[error(transparent)]
    Json(#[from] JsonError),
    /// Not an object, or a member other than `nonce`, `tee-pubkey`, `coffer`.
    #[error("runtime-data has an unexpected member `{member}`")]
    UnknownMember {
        /// The member's name, shortened to 40 characters.
        member: String,
    },
    /// A member is absent or of another type.
    #[error("runtime-data has no usable member `{member}`")]
    Missing {
        /// Which member.
        member: &'static str,
    },
    /// The nonce is not standard base64 of 32 bytes.
    #[error("nonce is not 32 bytes of standard base64")]
    Nonce,
    /// The handshake key cannot be used.
    #[error("tee-pubkey: {0}")]
    TeePublicKey(#[source] JwkError),
    /// The member `coffer` is not of its one accepted shape.
    #[error("runtime-data member `coffer`: {0}")]
    Coffer(#[source] serde_json::Error),
    /// Another version of the member `coffer`.
    #[error("runtime-data member `coffer` has version {got}; this build reads {COFFER_VERSION}")]
    CofferVersion {
        /// The version given.
        got: u64,
    },
}

/// A challenge's 32 random bytes. Text form: standard base64, as stock services write it.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct Nonce([u8; Self::LEN]);

impl Nonce {
    /// Length in bytes.
    pub const LEN: usize = 32;

    /// Wraps 32 random bytes.
    #[must_use]
    pub const fn new(bytes: [u8; Self::LEN]) -> Self {
        Self(bytes)
    }

    /// The bytes themselves.
    #[must_use]
    pub const fn as_bytes(&self) -> &[u8; Self::LEN] {
        &self.0
    }
}

impl fmt::Display for Nonce {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&BASE64.encode(&self.0))
    }
}

impl fmt::Debug for Nonce {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Nonce({self})")
    }
}

impl FromStr for Nonce {
    type Err = RuntimeDataError;

    fn from_str(text: &str) -> Result<Self, RuntimeDataError> {
        let bytes = BASE64.decode(text.as_bytes()).map_err(|_| RuntimeDataError::Nonce)?;
        bytes.try_into().map(Self).map_err(|_| RuntimeDataError::Nonce)
    }
}

impl Serialize for Nonce {
    fn serialize<S: Serializer>(&self, s: S) -> Result<S::Ok, S::Error> {
        s.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Nonce {
    fn deserialize<D: Deserializer<'de>>(d: D) -> Result<Self, D::Error> {
        String::deserialize(d)?.parse().map_err(serde::de::Error::custom)
    }
}

/// What a handshake is for.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Purpose {
    /// The first handshake of a boot: the root secret and the first token.
    Boot,
    /// The second, with GPU evidence: the kit.
    Gpu,
    /// A later one: a fresh token.
    Renew,
}

/// The keys a report binds to one boot.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct KeySet {
    /// Signs this boot's TLS handshakes; its thumbprint becomes `cnf.jkt`.
    pub tls: P384Key,
    /// The workload's node key.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub node: Option<P384Key>,
    /// The VPN key.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub wg: Option<X25519Key>,
}

/// The member `coffer` of runtime-data, without its version: `{v: 1, purpose, keys}`.
#[derive(Clone, PartialEq, Eq, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct BoundKeys {
    /// What the handshake is for.
    pub purpose: Purpose,
    /// Keys born in the guest.
    pub keys: KeySet,
}

/// runtime-data as the guest makes it.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct RuntimeData {
    /// The challenge's nonce.
    pub nonce: Nonce,
    /// The public half of this handshake's [`crate::TeeKey`].
    pub tee_pubkey: TeePublicKey,
    /// Present towards coffer-attest, absent towards a stock key service.
    pub coffer: Option<BoundKeys>,
}

impl RuntimeData {
    /// The JSON object `{nonce, tee-pubkey[, coffer]}`.
    #[must_use]
    pub fn to_json(&self) -> Value {
        let mut object = Map::new();
        object.insert("nonce".into(), self.nonce.to_string().into());
        object.insert("tee-pubkey".into(), self.tee_pubkey.to_jwk());
        if let Some(bound) = &self.coffer {
            object.insert("coffer".into(), json!({ "v": COFFER_VERSION, "purpose": bound.purpose, "keys": bound.keys }));
        }
        object.into()
    }

    /// REPORT_DATA for the report that goes with this runtime-data: SHA-384 of its RFC 8785 form with the member
    /// `additional-evidence` (always present, often empty), then 16 zero bytes.
    ///
    /// # Errors
    /// [`JsonError::Parse`] if a string cannot be encoded; JSON strings always can.
    pub fn report_data(&self, additional_evidence: &str) -> Result<ReportData, JsonError> {
        hash(self.to_json(), additional_evidence)
    }
}

/// REPORT_DATA over a runtime-data object: see [`RuntimeData::report_data`].
pub(crate) fn hash(mut runtime_data: Value, additional_evidence: &str) -> Result<ReportData, JsonError> {
    runtime_data["additional-evidence"] = additional_evidence.into();
    let digest = Sha384::digest(canonical(&runtime_data)?);
    let mut bytes = [0; ReportData::LEN];
    bytes[..48].copy_from_slice(&digest);
    Ok(ReportData::new(bytes))
}
