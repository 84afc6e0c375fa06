//! ID blocks against the published ones: keys and signatures of two other implementations.

use std::fs;

use coffer_evidence::{GuestPolicy, KeyDigest};
use coffer_measure::{IdAuth, IdAuthError, IdBlock, IdPrivateKey, IdPublicKey, Which};
use data_encoding::{BASE64, BASE64URL_NOPAD};
use serde_json::Value;
use system_tests::vectors;

/// What `virtee/sev`'s own test expects of `test_id_key` and `test_auth_key`: the block, and the two digests.
const BLOCK: &str =
    "oU1jg0HlZ0Yo/h4C++3r5eWrT68d1y2JZgaOYVu5nv0T0hSzXCMXFbOOJj3GBZdFAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAABAAAAAAAAAAAAAwAAAAAA";
const ID_KEY_DIGEST: &str = "WfssaG36T+9J84M5qndckAUcKNVzg93DuvO160sUlt87DbvcuuX+J2d6ZEggdz/i";
const AUTHOR_KEY_DIGEST: &str = "7tgRafsMteDsNHlPEo/U4MSkb2fGWhrfqB/LJLzAiMJyNpt//D6ytq9qQoShs2xf";

fn key(name: &str) -> Option<IdPrivateKey> {
    let jwk: Value = serde_json::from_slice(&fs::read(vectors::path(&format!("measure/{name}.jwk.json"))?).unwrap()).unwrap();
    let part = |member: &str| BASE64URL_NOPAD.decode(jwk[member].as_str().unwrap().as_bytes()).unwrap();
    let key = IdPrivateKey::from_scalar(&part("d").try_into().unwrap()).unwrap();
    // The published public half, in firmware's little-endian fields.
    let public = key.public().to_bytes();
    let little = |mut bytes: Vec<u8>| {
        bytes.reverse();
        bytes
    };
    assert_eq!(public[4..4 + 48], little(part("x")));
    assert_eq!(public[0x4C..0x4C + 48], little(part("y")));
    Some(key)
}

fn read(name: &str) -> Vec<u8> {
    fs::read(vectors::path(&format!("measure/virtee-sev/{name}")).expect("the keys were found")).unwrap()
}

fn digest(base64: &str) -> KeyDigest {
    KeyDigest::try_from(BASE64.decode(base64.as_bytes()).unwrap().as_slice()).unwrap()
}

#[test]
fn the_published_id_block_and_authentication_check() {
    let (Some(id_key), Some(author_key)) = (key("virtee-sev/test_id_key"), key("virtee-sev/test_auth_key")) else { return };
    let bytes: [u8; IdBlock::LEN] = BASE64.decode(BLOCK.as_bytes()).unwrap().try_into().unwrap();
    let block = IdBlock::parse(&bytes).unwrap();
    assert_eq!((block.guest_svn, block.policy, block.family_id, block.image_id), (0, GuestPolicy(0x30000), [0; 16], [0; 16]));
    assert_eq!(block.to_bytes(), bytes);
    assert_eq!(id_key.public().digest(), digest(ID_KEY_DIGEST));
    assert_eq!(author_key.public().digest(), digest(AUTHOR_KEY_DIGEST));

    let published = read("test_auth_block.bin");
    assert_eq!(published[0x040..0x240], read("test_id_sig.bin"));
    assert_eq!(published[0x680..0x880], read("test_auth_sig.bin"));
    assert_eq!(IdPublicKey::parse(&published[0x240..0x644]), Ok(id_key.public()));
    assert_eq!(IdPublicKey::parse(&published[0x880..0xC84]), Ok(author_key.public()));
    let keys = IdAuth::from_bytes(&published).unwrap().check(&bytes, true).unwrap();
    assert_eq!((keys.id_key_digest, keys.author_key_digest), (digest(ID_KEY_DIGEST), Some(digest(AUTHOR_KEY_DIGEST))));

    // Ours differs from the published one in the signatures' random numbers only.
    let ours = IdAuth::sign(&block, &id_key, &author_key);
    let without_signatures = |bytes: &[u8]| [&bytes[..0x040], &bytes[0x240..0x680], &bytes[0x880..]].concat();
    assert_eq!(without_signatures(ours.as_bytes()), without_signatures(&published));
    assert_eq!(ours.check(&bytes, true), Ok(keys));
}

#[test]
fn the_published_signatures_are_of_nobody_elses_keys() {
    let (Some(id_key), Some(other)) = (key("sev-snp-measure/id_key_test"), key("sev-snp-measure/author_key_test")) else { return };
    let bytes: [u8; IdBlock::LEN] = BASE64.decode(BLOCK.as_bytes()).unwrap().try_into().unwrap();
    let published = read("test_auth_block.bin");
    for (at, key, which) in [(0x240, &id_key, Which::Id), (0x880, &other, Which::Author)] {
        let mut swapped = published.clone();
        swapped[at..at + IdPublicKey::LEN].copy_from_slice(&key.public().to_bytes());
        let refused = IdAuth::from_bytes(&swapped).unwrap().check(&bytes, true);
        assert_eq!(refused, Err(IdAuthError::Signature { which }));
    }
}
