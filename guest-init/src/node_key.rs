//! The workload's node key in the form of OpenSSH, which every Flower reads.
//!
//! Source: OpenSSH, PROTOCOL.key (`openssh-key-v1`, here without encryption); RFC 5656 section 3.1 (`ecdsa-sha2-nistp384`); RFC 4251
//! section 5 (string, mpint; all integers big-endian).

use coffer_protocol::P384Key;
use data_encoding::BASE64;
use zeroize::Zeroizing;

const KEY_TYPE: &[u8] = b"ecdsa-sha2-nistp384";
const CURVE: &[u8] = b"nistp384";
/// First bytes of the private form.
const MAGIC: &[u8] = b"openssh-key-v1\0";
/// The private part is padded to a multiple of this where nothing encrypts it.
const BLOCK: usize = 8;
/// Base64 characters per line, as ssh-keygen writes them.
const LINE_CHARS: usize = 70;
/// More than any private form has, so that no buffer ever moves and leaves a copy behind.
const MAX_PRIVATE_BYTES: usize = 512;

/// The private key file: the text of `ssh-keygen -t ecdsa -b 384 -N "" -C ""`.
///
/// `secret` is the scalar of `public`, big-endian. `check` is any number; a reader compares its two copies to see whether it decrypted
/// well. The same arguments give the same text.
#[must_use]
pub fn openssh_private(secret: &[u8; 48], public: &P384Key, check: u32) -> Zeroizing<String> {
    let mut part = Zeroizing::new(Vec::with_capacity(MAX_PRIVATE_BYTES));
    part.extend_from_slice(&check.to_be_bytes());
    part.extend_from_slice(&check.to_be_bytes());
    part.extend_from_slice(&public_blob(public));
    put_mpint(&mut part, secret);
    put_string(&mut part, b""); // comment
    let padding = part.len().next_multiple_of(BLOCK) - part.len();
    part.extend((1..=BLOCK as u8).take(padding));

    let mut key = Zeroizing::new(Vec::with_capacity(MAX_PRIVATE_BYTES));
    key.extend_from_slice(MAGIC);
    put_string(&mut key, b"none"); // cipher
    put_string(&mut key, b"none"); // key derivation
    put_string(&mut key, b""); // its options
    key.extend_from_slice(&1_u32.to_be_bytes()); // keys
    put_string(&mut key, &public_blob(public));
    put_string(&mut key, &part);
    armored(&key)
}

/// The public key's one line, newline included.
#[must_use]
pub fn openssh_public(public: &P384Key) -> String {
    format!("ecdsa-sha2-nistp384 {}\n", BASE64.encode(&public_blob(public)))
}

fn public_blob(public: &P384Key) -> Vec<u8> {
    let mut blob = Vec::new();
    put_string(&mut blob, KEY_TYPE);
    put_string(&mut blob, CURVE);
    put_string(&mut blob, &public.to_sec1());
    blob
}

fn put_string(to: &mut Vec<u8>, bytes: &[u8]) {
    // Ours are some hundred bytes.
    to.extend_from_slice(&(bytes.len() as u32).to_be_bytes());
    to.extend_from_slice(bytes);
}

/// A positive number: no leading zeros, but one where the first bit would read as a sign.
fn put_mpint(to: &mut Vec<u8>, number: &[u8]) {
    let zeros = number.iter().take_while(|byte| **byte == 0).count();
    let digits = &number[zeros..];
    let sign = usize::from(digits.first().is_some_and(|first| first & 0x80 != 0));
    to.extend_from_slice(&((digits.len() + sign) as u32).to_be_bytes());
    to.extend_from_slice(&[0; 1][..sign]);
    to.extend_from_slice(digits);
}

fn armored(key: &[u8]) -> Zeroizing<String> {
    let mut base64 = Zeroizing::new(String::with_capacity(BASE64.encode_len(MAX_PRIVATE_BYTES)));
    BASE64.encode_append(key, &mut base64);
    let mut text = Zeroizing::new(String::with_capacity(2 * MAX_PRIVATE_BYTES));
    text.push_str("-----BEGIN OPENSSH PRIVATE KEY-----\n");
    let mut rest = base64.as_str();
    while !rest.is_empty() {
        let (line, after) = rest.split_at(rest.len().min(LINE_CHARS));
        text.push_str(line);
        text.push('\n');
        rest = after;
    }
    text.push_str("-----END OPENSSH PRIVATE KEY-----\n");
    text
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::PermissionsExt;
    use std::process::Command;

    use p384::SecretKey;
    use p384::elliptic_curve::sec1::ToSec1Point as _;
    use proptest::prelude::*;

    use super::*;

    fn public(secret: &[u8; 48]) -> P384Key {
        let secret = SecretKey::from_slice(secret).expect("a scalar");
        P384Key::from_sec1(secret.public_key().to_sec1_point(false).as_bytes()).expect("a point")
    }

    /// Scalars whose mpint has 49, 48 and 47 bytes.
    fn scalars() -> [[u8; 48]; 3] {
        let mut short = [0x11; 48];
        short[0] = 0;
        [[0x81; 48], [0x07; 48], short]
    }

    #[test]
    fn the_form_is_golden() {
        let secret = [7; 48];
        let text = openssh_private(&secret, &public(&secret), 0x0102_0304);
        let base64: String = text.lines().filter(|line| !line.starts_with('-')).collect();
        let expected = concat!(
            "b3BlbnNzaC1rZXktdjEAAAAABG5vbmUAAAAEbm9uZQAAAAAAAAABAAAAiAAAABNlY2RzYS1zaGEyLW5pc3RwMzg0AAAACG5pc3RwMzg0AAAAYQ",
            "SwG/xKLX/iCV5mJ8xcr5q9FT1bVR/n9tphXanRv9EB6NGR6FkCwKNOqjoW5maIC3MFn2WMTWpuV8CVnegBCbD6a1a9Y9HVcBqT0VMi8iZ6FVJm",
            "QcYM0HyRKm31iqmT2JsAAADIAQIDBAECAwQAAAATZWNkc2Etc2hhMi1uaXN0cDM4NAAAAAhuaXN0cDM4NAAAAGEEsBv8Si1/4gleZifMXK+avR",
            "U9W1Uf5/baYV2p0b/RAejRkehZAsCjTqo6FuZmiAtzBZ9ljE1qblfAlZ3oAQmw+mtWvWPR1XAak9FTIvImehVSZkHGDNB8kSpt9Yqpk9ibAAAA",
            "MAcHBwcHBwcHBwcHBwcHBwcHBwcHBwcHBwcHBwcHBwcHBwcHBwcHBwcHBwcHBwcHBwAAAAA=",
        );
        assert_eq!(base64, expected, "as another implementation writes it");
        let line = concat!(
            "ecdsa-sha2-nistp384 AAAAE2VjZHNhLXNoYTItbmlzdHAzODQAAAAIbmlzdHAzODQAAABhBLAb/Eotf+IJXmYnzFyvmr0VPVtVH+f22mFdqd",
            "G/0QHo0ZHoWQLAo06qOhbmZogLcwWfZYxNam5XwJWd6AEJsPprVr1j0dVwGpPRUyLyJnoVUmZBxgzQfJEqbfWKqZPYmw==\n",
        );
        assert_eq!(openssh_public(&public(&secret)), line);
        assert!(text.lines().all(|line| line.len() <= LINE_CHARS) && text.ends_with("-----END OPENSSH PRIVATE KEY-----\n"));
        assert!(text.capacity() >= text.len() && text.len() < 2 * MAX_PRIVATE_BYTES);
    }

    /// OpenSSH reads our private form and derives our public line from it; it re-encodes the whole key, so that a wrong length or
    /// padding is refused.
    #[test]
    fn openssh_reads_it() {
        let dir = tempfile::tempdir().expect("tempdir");
        for secret in scalars() {
            let path = dir.path().join("node_key");
            let _ = fs::remove_file(&path);
            fs::write(&path, openssh_private(&secret, &public(&secret), 9).as_bytes()).expect("write");
            fs::set_permissions(&path, fs::Permissions::from_mode(0o400)).expect("chmod");
            let Ok(output) = Command::new("ssh-keygen").arg("-y").arg("-f").arg(&path).output() else {
                eprintln!("skipped: no ssh-keygen on this machine");
                return;
            };
            assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
            let line = String::from_utf8(output.stdout).expect("text");
            assert_eq!(line.trim_end(), openssh_public(&public(&secret)).trim_end());
        }
    }

    /// What Flower does with the two files: `load_ssh_private_key` and `load_ssh_public_key` of Python's `cryptography`.
    #[test]
    fn the_library_of_flower_reads_it() {
        const SCRIPT: &str = "import sys
from cryptography.hazmat.primitives.serialization import load_ssh_private_key, load_ssh_public_key
private = load_ssh_private_key(open(sys.argv[1], 'rb').read(), None)
public = load_ssh_public_key(open(sys.argv[2], 'rb').read())
assert private.public_key() == public and private.curve.name == 'secp384r1'
print(hex(private.private_numbers().private_value))";
        let has_library = Command::new("python3").args(["-c", "import cryptography"]).output().is_ok_and(|output| output.status.success());
        if !has_library {
            eprintln!("skipped: no Python with `cryptography` on this machine");
            return;
        }
        let dir = tempfile::tempdir().expect("tempdir");
        let (key, line) = (dir.path().join("node_key"), dir.path().join("node_key.pub"));
        for secret in scalars() {
            fs::write(&key, openssh_private(&secret, &public(&secret), 9).as_bytes()).expect("write");
            fs::write(&line, openssh_public(&public(&secret))).expect("write");
            let output = Command::new("python3").args(["-c", SCRIPT]).arg(&key).arg(&line).output().expect("python3");
            assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
            let number = String::from_utf8(output.stdout).expect("text");
            let digits = number.trim().trim_start_matches("0x");
            assert_eq!(format!("{digits:0>96}"), data_encoding::HEXLOWER.encode(&secret));
        }
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]
        /// Any key fits the buffers that never move, and its private part is whole blocks.
        #[test]
        fn every_key_has_room(secret in any::<[u8; 48]>(), check: u32) {
            prop_assume!(SecretKey::from_slice(&secret).is_ok());
            let text = openssh_private(&secret, &public(&secret), check);
            let base64: String = text.lines().filter(|line| !line.starts_with('-')).collect();
            let key = BASE64.decode(base64.as_bytes()).expect("base64");
            prop_assert!(key.len() < MAX_PRIVATE_BYTES);
            prop_assert_eq!(&key[..MAGIC.len()], MAGIC);
            let part = key.len() - MAGIC.len() - 3 * 4 - 8 - 4 - (4 + 136) - 4;
            prop_assert_eq!(part % BLOCK, 0);
        }
    }
}
