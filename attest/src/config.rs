//! `coffer-attest.toml`: what an operator decides after `init`. Strict: unknown keys and schemas are errors.

use std::fmt::Write as _;
use std::path::{Path, PathBuf};

use coffer_manifest::RootOfTrust;
use serde::Deserialize;
use serde::de::{Deserializer, Error as _};

use crate::collateral::kds::{KdsConfig, KdsError, PUBLIC_CA, PUBLIC_URL, check_url};
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
    /// What evidence must be is no setting of the service but a policy, changed while it runs and kept version by version.
    #[error(
        "{path}: `{field}` is no setting of the service, policies have it\n\
         hint: remove it here, and put it into `reference_values` of a document: coffer-attest policy set FILE --default"
    )]
    Moved {
        /// The file.
        path: String,
        /// The key.
        field: &'static str,
    },
    /// The key server.
    #[error("{path}: [kds] {source}")]
    Kds {
        /// The file.
        path: String,
        /// What is wrong.
        source: Box<KdsError>,
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
    /// Bounds.
    pub limits: Limits,
    /// Where collateral is fetched from, if at all.
    pub kds: KdsConfig,
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
    /// Read to say where it went.
    families: Option<toml::Value>,
    tcb_floor: Option<toml::Value>,
    #[serde(default)]
    limits: Limits,
    #[serde(default)]
    kds: RawKds,
}

/// `[kds]`. Every key may be left out: closed, AMD's own server, the system's authorities.
#[derive(Deserialize, Default)]
#[serde(deny_unknown_fields)]
struct RawKds {
    #[serde(default)]
    enabled: bool,
    url: Option<String>,
    ca: Option<PathBuf>,
}

impl RawKds {
    fn decided(self, path: &str) -> Result<KdsConfig, ConfigError> {
        let closed = KdsConfig::default();
        let url = self.url.unwrap_or(closed.url);
        check_url(&url).map_err(|source| ConfigError::Kds { path: path.to_owned(), source: Box::new(source) })?;
        Ok(KdsConfig { enabled: self.enabled, url, ca: self.ca.unwrap_or(closed.ca) })
    }
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
        for (field, got) in [("families", &raw.families), ("tcb_floor", &raw.tcb_floor)] {
            if got.is_some() {
                return Err(ConfigError::Moved { path: path.to_owned(), field });
            }
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
        let kds = raw.kds.decided(path)?;
        Ok(Self { tls_name: raw.tls_name, issuer: raw.issuer, audience: raw.audience, limits: raw.limits, kds })
    }
}

/// The file `init` writes.
#[must_use]
pub fn initial_text(root_of_trust: RootOfTrust, tls_name: &str) -> String {
    let mut text = String::new();
    // Writing to a String does not fail.
    let _ = write!(
        text,
        "# Settings of coffer-attest. Root of trust: {root_of_trust}, fixed at init.\n\
         # Which evidence is taken is no setting: coffer-attest policy show|set --default, or --project NAME.\n\
         schema = {SCHEMA}\n\
         tls_name = \"{tls_name}\"\n\
         issuer = \"https://{tls_name}\"\n\
         audience = \"coffer\"\n"
    );
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
    let _ = write!(
        text,
        "\n# AMD's key server, or a mirror of it. While false, this service makes no outgoing connection: certificates and revocation\n\
         # lists come with the evidence, or by `coffer-attest collateral import`.\n\
         [kds]\nenabled = false\nurl = \"{PUBLIC_URL}\"\nca = \"{PUBLIC_CA}\"\n"
    );
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    const GOOD: &str = "schema = 1\ntls_name = \"a\"\nissuer = \"https://a\"\naudience = \"coffer\"\n";

    #[test]
    fn what_init_writes_is_read_back() {
        let text = initial_text(RootOfTrust::AmdSevSnp, "attest.example");
        let config = Config::parse("t", &text).unwrap();
        assert_eq!(config.issuer, "https://attest.example");
        assert_eq!(config.limits, Limits::default());
        assert_eq!(config.kds, KdsConfig::default());
        assert!(!config.kds.enabled, "no outgoing connection unless the operator says so");
    }

    #[test]
    fn every_mistake_is_named() {
        assert!(Config::parse("t", GOOD).is_ok());
        for (from, to, says) in [
            ("schema = 1", "schema = 2", "schema 2 is not supported; this build reads 1"),
            ("schema = 1", "schema = 1\nextra = 1", "unknown field `extra`"),
            ("issuer = \"https://a\"\n", "", "missing field `issuer`"),
            ("\"coffer\"\n", "\"coffer\"\nfamilies = [\"turin\"]\n", "`families` is no setting of the service, policies have it"),
            ("\"coffer\"\n", "\"coffer\"\n[tcb_floor.turin]\nfmc = 1\n", "coffer-attest policy set FILE --default"),
            ("\"coffer\"\n", "\"coffer\"\n[kds]\nurl = \"http://a\"\n", "[kds] `http://a` is not of the form https://HOST[:PORT]"),
            ("\"coffer\"\n", "\"coffer\"\n[kds]\nfetch = true\n", "unknown field `fetch`"),
            (
                "\"coffer\"\n",
                "\"coffer\"\n[limits]\nconnections = 0\nrequests_per_second_per_source = 1\nburst_per_source = 1\n",
                "limits.connections is 0",
            ),
        ] {
            let error = Config::parse("t", &GOOD.replacen(from, to, 1)).unwrap_err().to_string();
            assert!(error.contains(says), "{to}: {error}");
        }
    }
}
