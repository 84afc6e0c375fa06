//! From the VCEK beside a report to a root this verifier believes.

use coffer_evidence::{CertKind, Certificate, Family, Name, PublicKey, SignatureAlgorithm, SigningKey, SnpEvidence, UnixTime, VekKind};
use ring::signature::{RSA_PSS_2048_8192_SHA384, UnparsedPublicKey};

use crate::reject::{ChainFault, Reject};
use crate::roots::{Anchor, Roots};

/// A certificate with a VCEK's name and a P-384 key. Nothing says yet who made it.
pub(crate) struct Vcek {
    pub(crate) certificate: Certificate,
    pub(crate) point: Box<[u8; 97]>,
}

/// The one VCEK of the evidence. Everything of a VLEK is refused by name: it does not say which chip made a report.
pub(crate) fn vcek(evidence: &SnpEvidence) -> Result<Vcek, Reject> {
    match evidence.report.fields().key_info.signing_key() {
        SigningKey::Vcek => {}
        SigningKey::Vlek => return Err(Reject::Vlek { by: "report" }),
        got => return Err(Reject::SigningKey { got }),
    }
    let of_kind = |kind| evidence.certificates.iter().filter(move |entry| entry.kind == kind);
    let mut vceks = of_kind(CertKind::Vcek);
    let (Some(entry), None) = (vceks.next(), vceks.next()) else {
        return Err(match (of_kind(CertKind::Vcek).count(), of_kind(CertKind::Vlek).count()) {
            (0, 1..) => Reject::Vlek { by: "certificate" },
            (got, _) => Reject::VcekCount { got },
        });
    };
    let certificate = Certificate::from_der_or_pem(&entry.data).map_err(|source| Reject::Certificate { which: "VCEK", source })?;
    match VekKind::of(&certificate) {
        Some(VekKind::Vcek) => {}
        Some(VekKind::Vlek) => return Err(Reject::Vlek { by: "certificate" }),
        None => return Err(fault(&certificate, ChainFault::CommonName)),
    }
    let PublicKey::P384 { point } = certificate.public_key() else {
        return Err(fault(&certificate, ChainFault::KeyType));
    };
    let point = point.clone();
    Ok(Vcek { certificate, point })
}

/// Checks VCEK ← ASK ← ARK, signatures before dates, and tells whose root the ARK is.
///
/// The ASK is the built-in one if the VCEK names it, else one beside the report: a root vouches for either.
/// An ARK beside the report is never looked at.
pub(crate) fn anchor(vcek: &Vcek, evidence: &SnpEvidence, roots: &Roots, now: UnixTime) -> Result<Family, Reject> {
    let vcek = &vcek.certificate;
    let built_in = roots.anchors.iter().filter_map(|anchor| anchor.ask.as_ref()).find(|ask| ask.subject() == vcek.issuer());
    let ask = match built_in {
        Some(ask) => ask.clone(),
        None => carried_ask(vcek.issuer(), evidence)?.ok_or_else(|| fault(vcek, ChainFault::NoIssuer))?,
    };
    let Anchor { family, ark, .. } =
        roots.anchors.iter().find(|anchor| anchor.ark.subject() == ask.issuer()).ok_or_else(|| fault(&ask, ChainFault::UnknownRoot))?;
    is_issued_by(&ask, ark).map_err(|f| fault(&ask, f))?;
    if family_named("SEV-", ask.subject()) != Some(*family) {
        return Err(fault(&ask, ChainFault::CommonName));
    }
    is_issued_by(vcek, &ask).map_err(|f| fault(vcek, f))?;
    for certificate in [vcek, &ask, ark] {
        let (not_before, not_after) = (certificate.not_before(), certificate.not_after());
        if now < not_before || now > not_after {
            return Err(Reject::CertificateDates { subject: certificate.subject().clone(), not_before, not_after, now });
        }
    }
    Ok(*family)
}

/// The first ASK beside the report that has this name.
fn carried_ask(name: &Name, evidence: &SnpEvidence) -> Result<Option<Certificate>, Reject> {
    for entry in evidence.certificates.iter().filter(|entry| entry.kind == CertKind::Ask) {
        let ask = Certificate::from_der_or_pem(&entry.data).map_err(|source| Reject::Certificate { which: "ASK", source })?;
        if ask.subject() == name {
            return Ok(Some(ask));
        }
    }
    Ok(None)
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
    let PublicKey::Rsa { der, .. } = issuer.public_key() else {
        return Err(ChainFault::KeyType);
    };
    UnparsedPublicKey::new(&RSA_PSS_2048_8192_SHA384, der)
        .verify(certificate.signed_bytes(), certificate.signature())
        .map_err(|_| ChainFault::Signature)
}

/// The family in a name like `ARK-Genoa`.
pub(crate) fn family_named(prefix: &str, name: &Name) -> Option<Family> {
    let rest = name.common_name()?.strip_prefix(prefix)?;
    Family::ALL.into_iter().find(|family| family.amd_name() == rest)
}

fn fault(certificate: &Certificate, fault: ChainFault) -> Reject {
    Reject::Chain { subject: certificate.subject().clone(), issuer: certificate.issuer().clone(), fault }
}
