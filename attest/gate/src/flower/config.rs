//! `[flower]` and `[runs]` of coffer-gate.toml: where the SuperLink is, how it is fronted, and which sites a run needs.

use std::collections::BTreeSet;
use std::fmt;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};

use serde::Deserialize;
use serde::de::{self, Deserializer, MapAccess, SeqAccess, Visitor};

use super::version::{Family, Version};

/// `[flower]`: the SuperLink, and the certificate that Flower's clients trust. Paths are relative to the gate's folder.
///
/// With `mode = "passthrough"` and `fleet` alone the gate carries bytes to a SuperLink it does not otherwise speak to: no node key is
/// registered there and no run is looked after.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Flower {
    /// What the gate does with a site's bytes.
    pub mode: Mode,
    /// The SuperLink's Fleet API, `host:port`; from Flower 1.40 its one port.
    pub fleet: String,
    /// The authority that the SuperLink's certificate is under, PEM. Nothing else is trusted.
    #[serde(default)]
    pub ca: Option<PathBuf>,
    /// The name in the SuperLink's certificate; the host of `control`, or of `fleet`, where this is not said.
    #[serde(default)]
    pub server_name: Option<String>,
    /// The certificate chain that Flower's clients trust, PEM: for `mode = "terminate"` and for the Control front.
    #[serde(default)]
    pub certificate: Option<PathBuf>,
    /// Its private key, PEM.
    #[serde(default)]
    pub key: Option<PathBuf>,
    /// The SuperLink's Control API, `host:port`, the host as its certificate names it: `flwr` compares them. From Flower 1.40 it is
    /// the one port, and `fleet` is taken where this is not said.
    #[serde(default)]
    pub control: Option<String>,
    /// Where the gate's Control front listens, for `flwr run` and the rest of the command line.
    #[serde(default)]
    pub control_listen: Option<SocketAddr>,
    /// The SuperLink's own command line.
    #[serde(default = "default_flwr")]
    pub flwr: PathBuf,
    /// How many of a site's node keys the SuperLink may know at a time.
    #[serde(default = "default_node_keys")]
    pub node_keys_per_site: u16,
    /// The gate's own folder for Flower: what [`Self::rooted`] says.
    #[serde(skip)]
    pub folder: PathBuf,
}

/// What a gate does with a site's bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Mode {
    /// Carries them as they are, Flower's TLS end to end. For SuperLinks whose Fleet API has a port of its own: up to 1.39.
    Passthrough,
    /// Ends Flower's TLS, forwards Fleet calls of the site's attested node key only. For SuperLinks with one port: from 1.40.
    Terminate,
}

impl fmt::Display for Mode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Passthrough => "passthrough",
            Self::Terminate => "terminate",
        })
    }
}

/// `[runs]`: which sites must hold a lease. Without the section a run needs none.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Runs {
    /// Before a run starts, and while it goes on.
    pub require: Require,
    /// What happens to runs when one of them is lost.
    #[serde(default)]
    pub on_loss: OnLoss,
}

/// Which sites must hold a lease.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Require {
    /// No site.
    None,
    /// Every site that held a lease within 30 days, and at least one.
    All,
    /// These.
    Sites(BTreeSet<String>),
    /// Any so many.
    AtLeast(u32),
}

/// What happens to runs when a required site is lost.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum OnLoss {
    /// They go on with the others; the log says so.
    #[default]
    Continue,
    /// No node gets work until the site is back; nodes stay online. Needs `mode = "terminate"`.
    Pause,
    /// `flwr stop`.
    Stop,
}

/// `[flower]` and `[runs]` do not go together, or not with this Flower.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum ConfigError {
    /// The mode is for SuperLinks of another generation.
    #[error(
        "[flower] mode is \"{mode}\" and `flwr` is {version}; hint: passthrough is for Flower up to 1.39, whose Fleet API has a port of its \
         own, terminate for 1.40 and later"
    )]
    ModeVersion {
        /// As configured.
        mode: Mode,
        /// As found.
        version: Version,
    },
    /// Pausing needs to see the calls.
    #[error(
        "[runs] on_loss is \"pause\" and [flower] mode is \"{mode}\"; hint: only mode = \"terminate\" sees which calls ask for work; use \
         \"continue\" or \"stop\""
    )]
    PauseMode {
        /// As configured.
        mode: Mode,
    },
    /// A key that another one needs is missing.
    #[error("[flower] {key} is missing; hint: {because}")]
    Missing {
        /// The key.
        key: &'static str,
        /// What needs it.
        because: &'static str,
    },
    /// A value that cannot be meant.
    #[error("[{section}] {key} is {value}; hint: {hint}")]
    Value {
        /// Of the file.
        section: &'static str,
        /// Its key.
        key: &'static str,
        /// As configured.
        value: String,
        /// What can be meant.
        hint: &'static str,
    },
}

impl Runs {
    /// What a file without the section says: a run needs no site.
    #[must_use]
    pub const fn absent() -> Self {
        Self { require: Require::None, on_loss: OnLoss::Continue }
    }
}

impl Flower {
    /// With every path as the process can open it; `dir` is the gate's folder.
    #[must_use]
    pub fn rooted(mut self, dir: &Path) -> Self {
        // `flwr` runs in a folder of its own: a relative path would mean another file there.
        let dir = std::path::absolute(dir).unwrap_or_else(|_| dir.to_owned());
        for path in [&mut self.ca, &mut self.certificate, &mut self.key].into_iter().flatten() {
            *path = dir.join(&*path);
        }
        self.flwr = dir.join(&self.flwr);
        self.folder = dir.join("flower");
        self
    }

    /// Whether the gate speaks to the SuperLink itself.
    #[must_use]
    pub fn is_managed(&self) -> bool {
        self.mode == Mode::Terminate || self.control.is_some()
    }

    /// What must hold of the two sections whatever the version of Flower.
    ///
    /// # Errors
    /// See [`ConfigError`].
    pub fn check(&self, runs: &Runs) -> Result<(), ConfigError> {
        for (key, value) in [("fleet", Some(&self.fleet)), ("control", self.control.as_ref())] {
            if let Some(value) = value.filter(|value| !is_address(value)) {
                return Err(ConfigError::Value { section: "flower", key, value: format!("{value:?}"), hint: "host:port" });
            }
        }
        if self.node_keys_per_site < 2 {
            let (value, hint) = (self.node_keys_per_site.to_string(), "at least 2: a site that restarts has two for a moment");
            return Err(ConfigError::Value { section: "flower", key: "node_keys_per_site", value, hint });
        }
        if self.mode == Mode::Passthrough && self.control.is_none() && self.control_listen.is_some() {
            let because = "control_listen stands in front of it, e.g. control = \"localhost:9093\"";
            return Err(ConfigError::Missing { key: "control", because });
        }
        if self.is_managed() && self.ca.is_none() {
            let because = "`control` and mode = \"terminate\" speak TLS to the SuperLink: the file that it has as --ssl-ca-certfile";
            return Err(ConfigError::Missing { key: "ca", because });
        }
        for (key, there) in [("certificate", self.certificate.is_some()), ("key", self.key.is_some())] {
            if !there && (self.mode == Mode::Terminate || self.control_listen.is_some()) {
                let because = "mode = \"terminate\" and control_listen answer with the certificate that Flower's clients trust";
                return Err(ConfigError::Missing { key, because });
            }
        }
        if runs.require != Require::None && self.control_listen.is_none() {
            let because = "[runs] require is kept by the Control front, e.g. control_listen = \"127.0.0.1:9193\"";
            return Err(ConfigError::Missing { key: "control_listen", because });
        }
        if runs.on_loss == OnLoss::Pause && self.mode != Mode::Terminate {
            return Err(ConfigError::PauseMode { mode: self.mode });
        }
        Ok(())
    }

    /// What must hold with the Flower that was found.
    ///
    /// # Errors
    /// [`ConfigError::ModeVersion`].
    pub fn check_version(&self, version: Version) -> Result<Family, ConfigError> {
        let family = version.family();
        if family.has_fleet_port() == (self.mode == Mode::Passthrough) {
            Ok(family)
        } else {
            Err(ConfigError::ModeVersion { mode: self.mode, version })
        }
    }

    /// The Control API's address.
    #[must_use]
    pub fn control_address(&self) -> &str {
        self.control.as_deref().unwrap_or(&self.fleet)
    }

    /// The name that the SuperLink's certificate must have.
    #[must_use]
    pub fn tls_name(&self) -> &str {
        let host = self.control_address().rsplit_once(':').map_or("", |(host, _)| host);
        self.server_name.as_deref().unwrap_or(host).trim_start_matches('[').trim_end_matches(']')
    }
}

/// `host:port`, the host not empty, without what would end a string in Flower's own files.
fn is_address(text: &str) -> bool {
    let Some((host, port)) = text.rsplit_once(':') else { return false };
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || b".-_:[]".contains(&byte);
    !host.is_empty() && host.bytes().all(plain) && port.parse::<u16>().is_ok_and(|port| port > 0)
}

impl<'de> Deserialize<'de> for Require {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(RequireVisitor)
    }
}

struct RequireVisitor;

impl<'de> Visitor<'de> for RequireVisitor {
    type Value = Require;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("\"all\", \"none\", a list of sites, or { at_least = k }")
    }

    fn visit_str<E: de::Error>(self, text: &str) -> Result<Require, E> {
        match text {
            "all" => Ok(Require::All),
            "none" => Ok(Require::None),
            _ => Err(E::invalid_value(de::Unexpected::Str(text), &self)),
        }
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<Require, A::Error> {
        let mut sites = BTreeSet::new();
        while let Some(site) = seq.next_element::<String>()? {
            if sites.contains(&site) {
                return Err(de::Error::custom(format!("site {site:?} is listed twice")));
            }
            sites.insert(site);
        }
        if sites.is_empty() {
            Err(de::Error::custom("the list of sites is empty; hint: require = \"none\""))
        } else {
            Ok(Require::Sites(sites))
        }
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Require, A::Error> {
        let mut at_least = None;
        while let Some(key) = map.next_key::<String>()? {
            if key != "at_least" || at_least.is_some() {
                return Err(de::Error::unknown_field(&key, &["at_least"]));
            }
            at_least = Some(map.next_value::<u32>()?);
        }
        match at_least {
            Some(0) => Err(de::Error::custom("at_least is 0; hint: require = \"none\"")),
            Some(count) => Ok(Require::AtLeast(count)),
            None => Err(de::Error::missing_field("at_least")),
        }
    }
}

fn default_flwr() -> PathBuf {
    PathBuf::from("/opt/flower/bin/flwr")
}

const fn default_node_keys() -> u16 {
    4
}

#[cfg(test)]
mod tests {
    use super::*;

    fn runs(text: &str) -> Result<Runs, toml::de::Error> {
        toml::from_str(text)
    }

    fn flower(text: &str) -> Flower {
        toml::from_str(text).expect(text)
    }

    fn version(text: &str) -> Version {
        text.parse().expect(text)
    }

    const PASS: &str = "mode = 'passthrough'\nfleet = '127.0.0.1:9092'\ncontrol = 'localhost:9093'\nca = 'ca.pem'\n";
    const TERMINATE: &str = "mode = 'terminate'\nfleet = 'localhost:8000'\ncertificate = 'c'\nkey = 'k'\nca = 'ca.pem'\n";

    #[test]
    fn the_four_rules_are_read_and_others_are_not() {
        assert_eq!(runs("require = 'all'").expect("all").require, Require::All);
        assert_eq!(runs("require = 'none'\non_loss = 'stop'").expect("none").on_loss, OnLoss::Stop);
        let sites = runs("require = ['site-1', 'site-2']").expect("a list").require;
        assert_eq!(sites, Require::Sites(["site-1".to_owned(), "site-2".to_owned()].into()));
        assert_eq!(runs("require = { at_least = 2 }").expect("a number").require, Require::AtLeast(2));
        for (bad, word) in [
            ("require = 'some'", "expected \"all\""),
            ("require = []", "hint"),
            ("require = ['a', 'a']", "twice"),
            ("require = { at_least = 0 }", "hint"),
            ("require = { at_most = 1 }", "at_least"),
            ("require = {}", "at_least"),
            ("on_loss = 'stop'", "require"),
            ("require = 'all'\non_loss = 'ignore'", "pause"),
        ] {
            let error = runs(bad).expect_err(bad).to_string();
            assert!(error.contains(word), "{bad}: {error}");
        }
    }

    #[test]
    fn pausing_needs_a_gate_that_sees_the_calls() {
        let pause = runs("require = 'all'\non_loss = 'pause'").expect("runs");
        let with_front = "certificate = 'c'\nkey = 'k'\ncontrol_listen = '127.0.0.1:9193'\n";
        let error = flower(&format!("{PASS}{with_front}")).check(&pause).expect_err("passthrough");
        assert_eq!(error, ConfigError::PauseMode { mode: Mode::Passthrough });
        assert!(error.to_string().contains("on_loss is \"pause\" and [flower] mode is \"passthrough\""), "{error}");
        flower(&format!("{TERMINATE}control_listen = '127.0.0.1:9193'\n")).check(&pause).expect("terminate");
    }

    #[test]
    fn what_needs_another_key_names_it() {
        let all = runs("require = 'all'").expect("runs");
        let missing = |text: &str, runs: &Runs| match flower(text).check(runs) {
            Err(ConfigError::Missing { key, .. }) => key,
            other => panic!("{text}: {other:?}"),
        };
        let pass = "mode = 'passthrough'\nfleet = '127.0.0.1:9092'\n";
        let terminate = "mode = 'terminate'\nfleet = 'localhost:8000'\nca = 'a'\n";
        flower(pass).check(&Runs::absent()).expect("bytes only");
        assert_eq!(missing(&format!("{pass}control = 'localhost:1'"), &Runs::absent()), "ca");
        assert_eq!(missing(&format!("{pass}control_listen = '127.0.0.1:1'"), &Runs::absent()), "control");
        assert_eq!(missing(terminate, &Runs::absent()), "certificate");
        assert_eq!(missing(&format!("{terminate}certificate = 'c'"), &Runs::absent()), "key");
        assert_eq!(missing(&format!("{PASS}control_listen = '127.0.0.1:1'"), &Runs::absent()), "certificate");
        assert_eq!(missing(PASS, &all), "control_listen");
        flower(PASS).check(&Runs::absent()).expect("with node keys");
        for bad in ["fleet = 'localhost'", "fleet = ':9092'", "fleet = 'a\"b:1'", "fleet = 'a:0'", "fleet = 'a:99999'"] {
            let text = format!("mode = 'terminate'\nca = 'a'\ncertificate = 'c'\nkey = 'k'\n{bad}");
            assert!(matches!(flower(&text).check(&Runs::absent()), Err(ConfigError::Value { key: "fleet", .. })), "{bad}");
        }
    }

    #[test]
    fn names_and_paths_follow_from_each_other() {
        let passed = flower(PASS).rooted(Path::new("/gate"));
        assert_eq!((passed.control_address(), passed.tls_name()), ("localhost:9093", "localhost"));
        assert_eq!(passed.ca.as_deref(), Some(Path::new("/gate/ca.pem")));
        assert_eq!(passed.folder, Path::new("/gate/flower"));
        assert_eq!(passed.flwr, Path::new("/opt/flower/bin/flwr"));
        let named = flower(&format!("{TERMINATE}server_name = 'superlink.demo.test'\n"));
        assert_eq!((named.control_address(), named.tls_name()), ("localhost:8000", "superlink.demo.test"));
        assert_eq!(flower("mode = 'passthrough'\nfleet = '[::1]:9092'").tls_name(), "::1");
    }

    #[test]
    fn each_mode_is_for_its_generation_of_flower() {
        for old in ["1.19.0", "1.29.0", "1.39.0"] {
            assert!(flower(PASS).check_version(version(old)).is_ok(), "{old}");
            let error = flower(TERMINATE).check_version(version(old)).expect_err(old);
            assert_eq!(error, ConfigError::ModeVersion { mode: Mode::Terminate, version: version(old) });
        }
        assert!(flower(TERMINATE).check_version(version("1.41.0")).is_ok());
        // One port for everything: carried as it is, a site would reach the Control API.
        let error = flower(PASS).check_version(version("1.41.0")).expect_err("passthrough");
        assert!(error.to_string().contains("mode is \"passthrough\" and `flwr` is 1.41.0"), "{error}");
    }
}
