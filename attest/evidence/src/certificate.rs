//! X.509 certificates as AMD issues them: RSA or P-384 keys, RSA-PSS signatures, and serial number 0 allowed.

use core::fmt;
use core::ops::Range;

use crate::crl::Serial;
use crate::der::{Malformed, Reader, boolean, tag, unsigned, whole_bits};

/// A moment, in whole seconds since 1970-01-01T00:00:00Z.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct UnixTime(pub u64);

/// Seconds since 1970, as a number.
impl fmt::Display for UnixTime {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// Most extensions a certificate, a revocation list or an entry of one may have; AMD's have at most 11. They are searched one by one, and
/// whoever sends evidence chooses how many there are.
pub(crate) const MAX_EXTENSIONS: usize = 64;

/// Bytes that are no certificate this build reads.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum CertificateError {
    /// Not DER, or not the DER of an X.509 v3 certificate.
    #[error("certificate is malformed at its {part}")]
    Malformed {
        /// The part being read.
        part: &'static str,
    },
    /// A public key that is neither RSA nor an uncompressed point on P-384.
    #[error("certificate has a public key that is neither RSA nor P-384")]
    KeyType,
    /// The two places that name the signature algorithm differ.
    #[error("certificate names two different signature algorithms")]
    AlgorithmMismatch,
    /// An extension occurs twice.
    #[error("certificate has an extension twice")]
    RepeatedExtension,
    /// PEM armour around something that is not one base64 certificate.
    #[error("PEM text holds {got} certificates, expected {expected}")]
    Pem {
        /// How many well-formed certificates it holds.
        got: usize,
        /// How many were asked for.
        expected: usize,
    },
    /// An AMD extension every VCEK has is missing.
    #[error("certificate lacks the AMD extension {name}")]
    MissingExtension {
        /// The extension's name.
        name: &'static str,
    },
}

/// Says which part of a certificate was malformed.
pub(crate) fn part<T>(part: &'static str, result: Result<T, Malformed>) -> Result<T, CertificateError> {
    result.map_err(|Malformed| CertificateError::Malformed { part })
}

/// An issuer's or subject's name.
#[derive(Clone, PartialEq, Eq)]
pub struct Name {
    der: Vec<u8>,
    common_name: Option<String>,
    others: Vec<(Vec<u8>, Vec<u8>)>,
}

impl Name {
    /// The DER of the whole name: what issuer and subject are compared by.
    #[must_use]
    pub fn as_der(&self) -> &[u8] {
        &self.der
    }

    /// Its first common name, for example `SEV-Genoa`.
    #[must_use]
    pub fn common_name(&self) -> Option<&str> {
        self.common_name.as_deref()
    }

    /// Whether everything but the first common name is the same: country, state, locality, organisation, unit, in any order.
    #[must_use]
    pub fn is_beside(&self, other: &Self) -> bool {
        self.others == other.others
    }
}

/// The first 80 characters of the common name, or `(no common name)`; control characters escaped. For messages: it is a stranger's word,
/// and X.520 lets it have 64.
impl fmt::Display for Name {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.common_name() {
            Some(name) => name.chars().take(80).try_for_each(|c| c.escape_debug().fmt(f)),
            None => f.write_str("(no common name)"),
        }
    }
}

impl fmt::Debug for Name {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Name({self})")
    }
}

/// A certificate's subject public key.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum PublicKey {
    /// RSA.
    Rsa {
        /// DER of RSAPublicKey (modulus, exponent).
        der: Vec<u8>,
        /// Bits of the modulus.
        bits: usize,
    },
    /// ECDSA on P-384.
    P384 {
        /// The point, uncompressed: 0x04, X, Y.
        point: Box<[u8; 97]>,
    },
}

/// How a certificate was signed.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum SignatureAlgorithm {
    /// RSASSA-PSS with SHA-384, MGF1 over SHA-384 and 48 bytes of salt: the only one AMD uses.
    RsaPssSha384,
    /// Any other.
    Other,
}

#[derive(Clone, PartialEq, Eq)]
pub(crate) struct Extension {
    pub(crate) oid: Vec<u8>,
    pub(crate) critical: bool,
    pub(crate) value: Vec<u8>,
}

/// A parsed certificate. Nothing in it has been verified.
#[derive(Clone, PartialEq, Eq)]
pub struct Certificate {
    der: Vec<u8>,
    tbs: Range<usize>,
    serial: Serial,
    issuer: Name,
    subject: Name,
    not_before: UnixTime,
    not_after: UnixTime,
    public_key: PublicKey,
    algorithm: SignatureAlgorithm,
    signature: Vec<u8>,
    extensions: Vec<Extension>,
}

impl Certificate {
    /// Parses one certificate and nothing after it. Serial number 0 is taken: AMD's VCEKs all have it.
    ///
    /// # Errors
    /// See [`CertificateError`].
    pub fn from_der(der: &[u8]) -> Result<Self, CertificateError> {
        let mut outer = Reader::new(der);
        let mut certificate = part("outer sequence", outer.inside(tag::SEQUENCE))?;
        part("end", outer.end())?;
        let tbs = part("signed part", certificate.element(tag::SEQUENCE))?;
        let outer_algorithm = part("signature algorithm", certificate.element(tag::SEQUENCE))?.whole;
        let signature = part("signature", certificate.value(tag::BIT_STRING).and_then(whole_bits))?;
        part("end", certificate.end())?;

        let mut body = Reader::new(tbs.value);
        part("version", version_3(&mut body))?;
        let serial = part("serial number", body.value(tag::INTEGER).and_then(Serial::of_integer))?;
        let algorithm = part("signature algorithm", body.element(tag::SEQUENCE))?.whole;
        if algorithm != outer_algorithm {
            return Err(CertificateError::AlgorithmMismatch);
        }
        let issuer = part("issuer", name(&mut body))?;
        let (not_before, not_after) = part("validity", validity(&mut body))?;
        let subject = part("subject", name(&mut body))?;
        let public_key = public_key(&mut body)?;
        let extensions = extensions(body)?;
        let start = tbs.whole.as_ptr() as usize - der.as_ptr() as usize;
        Ok(Self {
            der: der.to_vec(),
            tbs: start..start + tbs.whole.len(),
            serial,
            issuer,
            subject,
            not_before,
            not_after,
            public_key,
            algorithm: signature_algorithm(algorithm),
            signature: signature.to_vec(),
            extensions,
        })
    }

    /// Parses DER, or PEM with exactly one certificate: some hosts' certificate tables hold PEM.
    ///
    /// # Errors
    /// See [`CertificateError`].
    pub fn from_der_or_pem(bytes: &[u8]) -> Result<Self, CertificateError> {
        if !bytes.starts_with(PEM_BEGIN.as_bytes()) {
            return Self::from_der(bytes);
        }
        let ders = pem_certificates(bytes)?;
        match ders.as_slice() {
            [der] => Self::from_der(der),
            _ => Err(CertificateError::Pem { got: ders.len(), expected: 1 }),
        }
    }

    /// The whole certificate.
    #[must_use]
    pub fn as_der(&self) -> &[u8] {
        &self.der
    }

    /// The bytes the signature covers.
    #[must_use]
    pub fn signed_bytes(&self) -> &[u8] {
        &self.der[self.tbs.clone()]
    }

    /// Its serial number, by which a revocation list of its issuer names it.
    #[must_use]
    pub fn serial(&self) -> &Serial {
        &self.serial
    }

    /// Who signed it, by its own word.
    #[must_use]
    pub fn issuer(&self) -> &Name {
        &self.issuer
    }

    /// Whose key it holds.
    #[must_use]
    pub fn subject(&self) -> &Name {
        &self.subject
    }

    /// First second of validity.
    #[must_use]
    pub fn not_before(&self) -> UnixTime {
        self.not_before
    }

    /// Last second of validity.
    #[must_use]
    pub fn not_after(&self) -> UnixTime {
        self.not_after
    }

    /// The key it certifies.
    #[must_use]
    pub fn public_key(&self) -> &PublicKey {
        &self.public_key
    }

    /// How it was signed.
    #[must_use]
    pub fn signature_algorithm(&self) -> SignatureAlgorithm {
        self.algorithm
    }

    /// The signature's bytes.
    #[must_use]
    pub fn signature(&self) -> &[u8] {
        &self.signature
    }

    /// Whether it may sign certificates: basicConstraints CA and keyUsage keyCertSign, both present (RFC 5280 4.2.1).
    #[must_use]
    pub fn may_sign_certificates(&self) -> bool {
        let is_ca = self.extension(&[0x55, 0x1D, 0x13]).is_some_and(|value| {
            let mut inner = Reader::new(value);
            let ca = inner.inside(tag::SEQUENCE).and_then(|mut constraints| constraints.value(tag::BOOLEAN));
            ca.and_then(boolean) == Ok(true)
        });
        is_ca && self.key_usage(0x04)
    }

    /// Whether it may sign revocation lists: keyUsage cRLSign (RFC 5280 4.2.1.3).
    #[must_use]
    pub fn may_sign_crls(&self) -> bool {
        self.key_usage(0x02)
    }

    /// A bit of the first byte of keyUsage; false without the extension.
    fn key_usage(&self, bit: u8) -> bool {
        self.extension(&[0x55, 0x1D, 0x0F]).is_some_and(|value| {
            let bits = Reader::new(value).value(tag::BIT_STRING);
            bits.is_ok_and(|bits| bits.get(1).is_some_and(|bits| bits & bit != 0))
        })
    }

    /// Whether every critical extension is one [`Self::may_sign_certificates`] reads: others must not be passed over.
    #[must_use]
    pub fn knows_all_critical_extensions(&self) -> bool {
        self.extensions.iter().all(|e| !e.critical || matches!(e.oid.as_slice(), [0x55, 0x1D, 0x13 | 0x0F]))
    }

    /// The value of the extension with this OID (content bytes, no tag).
    #[must_use]
    pub fn extension(&self, oid: &[u8]) -> Option<&[u8]> {
        self.extensions.iter().find(|extension| extension.oid == oid).map(|extension| extension.value.as_slice())
    }
}

impl fmt::Debug for Certificate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Certificate({} by {}, {} bytes)", self.subject, self.issuer, self.der.len())
    }
}

/// First line of a PEM certificate.
const PEM_BEGIN: &str = "-----BEGIN CERTIFICATE-----";

/// The DER of every certificate of a PEM text, in order. Text between them is passed over.
///
/// # Errors
/// [`CertificateError::Malformed`] where armour has no end or is not base64 inside, or the text is not UTF-8.
pub fn pem_certificates(text: &[u8]) -> Result<Vec<Vec<u8>>, CertificateError> {
    let damaged = CertificateError::Malformed { part: "PEM armour" };
    let mut rest = core::str::from_utf8(text).map_err(|_| damaged.clone())?;
    let mut certificates = Vec::new();
    while let Some((_, after)) = rest.split_once(PEM_BEGIN) {
        let (body, after) = after.split_once("-----END CERTIFICATE-----").ok_or_else(|| damaged.clone())?;
        let base64: String = body.chars().filter(|c| !c.is_ascii_whitespace()).collect();
        certificates.push(data_encoding::BASE64.decode(base64.as_bytes()).map_err(|_| damaged.clone())?);
        rest = after;
    }
    Ok(certificates)
}

fn version_3(body: &mut Reader<'_>) -> Result<(), Malformed> {
    match body.value(tag::context(0))? {
        [tag::INTEGER, 1, 2] => Ok(()),
        _ => Err(Malformed),
    }
}

/// A Name: a sequence of sets of (type, value).
pub(crate) fn name(body: &mut Reader<'_>) -> Result<Name, Malformed> {
    let whole = body.element(tag::SEQUENCE)?;
    let (mut common_name, mut others) = (None, Vec::new());
    let mut parts = Reader::new(whole.value);
    while !parts.is_empty() {
        let mut set = parts.inside(tag::SET)?;
        while !set.is_empty() {
            let mut attribute = set.inside(tag::SEQUENCE)?;
            let oid = attribute.value(tag::OID)?;
            let value = attribute.any()?;
            attribute.end()?;
            let is_text = matches!(value.tag, tag::UTF8_STRING | tag::PRINTABLE_STRING | tag::IA5_STRING);
            // id-at-commonName, 2.5.4.3
            if oid == [0x55, 0x04, 0x03] && is_text && common_name.is_none() {
                common_name = Some(core::str::from_utf8(value.value).map_err(|_| Malformed)?.to_owned());
            } else {
                // The kind of string differs between AMD's own certificates, its text does not.
                others.push((oid.to_vec(), value.value.to_vec()));
            }
        }
    }
    others.sort();
    Ok(Name { der: whole.whole.to_vec(), common_name, others })
}

fn validity(body: &mut Reader<'_>) -> Result<(UnixTime, UnixTime), Malformed> {
    let mut dates = body.inside(tag::SEQUENCE)?;
    let times = (time(dates.any()?.tag_and_value())?, time(dates.any()?.tag_and_value())?);
    dates.end()?;
    Ok(times)
}

/// UTCTime `YYMMDDHHMMSSZ` (RFC 5280: 50–99 is 19YY) or GeneralizedTime `YYYYMMDDHHMMSSZ`, from 1970 on.
pub(crate) fn time((time_tag, text): (u8, &[u8])) -> Result<UnixTime, Malformed> {
    let digits = text.strip_suffix(b"Z").ok_or(Malformed)?;
    if !digits.iter().all(u8::is_ascii_digit) {
        return Err(Malformed);
    }
    let number = |digits: &[u8]| digits.iter().fold(0_u64, |n, d| n * 10 + u64::from(d - b'0'));
    let (year, rest) = match (time_tag, digits.len()) {
        (tag::UTC_TIME, 12) => {
            let (short, rest) = (number(&digits[..2]), &digits[2..]);
            (if short < 50 { 2000 + short } else { 1900 + short }, rest)
        }
        (tag::GENERALIZED_TIME, 14) => (number(&digits[..4]), &digits[4..]),
        _ => return Err(Malformed),
    };
    let at = |i: usize| number(&rest[i..i + 2]);
    let (month, day, hour, minute, second) = (at(0), at(2), at(4), at(6), at(8));
    let leap = year % 4 == 0 && (year % 100 != 0 || year % 400 == 0);
    let days_in = |month| match month {
        2 => 28 + u64::from(leap),
        4 | 6 | 9 | 11 => 30,
        _ => 31,
    };
    let valid = year >= 1970 && (1..=12).contains(&month) && (1..=days_in(month)).contains(&day) && hour < 24 && minute < 60 && second < 60;
    if !valid {
        return Err(Malformed);
    }
    let leaps_before = |year: u64| (year - 1) / 4 - (year - 1) / 100 + (year - 1) / 400;
    let days = (year - 1970) * 365 + leaps_before(year) - leaps_before(1970) + (1..month).map(days_in).sum::<u64>() + (day - 1);
    Ok(UnixTime(((days * 24 + hour) * 60 + minute) * 60 + second))
}

/// SubjectPublicKeyInfo.
fn public_key(body: &mut Reader<'_>) -> Result<PublicKey, CertificateError> {
    /// rsaEncryption 1.2.840.113549.1.1.1 with NULL parameters.
    const RSA: [u8; 13] = [tag::OID, 9, 0x2A, 0x86, 0x48, 0x86, 0xF7, 0x0D, 1, 1, 1, tag::NULL, 0];
    /// id-ecPublicKey 1.2.840.10045.2.1 with secp384r1 1.3.132.0.34.
    const P384: [u8; 16] = [tag::OID, 7, 0x2A, 0x86, 0x48, 0xCE, 0x3D, 2, 1, tag::OID, 5, 0x2B, 0x81, 4, 0, 0x22];
    let mut info = part("public key", body.inside(tag::SEQUENCE))?;
    let algorithm = part("public key", info.value(tag::SEQUENCE))?;
    let key = part("public key", info.value(tag::BIT_STRING).and_then(whole_bits))?;
    part("public key", info.end())?;
    if algorithm == RSA {
        let bits = part("RSA public key", rsa_bits(key))?;
        Ok(PublicKey::Rsa { der: key.to_vec(), bits })
    } else if algorithm == P384 && key.first() == Some(&4) {
        let point = Box::new(key.try_into().map_err(|_| CertificateError::KeyType)?);
        Ok(PublicKey::P384 { point })
    } else {
        Err(CertificateError::KeyType)
    }
}

fn rsa_bits(key: &[u8]) -> Result<usize, Malformed> {
    let mut outer = Reader::new(key);
    let mut numbers = outer.inside(tag::SEQUENCE)?;
    outer.end()?;
    let modulus = unsigned(numbers.value(tag::INTEGER)?)?;
    unsigned(numbers.value(tag::INTEGER)?)?;
    numbers.end()?;
    let top = modulus.first().ok_or(Malformed)?;
    Ok(modulus.len() * 8 - top.leading_zeros() as usize)
}

/// What is left of the signed part: optional unique ids, and the extensions.
fn extensions(mut body: Reader<'_>) -> Result<Vec<Extension>, CertificateError> {
    let mut found: Vec<Extension> = Vec::new();
    for unique_id in [0x81, 0x82] {
        part("unique id", body.optional(unique_id))?;
    }
    let list = part("extensions", body.optional(tag::context(3)))?;
    part("end of signed part", body.end())?;
    let Some(list) = list else { return Ok(found) };
    let mut outer = Reader::new(list);
    let mut list = part("extensions", outer.inside(tag::SEQUENCE))?;
    part("extensions", outer.end())?;
    while !list.is_empty() {
        let extension = part("extensions", list.inside(tag::SEQUENCE).and_then(extension))?;
        if found.iter().any(|other| other.oid == extension.oid) {
            return Err(CertificateError::RepeatedExtension);
        }
        if found.len() == MAX_EXTENSIONS {
            return Err(CertificateError::Malformed { part: "number of extensions" });
        }
        found.push(extension);
    }
    Ok(found)
}

pub(crate) fn extension(mut fields: Reader<'_>) -> Result<Extension, Malformed> {
    let oid = fields.value(tag::OID)?.to_vec();
    let critical = fields.optional(tag::BOOLEAN)?.map(boolean).transpose()?.unwrap_or(false);
    let value = fields.value(tag::OCTET_STRING)?.to_vec();
    fields.end()?;
    Ok(Extension { oid, critical, value })
}

/// What an AlgorithmIdentifier names: is it RSASSA-PSS with SHA-384, MGF1-SHA-384, salt 48 (RFC 4055)?
///
/// AMD writes it in two ways: with and without NULL parameters of the hash, and with and without the default trailer.
pub(crate) fn signature_algorithm(identifier: &[u8]) -> SignatureAlgorithm {
    if pss_parameters(identifier).is_ok() { SignatureAlgorithm::RsaPssSha384 } else { SignatureAlgorithm::Other }
}

fn pss_parameters(identifier: &[u8]) -> Result<(), Malformed> {
    /// id-RSASSA-PSS 1.2.840.113549.1.1.10
    const RSASSA_PSS: [u8; 9] = [0x2A, 0x86, 0x48, 0x86, 0xF7, 0x0D, 1, 1, 10];
    /// id-mgf1 1.2.840.113549.1.1.8
    const MGF1: [u8; 9] = [0x2A, 0x86, 0x48, 0x86, 0xF7, 0x0D, 1, 1, 8];
    let equal = |got: &[u8], expected: &[u8]| if got == expected { Ok(()) } else { Err(Malformed) };
    let mut algorithm = Reader::new(identifier).inside(tag::SEQUENCE)?;
    equal(algorithm.value(tag::OID)?, &RSASSA_PSS)?;
    let mut parameters = algorithm.inside(tag::SEQUENCE)?;
    algorithm.end()?;
    sha384(&mut parameters.inside(tag::context(0))?)?;
    let mut mask = parameters.inside(tag::context(1))?.inside(tag::SEQUENCE)?;
    equal(mask.value(tag::OID)?, &MGF1)?;
    sha384(&mut mask)?;
    equal(parameters.value(tag::context(2))?, &[tag::INTEGER, 1, 48])?;
    if let Some(trailer) = parameters.optional(tag::context(3))? {
        equal(trailer, &[tag::INTEGER, 1, 1])?;
    }
    parameters.end()
}

/// AlgorithmIdentifier of SHA-384, the last element of `reader`.
fn sha384(reader: &mut Reader<'_>) -> Result<(), Malformed> {
    /// id-sha384 2.16.840.1.101.3.4.2.2
    const SHA384: [u8; 9] = [0x60, 0x86, 0x48, 0x01, 0x65, 3, 4, 2, 2];
    let mut hash = reader.inside(tag::SEQUENCE)?;
    reader.end()?;
    if hash.value(tag::OID)? != SHA384 {
        return Err(Malformed);
    }
    if hash.optional(tag::NULL)?.is_some_and(|value| !value.is_empty()) {
        return Err(Malformed);
    }
    hash.end()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn times_are_those_of_the_calendar() {
        let utc = |text: &str| time((tag::UTC_TIME, text.as_bytes())).map(|t| t.0);
        let general = |text: &str| time((tag::GENERALIZED_TIME, text.as_bytes())).map(|t| t.0);
        assert_eq!(utc("700101000000Z"), Ok(0));
        assert_eq!(utc("230124175826Z"), Ok(1_674_583_106));
        assert_eq!(utc("000229235959Z"), Ok(951_868_799));
        assert_eq!(general("20480515202521Z"), Ok(2_473_187_121));
        assert_eq!(general("99991231235959Z"), Ok(253_402_300_799));
        for bad in [
            "",
            "Z",
            "230229000000Z",
            "231301000000Z",
            "230100000000Z",
            "230101240000Z",
            "230101006000Z",
            "230101000060Z",
            "2301010000Z",
            "230101000000+0000",
            "23010100000aZ",
            "690101000000Z",
            "230101000000",
        ] {
            assert_eq!(utc(bad), Err(Malformed), "{bad}");
        }
        assert_eq!(general("21000229000000Z"), Err(Malformed));
        assert_eq!(general("230124175826Z"), Err(Malformed));
    }

    #[test]
    fn pem_text_may_surround_certificates() {
        let text = b"x\n-----BEGIN CERTIFICATE-----\r\nAAEC\r\nAw==\r\n-----END CERTIFICATE-----\n# and\n-----BEGIN CERTIFICATE-----BQ==-----END CERTIFICATE-----";
        assert_eq!(pem_certificates(text).unwrap(), [vec![0, 1, 2, 3], vec![5]]);
        assert_eq!(pem_certificates(b"").unwrap(), Vec::<Vec<u8>>::new());
        for bad in [&b"-----BEGIN CERTIFICATE-----AAEC"[..], b"-----BEGIN CERTIFICATE-----A-----END CERTIFICATE-----", b"\xff"] {
            assert!(pem_certificates(bad).is_err());
        }
        let two = Certificate::from_der_or_pem(&text[2..]);
        assert_eq!(two, Err(CertificateError::Pem { got: 2, expected: 1 }));
    }

    proptest! {
        #[test]
        fn parsing_is_total(bytes in proptest::collection::vec(any::<u8>(), 0..300)) {
            let _ = Certificate::from_der(&bytes);
            let _ = Certificate::from_der_or_pem(&[PEM_BEGIN.as_bytes(), &bytes].concat());
            let _ = pss_parameters(&bytes);
            let _ = time((tag::UTC_TIME, &bytes));
        }
    }
}
