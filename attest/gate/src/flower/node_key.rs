//! The forms a node key has in Flower: a file for `flwr supernode register`, and a header of every Fleet call.

use coffer_token::lease::{NodeKey, NodeKeyError};
use data_encoding::BASE64;

/// SubjectPublicKeyInfo (RFC 5480) of a P-384 key up to the point: id-ecPublicKey, secp384r1, 97 bytes and no unused bit.
const SPKI_PREFIX: [u8; 23] = [
    0x30, 0x76, 0x30, 0x10, 0x06, 0x07, 0x2a, 0x86, 0x48, 0xce, 0x3d, 0x02, 0x01, 0x06, 0x05, 0x2b, 0x81, 0x04, 0x00, 0x22, 0x03, 0x62,
    0x00,
];

/// Characters of base64 in a line of PEM (RFC 7468, section 2).
const PEM_LINE: usize = 64;

/// One line of an OpenSSH public key file (RFC 5656, section 3.1): the only form that `flwr supernode register` takes, in every version
/// that has the command.
///
/// # Errors
/// If the key is no point of P-384.
pub fn openssh_line(key: &NodeKey) -> Result<String, NodeKeyError> {
    let point = key.to_sec1()?;
    let mut blob = Vec::with_capacity(136);
    for part in [b"ecdsa-sha2-nistp384".as_slice(), b"nistp384", &point] {
        // The longest part has 97 bytes.
        blob.extend_from_slice(&[0, 0, 0, part.len() as u8]);
        blob.extend_from_slice(part);
    }
    Ok(format!("ecdsa-sha2-nistp384 {}\n", BASE64.encode(&blob)))
}

/// What `flwr-public-key` is in every HTTP call of the node: base64, padded, of the PEM of its SubjectPublicKeyInfo.
///
/// # Errors
/// If the key is no point of P-384.
pub fn http_header(key: &NodeKey) -> Result<String, NodeKeyError> {
    let mut spki = SPKI_PREFIX.to_vec();
    spki.extend_from_slice(&key.to_sec1()?);
    let text = BASE64.encode(&spki);
    let mut pem = String::from("-----BEGIN PUBLIC KEY-----\n");
    let mut rest = text.as_str();
    while !rest.is_empty() {
        let (line, after) = rest.split_at(rest.len().min(PEM_LINE));
        pem.push_str(line);
        pem.push('\n');
        rest = after;
    }
    pem.push_str("-----END PUBLIC KEY-----\n");
    Ok(BASE64.encode(pem.as_bytes()))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The point of the P-384 key that is seven times the generator.
    fn key() -> NodeKey {
        let secret = p384::SecretKey::from_slice(&[7; 48]).expect("a scalar");
        NodeKey::from_sec1(&secret.public_key().to_sec1_bytes()).expect("a point")
    }

    #[test]
    fn the_header_is_the_pem_that_an_independent_encoder_writes() {
        use p384::pkcs8::{EncodePublicKey, LineEnding};
        let secret = p384::SecretKey::from_slice(&[7; 48]).expect("a scalar");
        let pem = secret.public_key().to_public_key_pem(LineEnding::LF).expect("PEM");
        assert_eq!(http_header(&key()).expect("a header"), BASE64.encode(pem.as_bytes()));
    }

    #[test]
    fn the_file_is_one_line_of_three_length_prefixed_parts() {
        let line = openssh_line(&key()).expect("a line");
        let (kind, base64) = line.trim_end().split_once(' ').expect("two words");
        assert_eq!(kind, "ecdsa-sha2-nistp384");
        let blob = BASE64.decode(base64.as_bytes()).expect("base64");
        assert_eq!(blob.len(), 4 + 19 + 4 + 8 + 4 + 97);
        assert_eq!(blob[39..], key().to_sec1().expect("the point"));
    }
}
