//! Sealing a resource to a client's key.
//!
//! Stock clients do not authenticate the `protected` text they received: they parse it and serialise it again, as compact JSON
//! with `alg`, `enc` and then the rest in alphabetical order, inside `epk` too. [`seal`] therefore writes exactly that form.

use std::convert::Infallible;
use std::fmt;

use aes_gcm::aead::{Aead as _, KeyInit as _, Payload};
use aes_gcm::{Aes256Gcm, Nonce};
use aes_kw::KwAes256;
use data_encoding::BASE64URL_NOPAD;
use rsa::Oaep;
use rsa::rand_core::{TryCryptoRng, TryRng};
use rsa::traits::PaddingScheme as _;
use sha2::Sha256;
use zeroize::{ZeroizeOnDrop, Zeroizing};

use crate::client_key::{ClientKey, P521PublicKey, RSA_ALG, RsaKey};
use crate::jwe::{ALG, ENC, Jwe, JweError, MAX_JWE_BYTES, wrapping_key};
use crate::jwk::{JwkError, TeeKey, TeePublicKey};

/// The random values of one [`seal`]; each must be new for each call.
#[derive(ZeroizeOnDrop)]
pub struct SealRandom {
    /// What the key agreement or the padding draws from: a P-256 key takes the first 32 bytes, a P-521 key all of them without
    /// the 7 highest bits, OAEP the first 32 as its seed.
    pub ephemeral: [u8; 66],
    /// The content encryption key.
    pub content_key: [u8; 32],
    /// The AES-GCM nonce.
    pub iv: [u8; 12],
}

impl fmt::Debug for SealRandom {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("SealRandom(<110 bytes redacted>)")
    }
}

/// Encrypts `plaintext` to the holder of a client's key.
///
/// # Errors
/// [`JweError::TooLarge`], [`JweError::Random`] once in 2^32 draws, [`JweError::Rsa`] for a modulus nobody can use.
pub fn seal(plaintext: &[u8], to: &ClientKey, random: &SealRandom) -> Result<Jwe, JweError> {
    if plaintext.len() > MAX_JWE_BYTES / 2 {
        return Err(JweError::TooLarge { got: plaintext.len() });
    }
    let KeyWrap { header, encrypted_key } = match to {
        ClientKey::P256(key) => to_p256(key, random)?,
        ClientKey::P521(key) => to_p521(key, random)?,
        ClientKey::Rsa(key) => to_rsa(key, random)?,
    };
    let protected = BASE64URL_NOPAD.encode(header.as_bytes());
    let cipher = Aes256Gcm::new((&random.content_key).into());
    let sealed = cipher
        .encrypt(&Nonce::from(random.iv), Payload { msg: plaintext, aad: protected.as_bytes() })
        .map_err(|_| JweError::TooLarge { got: plaintext.len() })?;
    let (ciphertext, tag) = sealed.split_at(plaintext.len());
    Ok(Jwe {
        protected,
        encrypted_key: BASE64URL_NOPAD.encode(&encrypted_key),
        iv: BASE64URL_NOPAD.encode(&random.iv),
        ciphertext: BASE64URL_NOPAD.encode(ciphertext),
        tag: BASE64URL_NOPAD.encode(tag),
    })
}

/// How a client's key gets the content key: the protected header's text, and what goes into `encrypted_key`.
struct KeyWrap {
    header: String,
    encrypted_key: Vec<u8>,
}

fn to_p256(key: &TeePublicKey, random: &SealRandom) -> Result<KeyWrap, JweError> {
    let (scalar, _) = random.ephemeral.split_first_chunk::<32>().ok_or(JweError::Random(JwkError::Scalar))?;
    let ephemeral = TeeKey::from_random(scalar).map_err(JweError::Random)?;
    let shared = p256::ecdh::diffie_hellman(ephemeral.expose().to_nonzero_scalar(), key.expose().as_affine());
    let (x, y) = ephemeral.public().coordinates();
    Ok(KeyWrap { header: ecdh_header("P-256", &x, &y), encrypted_key: wrap(shared.raw_secret_bytes(), random)? })
}

fn to_p521(key: &P521PublicKey, random: &SealRandom) -> Result<KeyWrap, JweError> {
    let mut scalar = Zeroizing::new(random.ephemeral);
    // The group order is just under 2^521: 65 bytes and one bit.
    scalar[0] &= 1;
    let ephemeral = p521::SecretKey::from_slice(&*scalar).map_err(|_| JweError::Random(JwkError::Scalar))?;
    let shared = p521::ecdh::diffie_hellman(ephemeral.to_nonzero_scalar(), key.expose().as_affine());
    let (x, y) = P521PublicKey::new(ephemeral.public_key()).coordinates();
    Ok(KeyWrap { header: ecdh_header("P-521", &x, &y), encrypted_key: wrap(shared.raw_secret_bytes(), random)? })
}

fn to_rsa(key: &RsaKey, random: &SealRandom) -> Result<KeyWrap, JweError> {
    let mut seed = OaepSeed(Zeroizing::new(random.ephemeral));
    let encrypted_key = Oaep::<Sha256>::new().encrypt(&mut seed, key.expose(), &random.content_key).map_err(|_| JweError::Rsa)?;
    Ok(KeyWrap { header: format!(r#"{{"alg":"{RSA_ALG}","enc":"{ENC}"}}"#), encrypted_key })
}

/// Hands the drawn bytes to the padding, whose only draw is its seed of 32 bytes (RFC 8017, section 7.1.1, step 2d).
struct OaepSeed(Zeroizing<[u8; 66]>);

impl TryRng for OaepSeed {
    type Error = Infallible;

    fn try_next_u32(&mut self) -> Result<u32, Infallible> {
        let mut bytes = [0; 4];
        self.try_fill_bytes(&mut bytes)?;
        Ok(u32::from_le_bytes(bytes))
    }

    fn try_next_u64(&mut self) -> Result<u64, Infallible> {
        let mut bytes = [0; 8];
        self.try_fill_bytes(&mut bytes)?;
        Ok(u64::from_le_bytes(bytes))
    }

    fn try_fill_bytes(&mut self, bytes: &mut [u8]) -> Result<(), Infallible> {
        for (byte, drawn) in bytes.iter_mut().zip(self.0.iter()) {
            *byte = *drawn;
        }
        Ok(())
    }
}

impl TryCryptoRng for OaepSeed {}

fn ecdh_header(crv: &str, x: &[u8], y: &[u8]) -> String {
    let (x, y) = (BASE64URL_NOPAD.encode(x), BASE64URL_NOPAD.encode(y));
    format!(r#"{{"alg":"{ALG}","enc":"{ENC}","epk":{{"crv":"{crv}","kty":"EC","x":"{x}","y":"{y}"}}}}"#)
}

fn wrap(shared: &[u8], random: &SealRandom) -> Result<Vec<u8>, JweError> {
    let mut wrapped = vec![0; 40];
    KwAes256::new((&*wrapping_key(shared)).into()).wrap_key(&random.content_key, &mut wrapped).map_err(|_| JweError::Unwrap)?;
    Ok(wrapped)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::json::JsonError;
    use crate::jwe::open;

    const SECRET: [u8; 32] = [0x5a; 32];

    fn key() -> TeeKey {
        TeeKey::from_random(&[7; 32]).expect("a scalar")
    }

    fn sealed() -> Jwe {
        let random = SealRandom { ephemeral: [8; 66], content_key: [9; 32], iv: [10; 12] };
        seal(&SECRET, &key().public().into(), &random).expect("seals")
    }

    /// The sealed JWE with another protected header over the same ephemeral key.
    fn with_header(change: impl Fn(&str) -> String) -> Jwe {
        let jwe = sealed();
        let text = String::from_utf8(BASE64URL_NOPAD.decode(jwe.protected.as_bytes()).expect("base64url")).expect("text");
        let changed = change(&text);
        assert_ne!(changed, text, "the case changes something");
        Jwe { protected: BASE64URL_NOPAD.encode(changed.as_bytes()), ..jwe }
    }

    #[test]
    fn opens_with_its_own_key_only() {
        assert_eq!(open(&sealed(), &key()).expect("opens").as_slice(), SECRET);
        let other = TeeKey::from_random(&[6; 32]).expect("a scalar");
        assert!(matches!(open(&sealed(), &other), Err(JweError::Unwrap)));
        assert_eq!(Jwe::parse(&sealed().to_bytes()).expect("parses"), sealed());
    }

    #[test]
    fn header_is_byte_exact() {
        let text = BASE64URL_NOPAD.decode(sealed().protected.as_bytes()).expect("base64url");
        let text = String::from_utf8(text).expect("text");
        assert!(text.starts_with(r#"{"alg":"ECDH-ES+A256KW","enc":"A256GCM","epk":{"crv":"P-256","kty":"EC","x":""#), "{text}");
        assert!(!text.contains(' '));
    }

    #[test]
    fn refuses_other_headers() {
        type Refusal = fn(&JweError) -> bool;
        let algorithm: Refusal = |e| matches!(e, JweError::Algorithm { .. });
        let header: Refusal = |e| matches!(e, JweError::Header(_));
        let ephemeral: Refusal = |e| matches!(e, JweError::Ephemeral(_));
        let content: Refusal = |e| matches!(e, JweError::Content);
        let cases: [(&str, &str, Refusal); 12] = [
            ("ECDH-ES+A256KW", "ECDH-ES", algorithm),
            ("ECDH-ES+A256KW", "RSA-OAEP-256", algorithm),
            ("ECDH-ES+A256KW", "dir", algorithm),
            ("A256GCM", "A128GCM", algorithm),
            ("A256GCM", "A256CBC-HS512", algorithm),
            ("{\"alg\"", "{\"zip\":\"DEF\",\"alg\"", header),
            ("{\"alg\"", "{\"crit\":[\"x\"],\"alg\"", header),
            ("{\"alg\"", "{\"apu\":\"AA\",\"alg\"", header),
            ("{\"alg\"", "{\"enc\":\"A256GCM\",\"alg\"", header),
            ("\"crv\"", "\"d\":\"AA\",\"crv\"", header),
            ("P-256", "P-384", ephemeral),
            // The same header with a space: the RFC authenticates the text, so the content does not open.
            ("\"enc\"", " \"enc\"", content),
        ];
        for (from, to, expected) in cases {
            let refused = open(&with_header(|text| text.replacen(from, to, 1)), &key()).expect_err(to);
            assert!(expected(&refused), "{from} -> {to}: {refused}");
        }
    }

    #[test]
    fn refuses_an_ephemeral_key_off_the_curve() {
        // Invalid-curve points would leak the handshake's key bit by bit.
        let jwe = with_header(|text| {
            let x = text.find("\"x\":\"").expect("has x") + 5;
            format!("{}{}{}", &text[..x], "A".repeat(43), &text[x + 43..])
        });
        assert!(matches!(open(&jwe, &key()), Err(JweError::Ephemeral(JwkError::NotOnCurve { .. }))));
    }

    #[test]
    fn refuses_each_changed_member() {
        let flip = |text: &str| {
            let mut bytes = BASE64URL_NOPAD.decode(text.as_bytes()).expect("base64url");
            bytes[0] ^= 1;
            BASE64URL_NOPAD.encode(&bytes)
        };
        let jwe = sealed();
        for (changed, expected) in [
            (Jwe { encrypted_key: flip(&jwe.encrypted_key), ..jwe.clone() }, JweError::Unwrap),
            (Jwe { iv: flip(&jwe.iv), ..jwe.clone() }, JweError::Content),
            (Jwe { ciphertext: flip(&jwe.ciphertext), ..jwe.clone() }, JweError::Content),
            (Jwe { tag: flip(&jwe.tag), ..jwe.clone() }, JweError::Content),
            (Jwe { tag: jwe.iv.clone(), ..jwe.clone() }, JweError::Member { member: "tag" }),
            (Jwe { iv: jwe.tag.clone(), ..jwe.clone() }, JweError::Member { member: "iv" }),
            (Jwe { encrypted_key: jwe.tag.clone(), ..jwe.clone() }, JweError::Member { member: "encrypted_key" }),
            (Jwe { ciphertext: "=".into(), ..jwe.clone() }, JweError::Member { member: "ciphertext" }),
            (Jwe { protected: "!".into(), ..jwe.clone() }, JweError::Member { member: "protected" }),
        ] {
            assert_eq!(open(&changed, &key()).expect_err("changed").to_string(), expected.to_string());
        }
    }

    #[test]
    fn refuses_other_json_forms() {
        let text = String::from_utf8(sealed().to_bytes()).expect("text");
        for changed in [
            text.replacen('{', r#"{"aad":"AA","#, 1),
            text.replacen('{', r#"{"header":{},"#, 1),
            text.replacen('{', r#"{"unprotected":{},"#, 1),
            text.replacen('{', r#"{"recipients":[],"#, 1),
            text.replacen('{', r#"{"tag":"","#, 1),
            text.replacen("\"iv\"", "\"IV\"", 1),
            format!("{text} x"),
            String::new(),
        ] {
            assert!(matches!(Jwe::parse(changed.as_bytes()), Err(JweError::Json(JsonError::Parse { .. }))), "{changed}");
        }
        let long = vec![b' '; MAX_JWE_BYTES + 1];
        assert!(matches!(Jwe::parse(&long), Err(JweError::Json(JsonError::TooLong { .. }))));
    }

    #[test]
    fn limits_of_seal() {
        let random = |ephemeral| SealRandom { ephemeral, content_key: [9; 32], iv: [10; 12] };
        let most = seal(&[1; MAX_JWE_BYTES / 2], &key().public().into(), &random([8; 66])).expect("fits");
        assert_eq!(open(&Jwe::parse(&most.to_bytes()).expect("fits"), &key()).expect("opens").len(), MAX_JWE_BYTES / 2);
        assert!(matches!(seal(&[1; MAX_JWE_BYTES / 2 + 1], &key().public().into(), &random([8; 66])), Err(JweError::TooLarge { .. })));
        for no_scalar in [[0; 66], [0xff; 66]] {
            assert!(matches!(seal(&SECRET, &key().public().into(), &random(no_scalar)), Err(JweError::Random(JwkError::Scalar))));
        }
    }

    fn p521_key() -> (p521::SecretKey, ClientKey) {
        let mut scalar = [3; 66];
        scalar[0] = 1;
        let secret = p521::SecretKey::from_slice(&scalar).expect("a scalar");
        let public = P521PublicKey::new(secret.public_key());
        (secret, ClientKey::P521(public))
    }

    /// The header names P-521, its coordinates have 66 bytes each, and the key agreement of the other side unwraps.
    #[test]
    fn a_p521_key_gets_a_p521_agreement() {
        let (secret, public) = p521_key();
        assert_eq!(ClientKey::from_jwk(&public.to_jwk()).as_ref(), Ok(&public));
        for ephemeral in [[8; 66], [0xff; 66].map(|byte: u8| byte & 0x7f)] {
            let random = SealRandom { ephemeral, content_key: [9; 32], iv: [10; 12] };
            let jwe = seal(&SECRET, &public, &random).expect("seals");
            let header = BASE64URL_NOPAD.decode(jwe.protected.as_bytes()).expect("base64url");
            let header: serde_json::Value = serde_json::from_slice(&header).expect("JSON");
            let coordinate =
                |name: &str| BASE64URL_NOPAD.decode(header["epk"][name].as_str().expect("text").as_bytes()).expect("base64url");
            let point = [vec![4], coordinate("x"), coordinate("y")].concat();
            assert_eq!((header["epk"]["crv"].as_str(), point.len()), (Some("P-521"), 133));
            let theirs = p521::PublicKey::from_sec1_bytes(&point).expect("a point");
            let shared = p521::ecdh::diffie_hellman(secret.to_nonzero_scalar(), theirs.as_affine());
            assert_eq!(shared.raw_secret_bytes().len(), 66, "Z has the width of the curve");
            let wrapped = BASE64URL_NOPAD.decode(jwe.encrypted_key.as_bytes()).expect("base64url");
            let mut content_key = [0; 32];
            let unwrapped = KwAes256::new((&*wrapping_key(shared.raw_secret_bytes())).into()).unwrap_key(&wrapped, &mut content_key);
            assert!(unwrapped.is_ok() && content_key == [9; 32]);
        }
        let zero = SealRandom { ephemeral: [0; 66], content_key: [9; 32], iv: [10; 12] };
        assert!(matches!(seal(&SECRET, &public, &zero), Err(JweError::Random(JwkError::Scalar))));
    }

    #[test]
    fn debug_shows_no_secret() {
        let random = SealRandom { ephemeral: [8; 66], content_key: [9; 32], iv: [10; 12] };
        for text in [format!("{:?}", key()), format!("{random:?}")] {
            assert!(text.contains("redacted") && !text.chars().any(|c| c == '['), "{text}");
        }
    }

    proptest! {
        #[test]
        fn parse_and_open_never_panic(bytes: Vec<u8>, header in "[ -~]{0,200}") {
            if let Ok(jwe) = Jwe::parse(&bytes) {
                let _ = open(&jwe, &key());
            }
            let jwe = Jwe { protected: BASE64URL_NOPAD.encode(header.as_bytes()), ..sealed() };
            prop_assert!(open(&jwe, &key()).is_err());
        }

        #[test]
        fn round_trip(plaintext: Vec<u8>, ephemeral in 1_u8..255, content_key: [u8; 32], iv: [u8; 12]) {
            let random = SealRandom { ephemeral: [ephemeral; 66], content_key, iv };
            let jwe = seal(&plaintext, &key().public().into(), &random).expect("seals");
            prop_assert_eq!(&*open(&Jwe::parse(&jwe.to_bytes()).expect("parses"), &key()).expect("opens"), &plaintext);
        }
    }
}
