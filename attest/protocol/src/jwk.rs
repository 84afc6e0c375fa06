//! JSON Web Keys (RFC 7517, RFC 7518 section 6.2, RFC 8037) of the kinds the protocol carries.

use std::fmt;

use data_encoding::BASE64URL_NOPAD;
use p256::elliptic_curve::sec1::ToSec1Point as _;
use p256::{PublicKey, SecretKey};
use serde::{Deserialize, Deserializer, Serialize, Serializer};
use serde_json::{Map, Value, json};

use crate::jwe::ALG;

/// A key is not one this build works with.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum JwkError {
    /// `kty`, `crv` or `alg` name something else.
    #[error("key has {member} `{got}`, this build takes `{expected}`")]
    Unsupported {
        /// Which member.
        member: &'static str,
        /// What it says, shortened to 40 characters.
        got: String,
        /// The one accepted value.
        expected: &'static str,
    },
    /// A member is absent or not a string.
    #[error("key has no text member `{member}`")]
    Missing {
        /// Which member.
        member: &'static str,
    },
    /// A coordinate is not canonical base64url without padding, or has another length.
    #[error("key member `{member}` is not {bytes} bytes of unpadded base64url")]
    Coordinate {
        /// Which member.
        member: &'static str,
        /// How many bytes it must hold.
        bytes: usize,
    },
    /// The coordinates are not a point of the curve.
    #[error("key is not a point of {curve}")]
    NotOnCurve {
        /// The curve.
        curve: &'static str,
    },
    /// A private key was sent where a public one belongs.
    #[error("key carries a private member, such as `d`")]
    Private,
    /// An RSA number is not canonical base64url, is empty or too long, or begins with a zero byte.
    #[error("key member `{member}` is not an integer of at most {most} bytes of unpadded base64url without leading zeros")]
    Unsigned {
        /// Which member.
        member: &'static str,
        /// How many bytes it may hold.
        most: usize,
    },
    /// An RSA modulus of another size.
    #[error("RSA key has {bits} bits, this build takes 2048 to 4096")]
    RsaSize {
        /// Bits of the modulus.
        bits: u32,
    },
    /// The modulus is even, or the exponent is even, below 65537, or past 2^33.
    #[error("RSA key has an even modulus, or an exponent that is even, below 65537 or at least 2^33")]
    Rsa,
    /// A kind of key that the protocol calls experimental and no stock client of 0.4 has.
    #[error("key is of the experimental kind `AKP` (`{alg}`, such as ML-KEM), this build takes EC P-256, EC P-521 and RSA")]
    Experimental {
        /// Its `alg`, shortened to 40 characters.
        alg: String,
    },
    /// Random bytes that are zero or not below the group order; happens once in 2^32 draws.
    #[error("random bytes are no P-256 scalar\nhint: draw again")]
    Scalar,
}

/// The guest's key of one handshake, for ECDH only (`tee-pubkey` is its public half).
pub struct TeeKey(SecretKey);

impl TeeKey {
    /// Makes a key of 32 random bytes.
    ///
    /// # Errors
    /// [`JwkError::Scalar`] once in 2^32 draws: draw again.
    pub fn from_random(random: &[u8; 32]) -> Result<Self, JwkError> {
        SecretKey::from_slice(random).map(Self).map_err(|_| JwkError::Scalar)
    }

    /// The public half, as it goes into runtime-data.
    #[must_use]
    pub fn public(&self) -> TeePublicKey {
        TeePublicKey(self.0.public_key())
    }

    pub(crate) fn expose(&self) -> &SecretKey {
        &self.0
    }
}

impl fmt::Debug for TeeKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("TeeKey(<32 bytes redacted>)")
    }
}

/// `tee-pubkey`: an EC P-256 key for ECDH-ES+A256KW, checked to lie on the curve.
///
/// The service takes P-521 and RSA keys too: `ClientKey`, feature `service`.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct TeePublicKey(PublicKey);

impl TeePublicKey {
    /// Reads `{kty, crv, alg, x, y}`; other members are left alone, since clients add them and they are part of the hash.
    ///
    /// # Errors
    /// See [`JwkError`].
    pub fn from_jwk(jwk: &Value) -> Result<Self, JwkError> {
        expect(jwk, "kty", "EC")?;
        expect(jwk, "crv", "P-256")?;
        expect(jwk, "alg", ALG)?;
        if jwk.get("d").is_some() {
            return Err(JwkError::Private);
        }
        Self::from_coordinates(&coordinate(jwk, "x")?, &coordinate(jwk, "y")?)
    }

    pub(crate) fn from_coordinates(x: &[u8; 32], y: &[u8; 32]) -> Result<Self, JwkError> {
        let point = [&[4][..], x, y].concat();
        PublicKey::from_sec1_bytes(&point).map(Self).map_err(|_| JwkError::NotOnCurve { curve: "P-256" })
    }

    /// The two affine coordinates, big-endian.
    pub(crate) fn coordinates(&self) -> ([u8; 32], [u8; 32]) {
        let point = self.0.to_sec1_point(false);
        let (mut x, mut y) = ([0; 32], [0; 32]);
        // An uncompressed point of P-256 is 0x04, 32 bytes of x, 32 bytes of y (SEC 1, section 2.3.3).
        x.copy_from_slice(&point.as_bytes()[1..33]);
        y.copy_from_slice(&point.as_bytes()[33..65]);
        (x, y)
    }

    /// The JWK `{alg, crv, kty, x, y}`.
    #[must_use]
    pub fn to_jwk(&self) -> Value {
        let (x, y) = self.coordinates();
        json!({ "alg": ALG, "crv": "P-256", "kty": "EC", "x": BASE64URL_NOPAD.encode(&x), "y": BASE64URL_NOPAD.encode(&y) })
    }

    pub(crate) fn expose(&self) -> &PublicKey {
        &self.0
    }
}

/// An ECDSA P-384 public key born in the guest: `{kty: EC, crv: P-384, x, y}` and nothing else.
///
/// Holding one says that the coordinates have the right size, not that they lie on the curve: what matters is whether a TLS
/// peer can sign with it, and for a point off the curve nobody can.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct P384Key {
    x: [u8; 48],
    y: [u8; 48],
}

impl P384Key {
    /// Takes an uncompressed SEC 1 point: 0x04, then 48 bytes each of x and y, big-endian.
    ///
    /// # Errors
    /// [`JwkError::Coordinate`] for any other form.
    pub fn from_sec1(point: &[u8]) -> Result<Self, JwkError> {
        let refuse = JwkError::Coordinate { member: "x", bytes: 48 };
        let Some((4, rest)) = point.split_first() else { return Err(refuse) };
        let (x, y) = rest.split_at_checked(48).ok_or_else(|| refuse.clone())?;
        match (x.try_into(), y.try_into()) {
            (Ok(x), Ok(y)) => Ok(Self { x, y }),
            _ => Err(refuse),
        }
    }

    /// The uncompressed SEC 1 point, 97 bytes.
    #[must_use]
    pub fn to_sec1(&self) -> [u8; 97] {
        let mut point = [4; 97];
        point[1..49].copy_from_slice(&self.x);
        point[49..].copy_from_slice(&self.y);
        point
    }

    /// The two affine coordinates, big-endian.
    #[must_use]
    pub const fn coordinates(&self) -> (&[u8; 48], &[u8; 48]) {
        (&self.x, &self.y)
    }
}

impl Serialize for P384Key {
    fn serialize<S: Serializer>(&self, s: S) -> Result<S::Ok, S::Error> {
        json!({ "crv": "P-384", "kty": "EC", "x": BASE64URL_NOPAD.encode(&self.x), "y": BASE64URL_NOPAD.encode(&self.y) }).serialize(s)
    }
}

impl<'de> Deserialize<'de> for P384Key {
    fn deserialize<D: Deserializer<'de>>(d: D) -> Result<Self, D::Error> {
        let jwk = only(d, &["crv", "kty", "x", "y"])?;
        let read = || {
            expect(&jwk, "kty", "EC")?;
            expect(&jwk, "crv", "P-384")?;
            Ok(Self { x: coordinate(&jwk, "x")?, y: coordinate(&jwk, "y")? })
        };
        read().map_err(|error: JwkError| serde::de::Error::custom(error))
    }
}

/// A WireGuard public key born in the guest: `{kty: OKP, crv: X25519, x}` and nothing else.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct X25519Key([u8; 32]);

impl X25519Key {
    /// Wraps the 32 bytes of RFC 7748.
    #[must_use]
    pub const fn new(bytes: [u8; 32]) -> Self {
        Self(bytes)
    }

    /// The bytes themselves.
    #[must_use]
    pub const fn as_bytes(&self) -> &[u8; 32] {
        &self.0
    }
}

impl Serialize for X25519Key {
    fn serialize<S: Serializer>(&self, s: S) -> Result<S::Ok, S::Error> {
        json!({ "crv": "X25519", "kty": "OKP", "x": BASE64URL_NOPAD.encode(&self.0) }).serialize(s)
    }
}

impl<'de> Deserialize<'de> for X25519Key {
    fn deserialize<D: Deserializer<'de>>(d: D) -> Result<Self, D::Error> {
        let jwk = only(d, &["crv", "kty", "x"])?;
        let read = || {
            expect(&jwk, "kty", "OKP")?;
            expect(&jwk, "crv", "X25519")?;
            coordinate(&jwk, "x").map(Self)
        };
        read().map_err(|error: JwkError| serde::de::Error::custom(error))
    }
}

/// An object with no other members than `members`.
fn only<'de, D: Deserializer<'de>>(d: D, members: &[&str]) -> Result<Value, D::Error> {
    let object = Map::deserialize(d)?;
    match object.keys().find(|name| !members.contains(&name.as_str())) {
        Some(name) => Err(serde::de::Error::custom(format!("key has an unknown member `{name}`"))),
        None => Ok(object.into()),
    }
}

pub(crate) fn text<'a>(jwk: &'a Value, member: &'static str) -> Result<&'a str, JwkError> {
    jwk.get(member).and_then(Value::as_str).ok_or(JwkError::Missing { member })
}

pub(crate) fn expect(jwk: &Value, member: &'static str, expected: &'static str) -> Result<(), JwkError> {
    let got = text(jwk, member)?;
    if got == expected { Ok(()) } else { Err(JwkError::Unsupported { member, got: got.chars().take(40).collect(), expected }) }
}

pub(crate) fn coordinate<const N: usize>(jwk: &Value, member: &'static str) -> Result<[u8; N], JwkError> {
    decode_fixed(text(jwk, member)?).ok_or(JwkError::Coordinate { member, bytes: N })
}

/// Exactly `N` bytes of canonical, unpadded base64url.
pub(crate) fn decode_fixed<const N: usize>(text: &str) -> Option<[u8; N]> {
    BASE64URL_NOPAD.decode(text.as_bytes()).ok()?.try_into().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn points_and_jwks_are_read_back() {
        let point: Vec<u8> = [[4].as_slice(), &[1; 48], &[2; 48]].concat();
        let key = P384Key::from_sec1(&point).expect("right size");
        assert_eq!(key.coordinates(), (&[1; 48], &[2; 48]));
        assert_eq!(key.to_sec1().as_slice(), point);
        let again: P384Key = serde_json::from_value(serde_json::to_value(&key).expect("encodes")).expect("parses");
        assert_eq!(again, key);
    }

    #[test]
    fn refuses_other_point_forms() {
        for point in [&[][..], &[4], &[4; 96], &[4; 98], &[2; 97], &[0; 97]] {
            assert!(P384Key::from_sec1(point).is_err(), "{} bytes", point.len());
        }
    }

    #[test]
    fn our_own_keys_have_no_other_members() {
        let tls = |members: Value| serde_json::from_value::<P384Key>(members).map_err(|e| e.to_string());
        let c = "A".repeat(64);
        assert!(tls(json!({ "kty": "EC", "crv": "P-384", "x": c, "y": c })).is_ok());
        for (members, reason) in [
            (json!({ "kty": "EC", "crv": "P-384", "x": c, "y": c, "d": c }), "unknown member `d`"),
            (json!({ "kty": "EC", "crv": "P-384", "x": c, "y": c, "kid": "1" }), "unknown member `kid`"),
            (json!({ "kty": "EC", "crv": "P-256", "x": c, "y": c }), "crv `P-256`"),
            (json!({ "kty": "RSA", "crv": "P-384", "x": c, "y": c }), "kty `RSA`"),
            (json!({ "kty": "EC", "crv": "P-384", "x": c }), "no text member `y`"),
            (json!({ "kty": "EC", "crv": "P-384", "x": c, "y": 1 }), "no text member `y`"),
            (json!({ "kty": "EC", "crv": "P-384", "x": c, "y": &c[1..] }), "not 48 bytes"),
            (json!({ "kty": "EC", "crv": "P-384", "x": c, "y": c.clone() + "==" }), "not 48 bytes"),
            (json!("key"), "expected a map"),
        ] {
            let refused = tls(members.clone()).expect_err(&members.to_string());
            assert!(refused.contains(reason), "{members}: {refused}");
        }
        // 32 bytes leave two bits over in base64; they must be zero, or one key would have four spellings.
        let wg = |x: &str| serde_json::from_value::<X25519Key>(json!({ "kty": "OKP", "crv": "X25519", "x": x }));
        assert!(wg(&"A".repeat(43)).is_ok());
        assert!(wg(&("A".repeat(42) + "B")).is_err());
    }

    #[test]
    fn handshake_keys() {
        let public = TeeKey::from_random(&[7; 32]).expect("a scalar").public();
        let with = |member: &str, value: Value| {
            let mut jwk = public.to_jwk();
            jwk[member] = value;
            TeePublicKey::from_jwk(&jwk)
        };
        assert_eq!(with("kid", json!("stock clients may add members")), Ok(public.clone()));
        let unsupported = |member, got: &str, expected| Err(JwkError::Unsupported { member, got: got.into(), expected });
        assert_eq!(with("crv", json!("P-521")), unsupported("crv", "P-521", "P-256"));
        assert_eq!(with("kty", json!("RSA")), unsupported("kty", "RSA", "EC"));
        assert_eq!(with("kty", json!("AKP")), unsupported("kty", "AKP", "EC"));
        assert_eq!(with("alg", json!("ECDH-ES")), unsupported("alg", "ECDH-ES", ALG));
        assert_eq!(with("alg", Value::Null), Err(JwkError::Missing { member: "alg" }));
        assert_eq!(with("d", json!("AA")), Err(JwkError::Private));
        assert_eq!(with("x", json!("AA")), Err(JwkError::Coordinate { member: "x", bytes: 32 }));
        assert_eq!(with("x", json!("A".repeat(43))), Err(JwkError::NotOnCurve { curve: "P-256" }));
        assert_eq!(TeePublicKey::from_jwk(&json!([])), Err(JwkError::Missing { member: "kty" }));
        assert_eq!(TeeKey::from_random(&[0; 32]).map(|_| ()), Err(JwkError::Scalar));
    }
}
