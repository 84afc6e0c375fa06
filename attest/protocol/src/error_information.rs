//! Refusals as KBS clients read them: an RFC 7807 object with a `type` from the protocol's list and a `detail`.

use std::fmt;

use serde::{Deserialize, Serialize};

use crate::json::{JsonError, parse_typed};

/// What every `type` begins with.
const PREFIX: &str = "https://github.com/confidential-containers/kbs/errors/";

/// The longest error body read. Ours are under 200 bytes; a proxy's HTML page is no use beyond its first lines.
const MAX_ERROR_BYTES: usize = 8 * 1024;

/// The errors of the protocol's list that this service gives.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum ErrorKind {
    /// An admin call without a valid signature or outside its scope.
    AdminAuthAccess,
    /// Evidence was refused.
    AttestationError,
    /// What came is not HTTP as this side reads it.
    HttpFailed,
    /// No such path.
    InvalidRequestPath,
    /// A resource could not be sealed.
    JweError,
    /// No such resource.
    PluginNotFound,
    /// Something broke on this side.
    PluginInternalError,
    /// Verified evidence, but not for this resource.
    PolicyDeny,
    /// The body is not what this path takes.
    SerdeError,
    /// Not attested yet: the client starts a handshake on this.
    TokenNotFound,
    /// A bearer token was refused.
    TokenVerifierError,
}

impl ErrorKind {
    /// The protocol's name for it.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::AdminAuthAccess => "AdminAuthAccess",
            Self::AttestationError => "AttestationError",
            Self::HttpFailed => "HTTPFailed",
            Self::InvalidRequestPath => "InvalidRequestPath",
            Self::JweError => "JweError",
            Self::PluginNotFound => "PluginNotFound",
            Self::PluginInternalError => "PluginInternalError",
            Self::PolicyDeny => "PolicyDeny",
            Self::SerdeError => "SerdeError",
            Self::TokenNotFound => "TokenNotFound",
            Self::TokenVerifierError => "TokenVerifierError",
        }
    }
}

/// `{"type": "https://github.com/confidential-containers/kbs/errors/<name>", "detail": "<code>: <id>"}`, the detail sometimes
/// followed by words in parentheses.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct ErrorInformation {
    /// The error's URI. Any text, when received.
    #[serde(rename = "type")]
    pub kind: String,
    /// What a client prints. Any text, when received.
    pub detail: String,
}

impl ErrorInformation {
    /// A refusal that tells the peer a reason code and the id under which the log says everything.
    #[must_use]
    pub fn new(kind: ErrorKind, refusal: &Refusal) -> Self {
        Self { kind: format!("{PREFIX}{}", kind.name()), detail: refusal.to_string() }
    }

    /// The same with words for whoever reads a stock client's output; our guest prints code and id only.
    #[must_use]
    pub fn explained(kind: ErrorKind, refusal: &Refusal, words: &str) -> Self {
        Self { detail: format!("{refusal} ({words})"), ..Self::new(kind, refusal) }
    }

    /// Parses an error body, ours or a stock service's; members we do not know are ignored.
    ///
    /// # Errors
    /// See [`JsonError`].
    pub fn parse(bytes: &[u8]) -> Result<Self, JsonError> {
        parse_typed("error body", bytes, MAX_ERROR_BYTES)
    }

    /// The code and the id, if `detail` has our form, with words or without; a stock service's text gives `None`.
    #[must_use]
    pub fn refusal(&self) -> Option<Refusal> {
        let (code, rest) = self.detail.split_once(": ")?;
        let id = match rest.split_once(" (") {
            Some((id, words)) if words.ends_with(')') => id,
            _ => rest,
        };
        Refusal::new(code, id)
    }
}

/// A reason code and a refusal id: all that a refused peer learns. Both are safe to print.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Refusal {
    code: String,
    id: String,
}

impl Refusal {
    /// Takes a code of 1 to 64 of `a-z0-9_` and an id of 1 to 64 of `a-zA-Z0-9-`.
    #[must_use]
    pub fn new(code: &str, id: &str) -> Option<Self> {
        let bounded = |text: &str| (1..=64).contains(&text.len());
        let code_ok = bounded(code) && code.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'_');
        let id_ok = bounded(id) && id.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-');
        (code_ok && id_ok).then(|| Self { code: code.to_owned(), id: id.to_owned() })
    }

    /// The reason code, such as `launch_digest`.
    #[must_use]
    pub fn code(&self) -> &str {
        &self.code
    }

    /// The id to look up in the service's log.
    #[must_use]
    pub fn id(&self) -> &str {
        &self.id
    }
}

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.code, self.id)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_refusal_travels() {
        let refusal = Refusal::new("launch_digest", "7f3a-19").expect("well formed");
        let sent = ErrorInformation::new(ErrorKind::AttestationError, &refusal);
        assert_eq!(
            serde_json::to_string(&sent).expect("encodes"),
            r#"{"type":"https://github.com/confidential-containers/kbs/errors/AttestationError","detail":"launch_digest: 7f3a-19"}"#
        );
        let received = ErrorInformation::parse(&serde_json::to_vec(&sent).expect("encodes")).expect("parses");
        assert_eq!(received.refusal(), Some(refusal.clone()));
        let explained = ErrorInformation::explained(ErrorKind::SerdeError, &refusal, "speaks (more or less) 0.5");
        assert_eq!(explained.detail, "launch_digest: 7f3a-19 (speaks (more or less) 0.5)");
        assert_eq!(explained.refusal(), Some(refusal));
    }

    #[test]
    fn only_printable_refusals_are_taken() {
        for detail in [
            "launch_digest",
            "launch_digest:7f",
            "Launch: 7f",
            ": 7f",
            "a: ",
            "a: \u{1b}[2J",
            "a\n: 7f",
            "a: b c",
            "a: b: c",
            "a: b (c",
            "a: b(c)",
            "a: (c)",
            "\u{e4}: b",
        ] {
            let received = ErrorInformation { kind: String::new(), detail: detail.into() };
            assert_eq!(received.refusal(), None, "{detail:?}");
        }
        assert_eq!(Refusal::new(&"a".repeat(65), "b"), None);
        assert_eq!(Refusal::new("a", &"b".repeat(65)), None);
    }
}
