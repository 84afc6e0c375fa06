//! The node key of this boot as PID 1 hands it over: an unencrypted OpenSSH private key, ECDSA P-384.
//!
//! Source: OpenSSH, PROTOCOL.key; RFC 4251 section 5 (string, mpint); RFC 5656 section 3.1. Integers are big-endian.

use data_encoding::BASE64;
use p384::SecretKey;
use zeroize::Zeroizing;

const BEGIN: &str = "-----BEGIN OPENSSH PRIVATE KEY-----";
const END: &str = "-----END OPENSSH PRIVATE KEY-----";
const MAGIC: &[u8] = b"openssh-key-v1\0";
const KIND: &[u8] = b"ecdsa-sha2-nistp384";
const CURVE: &[u8] = b"nistp384";

/// A file is no such key.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum OpensshError {
    /// No armour, or not base64 within.
    #[error("not in OpenSSH's private key form\nhint: PID 1 of a confidential VM makes it: /run/coffer/node_key")]
    Armour,
    /// Another kind of key, an encrypted one, or one cut short.
    #[error("not an unencrypted ECDSA P-384 key")]
    Key,
}

/// The key in a file's text.
///
/// # Errors
/// See [`OpensshError`]. Total: any bytes give a key or an error.
pub fn read_p384(text: &[u8]) -> Result<SecretKey, OpensshError> {
    let text = std::str::from_utf8(text).map_err(|_| OpensshError::Armour)?;
    let body = text.trim().strip_prefix(BEGIN).and_then(|rest| rest.strip_suffix(END)).ok_or(OpensshError::Armour)?;
    let packed: Zeroizing<Vec<u8>> = Zeroizing::new(body.bytes().filter(|byte| !byte.is_ascii_whitespace()).collect());
    let bytes = Zeroizing::new(BASE64.decode(&packed).map_err(|_| OpensshError::Armour)?);
    fields(&bytes).ok_or(OpensshError::Key)
}

fn fields(bytes: &[u8]) -> Option<SecretKey> {
    let mut rest = bytes.strip_prefix(MAGIC)?;
    let plain = string(&mut rest)? == b"none" && string(&mut rest)? == b"none" && string(&mut rest)?.is_empty();
    if !plain || number(&mut rest)? != 1 {
        return None;
    }
    let _public = string(&mut rest)?;
    let mut private = string(&mut rest)?;
    let (check, again) = (number(&mut private)?, number(&mut private)?);
    if check != again || string(&mut private)? != KIND || string(&mut private)? != CURVE {
        return None;
    }
    let point = string(&mut private)?;
    let scalar = mpint(string(&mut private)?)?;
    let secret = SecretKey::from_slice(scalar.as_slice()).ok()?;
    (secret.public_key().to_sec1_bytes().as_ref() == point).then_some(secret)
}

/// A non-negative number of at most 48 bytes, with or without the zero byte that keeps it so.
fn mpint(bytes: &[u8]) -> Option<Zeroizing<[u8; 48]>> {
    let digits = bytes.strip_prefix(&[0]).unwrap_or(bytes);
    let mut scalar = Zeroizing::new([0; 48]);
    let start = scalar.len().checked_sub(digits.len())?;
    scalar[start..].copy_from_slice(digits);
    Some(scalar)
}

fn number(rest: &mut &[u8]) -> Option<u32> {
    let (head, tail) = rest.split_first_chunk::<4>()?;
    *rest = tail;
    Some(u32::from_be_bytes(*head))
}

fn string<'a>(rest: &mut &'a [u8]) -> Option<&'a [u8]> {
    let length = usize::try_from(number(rest)?).ok()?;
    let (head, tail) = rest.split_at_checked(length)?;
    *rest = tail;
    Some(head)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn put(to: &mut Vec<u8>, bytes: &[u8]) {
        to.extend(u32::try_from(bytes.len()).expect("short").to_be_bytes());
        to.extend(bytes);
    }

    /// As `ssh-keygen -t ecdsa -b 384 -N ""` writes it; that PID 1 does too is tested there, against ssh-keygen.
    fn made(scalar: [u8; 48]) -> Vec<u8> {
        let secret = SecretKey::from_slice(&scalar).expect("a scalar");
        let point = secret.public_key().to_sec1_bytes();
        let mut public = Vec::new();
        for part in [KIND, CURVE, &point] {
            put(&mut public, part);
        }
        let mut private = [[7, 7, 7, 7]; 2].concat();
        let number = [[0].as_slice(), &scalar].concat();
        for part in [KIND, CURVE, &point, if scalar[0] < 128 { &scalar } else { &number }, b""] {
            put(&mut private, part);
        }
        private.extend([1, 2, 3]);
        let mut key = MAGIC.to_vec();
        for part in [b"none".as_slice(), b"none", b""] {
            put(&mut key, part);
        }
        key.extend([0, 0, 0, 1]);
        put(&mut key, &public);
        put(&mut key, &private);
        key
    }

    fn armoured(bytes: &[u8]) -> String {
        let text = BASE64.encode(bytes);
        let lines: Vec<&str> = text.as_bytes().chunks(70).map(|line| std::str::from_utf8(line).expect("ASCII")).collect();
        format!("{BEGIN}\n{}\n{END}\n", lines.join("\n"))
    }

    #[test]
    fn a_key_is_read_whatever_its_first_bit() {
        for scalar in [[7; 48], [0xfe; 48]] {
            let secret = read_p384(armoured(&made(scalar)).as_bytes()).expect("a key");
            assert_eq!(secret.to_bytes().as_slice(), scalar.as_slice());
        }
    }

    #[test]
    fn what_is_no_such_key_is_refused() {
        assert!(matches!(read_p384(b""), Err(OpensshError::Armour)));
        assert!(matches!(read_p384(b"ecdsa-sha2-nistp384 AAAA"), Err(OpensshError::Armour)));
        let bytes = made([7; 48]);
        // Cut anywhere before the comment, or with one bit changed anywhere in the private half.
        for end in 0..bytes.len() - 7 {
            assert!(read_p384(armoured(&bytes[..end]).as_bytes()).is_err(), "{end}");
        }
        // Behind the public half: magic, three short strings, two numbers, 136 bytes and a length.
        let private = MAGIC.len() + 20 + 4 + 4 + 136 + 4;
        for at in (0..MAGIC.len() + 24).chain(private..bytes.len() - 7) {
            let mut changed = bytes.clone();
            changed[at] ^= 1;
            assert!(read_p384(armoured(&changed).as_bytes()).is_err(), "{at}");
        }
    }

    proptest! {
        #[test]
        fn reading_is_total(bytes: Vec<u8>) {
            let _ = read_p384(&bytes);
            let _ = read_p384(format!("{BEGIN}{}{END}", BASE64.encode(&[MAGIC, &bytes].concat())).as_bytes());
        }
    }
}
