//! `tee-pubkey` as the service takes it: every kind of key a stock client of protocol 0.4 can have.

use std::fmt;

use data_encoding::BASE64URL_NOPAD;
use p521::elliptic_curve::sec1::ToSec1Point as _;
use rsa::traits::PublicKeyParts as _;
use rsa::{BoxedUint, RsaPublicKey};
use serde_json::{Value, json};

use crate::jwe::ALG;
use crate::jwk::{JwkError, TeePublicKey, coordinate, expect, text};

/// The one algorithm for RSA keys (RFC 7518, section 4.3). `RSA1_5` falls to Bleichenbacher's attack and is refused.
pub(crate) const RSA_ALG: &str = "RSA-OAEP-256";

/// Bits a modulus has at least: NIST SP 800-131A.
const MIN_RSA_BITS: u32 = 2048;
/// Bits a modulus has at most. Stock clients make 2048; more than this would only cost time.
const MAX_RSA_BITS: u32 = 4096;
/// The least public exponent: FIPS 186-5, section A.1.1. The largest, 2^33 - 1, is the `rsa` crate's.
const MIN_RSA_EXPONENT: u64 = 65_537;
/// Bytes of a public exponent below 2^33.
const MAX_RSA_EXPONENT_BYTES: usize = 5;

/// The public key of a client, to which its resources are sealed.
#[derive(Clone, PartialEq, Eq)]
pub enum ClientKey {
    /// `EC`, `P-256`, `ECDH-ES+A256KW`: stock clients' default, and the one kind our guest has.
    P256(TeePublicKey),
    /// `EC`, `P-521`, `ECDH-ES+A256KW`.
    P521(P521PublicKey),
    /// `RSA`, 2048 to 4096 bits, `RSA-OAEP-256`.
    Rsa(RsaKey),
}

/// A P-521 key, checked to lie on the curve.
#[derive(Clone, PartialEq, Eq)]
pub struct P521PublicKey(p521::PublicKey);

/// An RSA key of 2048 to 4096 bits with an odd modulus and exponent.
#[derive(Clone, PartialEq, Eq)]
pub struct RsaKey(RsaPublicKey);

impl ClientKey {
    /// Reads a JWK; members other than its own are left alone, since clients add them and they are part of the hash.
    ///
    /// # Errors
    /// See [`JwkError`]. Total: any value gives a key or an error.
    pub fn from_jwk(jwk: &Value) -> Result<Self, JwkError> {
        if ["d", "p", "q", "dp", "dq", "qi", "priv"].iter().any(|member| jwk.get(member).is_some()) {
            return Err(JwkError::Private);
        }
        match (text(jwk, "kty")?, jwk.get("crv").and_then(Value::as_str)) {
            ("EC", Some("P-521")) => P521PublicKey::from_jwk(jwk).map(Self::P521),
            ("RSA", _) => RsaKey::from_jwk(jwk).map(Self::Rsa),
            ("AKP", _) => {
                Err(JwkError::Experimental { alg: jwk.get("alg").and_then(Value::as_str).unwrap_or("").chars().take(40).collect() })
            }
            // Its error names the one member that is wrong for the commonest kind.
            _ => TeePublicKey::from_jwk(jwk).map(Self::P256),
        }
    }

    /// The JWK: its own members, in alphabetical order.
    #[must_use]
    pub fn to_jwk(&self) -> Value {
        match self {
            Self::P256(key) => key.to_jwk(),
            Self::P521(key) => {
                let (x, y) = key.coordinates();
                json!({ "alg": ALG, "crv": "P-521", "kty": "EC", "x": BASE64URL_NOPAD.encode(&x), "y": BASE64URL_NOPAD.encode(&y) })
            }
            Self::Rsa(RsaKey(key)) => {
                let (n, e) = (BASE64URL_NOPAD.encode(&key.n_bytes()), BASE64URL_NOPAD.encode(&key.e_bytes()));
                json!({ "alg": RSA_ALG, "e": e, "kty": "RSA", "n": n })
            }
        }
    }
}

impl From<TeePublicKey> for ClientKey {
    fn from(key: TeePublicKey) -> Self {
        Self::P256(key)
    }
}

impl fmt::Debug for ClientKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "ClientKey({})", self.to_jwk())
    }
}

impl P521PublicKey {
    fn from_jwk(jwk: &Value) -> Result<Self, JwkError> {
        expect(jwk, "alg", ALG)?;
        let (x, y): ([u8; 66], [u8; 66]) = (coordinate(jwk, "x")?, coordinate(jwk, "y")?);
        let point = [&[4][..], &x, &y].concat();
        p521::PublicKey::from_sec1_bytes(&point).map(Self).map_err(|_| JwkError::NotOnCurve { curve: "P-521" })
    }

    pub(crate) const fn new(key: p521::PublicKey) -> Self {
        Self(key)
    }

    pub(crate) const fn expose(&self) -> &p521::PublicKey {
        &self.0
    }

    /// The two affine coordinates, big-endian, always 66 bytes.
    pub(crate) fn coordinates(&self) -> ([u8; 66], [u8; 66]) {
        let point = self.0.to_sec1_point(false);
        let (mut x, mut y) = ([0; 66], [0; 66]);
        // An uncompressed point of P-521 is 0x04, 66 bytes of x, 66 bytes of y (SEC 1, section 2.3.3).
        x.copy_from_slice(&point.as_bytes()[1..67]);
        y.copy_from_slice(&point.as_bytes()[67..133]);
        (x, y)
    }
}

impl RsaKey {
    fn from_jwk(jwk: &Value) -> Result<Self, JwkError> {
        expect(jwk, "alg", RSA_ALG)?;
        let n = unsigned(jwk, "n", MAX_RSA_BITS.div_ceil(8) as usize)?;
        let e = unsigned(jwk, "e", MAX_RSA_EXPONENT_BYTES)?;
        let n = BoxedUint::from_be_slice_vartime(&n);
        let bits = n.bits_vartime();
        if !(MIN_RSA_BITS..=MAX_RSA_BITS).contains(&bits) {
            return Err(JwkError::RsaSize { bits });
        }
        let e = e.iter().fold(0_u64, |e, byte| e << 8 | u64::from(*byte));
        if e < MIN_RSA_EXPONENT {
            return Err(JwkError::Rsa);
        }
        let limits = MIN_RSA_BITS as usize..=MAX_RSA_BITS as usize;
        RsaPublicKey::new_with_size_limits(n, BoxedUint::from(e), limits).map(Self).map_err(|_| JwkError::Rsa)
    }

    pub(crate) const fn expose(&self) -> &RsaPublicKey {
        &self.0
    }
}

/// A `Base64urlUInt` (RFC 7518, section 2) of at most `most` bytes: canonical, at least one byte, the first not zero.
fn unsigned(jwk: &Value, member: &'static str, most: usize) -> Result<Vec<u8>, JwkError> {
    let refuse = JwkError::Unsigned { member, most };
    let bytes = BASE64URL_NOPAD.decode(text(jwk, member)?.as_bytes()).map_err(|_| refuse.clone())?;
    if bytes.len() <= most && bytes.first().is_some_and(|first| *first != 0) { Ok(bytes) } else { Err(refuse) }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::jwk::TeeKey;

    /// 256 bytes: odd, 2048 bits. What it is a product of matters to its owner only.
    fn rsa(bits: u32) -> Value {
        let mut n = vec![0xC3; bits.div_ceil(8) as usize];
        n[0] = 0xFF >> ((8 - bits % 8) % 8);
        json!({ "alg": RSA_ALG, "e": "AQAB", "kty": "RSA", "n": BASE64URL_NOPAD.encode(&n) })
    }

    fn with(mut jwk: Value, member: &str, value: Value) -> Result<ClientKey, JwkError> {
        jwk[member] = value;
        ClientKey::from_jwk(&jwk)
    }

    #[test]
    fn each_kind_is_read_back() {
        let p256 = TeeKey::from_random(&[7; 32]).expect("a scalar").public();
        let p521 = p521::SecretKey::from_slice(&[&[0; 2][..], &[7; 64]].concat()).expect("a scalar").public_key();
        for key in [
            ClientKey::from(p256),
            ClientKey::P521(P521PublicKey::new(p521)),
            ClientKey::from_jwk(&rsa(2048)).expect("a key"),
            ClientKey::from_jwk(&rsa(4096)).expect("a key"),
            ClientKey::from_jwk(&rsa(3071)).expect("a key"),
        ] {
            let mut jwk = key.to_jwk();
            assert_eq!(ClientKey::from_jwk(&jwk).as_ref(), Ok(&key));
            jwk["kid"] = "stock clients may add members".into();
            assert_eq!(ClientKey::from_jwk(&jwk), Ok(key));
        }
        assert_eq!(ClientKey::from_jwk(&rsa(2048)).expect("a key").to_jwk(), rsa(2048));
    }

    #[test]
    fn rsa_keys_that_are_weak_or_absurd_are_refused() {
        let unsupported = |got: &str| JwkError::Unsupported { member: "alg", got: got.into(), expected: RSA_ALG };
        for alg in ["RSA1_5", "RSA-OAEP", "RSA-OAEP-512", "ECDH-ES+A256KW"] {
            assert_eq!(with(rsa(2048), "alg", json!(alg)), Err(unsupported(alg)), "{alg}");
        }
        for bits in [1024, 2040, 2047] {
            assert_eq!(ClientKey::from_jwk(&rsa(bits)), Err(JwkError::RsaSize { bits }));
        }
        let unsigned = |member, most| Err(JwkError::Unsigned { member, most });
        assert_eq!(ClientKey::from_jwk(&rsa(4104)), unsigned("n", 512));
        let n = rsa(2048)["n"].as_str().expect("text").to_owned();
        for n in ["", &format!("AAAA{n}"), &format!("{n}="), &format!("{}!", &n[1..]), "AA"] {
            assert_eq!(with(rsa(2048), "n", json!(n)), unsigned("n", 512), "{n}");
        }
        let even = BASE64URL_NOPAD.encode(&[&[0xFF; 255][..], &[0xFE]].concat());
        assert_eq!(with(rsa(2048), "n", json!(even)), Err(JwkError::Rsa));
        // 1, 3, 65536, 65535, 2^33 + 1.
        for e in ["AQ", "Aw", "AQAA", "__8", "AgAAAAE"] {
            assert_eq!(with(rsa(2048), "e", json!(e)), Err(JwkError::Rsa), "{e}");
        }
        for e in ["", "AAEAAQ", "AQAB=", "AQAAAAAB"] {
            assert_eq!(with(rsa(2048), "e", json!(e)), unsigned("e", 5), "{e}");
        }
        assert!(with(rsa(2048), "e", json!("AQAAAAE")).is_ok(), "2^32 + 1");
        assert_eq!(with(rsa(2048), "n", Value::Null), Err(JwkError::Missing { member: "n" }));
        for private in ["d", "p", "q", "dp", "dq", "qi"] {
            assert_eq!(with(rsa(2048), private, json!("AA")), Err(JwkError::Private), "{private}");
        }
    }

    #[test]
    fn p521_keys_off_the_curve_or_of_other_widths_are_refused() {
        let p521 = p521::SecretKey::from_slice(&[&[0; 2][..], &[7; 64]].concat()).expect("a scalar").public_key();
        let jwk = ClientKey::P521(P521PublicKey::new(p521)).to_jwk();
        let width = Err(JwkError::Coordinate { member: "x", bytes: 66 });
        // 65 bytes: a client that dropped the leading zero byte; 67: one that added one.
        for bytes in [0, 32, 65, 67] {
            assert_eq!(with(jwk.clone(), "x", json!(BASE64URL_NOPAD.encode(&vec![1; bytes]))), width, "{bytes}");
        }
        for x in [[0; 66], [1; 66], [0xFF; 66]] {
            let refused = with(jwk.clone(), "x", json!(BASE64URL_NOPAD.encode(&x)));
            assert_eq!(refused, Err(JwkError::NotOnCurve { curve: "P-521" }));
        }
        assert_eq!(
            with(jwk.clone(), "alg", json!("ECDH-ES")),
            Err(JwkError::Unsupported { member: "alg", got: "ECDH-ES".into(), expected: ALG })
        );
        assert_eq!(with(jwk.clone(), "d", json!("AA")), Err(JwkError::Private));
        assert!(with(jwk.clone(), "crv", json!("P-256")).is_err() && with(jwk, "crv", json!("P-384")).is_err());
    }

    #[test]
    fn other_kinds_are_refused_by_name() {
        let kind = |value: Value| ClientKey::from_jwk(&value).expect_err("refused").to_string();
        let post_quantum = kind(json!({ "kty": "AKP", "alg": "ML-KEM-768+A192KW", "pub": "AA" }));
        assert!(post_quantum.contains("experimental kind `AKP` (`ML-KEM-768+A192KW`"), "{post_quantum}");
        assert!(kind(json!({ "kty": "oct", "k": "AA" })).contains("kty `oct`"));
        assert!(kind(json!({ "kty": "OKP", "crv": "X25519", "x": "AA" })).contains("kty `OKP`"));
        assert!(kind(json!({ "kty": "EC", "crv": "P-384" })).contains("crv `P-384`"));
        assert!(kind(json!({ "kty": "EC" })).contains("no text member `crv`"));
        assert_eq!(ClientKey::from_jwk(&json!([])), Err(JwkError::Missing { member: "kty" }));
    }

    proptest! {
        #[test]
        fn reading_never_panics(kty in "EC|RSA|AKP|[A-Z]{0,3}", crv in "P-(256|521|384)", alg in ".{0,16}", a in "[A-Za-z0-9_-]{0,700}", b in "[A-Za-z0-9_-]{0,90}") {
            for alg in [alg.as_str(), ALG, RSA_ALG] {
                let _ = ClientKey::from_jwk(&json!({ "kty": kty, "crv": crv, "alg": alg, "x": a, "y": b, "n": a, "e": b }));
            }
        }
    }
}
