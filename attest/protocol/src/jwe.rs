//! JWE in flattened JSON form (RFC 7516, section 7.2.2), and opening one with the guest's key: ECDH-ES+A256KW on P-256 and
//! A256GCM, the only pair our guest asks for. Sealing, to more kinds of key, is the service's.

use aes_gcm::aead::{Aead as _, KeyInit as _, Payload};
use aes_gcm::{Aes256Gcm, Nonce};
use aes_kw::KwAes256;
use data_encoding::BASE64URL_NOPAD;
use p256::ecdh::diffie_hellman;
use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};
use zeroize::{Zeroize, Zeroizing};

use crate::json::{JsonError, parse_typed};
use crate::jwk::{JwkError, TeeKey, TeePublicKey, decode_fixed};

/// The key agreement and wrapping algorithm (RFC 7518, section 4.6).
pub(crate) const ALG: &str = "ECDH-ES+A256KW";

/// The content encryption algorithm (RFC 7518, section 5.3).
pub(crate) const ENC: &str = "A256GCM";

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
    /// Random bytes that are no private key; once in 2^32 draws.
    #[error(transparent)]
    Random(JwkError),
    /// The content key does not encrypt to the RSA key: its modulus is no product of primes.
    #[error("content key does not encrypt to the client's RSA key")]
    Rsa,
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

/// The protected header.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Header {
    alg: String,
    enc: String,
    epk: EphemeralJwk,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct EphemeralJwk {
    crv: String,
    kty: String,
    x: String,
    y: String,
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

    let shared = diffie_hellman(key.expose().to_nonzero_scalar(), sender.expose().as_affine());
    let key_encryption_key = wrapping_key(shared.raw_secret_bytes());
    let mut content_key = Zeroizing::new([0; 32]);
    KwAes256::new((&*key_encryption_key).into()).unwrap_key(&wrapped, &mut *content_key).map_err(|_| JweError::Unwrap)?;
    let cipher = Aes256Gcm::new((&*content_key).into());
    cipher
        .decrypt(&Nonce::from(iv), Payload { msg: &sealed, aad: jwe.protected.as_bytes() })
        .map(Zeroizing::new)
        .map_err(|_| JweError::Content)
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

/// Concat KDF of NIST SP 800-56A with SHA-256, one block, as RFC 7518 section 4.6.2 fills it for a 256-bit wrapping key. `shared`
/// is Z at the fixed width of its curve: 32 bytes for P-256, 66 for P-521.
pub(crate) fn wrapping_key(shared: &[u8]) -> Zeroizing<[u8; 32]> {
    let mut hash = Sha256::new();
    hash.update(1_u32.to_be_bytes()); // block counter
    hash.update(shared); // Z
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
