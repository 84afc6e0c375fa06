//! Everything `verify` is given, good as made, so that a test can spoil one thing.

use std::sync::LazyLock;

use coffer_evidence::{CertEntry, CertKind, Family, GuestPolicy, HostData, LaunchDigest, Report, ReportData, ReportFields, SnpEvidence};
use coffer_simulator::{Asp, Authority, CrlSpec, Guest, Hierarchy, Platform, Vcek, VcekSpec};
use coffer_verify::{
    Appraisal, Collateral, Enrolled, Expected, FamilyValues, MILAN_RISK, ReferenceValues, Reject, Revoked, Roots, Rule, UnixTime, appraise,
    verify,
};

pub const NOW: UnixTime = UnixTime(1_800_000_000);
pub const CSP: &str = "CN=cc-test-1.example";

/// Two processors' hierarchies with the same names: whatever is compared by name alone would mistake one for the other.
pub static GENOA: LazyLock<Hierarchy> = LazyLock::new(|| Hierarchy::generate(Family::Genoa, NOW).unwrap());
pub static OTHER_GENOA: LazyLock<Hierarchy> = LazyLock::new(|| Hierarchy::generate(Family::Genoa, NOW).unwrap());
pub static MILAN: LazyLock<Hierarchy> = LazyLock::new(|| Hierarchy::generate(Family::Milan, NOW).unwrap());
pub static TURIN: LazyLock<Hierarchy> = LazyLock::new(|| Hierarchy::generate(Family::Turin, NOW).unwrap());
pub static ASVK: LazyLock<Authority> = LazyLock::new(|| GENOA.asvk(NOW).unwrap());

pub fn hierarchy(family: Family) -> &'static Hierarchy {
    match family {
        Family::Milan => &MILAN,
        Family::Genoa => &GENOA,
        Family::Turin => &TURIN,
    }
}

pub struct Scene {
    pub spec: VcekSpec,
    pub fields: ReportFields,
    /// Changes the bytes before they are signed.
    pub bytes: Option<fn(&mut [u8; Report::LEN])>,
    /// Changes the evidence once it is signed.
    pub spoil: Option<fn(&mut SnpEvidence)>,
    pub hierarchy: &'static Hierarchy,
    pub intermediate: &'static Authority,
    pub platform: Platform,
    pub report_data: ReportData,
    /// None where nobody set a policy.
    pub values: Option<ReferenceValues>,
    pub enrolled: Option<Enrolled>,
    pub revoked: Revoked,
    pub collateral: Collateral,
    pub roots: Roots,
    pub now: UnixTime,
}

impl Scene {
    pub fn new(family: Family) -> Self {
        let hierarchy = hierarchy(family);
        let platform = Platform::random(family).unwrap();
        Self::of(hierarchy, &hierarchy.ask, VcekSpec::of(&platform, NOW), platform)
    }

    /// A Genoa whose reports a VLEK signs, where that is allowed.
    pub fn vlek() -> Self {
        let platform = Platform::random(Family::Genoa).unwrap();
        let mut scene = Self::of(&GENOA, &ASVK, VcekSpec::vlek_of(&platform, CSP, NOW), platform);
        let values = scene.values();
        values.signing_keys = vec![coffer_evidence::VekKind::Vlek];
        values.csp_ids = vec!["CN=other.example".into(), CSP.into()];
        scene
    }

    fn of(hierarchy: &'static Hierarchy, intermediate: &'static Authority, spec: VcekSpec, platform: Platform) -> Self {
        let family = hierarchy.family;
        let (host_data, launch_digest) = (HostData::new([0x22; 32]), LaunchDigest::new([0x33; 48]));
        let guest = Guest::launch(launch_digest, host_data, GuestPolicy(0x3_0000)).unwrap();
        let report_data = ReportData::new([0x44; 64]);
        let asp = asp(hierarchy, intermediate, &spec, &platform);
        let mut values = ReferenceValues::with_floors(&[(family, platform.tcb)].into());
        if let Some(milan) = &mut values.families.milan {
            milan.risk_accepted = Some(MILAN_RISK.to_owned());
        }
        values.check().unwrap();
        Self {
            fields: asp.fields(&guest, report_data, 0),
            spec,
            bytes: None,
            spoil: None,
            hierarchy,
            intermediate,
            report_data,
            values: Some(values),
            enrolled: Some(Enrolled::new(host_data, vec![LaunchDigest::new([0x55; 48]), launch_digest])),
            revoked: Revoked::default(),
            collateral: Collateral::new(),
            roots: Roots::simulated(hierarchy.ark.certificate()).unwrap(),
            platform,
            now: NOW,
        }
    }

    pub fn values(&mut self) -> &mut ReferenceValues {
        self.values.as_mut().unwrap()
    }

    pub fn enrolled(&mut self) -> &mut Enrolled {
        self.enrolled.as_mut().unwrap()
    }

    /// The values of the scene's family.
    pub fn family(&mut self) -> &mut FamilyValues {
        let family = self.hierarchy.family;
        self.values().families.of_mut(family).as_mut().unwrap()
    }

    /// Adds the root's revocation list of `this_update`, good for a day.
    pub fn add_crl(&mut self, this_update: u64, revoked: Vec<u32>) {
        let next_update = UnixTime(this_update + 86_400);
        let spec = CrlSpec { revoked, ..CrlSpec::empty(1, UnixTime(this_update), next_update) };
        let list = self.hierarchy.ark.revocation_list(&spec).unwrap();
        self.collateral.add(self.roots.check_crl(&list).unwrap());
    }

    pub fn asp(&self) -> Asp {
        asp(self.hierarchy, self.intermediate, &self.spec, &self.platform)
    }

    pub fn evidence(&self) -> SnpEvidence {
        self.evidence_by(&self.asp())
    }

    pub fn evidence_by(&self, asp: &Asp) -> SnpEvidence {
        let mut bytes = self.fields.encode();
        if let Some(change) = self.bytes {
            change(&mut bytes);
        }
        let report = Report::parse(&asp.sign_bytes(bytes).unwrap()).unwrap();
        let mut evidence = SnpEvidence { report, certificates: asp.certificates() };
        if let Some(spoil) = self.spoil {
            spoil(&mut evidence);
        }
        evidence
    }

    pub fn expected(&self) -> Expected<'_> {
        Expected {
            report_data: self.report_data,
            reference_values: self.values.as_ref(),
            enrolled: self.enrolled.as_ref(),
            revoked: &self.revoked,
            collateral: &self.collateral,
        }
    }

    /// What `verify` says; `appraise`, and the wire in both forms, must say the same.
    pub fn verdict(&self) -> Result<(), Reject> {
        let evidence = self.evidence();
        let verdict = self.verdict_on(&evidence);
        let appraisal = self.appraisal(&evidence);
        assert_eq!(appraisal.rejection(), verdict.clone().err());
        assert_eq!(appraisal.claims.is_some(), verdict.is_ok());
        let raw = SnpEvidence::from_value(&evidence.to_raw_value().unwrap()).unwrap();
        assert_eq!(self.verdict_on(&raw), verdict);
        // The stock form has no place for reserved bytes; what it does with them has a test of its own.
        if evidence.report.nonzero_reserved().is_none() {
            let stock = SnpEvidence::from_value(&evidence.to_stock_value().unwrap()).unwrap();
            assert_eq!(self.verdict_on(&stock), verdict);
        }
        verdict
    }

    pub fn verdict_on(&self, evidence: &SnpEvidence) -> Result<(), Reject> {
        verify(evidence, &self.expected(), &self.roots, self.now).map(drop)
    }

    pub fn appraisal(&self, evidence: &SnpEvidence) -> Appraisal {
        appraise(evidence, &self.expected(), &self.roots, self.now)
    }
}

fn asp(hierarchy: &Hierarchy, intermediate: &Authority, spec: &VcekSpec, platform: &Platform) -> Asp {
    let certificate = |authority: &Authority| authority.certificate().to_vec();
    let vcek = Vcek::issue(spec, intermediate).unwrap();
    Asp::from_parts(platform.clone(), certificate(&hierarchy.ark), certificate(intermediate), vcek)
}

pub fn entry(evidence: &mut SnpEvidence, kind: CertKind) -> &mut CertEntry {
    evidence.certificates.iter_mut().find(|entry| entry.kind == kind).unwrap()
}

pub fn flip(evidence: &mut SnpEvidence, at: usize) {
    let mut bytes = *evidence.report.as_bytes();
    bytes[at] ^= 1;
    evidence.report = Report::parse(&bytes).unwrap();
}

/// The rule broken, none where all hold.
pub fn rule(verdict: &Result<(), Reject>) -> Option<Rule> {
    verdict.as_ref().err().map(Reject::rule)
}
