//! Public keys as others send them: JWKs of the protocol, key sets, admins' PEM files, certificates' points.
#![no_main]

use coffer_fuzz::{plant, vectors};
use coffer_protocol::{ClientKey, KeySet, P384Key, TeeKey, TeePublicKey, X25519Key};
use coffer_token::admin::{AdminKey, AdminSigner};
use coffer_token::{Jkt, Jwks, Signer};
use libfuzzer_sys::fuzz_target;
use serde_json::Value;

const KEYS: [&str; 3] = ["kbs/tee-key-ec256.TEST.jwk.json", "kbs/tee-key-ec521.TEST.jwk.json", "kbs/tee-key-rsa.TEST.jwk.json"];

fuzz_target!(init: plant(made().into_iter().chain(vectors(&KEYS))), |bytes: &[u8]| {
    if let Ok(value) = serde_json::from_slice::<Value>(bytes) {
        if let Ok(key) = TeePublicKey::from_jwk(&value) {
            let ours = key.to_jwk();
            // A key has one text: no other base64, no coordinate modulo the field.
            assert!(["alg", "crv", "kty", "x", "y"].iter().all(|member| ours[member] == value[member]), "{value}");
            assert_eq!(TeePublicKey::from_jwk(&ours), Ok(key));
        }
        if let Ok(key) = ClientKey::from_jwk(&value) {
            let ours = key.to_jwk();
            assert!(ours.as_object().is_some_and(|members| members.iter().all(|(name, member)| value[name] == *member)), "{value}");
            assert_eq!(ClientKey::from_jwk(&ours), Ok(key));
        }
        same::<P384Key>(bytes, &value);
        same::<X25519Key>(bytes, &value);
        same::<KeySet>(bytes, &value);
    }
    if let Ok(set) = Jwks::parse(bytes) {
        assert_eq!(Jwks::parse(&set.to_bytes().expect("encodes")).expect("what we write, we read"), set);
    }
    if let Ok(key) = P384Key::from_sec1(bytes) {
        assert_eq!(key.to_sec1(), bytes);
        let (x, y) = key.coordinates();
        assert_eq!(Jkt::of_ec_point("P-384", bytes), Some(Jkt::of_ec("P-384", x, y)));
    }
    if let Ok(text) = std::str::from_utf8(bytes) {
        if let Ok(key) = AdminKey::from_pem(text) {
            assert_eq!(AdminKey::from_pem(&key.to_pem().expect("encodes")).expect("what we write, we read"), key);
        }
        if let Ok(key) = AdminSigner::from_pem(text) {
            let again = AdminSigner::from_pem(&key.expose_pem().expect("encodes")).expect("what we write, we read");
            assert_eq!(again.public(), key.public());
        }
        if let Ok(jkt) = text.parse::<Jkt>() {
            assert_eq!(jkt.to_string(), text, "a thumbprint has one text");
        }
    }
});

/// A strict key says what its JSON says, and nothing more; absent and null are the same.
fn same<Key: serde::de::DeserializeOwned + serde::Serialize>(bytes: &[u8], value: &Value) {
    let Ok(key) = serde_json::from_slice::<Key>(bytes) else { return };
    let mut value = value.clone();
    if let Some(members) = value.as_object_mut() {
        members.retain(|_, member| !member.is_null());
    }
    assert_eq!(serde_json::to_value(&key).expect("encodes"), value);
}

fn made() -> Vec<Vec<u8>> {
    let node = P384Key::from_sec1(&[[4].as_slice(), &[9; 96]].concat()).expect("right size");
    let set = KeySet { tls: node.clone(), node: Some(node.clone()), wg: Some(X25519Key::new([3; 32])) };
    let json = |value: Value| value.to_string().into_bytes();
    let admin = AdminSigner::from_random(&[1; 48]).expect("a scalar");
    vec![
        json(TeeKey::from_random(&[7; 32]).expect("a scalar").public().to_jwk()),
        json(p521()),
        json(rsa()),
        json(serde_json::json!({ "alg": "ML-KEM-768+A192KW", "kty": "AKP", "pub": "AA" })),
        json(serde_json::to_value(&set).expect("encodes")),
        json(serde_json::to_value(&node).expect("encodes")),
        json(serde_json::to_value(X25519Key::new([3; 32])).expect("encodes")),
        Signer::from_bytes(&[5; 32]).expect("a scalar").jwks().to_bytes().expect("encodes"),
        admin.public().to_pem().expect("encodes").into_bytes(),
        admin.expose_pem().expect("encodes").as_bytes().to_vec(),
        admin.public().id().to_string().into_bytes(),
        node.to_sec1().to_vec(),
    ]
}

/// The curve's base point (SEC 2, section 2.6.1).
fn p521() -> Value {
    let x = "AMaFjga3BATpzZ4-y2YjlbRCnGSBOQU_tSH4KK9ga009uqFLXnfv51ko_h3BJ6L_qN4zSLPBhWpCm_l-fjHC5b1m";
    let y = "ARg5KWp4mjvABFyKX7QsfRvZmPVESVebRGgXr70XJz5mLJfucpleQmQLxVC5AT-tB2E1PHCGonLCQIi-lHaf0WZQ";
    serde_json::json!({ "alg": "ECDH-ES+A256KW", "crv": "P-521", "kty": "EC", "x": x, "y": y })
}

/// 2048 bits, all set.
fn rsa() -> Value {
    let n = data_encoding::BASE64URL_NOPAD.encode(&[0xFF; 256]);
    serde_json::json!({ "alg": "RSA-OAEP-256", "e": "AQAB", "kty": "RSA", "n": n })
}
