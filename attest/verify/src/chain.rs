//! From the endorsement key beside a report to a root this verifier believes.

use std::sync::Arc;

use coffer_evidence::{
    CertEntry, CertKind, Certificate, ChipId, Crl, Family, Name, PublicKey, Serial, SignatureAlgorithm, SigningKey, SnpEvidence, UnixTime,
    VekExtensions, VekKind,
};
use ring::digest;
use ring::signature::{RSA_PSS_2048_8192_SHA384, UnparsedPublicKey};

use crate::reject::{ChainFault, Reject, causes};
use crate::roots::{Anchor, RootOfTrust, Roots};
use crate::rule::Rule;

/// AMD's ARKs, ASKs and ASVKs are RSA keys of this many bits (AMD 57230, "Certificate Fields").
const RSA_BITS: usize = 4096;

coffer_evidence::hex_bytes! {
    /// What an [`Endorsement`] depends on, hashed: see [`certificates_digest`].
    CertificatesDigest, 32
}

/// An endorsement key whose certificate leads to a root of trust: every signature of the chain holds. Only [`endorse`] makes one.
///
/// Cheap to clone, and good for as long as the roots are the same: what changes with time (dates, revocation) or from report to report
/// (TCB, chip) is looked at by [`crate::verify_endorsed`] on each use.
#[derive(Clone, Debug)]
pub struct Endorsement(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    root_of_trust: RootOfTrust,
    family: Family,
    kind: VekKind,
    point: Box<[u8; 97]>,
    extensions: VekExtensions,
    chip: Option<ChipId>,
    intermediate: Serial,
    validity: [(Name, UnixTime, UnixTime); 3],
}

impl Endorsement {
    /// Which root of trust vouches for the key.
    #[must_use]
    pub fn root_of_trust(&self) -> RootOfTrust {
        self.0.root_of_trust
    }

    /// The product of the anchoring root.
    #[must_use]
    pub fn family(&self) -> Family {
        self.0.family
    }

    /// What kind of key it is, by its certificate.
    #[must_use]
    pub fn kind(&self) -> VekKind {
        self.0.kind
    }

    /// What AMD's extensions say.
    #[must_use]
    pub fn extensions(&self) -> &VekExtensions {
        &self.0.extensions
    }

    /// Which chip the key is of, as CHIP_ID has it: Turin's 8 bytes and zeros. None for a VLEK.
    #[must_use]
    pub fn chip(&self) -> Option<&ChipId> {
        self.0.chip.as_ref()
    }

    /// Serial number of the intermediate, by which the root's revocation list names it.
    #[must_use]
    pub fn intermediate(&self) -> &Serial {
        &self.0.intermediate
    }

    /// Name, first and last second of validity of endorsement key, intermediate and root.
    #[must_use]
    pub fn validity(&self) -> &[(Name, UnixTime, UnixTime); 3] {
        &self.0.validity
    }

    pub(crate) fn point(&self) -> &[u8; 97] {
        &self.0.point
    }
}

/// SHA-256 over everything of the evidence that [`endorse`] looks at: which kind of key signed, and the certificates. Evidence with the
/// same digest has the same endorsement under the same roots, so a caller may keep endorsements by it.
#[must_use]
pub fn certificates_digest(evidence: &SnpEvidence) -> CertificatesDigest {
    let mut context = digest::Context::new(&digest::SHA256);
    context.update(&[u8::from(evidence.report.fields().key_info.signing_key() == SigningKey::Vlek)]);
    for entry in &evidence.certificates {
        let tag = match entry.kind {
            CertKind::Vcek => 0_u8,
            CertKind::Vlek => 1,
            CertKind::Ask => 2,
            CertKind::Ark | CertKind::Crl | CertKind::Empty | CertKind::Other(_) => continue,
        };
        context.update(&[tag]);
        context.update(&(entry.data.len() as u64).to_le_bytes());
        context.update(&entry.data);
    }
    let mut bytes = [0; CertificatesDigest::LEN];
    bytes.copy_from_slice(context.finish().as_ref());
    CertificatesDigest::new(bytes)
}

/// Finds the endorsement key's certificate and checks its chain: names, places, kinds of keys, and every signature up to the root.
/// Two RSA verifications, or one where the intermediate is built in and was checked before.
///
/// Says nothing about dates, revocation or the report; [`crate::verify_endorsed`] does.
///
/// # Errors
/// [`Rule::VekCount`], [`Rule::Certificate`] or [`Rule::Chain`].
pub fn endorse(evidence: &SnpEvidence, roots: &Roots) -> Result<Endorsement, Reject> {
    endorse_certificates(evidence.report.fields().key_info.signing_key(), &evidence.certificates, roots)
}

/// [`endorse`] without a report: the key that signs (by KEY_INFO of a report to come) and the certificates. For those who keep a store
/// of certificates and want to know what is in it.
///
/// # Errors
/// As [`endorse`].
pub fn endorse_certificates(signing_key: SigningKey, certificates: &[CertEntry], roots: &Roots) -> Result<Endorsement, Reject> {
    let entry = endorsement_entry(signing_key, certificates)?;
    let vek = Certificate::from_der_or_pem(&entry.data).map_err(|source| unreadable("endorsement key", &source))?;
    let kind = VekKind::of(&vek).ok_or_else(|| fault(&vek, ChainFault::CommonName, roots))?;
    let PublicKey::P384 { point } = vek.public_key() else {
        return Err(fault(&vek, ChainFault::KeyType, roots));
    };
    let extensions = VekExtensions::of(&vek).map_err(|source| unreadable("endorsement key", &source))?;
    let (family, intermediate, ark) = anchor(&vek, kind, certificates, roots)?;
    let validity = [&vek, &intermediate, ark].map(|c| (c.subject().clone(), c.not_before(), c.not_after()));
    Ok(Endorsement(Arc::new(Inner {
        root_of_trust: roots.root_of_trust(),
        family,
        kind,
        point: point.clone(),
        chip: chip(&extensions, kind, family),
        extensions,
        intermediate: intermediate.serial().clone(),
        validity,
    })))
}

/// The one certificate labelled as what signed; or the only one there is, whatever its label: its own name decides what it is.
fn endorsement_entry(signing_key: SigningKey, certificates: &[CertEntry]) -> Result<&CertEntry, Reject> {
    let label = match signing_key {
        SigningKey::Vlek => CertKind::Vlek,
        SigningKey::Vcek | SigningKey::None | SigningKey::Reserved(_) => CertKind::Vcek,
    };
    let named: Vec<_> = certificates.iter().filter(|entry| entry.kind == label).collect();
    let all: Vec<_> = certificates.iter().filter(|entry| matches!(entry.kind, CertKind::Vcek | CertKind::Vlek)).collect();
    match (named.as_slice(), all.as_slice()) {
        ([entry], _) | ([], [entry]) => Ok(entry),
        ([], _) => Err(Reject::new(Rule::VekCount, "1".into(), all.len().to_string())),
        (many, _) => Err(Reject::new(Rule::VekCount, "1".into(), many.len().to_string())),
    }
}

/// Checks VEK ← ASK or ASVK ← ARK and tells whose root the ARK is.
///
/// The intermediate is the built-in one if the VEK names it, else one beside the report: a root vouches for either. An ARK beside the
/// report is never looked at.
fn anchor<'r>(
    vek: &Certificate,
    kind: VekKind,
    certificates: &[CertEntry],
    roots: &'r Roots,
) -> Result<(Family, Certificate, &'r Certificate), Reject> {
    let names = |certificate: &Certificate| certificate.subject().as_der() == vek.issuer().as_der();
    let built_in = roots.anchors.iter().flat_map(|anchor| &anchor.intermediates).find(|certificate| names(certificate));
    let intermediate = match built_in {
        Some(certificate) => certificate.clone(),
        None => carried(certificates, names)?.ok_or_else(|| fault(vek, ChainFault::NoIssuer, roots))?,
    };
    let (anchor, of) = roots.anchor_of(&intermediate, built_in.is_some())?;
    if of != kind {
        return Err(fault(&intermediate, ChainFault::CommonName, roots));
    }
    let Anchor { family, ark, .. } = anchor;
    if !vek.subject().is_beside(ark.subject()) {
        return Err(fault(vek, ChainFault::Organisation, roots));
    }
    is_issued_by(vek, &intermediate).map_err(|f| fault(vek, f, roots))?;
    Ok((*family, intermediate, ark))
}

impl Roots {
    /// The root that issued this intermediate, and what kind of keys it certifies. The signature of one that came with this build was
    /// checked when it was loaded.
    fn anchor_of(&self, intermediate: &Certificate, checked: bool) -> Result<(&Anchor, VekKind), Reject> {
        let refuse = |f| fault(intermediate, f, self);
        let is_issuer = |anchor: &&Anchor| anchor.ark.subject().as_der() == intermediate.issuer().as_der();
        let anchor = self.anchors.iter().find(is_issuer).ok_or_else(|| refuse(ChainFault::UnknownRoot))?;
        if !checked {
            is_issued_by(intermediate, &anchor.ark).map_err(refuse)?;
        }
        let named = |kind: &VekKind| family_named(intermediate_prefix(*kind), intermediate.subject()) == Some(anchor.family);
        let kind = [VekKind::Vcek, VekKind::Vlek].into_iter().find(named).ok_or_else(|| refuse(ChainFault::CommonName))?;
        if !intermediate.subject().is_beside(anchor.ark.subject()) {
            return Err(refuse(ChainFault::Organisation));
        }
        Ok((anchor, kind))
    }

    /// Whether a root of this verifier issued this intermediate (ASK or ASVK): its family, and what kind of keys it certifies. Dates
    /// are not looked at.
    ///
    /// # Errors
    /// [`Rule::Chain`].
    pub fn check_intermediate(&self, certificate: &Certificate) -> Result<(Family, VekKind), Reject> {
        let (anchor, kind) = self.anchor_of(certificate, false)?;
        Ok((anchor.family, kind))
    }

    /// The family of this root, if it is one of this verifier's, byte by byte.
    #[must_use]
    pub fn family_of_root(&self, certificate: &Certificate) -> Option<Family> {
        self.anchors.iter().find(|anchor| anchor.ark.as_der() == certificate.as_der()).map(|anchor| anchor.family)
    }
}

/// What comes before the product in the name of an intermediate.
pub(crate) const fn intermediate_prefix(kind: VekKind) -> &'static str {
    match kind {
        VekKind::Vcek => "SEV-",
        VekKind::Vlek => "SEV-VLEK-",
    }
}

/// The first intermediate beside the report that has this name. ASK and ASVK travel under one label.
fn carried(certificates: &[CertEntry], names: impl Fn(&Certificate) -> bool) -> Result<Option<Certificate>, Reject> {
    for entry in certificates.iter().filter(|entry| entry.kind == CertKind::Ask) {
        let certificate = Certificate::from_der_or_pem(&entry.data).map_err(|source| unreadable("intermediate", &source))?;
        if names(&certificate) {
            return Ok(Some(certificate));
        }
    }
    Ok(None)
}

/// CHIP_ID of the chip a VCEK is for: its hardware id, which has the length of its family, and zeros.
fn chip(extensions: &VekExtensions, kind: VekKind, family: Family) -> Option<ChipId> {
    let hwid = extensions.hwid.as_ref().map(|hwid| hwid.as_bytes()).filter(|hwid| hwid.len() == family.hwid_len())?;
    let mut bytes = [0; ChipId::LEN];
    bytes[..hwid.len()].copy_from_slice(hwid);
    (kind == VekKind::Vcek).then_some(ChipId::new(bytes))
}

/// Whether `issuer` may and did sign `certificate`. Names and dates are not looked at.
pub(crate) fn is_issued_by(certificate: &Certificate, issuer: &Certificate) -> Result<(), ChainFault> {
    if certificate.signature_algorithm() != SignatureAlgorithm::RsaPssSha384 {
        return Err(ChainFault::Algorithm);
    }
    if !certificate.knows_all_critical_extensions() {
        return Err(ChainFault::CriticalExtension);
    }
    if !issuer.may_sign_certificates() {
        return Err(ChainFault::NotCa);
    }
    rsa_verify(issuer, certificate.signed_bytes(), certificate.signature())
}

/// Whether `issuer` may and did sign this revocation list, and the list can be understood whole.
pub(crate) fn crl_is_signed_by(crl: &Crl, issuer: &Certificate) -> Result<(), ChainFault> {
    if crl.signature_algorithm() != SignatureAlgorithm::RsaPssSha384 {
        return Err(ChainFault::Algorithm);
    }
    if !crl.knows_all_critical_extensions() {
        return Err(ChainFault::CriticalExtension);
    }
    if !issuer.may_sign_crls() {
        return Err(ChainFault::NotCa);
    }
    rsa_verify(issuer, crl.signed_bytes(), crl.signature())
}

fn rsa_verify(issuer: &Certificate, message: &[u8], signature: &[u8]) -> Result<(), ChainFault> {
    let PublicKey::Rsa { der, bits: RSA_BITS } = issuer.public_key() else {
        return Err(ChainFault::KeyType);
    };
    UnparsedPublicKey::new(&RSA_PSS_2048_8192_SHA384, der).verify(message, signature).map_err(|_| ChainFault::Signature)
}

/// The family in a name like `ARK-Genoa`.
pub(crate) fn family_named(prefix: &str, name: &Name) -> Option<Family> {
    let rest = name.common_name()?.strip_prefix(prefix)?;
    Family::ALL.into_iter().find(|family| family.amd_name() == rest)
}

fn fault(certificate: &Certificate, fault: ChainFault, roots: &Roots) -> Reject {
    let got = format!("broken: certificate of {} by {} {fault}", certificate.subject(), certificate.issuer());
    Reject::new(Rule::Chain, format!("one that leads to {}", roots.root_of_trust()), got)
}

fn unreadable(which: &str, error: &coffer_evidence::CertificateError) -> Reject {
    Reject::new(Rule::Certificate, "one as AMD issues them".into(), format!("unreadable: {which}: {}", causes(error)))
}
