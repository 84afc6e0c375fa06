//! The bodies of `/kbs/v0/auth` and `/kbs/v0/attest`.
//!
//! Strict: a repeated or unknown member of a message is refused. Tolerant where stock clients need it: `extra-params` may be
//! any JSON, and a JWK may have members we do not know.

use serde::{Deserialize, Deserializer, Serialize};
use serde_json::value::RawValue;
use serde_json::{Value, json};

use crate::json::{JsonError, parse_typed};
use crate::runtime::{Nonce, ReceivedRuntimeData, RuntimeData, RuntimeDataError};

/// The one protocol version spoken; stock clients since July 2025 speak it, and the stock service takes no other either.
pub const PROTOCOL_VERSION: &str = "0.4.0";

/// The longest `/auth` message read in either direction; a stock client's is 114 bytes.
pub const MAX_MESSAGE_BYTES: usize = 8 * 1024;

/// The longest `/attest` request read. SNP evidence as arrays of numbers with four certificates is under 40 KiB; the rest is
/// room for a stock client's initdata.
pub const MAX_ATTESTATION_BYTES: usize = 256 * 1024;

/// The longest `/attest` answer read. Ours is under 4 KiB; a stock service's with one GPU is 11 kB.
pub const MAX_TOKEN_BYTES: usize = 128 * 1024;

/// The version of the extra-params member `coffer`.
const COFFER_VERSION: u64 = 1;

/// A message is refused.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum MessageError {
    /// Not JSON of the message's shape.
    #[error(transparent)]
    Json(#[from] JsonError),
    /// Another protocol version.
    #[error("protocol version `{got}` is not supported; this build speaks {PROTOCOL_VERSION}")]
    Version {
        /// The version given, shortened to 40 characters.
        got: String,
    },
    /// The client hashes runtime-data with other algorithms only.
    #[error("client offers no SHA-384 for runtime-data")]
    HashAlgorithm,
    /// The service chose another hash algorithm than SHA-384.
    #[error("service selected hash algorithm `{got}`, this build hashes with sha384")]
    SelectedHash {
        /// The algorithm given, shortened to 40 characters.
        got: String,
    },
    /// `extra-params.coffer` is not 1.
    #[error("extra-params member `coffer` is {got}; this build speaks {COFFER_VERSION}")]
    Coffer {
        /// What it is, shortened to 40 characters.
        got: String,
    },
    /// runtime-data is refused.
    #[error(transparent)]
    RuntimeData(#[from] RuntimeDataError),
}

/// The kind of TEE a client says it has.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Tee {
    /// AMD SEV-SNP, the one kind this build verifies.
    Snp,
    /// Another name, shortened to 40 characters, for the refusal.
    Other(String),
}

impl<'de> Deserialize<'de> for Tee {
    fn deserialize<D: Deserializer<'de>>(d: D) -> Result<Self, D::Error> {
        let name = String::deserialize(d)?;
        Ok(if name == "snp" { Self::Snp } else { Self::Other(name.chars().take(40).collect()) })
    }
}

/// The body of `POST /kbs/v0/auth`.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Request {
    /// What evidence the client will send.
    pub tee: Tee,
    /// The client asks for the member `coffer` in runtime-data.
    pub coffer: bool,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct RawRequest {
    version: String,
    tee: Tee,
    #[serde(rename = "extra-params")]
    extra_params: Value,
}

impl Request {
    /// Parses the body of `POST /kbs/v0/auth`.
    ///
    /// # Errors
    /// See [`MessageError`]. A TEE other than SNP parses: refusing it is the caller's answer to give.
    pub fn parse(bytes: &[u8]) -> Result<Self, MessageError> {
        let raw: RawRequest = parse_typed("auth request", bytes, MAX_MESSAGE_BYTES)?;
        if raw.version != PROTOCOL_VERSION {
            return Err(MessageError::Version { got: raw.version.chars().take(40).collect() });
        }
        if let Some(offered) = raw.extra_params.get("supported-hash-algorithms") {
            let is_sha384 = |name: &Value| name.as_str().is_some_and(|name| name.eq_ignore_ascii_case("sha384"));
            if !offered.as_array().is_some_and(|names| names.iter().any(is_sha384)) {
                return Err(MessageError::HashAlgorithm);
            }
        }
        Ok(Self { tee: raw.tee, coffer: speaks_coffer(&raw.extra_params)? })
    }

    /// The body our guest sends.
    #[must_use]
    pub fn body(coffer: bool) -> Vec<u8> {
        let mut extra = json!({ "supported-hash-algorithms": ["sha384"] });
        if coffer {
            extra["coffer"] = COFFER_VERSION.into();
        }
        json!({ "version": PROTOCOL_VERSION, "tee": "snp", "extra-params": extra }).to_string().into_bytes()
    }
}

/// Whether extra-params say `coffer: 1`. Any other value of that member is an error: nothing negotiates down.
fn speaks_coffer(extra_params: &Value) -> Result<bool, MessageError> {
    match extra_params.get("coffer") {
        None => Ok(false),
        Some(version) if version.as_u64() == Some(COFFER_VERSION) => Ok(true),
        Some(other) => Err(MessageError::Coffer { got: other.to_string().chars().take(40).collect() }),
    }
}

/// The answer to `POST /kbs/v0/auth`.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Challenge {
    /// What the evidence must answer.
    pub nonce: Nonce,
    /// The service confirms the member `coffer` in runtime-data; stock clients never see it.
    pub coffer: bool,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct RawChallenge {
    nonce: Nonce,
    #[serde(rename = "extra-params")]
    extra_params: Value,
}

impl Challenge {
    /// Parses the answer of our service or a stock one.
    ///
    /// # Errors
    /// See [`MessageError`].
    pub fn parse(bytes: &[u8]) -> Result<Self, MessageError> {
        let raw: RawChallenge = parse_typed("challenge", bytes, MAX_MESSAGE_BYTES)?;
        match raw.extra_params.get("selected-hash-algorithm") {
            None => {}
            Some(Value::String(name)) if name.eq_ignore_ascii_case("sha384") => {}
            Some(other) => return Err(MessageError::SelectedHash { got: other.to_string().chars().take(40).collect() }),
        }
        Ok(Self { nonce: raw.nonce, coffer: speaks_coffer(&raw.extra_params)? })
    }

    /// The body of the answer: extra-params are `""` for stock clients, as the stock service sends them.
    #[must_use]
    pub fn to_bytes(&self) -> Vec<u8> {
        let extra_params = if self.coffer { json!({ "coffer": COFFER_VERSION }) } else { json!("") };
        json!({ "nonce": self.nonce, "extra-params": extra_params }).to_string().into_bytes()
    }
}

/// A stock client's initdata; carried in HOST_DATA by the sites of a stock service, never by ours.
#[derive(Clone, PartialEq, Eq, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct InitData {
    /// `toml` or `json`.
    pub format: String,
    /// The text.
    pub body: String,
}

/// The body of `POST /kbs/v0/attest`, its evidence still unread.
#[derive(Debug)]
pub struct Attestation {
    /// What the client wants HOST_DATA compared with; `null` from our guest.
    pub init_data: Option<InitData>,
    /// What the report binds.
    pub runtime_data: ReceivedRuntimeData,
    /// JSON text of the SNP evidence, for the evidence crate.
    pub primary_evidence: Box<RawValue>,
    /// Device evidence: empty, or the text of a JSON object.
    pub additional_evidence: String,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct RawAttestation {
    #[serde(rename = "init-data")]
    init_data: Option<InitData>,
    #[serde(rename = "runtime-data")]
    runtime_data: Box<RawValue>,
    #[serde(rename = "tee-evidence")]
    tee_evidence: RawTeeEvidence,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct RawTeeEvidence {
    primary_evidence: Box<RawValue>,
    additional_evidence: String,
}

impl Attestation {
    /// Parses the body of `POST /kbs/v0/attest`.
    ///
    /// # Errors
    /// See [`MessageError`]. Total: any bytes give a value or an error.
    pub fn parse(bytes: &[u8]) -> Result<Self, MessageError> {
        let raw: RawAttestation = parse_typed("attestation", bytes, MAX_ATTESTATION_BYTES)?;
        Ok(Self {
            init_data: raw.init_data,
            runtime_data: ReceivedRuntimeData::parse(&raw.runtime_data)?,
            primary_evidence: raw.tee_evidence.primary_evidence,
            additional_evidence: raw.tee_evidence.additional_evidence,
        })
    }
}

/// The body of `POST /kbs/v0/attest` that our guest sends.
///
/// # Errors
/// [`JsonError::Parse`] if `primary_evidence` cannot be written as JSON.
pub fn attestation_body<E: Serialize>(
    runtime_data: &RuntimeData,
    primary_evidence: &E,
    additional_evidence: &str,
) -> Result<Vec<u8>, JsonError> {
    #[derive(Serialize)]
    struct Body<'a, E> {
        #[serde(rename = "init-data")]
        init_data: (),
        #[serde(rename = "runtime-data")]
        runtime_data: Value,
        #[serde(rename = "tee-evidence")]
        tee_evidence: TeeEvidence<'a, E>,
    }
    #[derive(Serialize)]
    struct TeeEvidence<'a, E> {
        primary_evidence: &'a E,
        additional_evidence: &'a str,
    }
    let tee_evidence = TeeEvidence { primary_evidence, additional_evidence };
    serde_json::to_vec(&Body { init_data: (), runtime_data: runtime_data.to_json(), tee_evidence })
        .map_err(|source| JsonError::Parse { what: "attestation", source })
}

/// The answer to `POST /kbs/v0/attest`: `{"token": "<JWT>"}`.
#[derive(Clone, PartialEq, Eq)]
pub struct TokenResponse {
    /// The JWT. A bearer secret towards the key service until it expires.
    pub token: String,
}

impl std::fmt::Debug for TokenResponse {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "TokenResponse(<{} bytes redacted>)", self.token.len())
    }
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct RawTokenResponse {
    token: String,
}

impl TokenResponse {
    /// Parses the answer; does not look into the token.
    ///
    /// # Errors
    /// See [`JsonError`].
    pub fn parse(bytes: &[u8]) -> Result<Self, JsonError> {
        let raw: RawTokenResponse = parse_typed("attestation answer", bytes, MAX_TOKEN_BYTES)?;
        Ok(Self { token: raw.token })
    }

    /// The body of the answer.
    #[must_use]
    pub fn to_bytes(&self) -> Vec<u8> {
        json!({ "token": self.token }).to_string().into_bytes()
    }
}
