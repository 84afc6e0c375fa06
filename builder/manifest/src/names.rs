//! Names that appear in resource paths, and the root of trust.

use std::borrow::Cow;
use std::fmt;
use std::str::FromStr;

use coffer_evidence::{HostData, hex_bytes};
use serde::{Deserialize, Deserializer, Serialize, Serializer};
use sha2::{Digest, Sha256};

hex_bytes! {
    /// A SHA-256 digest.
    Sha256Digest, 32
}

impl Sha256Digest {
    /// Hashes `bytes`.
    #[must_use]
    pub fn of(bytes: &[u8]) -> Self {
        Self::new(Sha256::digest(bytes).into())
    }
}

/// A name or a path is outside its alphabet or length.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum NameError {
    /// Not a valid name.
    #[error("{what} `{got}` is not a name: 1 to 63 of a-z, 0-9 and `-`, starting and ending with a letter or digit")]
    Name {
        /// Which name.
        what: &'static str,
        /// The text given.
        got: String,
    },
    /// Not `amd-sev-snp` or `simulated:<64 hex digits>`.
    #[error("root of trust `{got}` is neither `amd-sev-snp` nor `simulated:<sha256 of the ARK certificate, 64 hex digits>`")]
    RootOfTrust {
        /// The text given.
        got: String,
    },
    /// Not `<project>/<site>/<host data>[.<secret>]`.
    #[error("`{got}` is not a resource path `<project>/<site>/<64 hex digits>[.kit]`")]
    ResourcePath {
        /// The text given.
        got: String,
    },
}

fn is_name(text: &str) -> bool {
    let edge = |b: &u8| b.is_ascii_lowercase() || b.is_ascii_digit();
    let bytes = text.as_bytes();
    (1..=63).contains(&bytes.len())
        && bytes.first().is_some_and(edge)
        && bytes.last().is_some_and(edge)
        && bytes.iter().all(|b| edge(b) || *b == b'-')
}

/// Defines serde through `Display` and `FromStr`.
macro_rules! serde_as_text {
    ($name:ident) => {
        impl Serialize for $name {
            fn serialize<S: Serializer>(&self, s: S) -> Result<S::Ok, S::Error> {
                s.collect_str(self)
            }
        }

        impl<'de> Deserialize<'de> for $name {
            fn deserialize<D: Deserializer<'de>>(d: D) -> Result<Self, D::Error> {
                Cow::<'de, str>::deserialize(d)?.parse().map_err(serde::de::Error::custom)
            }
        }
    };
}

macro_rules! name {
    ($(#[$doc:meta])* $name:ident, $what:literal) => {
        $(#[$doc])*
        #[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
        pub struct $name(String);

        impl $name {
            /// The name as text.
            #[must_use]
            pub fn as_str(&self) -> &str {
                &self.0
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&self.0)
            }
        }

        impl FromStr for $name {
            type Err = NameError;

            fn from_str(text: &str) -> Result<Self, NameError> {
                if is_name(text) {
                    Ok(Self(text.to_owned()))
                } else {
                    Err(NameError::Name { what: $what, got: text.chars().take(80).collect() })
                }
            }
        }

        serde_as_text!($name);
    };
}

name! {
    /// The federation a site belongs to; the first segment of its resource paths.
    ProjectName, "project"
}

name! {
    /// One participant's CVM within a project; the second segment of its resource paths.
    SiteName, "site"
}

/// What signs the evidence of a site: AMD, or one particular simulator.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum RootOfTrust {
    /// AMD's key hierarchy, roots built into the verifier.
    AmdSevSnp,
    /// A software AMD secure processor, named by the SHA-256 of its ARK certificate's DER bytes.
    Simulated(Sha256Digest),
}

impl fmt::Display for RootOfTrust {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::AmdSevSnp => f.write_str("amd-sev-snp"),
            Self::Simulated(ark) => write!(f, "simulated:{ark}"),
        }
    }
}

impl FromStr for RootOfTrust {
    type Err = NameError;

    fn from_str(text: &str) -> Result<Self, NameError> {
        let refuse = || NameError::RootOfTrust { got: text.chars().take(100).collect() };
        match text.split_once(':') {
            None if text == "amd-sev-snp" => Ok(Self::AmdSevSnp),
            Some(("simulated", ark)) => ark.parse().map(Self::Simulated).map_err(|_| refuse()),
            _ => Err(refuse()),
        }
    }
}

serde_as_text!(RootOfTrust);

/// Which secret of a site config a resource path names.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub enum SecretName {
    /// S, the 32 bytes the volume key derives from: `<hex>`.
    Root,
    /// The key that opens the kit: `<hex>.kit`.
    Kit,
}

/// A KBS resource path `<project>/<site>/<host data>[.<secret>]` (DESIGN, Resource names).
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct ResourcePath {
    /// First segment.
    pub project: ProjectName,
    /// Second segment.
    pub site: SiteName,
    /// First 64 characters of the third segment.
    pub host_data: HostData,
    /// What follows them.
    pub secret: SecretName,
}

impl fmt::Display for ResourcePath {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let suffix = match self.secret {
            SecretName::Root => "",
            SecretName::Kit => ".kit",
        };
        write!(f, "{}/{}/{}{suffix}", self.project, self.site, self.host_data)
    }
}

impl FromStr for ResourcePath {
    type Err = NameError;

    fn from_str(text: &str) -> Result<Self, NameError> {
        let refuse = || NameError::ResourcePath { got: text.chars().take(200).collect() };
        let mut parts = text.split('/');
        let (Some(project), Some(site), Some(tag), None) = (parts.next(), parts.next(), parts.next(), parts.next()) else {
            return Err(refuse());
        };
        let (hex, secret) = match tag.split_once('.') {
            None => (tag, SecretName::Root),
            Some((hex, "kit")) => (hex, SecretName::Kit),
            Some(_) => return Err(refuse()),
        };
        Ok(Self {
            project: project.parse().map_err(|_| refuse())?,
            site: site.parse().map_err(|_| refuse())?,
            host_data: hex.parse().map_err(|_| refuse())?,
            secret,
        })
    }
}
