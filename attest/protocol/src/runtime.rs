//! runtime-data: what a report binds, and the 64 bytes of REPORT_DATA it becomes.

use std::fmt;
use std::str::FromStr;

use coffer_evidence::ReportData;
use data_encoding::BASE64;
use serde::{Deserialize, Deserializer, Serialize, Serializer};
use serde_json::value::RawValue;
use serde_json::{Map, Value, json};
use sha2::{Digest as _, Sha384};

use crate::json::{JsonError, canonical, check_length, parse_strict};
use crate::jwk::{JwkError, P384Key, TeePublicKey, X25519Key};

/// The longest runtime-data read: a nonce, one public key of any kind a client may have, and three of ours.
const MAX_RUNTIME_DATA_BYTES: usize = 16 * 1024;

/// The version of the member `coffer`.
const COFFER_VERSION: u64 = 1;

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

    /// REPORT_DATA for the report that goes with this runtime-data; see [`ReceivedRuntimeData::report_data`].
    ///
    /// # Errors
    /// [`JsonError::Parse`] if a string cannot be encoded; JSON strings always can.
    pub fn report_data(&self, additional_evidence: &str) -> Result<ReportData, JsonError> {
        hash(self.to_json(), additional_evidence)
    }
}

/// runtime-data as the service received it: the values it needs, and the object that is hashed, unknown JWK members included.
#[derive(Clone, PartialEq, Debug)]
pub struct ReceivedRuntimeData {
    received: Value,
    nonce: Nonce,
    tee_pubkey: TeePublicKey,
    coffer: Option<BoundKeys>,
}

impl ReceivedRuntimeData {
    /// Reads the text of the member `runtime-data`.
    ///
    /// # Errors
    /// See [`RuntimeDataError`]. Total: any text gives a value or an error.
    pub fn parse(raw: &RawValue) -> Result<Self, RuntimeDataError> {
        let text = raw.get().as_bytes();
        check_length("runtime-data", text, MAX_RUNTIME_DATA_BYTES)?;
        let received = parse_strict("runtime-data", text)?;
        let object = received.as_object().ok_or(RuntimeDataError::Missing { member: "nonce" })?;
        if let Some(member) = object.keys().find(|name| !["nonce", "tee-pubkey", "coffer"].contains(&name.as_str())) {
            return Err(RuntimeDataError::UnknownMember { member: member.chars().take(40).collect() });
        }
        let nonce = object.get("nonce").and_then(Value::as_str).ok_or(RuntimeDataError::Missing { member: "nonce" })?.parse()?;
        let jwk = object.get("tee-pubkey").ok_or(RuntimeDataError::Missing { member: "tee-pubkey" })?;
        let tee_pubkey = TeePublicKey::from_jwk(jwk).map_err(RuntimeDataError::TeePublicKey)?;
        let coffer = object.get("coffer").map(read_bound_keys).transpose()?;
        Ok(Self { nonce, tee_pubkey, coffer, received })
    }

    /// The nonce the client answers.
    #[must_use]
    pub const fn nonce(&self) -> &Nonce {
        &self.nonce
    }

    /// The key to which resources are sealed.
    #[must_use]
    pub const fn tee_pubkey(&self) -> &TeePublicKey {
        &self.tee_pubkey
    }

    /// The keys bound to this boot; absent from stock clients.
    #[must_use]
    pub const fn coffer(&self) -> Option<&BoundKeys> {
        self.coffer.as_ref()
    }

    /// The REPORT_DATA that a report over this runtime-data must carry: SHA-384 of the RFC 8785 form of runtime-data with the
    /// member `additional-evidence` (always present, often empty), then 16 zero bytes.
    ///
    /// # Errors
    /// [`JsonError::Parse`] if a string cannot be encoded; JSON strings always can.
    pub fn report_data(&self, additional_evidence: &str) -> Result<ReportData, JsonError> {
        hash(self.received.clone(), additional_evidence)
    }
}

fn read_bound_keys(value: &Value) -> Result<BoundKeys, RuntimeDataError> {
    let mut object = value.as_object().cloned().ok_or(RuntimeDataError::Missing { member: "coffer" })?;
    // The version goes first: another version's members would only give a misleading error.
    match object.remove("v").and_then(|v| v.as_u64()) {
        Some(COFFER_VERSION) => {}
        Some(got) => return Err(RuntimeDataError::CofferVersion { got }),
        None => return Err(RuntimeDataError::Missing { member: "coffer.v" }),
    }
    BoundKeys::deserialize(Value::Object(object)).map_err(RuntimeDataError::Coffer)
}

fn hash(mut runtime_data: Value, additional_evidence: &str) -> Result<ReportData, JsonError> {
    runtime_data["additional-evidence"] = additional_evidence.into();
    let digest = Sha384::digest(canonical(&runtime_data)?);
    let mut bytes = [0; ReportData::LEN];
    bytes[..48].copy_from_slice(&digest);
    Ok(ReportData::new(bytes))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::jwk::TeeKey;

    fn bound(purpose: Purpose) -> BoundKeys {
        let key = |byte: u8| P384Key::from_sec1(&[[4].as_slice(), &[byte; 96]].concat()).expect("right size");
        BoundKeys { purpose, keys: KeySet { tls: key(1), node: Some(key(2)), wg: Some(X25519Key::new([3; 32])) } }
    }

    fn ours(coffer: Option<BoundKeys>) -> RuntimeData {
        let tee_pubkey = TeeKey::from_random(&[7; 32]).expect("a scalar").public();
        RuntimeData { nonce: Nonce::new([1; 32]), tee_pubkey, coffer }
    }

    fn receive(value: &Value) -> Result<ReceivedRuntimeData, RuntimeDataError> {
        receive_text(value.to_string())
    }

    fn receive_text(text: String) -> Result<ReceivedRuntimeData, RuntimeDataError> {
        ReceivedRuntimeData::parse(&RawValue::from_string(text).expect("JSON"))
    }

    #[test]
    fn guest_and_service_agree() {
        for coffer in [None, Some(bound(Purpose::Boot)), Some(bound(Purpose::Renew))] {
            let ours = ours(coffer);
            let received = receive(&ours.to_json()).expect("parses");
            assert_eq!((received.nonce(), received.tee_pubkey(), received.coffer()), (&ours.nonce, &ours.tee_pubkey, ours.coffer.as_ref()));
            for additional in ["", "{\"nvidia\":{}}"] {
                assert_eq!(received.report_data(additional).expect("hashes"), ours.report_data(additional).expect("hashes"));
            }
        }
    }

    /// Computed with Python: hashlib.sha384(json.dumps(…, sort_keys=True, separators=(',', ':'))).
    #[test]
    fn known_answer_with_bound_keys() {
        let report_data = ours(Some(bound(Purpose::Boot))).report_data("").expect("hashes");
        assert_eq!(report_data.to_string(), KNOWN_ANSWER);
    }

    const KNOWN_ANSWER: &str =
        "318f9a0cefd6e9a75d243d825e791470cb856c1a6fc4d03ef06fc17ab9f5b3ed9cc72150c9bc95e0dc364377b8f08e2a00000000000000000000000000000000";

    #[test]
    fn every_part_is_bound() {
        let hash = |data: &RuntimeData, additional| data.report_data(additional).expect("hashes");
        let base = ours(Some(bound(Purpose::Boot)));
        let reference = hash(&base, "");
        let mut other_tls = base.clone();
        other_tls.coffer.as_mut().expect("bound").keys.tls = bound(Purpose::Boot).keys.node.expect("a key");
        let mut no_node = base.clone();
        no_node.coffer.as_mut().expect("bound").keys.node = None;
        for changed in [
            RuntimeData { nonce: Nonce::new([2; 32]), ..base.clone() },
            RuntimeData { tee_pubkey: TeeKey::from_random(&[6; 32]).expect("a scalar").public(), ..base.clone() },
            RuntimeData { coffer: Some(bound(Purpose::Gpu)), ..base.clone() },
            RuntimeData { coffer: None, ..base.clone() },
            other_tls,
            no_node,
        ] {
            assert_ne!(hash(&changed, ""), reference);
        }
        assert_ne!(hash(&base, "{}"), reference);
        assert_eq!(reference.as_bytes()[48..], [0; 16]);
    }

    #[test]
    fn unknown_jwk_members_are_kept_in_the_hash() {
        let plain = ours(None).to_json();
        let mut extended = plain.clone();
        extended["tee-pubkey"]["kid"] = "1".into();
        let (plain, extended) = (receive(&plain).expect("parses"), receive(&extended).expect("parses"));
        assert_eq!(plain.tee_pubkey(), extended.tee_pubkey());
        assert_ne!(plain.report_data("").expect("hashes"), extended.report_data("").expect("hashes"));
    }

    #[test]
    fn order_and_spacing_do_not_matter() {
        let value = ours(Some(bound(Purpose::Boot))).to_json();
        let spaced = serde_json::to_string_pretty(&value).expect("encodes");
        let object = value.as_object().expect("object");
        let reversed: Vec<_> = object.iter().rev().map(|(name, value)| format!("\"{name}\": {value}")).collect();
        let expected = receive(&value).expect("parses").report_data("").expect("hashes");
        for text in [spaced, format!("{{ {} }}", reversed.join(" ,"))] {
            assert_eq!(receive_text(text).expect("parses").report_data("").expect("hashes"), expected);
        }
    }

    #[test]
    fn refusals() {
        let base = ours(Some(bound(Purpose::Boot))).to_json();
        let set = |pointer: &str, value: Value| {
            let (parent, name) = pointer.rsplit_once('/').expect("a pointer");
            let mut changed = base.clone();
            changed.pointer_mut(parent).expect("exists")[name] = value;
            changed
        };
        let remove = |pointer: &str| {
            let (parent, name) = pointer.rsplit_once('/').expect("a pointer");
            let mut changed = base.clone();
            changed.pointer_mut(parent).expect("exists").as_object_mut().expect("object").remove(name).expect("exists");
            changed
        };
        for (value, reason) in [
            (json!([]), "no usable member `nonce`"),
            (json!(null), "no usable member `nonce`"),
            (remove("/nonce"), "no usable member `nonce`"),
            (remove("/tee-pubkey"), "no usable member `tee-pubkey`"),
            (set("/additional-evidence", json!("")), "unexpected member `additional-evidence`"),
            (set("/x", json!(1)), "unexpected member `x`"),
            (set("/nonce", json!(1)), "no usable member `nonce`"),
            (set("/nonce", json!("")), "not 32 bytes of standard base64"),
            (set("/nonce", json!("AQ==")), "not 32 bytes of standard base64"),
            (set("/nonce", json!("_".repeat(43) + "=")), "not 32 bytes of standard base64"),
            (set("/nonce", json!("A".repeat(43))), "not 32 bytes of standard base64"),
            (set("/nonce", json!("A".repeat(42) + "B=")), "not 32 bytes of standard base64"),
            (set("/tee-pubkey/crv", json!("P-521")), "crv `P-521`"),
            (set("/coffer", json!(null)), "no usable member `coffer`"),
            (set("/coffer/v", json!(2)), "version 2; this build reads 1"),
            (set("/coffer/v", json!("1")), "no usable member `coffer.v`"),
            (remove("/coffer/v"), "no usable member `coffer.v`"),
            (remove("/coffer/keys/tls"), "missing field `tls`"),
            (set("/coffer/purpose", json!("debug")), "unknown variant `debug`"),
            (set("/coffer/extra", json!(1)), "unknown field `extra`"),
            (set("/coffer/keys/ssh", json!(1)), "unknown field `ssh`"),
            (set("/coffer/keys/tls/crv", json!("P-256")), "crv `P-256`"),
            (set("/coffer/keys/tls/use", json!("sig")), "unknown member `use`"),
            (set("/tee-pubkey/n", json!(1.5)), "floating point"),
            (set("/tee-pubkey/n", json!(u64::MAX)), "larger than"),
            (set("/tee-pubkey/n", json!("x".repeat(MAX_RUNTIME_DATA_BYTES))), "at most 16384"),
        ] {
            let refused = receive(&value).expect_err(reason).to_string();
            assert!(refused.contains(reason), "{refused}\nexpected: {reason}");
        }
        let doubled = base.to_string().replacen('{', "{\"nonce\":\"\",", 1);
        assert!(receive_text(doubled).expect_err("repeated").to_string().contains("`nonce` is repeated"));
    }

    proptest! {
        #[test]
        fn parse_never_panics(text in "[ -~]{0,200}", member in "[a-z-]{1,8}", value in "[0-9a-z\"{}:,]{0,30}") {
            if let Ok(raw) = RawValue::from_string(text) {
                let _ = ReceivedRuntimeData::parse(&raw);
            }
            let near = ours(None).to_json().to_string().replacen('{', &format!("{{\"{member}\":{value},"), 1);
            if let Ok(raw) = RawValue::from_string(near) {
                let _ = ReceivedRuntimeData::parse(&raw);
            }
        }
    }
}
