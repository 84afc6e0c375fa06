//! The token key, the public set that checks it, and key thumbprints.

use std::fmt;
use std::str::FromStr;

use data_encoding::BASE64URL_NOPAD;
use p256::ecdsa::signature::{Signer as _, Verifier as _};
use p256::ecdsa::{Signature, SigningKey, VerifyingKey};
use ring::rand::SystemRandom;
use ring::signature::{ECDSA_P256_SHA256_FIXED_SIGNING, EcdsaKeyPair};
use serde::{Deserialize, Deserializer, Serialize, Serializer};
use sha2::{Digest as _, Sha256};
use zeroize::Zeroizing;

use crate::claims::{Claims, Typ};
use crate::compact;

/// The signature algorithm of tokens. As the stock service's; a P-384 signature would cost as much as the appraisal.
pub(crate) const ALG: &str = "ES256";

/// The most keys a set may have: the current one, the next, and a few that still cover unexpired tokens.
const MAX_KEYS: usize = 16;

/// The longest JWKS document read, in bytes.
const MAX_JWKS_BYTES: usize = 16 * 1024;

/// Everything before the point in the SubjectPublicKeyInfo of an uncompressed P-384 key (RFC 5480, section 2): SEQUENCE (118 bytes),
/// algorithm SEQUENCE (16), id-ecPublicKey, secp384r1, BIT STRING (98 bytes, none unused).
const P384_SPKI: [u8; 23] = [
    0x30, 0x76, 0x30, 0x10, 0x06, 0x07, 0x2a, 0x86, 0x48, 0xce, 0x3d, 0x02, 0x01, 0x06, 0x05, 0x2b, 0x81, 0x04, 0x00, 0x22, 0x03, 0x62,
    0x00,
];

/// A key or a key set is refused.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum KeyError {
    /// Random or stored bytes that are no scalar of the curve; for random bytes, once in 2^32 draws.
    #[error("bytes are no private key of {curve}\nhint: if they were just drawn, draw again")]
    Scalar {
        /// The curve.
        curve: &'static str,
    },
    /// A key set that is too long.
    #[error("key set is {got} bytes long, at most {MAX_JWKS_BYTES} are read")]
    TooLong {
        /// Its size in bytes.
        got: usize,
    },
    /// A key set that is not `{"keys": [{kty, crv, x, y, kid, alg?, use?}]}`; a private member `d` is an unknown one.
    #[error("key set does not parse: {0}")]
    Parse(#[source] serde_json::Error),
    /// No key, or too many.
    #[error("key set has {got} keys, expected 1 to {MAX_KEYS}")]
    Count {
        /// How many.
        got: usize,
    },
    /// A key of another kind, or off the curve.
    #[error("key `{kid}` is not an EC P-256 public key for ES256 signatures")]
    Unsupported {
        /// Its id.
        kid: String,
    },
    /// Two keys with one id.
    #[error("key id `{kid}` is repeated in the set")]
    Repeated {
        /// The id.
        kid: String,
    },
    /// A PEM text that is not a key of the expected kind.
    #[error("not a {expected} in PEM form")]
    Pem {
        /// What was expected.
        expected: &'static str,
    },
}

/// RFC 7638 thumbprint of a public key, the value of `cnf.jkt`: 32 bytes, as text unpadded base64url.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct Jkt([u8; Self::LEN]);

impl Jkt {
    /// Length in bytes.
    pub const LEN: usize = 32;

    /// Wraps a thumbprint computed elsewhere.
    #[must_use]
    pub const fn new(bytes: [u8; Self::LEN]) -> Self {
        Self(bytes)
    }

    /// The bytes themselves.
    #[must_use]
    pub const fn as_bytes(&self) -> &[u8; Self::LEN] {
        &self.0
    }

    /// Thumbprint of an EC key given by its curve's name and uncompressed SEC 1 point (0x04, x, y), such as a TLS peer's.
    /// `None` if the point is not of that form.
    #[must_use]
    pub fn of_ec_point(curve: &str, point: &[u8]) -> Option<Self> {
        let (tag, coordinates) = point.split_first()?;
        if *tag != 4 || coordinates.is_empty() || coordinates.len() % 2 != 0 {
            return None;
        }
        let (x, y) = coordinates.split_at(coordinates.len() / 2);
        Some(Self::of_ec(curve, x, y))
    }

    /// Thumbprint of a P-384 key given as DER SubjectPublicKeyInfo (RFC 5280, section 4.1) with an uncompressed point, as a raw public
    /// key (RFC 7250) or a certificate has it; `None` for any other kind of key or form.
    #[must_use]
    pub fn of_p384_spki(spki: &[u8]) -> Option<Self> {
        let point: &[u8; 97] = spki.strip_prefix(&P384_SPKI)?.try_into().ok()?;
        Self::of_ec_point("P-384", point)
    }

    /// Thumbprint of an EC key given by its curve's name and its two coordinates, big-endian, as long as the curve's field each.
    #[must_use]
    pub fn of_ec(curve: &str, x: &[u8], y: &[u8]) -> Self {
        let (x, y) = (BASE64URL_NOPAD.encode(x), BASE64URL_NOPAD.encode(y));
        let required = format!(r#"{{"crv":"{curve}","kty":"EC","x":"{x}","y":"{y}"}}"#);
        Self(Sha256::digest(required.as_bytes()).into())
    }
}

impl fmt::Display for Jkt {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&BASE64URL_NOPAD.encode(&self.0))
    }
}

impl fmt::Debug for Jkt {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Jkt({self})")
    }
}

/// Text is not a thumbprint.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("`{got}` is not a key thumbprint: 32 bytes of unpadded base64url")]
pub struct JktError {
    got: String,
}

impl FromStr for Jkt {
    type Err = JktError;

    fn from_str(text: &str) -> Result<Self, JktError> {
        let bytes = BASE64URL_NOPAD.decode(text.as_bytes()).ok().and_then(|bytes| bytes.try_into().ok());
        bytes.map(Self).ok_or_else(|| JktError { got: text.chars().take(80).collect() })
    }
}

impl Serialize for Jkt {
    fn serialize<S: Serializer>(&self, s: S) -> Result<S::Ok, S::Error> {
        s.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Jkt {
    fn deserialize<D: Deserializer<'de>>(d: D) -> Result<Self, D::Error> {
        String::deserialize(d)?.parse().map_err(serde::de::Error::custom)
    }
}

/// The service's token key: EC P-256. Zeroized on drop, except the copy that ring signs with: its type cannot be.
pub struct Signer {
    key: SigningKey,
    /// Signs in 17 µs where `p256` takes 158 (measured, x86-64), and every handshake ends with a token.
    fast: EcdsaKeyPair,
    kid: String,
}

impl Signer {
    /// Takes the 32 bytes of a private key: random ones to make a key, stored ones to load it.
    ///
    /// # Errors
    /// [`KeyError::Scalar`]; for random bytes once in 2^32 draws.
    pub fn from_bytes(bytes: &[u8; 32]) -> Result<Self, KeyError> {
        let key = SigningKey::from_slice(bytes).map_err(|_| KeyError::Scalar { curve: "P-256" })?;
        let (x, y) = point(key.verifying_key());
        let kid = Jkt::of_ec("P-256", &x, &y).to_string();
        let public = [&[4], x.as_slice(), &y].concat();
        let fast = EcdsaKeyPair::from_private_key_and_public_key(&ECDSA_P256_SHA256_FIXED_SIGNING, bytes, &public, &SystemRandom::new())
            .map_err(|_| KeyError::Scalar { curve: "P-256" })?;
        Ok(Self { key, fast, kid })
    }

    /// The private key's 32 bytes, for storing under a key encryption key.
    #[must_use]
    pub fn expose(&self) -> Zeroizing<[u8; 32]> {
        Zeroizing::new(self.key.to_bytes().into())
    }

    /// The key's id: its RFC 7638 thumbprint.
    #[must_use]
    pub fn kid(&self) -> &str {
        &self.kid
    }

    /// The public set with this one key, as served at the JWKS endpoint.
    #[must_use]
    pub fn jwks(&self) -> Jwks {
        Jwks { keys: vec![(self.kid.clone(), *self.key.verifying_key())] }
    }

    /// Signs claims as a token of type `typ`.
    ///
    /// # Errors
    /// [`SignError`] for claims that [`crate::check`] would refuse whatever it expects: nobody is to get an unusable token.
    pub fn sign(&self, typ: Typ, claims: &Claims) -> Result<String, SignError> {
        claims.check_form(typ)?;
        let payload = serde_json::to_vec(claims).map_err(SignError::Encode)?;
        let input = compact::signing_input(ALG, typ.name(), &self.kid, &payload);
        let signature = self.sign_bytes(input.as_bytes());
        Ok(compact::finish(input, &signature))
    }

    /// ES256: r then s, 32 bytes each.
    pub(crate) fn sign_bytes(&self, bytes: &[u8]) -> [u8; 64] {
        let signed = self.fast.sign(&SystemRandom::new(), bytes).ok();
        signed.and_then(|signature| signature.as_ref().try_into().ok()).unwrap_or_else(|| {
            // No random bytes from the operating system: the deterministic form (RFC 6979) needs none.
            let signature: Signature = self.key.sign(bytes);
            signature.to_bytes().into()
        })
    }
}

impl fmt::Debug for Signer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Signer(kid {}, private key redacted)", self.kid)
    }
}

/// Claims that may not be signed.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum SignError {
    /// They break a rule that does not depend on who checks.
    #[error(transparent)]
    Form(#[from] crate::claims::FormError),
    /// They cannot be written as JSON.
    #[error("claims cannot be encoded: {0}")]
    Encode(#[source] serde_json::Error),
}

/// The public keys a relying party takes tokens from, by `kid`.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Jwks {
    keys: Vec<(String, VerifyingKey)>,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct RawJwks {
    keys: Vec<RawJwk>,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct RawJwk {
    kty: String,
    crv: String,
    x: String,
    y: String,
    kid: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    alg: Option<String>,
    #[serde(rename = "use", default, skip_serializing_if = "Option::is_none")]
    usage: Option<String>,
}

impl Jwks {
    /// Parses `{"keys": [...]}` of EC P-256 public keys, each with a `kid`.
    ///
    /// # Errors
    /// See [`KeyError`]. Total: any bytes give a set or an error.
    pub fn parse(bytes: &[u8]) -> Result<Self, KeyError> {
        if bytes.len() > MAX_JWKS_BYTES {
            return Err(KeyError::TooLong { got: bytes.len() });
        }
        let raw: RawJwks = serde_json::from_slice(bytes).map_err(KeyError::Parse)?;
        if raw.keys.is_empty() || raw.keys.len() > MAX_KEYS {
            return Err(KeyError::Count { got: raw.keys.len() });
        }
        let mut keys: Vec<(String, VerifyingKey)> = Vec::with_capacity(raw.keys.len());
        for jwk in raw.keys {
            let key = read_jwk(&jwk).ok_or_else(|| KeyError::Unsupported { kid: jwk.kid.clone() })?;
            if keys.iter().any(|(kid, _)| *kid == jwk.kid) {
                return Err(KeyError::Repeated { kid: jwk.kid });
            }
            keys.push((jwk.kid, key));
        }
        Ok(Self { keys })
    }

    /// The document [`Self::parse`] reads.
    ///
    /// # Errors
    /// [`KeyError::Parse`] never in practice: the members are strings.
    pub fn to_bytes(&self) -> Result<Vec<u8>, KeyError> {
        let keys = self.keys.iter().map(|(kid, key)| write_jwk(kid, key)).collect();
        serde_json::to_vec(&RawJwks { keys }).map_err(KeyError::Parse)
    }

    /// One set of the keys of several; a key that is in more than one of them counts once.
    ///
    /// # Errors
    /// [`KeyError::Count`] for none or too many.
    pub fn union<'a>(sets: impl IntoIterator<Item = &'a Self>) -> Result<Self, KeyError> {
        let mut keys: Vec<(String, VerifyingKey)> = Vec::new();
        for (kid, key) in sets.into_iter().flat_map(|set| &set.keys) {
            if !keys.iter().any(|(known, _)| known == kid) {
                keys.push((kid.clone(), *key));
            }
        }
        if (1..=MAX_KEYS).contains(&keys.len()) { Ok(Self { keys }) } else { Err(KeyError::Count { got: keys.len() }) }
    }

    pub(crate) fn has(&self, kid: &str) -> bool {
        self.keys.iter().any(|(id, _)| id == kid)
    }

    /// Whether `signature` (r then s, 64 bytes) over `signed` is by the key called `kid`.
    pub(crate) fn verifies(&self, kid: &str, signed: &[u8], signature: &[u8]) -> bool {
        let Some((_, key)) = self.keys.iter().find(|(id, _)| id == kid) else { return false };
        Signature::from_slice(signature).is_ok_and(|signature| key.verify(signed, &signature).is_ok())
    }
}

fn point(key: &VerifyingKey) -> ([u8; 32], [u8; 32]) {
    let point = key.to_sec1_point(false);
    let (mut x, mut y) = ([0; 32], [0; 32]);
    // An uncompressed point of P-256 is 0x04, 32 bytes of x, 32 bytes of y (SEC 1, section 2.3.3).
    x.copy_from_slice(&point.as_bytes()[1..33]);
    y.copy_from_slice(&point.as_bytes()[33..65]);
    (x, y)
}

fn write_jwk(kid: &str, key: &VerifyingKey) -> RawJwk {
    let (x, y) = point(key);
    RawJwk {
        kty: "EC".into(),
        crv: "P-256".into(),
        x: BASE64URL_NOPAD.encode(&x),
        y: BASE64URL_NOPAD.encode(&y),
        kid: kid.to_owned(),
        alg: Some(ALG.into()),
        usage: Some("sig".into()),
    }
}

fn read_jwk(jwk: &RawJwk) -> Option<VerifyingKey> {
    let kind = jwk.kty == "EC" && jwk.crv == "P-256";
    let purpose = jwk.alg.as_deref().is_none_or(|alg| alg == ALG) && jwk.usage.as_deref().is_none_or(|usage| usage == "sig");
    if !kind || !purpose || jwk.kid.is_empty() {
        return None;
    }
    let coordinate = |text: &str| BASE64URL_NOPAD.decode(text.as_bytes()).ok().and_then(|bytes| <[u8; 32]>::try_from(bytes).ok());
    let point = [&[4][..], &coordinate(&jwk.x)?, &coordinate(&jwk.y)?].concat();
    VerifyingKey::from_sec1_bytes(&point).ok()
}

#[cfg(test)]
mod tests {
    use data_encoding::HEXLOWER;
    use proptest::prelude::*;
    use serde_json::{Value, json};

    use super::*;

    fn signer(byte: u8) -> Signer {
        Signer::from_bytes(&[byte; 32]).expect("a scalar")
    }

    fn document(signers: &[Signer]) -> Value {
        let keys: Vec<Value> = signers
            .iter()
            .map(|signer| serde_json::from_slice::<Value>(&signer.jwks().to_bytes().expect("encodes")).expect("JSON")["keys"][0].clone())
            .collect();
        json!({ "keys": keys })
    }

    #[test]
    fn sets_round_trip() {
        let set = document(&[signer(1), signer(2)]);
        let parsed = Jwks::parse(set.to_string().as_bytes()).expect("parses");
        assert!(parsed.has(signer(1).kid()) && parsed.has(signer(2).kid()) && !parsed.has(signer(3).kid()));
        assert_eq!(serde_json::from_slice::<Value>(&parsed.to_bytes().expect("encodes")).expect("JSON"), set);
    }

    #[test]
    fn sets_join_without_repetition() {
        let (one, two) = (signer(1).jwks(), signer(2).jwks());
        let both = Jwks::union([&one, &two, &one]).expect("two keys");
        assert_eq!(both, Jwks::parse(document(&[signer(1), signer(2)]).to_string().as_bytes()).expect("parses"));
        assert!(matches!(Jwks::union([]), Err(KeyError::Count { got: 0 })));
        let many: Vec<Jwks> = (1..=17).map(|n| signer(n).jwks()).collect();
        assert!(matches!(Jwks::union(&many), Err(KeyError::Count { got: 17 })));
    }

    #[test]
    fn key_id_is_the_thumbprint() {
        let set = document(&[signer(1)]);
        let decode = |member: &str| BASE64URL_NOPAD.decode(set["keys"][0][member].as_str().expect("text").as_bytes()).expect("base64url");
        let point = [vec![4], decode("x"), decode("y")].concat();
        assert_eq!(Jkt::of_ec_point("P-256", &point).expect("a point").to_string(), signer(1).kid());
    }

    #[test]
    fn thumbprint_of_a_p384_point() {
        // SHA-256 of {"crv":"P-384","kty":"EC","x":"AQEB…","y":"AgIC…"}, computed with Python's hashlib.
        let point = [[4].as_slice(), &[1; 48], &[2; 48]].concat();
        let jkt = Jkt::of_ec_point("P-384", &point).expect("a point");
        assert_eq!(jkt.to_string(), "6_Wj_nmVPFYtU8uKQPXN66l7Gk9DxRK8aI5GObxJPz0");
        assert_eq!(jkt.to_string().parse(), Ok(jkt));
        for (form, point) in [("empty", &[][..]), ("tag alone", &[4]), ("compressed", &[2; 97]), ("odd", &[4; 98])] {
            assert_eq!(Jkt::of_ec_point("P-384", point), None, "{form}");
        }
        for text in ["", "AA", "6_Wj_nmVPFYtU8uKQPXN66l7Gk9DxRK8aI5GObxJPz0=", "6_Wj_nmVPFYtU8uKQPXN66l7Gk9DxRK8aI5GObxJPz1"] {
            assert!(text.parse::<Jkt>().is_err(), "{text}");
        }
    }

    #[test]
    fn thumbprint_of_a_p384_key_in_der() {
        let point = [[4].as_slice(), &[1; 48], &[2; 48]].concat();
        // As `openssl ec -pubout -outform DER` writes a P-384 key.
        let head = HEXLOWER.decode(b"3076301006072a8648ce3d020106052b81040022036200").expect("hexadecimal");
        let spki = [head.as_slice(), &point].concat();
        assert_eq!(Jkt::of_p384_spki(&spki), Jkt::of_ec_point("P-384", &point));
        assert!(Jkt::of_p384_spki(&spki).is_some());
        for other in [&[][..], &point, &spki[..spki.len() - 1], &[spki.as_slice(), &[0]].concat(), &spki[1..]] {
            assert_eq!(Jkt::of_p384_spki(other), None, "{} bytes", other.len());
        }
    }

    #[test]
    fn refuses_other_sets() {
        let parse = |value: &Value| Jwks::parse(value.to_string().as_bytes()).map_err(|error| error.to_string());
        let set = |member: &str, value: Value| {
            let mut set = document(&[signer(1)]);
            set["keys"][0][member] = value;
            set
        };
        for (value, reason) in [
            (json!({}), "missing field `keys`"),
            (json!({ "keys": [] }), "has 0 keys"),
            (json!({ "keys": vec![document(&[signer(1)])["keys"][0].clone(); MAX_KEYS + 1] }), "has 17 keys"),
            (document(&[signer(1), signer(1)]), "is repeated"),
            (set("d", json!("AA")), "unknown field `d`"),
            (set("x5c", json!([])), "unknown field `x5c`"),
            (set("kty", json!("RSA")), "is not an EC P-256"),
            (set("kty", json!("oct")), "is not an EC P-256"),
            (set("crv", json!("P-384")), "is not an EC P-256"),
            (set("alg", json!("HS256")), "is not an EC P-256"),
            (set("use", json!("enc")), "is not an EC P-256"),
            (set("kid", json!("")), "is not an EC P-256"),
            (set("x", json!("AA")), "is not an EC P-256"),
            (set("x", json!("A".repeat(43))), "is not an EC P-256"),
        ] {
            let refused = parse(&value).expect_err(reason);
            assert!(refused.contains(reason), "{refused}\nexpected: {reason}");
        }
        assert!(matches!(Jwks::parse(&[b' '; MAX_JWKS_BYTES + 1]), Err(KeyError::TooLong { .. })));
    }

    #[test]
    fn a_private_key_is_stored_and_never_shown() {
        let key = signer(9);
        assert_eq!(Signer::from_bytes(&key.expose()).expect("a scalar").kid(), key.kid());
        let shown = format!("{key:?}");
        assert!(shown.contains("redacted") && !shown.contains("0909"), "{shown}");
        assert!(matches!(Signer::from_bytes(&[0; 32]), Err(KeyError::Scalar { .. })));
        assert!(matches!(Signer::from_bytes(&[0xff; 32]), Err(KeyError::Scalar { .. })));
    }

    proptest! {
        #[test]
        fn parse_never_panics(bytes: Vec<u8>) {
            let _ = Jwks::parse(&bytes);
        }
    }
}
