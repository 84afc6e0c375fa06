//! JWS compact serialisation (RFC 7515, section 7.1), read without believing any of it.

use data_encoding::BASE64URL_NOPAD;
use serde::Deserialize;

/// Three decoded parts and the text that was signed.
pub(crate) struct Parts<'a> {
    pub(crate) header: Header,
    pub(crate) payload: Vec<u8>,
    pub(crate) signature: Vec<u8>,
    pub(crate) signed: &'a [u8],
}

/// The header's three members. Any other (`jwk`, `jku`, `x5c`, `crit`, …) is refused.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Header {
    pub(crate) alg: String,
    pub(crate) typ: String,
    pub(crate) kid: String,
}

/// Why text is not a compact JWS with our header.
pub(crate) enum Malformed {
    /// Not three parts of canonical base64url.
    Form,
    /// The header is not `{alg, typ, kid}`.
    Header(serde_json::Error),
}

pub(crate) fn split(token: &str) -> Result<Parts<'_>, Malformed> {
    let (signed, signature) = token.rsplit_once('.').ok_or(Malformed::Form)?;
    let (header, payload) = signed.split_once('.').ok_or(Malformed::Form)?;
    let decode = |text: &str| BASE64URL_NOPAD.decode(text.as_bytes()).map_err(|_| Malformed::Form);
    let (header, payload, signature) = (decode(header)?, decode(payload)?, decode(signature)?);
    let header = serde_json::from_slice(&header).map_err(Malformed::Header)?;
    Ok(Parts { header, payload, signature, signed: signed.as_bytes() })
}

/// `header.payload`, ready to be signed. `kid` and `typ` are ours and need no escaping.
pub(crate) fn signing_input(alg: &str, typ: &str, kid: &str, payload: &[u8]) -> String {
    let header = format!(r#"{{"alg":"{alg}","typ":"{typ}","kid":"{kid}"}}"#);
    format!("{}.{}", BASE64URL_NOPAD.encode(header.as_bytes()), BASE64URL_NOPAD.encode(payload))
}

/// Appends the signature.
pub(crate) fn finish(signing_input: String, signature: &[u8]) -> String {
    format!("{signing_input}.{}", BASE64URL_NOPAD.encode(signature))
}
