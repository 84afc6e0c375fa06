//! Checking a token: fixed order, one named rejection per rule.

use crate::UnixTime;
use crate::claims::{Claims, CofferClaims, FormError, Typ};
use crate::compact::{self, Malformed};
use crate::key::{ALG, Jkt, Jwks};

/// The longest token read, in bytes. Ours are under 2 KiB and have to fit a header.
pub const MAX_TOKEN_BYTES: usize = 8 * 1024;

/// How far the issuer's clock may be ahead of the checker's. Expiry has no such tolerance: it only ever ends something.
pub const MAX_SKEW_SECONDS: u64 = 30;

/// The role of a federation's aggregator.
pub const AGGREGATOR_ROLE: &str = "superlink";

/// What a relying party demands. Every member is compared; there is no "don't care".
#[derive(Clone, Copy, Debug)]
pub struct Expectation<'a> {
    /// The one issuer.
    pub issuer: &'a str,
    /// The checker's own name.
    pub audience: &'a str,
    /// `amd-sev-snp` or `simulated:<sha256 of ARK>`.
    pub root_of_trust: &'a str,
    /// What the token is to open.
    pub usage: Usage<'a>,
}

/// What a token is presented for; decides its type.
#[derive(Clone, Copy, Debug)]
pub enum Usage<'a> {
    /// Admission to a job: a job token of this project and role, presented by the holder of its key.
    Job {
        /// The gate's project.
        project: &'a str,
        /// The role admitted here.
        role: &'a str,
        /// Thumbprint of the peer's key on this very connection.
        peer: Jkt,
    },
    /// Admission of the aggregator: a job token of this project and of [`AGGREGATOR_ROLE`], whose `node_jkt` is the key of the
    /// certificate that the peer showed. Its `cnf` is another key of its boot and is not compared.
    Aggregator {
        /// The guest's project.
        project: &'a str,
        /// Thumbprint of the peer's key on this very connection.
        peer_node: Jkt,
    },
    /// Reading back, at the key service, a token it gave to a stock client. Project and site are compared with the resource path
    /// and the record by the caller.
    KeyService,
}

impl Usage<'_> {
    const fn typ(&self) -> Typ {
        match self {
            Self::Job { .. } | Self::Aggregator { .. } => Typ::Job,
            Self::KeyService => Typ::Kbs,
        }
    }
}

/// A token that passed every check. Only [`check`] can make one.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Checked<T>(T);

impl<T> Checked<T> {
    pub(crate) const fn new(passed: T) -> Self {
        Self(passed)
    }

    /// What it says.
    #[must_use]
    pub const fn claims(&self) -> &T {
        &self.0
    }
}

/// Why a token is refused, in the order of the checks.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Reject {
    /// Too long.
    #[error("token is {got} bytes long, at most {MAX_TOKEN_BYTES} are read")]
    TooLong {
        /// Its size in bytes.
        got: usize,
    },
    /// Not three parts of unpadded base64url.
    #[error("token is not a compact JWS")]
    Malformed,
    /// The header has other members than `alg`, `typ`, `kid`, or lacks one.
    #[error("token header does not parse: {0}")]
    Header(#[source] serde_json::Error),
    /// Another signature algorithm.
    #[error("token has alg `{got}`, expected `{expected}`")]
    Algorithm {
        /// The algorithm given, shortened to 40 characters.
        got: String,
        /// The one accepted.
        expected: &'static str,
    },
    /// A token for something else.
    #[error("token has typ `{got}`, expected `{expected}`")]
    Typ {
        /// The type given, shortened to 40 characters.
        got: String,
        /// The one accepted here.
        expected: &'static str,
    },
    /// A key that is not in the configured set.
    #[error("token is signed by unknown key `{kid}`")]
    UnknownKey {
        /// The key id given, shortened to 80 characters.
        kid: String,
    },
    /// The signature is not by that key over these bytes.
    #[error("token signature does not verify")]
    Signature,
    /// The claims have another shape, an unknown version, or unknown or repeated members.
    #[error("token claims do not parse: {0}")]
    Claims(#[source] serde_json::Error),
    /// The claims break a rule that does not depend on who checks.
    #[error(transparent)]
    Form(#[from] FormError),
    /// Another issuer.
    #[error("token is issued by `{got}`, expected `{expected}`")]
    Issuer {
        /// The issuer given, shortened to 80 characters.
        got: String,
        /// The one accepted.
        expected: String,
    },
    /// For somebody else.
    #[error("token is for `{got}`, this is `{expected}`")]
    Audience {
        /// The audience given, shortened to 80 characters.
        got: String,
        /// The checker.
        expected: String,
    },
    /// From the future.
    #[error("token is issued at {iat}, which is more than {MAX_SKEW_SECONDS} s after {now}")]
    Future {
        /// When it was issued, unix seconds.
        iat: u64,
        /// The checker's time, unix seconds.
        now: u64,
    },
    /// Expired.
    #[error("token expired at {exp}, it is {now}")]
    Expired {
        /// When it expired, unix seconds.
        exp: u64,
        /// The checker's time, unix seconds.
        now: u64,
    },
    /// Evidence signed by another root.
    #[error("token has root of trust `{got}`, expected `{expected}`")]
    RootOfTrust {
        /// The root given, shortened to 80 characters.
        got: String,
        /// The one accepted.
        expected: String,
    },
    /// Another project.
    #[error("token is of project `{got}`, expected `{expected}`")]
    Project {
        /// The project given, shortened to 80 characters.
        got: String,
        /// The one accepted.
        expected: String,
    },
    /// Another role.
    #[error("token is for role `{got}`, expected `{expected}`")]
    Role {
        /// The role given, shortened to 80 characters.
        got: String,
        /// The one accepted.
        expected: String,
    },
    /// Presented by another key than the one it is bound to: stolen.
    #[error("token is bound to key {bound}, the peer has {peer}")]
    Confirmation {
        /// The key it is bound to.
        bound: Jkt,
        /// The peer's key.
        peer: Jkt,
    },
    /// Presented by another node than the one it names: another site's, or a gate that has only copied it.
    #[error("token names node key {}, the peer has {peer}", named.map_or_else(|| "none".to_owned(), |key| key.to_string()))]
    Node {
        /// The node key it names.
        named: Option<Jkt>,
        /// The peer's key.
        peer: Jkt,
    },
    /// An admin call that lives too long.
    #[error("signed call lives from {iat} to {exp}, expected 1 to {} seconds", crate::admin::MAX_LIFETIME_SECONDS)]
    CallLifetime {
        /// When it was issued, unix seconds.
        iat: u64,
        /// When it expires, unix seconds.
        exp: u64,
    },
    /// A bearer token that lives too long, or is for nothing.
    #[error(
        "bearer token lives from {iat} to {exp} for {scopes} scopes, expected 1 to {} seconds and at least one scope",
        crate::bearer::MAX_BEARER_SECONDS
    )]
    BearerLifetime {
        /// When it was issued, unix seconds.
        iat: u64,
        /// When it expires, unix seconds.
        exp: u64,
        /// How many scopes it has.
        scopes: usize,
    },
    /// An admin call's signature is over another request.
    #[error("signature is for `{signed}`, the request is `{got}`")]
    OtherCall {
        /// Method, path and body digest that were signed.
        signed: String,
        /// Those of the request.
        got: String,
    },
}

/// Checks a token for one use at one time.
///
/// Says nothing about revocation since `iat`, nor whether the presenter really holds the key of `usage.peer`: that is the TLS
/// handshake's word.
///
/// # Errors
/// The first rule broken, in the order of [`Reject`]. Total: any text gives claims or a rejection.
pub fn check(token: &str, keys: &Jwks, expected: &Expectation<'_>, now: UnixTime) -> Result<Checked<Claims>, Reject> {
    let typ = expected.usage.typ();
    let payload =
        verified_payload(token, ALG, typ.name(), |kid| keys.has(kid), |kid, signed, signature| keys.verifies(kid, signed, signature))?;
    let claims: Claims = serde_json::from_slice(&payload).map_err(Reject::Claims)?;
    claims.check_form(typ)?;
    same(claims.issuer(), expected.issuer, |got, expected| Reject::Issuer { got, expected })?;
    same(claims.audience(), expected.audience, |got, expected| Reject::Audience { got, expected })?;
    check_time(claims.issued_at(), claims.expires_at(), now)?;
    let coffer = claims.coffer();
    same(&coffer.root_of_trust, expected.root_of_trust, |got, expected| Reject::RootOfTrust { got, expected })?;
    match expected.usage {
        Usage::Job { project, role, peer } => {
            check_place(coffer, project, role)?;
            let bound = claims.confirmation().ok_or(FormError::Unbound)?;
            if bound != peer {
                return Err(Reject::Confirmation { bound, peer });
            }
        }
        Usage::Aggregator { project, peer_node } => {
            check_place(coffer, project, AGGREGATOR_ROLE)?;
            if coffer.node_jkt != Some(peer_node) {
                return Err(Reject::Node { named: coffer.node_jkt, peer: peer_node });
            }
        }
        Usage::KeyService => {}
    }
    Ok(Checked::new(claims))
}

fn check_place(coffer: &CofferClaims, project: &str, role: &str) -> Result<(), Reject> {
    same(&coffer.project, project, |got, expected| Reject::Project { got, expected })?;
    same(&coffer.role, role, |got, expected| Reject::Role { got, expected })
}

/// The payload of a compact JWS whose header names exactly `alg`, `typ` and a known key, and whose signature holds.
pub(crate) fn verified_payload(
    token: &str,
    alg: &'static str,
    typ: &'static str,
    known: impl Fn(&str) -> bool,
    verifies: impl Fn(&str, &[u8], &[u8]) -> bool,
) -> Result<Vec<u8>, Reject> {
    let parts = split(token)?;
    if parts.header.alg != alg {
        return Err(Reject::Algorithm { got: short(&parts.header.alg, 40), expected: alg });
    }
    if parts.header.typ != typ {
        return Err(Reject::Typ { got: short(&parts.header.typ, 40), expected: typ });
    }
    if !known(&parts.header.kid) {
        return Err(Reject::UnknownKey { kid: short(&parts.header.kid, 80) });
    }
    if !verifies(&parts.header.kid, parts.signed, &parts.signature) {
        return Err(Reject::Signature);
    }
    Ok(parts.payload)
}

/// The key id in the header of a token nobody has checked yet.
///
/// # Errors
/// [`Reject::TooLong`], [`Reject::Malformed`] or [`Reject::Header`].
pub fn header_kid(token: &str) -> Result<String, Reject> {
    split(token).map(|parts| parts.header.kid)
}

fn split(token: &str) -> Result<compact::Parts<'_>, Reject> {
    if token.len() > MAX_TOKEN_BYTES {
        return Err(Reject::TooLong { got: token.len() });
    }
    compact::split(token).map_err(|malformed| match malformed {
        Malformed::Form => Reject::Malformed,
        Malformed::Header(error) => Reject::Header(error),
    })
}

pub(crate) fn check_time(iat: UnixTime, exp: UnixTime, now: UnixTime) -> Result<(), Reject> {
    if iat.0 > now.0.saturating_add(MAX_SKEW_SECONDS) {
        return Err(Reject::Future { iat: iat.0, now: now.0 });
    }
    if exp <= now {
        return Err(Reject::Expired { exp: exp.0, now: now.0 });
    }
    Ok(())
}

pub(crate) fn same(got: &str, expected: &str, reject: impl Fn(String, String) -> Reject) -> Result<(), Reject> {
    if got == expected { Ok(()) } else { Err(reject(short(got, 80), expected.to_owned())) }
}

fn short(text: &str, characters: usize) -> String {
    text.chars().take(characters).collect()
}

#[cfg(test)]
mod tests;
