//! How a stock client opens a resource, written down from the facts and from nothing else in this repository: its own key
//! derivation, its own key unwrapping, and associated data that it makes by writing the header again.

use aes_gcm::aead::{Aead as _, KeyInit as _, Payload};
use aes_gcm::{Aes256Gcm, Nonce};
use data_encoding::BASE64URL_NOPAD;
use rsa::{BoxedUint, Oaep, RsaPrivateKey};
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value, json};
use sha2::{Digest as _, Sha256};

/// A stock client's private key.
pub enum StockKey {
    P256(p256::SecretKey),
    P521(p521::SecretKey),
    Rsa(Box<RsaPrivateKey>),
}

#[derive(Deserialize)]
struct Flattened {
    protected: String,
    encrypted_key: String,
    iv: String,
    ciphertext: String,
    tag: String,
}

/// The header as the client keeps it: two members by name, the others in a sorted map.
#[derive(Serialize, Deserialize)]
struct Protected {
    alg: String,
    enc: String,
    #[serde(flatten)]
    others: std::collections::BTreeMap<String, Value>,
}

fn bytes(text: &str) -> Vec<u8> {
    BASE64URL_NOPAD.decode(text.as_bytes()).expect("unpadded base64url")
}

fn member(jwk: &Value, name: &str) -> Vec<u8> {
    bytes(jwk[name].as_str().unwrap_or_else(|| panic!("no `{name}` in the key")))
}

impl StockKey {
    /// Of a private JWK, as the vectors have them.
    pub fn from_jwk(jwk: &Value) -> Self {
        match (jwk["kty"].as_str(), jwk["crv"].as_str()) {
            (Some("EC"), Some("P-256")) => Self::P256(p256::SecretKey::from_slice(&member(jwk, "d")).expect("a scalar")),
            (Some("EC"), Some("P-521")) => Self::P521(p521::SecretKey::from_slice(&member(jwk, "d")).expect("a scalar")),
            (Some("RSA"), None) => {
                let number = |name| BoxedUint::from_be_slice_vartime(&member(jwk, name));
                let primes = vec![number("p"), number("q")];
                let key = RsaPrivateKey::from_components(number("n"), number("e"), number("d"), primes).expect("an RSA key");
                Self::Rsa(Box::new(key))
            }
            other => panic!("{other:?}"),
        }
    }

    /// What the client does with the body of a 200 answer.
    pub fn open(&self, body: &[u8]) -> Vec<u8> {
        let jwe: Flattened = serde_json::from_slice(body).expect("a flattened JWE");
        let protected: Protected = serde_json::from_slice(&bytes(&jwe.protected)).expect("a protected header");
        let aad = BASE64URL_NOPAD.encode(&serde_json::to_vec(&protected).expect("encodes"));
        assert_eq!(protected.enc, "A256GCM");
        let content_key = match (self, protected.alg.as_str()) {
            (Self::Rsa(key), "RSA-OAEP-256") => {
                assert!(protected.others.is_empty(), "an RSA header has nothing more");
                key.decrypt(Oaep::<Sha256>::new(), &bytes(&jwe.encrypted_key)).expect("the content key decrypts")
            }
            (Self::P256(_) | Self::P521(_), "ECDH-ES+A256KW") => {
                let epk = protected.others.get("epk").and_then(Value::as_object).expect("epk");
                unwrap_key(&concat_kdf(&self.agree(epk)), &bytes(&jwe.encrypted_key))
            }
            (_, other) => panic!("sealed with {other}"),
        };
        let cipher = Aes256Gcm::new_from_slice(&content_key).expect("32 bytes");
        let iv: [u8; 12] = bytes(&jwe.iv).try_into().expect("12 bytes");
        let sealed = [bytes(&jwe.ciphertext), bytes(&jwe.tag)].concat();
        cipher.decrypt(&Nonce::from(iv), Payload { msg: &sealed, aad: aad.as_bytes() }).expect("aes-256-gcm decrypt failed")
    }

    fn agree(&self, epk: &Map<String, Value>) -> Vec<u8> {
        let text = |name: &str| epk[name].as_str().expect("text");
        assert_eq!(text("kty"), "EC");
        let point = [vec![4], bytes(text("x")), bytes(text("y"))].concat();
        match self {
            Self::P256(key) => {
                assert_eq!((text("crv"), point.len()), ("P-256", 65));
                let theirs = p256::PublicKey::from_sec1_bytes(&point).expect("a point");
                p256::ecdh::diffie_hellman(key.to_nonzero_scalar(), theirs.as_affine()).raw_secret_bytes().to_vec()
            }
            Self::P521(key) => {
                assert_eq!((text("crv"), point.len()), ("P-521", 133));
                let theirs = p521::PublicKey::from_sec1_bytes(&point).expect("a point");
                p521::ecdh::diffie_hellman(key.to_nonzero_scalar(), theirs.as_affine()).raw_secret_bytes().to_vec()
            }
            Self::Rsa(_) => panic!("RSA agrees on nothing"),
        }
    }

    /// The public half, its members in the order in which the client writes them.
    pub fn public(&self) -> Value {
        use p256::elliptic_curve::sec1::ToSec1Point as _;
        let encode = |bytes: &[u8]| Value::from(BASE64URL_NOPAD.encode(bytes));
        let ec = |crv: &str, point: &[u8]| {
            let (x, y) = point[1..].split_at(point.len() / 2);
            json!({ "kty": "EC", "crv": crv, "alg": "ECDH-ES+A256KW", "x": encode(x), "y": encode(y) })
        };
        match self {
            Self::P256(key) => ec("P-256", key.public_key().to_sec1_point(false).as_bytes()),
            Self::P521(key) => ec("P-521", key.public_key().to_sec1_point(false).as_bytes()),
            Self::Rsa(key) => {
                use rsa::traits::PublicKeyParts as _;
                json!({ "kty": "RSA", "alg": "RSA-OAEP-256", "n": encode(&key.n_bytes()), "e": encode(&key.e_bytes()) })
            }
        }
    }
}

/// 00000001 ‖ Z ‖ len ‖ "ECDH-ES+A256KW" ‖ 00000000 ‖ 00000000 ‖ 00000100, hashed once.
fn concat_kdf(z: &[u8]) -> [u8; 32] {
    let info = [&[0, 0, 0, 1][..], z, &[0, 0, 0, 14], b"ECDH-ES+A256KW", &[0; 8], &[0, 0, 1, 0]].concat();
    Sha256::digest(info).into()
}

/// RFC 3394, section 2.2.2, for a key of 256 bits.
fn unwrap_key(key: &[u8; 32], wrapped: &[u8]) -> Vec<u8> {
    use aes::cipher::{BlockCipherDecrypt as _, KeyInit as _};
    assert_eq!(wrapped.len(), 40, "a wrapped key of 256 bits");
    let cipher = aes::Aes256::new(key.into());
    let mut a: [u8; 8] = wrapped[..8].try_into().expect("8 bytes");
    let mut r: Vec<[u8; 8]> = wrapped[8..].chunks(8).map(|chunk| chunk.try_into().expect("8 bytes")).collect();
    for j in (0..6).rev() {
        for i in (0..4).rev() {
            let t = (4 * j + i + 1) as u64;
            let mixed = (u64::from_be_bytes(a) ^ t).to_be_bytes();
            let mut block = aes::Block::try_from([mixed, r[i]].concat().as_slice()).expect("16 bytes");
            cipher.decrypt_block(&mut block);
            a.copy_from_slice(&block[..8]);
            r[i].copy_from_slice(&block[8..]);
        }
    }
    assert_eq!(a, [0xA6; 8], "the content key does not unwrap");
    r.concat()
}
