//! ID blocks and their authentication, as a host hands them to the simulator and a bundle to `coffer inspect`.
//!
//! Input: 96 bytes of block, then those of the authentication.
#![no_main]

use coffer_fuzz::{plant, vectors};
use coffer_measure::{GuestPolicy, IdAuth, IdBlock, IdPrivateKey, IdPublicKey, LaunchDigest};
use libfuzzer_sys::fuzz_target;

fuzz_target!(init: plant(seeds()), |bytes: &[u8]| {
    let (block, auth) = bytes.split_at(bytes.len().min(IdBlock::LEN));
    let parsed = IdBlock::parse(block);
    if let Ok(parsed) = &parsed {
        assert_eq!(parsed.to_bytes()[..], *block, "one form");
    }
    if let Ok(key) = IdPublicKey::parse(auth) {
        assert_eq!(key.to_bytes()[..], *auth, "one form");
    }
    let (Ok(parsed), Ok(read)) = (parsed, IdAuth::from_bytes(auth)) else { return };
    assert_eq!(read.as_bytes()[..], *auth);
    let (alone, with_author) = (read.check(&parsed.to_bytes(), false), read.check(&parsed.to_bytes(), true));
    let Ok(keys) = with_author else { return };
    assert_eq!(alone.map(|alone| alone.id_key_digest), Ok(keys.id_key_digest), "the author's part comes on top");
    assert!(keys.author_key_digest.is_some());
    let other = IdBlock { guest_svn: !parsed.guest_svn, ..parsed };
    assert!(read.check(&other.to_bytes(), true).is_err(), "signed is one block only");
});

fn seeds() -> Vec<Vec<u8>> {
    let block = IdBlock {
        launch_digest: LaunchDigest::new([1; 48]),
        family_id: [2; 16],
        image_id: [3; 16],
        guest_svn: 4,
        policy: GuestPolicy(0x30000),
    };
    let author = IdPrivateKey::from_scalar(&[5; 48]).expect("a scalar");
    let id_key = author.id_key_of("demo").expect("a scalar");
    let auth = IdAuth::sign(&block, &id_key, &author);
    let head = block.to_bytes().to_vec();
    let mut seeds = vec![[&head[..], auth.as_bytes()].concat(), [&head[..], &id_key.public().to_bytes()].concat(), head.clone()];
    // Signed by others, over another block: right up to the signature.
    seeds.extend(vectors(&["measure/virtee-sev/test_auth_block.bin"]).iter().map(|auth| [&head[..], auth].concat()));
    seeds
}
