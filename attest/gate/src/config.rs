//! `coffer-gate.toml`: what an operator decides. Strict: unknown keys and schemas are errors, and every error names file and key.

mod initial;

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use coffer_token::WITHDRAWALS_KEPT_SECONDS;
use serde::Deserialize;
use serde::de::{Deserializer, Error as _};

use crate::flower::config::{Flower, Runs};
use crate::layout::{LayoutError, read_small};
pub use initial::{Initial, quoted};

/// The schema this build reads.
const SCHEMA: u32 = 1;

/// No lease lasts longer without a newer token: the service keeps withdrawals twice as long.
pub const MAX_CHECK_FREQUENCY_SECONDS: u64 = WITHDRAWALS_KEPT_SECONDS / 2;

/// Flower's slowest sign of life is a heartbeat every 30 s: nothing that lives is idle for so long.
pub const MIN_IDLE_TIMEOUT_SECONDS: u64 = 60;

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
        source: Box<toml::de::Error>,
    },
    /// What `[flower]` and `[runs]` say does not go together.
    #[error("{path}: {source}")]
    Flower {
        /// The file.
        path: String,
        /// What is wrong.
        source: crate::flower::config::ConfigError,
    },
    /// A value that cannot be meant.
    #[error("{path}: {key} is `{got}`, expected {expected}\nhint: {hint}")]
    Value {
        /// The file.
        path: String,
        /// The key.
        key: &'static str,
        /// Its value.
        got: String,
        /// What would do.
        expected: String,
        /// What the reader can do about it.
        hint: &'static str,
    },
}

/// The settings, decided. Paths are absolute, or relative to the working directory.
#[derive(Debug, Clone)]
pub struct Config {
    /// DNS name in the gate's certificate.
    pub name: String,
    /// Where guests connect.
    pub listen: SocketAddr,
    /// Where `/metrics` is, on loopback.
    pub metrics: Option<SocketAddr>,
    /// How long after its newest token was issued a lease ends.
    pub check_frequency: Duration,
    /// The key service.
    pub service: Service,
    /// Bounds.
    pub limits: Limits,
    /// Where the gate itself runs in a confidential VM.
    pub attested: Option<Attested>,
    /// The SuperLink.
    pub flower: Flower,
    /// Which sites runs need.
    pub runs: Runs,
}

/// `[service]`: the one whose tokens are taken. `coffer-attest gate-settings` prints it.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Service {
    /// Tried in order.
    pub urls: Vec<ServiceUrl>,
    /// The name its certificate must carry, whatever the URL says.
    pub tls_name: String,
    /// Its CA, PEM file. Nothing else is trusted.
    pub ca: PathBuf,
    /// `iss` of its tokens.
    pub issuer: String,
    /// `aud` of its job tokens.
    pub audience: String,
    /// `amd-sev-snp` or `simulated:<sha256 of ARK>`.
    pub root_of_trust: String,
    /// The gate's one project.
    pub project: String,
}

/// `https://HOST[:PORT]`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ServiceUrl {
    /// Name or address; an IPv6 address without brackets.
    pub host: String,
    /// 443 where none is given.
    pub port: u16,
    text: String,
}

impl ServiceUrl {
    /// As it was written.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.text
    }

    /// `host:port`, as a Host header has it.
    #[must_use]
    pub fn authority(&self) -> &str {
        self.text.trim_start_matches("https://").trim_end_matches('/')
    }

    fn parse(text: &str) -> Option<Self> {
        let authority = text.strip_prefix("https://")?.trim_end_matches('/');
        let (host, port) = match authority.rsplit_once(':') {
            Some((host, port)) if !port.ends_with(']') => (host, port.parse().ok()?),
            _ => (authority, 443),
        };
        let host = host.strip_prefix('[').and_then(|host| host.strip_suffix(']')).unwrap_or(host);
        let allowed = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'.' | b'-' | b':');
        let fine = !host.is_empty() && host.bytes().all(allowed) && port != 0;
        fine.then(|| Self { host: host.to_owned(), port, text: text.to_owned() })
    }
}

impl<'de> Deserialize<'de> for ServiceUrl {
    fn deserialize<D: Deserializer<'de>>(d: D) -> Result<Self, D::Error> {
        let text = String::deserialize(d)?;
        Self::parse(&text).ok_or_else(|| D::Error::custom(format!("`{text}` is not of the form https://HOST[:PORT]")))
    }
}

/// `[attested]`.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Attested {
    /// Where PID 1 answers, such as `/run/coffer/attest.sock`.
    pub socket: PathBuf,
    /// The node key of this boot, OpenSSH form, which the gate's certificate is issued over.
    pub node_key: PathBuf,
}

/// `[limits]`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Limits {
    /// Open connections in all.
    pub connections: u32,
    /// Of these, ones that have not shown a good token yet. They have ten seconds.
    pub unauthenticated: u32,
    /// Of these, ones of one source: an IPv4 address, an IPv6 /64.
    pub unauthenticated_per_source: u32,
    /// Open connections of one site.
    pub connections_per_site: u32,
    /// Connections one site may open, and tokens it may show, per second in the long run; five times as many at once.
    pub new_connections_per_second_per_site: u32,
    /// New instances of one site in the long run, after four at once.
    pub instances_per_hour: u32,
    /// After how many seconds without a byte a tunnel is closed.
    pub idle_timeout: u64,
}

impl Default for Limits {
    /// A guest opens at most 64 tunnels, and one connection for its lease. Several hundred sites may sit behind one address.
    fn default() -> Self {
        Self {
            connections: 8192,
            unauthenticated: 1024,
            unauthenticated_per_source: 256,
            connections_per_site: 80,
            new_connections_per_second_per_site: 10,
            instances_per_hour: 12,
            idle_timeout: 300,
        }
    }
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Raw {
    #[serde(rename = "schema")]
    _schema: Schema,
    name: String,
    listen: SocketAddr,
    metrics: Option<SocketAddr>,
    check_frequency: u64,
    service: Service,
    #[serde(default)]
    limits: Limits,
    attested: Option<Attested>,
    flower: Flower,
    #[serde(default = "Runs::absent")]
    runs: Runs,
}

/// A file that holds `[service]` and nothing else.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct RawService {
    service: Service,
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
    /// Reads and decides. Relative paths in it are relative to `dir`.
    ///
    /// # Errors
    /// See [`ConfigError`].
    pub fn read(path: &Path, dir: &Path) -> Result<Self, ConfigError> {
        let shown = path.display().to_string();
        let bytes = read_small(path)?;
        let text = std::str::from_utf8(&bytes).map_err(|_| ConfigError::Text { path: shown.clone() })?;
        Self::parse(&shown, text, dir)
    }

    fn parse(path: &str, text: &str, dir: &Path) -> Result<Self, ConfigError> {
        let raw: Raw = toml::from_str(text).map_err(|source| ConfigError::Parse { path: path.to_owned(), source: Box::new(source) })?;
        raw.check(path)?;
        let mut service = raw.service;
        service.ca = dir.join(service.ca);
        raw.flower.check(&raw.runs).map_err(|source| ConfigError::Flower { path: path.to_owned(), source })?;
        let attested = raw.attested.map(|given| Attested { socket: dir.join(given.socket), node_key: dir.join(given.node_key) });
        Ok(Self {
            name: raw.name,
            listen: raw.listen,
            metrics: raw.metrics,
            check_frequency: Duration::from_secs(raw.check_frequency),
            service,
            limits: raw.limits,
            attested,
            flower: raw.flower.rooted(dir),
            runs: raw.runs,
        })
    }
}

impl Service {
    /// Reads what `coffer-attest gate-settings` printed; `path` is for errors.
    ///
    /// # Errors
    /// See [`ConfigError`].
    pub fn parse(path: &str, text: &str) -> Result<Self, ConfigError> {
        let raw: RawService =
            toml::from_str(text).map_err(|source| ConfigError::Parse { path: path.to_owned(), source: Box::new(source) })?;
        raw.service.check(path)?;
        Ok(raw.service)
    }

    fn check(&self, path: &str) -> Result<(), ConfigError> {
        let value = |key, got: &str, expected: &str, hint| {
            Err(ConfigError::Value { path: path.to_owned(), key, got: got.to_owned(), expected: expected.to_owned(), hint })
        };
        if self.urls.is_empty() {
            return value("service.urls", "[]", "at least one", "`coffer-attest gate-settings --project NAME` prints the whole section");
        }
        if !is_root_of_trust(&self.root_of_trust) {
            let hint = "it is in every enrollment, and `coffer-attest gate-settings` prints it";
            return value(
                "service.root_of_trust",
                &self.root_of_trust,
                "`amd-sev-snp` or `simulated:` and 64 lower-case hexadecimal digits",
                hint,
            );
        }
        for (key, got) in [
            ("service.tls_name", &self.tls_name),
            ("service.issuer", &self.issuer),
            ("service.audience", &self.audience),
            ("service.project", &self.project),
        ] {
            if got.is_empty() {
                return value(key, got, "a name", "`coffer-attest gate-settings --project NAME` prints the whole section");
            }
        }
        Ok(())
    }
}

impl Raw {
    fn check(&self, path: &str) -> Result<(), ConfigError> {
        self.service.check(path)?;
        let value = |key, got: String, expected: String, hint| Err(ConfigError::Value { path: path.to_owned(), key, got, expected, hint });
        if !(1..=MAX_CHECK_FREQUENCY_SECONDS).contains(&self.check_frequency) {
            let hint = "the sites' cc_*.yml have it too, with a `token_expiration` that is less";
            return value("check_frequency", self.check_frequency.to_string(), format!("1 to {MAX_CHECK_FREQUENCY_SECONDS} seconds"), hint);
        }
        if let Some(metrics) = self.metrics.filter(|metrics| !metrics.ip().is_loopback()) {
            let hint = "metrics name sites, and have no access control: let a collector on this machine read them";
            return value("metrics", metrics.to_string(), "a loopback address, such as 127.0.0.1:9100".into(), hint);
        }
        let limits = &self.limits;
        if limits.idle_timeout < MIN_IDLE_TIMEOUT_SECONDS {
            let hint = "Flower's heartbeat comes every 30 seconds; a shorter time would end connections that live";
            return value(
                "limits.idle_timeout",
                limits.idle_timeout.to_string(),
                format!("at least {MIN_IDLE_TIMEOUT_SECONDS} seconds"),
                hint,
            );
        }
        for (key, got) in [
            ("limits.connections", limits.connections),
            ("limits.unauthenticated", limits.unauthenticated),
            ("limits.unauthenticated_per_source", limits.unauthenticated_per_source),
            ("limits.connections_per_site", limits.connections_per_site),
            ("limits.new_connections_per_second_per_site", limits.new_connections_per_second_per_site),
            ("limits.instances_per_hour", limits.instances_per_hour),
        ] {
            if !(1..=1_000_000).contains(&got) {
                return value(key, got.to_string(), "1 to 1000000".into(), "leave it out for the default");
            }
        }
        Ok(())
    }
}

fn is_root_of_trust(text: &str) -> bool {
    let digest = text.strip_prefix("simulated:");
    text == "amd-sev-snp" || digest.is_some_and(|hex| hex.len() == 64 && hex.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f')))
}

#[cfg(test)]
mod tests;
