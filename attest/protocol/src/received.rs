//! runtime-data as the service receives it: strict in what it reads, hashing what it received.

use coffer_evidence::ReportData;
use serde::Deserialize;
use serde_json::Value;
use serde_json::value::RawValue;

use crate::client_key::ClientKey;
use crate::json::{JsonError, check_length};
use crate::runtime::{BoundKeys, COFFER_VERSION, Nonce, RuntimeDataError, hash};
use crate::strict::parse_strict;

/// The longest runtime-data read: a nonce, one public key of any kind a client may have, and three of ours.
const MAX_RUNTIME_DATA_BYTES: usize = 16 * 1024;

/// runtime-data as the service received it: the values it needs, and the object that is hashed, unknown JWK members included.
#[derive(Clone, PartialEq, Debug)]
pub struct ReceivedRuntimeData {
    received: Value,
    nonce: Nonce,
    tee_pubkey: ClientKey,
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
        let tee_pubkey = ClientKey::from_jwk(jwk).map_err(RuntimeDataError::TeePublicKey)?;
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
    pub const fn tee_pubkey(&self) -> &ClientKey {
        &self.tee_pubkey
    }

    /// The keys bound to this boot; absent from stock clients.
    #[must_use]
    pub const fn coffer(&self) -> Option<&BoundKeys> {
        self.coffer.as_ref()
    }

    /// The REPORT_DATA that a report over this runtime-data must carry: as [`crate::RuntimeData::report_data`], over the object
    /// as it was received.
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

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::json;

    use super::*;
    use crate::jwk::{P384Key, TeeKey, X25519Key};
    use crate::runtime::{KeySet, Purpose, RuntimeData};

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
            assert_eq!((received.nonce(), received.coffer()), (&ours.nonce, ours.coffer.as_ref()));
            assert_eq!(received.tee_pubkey(), &ClientKey::from(ours.tee_pubkey.clone()));
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
            (set("/tee-pubkey/crv", json!("P-384")), "crv `P-384`"),
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
