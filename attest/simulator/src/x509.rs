//! Certificates in the form AMD gives them.

use coffer_evidence::UnixTime;
use ring::rand::SystemRandom;
use ring::rsa::KeyPair;
use ring::signature::RSA_PSS_SHA384;

use crate::authority::KeyError;
use crate::der::{bit_string, context, element, integer, null, octet_string, oid, sequence, set, time, utf8_string};

/// 1.2.840.113549.1.1, content bytes: PKCS #1.
const PKCS1: [u8; 8] = [0x2A, 0x86, 0x48, 0x86, 0xF7, 0x0D, 1, 1];

/// What names these certificates apart from AMD's.
pub(crate) const ORGANISATION: &str = "Coffer simulator";

/// A certificate to be signed.
pub(crate) struct Template<'a> {
    pub(crate) serial: u32,
    pub(crate) issuer: &'a str,
    pub(crate) subject: &'a str,
    pub(crate) organisation: &'a str,
    pub(crate) not_before: UnixTime,
    pub(crate) not_after: UnixTime,
    pub(crate) public_key: Vec<u8>,
    pub(crate) extensions: Vec<Vec<u8>>,
}

impl Template<'_> {
    /// Signs it with RSA-PSS, SHA-384, salt of 48 bytes.
    pub(crate) fn sign(&self, key: &KeyPair) -> Result<Vec<u8>, KeyError> {
        let algorithm = rsa_pss_sha384();
        let extensions: Vec<&[u8]> = self.extensions.iter().map(Vec::as_slice).collect();
        let tbs = sequence(&[
            &context(0, &integer(2)),
            &integer(self.serial),
            &algorithm,
            &name(self.issuer, ORGANISATION),
            &sequence(&[&time(self.not_before), &time(self.not_after)]),
            &name(self.subject, self.organisation),
            &self.public_key,
            &context(3, &sequence(&extensions)),
        ]);
        signed(&tbs, key)
    }
}

/// What is signed, how, and the signature: the outer form of certificates and revocation lists.
pub(crate) fn signed(tbs: &[u8], key: &KeyPair) -> Result<Vec<u8>, KeyError> {
    let mut signature = vec![0; key.public().modulus_len()];
    key.sign(&RSA_PSS_SHA384, &SystemRandom::new(), tbs, &mut signature).map_err(|_| KeyError::Sign)?;
    Ok(sequence(&[tbs, &rsa_pss_sha384(), &bit_string(&signature)]))
}

/// A name like AMD's, of another organisation.
pub(crate) fn name(common_name: &str, in_organisation: &str) -> Vec<u8> {
    let part = |oid_end, text| set(&[&sequence(&[&oid(&[0x55, 0x04, oid_end]), &utf8_string(text)])]);
    let (organisation, organisational_unit, cn) = (10, 11, 3);
    sequence(&[&part(organisational_unit, "Not AMD hardware"), &part(organisation, in_organisation), &part(cn, common_name)])
}

pub(crate) fn rsa_pss_sha384() -> Vec<u8> {
    let pkcs1 = |last| oid(&[&PKCS1[..], &[last]].concat());
    let sha384 = sequence(&[&oid(&[0x60, 0x86, 0x48, 0x01, 0x65, 3, 4, 2, 2]), &null()]);
    let parameters = sequence(&[
        &context(0, &sha384),
        &context(1, &sequence(&[&pkcs1(8), &sha384])),
        &context(2, &integer(48)),
        &context(3, &integer(1)),
    ]);
    sequence(&[&pkcs1(10), &parameters])
}

/// SubjectPublicKeyInfo of an RSA key, from its RSAPublicKey.
pub(crate) fn rsa_public_key(der: &[u8]) -> Vec<u8> {
    let algorithm = sequence(&[&oid(&[&PKCS1[..], &[1]].concat()), &null()]);
    sequence(&[&algorithm, &bit_string(der)])
}

/// SubjectPublicKeyInfo of a point on P-384, uncompressed.
pub(crate) fn p384_public_key(point: &[u8]) -> Vec<u8> {
    let ec_public_key = oid(&[0x2A, 0x86, 0x48, 0xCE, 0x3D, 2, 1]);
    let secp384r1 = oid(&[0x2B, 0x81, 4, 0, 0x22]);
    sequence(&[&sequence(&[&ec_public_key, &secp384r1]), &bit_string(point)])
}

pub(crate) fn extension(oid_content: &[u8], critical: bool, value: &[u8]) -> Vec<u8> {
    let critical = if critical { element(0x01, &[0xFF]) } else { vec![] };
    sequence(&[&oid(oid_content), &critical, &octet_string(value)])
}

/// basicConstraints and keyUsage of a certificate that may sign others: both critical, as AMD's are.
pub(crate) fn ca_extensions(signs_crls: bool) -> Vec<Vec<u8>> {
    let is_ca = sequence(&[&element(0x01, &[0xFF])]);
    // keyCertSign is bit 5, cRLSign bit 6.
    let usage = if signs_crls { element(0x03, &[1, 0x06]) } else { element(0x03, &[2, 0x04]) };
    vec![extension(&[0x55, 0x1D, 0x0F], true, &usage), extension(&[0x55, 0x1D, 0x13], true, &is_ca)]
}
