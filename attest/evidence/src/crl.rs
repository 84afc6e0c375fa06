//! X.509 certificate revocation lists as AMD issues them for each family.

use core::fmt;
use core::ops::Range;

use crate::certificate::{
    CertificateError, Extension, MAX_EXTENSIONS, Name, SignatureAlgorithm, UnixTime, extension, name, part, signature_algorithm, time,
};
use crate::der::{Malformed, Reader, tag, unsigned, whole_bits};

/// A certificate's serial number, by its magnitude: zero is empty. AMD's VCEKs and VLEKs all have zero.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Serial(Vec<u8>);

impl Serial {
    /// Of an INTEGER's content bytes; it may be zero, but not negative.
    pub(crate) fn of_integer(value: &[u8]) -> Result<Self, Malformed> {
        unsigned(value).map(|magnitude| Self(magnitude.to_vec()))
    }

    /// The magnitude, big-endian, without leading zeros.
    #[must_use]
    pub fn as_bytes(&self) -> &[u8] {
        &self.0
    }
}

/// Lower-case hexadecimal; `0` for zero.
impl fmt::Display for Serial {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.0.is_empty() {
            return f.write_str("0");
        }
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

impl fmt::Debug for Serial {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Serial({self})")
    }
}

/// A parsed revocation list (RFC 5280, section 5). Nothing in it has been verified.
///
/// It names certificates by serial number, and means those that its own issuer issued. AMD's are issued by an ARK, so they can
/// revoke an ASK or ASVK; they cannot name a VCEK or VLEK, which others issue and which all have serial number zero.
#[derive(Clone, PartialEq, Eq)]
pub struct Crl {
    der: Vec<u8>,
    tbs: Range<usize>,
    issuer: Name,
    this_update: UnixTime,
    next_update: Option<UnixTime>,
    number: Option<Serial>,
    revoked: Vec<Serial>,
    algorithm: SignatureAlgorithm,
    signature: Vec<u8>,
    knows_all_critical_extensions: bool,
}

impl Crl {
    /// Parses one list and nothing after it.
    ///
    /// # Errors
    /// See [`CertificateError`].
    pub fn from_der(der: &[u8]) -> Result<Self, CertificateError> {
        let mut outer = Reader::new(der);
        let mut list = part("outer sequence", outer.inside(tag::SEQUENCE))?;
        part("end", outer.end())?;
        let tbs = part("signed part", list.element(tag::SEQUENCE))?;
        let outer_algorithm = part("signature algorithm", list.element(tag::SEQUENCE))?.whole;
        let signature = part("signature", list.value(tag::BIT_STRING).and_then(whole_bits))?;
        part("end", list.end())?;

        let mut body = Reader::new(tbs.value);
        // v2, the only one with extensions.
        if part("version", body.value(tag::INTEGER))? != [1] {
            return Err(CertificateError::Malformed { part: "version" });
        }
        let algorithm = part("signature algorithm", body.element(tag::SEQUENCE))?.whole;
        if algorithm != outer_algorithm {
            return Err(CertificateError::AlgorithmMismatch);
        }
        let issuer = part("issuer", name(&mut body))?;
        let this_update = part("thisUpdate", body.any().and_then(|e| time(e.tag_and_value())))?;
        let next_update = part("nextUpdate", next_update(&mut body))?;
        let (revoked, entries_known) = part("revoked certificates", revoked(&mut body))?;
        let (number, list_known) = part("extensions", extensions(&mut body))?;
        part("end of signed part", body.end())?;
        let start = tbs.whole.as_ptr() as usize - der.as_ptr() as usize;
        Ok(Self {
            der: der.to_vec(),
            tbs: start..start + tbs.whole.len(),
            issuer,
            this_update,
            next_update,
            number,
            revoked,
            algorithm: signature_algorithm(algorithm),
            signature: signature.to_vec(),
            knows_all_critical_extensions: entries_known && list_known,
        })
    }

    /// Parses DER, or PEM with exactly one list.
    ///
    /// # Errors
    /// See [`CertificateError`].
    pub fn from_der_or_pem(bytes: &[u8]) -> Result<Self, CertificateError> {
        const BEGIN: &str = "-----BEGIN X509 CRL-----";
        if !bytes.starts_with(BEGIN.as_bytes()) {
            return Self::from_der(bytes);
        }
        let damaged = CertificateError::Malformed { part: "PEM armour" };
        let text = core::str::from_utf8(&bytes[BEGIN.len()..]).map_err(|_| damaged.clone())?;
        let (body, _) = text.split_once("-----END X509 CRL-----").ok_or_else(|| damaged.clone())?;
        let base64: String = body.chars().filter(|c| !c.is_ascii_whitespace()).collect();
        Self::from_der(&data_encoding::BASE64.decode(base64.as_bytes()).map_err(|_| damaged)?)
    }

    /// The whole list.
    #[must_use]
    pub fn as_der(&self) -> &[u8] {
        &self.der
    }

    /// The bytes the signature covers.
    #[must_use]
    pub fn signed_bytes(&self) -> &[u8] {
        &self.der[self.tbs.clone()]
    }

    /// Who signed it, by its own word.
    #[must_use]
    pub fn issuer(&self) -> &Name {
        &self.issuer
    }

    /// When it was issued.
    #[must_use]
    pub fn this_update(&self) -> UnixTime {
        self.this_update
    }

    /// By when the next one is due.
    #[must_use]
    pub fn next_update(&self) -> Option<UnixTime> {
        self.next_update
    }

    /// Its cRLNumber, which grows from list to list.
    #[must_use]
    pub fn number(&self) -> Option<&Serial> {
        self.number.as_ref()
    }

    /// The serial numbers it revokes, in its order.
    #[must_use]
    pub fn revoked(&self) -> &[Serial] {
        &self.revoked
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

    /// Whether it has no critical extension: those this build knows are not critical, and others change what the list means (an
    /// entry of another issuer, a list of a part only), so they must not be passed over (RFC 5280, section 5.2).
    #[must_use]
    pub fn knows_all_critical_extensions(&self) -> bool {
        self.knows_all_critical_extensions
    }
}

impl fmt::Debug for Crl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Crl(by {}, of {}, {} revoked)", self.issuer, self.this_update, self.revoked.len())
    }
}

fn next_update(body: &mut Reader<'_>) -> Result<Option<UnixTime>, Malformed> {
    for tag in [tag::UTC_TIME, tag::GENERALIZED_TIME] {
        if let Some(text) = body.optional(tag)? {
            return time((tag, text)).map(Some);
        }
    }
    Ok(None)
}

/// The serials, and whether no entry has a critical extension.
fn revoked(body: &mut Reader<'_>) -> Result<(Vec<Serial>, bool), Malformed> {
    let (mut serials, mut known) = (Vec::new(), true);
    let Some(list) = body.optional(tag::SEQUENCE)? else { return Ok((serials, known)) };
    let mut list = Reader::new(list);
    while !list.is_empty() {
        let mut entry = list.inside(tag::SEQUENCE)?;
        serials.push(Serial::of_integer(entry.value(tag::INTEGER)?)?);
        time(entry.any()?.tag_and_value())?;
        if let Some(extensions) = entry.optional(tag::SEQUENCE)? {
            known &= all(extensions)?.iter().all(|extension| !extension.critical);
        }
        entry.end()?;
    }
    Ok((serials, known))
}

/// cRLNumber, and whether no extension of the list is critical.
fn extensions(body: &mut Reader<'_>) -> Result<(Option<Serial>, bool), Malformed> {
    /// id-ce-cRLNumber 2.5.29.20
    const CRL_NUMBER: [u8; 3] = [0x55, 0x1D, 0x14];
    let Some(inside) = body.optional(tag::context(0))? else { return Ok((None, true)) };
    let mut outer = Reader::new(inside);
    let found = all(outer.value(tag::SEQUENCE)?)?;
    outer.end()?;
    let number = found.iter().find(|extension| extension.oid == CRL_NUMBER).map(|extension| {
        let mut reader = Reader::new(&extension.value);
        let value = reader.value(tag::INTEGER)?;
        reader.end()?;
        Serial::of_integer(value)
    });
    Ok((number.transpose()?, found.iter().all(|extension| !extension.critical)))
}

fn all(list: &[u8]) -> Result<Vec<Extension>, Malformed> {
    let (mut list, mut found) = (Reader::new(list), Vec::<Extension>::new());
    while !list.is_empty() {
        let extension = list.inside(tag::SEQUENCE).and_then(extension)?;
        if found.len() == MAX_EXTENSIONS || found.iter().any(|other| other.oid == extension.oid) {
            return Err(Malformed);
        }
        found.push(extension);
    }
    Ok(found)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn serials_are_numbers() {
        assert_eq!(Serial::of_integer(&[0]).unwrap().to_string(), "0");
        assert_eq!(Serial::of_integer(&[2, 0, 1]).unwrap().to_string(), "020001");
        assert_eq!(Serial::of_integer(&[0, 0x80]), Ok(Serial(vec![0x80])));
        // Negative, empty, and numbers written longer than they are.
        for bad in [&[0x80][..], &[], &[0, 0], &[0, 1]] {
            assert_eq!(Serial::of_integer(bad), Err(Malformed), "{bad:?}");
        }
    }

    #[test]
    fn extensions_are_few_and_each_its_own() {
        let list = |count: u8| (0..count).flat_map(|n| [0x30, 6, 6, 2, 0x2A, n & 0x7F, 4, 0]).collect::<Vec<_>>();
        let most = u8::try_from(MAX_EXTENSIONS).unwrap();
        assert_eq!(all(&list(most)).map(|found| found.len()), Ok(MAX_EXTENSIONS));
        assert_eq!(all(&list(most + 1)).err(), Some(Malformed));
        assert_eq!(all(&[list(2), list(1)].concat()).err(), Some(Malformed));
    }

    proptest! {
        #[test]
        fn parsing_is_total(bytes in proptest::collection::vec(any::<u8>(), 0..300)) {
            let _ = Crl::from_der(&bytes);
            let _ = Crl::from_der_or_pem(&[b"-----BEGIN X509 CRL-----", &bytes[..]].concat());
            let _ = revoked(&mut Reader::new(&bytes));
            let _ = extensions(&mut Reader::new(&bytes));
        }
    }
}
