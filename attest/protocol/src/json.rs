//! Bounded parsing of typed messages, and the canonical form that is hashed.

use serde_json::Value;

/// Text is not the JSON we hash.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum JsonError {
    /// More bytes than this kind of document may have.
    #[error("{what} is {got} bytes long, at most {limit} are read")]
    TooLong {
        /// The kind of document.
        what: &'static str,
        /// Its size in bytes.
        got: usize,
        /// The limit in bytes.
        limit: usize,
    },
    /// Not JSON, not of the expected shape, a member repeated, a fraction, an integer past 2^53 - 1, or nested too deep.
    #[error("{what} does not parse: {source}")]
    Parse {
        /// The kind of document.
        what: &'static str,
        /// What was wrong and where.
        source: serde_json::Error,
    },
}

/// Refuses more than `limit` bytes.
pub(crate) fn check_length(what: &'static str, bytes: &[u8], limit: usize) -> Result<(), JsonError> {
    if bytes.len() > limit { Err(JsonError::TooLong { what, got: bytes.len(), limit }) } else { Ok(()) }
}

/// Parses a typed message of at most `limit` bytes.
pub(crate) fn parse_typed<T: serde::de::DeserializeOwned>(what: &'static str, bytes: &[u8], limit: usize) -> Result<T, JsonError> {
    check_length(what, bytes, limit)?;
    serde_json::from_slice(bytes).map_err(|source| JsonError::Parse { what, source })
}

/// The RFC 8785 bytes of a value without fractions, as `parse_strict` or our own types make it.
pub(crate) fn canonical(value: &Value) -> Result<Vec<u8>, JsonError> {
    serde_json_canonicalizer::to_vec(value).map_err(|source| JsonError::Parse { what: "canonical form", source })
}
