//! Bodies of stock admin tools, in the stock service's forms: what of them has a meaning here, and what to send instead of the rest.

use coffer_kbs_policy::{ExactName, ExactValues};
use data_encoding::{BASE64, BASE64URL_NOPAD};
use serde::Deserialize;
use serde_json::{Map, Value};

use super::document::DOCUMENT_TYPE;

/// The one version of reference value messages.
const MESSAGE_VERSION: &str = "0.1.0";
/// Their one type: a JSON object of names and values.
const MESSAGE_TYPE: &str = "sample";

/// A rego text, and which of a document's it replaces.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum StockRego {
    /// Package `coffer.release`.
    Release(String),
    /// Package `coffer.token`.
    Token(String),
    /// Package `policy`, as a resource policy.
    Stock(String),
}

/// What a reference value message says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum StockValues {
    /// A whole policy document, unread.
    Document(Value),
    /// Exact lists under stock names.
    Lists(ExactValues),
}

/// Why a body has no meaning here; the text is for the admin who sent it, and ends in what to send instead.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct StockBodyError(String);

/// `{"policy": "<base64url>"}`; other members are passed over, as the stock service does.
#[derive(Deserialize)]
struct ResourcePolicy {
    policy: String,
}

/// `{"type": "rego", "policy_id": "default_cpu", "policy": "<base64url>"}`.
#[derive(Deserialize)]
struct AttestationPolicy {
    #[serde(rename = "type")]
    kind: String,
    policy_id: String,
    policy: String,
}

/// `{"version": "0.1.0", "type": "sample", "payload": "<base64 of {name: value}>"}`.
#[derive(Deserialize)]
struct Message {
    version: String,
    #[serde(rename = "type")]
    kind: String,
    payload: String,
}

/// `POST /kbs/v0/resource-policy`.
///
/// # Errors
/// [`StockBodyError`]. Total: any bytes give a text or an error. The rego itself is not looked at but for its package.
pub fn resource_policy(body: &[u8]) -> Result<StockRego, StockBodyError> {
    let ResourcePolicy { policy } = parsed(body)?;
    let text = rego_text(&policy)?;
    match package(&text) {
        Some("coffer.release") => Ok(StockRego::Release(text)),
        Some("policy") => Ok(StockRego::Stock(text)),
        other => refuse(format!(
            "resource policy is of package `{}`; send `package policy`, which is asked about stock resources, or `package coffer.release`",
            short(other.unwrap_or("(none)"))
        )),
    }
}

/// `POST /kbs/v0/attestation-policy`.
///
/// # Errors
/// As for [`resource_policy`].
pub fn attestation_policy(body: &[u8]) -> Result<StockRego, StockBodyError> {
    let AttestationPolicy { kind, policy_id, policy } = parsed(body)?;
    let text = rego_text(&policy)?;
    let why = match (kind.as_str(), policy_id.as_str(), package(&text)) {
        ("rego", "default_cpu", Some("coffer.token")) => return Ok(StockRego::Token(text)),
        ("rego", "default_cpu", _) => {
            "attestation policies that compute trust claims have no meaning here: what evidence must be is in `reference_values` of the \
             project's policy; a policy of `package coffer.token` narrows who gets a token"
        }
        ("rego", ..) => "the one attestation policy here is `default_cpu`",
        _ => "attestation policies are of type `rego`",
    };
    refuse(why.to_owned())
}

/// `POST /kbs/v0/reference-value`.
///
/// # Errors
/// As for [`resource_policy`].
pub fn reference_values(body: &[u8]) -> Result<StockValues, StockBodyError> {
    let message: Message = parsed(body)?;
    if message.version != MESSAGE_VERSION || message.kind != MESSAGE_TYPE {
        let (version, kind) = (short(&message.version), short(&message.kind));
        return refuse(format!("message is of version `{version}` and type `{kind}`, expected `{MESSAGE_VERSION}` and `{MESSAGE_TYPE}`"));
    }
    let Ok(bytes) = BASE64.decode(message.payload.as_bytes()) else { return refuse("payload is not standard base64".to_owned()) };
    let mut members: Map<String, Value> =
        serde_json::from_slice(&bytes).map_err(|e| StockBodyError(format!("payload is not a JSON object: {e}")))?;
    if members.len() == 1
        && let Some(document) = members.remove(DOCUMENT_TYPE)
    {
        return Ok(StockValues::Document(document));
    }
    let known = ExactName::ALL.map(ExactName::name).join(", ");
    if let Some(odd) = members.keys().find(|name| !ExactName::ALL.iter().any(|known| known.name() == name.as_str())) {
        return refuse(format!("reference value `{}` has no meaning here; send {DOCUMENT_TYPE} alone, or lists under {known}", short(odd)));
    }
    // The stock tool gives one boolean or number where there is one; a list of one means the same.
    let list = |value: Value| if value.is_array() { value } else { Value::Array(vec![value]) };
    let listed = Value::Object(members.into_iter().map(|(name, value)| (name, list(value))).collect());
    let lists: ExactValues = serde_json::from_value(listed).map_err(|e| StockBodyError(e.to_string()))?;
    if lists.is_empty() {
        return refuse(format!("payload has no reference value; send {DOCUMENT_TYPE} alone, or lists under {known}"));
    }
    Ok(StockValues::Lists(lists))
}

fn refuse<T>(why: String) -> Result<T, StockBodyError> {
    Err(StockBodyError(why))
}

/// What somebody sent, short enough to be said.
#[must_use]
pub fn short(text: &str) -> String {
    text.chars().take(80).collect()
}

fn parsed<T: serde::de::DeserializeOwned>(body: &[u8]) -> Result<T, StockBodyError> {
    serde_json::from_slice(body).map_err(|e| StockBodyError(format!("body does not parse: {e}")))
}

fn rego_text(policy: &str) -> Result<String, StockBodyError> {
    let bytes = BASE64URL_NOPAD.decode(policy.as_bytes()).ok();
    let text = bytes.and_then(|bytes| String::from_utf8(bytes).ok());
    text.ok_or_else(|| StockBodyError("`policy` is not unpadded base64url of a text".to_owned()))
}

/// The package a rego text begins with, before anything is compiled: it decides which question the text answers.
fn package(text: &str) -> Option<&str> {
    let first = text.lines().map(str::trim).find(|line| !line.is_empty() && !line.starts_with('#'))?;
    let rest = first.strip_prefix("package").filter(|rest| rest.starts_with([' ', '\t']))?;
    Some(rest.split('#').next().unwrap_or_default().trim())
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::json;

    use super::*;

    fn message(value: &Value) -> Vec<u8> {
        json!({ "version": MESSAGE_VERSION, "type": MESSAGE_TYPE, "payload": BASE64.encode(value.to_string().as_bytes()) })
            .to_string()
            .into()
    }

    #[test]
    fn reference_values_are_a_document_or_lists_of_known_names() {
        assert_eq!(reference_values(&message(&json!({ DOCUMENT_TYPE: {} }))), Ok(StockValues::Document(json!({}))));
        let lists = reference_values(&message(&json!({ "snp_bootloader": [9, 10], "snp_smt_enabled": true })));
        let Ok(StockValues::Lists(lists)) = lists else { panic!("{lists:?}") };
        assert_eq!(serde_json::to_value(&lists).unwrap(), json!({ "snp_bootloader": [9, 10], "snp_smt_enabled": [true] }));
        for (body, says) in [
            (
                message(&json!({ "svn": ["1"] })),
                "`svn` has no meaning here; send coffer/project-policy/v1 alone, or lists under snp_launch_",
            ),
            (message(&json!({ DOCUMENT_TYPE: {}, "snp_bootloader": [9] })), "has no meaning here"),
            (message(&json!({ "snp_bootloader": ["9"] })), "a number from 0 to 255"),
            (message(&json!({})), "payload has no reference value"),
            (message(&json!([])), "payload is not a JSON object"),
            (br#"{"version":"0.1.0","type":"corim","payload":""}"#.to_vec(), "type `corim`"),
            (br#"{"version":"0.1.0","type":"sample","payload":"*"}"#.to_vec(), "not standard base64"),
            (b"{}".to_vec(), "body does not parse"),
        ] {
            let error = reference_values(&body).unwrap_err().to_string();
            assert!(error.contains(says), "{error}");
        }
    }

    #[test]
    fn the_package_is_the_first_thing_said() {
        for (text, expected) in [
            ("package policy\n", Some("policy")),
            ("# a comment\n\n  package coffer.release # ours\nallow := true\n", Some("coffer.release")),
            ("import rego.v1\npackage policy\n", None),
            ("packagepolicy\n", None),
            ("", None),
        ] {
            assert_eq!(package(text), expected, "{text}");
        }
    }

    proptest! {
        #[test]
        fn never_panics(bytes: Vec<u8>, text in "[ -~]{0,80}") {
            for body in [bytes.clone(), text.clone().into_bytes(), message(&json!({ text.clone(): text.clone() }))] {
                let _ = resource_policy(&body);
                let _ = attestation_policy(&body);
                let _ = reference_values(&body);
            }
            let policy = json!({ "policy": BASE64URL_NOPAD.encode(text.as_bytes()), "type": "rego", "policy_id": "default_cpu" }).to_string();
            let _ = resource_policy(policy.as_bytes());
            let _ = attestation_policy(policy.as_bytes());
        }
    }
}
