//! The body of `POST /kbs/v0/attest` as the service reads it.
//!
//! Strict: a repeated or unknown member is refused. Evidence stays text, for the evidence crate.

use coffer_evidence::HostData;
use serde::Deserialize;
use serde_json::value::RawValue;
use sha2::{Digest as _, Sha256, Sha384, Sha512};

use crate::json::parse_typed;
use crate::message::{MAX_ATTESTATION_BYTES, MessageError};
use crate::received::ReceivedRuntimeData;

/// A stock client's initdata: a text whose digest its host put into HOST_DATA at launch.
///
/// For a guest of ours that text is its site config. Nothing in it is read here: what a HOST_DATA may have, its enrollment says.
#[derive(Clone, PartialEq, Eq, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct InitData {
    /// `toml` or `json`.
    pub format: String,
    /// The text.
    pub body: String,
}

impl InitData {
    /// Whether HOST_DATA is the digest of this very text: SHA-256, or the first 32 bytes of SHA-384 or SHA-512, which are the
    /// algorithms a stock initdata can name. Which one the text names is not asked: no two texts share any of the three.
    #[must_use]
    pub fn is_bound_by(&self, host_data: &HostData) -> bool {
        let (text, expected) = (self.body.as_bytes(), host_data.as_bytes().as_slice());
        Sha256::digest(text)[..] == *expected || Sha384::digest(text)[..32] == *expected || Sha512::digest(text)[..32] == *expected
    }
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

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::json;

    use super::*;
    use crate::json::JsonError;
    use crate::jwk::TeeKey;
    use crate::message::attestation_body;
    use crate::runtime::{Nonce, RuntimeData};

    #[test]
    fn attestations() {
        let tee_pubkey = TeeKey::from_random(&[7; 32]).expect("a scalar").public();
        let data = RuntimeData { nonce: Nonce::new([5; 32]), tee_pubkey, coffer: None };
        let evidence = json!({ "plat_info": u64::MAX, "cert_chain": null });
        let body = attestation_body(&data, &evidence, "").expect("encodes");
        let parsed = Attestation::parse(&body).expect("parses");
        assert_eq!(parsed.primary_evidence.get(), evidence.to_string(), "evidence reaches its parser as it was sent");
        assert_eq!(parsed.runtime_data.report_data("").expect("hashes"), data.report_data("").expect("hashes"));
        assert!(parsed.init_data.is_none() && parsed.additional_evidence.is_empty());

        let text = String::from_utf8(body).expect("text");
        for (from, to) in [
            ("\"init-data\":null,", "\"init-data\":null,\"init-data\":null,"),
            ("\"init-data\":null,", "\"init-data\":null,\"x\":1,"),
            ("\"init-data\":null", "\"init-data\":{\"format\":\"toml\"}"),
            ("\"additional_evidence\":\"\"", "\"additional_evidence\":{}"),
            ("\"additional_evidence\":\"\"", "\"additional_evidence\":\"\",\"y\":1"),
            ("\"primary_evidence\"", "\"primary-evidence\""),
            ("\"runtime-data\"", "\"runtime_data\""),
        ] {
            let changed = text.replacen(from, to, 1);
            assert_ne!(changed, text);
            assert!(matches!(Attestation::parse(changed.as_bytes()), Err(MessageError::Json(JsonError::Parse { .. }))), "{from} -> {to}");
        }
        let long = vec![b' '; MAX_ATTESTATION_BYTES + 1];
        assert!(matches!(Attestation::parse(&long), Err(MessageError::Json(JsonError::TooLong { .. }))));
    }

    #[test]
    fn initdata_is_bound_by_its_own_digest_only() {
        let init_data = InitData { format: "toml".into(), body: "abc".into() };
        let hex = |text: &str| HostData::new(data_encoding::HEXLOWER.decode(text.as_bytes()).expect("hex").try_into().expect("32 bytes"));
        // FIPS 180-4's example, `abc`.
        for bound in [
            "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad",
            "cb00753f45a35e8bb5a03d699ac65007272c32ab0eded1631a8b605a43ff5bed",
            "ddaf35a193617abacc417349ae20413112e6fa4e89a97ea20a9eeee64b55d39a",
        ] {
            assert!(init_data.is_bound_by(&hex(bound)), "{bound}");
            let other = InitData { body: "abd".into(), ..init_data.clone() };
            assert!(!other.is_bound_by(&hex(bound)), "{bound}");
        }
        assert!(!init_data.is_bound_by(&HostData::new([0; 32])));
    }

    proptest! {
        #[test]
        fn parsing_never_panics(bytes: Vec<u8>, text in r#"[\[\]{}:,"a-z0-9 -]{0,80}"#) {
            let _ = Attestation::parse(&bytes);
            let _ = Attestation::parse(text.as_bytes());
        }
    }
}
