//! What a VCEK or VLEK certificate says beyond X.509: AMD's extensions.

use core::fmt;

use serde::{Deserialize, Serialize};

use crate::certificate::{Certificate, CertificateError};
use crate::der::{Reader, small_integer, tag};
use crate::report::SigningKey;
use crate::tcb::TcbVersion;

/// Which kind of endorsement key, by the certificate's common name, which is literally `SEV-VCEK` or `SEV-VLEK`. JSON form is lower case.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum VekKind {
    /// Derived from this chip's fuses at its TCB.
    Vcek,
    /// Loaded by a cloud provider; says nothing about which chip.
    Vlek,
}

impl VekKind {
    /// The common name of certificates of this kind.
    #[must_use]
    pub const fn common_name(self) -> &'static str {
        match self {
            Self::Vcek => "SEV-VCEK",
            Self::Vlek => "SEV-VLEK",
        }
    }

    /// What signs, as a report names it.
    #[must_use]
    pub const fn signing_key(self) -> SigningKey {
        match self {
            Self::Vcek => SigningKey::Vcek,
            Self::Vlek => SigningKey::Vlek,
        }
    }

    /// The kind of a certificate, if its common name is that of one.
    #[must_use]
    pub fn of(certificate: &Certificate) -> Option<Self> {
        let name = certificate.subject().common_name()?;
        [Self::Vcek, Self::Vlek].into_iter().find(|kind| kind.common_name() == name)
    }
}

/// `VCEK` or `VLEK`.
impl fmt::Display for VekKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.signing_key().fmt(f)
    }
}

/// The hardware id of a VCEK: 64 bytes, or 8 on Turin.
#[derive(Clone, PartialEq, Eq, Hash)]
pub struct Hwid(Vec<u8>);

impl Hwid {
    /// Its 8 or 64 bytes.
    #[must_use]
    pub fn as_bytes(&self) -> &[u8] {
        &self.0
    }
}

/// Lower-case hexadecimal.
impl fmt::Display for Hwid {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

impl fmt::Debug for Hwid {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Hwid({self})")
    }
}

/// AMD's extensions of a VCEK or VLEK certificate, all under 1.3.6.1.4.1.3704.1.
///
/// Source: AMD 57230, "Versioned Chip Endorsement Key (VCEK) Certificate and KDS Interface Specification", table
/// "VCEK Certificate Fields"; Turin's `.3.9` (FMC) from its later revision.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct VekExtensions {
    /// `.2`: product name, for example `Milan-B0`.
    pub product: String,
    /// `.3.1`, `.3.2`, `.3.3`, `.3.8`, and `.3.9` on Turin: the TCB the key was derived for.
    pub tcb: TcbVersion,
    /// `.4`: which chip; VCEKs only.
    pub hwid: Option<Hwid>,
    /// `.5`: which cloud provider; VLEKs only.
    pub csp_id: Option<String>,
}

/// 1.3.6.1.4.1.3704.1, content bytes: the arc all AMD extensions lie under.
pub const AMD_ARC: [u8; 8] = [0x2B, 0x06, 0x01, 0x04, 0x01, 0x9C, 0x78, 0x01];

impl VekExtensions {
    /// Reads them.
    ///
    /// # Errors
    /// [`CertificateError::MissingExtension`] or [`CertificateError::Malformed`], naming the extension.
    pub fn of(certificate: &Certificate) -> Result<Self, CertificateError> {
        let find = |arc: &[u8]| certificate.extension(&[&AMD_ARC[..], arc].concat());
        let spl = |number: u8, name| match find(&[3, number]) {
            None => Ok(None),
            Some(value) => small_integer(value).map(Some).map_err(|_| CertificateError::Malformed { part: name }),
        };
        let required = |number, name| spl(number, name)?.ok_or(CertificateError::MissingExtension { name });
        let product = find(&[2]).ok_or(CertificateError::MissingExtension { name: "product name" })?;
        Ok(Self {
            product: ia5_string(product, "product name")?,
            tcb: TcbVersion {
                fmc: spl(9, "fmcSPL")?,
                bootloader: required(1, "blSPL")?,
                tee: required(2, "teeSPL")?,
                snp: required(3, "snpSPL")?,
                microcode: required(8, "ucodeSPL")?,
            },
            hwid: find(&[4]).map(hwid).transpose()?,
            csp_id: find(&[5]).map(|value| ia5_string(value, "CSP id")).transpose()?,
        })
    }
}

/// The bytes as they are, or in an OCTET STRING as some old certificates have them. The lengths tell them apart.
fn hwid(value: &[u8]) -> Result<Hwid, CertificateError> {
    match value {
        _ if matches!(value.len(), 8 | 64) => Ok(Hwid(value.to_vec())),
        [tag::OCTET_STRING, 64, bytes @ ..] if bytes.len() == 64 => Ok(Hwid(bytes.to_vec())),
        [tag::OCTET_STRING, 8, bytes @ ..] if bytes.len() == 8 => Ok(Hwid(bytes.to_vec())),
        _ => Err(CertificateError::Malformed { part: "HWID" }),
    }
}

fn ia5_string(value: &[u8], part: &'static str) -> Result<String, CertificateError> {
    let mut reader = Reader::new(value);
    let text = reader.value(tag::IA5_STRING).and_then(|text| reader.end().map(|()| text));
    match text {
        Ok(text) if text.is_ascii() => Ok(text.iter().map(|byte| char::from(*byte)).collect()),
        _ => Err(CertificateError::Malformed { part }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hardware_ids_are_raw_or_wrapped() {
        let raw: Vec<u8> = (0..64).collect();
        assert_eq!(hwid(&raw).unwrap().as_bytes(), raw);
        assert_eq!(hwid(&[&[4, 64][..], &raw].concat()).unwrap().as_bytes(), raw);
        assert_eq!(hwid(&raw[..8]).unwrap().to_string(), "0001020304050607");
        assert_eq!(hwid(&[&[4, 8][..], &raw[..8]].concat()).unwrap().as_bytes(), &raw[..8]);
        for bad in [&[][..], &raw[..7], &raw[..9], &raw[..63], &[4, 7, 1, 2, 3, 4, 5, 6, 7], &[4, 9, 1, 2, 3, 4, 5, 6, 7, 8]] {
            assert!(hwid(bad).is_err(), "{bad:?}");
        }
    }

    #[test]
    fn product_names_are_ia5() {
        assert_eq!(ia5_string(b"\x16\x05Genoa", "x").unwrap(), "Genoa");
        for bad in [&b""[..], b"\x16\x05Geno", b"\x0c\x05Genoa", b"\x16\x01\xff", b"\x16\x01aa"] {
            assert!(ia5_string(bad, "x").is_err(), "{bad:?}");
        }
    }
}
