//! JWE in flattened JSON form (RFC 7516, section 7.2.2) with ECDH-ES+A256KW and A256GCM, the only pair this build speaks.
//!
//! Stock clients do not authenticate the `protected` text they received: they parse it and serialise it again, as compact JSON
//! with `alg`, `enc` and then the rest in alphabetical order. [`seal`] therefore writes exactly that form; [`open`] takes the
//! text as it came, which is what the RFC says.

use std::fmt;

use aes_gcm::aead::{Aead as _, KeyInit as _, Payload};
use aes_gcm::{Aes256Gcm, Nonce};
use aes_kw::KwAes256;
use data_encoding::BASE64URL_NOPAD;
use p256::ecdh::diffie_hellman;
use p256::{PublicKey, SecretKey};
use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};
use zeroize::{Zeroize, ZeroizeOnDrop, Zeroizing};

use crate::json::{JsonError, parse_typed};
use crate::jwk::{JwkError, TeeKey, TeePublicKey, decode_fixed};

/// The key agreement and wrapping algorithm (RFC 7518, section 4.6).
pub(crate) const ALG: &str = "ECDH-ES+A256KW";

/// The content encryption algorithm (RFC 7518, section 5.3).
const ENC: &str = "A256GCM";

/// The longest JWE text read. A secret of ours is 32 bytes; a startup bundle in a stock key service is a few thousand.
pub const MAX_JWE_BYTES: usize = 64 * 1024;

/// A JWE does not seal or open.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum JweError {
    /// Not the flattened JSON form, or too long.
    #[error(transparent)]
    Json(#[from] JsonError),
    /// A member is not canonical base64url without padding, or has another length.
    #[error("JWE member `{member}` is not unpadded base64url of the expected length")]
    Member {
        /// Which member.
        member: &'static str,
    },
    /// The protected header is not JSON of the expected shape.
    #[error("JWE protected header does not parse: {0}")]
    Header(#[source] serde_json::Error),
    /// Another algorithm pair.
    #[error("JWE uses {alg} with {enc}, this build opens {ALG} with {ENC}")]
    Algorithm {
        /// `alg` of the header, shortened to 40 characters.
        alg: String,
        /// `enc` of the header, shortened to 40 characters.
        enc: String,
    },
    /// The sender's ephemeral key is not usable.
    #[error("JWE ephemeral key: {0}")]
    Ephemeral(#[source] JwkError),
    /// The content key does not unwrap: sealed to another key, or changed.
    #[error("JWE content key does not unwrap with this handshake's key")]
    Unwrap,
    /// The content does not authenticate.
    #[error("JWE content does not authenticate")]
    Content,
    /// More plaintext than the other side reads.
    #[error("plaintext of {got} bytes does not fit a JWE of {MAX_JWE_BYTES} bytes")]
    TooLarge {
        /// Plaintext size in bytes.
        got: usize,
    },
    /// Random bytes that are no P-256 scalar; once in 2^32 draws.
    #[error(transparent)]
    Random(JwkError),
}

/// The random values of one [`seal`]; each must be new for each call.
#[derive(ZeroizeOnDrop)]
pub struct SealRandom {
    /// The ephemeral private key.
    pub ephemeral: [u8; 32],
    /// The content encryption key.
    pub content_key: [u8; 32],
    /// The AES-GCM nonce.
    pub iv: [u8; 12],
}

impl fmt::Debug for SealRandom {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("SealRandom(<76 bytes redacted>)")
    }
}

/// The flattened JSON form; members are unpadded base64url. Never has `aad`, `header` or `unprotected`.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Jwe {
    /// The protected header.
    pub protected: String,
    /// The wrapped content key.
    pub encrypted_key: String,
    /// The AES-GCM nonce.
    pub iv: String,
    /// The ciphertext.
    pub ciphertext: String,
    /// The AES-GCM tag.
    pub tag: String,
}

impl Jwe {
    /// Parses the body of a resource answer.
    ///
    /// # Errors
    /// [`JweError::Json`].
    pub fn parse(bytes: &[u8]) -> Result<Self, JweError> {
        Ok(parse_typed("JWE", bytes, MAX_JWE_BYTES)?)
    }

    /// The body of a resource answer.
    #[must_use]
    pub fn to_bytes(&self) -> Vec<u8> {
        // Five members of base64url, which JSON never escapes.
        format!(
            r#"{{"protected":"{}","encrypted_key":"{}","iv":"{}","ciphertext":"{}","tag":"{}"}}"#,
            self.protected, self.encrypted_key, self.iv, self.ciphertext, self.tag
        )
        .into_bytes()
    }
}

/// The protected header, its members in the order that stock clients write.
#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Header {
    alg: String,
    enc: String,
    epk: EphemeralJwk,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct EphemeralJwk {
    crv: String,
    kty: String,
    x: String,
    y: String,
}

/// Encrypts `plaintext` to the holder of the handshake's key.
///
/// # Errors
/// [`JweError::TooLarge`], or [`JweError::Random`] once in 2^32 draws.
pub fn seal(plaintext: &[u8], to: &TeePublicKey, random: &SealRandom) -> Result<Jwe, JweError> {
    if plaintext.len() > MAX_JWE_BYTES / 2 {
        return Err(JweError::TooLarge { got: plaintext.len() });
    }
    let ephemeral = TeeKey::from_random(&random.ephemeral).map_err(JweError::Random)?;
    let key_encryption_key = agree(ephemeral.expose(), to.expose());
    let mut wrapped = [0; 40];
    KwAes256::new((&*key_encryption_key).into()).wrap_key(&random.content_key, &mut wrapped).map_err(|_| JweError::Unwrap)?;

    let protected = BASE64URL_NOPAD.encode(header_text(&ephemeral.public()).as_bytes());
    let cipher = Aes256Gcm::new((&random.content_key).into());
    let sealed = cipher
        .encrypt(&Nonce::from(random.iv), Payload { msg: plaintext, aad: protected.as_bytes() })
        .map_err(|_| JweError::TooLarge { got: plaintext.len() })?;
    let (ciphertext, tag) = sealed.split_at(plaintext.len());
    Ok(Jwe {
        protected,
        encrypted_key: BASE64URL_NOPAD.encode(&wrapped),
        iv: BASE64URL_NOPAD.encode(&random.iv),
        ciphertext: BASE64URL_NOPAD.encode(ciphertext),
        tag: BASE64URL_NOPAD.encode(tag),
    })
}

/// Opens a JWE with the key of the handshake it answers.
///
/// Says nothing about who sealed it: anybody who knows the public half can. That it came from the key service is TLS's word,
/// and that it is the right secret is key_check's.
///
/// # Errors
/// See [`JweError`]. Total: any value gives a plaintext or an error.
pub fn open(jwe: &Jwe, key: &TeeKey) -> Result<Zeroizing<Vec<u8>>, JweError> {
    let sender = read_header(&jwe.protected)?;
    let wrapped: [u8; 40] = decode_fixed(&jwe.encrypted_key).ok_or(JweError::Member { member: "encrypted_key" })?;
    let iv: [u8; 12] = decode_fixed(&jwe.iv).ok_or(JweError::Member { member: "iv" })?;
    let tag: [u8; 16] = decode_fixed(&jwe.tag).ok_or(JweError::Member { member: "tag" })?;
    let mut sealed = BASE64URL_NOPAD.decode(jwe.ciphertext.as_bytes()).map_err(|_| JweError::Member { member: "ciphertext" })?;
    sealed.extend_from_slice(&tag);

    let key_encryption_key = agree(key.expose(), sender.expose());
    let mut content_key = Zeroizing::new([0; 32]);
    KwAes256::new((&*key_encryption_key).into()).unwrap_key(&wrapped, &mut *content_key).map_err(|_| JweError::Unwrap)?;
    let cipher = Aes256Gcm::new((&*content_key).into());
    cipher
        .decrypt(&Nonce::from(iv), Payload { msg: &sealed, aad: jwe.protected.as_bytes() })
        .map(Zeroizing::new)
        .map_err(|_| JweError::Content)
}

fn header_text(ephemeral: &TeePublicKey) -> String {
    let (x, y) = ephemeral.coordinates();
    let (x, y) = (BASE64URL_NOPAD.encode(&x), BASE64URL_NOPAD.encode(&y));
    format!(r#"{{"alg":"{ALG}","enc":"{ENC}","epk":{{"crv":"P-256","kty":"EC","x":"{x}","y":"{y}"}}}}"#)
}

/// The sender's ephemeral key, if the header says what we read and nothing more.
fn read_header(protected: &str) -> Result<TeePublicKey, JweError> {
    let text = BASE64URL_NOPAD.decode(protected.as_bytes()).map_err(|_| JweError::Member { member: "protected" })?;
    let header: Header = serde_json::from_slice(&text).map_err(JweError::Header)?;
    if header.alg != ALG || header.enc != ENC {
        let short = |text: String| text.chars().take(40).collect();
        return Err(JweError::Algorithm { alg: short(header.alg), enc: short(header.enc) });
    }
    let EphemeralJwk { crv, kty, x, y } = header.epk;
    let jwk = serde_json::json!({ "alg": ALG, "crv": crv, "kty": kty, "x": x, "y": y });
    TeePublicKey::from_jwk(&jwk).map_err(JweError::Ephemeral)
}

/// Concat KDF of NIST SP 800-56A with SHA-256, one block, as RFC 7518 section 4.6.2 fills it for a 256-bit wrapping key.
fn agree(ours: &SecretKey, theirs: &PublicKey) -> Zeroizing<[u8; 32]> {
    let shared = diffie_hellman(ours.to_nonzero_scalar(), theirs.as_affine());
    let mut hash = Sha256::new();
    hash.update(1_u32.to_be_bytes()); // block counter
    hash.update(shared.raw_secret_bytes()); // Z, 32 bytes
    hash.update((ALG.len() as u32).to_be_bytes());
    hash.update(ALG); // AlgorithmID
    hash.update(0_u32.to_be_bytes()); // PartyUInfo: empty
    hash.update(0_u32.to_be_bytes()); // PartyVInfo: empty
    hash.update(256_u32.to_be_bytes()); // SuppPubInfo: key length in bits
    let mut digest = hash.finalize();
    let key = Zeroizing::new(digest.into());
    digest.zeroize();
    key
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const SECRET: [u8; 32] = [0x5a; 32];

    fn key() -> TeeKey {
        TeeKey::from_random(&[7; 32]).expect("a scalar")
    }

    fn sealed() -> Jwe {
        let random = SealRandom { ephemeral: [8; 32], content_key: [9; 32], iv: [10; 12] };
        seal(&SECRET, &key().public(), &random).expect("seals")
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
        let most = seal(&[1; MAX_JWE_BYTES / 2], &key().public(), &random([8; 32])).expect("fits");
        assert_eq!(open(&Jwe::parse(&most.to_bytes()).expect("fits"), &key()).expect("opens").len(), MAX_JWE_BYTES / 2);
        assert!(matches!(seal(&[1; MAX_JWE_BYTES / 2 + 1], &key().public(), &random([8; 32])), Err(JweError::TooLarge { .. })));
        for no_scalar in [[0; 32], [0xff; 32]] {
            assert!(matches!(seal(&SECRET, &key().public(), &random(no_scalar)), Err(JweError::Random(JwkError::Scalar))));
        }
    }

    #[test]
    fn debug_shows_no_secret() {
        let random = SealRandom { ephemeral: [8; 32], content_key: [9; 32], iv: [10; 12] };
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
            let random = SealRandom { ephemeral: [ephemeral; 32], content_key, iv };
            let jwe = seal(&plaintext, &key().public(), &random).expect("seals");
            prop_assert_eq!(&*open(&Jwe::parse(&jwe.to_bytes()).expect("parses"), &key()).expect("opens"), &plaintext);
        }
    }
}
