//! `coffer-attest.toml`: what an operator decides after `init`. Strict: unknown keys and schemas are errors.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::path::Path;

use coffer_evidence::{Family, TcbVersion};
use coffer_manifest::RootOfTrust;
use serde::Deserialize;
use serde::de::{Deserializer, Error as _};

use crate::layout::{LayoutError, read_small};

/// The schema this build reads.
const SCHEMA: u32 = 1;

/// Settings do not load.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ConfigError {
    /// The file.
    #[error(transparent)]
    File(#[from] LayoutError),
    /// Not UTF-8.
    #[error("{path} is not UTF-8 text")]
    Text {
        /// The file.
        path: String,
    },
    /// Not TOML of this shape.
    #[error("{path}: {source}")]
    Parse {
        /// The file.
        path: String,
        /// Where and what, with the line.
        source: toml::de::Error,
    },
    /// A family without a floor is a family that is always refused; better said at the start.
    #[error("{path}: family `{family}` is accepted but has no [tcb_floor.{family}]")]
    NoFloor {
        /// The file.
        path: String,
        /// The family.
        family: &'static str,
    },
    /// Turin has a fifth component, the others do not.
    #[error("{path}: [tcb_floor.{family}] {problem}")]
    Fmc {
        /// The file.
        path: String,
        /// The family.
        family: &'static str,
        /// What is wrong.
        problem: &'static str,
    },
    /// A limit that would refuse everything.
    #[error("{path}: {field} is {got}, expected at least 1")]
    Limit {
        /// The file.
        path: String,
        /// The key.
        field: &'static str,
        /// Its value.
        got: u32,
    },
}

/// The settings, decided.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Config {
    /// The service's name in its certificate; admins sign their calls for it.
    pub tls_name: String,
    /// `iss` of every token.
    pub issuer: String,
    /// `aud` of job tokens.
    pub audience: String,
    /// Families whose evidence is accepted; each has a floor.
    pub families: Vec<Family>,
    /// Lowest TCB per family.
    pub floors: BTreeMap<Family, TcbVersion>,
    /// Bounds.
    pub limits: Limits,
}

/// Bounds on what unauthenticated peers can use up.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Limits {
    /// Open connections, of which one source address may hold a quarter.
    pub connections: u32,
    /// Requests per second one source address may send in the long run.
    pub requests_per_second_per_source: u32,
    /// Requests one source address may send at once.
    pub burst_per_source: u32,
    /// Requests that may wait for their turn to be worked on; the source with most waiting gives way.
    pub waiting: u32,
    /// Decisions (tokens, secrets, refusals) per minute that one site, or one processor whose evidence is refused, may cause in
    /// the long run. Each is an entry of the audit log.
    pub decisions_per_minute_per_site: u32,
    /// Decisions one site may cause at once.
    pub burst_per_site: u32,
}

impl Default for Limits {
    /// One site needs 5 requests for a boot, 3 of them decisions, and one decision for a renewal every few minutes; several
    /// hundred sites may sit behind one address.
    fn default() -> Self {
        Self {
            connections: 1024,
            requests_per_second_per_source: 50,
            burst_per_source: 500,
            waiting: 512,
            decisions_per_minute_per_site: 10,
            burst_per_site: 60,
        }
    }
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Raw {
    #[serde(rename = "schema")]
    _schema: Schema,
    tls_name: String,
    issuer: String,
    audience: String,
    families: Vec<FamilyName>,
    #[serde(default)]
    tcb_floor: BTreeMap<FamilyName, Floor>,
    #[serde(default)]
    limits: Limits,
}

struct Schema;

impl<'de> Deserialize<'de> for Schema {
    fn deserialize<D: Deserializer<'de>>(d: D) -> Result<Self, D::Error> {
        match u32::deserialize(d)? {
            SCHEMA => Ok(Self),
            other => Err(D::Error::custom(format!("schema {other} is not supported; this build reads {SCHEMA}"))),
        }
    }
}

#[derive(Deserialize, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
#[serde(rename_all = "lowercase")]
enum FamilyName {
    Milan,
    Genoa,
    Turin,
}

impl FamilyName {
    const fn decided(self) -> (Family, &'static str) {
        match self {
            Self::Milan => (Family::Milan, "milan"),
            Self::Genoa => (Family::Genoa, "genoa"),
            Self::Turin => (Family::Turin, "turin"),
        }
    }
}

#[derive(Deserialize, Clone, Copy)]
#[serde(deny_unknown_fields)]
struct Floor {
    fmc: Option<u8>,
    bootloader: u8,
    tee: u8,
    snp: u8,
    microcode: u8,
}

impl Config {
    /// Reads and decides.
    ///
    /// # Errors
    /// See [`ConfigError`].
    pub fn read(path: &Path) -> Result<Self, ConfigError> {
        let shown = path.display().to_string();
        let bytes = read_small(path)?;
        let text = std::str::from_utf8(&bytes).map_err(|_| ConfigError::Text { path: shown.clone() })?;
        Self::parse(&shown, text)
    }

    fn parse(path: &str, text: &str) -> Result<Self, ConfigError> {
        let raw: Raw = toml::from_str(text).map_err(|source| ConfigError::Parse { path: path.to_owned(), source })?;
        let mut floors = BTreeMap::new();
        for (name, floor) in &raw.tcb_floor {
            let (family, shown) = name.decided();
            floors.insert(family, decide_floor(path, family, shown, *floor)?);
        }
        let mut families = Vec::new();
        for name in &raw.families {
            let (family, shown) = name.decided();
            if !floors.contains_key(&family) {
                return Err(ConfigError::NoFloor { path: path.to_owned(), family: shown });
            }
            families.push(family);
        }
        for (field, got) in [
            ("limits.connections", raw.limits.connections),
            ("limits.requests_per_second_per_source", raw.limits.requests_per_second_per_source),
            ("limits.burst_per_source", raw.limits.burst_per_source),
            ("limits.waiting", raw.limits.waiting),
            ("limits.decisions_per_minute_per_site", raw.limits.decisions_per_minute_per_site),
            ("limits.burst_per_site", raw.limits.burst_per_site),
        ] {
            if got == 0 {
                return Err(ConfigError::Limit { path: path.to_owned(), field, got });
            }
        }
        Ok(Self { tls_name: raw.tls_name, issuer: raw.issuer, audience: raw.audience, families, floors, limits: raw.limits })
    }
}

fn decide_floor(path: &str, family: Family, shown: &'static str, floor: Floor) -> Result<TcbVersion, ConfigError> {
    let problem = match (family, floor.fmc) {
        (Family::Turin, None) => Some("needs `fmc`"),
        (Family::Turin, Some(_)) | (_, None) => None,
        (_, Some(_)) => Some("has `fmc`, which only Turin has"),
    };
    match problem {
        Some(problem) => Err(ConfigError::Fmc { path: path.to_owned(), family: shown, problem }),
        None => Ok(TcbVersion { fmc: floor.fmc, bootloader: floor.bootloader, tee: floor.tee, snp: floor.snp, microcode: floor.microcode }),
    }
}

/// The file `init` writes. A production service accepts no family until its operator states a floor.
#[must_use]
pub fn initial_text(root_of_trust: RootOfTrust, tls_name: &str, simulated_floors: &str) -> String {
    let mut text = String::new();
    // Writing to a String does not fail.
    let _ = write!(
        text,
        "# Settings of coffer-attest. Root of trust: {root_of_trust}, fixed at init.\n\
         schema = {SCHEMA}\n\
         tls_name = \"{tls_name}\"\n\
         issuer = \"https://{tls_name}\"\n\
         audience = \"coffer\"\n\n\
         # Families whose evidence is accepted, each with the lowest TCB: every component of the reported, committed,\n\
         # current and launch TCB must be at least this. Milan stays off: its VCEK seed can be extracted (arXiv 2605.12990).\n"
    );
    match root_of_trust {
        RootOfTrust::Simulated(_) => text.push_str(simulated_floors),
        RootOfTrust::AmdSevSnp => text.push_str(
            "# Nothing is accepted until you say what is enough: take the numbers of AMD's newest security bulletin for\n\
             # your hosts, or what `snphost show tcb` says on a host you trust today.\n\
             families = []\n\
             # families = [\"genoa\", \"turin\"]\n\
             # [tcb_floor.genoa]\n# bootloader = ?\n# tee = ?\n# snp = ?\n# microcode = ?\n\
             # [tcb_floor.turin]\n# fmc = ?\n# bootloader = ?\n# tee = ?\n# snp = ?\n# microcode = ?\n",
        ),
    }
    let limits = Limits::default();
    let _ = write!(
        text,
        "\n[limits]\nconnections = {}\nrequests_per_second_per_source = {}\nburst_per_source = {}\nwaiting = {}\n\
         decisions_per_minute_per_site = {}\nburst_per_site = {}\n",
        limits.connections,
        limits.requests_per_second_per_source,
        limits.burst_per_source,
        limits.waiting,
        limits.decisions_per_minute_per_site,
        limits.burst_per_site
    );
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    const GOOD: &str = "schema = 1\ntls_name = \"a\"\nissuer = \"https://a\"\naudience = \"coffer\"\nfamilies = [\"turin\"]\n\
                        [tcb_floor.turin]\nfmc = 1\nbootloader = 1\ntee = 1\nsnp = 1\nmicrocode = 1\n";

    #[test]
    fn what_init_writes_is_read_back() {
        let text = initial_text(RootOfTrust::AmdSevSnp, "attest.example", "");
        let config = Config::parse("t", &text).unwrap();
        assert_eq!(config.issuer, "https://attest.example");
        assert!(config.floors.is_empty());
        assert_eq!(config.limits, Limits::default());
    }

    /// A sample of zeros would be a floor that everything meets.
    #[test]
    fn what_init_suggests_does_not_load_until_somebody_fills_it_in() {
        let text = initial_text(RootOfTrust::AmdSevSnp, "attest.example", "");
        let taken = text.replace("families = []\n# families", "families").replace("\n# [", "\n[").replace("\n# fmc", "\nfmc");
        let taken =
            ["bootloader", "tee", "snp", "microcode"].iter().fold(taken, |t, key| t.replace(&format!("\n# {key}"), &format!("\n{key}")));
        assert!(matches!(Config::parse("t", &taken), Err(ConfigError::Parse { .. })), "{taken}");
        let filled = Config::parse("t", &taken.replace("= ?", "= 7")).unwrap();
        assert_eq!(filled.families, [Family::Genoa, Family::Turin]);
    }

    #[test]
    fn every_mistake_is_named() {
        assert!(Config::parse("t", GOOD).is_ok());
        for (from, to, says) in [
            ("schema = 1", "schema = 2", "schema 2 is not supported; this build reads 1"),
            ("schema = 1", "schema = 1\nextra = 1", "unknown field `extra`"),
            ("issuer = \"https://a\"\n", "", "missing field `issuer`"),
            ("fmc = 1\n", "", "needs `fmc`"),
            ("[tcb_floor.turin]", "[tcb_floor.genoa]", "has `fmc`, which only Turin has"),
            ("\"turin\"", "\"turin\", \"genoa\"", "family `genoa` is accepted but has no [tcb_floor.genoa]"),
            ("\"turin\"", "\"rome\"", "unknown variant `rome`"),
            ("snp = 1", "snp = 256", "256"),
            (
                "microcode = 1\n",
                "microcode = 1\n[limits]\nconnections = 0\nrequests_per_second_per_source = 1\nburst_per_source = 1\n",
                "limits.connections is 0",
            ),
        ] {
            let error = Config::parse("t", &GOOD.replacen(from, to, 1)).unwrap_err().to_string();
            assert!(error.contains(says), "{to}: {error}");
        }
    }
}
