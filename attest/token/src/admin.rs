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
    let id = key.id().to_string();
    let verifies = |_: &str, signed: &[u8], signature: &[u8]| {
        Signature::from_slice(signature).is_ok_and(|signature| key.0.verify(signed, &signature).is_ok())
    };
    let payload = verified_payload(token, ALG, TYP, |kid| kid == id, verifies)?;
    let claims: CallClaims = serde_json::from_slice(&payload).map_err(Reject::Claims)?;
    check_lifetime(claims.iat, claims.exp)?;
    same(&claims.aud, call.audience, |got, expected| Reject::Audience { got, expected })?;
    check_time(UnixTime(claims.iat), UnixTime(claims.exp), now)?;
    let body = Hex::<32>(Sha256::digest(call.body).into());
    if claims.method != call.method || claims.path != call.path || claims.body_sha256 != body {
        return Err(Reject::OtherCall {
            signed: format!("{} {} {}", claims.method, claims.path, claims.body_sha256),
            got: format!("{} {} {body}", call.method, call.path),
        });
    }
    Ok(Checked::new(claims))
}

fn check_lifetime(iat: u64, exp: u64) -> Result<(), Reject> {
    let lifetime = exp.checked_sub(iat).unwrap_or(0);
    if lifetime == 0 || lifetime > MAX_LIFETIME_SECONDS { Err(Reject::CallLifetime { iat, exp }) } else { Ok(()) }
}
