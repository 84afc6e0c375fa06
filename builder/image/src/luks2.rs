//! The LUKS2 header: so that an admin who holds S opens the disk with stock cryptsetup. The guest never reads it.
//!
//! Source: LUKS2 On-Disk Format Specification 1.1.4 (headers, JSON area, keyslots); LUKS1 specification 1.2.3 (AF-split).
//!
//! The passphrase is S, 32 raw random bytes: stretching it gains nothing, so PBKDF2 runs as briefly as cryptsetup itself allows.
//! Salts and the AF-split's random stripes come from S by HKDF under infos of their own, so the same disk has the same header.

use coffer_manifest::disk::{BLOCK_BYTES, CIPHER, DATA_OFFSET, DiskUuid, RootSecret};
use data_encoding::BASE64;
use hkdf::Hkdf;
use hmac::{Hmac, KeyInit, Mac};
use serde_json::json;
use sha2::{Digest, Sha256, Sha512};
use zeroize::Zeroizing;

use crate::xts::Xts;

/// Length of what [`header`] returns: two headers and one keyslot. The rest of the 16 MiB is unused and not read.
pub const HEADER_BYTES: u64 = AREA_OFFSET + AREA_BYTES;

/// Size of one header with its JSON area: the smallest there is.
const COPY_BYTES: usize = 16 * 1024;
const BINARY_BYTES: usize = 4096;
/// The keyslots begin behind both copies.
const AREA_OFFSET: u64 = 2 * COPY_BYTES as u64;
/// 64 key bytes × 4000 stripes, rounded up to 4096.
const AREA_BYTES: u64 = 258_048;
const KEY_BYTES: usize = 64;
const STRIPES: usize = 4000;
/// cryptsetup's minimum (`--pbkdf-force-iterations`).
const ITERATIONS: u32 = 1000;
/// The keyslot area is encrypted in 512-byte sectors, always.
const AREA_SECTOR_BYTES: usize = 512;
const SALT_BYTES: usize = 32;
/// Offsets in the binary header (specification, section 2.3).
const CHECKSUM: usize = 0x1c0;

/// Makes both headers and the keyslot of a disk: one passphrase (S), one segment of `segment_bytes`.
#[must_use]
pub fn header(secret: &RootSecret, uuid: &DiskUuid, segment_bytes: u64) -> Vec<u8> {
    let random = Randomness::new(secret, uuid);
    let volume_key = secret.volume_key(uuid);
    let slot_salt: [u8; SALT_BYTES] = random.bytes(b"keyslot salt");
    let digest_salt: [u8; SALT_BYTES] = random.bytes(b"digest salt");
    let digest: [u8; 32] = pbkdf2(volume_key.expose(), &digest_salt);

    let slot_key: Zeroizing<[u8; KEY_BYTES]> = Zeroizing::new(pbkdf2(secret.expose(), &slot_salt));
    let mut area = split(volume_key.expose(), &random);
    Xts::from_bytes(&slot_key).encrypt(&mut area, AREA_SECTOR_BYTES, 0);

    let metadata = json!({
        "keyslots": {"0": {
            "type": "luks2",
            "key_size": KEY_BYTES,
            "af": {"type": "luks1", "stripes": STRIPES, "hash": "sha256"},
            "area": {
                "type": "raw",
                "offset": AREA_OFFSET.to_string(),
                "size": AREA_BYTES.to_string(),
                "encryption": CIPHER,
                "key_size": KEY_BYTES,
            },
            "kdf": {"type": "pbkdf2", "hash": "sha256", "iterations": ITERATIONS, "salt": BASE64.encode(&slot_salt)},
        }},
        "tokens": {},
        "segments": {"0": {
            "type": "crypt",
            "offset": DATA_OFFSET.to_string(),
            "size": segment_bytes.to_string(),
            "iv_tweak": "0",
            "encryption": CIPHER,
            "sector_size": BLOCK_BYTES,
        }},
        "digests": {"0": {
            "type": "pbkdf2",
            "keyslots": ["0"],
            "segments": ["0"],
            "hash": "sha256",
            "iterations": ITERATIONS,
            "salt": BASE64.encode(&digest_salt),
            "digest": BASE64.encode(&digest),
        }},
        "config": {
            "json_size": (COPY_BYTES - BINARY_BYTES).to_string(),
            "keyslots_size": (DATA_OFFSET - AREA_OFFSET).to_string(),
        },
    })
    .to_string();

    let mut header = copy(Copy::Primary, uuid, &random.bytes(b"primary salt"), &metadata);
    header.extend(copy(Copy::Secondary, uuid, &random.bytes(b"secondary salt"), &metadata));
    header.extend_from_slice(&area);
    header
}

#[derive(Clone, Copy)]
enum Copy {
    Primary,
    Secondary,
}

/// One binary header with its JSON area and checksum.
fn copy(which: Copy, uuid: &DiskUuid, salt: &[u8; 64], metadata: &str) -> Vec<u8> {
    let (magic, offset) = match which {
        Copy::Primary => (b"LUKS\xba\xbe", 0),
        Copy::Secondary => (b"SKUL\xba\xbe", COPY_BYTES as u64),
    };
    let mut bytes = vec![0; COPY_BYTES];
    let mut put = |at: usize, field: &[u8]| bytes[at..at + field.len()].copy_from_slice(field);
    put(0x000, magic);
    put(0x006, &2_u16.to_be_bytes()); // version
    put(0x008, &(COPY_BYTES as u64).to_be_bytes());
    put(0x010, &1_u64.to_be_bytes()); // sequence number
    put(0x048, b"sha256"); // checksum algorithm
    put(0x068, salt);
    put(0x0a8, uuid.to_string().as_bytes());
    put(0x100, &offset.to_be_bytes());
    put(BINARY_BYTES, metadata.as_bytes());
    let checksum = Sha256::digest(&bytes);
    bytes[CHECKSUM..CHECKSUM + 32].copy_from_slice(&checksum);
    bytes
}

/// AF-split: random stripes, and a last one that makes their mix the key. Padded to the area's size.
fn split(key: &[u8; KEY_BYTES], random: &Randomness) -> Zeroizing<Vec<u8>> {
    let mut area = Zeroizing::new(vec![0; AREA_BYTES as usize]);
    let mut mixed = Zeroizing::new([0; KEY_BYTES]);
    random.fill(b"stripes", &mut area[..KEY_BYTES * (STRIPES - 1)]);
    for stripe in area.chunks_exact(KEY_BYTES).take(STRIPES - 1) {
        xor(&mut *mixed, stripe);
        diffuse(&mut mixed);
    }
    xor(&mut *mixed, key);
    area[KEY_BYTES * (STRIPES - 1)..KEY_BYTES * STRIPES].copy_from_slice(&*mixed);
    area
}

/// Replaces each digest-sized part by the hash of its big-endian number and itself.
fn diffuse(bytes: &mut [u8; KEY_BYTES]) {
    for (number, part) in (0_u32..).zip(bytes.chunks_exact_mut(32)) {
        let hashed = Sha256::new().chain_update(number.to_be_bytes()).chain_update(&*part).finalize();
        part.copy_from_slice(&hashed);
    }
}

fn xor(target: &mut [u8], with: &[u8]) {
    for (byte, other) in target.iter_mut().zip(with) {
        *byte ^= other;
    }
}

/// PBKDF2-HMAC-SHA-256 (RFC 8018), [`ITERATIONS`] rounds.
fn pbkdf2<const N: usize>(password: &[u8], salt: &[u8]) -> [u8; N] {
    // HMAC takes keys of any length.
    let keyed = <Hmac<Sha256> as KeyInit>::new_from_slice(password).expect("HMAC takes a key of any length");
    let mut output = [0; N];
    for (number, block) in (1_u32..).zip(output.chunks_mut(32)) {
        let mut round: [u8; 32] = keyed.clone().chain_update(salt).chain_update(number.to_be_bytes()).finalize().into_bytes().into();
        xor(block, &round);
        for _ in 1..ITERATIONS {
            round = keyed.clone().chain_update(round).finalize().into_bytes().into();
            xor(block, &round);
        }
    }
    output
}

/// What a header needs at random, from S: nobody without S can tell it from random.
struct Randomness(Hkdf<Sha512>);

impl Randomness {
    fn new(secret: &RootSecret, uuid: &DiskUuid) -> Self {
        Self(Hkdf::new(Some(uuid.as_bytes()), secret.expose()))
    }

    fn bytes<const N: usize>(&self, purpose: &[u8]) -> [u8; N] {
        let mut bytes = [0; N];
        self.fill(purpose, &mut bytes);
        bytes
    }

    fn fill(&self, purpose: &[u8], out: &mut [u8]) {
        for (number, part) in (0_u32..).zip(out.chunks_mut(8192)) {
            let info = [b"coffer/luks-header/v1/", purpose, &number.to_be_bytes()[..]].concat();
            // HKDF-Expand fails only past 255 × 64 bytes of output.
            self.0.expand(&info, part).expect("8192 bytes are within HKDF's limit");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pbkdf2_agrees_with_a_known_answer() {
        // hashlib.pbkdf2_hmac("sha256", b"password", b"salt", 1000, 64)
        let known = "632c2812e46d4604102ba7618e9d6d7d2f8128f6266b4a03264d2a0460b7dcb3\
                     88b3b1131f741bcbeb02541c8c2e97bd8bed62ab6425542e45512b7312f440eb";
        let ours: [u8; 64] = pbkdf2(b"password", b"salt");
        assert_eq!(data_encoding::HEXLOWER.encode(&ours), known);
    }

    #[test]
    fn the_split_key_merges_again() {
        let random = Randomness::new(&RootSecret::new([1; 32]), &DiskUuid::from_random([2; 16]));
        let key = [3; KEY_BYTES];
        let area = split(&key, &random);
        let mut mixed = [0; KEY_BYTES];
        let stripes: Vec<&[u8]> = area.chunks_exact(KEY_BYTES).take(STRIPES).collect();
        for stripe in &stripes[..STRIPES - 1] {
            xor(&mut mixed, stripe);
            diffuse(&mut mixed);
        }
        xor(&mut mixed, stripes[STRIPES - 1]);
        assert_eq!(mixed, key);
    }

    #[test]
    fn the_same_disk_has_the_same_header_and_another_has_another() {
        let make = |secret: u8, uuid: u8| header(&RootSecret::new([secret; 32]), &DiskUuid::from_random([uuid; 16]), 1 << 20);
        assert_eq!(make(1, 1), make(1, 1));
        assert_ne!(make(1, 1), make(2, 1));
        assert_ne!(make(1, 1), make(1, 2));
        assert_eq!(make(1, 1).len() as u64, HEADER_BYTES);
    }
}
