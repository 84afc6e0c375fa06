//! What a piece of collateral is asked for by: a chip at a TCB, a family's chain, a family's revocation list.

use core::fmt;
use core::str::FromStr;

use coffer_evidence::{Family, ReportFields, TcbVersion, VekKind};

/// The text or the report names no chip at a TCB.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum KeyError {
    /// Not hexadecimal, or of another length than this family's hardware ids.
    #[error("chip `{got}` is not {expected} hexadecimal digits, which is what {family} has")]
    Chip {
        /// The offending text, shortened to 140 characters.
        got: String,
        /// Digits expected.
        expected: usize,
        /// Of which family.
        family: Family,
    },
    /// All zeros: a masked chip, or none.
    #[error("chip id is all zeros, so it names no chip")]
    ZeroChip,
    /// Not `name=number,…` with each component once.
    #[error("TCB `{got}` is not of the form bootloader=N,tee=N,snp=N,microcode=N (Turin: fmc=N,…), each from 0 to 255")]
    Tcb {
        /// The offending text, shortened to 80 characters.
        got: String,
    },
    /// Turin has an FMC, the others do not.
    #[error("TCB {problem} `fmc`, which Turin has and no other family")]
    Fmc {
        /// `lacks` or `has`.
        problem: &'static str,
    },
}

/// A chip at a TCB: what one VCEK is for. Well-formed by construction: hardware id of the family's length and not zero, `fmc`
/// exactly on Turin.
#[derive(Clone, PartialEq, Eq, Hash)]
pub struct ChipTcb {
    family: Family,
    hwid: Vec<u8>,
    tcb: TcbVersion,
}

impl ChipTcb {
    /// Decides.
    ///
    /// # Errors
    /// See [`KeyError`].
    pub fn new(family: Family, hwid: &[u8], tcb: TcbVersion) -> Result<Self, KeyError> {
        if hwid.len() != family.hwid_len() {
            let got = data_encoding::HEXLOWER.encode(hwid).chars().take(140).collect();
            return Err(KeyError::Chip { got, expected: 2 * family.hwid_len(), family });
        }
        if hwid.iter().all(|byte| *byte == 0) {
            return Err(KeyError::ZeroChip);
        }
        match (family, tcb.fmc) {
            (Family::Turin, None) => Err(KeyError::Fmc { problem: "lacks" }),
            (Family::Milan | Family::Genoa, Some(_)) => Err(KeyError::Fmc { problem: "has" }),
            _ => Ok(Self { family, hwid: hwid.to_vec(), tcb }),
        }
    }

    /// From an operator's words: family, chip in hexadecimal, TCB as `bootloader=3,tee=0,snp=8,microcode=115`.
    ///
    /// Turin's chip may be given as its 8 bytes or as the 64 bytes of a report's CHIP_ID, whose rest is zero.
    ///
    /// # Errors
    /// See [`KeyError`].
    pub fn parse(family: Family, chip: &str, tcb: &str) -> Result<Self, KeyError> {
        let expected = 2 * family.hwid_len();
        let refuse = || KeyError::Chip { got: chip.chars().take(140).collect(), expected, family };
        let bytes = data_encoding::HEXLOWER_PERMISSIVE.decode(chip.as_bytes()).map_err(|_| refuse())?;
        let (hwid, rest) = bytes.split_at_checked(family.hwid_len()).ok_or_else(refuse)?;
        if rest.iter().any(|byte| *byte != 0) || !matches!(rest.len(), 0 | 56) {
            return Err(refuse());
        }
        Self::new(family, hwid, parse_tcb(tcb)?)
    }

    /// The keys a report may stand under; none if it names no chip.
    ///
    /// One, by its CPUID. A version 2 report has no CPUID: then every family with its TCB layout, and nothing may be fetched for it.
    #[must_use]
    pub fn of_report(fields: &ReportFields) -> Vec<Self> {
        let layout = fields.tcb_layout();
        let families: Vec<Family> = match fields.cpuid {
            Some(cpuid) => Family::of_cpuid(cpuid).into_iter().collect(),
            None => Family::ALL.into_iter().filter(|family| family.tcb_layout() == layout).collect(),
        };
        let chip = fields.chip_id.as_bytes();
        let key = |family: Family| {
            let (hwid, rest) = chip.split_at(family.hwid_len());
            let clean = rest.iter().all(|byte| *byte == 0);
            clean.then(|| Self::new(family, hwid, fields.reported_tcb).ok()).flatten()
        };
        families.into_iter().filter_map(key).collect()
    }

    /// Which family.
    #[must_use]
    pub const fn family(&self) -> Family {
        self.family
    }

    /// Which chip: 64 bytes, 8 on Turin.
    #[must_use]
    pub fn hwid(&self) -> &[u8] {
        &self.hwid
    }

    /// At which TCB.
    #[must_use]
    pub const fn tcb(&self) -> TcbVersion {
        self.tcb
    }

    /// As on the command line: what an operator copies from the log to fetch it.
    #[must_use]
    pub fn arguments(&self) -> String {
        let TcbVersion { fmc, bootloader, tee, snp, microcode } = self.tcb;
        let fmc = fmc.map(|fmc| format!("fmc={fmc},")).unwrap_or_default();
        let tcb = format!("{fmc}bootloader={bootloader},tee={tee},snp={snp},microcode={microcode}");
        format!("--family {} --chip {} --tcb {tcb}", self.family, self.chip())
    }

    /// The chip in lower-case hexadecimal.
    #[must_use]
    pub fn chip(&self) -> String {
        data_encoding::HEXLOWER.encode(&self.hwid)
    }
}

/// `genoa chip 0123…cdef at bootloader 3, tee 0, snp 8, microcode 115`: long ids by both ends.
impl fmt::Display for ChipTcb {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let chip = self.chip();
        match (chip.get(..16), chip.get(chip.len().saturating_sub(8)..)) {
            (Some(head), Some(tail)) if chip.len() > 24 => write!(f, "{} chip {head}…{tail} at {}", self.family, self.tcb),
            _ => write!(f, "{} chip {chip} at {}", self.family, self.tcb),
        }
    }
}

impl fmt::Debug for ChipTcb {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "ChipTcb({self})")
    }
}

/// Reads `bootloader=3,tee=0,snp=8,microcode=115`, in any order, each once; `fmc=1` where there is one.
///
/// # Errors
/// [`KeyError::Tcb`].
pub fn parse_tcb(text: &str) -> Result<TcbVersion, KeyError> {
    let refuse = || KeyError::Tcb { got: text.chars().take(80).collect() };
    let mut found = [None; 5];
    for part in text.split(',') {
        let (name, value) = part.split_once('=').ok_or_else(refuse)?;
        let at = TCB_NAMES.iter().position(|known| *known == name.trim()).ok_or_else(refuse)?;
        let value = value.trim();
        let digits = !value.is_empty() && value.bytes().all(|b| b.is_ascii_digit());
        let number = digits.then(|| u8::from_str(value).ok()).flatten().ok_or_else(refuse)?;
        if found[at].replace(number).is_some() {
            return Err(refuse());
        }
    }
    let [fmc, Some(bootloader), Some(tee), Some(snp), Some(microcode)] = found else { return Err(refuse()) };
    Ok(TcbVersion { fmc, bootloader, tee, snp, microcode })
}

const TCB_NAMES: [&str; 5] = ["fmc", "bootloader", "tee", "snp", "microcode"];

/// The form of Trustee's offline store, and of our database: `bl03_tee00_snp08_ucode115`, with `_fmc01` behind where there is one.
#[must_use]
pub fn tcb_name(tcb: &TcbVersion) -> String {
    let TcbVersion { fmc, bootloader, tee, snp, microcode } = *tcb;
    let mut name = format!("bl{bootloader:02}_tee{tee:02}_snp{snp:02}_ucode{microcode:02}");
    if let Some(fmc) = fmc {
        name.push_str(&format!("_fmc{fmc:02}"));
    }
    name
}

/// One thing AMD's key server has.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub enum Request {
    /// The VCEK of a chip at a TCB.
    Vcek(ChipTcb),
    /// The intermediate and root of a family: ASK for VCEKs, ASVK for VLEKs.
    Chain(Family, VekKind),
    /// The family's revocation list.
    Crl(Family),
}

impl Request {
    /// Path and query at the key server.
    ///
    /// Source: AMD 57230, "Versioned Chip Endorsement Key (VCEK) Certificate and KDS Interface Specification", chapter 4. Levels are
    /// decimal with at least two digits, the hardware id is 64 bytes, 8 on Turin.
    #[must_use]
    pub fn path(&self) -> String {
        match self {
            Self::Vcek(key) => {
                let TcbVersion { fmc, bootloader, tee, snp, microcode } = key.tcb;
                let fmc = fmc.map(|fmc| format!("fmcSPL={fmc:02}&")).unwrap_or_default();
                let product = key.family.amd_name();
                let levels = format!("{fmc}blSPL={bootloader:02}&teeSPL={tee:02}&snpSPL={snp:02}&ucodeSPL={microcode:02}");
                format!("/vcek/v1/{product}/{}?{levels}", key.chip())
            }
            Self::Chain(family, VekKind::Vcek) => format!("/vcek/v1/{}/cert_chain", family.amd_name()),
            Self::Chain(family, VekKind::Vlek) => format!("/vlek/v1/{}/cert_chain", family.amd_name()),
            Self::Crl(family) => format!("/vcek/v1/{}/crl", family.amd_name()),
        }
    }
}

/// `VCEK of genoa chip … at …`, `chain of genoa (VCEK)`, `CRL of genoa`.
impl fmt::Display for Request {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Vcek(key) => write!(f, "VCEK of {key}"),
            Self::Chain(family, VekKind::Vcek) => write!(f, "chain of {family} (VCEK)"),
            Self::Chain(family, VekKind::Vlek) => write!(f, "chain of {family} (VLEK)"),
            Self::Crl(family) => write!(f, "CRL of {family}"),
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const TCB: TcbVersion = TcbVersion { fmc: None, bootloader: 3, tee: 0, snp: 8, microcode: 115 };

    #[test]
    fn paths_are_those_of_the_key_server() {
        let genoa = ChipTcb::new(Family::Genoa, &[0xAB; 64], TCB).unwrap();
        let expected = format!("/vcek/v1/Genoa/{}?blSPL=03&teeSPL=00&snpSPL=08&ucodeSPL=115", "ab".repeat(64));
        assert_eq!(Request::Vcek(genoa).path(), expected);
        let tcb = TcbVersion { fmc: Some(1), bootloader: 3, tee: 2, snp: 5, microcode: 97 };
        let turin = ChipTcb::new(Family::Turin, &[1, 2, 3, 4, 5, 6, 7, 8], tcb).unwrap();
        let expected = "/vcek/v1/Turin/0102030405060708?fmcSPL=01&blSPL=03&teeSPL=02&snpSPL=05&ucodeSPL=97";
        assert_eq!(Request::Vcek(turin).path(), expected);
        assert_eq!(Request::Chain(Family::Milan, VekKind::Vcek).path(), "/vcek/v1/Milan/cert_chain");
        assert_eq!(Request::Chain(Family::Genoa, VekKind::Vlek).path(), "/vlek/v1/Genoa/cert_chain");
        assert_eq!(Request::Crl(Family::Turin).path(), "/vcek/v1/Turin/crl");
    }

    #[test]
    fn only_well_formed_keys_exist() {
        let turin = TcbVersion { fmc: Some(0), ..TCB };
        assert_eq!(ChipTcb::new(Family::Genoa, &[0; 64], TCB), Err(KeyError::ZeroChip));
        assert!(matches!(ChipTcb::new(Family::Genoa, &[1; 8], TCB), Err(KeyError::Chip { expected: 128, .. })));
        assert!(matches!(ChipTcb::new(Family::Turin, &[1; 64], turin), Err(KeyError::Chip { expected: 16, .. })));
        assert_eq!(ChipTcb::new(Family::Turin, &[1; 8], TCB), Err(KeyError::Fmc { problem: "lacks" }));
        assert_eq!(ChipTcb::new(Family::Milan, &[1; 64], turin), Err(KeyError::Fmc { problem: "has" }));
    }

    #[test]
    fn operators_words_are_read_and_mistakes_named() {
        let words = "bootloader=3, tee=0,snp=8,microcode=115";
        let key = ChipTcb::parse(Family::Genoa, &"Ab".repeat(64), words).unwrap();
        assert_eq!(key, ChipTcb::new(Family::Genoa, &[0xAB; 64], TCB).unwrap());
        let turin = format!("fmc=1,{words}");
        let short = ChipTcb::parse(Family::Turin, "0102030405060708", &turin).unwrap();
        let long = ChipTcb::parse(Family::Turin, &format!("0102030405060708{}", "00".repeat(56)), &turin).unwrap();
        assert_eq!(short, long);
        assert_eq!(short.arguments(), "--family turin --chip 0102030405060708 --tcb fmc=1,bootloader=3,tee=0,snp=8,microcode=115");
        for bad in ["", "bootloader=3", "bootloader=3,tee=0,snp=8,microcode=256", "bootloader=3,tee=0,snp=8,snp=8", "a=1", "tee=+1"] {
            assert!(matches!(parse_tcb(bad), Err(KeyError::Tcb { .. })), "{bad}");
        }
        for bad in ["", "zz", &"ab".repeat(63), &"ab".repeat(65), &format!("0102030405060708{}", "01".repeat(56))] {
            assert!(ChipTcb::parse(Family::Turin, bad, &turin).is_err(), "{bad}");
        }
    }

    #[test]
    fn names_are_those_of_trustees_store() {
        assert_eq!(tcb_name(&TCB), "bl03_tee00_snp08_ucode115");
        assert_eq!(tcb_name(&TcbVersion { fmc: Some(1), ..TCB }), "bl03_tee00_snp08_ucode115_fmc01");
    }

    proptest! {
        #[test]
        fn operators_words_never_panic(chip: String, tcb in "[ -~]{0,60}", pick in 0..3usize) {
            let _ = ChipTcb::parse(Family::ALL[pick], &chip, &tcb);
        }

        #[test]
        fn tcbs_round_trip(bootloader: u8, tee: u8, snp: u8, microcode: u8, fmc: Option<u8>) {
            let tcb = TcbVersion { fmc, bootloader, tee, snp, microcode };
            let mut text = format!("bootloader={bootloader},tee={tee},snp={snp},microcode={microcode}");
            if let Some(fmc) = fmc {
                text.push_str(&format!(",fmc={fmc}"));
            }
            prop_assert_eq!(parse_tcb(&text), Ok(tcb));
        }
    }
}
