//! What evidence is compared with.

use std::collections::BTreeMap;

use coffer_evidence::{Family, HostData, LaunchDigest, ReportData, TcbVersion};

/// Report versions taken unless an operator says otherwise. Version 2 names no CPUID, so its family rests on the certificate alone.
pub const DEFAULT_VERSIONS: [u32; 2] = [3, 5];

/// Families taken unless an operator says otherwise. Milan is not among them: arXiv 2605.12990 extracts its VCEK seed.
pub const DEFAULT_FAMILIES: [Family; 2] = [Family::Genoa, Family::Turin];

/// Which platforms a service takes: the same for every request.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Platforms {
    /// Report versions; see [`DEFAULT_VERSIONS`].
    pub versions: Vec<u32>,
    /// Families; see [`DEFAULT_FAMILIES`].
    pub families: Vec<Family>,
    /// The oldest TCB of each family. A family without one is refused.
    pub floors: BTreeMap<Family, TcbVersion>,
}

impl Platforms {
    /// The default versions and families, with these floors. There is no default floor: an operator has to choose.
    #[must_use]
    pub fn with_floors(floors: BTreeMap<Family, TcbVersion>) -> Self {
        Self { versions: DEFAULT_VERSIONS.to_vec(), families: DEFAULT_FAMILIES.to_vec(), floors }
    }
}

/// The part of an enrollment that evidence is compared with.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Enrolled {
    /// The site config it is for.
    pub host_data: HostData,
    /// The bases that site config may run on.
    pub launch_digests: Vec<LaunchDigest>,
}

/// What one piece of evidence is compared with.
#[derive(Clone, Copy, Debug)]
pub struct Expected<'a> {
    /// The challenge: SHA-384 of the runtime-data, then 16 zeros.
    pub report_data: ReportData,
    /// Which platforms are taken.
    pub platforms: &'a Platforms,
    /// The current enrollment of the report's HOST_DATA, looked up by the caller from
    /// `evidence.report.fields().host_data`; `None` if there is none or it is revoked. A record of another HOST_DATA is refused.
    pub enrolled: Option<&'a Enrolled>,
}
