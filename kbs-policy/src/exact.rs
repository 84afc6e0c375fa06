//! Reference values under the stock service's names: exact lists that a report's value must be in. They only narrow.

use std::collections::BTreeMap;
use std::fmt;

use serde::de::{Deserializer, Error as _, MapAccess, Visitor};
use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::input::EvidenceFacts;

/// Bits of PLATFORM_INFO (AMD 56860, table "PLATFORM_INFO Field"): SMT is on, TSME is on.
const SMT: u64 = 1;
const TSME: u64 = 1 << 1;

/// The names that the stock service's policy for SNP asks for.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ExactName {
    /// Launch digest, 96 hexadecimal digits.
    SnpLaunchMeasurement,
    /// Boot loader of the reported TCB.
    SnpBootloader,
    /// TEE of the reported TCB.
    SnpTeeSvn,
    /// SNP firmware of the reported TCB.
    SnpSnpSvn,
    /// Microcode of the reported TCB.
    SnpMicrocode,
    /// Guest policy: lowest firmware ABI, major.
    SnpGuestAbiMajor,
    /// Guest policy: lowest firmware ABI, minor.
    SnpGuestAbiMinor,
    /// Guest policy: one socket only.
    SnpSingleSocket,
    /// Guest policy: SMT may be on.
    SnpSmtAllowed,
    /// Platform: SMT is on.
    SnpSmtEnabled,
    /// Platform: TSME is on.
    SnpTsmeEnabled,
}

impl ExactName {
    /// Every name, in the order they are documented.
    pub const ALL: [Self; 11] = [
        Self::SnpLaunchMeasurement,
        Self::SnpBootloader,
        Self::SnpTeeSvn,
        Self::SnpSnpSvn,
        Self::SnpMicrocode,
        Self::SnpGuestAbiMajor,
        Self::SnpGuestAbiMinor,
        Self::SnpSingleSocket,
        Self::SnpSmtAllowed,
        Self::SnpSmtEnabled,
        Self::SnpTsmeEnabled,
    ];

    /// The name as the stock service spells it.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::SnpLaunchMeasurement => "snp_launch_measurement",
            Self::SnpBootloader => "snp_bootloader",
            Self::SnpTeeSvn => "snp_tee_svn",
            Self::SnpSnpSvn => "snp_snp_svn",
            Self::SnpMicrocode => "snp_microcode",
            Self::SnpGuestAbiMajor => "snp_guest_abi_major",
            Self::SnpGuestAbiMinor => "snp_guest_abi_minor",
            Self::SnpSingleSocket => "snp_single_socket",
            Self::SnpSmtAllowed => "snp_smt_allowed",
            Self::SnpSmtEnabled => "snp_smt_enabled",
            Self::SnpTsmeEnabled => "snp_tsme_enabled",
        }
    }

    /// The report's value under this name.
    #[must_use]
    pub fn of(self, facts: &EvidenceFacts) -> Value {
        let tcb = facts.reported_tcb;
        match self {
            Self::SnpLaunchMeasurement => facts.launch_digest.clone().into(),
            Self::SnpBootloader => tcb.bootloader.into(),
            Self::SnpTeeSvn => tcb.tee.into(),
            Self::SnpSnpSvn => tcb.snp.into(),
            Self::SnpMicrocode => tcb.microcode.into(),
            Self::SnpGuestAbiMajor => facts.abi_major.into(),
            Self::SnpGuestAbiMinor => facts.abi_minor.into(),
            Self::SnpSingleSocket => facts.single_socket.into(),
            Self::SnpSmtAllowed => facts.smt_allowed.into(),
            Self::SnpSmtEnabled => (facts.platform_info & SMT != 0).into(),
            Self::SnpTsmeEnabled => (facts.platform_info & TSME != 0).into(),
        }
    }

    /// What a value under this name looks like.
    const fn expected(self) -> &'static str {
        match self {
            Self::SnpLaunchMeasurement => "96 lower-case hexadecimal digits",
            Self::SnpBootloader
            | Self::SnpTeeSvn
            | Self::SnpSnpSvn
            | Self::SnpMicrocode
            | Self::SnpGuestAbiMajor
            | Self::SnpGuestAbiMinor => "a number from 0 to 255",
            Self::SnpSingleSocket | Self::SnpSmtAllowed | Self::SnpSmtEnabled | Self::SnpTsmeEnabled => "true or false",
        }
    }

    fn fits(self, value: &Value) -> bool {
        match self {
            Self::SnpLaunchMeasurement => {
                value.as_str().is_some_and(|text| text.len() == 96 && text.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f')))
            }
            Self::SnpSingleSocket | Self::SnpSmtAllowed | Self::SnpSmtEnabled | Self::SnpTsmeEnabled => value.is_boolean(),
            _ => value.as_u64().is_some_and(|number| number <= u64::from(u8::MAX)),
        }
    }
}

impl fmt::Display for ExactName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// More values under one name than any list of bases and firmware needs.
pub const MAX_EXACT_VALUES: usize = 256;

/// Lists by name. A name that is absent asks nothing; an empty list is refused, for nothing could ever be in it.
#[derive(Clone, Default, PartialEq, Eq, Debug, Serialize)]
pub struct ExactValues(BTreeMap<ExactName, Vec<Value>>);

/// A list that cannot be one.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum ExactError {
    /// None or absurdly many values.
    #[error("`{name}` lists {got} values, expected 1 to {MAX_EXACT_VALUES}")]
    Count {
        /// The name.
        name: ExactName,
        /// How many there are.
        got: usize,
    },
    /// A value that no report can have.
    #[error("`{name}` lists {got}, expected {expected}")]
    Value {
        /// The name.
        name: ExactName,
        /// The value, as JSON, shortened to 120 characters.
        got: String,
        /// What it should look like.
        expected: &'static str,
    },
}

/// A report's value is not in its list.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{name} is {got}, allowed are {}", allowed.iter().map(ToString::to_string).collect::<Vec<_>>().join(", "))]
pub struct NotListed {
    name: ExactName,
    got: Value,
    allowed: Vec<Value>,
}

impl NotListed {
    /// The list, for `explain`.
    #[must_use]
    pub fn expected(&self) -> String {
        let allowed: Vec<_> = self.allowed.iter().map(ToString::to_string).collect();
        format!("{} one of {}", self.name, allowed.join(", "))
    }

    /// The report's value.
    #[must_use]
    pub fn got(&self) -> String {
        self.got.to_string()
    }
}

impl TryFrom<BTreeMap<ExactName, Vec<Value>>> for ExactValues {
    type Error = ExactError;

    fn try_from(lists: BTreeMap<ExactName, Vec<Value>>) -> Result<Self, ExactError> {
        for (&name, values) in &lists {
            if values.is_empty() || values.len() > MAX_EXACT_VALUES {
                return Err(ExactError::Count { name, got: values.len() });
            }
            if let Some(odd) = values.iter().find(|value| !name.fits(value)) {
                let got = odd.to_string().chars().take(120).collect();
                return Err(ExactError::Value { name, got, expected: name.expected() });
            }
        }
        Ok(Self(lists))
    }
}

impl<'de> Deserialize<'de> for ExactValues {
    fn deserialize<D: Deserializer<'de>>(d: D) -> Result<Self, D::Error> {
        let lists = d.deserialize_map(OncePerName)?;
        Self::try_from(lists).map_err(D::Error::custom)
    }
}

/// Of a name given twice, which list would count? A plain map would keep the last.
struct OncePerName;

impl<'de> Visitor<'de> for OncePerName {
    type Value = BTreeMap<ExactName, Vec<Value>>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a map of names to lists")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut members: A) -> Result<Self::Value, A::Error> {
        let mut lists = BTreeMap::new();
        while let Some((name, list)) = members.next_entry::<ExactName, Vec<Value>>()? {
            if lists.insert(name, list).is_some() {
                return Err(A::Error::custom(format!("`{name}` is given twice")));
            }
        }
        Ok(lists)
    }
}

impl ExactValues {
    /// Whether nothing is asked.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// The lists.
    #[must_use]
    pub const fn lists(&self) -> &BTreeMap<ExactName, Vec<Value>> {
        &self.0
    }

    /// These lists with those of `other` in place of the ones under the same names.
    #[must_use]
    pub fn replaced_by(&self, other: &Self) -> Self {
        let mut lists = self.0.clone();
        lists.extend(other.0.clone());
        Self(lists)
    }

    /// Whether every list has the report's value.
    ///
    /// # Errors
    /// The first list that has not, in the order of [`ExactName`].
    pub fn check(&self, facts: &EvidenceFacts) -> Result<(), NotListed> {
        for (&name, allowed) in &self.0 {
            let got = name.of(facts);
            if !allowed.contains(&got) {
                return Err(NotListed { name, got, allowed: allowed.clone() });
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn facts() -> EvidenceFacts {
        let fixture: Value = serde_json::from_str(include_str!("../fixtures/release.json")).expect("fixture parses");
        serde_json::from_value(fixture["input"]["evidence"].clone()).expect("evidence")
    }

    fn lists(value: Value) -> Result<ExactValues, String> {
        serde_json::from_value(value).map_err(|e| e.to_string())
    }

    #[test]
    fn each_name_compares_its_own_value() {
        let mut facts = facts();
        facts.launch_digest = "ab".repeat(48);
        for name in ExactName::ALL {
            let own = name.of(&facts);
            let other = match &own {
                Value::Bool(value) => json!(!value),
                Value::Number(_) => json!(200),
                _ => json!("cd".repeat(48)),
            };
            let listed = lists(json!({ name.name(): [other, own] })).expect("a list");
            assert_eq!(listed.check(&facts), Ok(()), "{name}");
            let not = lists(json!({ name.name(): [other] })).expect("a list").check(&facts).expect_err("not listed").to_string();
            assert!(not.starts_with(name.name()) && not.contains(&own.to_string()) && not.contains(&other.to_string()), "{not}");
        }
    }

    #[test]
    fn absurd_lists_are_refused() {
        for (value, says) in [
            (json!({ "snp_bootloader": [] }), "lists 0 values"),
            (json!({ "snp_bootloader": vec![1; MAX_EXACT_VALUES + 1] }), "lists 257 values"),
            (json!({ "snp_bootloader": ["1"] }), "a number from 0 to 255"),
            (json!({ "snp_bootloader": [256] }), "a number from 0 to 255"),
            (json!({ "snp_smt_allowed": [1] }), "true or false"),
            (json!({ "snp_launch_measurement": ["AB"] }), "96 lower-case hexadecimal digits"),
            (json!({ "svn": ["1"] }), "unknown variant `svn`"),
            (json!([]), "a map of names to lists"),
        ] {
            let error = lists(value).expect_err(says);
            assert!(error.contains(says), "{error}");
        }
    }

    #[test]
    fn a_name_given_twice_is_refused() {
        let twice = serde_json::from_str::<ExactValues>(r#"{"snp_bootloader":[1],"snp_bootloader":[2]}"#);
        assert!(twice.expect_err("twice").to_string().contains("`snp_bootloader` is given twice"));
    }

    #[test]
    fn a_later_list_takes_the_place_of_an_earlier_one() {
        let old = lists(json!({ "snp_bootloader": [1], "snp_tee_svn": [0] })).expect("lists");
        let new = lists(json!({ "snp_bootloader": [9] })).expect("lists");
        assert_eq!(serde_json::to_value(old.replaced_by(&new)).expect("JSON"), json!({ "snp_bootloader": [9], "snp_tee_svn": [0] }));
    }
}
