//! Which Flower the SuperLink is, by what its `flwr --version` says, and what that means for a gate.

use std::fmt;
use std::str::FromStr;

/// A version of Flower.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Version {
    major: u16,
    minor: u16,
    patch: u16,
}

/// How far Flower's interfaces have come, as far as a gate can tell them apart.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Family {
    /// 1.19 to 1.22: gRPC; node keys stand in a file that the SuperLink reads at its start, so they come in kits.
    KitKeys,
    /// 1.23 to 1.25: gRPC; `flwr supernode register`; connections stand in a `pyproject.toml`.
    Pyproject,
    /// 1.26 to 1.39: the same with connections in `$FLWR_HOME/config.toml`.
    Grpc,
    /// From 1.40: HTTP/1.1, and one port for Fleet, Control and Runtime.
    Http,
}

/// What `flwr --version` says is no version, or none this build knows.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum VersionError {
    /// Not of the form `Flower version: 1.29.0`.
    #[error("`flwr --version` says {said:?}, not `Flower version: 1.29.0`; hint: `flwr` in [flower] is the SuperLink's own program")]
    Unreadable {
        /// Its first 80 characters.
        said: String,
    },
    /// Older than 1.19, or a Flower 2.
    #[error("Flower {got} is not supported, 1.19 to 1.x are; hint: `flwr` in [flower] is the SuperLink's own program")]
    Unsupported {
        /// Which it is.
        got: Version,
    },
}

impl Version {
    /// Reads what `flwr --version` prints.
    ///
    /// # Errors
    /// See [`VersionError`].
    pub fn of_output(text: &str) -> Result<Self, VersionError> {
        let unreadable = || VersionError::Unreadable { said: text.trim().chars().take(80).collect() };
        let line = text.lines().find_map(|line| line.trim().strip_prefix("Flower version:")).ok_or_else(unreadable)?;
        let version: Self = line.trim().parse().map_err(|()| unreadable())?;
        if version.major != 1 || version.minor < 19 { Err(VersionError::Unsupported { got: version }) } else { Ok(version) }
    }

    /// What it means for a gate.
    #[must_use]
    pub const fn family(self) -> Family {
        match self.minor {
            ..=22 => Family::KitKeys,
            23..=25 => Family::Pyproject,
            26..=39 => Family::Grpc,
            40.. => Family::Http,
        }
    }
}

impl FromStr for Version {
    type Err = ();

    /// Three numbers; what follows the third, as in `1.30.0rc1`, is not looked at.
    fn from_str(text: &str) -> Result<Self, ()> {
        let mut parts = text.splitn(3, '.');
        let number = |part: Option<&str>| {
            let digits: String = part?.chars().take_while(char::is_ascii_digit).collect();
            digits.parse::<u16>().ok()
        };
        let (major, minor, patch) = (parts.next(), parts.next(), parts.next());
        if [major, minor].iter().any(|part| part.is_none_or(|part| !part.bytes().all(|byte| byte.is_ascii_digit()))) {
            return Err(());
        }
        match (number(major), number(minor), number(patch)) {
            (Some(major), Some(minor), Some(patch)) => Ok(Self { major, minor, patch }),
            _ => Err(()),
        }
    }
}

impl fmt::Display for Version {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}.{}", self.major, self.minor, self.patch)
    }
}

impl Family {
    /// Whether node keys are registered with a running SuperLink.
    #[must_use]
    pub const fn registers_nodes(self) -> bool {
        !matches!(self, Self::KitKeys)
    }

    /// Whether Fleet has a port of its own, so that a gate needs not look at what it forwards.
    #[must_use]
    pub const fn has_fleet_port(self) -> bool {
        !matches!(self, Self::Http)
    }

    /// Whether `flwr list` shows the newest twenty runs only, unless it is asked for more.
    #[must_use]
    pub const fn lists_the_newest(self) -> bool {
        matches!(self, Self::Http)
    }

    /// Whether `flwr` takes the SuperLink from a `pyproject.toml` and not from `$FLWR_HOME/config.toml`.
    #[must_use]
    pub const fn uses_pyproject(self) -> bool {
        matches!(self, Self::KitKeys | Self::Pyproject)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn each_version_in_use_is_of_its_family() {
        for (said, family) in [
            ("Flower version: 1.19.0\n", Family::KitKeys),
            ("Flower version: 1.22.0", Family::KitKeys),
            ("Flower version: 1.23.0", Family::Pyproject),
            ("Flower version: 1.29.0", Family::Grpc),
            ("warning: old\nFlower version: 1.39.2\n", Family::Grpc),
            ("Flower version: 1.40.0", Family::Http),
            ("Flower version: 1.41.0rc1", Family::Http),
        ] {
            assert_eq!(Version::of_output(said).expect(said).family(), family, "{said}");
        }
    }

    #[test]
    fn what_is_no_supported_version_is_refused() {
        assert!(matches!(Version::of_output("Flower version: 1.18.0"), Err(VersionError::Unsupported { .. })));
        assert!(matches!(Version::of_output("Flower version: 2.0.0"), Err(VersionError::Unsupported { .. })));
        for said in ["", "1.29.0", "Flower version: 1.x.0", "Flower version: 1.29", "Flower version: 99999999.1.1"] {
            assert!(matches!(Version::of_output(said), Err(VersionError::Unreadable { .. })), "{said}");
        }
    }

    proptest! {
        #[test]
        fn reading_is_total(text: String) {
            let _ = Version::of_output(&text);
            let _ = Version::of_output(&format!("Flower version: {text}"));
        }
    }
}
