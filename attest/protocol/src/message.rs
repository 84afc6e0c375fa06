//! The bodies of `/kbs/v0/auth` and `/kbs/v0/attest`.
//!
//! Strict: a repeated or unknown member of a message is refused. Tolerant where stock clients need it: `extra-params` may be
//! any JSON, and a JWK may have members we do not know.

use serde::{Deserialize, Deserializer, Serialize};
use serde_json::{Value, json};

use crate::json::{JsonError, parse_typed};
use crate::runtime::{Nonce, RuntimeData, RuntimeDataError};

/// The protocol version our guest says it speaks; stock clients since July 2025 say the same.
pub const PROTOCOL_VERSION: &str = "0.4.0";

/// What a version spoken here begins with. Any patch of it is taken, since a patch changes no message; the stock service takes
/// 0.4.0 alone, and no client sends anything else of 0.4. Versions before do not bind device evidence to the report.
const SPOKEN: &str = "0.4.";

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
    #[error("protocol version `{got}` is not supported; this build speaks {SPOKEN}x")]
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
        if !is_spoken(&raw.version) {
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

/// `0.4.` and a patch number as semantic versions write it: digits, no leading zero, no suffix.
fn is_spoken(version: &str) -> bool {
    version.strip_prefix(SPOKEN).is_some_and(|patch| {
        (1..=9).contains(&patch.len()) && patch.bytes().all(|b| b.is_ascii_digit()) && (patch == "0" || !patch.starts_with('0'))
    })
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

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn guest_and_service_agree_on_auth() {
        for coffer in [false, true] {
            assert_eq!(Request::parse(&Request::body(coffer)).expect("parses"), Request { tee: Tee::Snp, coffer });
            let challenge = Challenge { nonce: Nonce::new([5; 32]), coffer };
            assert_eq!(Challenge::parse(&challenge.to_bytes()).expect("parses"), challenge);
        }
        let stock: Value = serde_json::from_slice(&Challenge { nonce: Nonce::new([0; 32]), coffer: false }.to_bytes()).expect("JSON");
        assert_eq!(stock, json!({ "nonce": "A".repeat(43) + "=", "extra-params": "" }));
    }

    #[test]
    fn requests() {
        let request = |version: &str, extra: Value| {
            Request::parse(json!({ "version": version, "tee": "snp", "extra-params": extra }).to_string().as_bytes())
        };
        for extra in
            [json!(""), json!(null), json!({}), json!([]), json!({ "selected": [1.5] }), json!({ "supported-hash-algorithms": ["SHA384"] })]
        {
            assert_eq!(request("0.4.0", extra).expect("parses"), Request { tee: Tee::Snp, coffer: false });
        }
        for patch in ["0.4.1", "0.4.17", "0.4.999999999"] {
            assert_eq!(request(patch, json!("")).expect("parses"), Request { tee: Tee::Snp, coffer: false }, "{patch}");
        }
        for (version, extra, reason) in [
            ("0.1.0", json!(""), "`0.1.0` is not supported; this build speaks 0.4.x"),
            ("0.1.1", json!(""), "`0.1.1` is not supported"),
            ("0.2.0", json!(""), "`0.2.0` is not supported"),
            ("0.3.0", json!(""), "`0.3.0` is not supported"),
            ("0.5.0", json!(""), "`0.5.0` is not supported"),
            ("1.4.0", json!(""), "`1.4.0` is not supported"),
            ("0.40.0", json!(""), "`0.40.0` is not supported"),
            ("0.4", json!(""), "`0.4` is not supported"),
            ("0.4.", json!(""), "`0.4.` is not supported"),
            ("0.4.00", json!(""), "`0.4.00` is not supported"),
            ("0.4.0-rc.1", json!(""), "`0.4.0-rc.1` is not supported"),
            ("0.4.+1", json!(""), "`0.4.+1` is not supported"),
            ("0.4.0 ", json!(""), "`0.4.0 ` is not supported"),
            ("0.4.1234567890", json!(""), "`0.4.1234567890` is not supported"),
            ("v0.4.0", json!(""), "`v0.4.0` is not supported"),
            ("", json!(""), "`` is not supported"),
            ("0.4.0", json!({ "supported-hash-algorithms": ["sha256"] }), "no SHA-384"),
            ("0.4.0", json!({ "supported-hash-algorithms": "sha384" }), "no SHA-384"),
            ("0.4.0", json!({ "coffer": 2 }), "`coffer` is 2"),
            ("0.4.0", json!({ "coffer": true }), "`coffer` is true"),
            ("0.4.0", json!({ "coffer": "1" }), "`coffer` is \"1\""),
        ] {
            let refused = request(version, extra).expect_err(reason).to_string();
            assert!(refused.contains(reason), "{refused}");
        }
        for text in [
            r#"{"version":"0.4.0","tee":"snp"}"#,
            r#"{"version":"0.4.0","tee":"snp","extra-params":"","x":1}"#,
            r#"{"version":"0.4.0","tee":"snp","tee":"snp","extra-params":""}"#,
            r#"{"version":0.4,"tee":"snp","extra-params":""}"#,
            r#"{"version":"0.4.0","tee":{},"extra-params":""}"#,
        ] {
            assert!(matches!(Request::parse(text.as_bytes()), Err(MessageError::Json(JsonError::Parse { .. }))), "{text}");
        }
        assert!(matches!(Request::parse(&[b' '; MAX_MESSAGE_BYTES + 1]), Err(MessageError::Json(JsonError::TooLong { .. }))));
    }

    #[test]
    fn challenges() {
        let challenge =
            |extra: Value| Challenge::parse(json!({ "nonce": Nonce::new([5; 32]), "extra-params": extra }).to_string().as_bytes());
        assert!(!challenge(json!({ "selected-hash-algorithm": "SHA384" })).expect("parses").coffer);
        for (extra, reason) in [
            (json!({ "selected-hash-algorithm": "sha512" }), "selected hash algorithm"),
            (json!({ "selected-hash-algorithm": 384 }), "selected hash algorithm"),
            (json!({ "coffer": 0 }), "`coffer` is 0"),
        ] {
            assert!(challenge(extra).expect_err(reason).to_string().contains(reason));
        }
        for nonce in ["", "AAAA", "AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8gIQ=="] {
            let text = json!({ "nonce": nonce, "extra-params": "" }).to_string();
            assert!(Challenge::parse(text.as_bytes()).is_err(), "{nonce}");
        }
    }

    #[test]
    fn tokens() {
        let answer = TokenResponse { token: "a.b.c".into() };
        assert_eq!(TokenResponse::parse(&answer.to_bytes()).expect("parses"), answer);
        assert!(!format!("{answer:?}").contains("a.b.c"));
        for text in ["{}", r#"{"token":1}"#, r#"{"token":"a","token":"b"}"#, r#"{"token":"a","x":1}"#] {
            assert!(TokenResponse::parse(text.as_bytes()).is_err(), "{text}");
        }
    }

    proptest! {
        #[test]
        fn parsers_never_panic(bytes: Vec<u8>, text in r#"[\[\]{}:,"a-z0-9 -]{0,80}"#) {
            for input in [bytes.as_slice(), text.as_bytes()] {
                let _ = Request::parse(input);
                let _ = Challenge::parse(input);
                let _ = TokenResponse::parse(input);
                let _ = crate::ErrorInformation::parse(input);
            }
        }
    }
}
