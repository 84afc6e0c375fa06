//! Files with collateral in them: one DER, or PEM with any number of certificates and revocation lists; and the names of a Trustee
//! offline store, which say what a file should hold.

use coffer_evidence::TcbVersion;

/// Most pieces one file may hold. AMD's own chains have two.
pub const MAX_PIECES: usize = 256;
/// Most bytes a file or one piece may have. A revocation list of some ten thousand entries.
pub const MAX_FILE_BYTES: usize = 1 << 20;

/// A file holds no collateral.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum BundleError {
    /// Nothing, or nothing that begins like DER or PEM.
    #[error("is neither DER nor PEM")]
    Neither,
    /// Longer than any collateral.
    #[error("has {got} bytes, expected at most {MAX_FILE_BYTES}")]
    TooLarge {
        /// Its length.
        got: usize,
    },
    /// Armour without an end, or no base64 inside.
    #[error("PEM block {number} (`{label}`) is damaged")]
    Armour {
        /// Which, from 1.
        number: usize,
        /// What its first line says, shortened to 40 characters.
        label: String,
    },
    /// PEM of something else, such as a private key.
    #[error("PEM block {number} is a `{label}`, expected CERTIFICATE or X509 CRL")]
    Label {
        /// Which, from 1.
        number: usize,
        /// What it says it is, shortened to 40 characters.
        label: String,
    },
    /// Too many.
    #[error("holds more than {MAX_PIECES} pieces")]
    TooMany,
}

/// The DER of everything in a file, in its order. What each is, and whether it is true, is not looked at.
///
/// # Errors
/// See [`BundleError`]. Total: any bytes give pieces or an error.
pub fn split(bytes: &[u8]) -> Result<Vec<Vec<u8>>, BundleError> {
    if bytes.len() > MAX_FILE_BYTES {
        return Err(BundleError::TooLarge { got: bytes.len() });
    }
    /// First byte of a DER SEQUENCE, which both certificates and lists are.
    const SEQUENCE: u8 = 0x30;
    match core::str::from_utf8(bytes) {
        // PEM is text; no long DER SEQUENCE is, for its length has a byte above 0x7F.
        Ok(text) if text.contains(BEGIN) => split_pem(text),
        _ if bytes.first() == Some(&SEQUENCE) => Ok(vec![bytes.to_vec()]),
        _ => Err(BundleError::Neither),
    }
}

const BEGIN: &str = "-----BEGIN ";
const DASHES: &str = "-----";

fn split_pem(text: &str) -> Result<Vec<Vec<u8>>, BundleError> {
    let mut pieces = Vec::new();
    let mut rest = text;
    while let Some((_, after)) = rest.split_once(BEGIN) {
        let number = pieces.len() + 1;
        let damaged = |label: &str| BundleError::Armour { number, label: shown(label) };
        let (label, after) = after.split_once(DASHES).ok_or_else(|| damaged(""))?;
        if !matches!(label, "CERTIFICATE" | "X509 CRL") {
            return Err(BundleError::Label { number, label: shown(label) });
        }
        let (body, after) = after.split_once(&format!("-----END {label}-----")).ok_or_else(|| damaged(label))?;
        let base64: String = body.chars().filter(|c| !c.is_ascii_whitespace()).collect();
        let der = data_encoding::BASE64.decode(base64.as_bytes()).map_err(|_| damaged(label))?;
        if der.is_empty() {
            return Err(damaged(label));
        }
        if pieces.len() == MAX_PIECES {
            return Err(BundleError::TooMany);
        }
        pieces.push(der);
        rest = after;
    }
    Ok(pieces)
}

fn shown(label: &str) -> String {
    label.chars().take(40).flat_map(char::escape_default).collect()
}

/// What the path of a file in a Trustee offline store says of the VCEK in it: `vcek/<hwid>/bl03_tee00_snp08_ucode115_vcek.der`,
/// with `_fmc01` before `_vcek` on Turin, or `vcek/<hwid>/vcek.der` for whatever TCB.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StoreName {
    /// Which chip.
    pub hwid: Vec<u8>,
    /// At which TCB; any, if the name says none.
    pub tcb: Option<TcbVersion>,
}

impl StoreName {
    /// Reads the last three parts of a path; none if they are not of that form.
    #[must_use]
    pub fn parse(parts: [&str; 3]) -> Option<Self> {
        let ["vcek", chip, file] = parts else { return None };
        let hwid = data_encoding::HEXLOWER_PERMISSIVE.decode(chip.as_bytes()).ok()?;
        if !matches!(hwid.len(), 8 | 64) {
            return None;
        }
        let tcb = match file.strip_suffix("_vcek.der") {
            Some(name) => Some(store_tcb(name)?),
            None if file == "vcek.der" => None,
            None => return None,
        };
        Some(Self { hwid, tcb })
    }
}

fn store_tcb(name: &str) -> Option<TcbVersion> {
    let mut parts = name.split('_');
    let mut level = |prefix: &str| -> Option<u8> {
        let digits = parts.next()?.strip_prefix(prefix)?;
        let level: u8 = digits.parse().ok()?;
        // One level has one name.
        (format!("{level:02}") == digits).then_some(level)
    };
    let (bootloader, tee, snp, microcode) = (level("bl")?, level("tee")?, level("snp")?, level("ucode")?);
    let fmc = match name.split('_').nth(4) {
        Some(_) => Some(level("fmc")?),
        None => None,
    };
    let tcb = TcbVersion { fmc, bootloader, tee, snp, microcode };
    parts.next().is_none().then_some(tcb)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn block(label: &str, der: &[u8]) -> String {
        format!("-----BEGIN {label}-----\n{}\n-----END {label}-----\n", data_encoding::BASE64.encode(der))
    }

    #[test]
    fn mixed_pem_is_taken_apart_in_order() {
        let text = format!("about this file\n{}between\n{}", block("CERTIFICATE", &[0x30, 1]), block("X509 CRL", &[0x30, 2]));
        assert_eq!(split(text.as_bytes()), Ok(vec![vec![0x30, 1], vec![0x30, 2]]));
        assert_eq!(split(&[0x30, 0x82, 1, 2]), Ok(vec![vec![0x30, 0x82, 1, 2]]));
    }

    #[test]
    fn what_is_no_collateral_is_named() {
        for bad in [&b""[..], b"hello", b"\x31\x00", b"<html>429</html>"] {
            assert_eq!(split(bad), Err(BundleError::Neither), "{bad:?}");
        }
        let key = block("PRIVATE KEY", &[0x30]);
        assert_eq!(split(key.as_bytes()), Err(BundleError::Label { number: 1, label: "PRIVATE KEY".into() }));
        let cut = block("CERTIFICATE", &[0x30; 40]);
        for cut in [&cut[..20], &cut[..40], &cut[..cut.len() - 4], &cut.replace('\n', "!"), &block("CERTIFICATE", &[])] {
            assert!(matches!(split(cut.as_bytes()), Err(BundleError::Armour { number: 1, .. })), "{cut}");
        }
        let many = block("CERTIFICATE", &[0x30]).repeat(MAX_PIECES + 1);
        assert_eq!(split(many.as_bytes()), Err(BundleError::TooMany));
        assert_eq!(split(&vec![0x30; MAX_FILE_BYTES + 1]), Err(BundleError::TooLarge { got: MAX_FILE_BYTES + 1 }));
    }

    #[test]
    fn trustees_names_say_chip_and_tcb() {
        let chip = "0102030405060708";
        let hwid = vec![1, 2, 3, 4, 5, 6, 7, 8];
        let tcb = TcbVersion { fmc: Some(1), bootloader: 3, tee: 2, snp: 5, microcode: 97 };
        let parse = |file| StoreName::parse(["vcek", chip, file]);
        let full = parse("bl03_tee02_snp05_ucode97_fmc01_vcek.der");
        assert_eq!(full, Some(StoreName { hwid: hwid.clone(), tcb: Some(tcb) }));
        let legacy = parse("bl03_tee02_snp05_ucode115_vcek.der").unwrap().tcb.unwrap();
        assert_eq!(legacy, TcbVersion { fmc: None, microcode: 115, ..tcb });
        assert_eq!(parse("vcek.der"), Some(StoreName { hwid, tcb: None }));
        for bad in [
            "vcek.pem",
            "x_vcek.der",
            "bl03_tee02_snp05_vcek.der",
            "bl3_tee02_snp05_ucode97_vcek.der",
            "bl003_tee02_snp05_ucode97_vcek.der",
            "bl+3_tee02_snp05_ucode97_vcek.der",
            "bl03_tee02_snp05_ucode97_fmc01_x01_vcek.der",
            "bl03_tee02_snp05_ucode256_vcek.der",
        ] {
            assert_eq!(parse(bad), None, "{bad}");
        }
        assert_eq!(StoreName::parse(["vlek", chip, "vcek.der"]), None);
        assert_eq!(StoreName::parse(["vcek", "0102", "vcek.der"]), None);
        assert_eq!(super::super::key::tcb_name(&tcb), "bl03_tee02_snp05_ucode97_fmc01");
    }

    proptest! {
        #[test]
        fn splitting_is_total(bytes: Vec<u8>, text in "(-----BEGIN |CERTIFICATE|X509 CRL|-----END |-----|MAo=|\n|é){0,20}") {
            let _ = split(&bytes);
            let _ = split(text.as_bytes());
        }

        #[test]
        fn what_was_armoured_is_found_again(ders in proptest::collection::vec(proptest::collection::vec(any::<u8>(), 1..50), 1..5)) {
            let text: String = ders.iter().map(|der| block("CERTIFICATE", der)).collect();
            prop_assert_eq!(split(text.as_bytes()), Ok(ders));
        }

        #[test]
        fn names_never_panic(chip: String, file: String) {
            let _ = StoreName::parse(["vcek", &chip, &file]);
        }
    }
}
