//! Bearer tokens for stock admin tools (`kbs-client`), which cannot sign calls: short, for one project, for named kinds of calls.
//!
//! JWT ES256 by the service's own token key, with a `typ` of its own (RFC 8725, section 3.11): neither a job token nor a token for
//! stock guests passes as one, nor the other way round, nor does an admin's signed call ([`crate::admin`]).

use serde::{Deserialize, Serialize};

use crate::UnixTime;
use crate::check::{Checked, Reject, check_time, same, verified_payload};
use crate::claims::Version1;
use crate::compact;
use crate::key::{ALG, Jkt, Jwks, Signer};

const TYP: &str = "coffer-admin-bearer+jwt";

/// The longest life of a bearer token: 1 hour. Whoever has copied it may use it so long.
pub const MAX_BEARER_SECONDS: u64 = 3600;

/// What a bearer token may be used for.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum BearerScope {
    /// Write and destroy stock resources that the project's policy lists as writable.
    SetResource,
    /// Replace the project's rego.
    Policy,
    /// Replace reference values.
    ReferenceValue,
}

impl BearerScope {
    /// Every scope.
    pub const ALL: [Self; 3] = [Self::SetResource, Self::Policy, Self::ReferenceValue];

    /// The name in the token and on the command line.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::SetResource => "set-resource",
            Self::Policy => "policy",
            Self::ReferenceValue => "reference-value",
        }
    }
}

/// What a bearer token says.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct BearerClaims {
    /// Always 1.
    pub v: Version1,
    /// The service, as issuer and as the one audience.
    pub iss: String,
    /// The same.
    pub aud: String,
    /// Unique, for the audit log.
    pub jti: String,
    /// Unix seconds.
    pub iat: u64,
    /// Unix seconds; at most [`MAX_BEARER_SECONDS`] after `iat`.
    pub exp: u64,
    /// The one project.
    pub project: String,
    /// What it may be used for; at least one.
    pub scopes: Vec<BearerScope>,
    /// Key of the admin who asked for it, and with whom it is revoked.
    pub admin: Jkt,
}

impl Signer {
    /// Signs a bearer token.
    ///
    /// # Errors
    /// [`Reject::BearerLifetime`] for claims that [`check`] would refuse whoever asks.
    pub fn sign_bearer(&self, claims: &BearerClaims) -> Result<String, Reject> {
        check_form(claims)?;
        let payload = serde_json::to_vec(claims).map_err(Reject::Claims)?;
        let input = compact::signing_input(ALG, TYP, self.kid(), &payload);
        let signature = self.sign_bytes(input.as_bytes());
        Ok(compact::finish(input, &signature))
    }
}

/// Checks a bearer token that this service issued.
///
/// Says nothing about whether its admin still is one, nor about what the call is.
///
/// # Errors
/// The first rule broken. Total: any text gives claims or a rejection.
pub fn check(token: &str, keys: &Jwks, issuer: &str, now: UnixTime) -> Result<Checked<BearerClaims>, Reject> {
    let payload = verified_payload(token, ALG, TYP, |kid| keys.has(kid), |kid, signed, signature| keys.verifies(kid, signed, signature))?;
    let claims: BearerClaims = serde_json::from_slice(&payload).map_err(Reject::Claims)?;
    check_form(&claims)?;
    same(&claims.iss, issuer, |got, expected| Reject::Issuer { got, expected })?;
    same(&claims.aud, issuer, |got, expected| Reject::Audience { got, expected })?;
    check_time(UnixTime(claims.iat), UnixTime(claims.exp), now)?;
    Ok(Checked::new(claims))
}

fn check_form(claims: &BearerClaims) -> Result<(), Reject> {
    let lifetime = claims.exp.saturating_sub(claims.iat);
    if lifetime == 0 || lifetime > MAX_BEARER_SECONDS || claims.scopes.is_empty() {
        return Err(Reject::BearerLifetime { iat: claims.iat, exp: claims.exp, scopes: claims.scopes.len() });
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::{Expectation, Usage};

    const NOW: UnixTime = UnixTime(1_795_400_000);
    const ISSUER: &str = "https://attest.demo.test";

    fn signer(byte: u8) -> Signer {
        Signer::from_bytes(&[byte; 32]).expect("a scalar")
    }

    fn claims() -> BearerClaims {
        BearerClaims {
            v: Version1,
            iss: ISSUER.into(),
            aud: ISSUER.into(),
            jti: "b-1".into(),
            iat: NOW.0,
            exp: NOW.0 + MAX_BEARER_SECONDS,
            project: "demo".into(),
            scopes: vec![BearerScope::SetResource],
            admin: Jkt::new([7; 32]),
        }
    }

    fn refused(token: &str, now: u64) -> Reject {
        check(token, &signer(1).jwks(), ISSUER, UnixTime(now)).expect_err("refused")
    }

    #[test]
    fn a_bearer_token_passes_for_an_hour_at_its_own_service() {
        let token = signer(1).sign_bearer(&claims()).expect("signs");
        let passes = |now: u64| check(&token, &signer(1).jwks(), ISSUER, UnixTime(now));
        assert_eq!(*passes(NOW.0).expect("passes").claims(), claims());
        assert!(passes(NOW.0 + MAX_BEARER_SECONDS - 1).is_ok());
        assert!(matches!(refused(&token, NOW.0 + MAX_BEARER_SECONDS), Reject::Expired { .. }));
        assert!(matches!(refused(&token, NOW.0 - 31), Reject::Future { .. }));
        assert!(matches!(check(&token, &signer(2).jwks(), ISSUER, NOW), Err(Reject::UnknownKey { .. })));
        assert!(matches!(check(&token, &signer(1).jwks(), "https://other.test", NOW), Err(Reject::Issuer { .. })));
    }

    #[test]
    fn what_lives_too_long_or_is_for_nothing_is_not_signed_and_not_taken() {
        for (exp, scopes) in [
            (NOW.0, BearerScope::ALL.to_vec()),
            (NOW.0 + MAX_BEARER_SECONDS + 1, BearerScope::ALL.to_vec()),
            (u64::MAX, BearerScope::ALL.to_vec()),
            (NOW.0 + 60, Vec::new()),
        ] {
            let odd = BearerClaims { exp, scopes, ..claims() };
            assert!(matches!(signer(1).sign_bearer(&odd), Err(Reject::BearerLifetime { .. })), "{exp}");
            assert!(matches!(refused(&forge(TYP, &serde_json::to_value(&odd).expect("JSON")), NOW.0), Reject::BearerLifetime { .. }));
        }
        let mut more = serde_json::to_value(claims()).expect("JSON");
        more["scopes"] = serde_json::json!(["everything"]);
        assert!(matches!(refused(&forge(TYP, &more), NOW.0), Reject::Claims(_)));
    }

    /// Signs any claims with the real key, as another program might.
    fn forge(typ: &str, claims: &serde_json::Value) -> String {
        let key = signer(1);
        let input = compact::signing_input(ALG, typ, key.kid(), claims.to_string().as_bytes());
        let signature = key.sign_bytes(input.as_bytes());
        compact::finish(input, &signature)
    }

    #[test]
    fn no_kind_of_token_passes_as_another() {
        let payload = serde_json::to_value(claims()).expect("JSON");
        for typ in ["coffer-job+jwt", "coffer-kbs+jwt", "coffer-admin+jwt", "coffer-audit-head+jwt", "JWT"] {
            assert!(matches!(refused(&forge(typ, &payload), NOW.0), Reject::Typ { .. }), "{typ}");
        }
        let bearer = signer(1).sign_bearer(&claims()).expect("signs");
        let expected = Expectation { issuer: ISSUER, audience: ISSUER, root_of_trust: "amd-sev-snp", usage: Usage::KeyService };
        assert!(matches!(crate::check(&bearer, &signer(1).jwks(), &expected, NOW), Err(Reject::Typ { .. })));
        let job = Usage::Job { project: "demo", role: "client", peer: Jkt::new([7; 32]) };
        let expected = Expectation { usage: job, ..expected };
        assert!(matches!(crate::check(&bearer, &signer(1).jwks(), &expected, NOW), Err(Reject::Typ { .. })));
        let admin = crate::admin::AdminSigner::from_random(&[1; 48]).expect("a scalar").public();
        let call = crate::admin::Call { audience: ISSUER, method: "GET", path: "/", body: b"" };
        assert!(crate::admin::check(&bearer, &admin, &call, NOW).is_err());
    }

    proptest! {
        #[test]
        fn never_panics(text in "[ -~]{0,200}") {
            prop_assert!(check(&text, &signer(1).jwks(), ISSUER, NOW).is_err());
        }
    }
}
