//! RFC 8785 encoding, and decoding that accepts nothing else.

use serde::Serialize;
use serde::de::DeserializeOwned;

/// The largest document any reader accepts, in bytes. fw_cfg hands the guest a buffer of host-chosen size; 64 KiB holds
/// four CA certificates and some hundred host entries with room to spare.
pub const MAX_DOCUMENT_BYTES: usize = 64 * 1024;

/// Why bytes are not a document of the expected type.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum DocumentError {
    /// Longer than [`MAX_DOCUMENT_BYTES`].
    #[error("document is {got} bytes long, at most {MAX_DOCUMENT_BYTES} are read")]
    TooLong {
        /// Size of the input in bytes.
        got: usize,
    },
    /// Not JSON, or not of the expected shape: unknown, repeated or missing members, wrong types, wrong version.
    #[error("document does not parse: {}", on_one_line(.0))]
    Parse(serde_json::Error),
    /// Parses, but is not the RFC 8785 form of what it says.
    #[error("document is not in RFC 8785 canonical form: first difference at byte {at}")]
    NotCanonical {
        /// Offset of the first byte that differs from the canonical form.
        at: usize,
    },
    /// A value cannot be written as JSON.
    #[error("document cannot be encoded: {0}")]
    Encode(#[source] serde_json::Error),
}

/// The most that is repeated of what a parser says, in characters.
const MAX_CAUSE_CHARS: usize = 400;

/// A parser repeats names out of the document it refuses. Characters that would make a second line of them, which could pass
/// for ours, or move a terminal's cursor are escaped.
fn on_one_line(error: &serde_json::Error) -> String {
    let mut line = String::new();
    for c in error.to_string().chars().take(MAX_CAUSE_CHARS) {
        if c.is_control() { line.extend(c.escape_default()) } else { line.push(c) }
    }
    line
}

/// The RFC 8785 bytes of `value`.
///
/// # Errors
/// [`DocumentError::Encode`] if a map key is not a string; the types of this crate have none such.
pub fn encode<T: Serialize>(value: &T) -> Result<Vec<u8>, DocumentError> {
    serde_json_canonicalizer::to_vec(value).map_err(DocumentError::Encode)
}

/// Parses `bytes`, then re-encodes and requires the same bytes.
///
/// # Errors
/// See [`DocumentError`]. Total: any input gives a value or an error.
pub fn decode<T: Serialize + DeserializeOwned>(bytes: &[u8]) -> Result<T, DocumentError> {
    if bytes.len() > MAX_DOCUMENT_BYTES {
        return Err(DocumentError::TooLong { got: bytes.len() });
    }
    let value: T = serde_json::from_slice(bytes).map_err(DocumentError::Parse)?;
    let again = encode(&value)?;
    if again != bytes {
        let at = again.iter().zip(bytes).position(|(a, b)| a != b).unwrap_or(again.len().min(bytes.len()));
        return Err(DocumentError::NotCanonical { at });
    }
    Ok(value)
}

/// A `type` member with exactly one accepted value.
macro_rules! document_type {
    ($name:ident, $text:literal) => {
        #[derive(Clone, Copy, PartialEq, Eq, Default)]
        #[doc = concat!("The member `type`; its only value is `", $text, "`.")]
        pub struct $name;

        impl ::core::fmt::Debug for $name {
            fn fmt(&self, f: &mut ::core::fmt::Formatter<'_>) -> ::core::fmt::Result {
                f.write_str($text)
            }
        }

        impl ::serde::Serialize for $name {
            fn serialize<S: ::serde::Serializer>(&self, s: S) -> Result<S::Ok, S::Error> {
                s.serialize_str($text)
            }
        }

        impl<'de> ::serde::Deserialize<'de> for $name {
            fn deserialize<D: ::serde::Deserializer<'de>>(d: D) -> Result<Self, D::Error> {
                let text = <::std::borrow::Cow<'de, str> as ::serde::Deserialize>::deserialize(d)?;
                if text == $text {
                    Ok(Self)
                } else {
                    Err(::serde::de::Error::custom(format!("type `{text}` is not supported; this build reads `{}`", $text)))
                }
            }
        }
    };
}
pub(crate) use document_type;
