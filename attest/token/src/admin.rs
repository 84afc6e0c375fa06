//! Signed admin calls: one JWT (ES384, at most 5 minutes) per HTTP request, over its method, path and body digest.

use std::fmt;

use p384::ecdsa::signature::{Signer as _, Verifier as _};
use p384::ecdsa::{Signature, SigningKey, VerifyingKey};
use p384::pkcs8::{DecodePrivateKey as _, DecodePublicKey as _, EncodePrivateKey as _, EncodePublicKey as _, LineEnding};
use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};
use zeroize::Zeroizing;

use crate::UnixTime;
use crate::check::{Checked, Reject, check_time, same, verified_payload};
use crate::claims::{Hex, Version1};
use crate::compact;
use crate::key::{Jkt, KeyError};

const ALG: &str = "ES384";
const TYP: &str = "coffer-admin+jwt";

/// The longest life of a signed call: 5 minutes, enough for a slow upload.
pub const MAX_LIFETIME_SECONDS: u64 = 300;

/// The request a JWT stands for.
#[derive(Clone, Copy, Debug)]
pub struct Call<'a> {
    /// The service's name: what `init --tls-name` was given.
    pub audience: &'a str,
    /// The HTTP method, upper case.
    pub method: &'a str,
    /// The path with its query, as on the request line.
    pub path: &'a str,
    /// The body's bytes; empty where there is none.
    pub body: &'a [u8],
}

/// What a call's JWT says.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct CallClaims {
    v: Version1,
    aud: String,
    jti: String,
    iat: u64,
    exp: u64,
    method: String,
    path: String,
    body_sha256: Hex<32>,
}

impl CallClaims {
    /// The call's unique id: the service takes each once, until [`Self::expires_at`].
    #[must_use]
    pub fn call_id(&self) -> &str {
        &self.jti
    }

    /// Whether this is the body that was signed.
    ///
    /// # Errors
    /// [`Reject::OtherCall`].
    pub fn check_body(&self, body: &[u8]) -> Result<(), Reject> {
        let got = Hex::<32>(Sha256::digest(body).into());
        if self.body_sha256 == got { Ok(()) } else { Err(self.other(&self.method, &self.path, &got.to_string())) }
    }

    fn other(&self, method: &str, path: &str, body: &str) -> Reject {
        Reject::OtherCall { signed: format!("{} {} {}", self.method, self.path, self.body_sha256), got: format!("{method} {path} {body}") }
    }

    /// When the call expires.
    #[must_use]
    pub const fn expires_at(&self) -> UnixTime {
        UnixTime(self.exp)
    }
}

/// An admin's private key: EC P-384, zeroized on drop.
pub struct AdminSigner(SigningKey);

impl AdminSigner {
    /// Makes a key of 48 random bytes.
    ///
    /// # Errors
    /// [`KeyError::Scalar`] once in 2^190 draws.
    pub fn from_random(random: &[u8; 48]) -> Result<Self, KeyError> {
        SigningKey::from_slice(random).map(Self).map_err(|_| KeyError::Scalar { curve: "P-384" })
    }

    /// Reads a PKCS #8 PEM file (`-----BEGIN PRIVATE KEY-----`).
    ///
    /// # Errors
    /// [`KeyError::Pem`]; does not repeat the text.
    pub fn from_pem(pem: &str) -> Result<Self, KeyError> {
        SigningKey::from_pkcs8_pem(pem).map(Self).map_err(|_| KeyError::Pem { expected: "PKCS #8 P-384 private key" })
    }

    /// The PKCS #8 PEM form, for a 0600 file.
    ///
    /// # Errors
    /// [`KeyError::Pem`] never in practice: a key always encodes.
    pub fn expose_pem(&self) -> Result<Zeroizing<String>, KeyError> {
        self.0.to_pkcs8_pem(LineEnding::LF).map_err(|_| KeyError::Pem { expected: "PKCS #8 P-384 private key" })
    }

    /// The public half.
    #[must_use]
    pub fn public(&self) -> AdminKey {
        AdminKey(*self.0.verifying_key())
    }

    /// Signs one call. `call_id` must be new for each; `lifetime_seconds` at most [`MAX_LIFETIME_SECONDS`].
    ///
    /// # Errors
    /// [`Reject::CallLifetime`] for a lifetime the service would refuse.
    pub fn sign(&self, call: &Call<'_>, call_id: &str, now: UnixTime, lifetime_seconds: u64) -> Result<String, Reject> {
        let exp = now.0.saturating_add(lifetime_seconds);
        check_lifetime(now.0, exp)?;
        let claims = CallClaims {
            v: Version1,
            aud: call.audience.to_owned(),
            jti: call_id.to_owned(),
            iat: now.0,
            exp,
            method: call.method.to_owned(),
            path: call.path.to_owned(),
            body_sha256: Hex(Sha256::digest(call.body).into()),
        };
        let payload = serde_json::to_vec(&claims).map_err(Reject::Claims)?;
        let input = compact::signing_input(ALG, TYP, &self.public().id().to_string(), &payload);
        let signature: Signature = self.0.sign(input.as_bytes());
        Ok(compact::finish(input, &signature.to_bytes()))
    }
}

impl fmt::Debug for AdminSigner {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "AdminSigner(key {}, private key redacted)", self.public().id())
    }
}

/// An admin's public key, as the service keeps it.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct AdminKey(VerifyingKey);

impl AdminKey {
    /// Reads a SubjectPublicKeyInfo PEM text (`-----BEGIN PUBLIC KEY-----`).
    ///
    /// # Errors
    /// [`KeyError::Pem`].
    pub fn from_pem(pem: &str) -> Result<Self, KeyError> {
        VerifyingKey::from_public_key_pem(pem).map(Self).map_err(|_| KeyError::Pem { expected: "P-384 public key" })
    }

    /// The SubjectPublicKeyInfo PEM form.
    ///
    /// # Errors
    /// [`KeyError::Pem`] never in practice: a key always encodes.
    pub fn to_pem(&self) -> Result<String, KeyError> {
        self.0.to_public_key_pem(LineEnding::LF).map_err(|_| KeyError::Pem { expected: "P-384 public key" })
    }

    /// The key's id: its RFC 7638 thumbprint, the `kid` of its calls.
    #[must_use]
    pub fn id(&self) -> Jkt {
        let point = self.0.to_sec1_point(false);
        // An uncompressed point of P-384 is 0x04, 48 bytes of x, 48 bytes of y (SEC 1, section 2.3.3).
        Jkt::of_ec("P-384", &point.as_bytes()[1..49], &point.as_bytes()[49..97])
    }
}

/// The key id a call names, unverified: for finding the key to [`check`] it with.
///
/// # Errors
/// [`Reject::TooLong`], [`Reject::Malformed`], [`Reject::Header`], [`Reject::UnknownKey`] if it is no thumbprint.
pub fn named_key(token: &str) -> Result<Jkt, Reject> {
    let kid = crate::check::header_kid(token)?;
    kid.parse().map_err(|_| Reject::UnknownKey { kid: kid.chars().take(80).collect() })
}

/// Checks that `token` signs exactly this call with `key`.
///
/// Says nothing about whether the call was made before (compare [`CallClaims::call_id`] with those seen), nor about what the key
/// may do.
///
/// # Errors
/// The first rule broken. Total: any text gives claims or a rejection.
pub fn check(token: &str, key: &AdminKey, call: &Call<'_>, now: UnixTime) -> Result<Checked<CallClaims>, Reject> {
    let checked = check_head(token, key, call, now)?;
    checked.claims().check_body(call.body)?;
    Ok(checked)
}

/// The same but for the body, which `call` need not have yet: whoever cannot sign is not worth reading it.
///
/// # Errors
/// The first rule broken, as for [`check`]. [`CallClaims::check_body`] is left to ask.
pub fn check_head(token: &str, key: &AdminKey, call: &Call<'_>, now: UnixTime) -> Result<Checked<CallClaims>, Reject> {
    let id = key.id().to_string();
    let verifies = |_: &str, signed: &[u8], signature: &[u8]| {
        Signature::from_slice(signature).is_ok_and(|signature| key.0.verify(signed, &signature).is_ok())
    };
    let payload = verified_payload(token, ALG, TYP, |kid| kid == id, verifies)?;
    let claims: CallClaims = serde_json::from_slice(&payload).map_err(Reject::Claims)?;
    check_lifetime(claims.iat, claims.exp)?;
    same(&claims.aud, call.audience, |got, expected| Reject::Audience { got, expected })?;
    check_time(UnixTime(claims.iat), UnixTime(claims.exp), now)?;
    if claims.method != call.method || claims.path != call.path {
        return Err(claims.other(call.method, call.path, "with any body"));
    }
    Ok(Checked::new(claims))
}

fn check_lifetime(iat: u64, exp: u64) -> Result<(), Reject> {
    let lifetime = exp.saturating_sub(iat);
    if lifetime == 0 || lifetime > MAX_LIFETIME_SECONDS { Err(Reject::CallLifetime { iat, exp }) } else { Ok(()) }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const NOW: UnixTime = UnixTime(1_795_400_000);
    const CALL: Call<'static> = Call { audience: "attest.demo.test", method: "POST", path: "/admin/v1/sites?x=1", body: b"{}" };

    fn signer(byte: u8) -> AdminSigner {
        AdminSigner::from_random(&[byte; 48]).expect("a scalar")
    }

    fn signed() -> String {
        signer(1).sign(&CALL, "c-1", NOW, 60).expect("signs")
    }

    #[test]
    fn a_signed_call_passes_once_found() {
        let token = signed();
        assert_eq!(named_key(&token).expect("has one"), signer(1).public().id());
        let checked = check(&token, &signer(1).public(), &CALL, NOW).expect("passes");
        assert_eq!((checked.claims().call_id(), checked.claims().expires_at()), ("c-1", UnixTime(NOW.0 + 60)));
    }

    #[test]
    fn it_stands_for_this_call_only() {
        for call in [
            Call { method: "DELETE", ..CALL },
            Call { path: "/admin/v1/sites", ..CALL },
            Call { path: "/admin/v1/sites?x=2", ..CALL },
            Call { body: b"", ..CALL },
            Call { body: b"{} ", ..CALL },
        ] {
            assert!(matches!(check(&signed(), &signer(1).public(), &call, NOW), Err(Reject::OtherCall { .. })), "{call:?}");
        }
        let elsewhere = Call { audience: "other.test", ..CALL };
        assert!(matches!(check(&signed(), &signer(1).public(), &elsewhere, NOW), Err(Reject::Audience { .. })));
    }

    #[test]
    fn it_lives_at_most_five_minutes() {
        let sign = |lifetime| signer(1).sign(&CALL, "c-1", NOW, lifetime);
        assert!(sign(MAX_LIFETIME_SECONDS).is_ok());
        for lifetime in [0, MAX_LIFETIME_SECONDS + 1, u64::MAX] {
            assert!(matches!(sign(lifetime), Err(Reject::CallLifetime { .. })), "{lifetime}");
        }
        let at = |now| check(&signed(), &signer(1).public(), &CALL, UnixTime(now));
        assert!(at(NOW.0 + 59).is_ok());
        assert!(matches!(at(NOW.0 + 60), Err(Reject::Expired { .. })));
        assert!(matches!(at(NOW.0 - 31), Err(Reject::Future { .. })));
    }

    /// Signs any claims with the real key, as another program might.
    fn forge(alg: &str, typ: &str, claims: &serde_json::Value) -> String {
        let key = signer(1);
        let input = compact::signing_input(alg, typ, &key.public().id().to_string(), claims.to_string().as_bytes());
        let signature: Signature = key.0.sign(input.as_bytes());
        compact::finish(input, &signature.to_bytes())
    }

    #[test]
    fn the_service_checks_what_the_signer_promises() {
        let body: Hex<32> = Hex(Sha256::digest(CALL.body).into());
        let claims = |exp: u64| {
            serde_json::json!({ "v": 1, "aud": CALL.audience, "jti": "c-1", "iat": NOW.0, "exp": exp, "method": CALL.method,
                "path": CALL.path, "body_sha256": body })
        };
        let refused = |token: &str| check(token, &signer(1).public(), &CALL, NOW).expect_err("refused");
        assert!(check(&forge(ALG, TYP, &claims(NOW.0 + 60)), &signer(1).public(), &CALL, NOW).is_ok());
        assert!(matches!(refused(&forge(ALG, TYP, &claims(NOW.0 + 301))), Reject::CallLifetime { .. }));
        assert!(matches!(refused(&forge(ALG, TYP, &claims(NOW.0 - 1))), Reject::CallLifetime { .. }));
        assert!(matches!(refused(&forge("none", TYP, &claims(NOW.0 + 60))), Reject::Algorithm { .. }));
        assert!(matches!(refused(&forge("ES256", TYP, &claims(NOW.0 + 60))), Reject::Algorithm { .. }));
        assert!(matches!(refused(&forge(ALG, "coffer-job+jwt", &claims(NOW.0 + 60))), Reject::Typ { .. }));
        for (member, value) in [("v", serde_json::json!(2)), ("scope", serde_json::json!("all")), ("body_sha256", serde_json::json!(""))] {
            let mut changed = claims(NOW.0 + 60);
            changed[member] = value;
            assert!(matches!(refused(&forge(ALG, TYP, &changed)), Reject::Claims(_)), "{member}");
        }
    }

    #[test]
    fn another_admins_key_is_another_key() {
        assert!(matches!(check(&signed(), &signer(2).public(), &CALL, NOW), Err(Reject::UnknownKey { .. })));
        let (signed_part, _) = signed().rsplit_once('.').map(|(a, b)| (a.to_owned(), b.to_owned())).expect("three parts");
        let other = signer(2).sign(&CALL, "c-1", NOW, 60).expect("signs");
        let signature = other.rsplit_once('.').expect("three parts").1;
        assert!(matches!(check(&format!("{signed_part}.{signature}"), &signer(1).public(), &CALL, NOW), Err(Reject::Signature)));
        for token in ["", "a.b", "....", "e30.e30.e30"] {
            assert!(named_key(token).is_err(), "{token}");
        }
    }

    #[test]
    fn keys_travel_as_pem() {
        let key = signer(1);
        let pem = key.expose_pem().expect("encodes");
        assert!(pem.starts_with("-----BEGIN PRIVATE KEY-----"));
        assert_eq!(AdminSigner::from_pem(&pem).expect("parses").public(), key.public());
        let public = key.public().to_pem().expect("encodes");
        assert_eq!(AdminKey::from_pem(&public).expect("parses"), key.public());
        assert!(AdminKey::from_pem(&pem).is_err(), "a private key is not taken for a public one");
        assert!(AdminSigner::from_pem(&public).is_err());
        assert!(!format!("{key:?}").contains("0101"));
    }

    proptest! {
        #[test]
        fn never_panics(text in "[ -~]{0,200}") {
            let _ = named_key(&text);
            prop_assert!(check(&text, &signer(1).public(), &CALL, NOW).is_err());
        }
    }
}
