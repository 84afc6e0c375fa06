//! Why evidence was refused: the rule, and both values.

use core::fmt;

use coffer_evidence::{EvidenceError, Report, ReportError};

use crate::rule::Rule;

/// The first rule evidence broke, what it expected and what it got.
///
/// [`Reject::code`] is for machines and peers, the text for the log. Equality compares all of it.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{} is {got}, expected {expected}", rule.subject())]
pub struct Reject {
    rule: Rule,
    expected: String,
    got: String,
}

impl Reject {
    pub(crate) const fn new(rule: Rule, expected: String, got: String) -> Self {
        Self { rule, expected, got }
    }

    /// The rule.
    #[must_use]
    pub const fn rule(&self) -> Rule {
        self.rule
    }

    /// What the rule wants, in words.
    #[must_use]
    pub fn expected(&self) -> &str {
        &self.expected
    }

    /// What the evidence has, in words. Text that a peer chose is escaped.
    #[must_use]
    pub fn got(&self) -> &str {
        &self.got
    }

    /// The rule's code.
    #[must_use]
    pub const fn code(&self) -> &'static str {
        self.rule.code()
    }

    /// Whether the guest that the report describes has spoken in this very handshake; see [`Rule::is_authenticated`].
    #[must_use]
    pub const fn is_authenticated(&self) -> bool {
        self.rule.is_authenticated()
    }
}

/// Evidence that cannot be read is refused like any other; an unknown report version keeps its own name.
impl From<EvidenceError> for Reject {
    fn from(error: EvidenceError) -> Self {
        if let EvidenceError::Report(ReportError::Version { got }) = error {
            return Self::new(Rule::ReportVersion, format!("one of {:?}", Report::VERSIONS), got.to_string());
        }
        let expected = format!("SNP evidence with a report of {} bytes", Report::LEN);
        Self::new(Rule::Evidence, expected, format!("unreadable: {}", causes(&error)))
    }
}

/// An error and what is behind it, on one line; control characters escaped.
pub(crate) fn causes(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        text.push_str(": ");
        text.push_str(&cause.to_string());
        source = cause.source();
    }
    text.chars().flat_map(|c| if c.is_control() { c.escape_default().collect::<Vec<_>>() } else { vec![c] }).take(400).collect()
}

/// What is wrong with a link of the chain.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[non_exhaustive]
pub enum ChainFault {
    /// Nothing we have, built in or beside the report, has its issuer's name.
    NoIssuer,
    /// Its issuer is no root of ours.
    UnknownRoot,
    /// Its common name is not the one its place in the chain has.
    CommonName,
    /// The rest of its name (country, state, locality, organisation, unit) is not its root's.
    Organisation,
    /// It is not allowed to sign certificates.
    NotCa,
    /// It is not signed by RSA-PSS with SHA-384.
    Algorithm,
    /// It has a critical extension this build does not know.
    CriticalExtension,
    /// Its key is not of the kind its place in the chain has: RSA of 4096 bits, P-384 for an endorsement key.
    KeyType,
    /// Its signature does not verify under its issuer's key.
    Signature,
}

impl fmt::Display for ChainFault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::NoIssuer => "has an issuer this verifier does not know",
            Self::UnknownRoot => "does not lead to this verifier's root of trust",
            Self::CommonName => "has a name that does not belong in its place",
            Self::Organisation => "is of another organisation or place than its root",
            Self::NotCa => "may not sign certificates",
            Self::Algorithm => "is not signed by RSA-PSS with SHA-384",
            Self::CriticalExtension => "has an unknown critical extension",
            Self::KeyType => "has a key of a kind that does not belong in its place",
            Self::Signature => "does not verify under its issuer's key",
        })
    }
}

/// One of a report's four TCB versions.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum TcbKind {
    /// What the endorsement key is derived from.
    Reported,
    /// What the platform can no longer go below.
    Committed,
    /// What runs now.
    Current,
    /// What ran at launch.
    Launch,
}

impl fmt::Display for TcbKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Reported => "reported",
            Self::Committed => "committed",
            Self::Current => "current",
            Self::Launch => "launch",
        })
    }
}
