//! The rule of `[runs] require`: whether the sites that hold a lease are enough, and which are missing since when.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::{self, Write as _};
use std::time::Duration;

use super::config::Require;

/// So many missing sites are named; a gate has up to some hundred.
const NAMED: usize = 5;

/// Why the sites that hold a lease are not enough.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Shortfall {
    /// Sites that hold a lease, of those that count.
    pub have: usize,
    /// How many the rule asks for.
    pub need: usize,
    /// Sites that would count and hold none.
    pub lacking: Vec<Lacking>,
}

/// A site without a lease.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Lacking {
    /// Its name.
    pub site: String,
    /// For how long, and by which code it ended. `None`: it has not come since this gate started.
    pub since: Option<(Duration, &'static str)>,
}

/// Applies the rule. `known` are the sites that were ever here, with how their last lease ended, for those that hold none.
///
/// # Errors
/// What is missing.
pub fn holds(
    require: &Require,
    leased: &BTreeSet<String>,
    known: &BTreeMap<String, Option<(Duration, &'static str)>>,
) -> Result<(), Shortfall> {
    let lacking = |sites: &mut dyn Iterator<Item = &String>| -> Vec<Lacking> {
        let missing = sites.filter(|site| !leased.contains(*site));
        missing.map(|site| Lacking { site: site.clone(), since: known.get(site).copied().flatten() }).collect()
    };
    let (lacking, have, need) = match require {
        Require::None => return Ok(()),
        Require::Sites(sites) => {
            let lacking = lacking(&mut sites.iter());
            let have = sites.len() - lacking.len();
            (lacking, have, sites.len())
        }
        Require::All => {
            let lacking = lacking(&mut known.keys());
            let need = (leased.len() + lacking.len()).max(1);
            (lacking, leased.len(), need)
        }
        Require::AtLeast(count) => {
            let need = usize::try_from(*count).unwrap_or(usize::MAX);
            (lacking(&mut known.keys()), leased.len(), need)
        }
    };
    if have >= need { Ok(()) } else { Err(Shortfall { have, need, lacking }) }
}

impl fmt::Display for Shortfall {
    /// One line for whoever typed `flwr run`, and for the log.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} of {} required sites hold a lease", self.have, self.need)?;
        for (at, lacking) in self.lacking.iter().take(NAMED).enumerate() {
            f.write_str(if at == 0 { ": " } else { ", " })?;
            write!(f, "{lacking}")?;
        }
        if self.lacking.len() > NAMED {
            write!(f, ", and {} more", self.lacking.len() - NAMED)?;
        }
        Ok(())
    }
}

impl fmt::Display for Lacking {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.site)?;
        match self.since {
            Some((since, code)) => write!(f, " has held none for {} s ({code})", since.as_secs()),
            None => f.write_str(" has held none since this gate started"),
        }
    }
}

/// A reason as a `grpc-message`: percent-encoded, printable ASCII left as it is (gRPC over HTTP/2, Responses).
#[must_use]
pub fn grpc_message(text: &str) -> String {
    let mut encoded = String::with_capacity(text.len());
    for byte in text.bytes() {
        if matches!(byte, 0x20..=0x7E) && byte != b'%' {
            encoded.push(char::from(byte));
        } else {
            // Writing to a String does not fail.
            let _ = write!(encoded, "%{byte:02X}");
        }
    }
    encoded
}

#[cfg(test)]
mod tests {
    use super::*;

    fn set(sites: &[&str]) -> BTreeSet<String> {
        sites.iter().map(|&site| site.to_owned()).collect()
    }

    fn known(sites: &[&str]) -> BTreeMap<String, Option<(Duration, &'static str)>> {
        sites.iter().map(|&site| (site.to_owned(), Some((Duration::from_secs(42), "withdrawn")))).collect()
    }

    #[test]
    fn a_list_needs_each_of_its_sites() {
        let rule = Require::Sites(set(&["a", "b"]));
        assert_eq!(holds(&rule, &set(&["a", "b", "c"]), &known(&[])), Ok(()));
        let error = holds(&rule, &set(&["a", "c"]), &known(&["b"])).expect_err("b is missing").to_string();
        assert_eq!(error, "1 of 2 required sites hold a lease: b has held none for 42 s (withdrawn)");
        let error = holds(&rule, &set(&["a"]), &known(&[])).expect_err("b never came").to_string();
        assert_eq!(error, "1 of 2 required sites hold a lease: b has held none since this gate started");
    }

    #[test]
    fn all_needs_every_site_that_was_here_and_at_least_one() {
        assert_eq!(holds(&Require::All, &set(&["a"]), &known(&["a"])), Ok(()));
        assert_eq!(holds(&Require::All, &set(&[]), &known(&[])).expect_err("nobody").to_string(), "0 of 1 required sites hold a lease");
        let error = holds(&Require::All, &set(&["a"]), &known(&["a", "b"])).expect_err("b is missing");
        assert_eq!((error.have, error.need, error.lacking.len()), (1, 2, 1));
    }

    #[test]
    fn a_number_needs_so_many_and_none_needs_nobody() {
        assert_eq!(holds(&Require::AtLeast(2), &set(&["a", "b"]), &known(&["c"])), Ok(()));
        let error = holds(&Require::AtLeast(3), &set(&["a", "b"]), &known(&["c"])).expect_err("two").to_string();
        assert_eq!(error, "2 of 3 required sites hold a lease: c has held none for 42 s (withdrawn)");
        assert_eq!(holds(&Require::None, &set(&[]), &known(&["a"])), Ok(()));
    }

    #[test]
    fn a_long_list_is_cut_and_no_byte_breaks_a_header() {
        let sites: Vec<String> = (0..9).map(|number| format!("site-{number}")).collect();
        let rule = Require::Sites(sites.iter().cloned().collect());
        let error = holds(&rule, &set(&[]), &known(&[])).expect_err("nobody").to_string();
        assert!(error.ends_with("site-4 has held none since this gate started, and 4 more"), "{error}");
        assert_eq!(grpc_message("a%b\nc\u{e9}"), "a%25b%0Ac%C3%A9");
    }
}
