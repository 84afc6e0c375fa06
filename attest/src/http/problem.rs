//! Refusals on the wire: RFC 7807 bodies that tell a peer a code and an id, and the log everything else.

use std::fmt;

use axum::http::StatusCode;
use axum::http::header::{CACHE_CONTROL, CONTENT_TYPE, HeaderValue, RETRY_AFTER};
use axum::response::{IntoResponse, Response};
use coffer_protocol::{ErrorInformation, ErrorKind, Refusal};

use crate::kek::random;
use crate::reason::{Reason, Values};

/// The longest reason logged or kept. The longest of our own, two REPORT_DATA values, has some 300 characters.
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

/// What was refused, as it leaves with the answer: for the counters, and for `explain` where the audit log does not have it.
#[derive(Debug, Clone)]
pub struct Told {
    /// Why.
    pub reason: Reason,
    /// The id the peer was given, or could have been.
    pub id: RefusalId,
    /// One bounded line.
    pub detail: String,
    /// What the rule wants, and what it got; none where `detail` says all there is.
    pub values: Option<Values>,
    /// Whether the audit log has it under this id.
    pub recorded: bool,
}

/// A refusal, ready to be sent.
#[derive(Debug)]
pub struct Problem {
    /// Boxed: it is many times an answer's size.
    told: Box<Told>,
    kind: ErrorKind,
    /// The whole reason, for an admin whose signature held.
    in_full: Option<String>,
    /// Seconds after which asking again makes sense, where the reason alone does not say it.
    retry_after_s: Option<u64>,
}

impl Problem {
    /// A refusal whose details the peer is not told; they are logged here, under the id the peer gets.
    #[must_use]
    pub fn refuse(reason: Reason, why: &dyn fmt::Display) -> Self {
        Self::refuse_as(RefusalId::new(), reason, why)
    }

    /// A refusal that may come in floods: counted, but not logged.
    #[must_use]
    pub fn refuse_quietly(reason: Reason, why: &dyn fmt::Display) -> Self {
        Self::of(reason, RefusalId::new(), one_line(why))
    }

    fn of(reason: Reason, id: RefusalId, detail: String) -> Self {
        let told = Box::new(Told { reason, id, detail, values: None, recorded: false });
        Self { told, kind: reason.kind(), in_full: None, retry_after_s: None }
    }

    /// The same as [`Self::refuse`] under an id that exists already.
    #[must_use]
    pub fn refuse_as(id: RefusalId, reason: Reason, why: &dyn fmt::Display) -> Self {
        let detail = one_line(why);
        tracing::warn!(%id, code = reason.code(), status = reason.status().as_u16(), "refused: {detail}");
        Self::of(reason, id, detail)
    }

    /// A refusal towards an admin whose signature held: the text is for them.
    #[must_use]
    pub fn tell(reason: Reason, why: &dyn fmt::Display) -> Self {
        Self { in_full: Some(why.to_string()), ..Self::refuse(reason, why) }
    }

    /// Something broke on this side; nothing is released.
    #[must_use]
    pub fn internal(why: &dyn fmt::Display) -> Self {
        let (id, detail) = (RefusalId::new(), one_line(why));
        tracing::error!(%id, "internal error: {detail}");
        Self::of(Reason::Internal, id, detail)
    }

    /// When asking again makes sense.
    #[must_use]
    pub fn retry_after(self, seconds: Option<u64>) -> Self {
        Self { retry_after_s: seconds, ..self }
    }

    /// Another kind of error than the reason's own: what a refusal is called depends on what was asked for.
    #[must_use]
    pub fn of_kind(self, kind: ErrorKind) -> Self {
        Self { kind, ..self }
    }

    /// Both values, for `explain`.
    #[must_use]
    pub fn with_values(mut self, values: Option<Values>) -> Self {
        self.told.values = values.map(|Values { expected, got }| Values { expected: one_line(&expected), got: one_line(&got) });
        self
    }

    /// The audit log has it under its id.
    #[must_use]
    pub fn recorded(mut self) -> Self {
        self.told.recorded = true;
        self
    }

    /// The body. Whoever speaks the protocol otherwise than this service is told what is spoken here: the table of reasons says
    /// it to everybody, and a stock client prints nothing else.
    fn information(&self) -> ErrorInformation {
        let Told { reason, id, .. } = &*self.told;
        let mut body = match Refusal::new(reason.code(), id.as_str()) {
            Some(refusal) if reason.status() == StatusCode::BAD_REQUEST => {
                ErrorInformation::explained(self.kind, &refusal, reason.meaning())
            }
            Some(refusal) => ErrorInformation::new(self.kind, &refusal),
            // Every code and 16 hexadecimal digits make a refusal: tests of `reason` and below.
            None => ErrorInformation { kind: String::new(), detail: reason.code().to_owned() },
        };
        if let Some(in_full) = &self.in_full {
            body.detail = format!("{reason}: {in_full}");
        }
        body
    }

    /// The status of the answer.
    #[must_use]
    pub fn status(&self) -> StatusCode {
        self.told.reason.status()
    }

    /// The body of the answer.
    #[must_use]
    pub fn body(&self) -> Vec<u8> {
        serde_json::to_vec(&self.information()).unwrap_or_default()
    }

    /// What was refused.
    #[must_use]
    pub const fn told(&self) -> &Told {
        &self.told
    }
}

/// The type of every refusal's body (RFC 7807, section 3).
pub const PROBLEM_JSON: &str = "application/problem+json";

/// Seconds after which asking again makes sense, where it does at all.
const fn retry_after(reason: Reason) -> Option<HeaderValue> {
    match reason {
        Reason::RateLimited | Reason::Busy => Some(HeaderValue::from_static("1")),
        Reason::SiteRate => Some(HeaderValue::from_static("10")),
        _ => None,
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
        let headers = [(CONTENT_TYPE, PROBLEM_JSON), (CACHE_CONTROL, "no-store")];
        let mut response = (self.status(), headers, self.body()).into_response();
        if let Some(seconds) = self.retry_after_s.map(HeaderValue::from).or_else(|| retry_after(self.told.reason)) {
            response.headers_mut().insert(RETRY_AFTER, seconds);
        }
        response.extensions_mut().insert(*self.told);
        response
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_peer_learns_a_code_and_an_id_and_an_admin_the_reason() {
        let hidden = Problem::refuse(Reason::ResourcePath, &"path 12 is not 34");
        let body = hidden.information();
        assert_eq!(body.kind, "https://github.com/confidential-containers/kbs/errors/PolicyDeny");
        assert_eq!(body.detail, format!("resource_path: {}", hidden.told.id));
        assert_eq!(hidden.told.id.as_str().len(), 16);
        let told = Problem::tell(Reason::NameTaken, &"site `a/b` is enrolled");
        assert_eq!(told.information().detail, "name_taken: site `a/b` is enrolled");
        assert_eq!(one_line(&"nonce A+/= of `é` expected"), "nonce A+/= of `é` expected");
        assert_eq!(one_line(&"a\nERROR b\u{1b}[2J\u{2028}"), "a\\nERROR b\\u{1b}[2J\\u{2028}");
        assert_eq!(one_line(&"x".repeat(100_000)), format!("{}…", "x".repeat(MAX_LOGGED_CHARS)));
        let response = hidden.into_response();
        assert_eq!((&response.headers()[CONTENT_TYPE], response.headers().get(RETRY_AFTER)), (&PROBLEM_JSON.parse().unwrap(), None));
        assert_eq!(Problem::refuse_quietly(Reason::Busy, &"").into_response().headers()[RETRY_AFTER], "1");
        let foreign = Problem::refuse(Reason::ProtocolVersion, &"0.3.0");
        assert!(foreign.information().detail.ends_with("0.4; older ones do not bind device evidence)"), "{}", foreign.information().detail);
        assert_eq!(foreign.information().refusal().map(|refusal| refusal.code().to_owned()).as_deref(), Some("protocol_version"));
    }
}
