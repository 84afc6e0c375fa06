//! Refusals on the wire: RFC 7807 bodies that tell a peer a code and an id, and the log everything else.

use std::fmt;

use axum::http::StatusCode;
use axum::http::header::{CACHE_CONTROL, CONTENT_TYPE};
use axum::response::{IntoResponse, Response};
use coffer_protocol::{ErrorInformation, ErrorKind, Refusal};

use crate::kek::random;

/// The longest reason logged. The longest of our own, two REPORT_DATA values, has some 300 characters.
const MAX_LOGGED_CHARS: usize = 600;

/// The id that connects what a peer was told with what the log says: 16 hexadecimal digits.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RefusalId(String);

impl RefusalId {
    /// A new id. Without randomness it is all zeros: the refusal itself must not fail.
    #[must_use]
    pub fn new() -> Self {
        Self(data_encoding::HEXLOWER.encode(&random::<8>().unwrap_or_default()))
    }

    /// The text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for RefusalId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// The reason code of a response, for the counters.
#[derive(Debug, Clone)]
pub struct Code(pub String);

/// A refusal, ready to be sent.
#[derive(Debug)]
pub struct Problem {
    status: StatusCode,
    kind: ErrorKind,
    code: String,
    id: RefusalId,
    /// Set only towards authenticated admins.
    told: Option<String>,
}

impl Problem {
    /// A refusal whose details the peer is not told; they are logged here, under the id the peer gets.
    #[must_use]
    pub fn new(status: StatusCode, kind: ErrorKind, code: &str, why: &dyn fmt::Display) -> Self {
        Self::with_id(status, kind, code, RefusalId::new(), why)
    }

    /// A refusal that may come in floods: counted, but not logged.
    #[must_use]
    pub fn unlogged(status: StatusCode, kind: ErrorKind, code: &str) -> Self {
        Self { status, kind, code: code.to_owned(), id: RefusalId::new(), told: None }
    }

    /// The same under an id that exists already.
    #[must_use]
    pub fn with_id(status: StatusCode, kind: ErrorKind, code: &str, id: RefusalId, why: &dyn fmt::Display) -> Self {
        tracing::warn!(%id, code, status = status.as_u16(), "refused: {}", one_line(why));
        Self { status, kind, code: code.to_owned(), id, told: None }
    }

    /// A refusal towards an admin whose signature held: the text is for them.
    #[must_use]
    pub fn told(status: StatusCode, kind: ErrorKind, code: &str, why: &dyn fmt::Display) -> Self {
        Self { told: Some(why.to_string()), ..Self::new(status, kind, code, why) }
    }

    /// Something broke on this side; nothing is released.
    #[must_use]
    pub fn internal(why: &dyn fmt::Display) -> Self {
        let id = RefusalId::new();
        tracing::error!(%id, "internal error: {}", one_line(why));
        Self {
            status: StatusCode::INTERNAL_SERVER_ERROR,
            kind: ErrorKind::PluginInternalError,
            code: "internal".to_owned(),
            id,
            told: None,
        }
    }

    /// The body.
    fn information(&self) -> ErrorInformation {
        let fallback = || Refusal::new("internal", self.id.as_str());
        let mut body = match Refusal::new(&self.code, self.id.as_str()).or_else(fallback) {
            Some(refusal) => ErrorInformation::new(self.kind, &refusal),
            // `internal` and 16 hexadecimal digits always make a refusal.
            None => ErrorInformation { kind: String::new(), detail: self.code.clone() },
        };
        if let Some(told) = &self.told {
            body.detail = format!("{}: {told}", self.code);
        }
        body
    }
}

/// A reason as one bounded line: parsers' errors quote what strangers sent, which must not write log lines of its own.
fn one_line(why: &dyn fmt::Display) -> String {
    let text = why.to_string();
    let mut line = String::new();
    for c in text.chars().take(MAX_LOGGED_CHARS) {
        if c == ' ' || c.is_ascii_graphic() || (!c.is_ascii() && c.is_alphanumeric()) {
            line.push(c);
        } else {
            line.extend(c.escape_default());
        }
    }
    if text.chars().nth(MAX_LOGGED_CHARS).is_some() {
        line.push('…');
    }
    line
}

impl IntoResponse for Problem {
    fn into_response(self) -> Response {
        let body = serde_json::to_vec(&self.information()).unwrap_or_default();
        let headers = [(CONTENT_TYPE, "application/problem+json"), (CACHE_CONTROL, "no-store")];
        let mut response = (self.status, headers, body).into_response();
        response.extensions_mut().insert(Code(self.code));
        response
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_peer_learns_a_code_and_an_id_and_an_admin_the_reason() {
        let hidden = Problem::new(StatusCode::FORBIDDEN, ErrorKind::PolicyDeny, "launch_digest", &"digest 12 is not 34");
        let body = hidden.information();
        assert_eq!(body.kind, "https://github.com/confidential-containers/kbs/errors/PolicyDeny");
        assert_eq!(body.detail, format!("launch_digest: {}", hidden.id));
        assert_eq!(hidden.id.as_str().len(), 16);
        let told = Problem::told(StatusCode::CONFLICT, ErrorKind::PolicyDeny, "name_taken", &"site `a/b` is enrolled");
        assert_eq!(told.information().detail, "name_taken: site `a/b` is enrolled");
        assert_eq!(one_line(&"nonce A+/= of `é` expected"), "nonce A+/= of `é` expected");
        assert_eq!(one_line(&"a\nERROR b\u{1b}[2J\u{2028}"), "a\\nERROR b\\u{1b}[2J\\u{2028}");
        assert_eq!(one_line(&"x".repeat(100_000)), format!("{}…", "x".repeat(MAX_LOGGED_CHARS)));
        assert_eq!(hidden.into_response().headers()[CONTENT_TYPE], "application/problem+json");
    }
}
