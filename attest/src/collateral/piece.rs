//! One verified piece of collateral, or the reason why bytes are none.

use core::fmt;

use coffer_evidence::{CertEntry, CertKind, Certificate, CertificateError, Family, TcbVersion, UnixTime, VekExtensions, VekKind};
use coffer_manifest::Sha256Digest;
use coffer_verify::{Collateral, CrlError, Endorsement, Reject, Roots, VerifiedCrl, endorse_certificates};

use super::key::{ChipTcb, KeyError, tcb_name};
use crate::clock::rfc3339;
use crate::store::{CollateralKind, CollateralRow};

/// Bytes are not collateral of this service.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Unfit {
    /// Neither a certificate nor a revocation list.
    #[error("is neither a certificate nor a revocation list: {0}")]
    Unreadable(#[source] CertificateError),
    /// A certificate that does not lead to the service's root, is misnamed, or not signed as AMD's are.
    #[error("certificate of {subject} is refused: {rule}: it is {got}, expected {expected}")]
    Chain {
        /// Whose, by its own word.
        subject: String,
        /// The verifier's rule.
        rule: &'static str,
        /// What the rule got.
        got: String,
        /// What the rule wants.
        expected: String,
    },
    /// A root other than the service's.
    #[error("certificate of {subject} is a root, and not the one this service was made for")]
    OtherRoot {
        /// Its common name.
        subject: String,
    },
    /// A revocation list that the root did not sign.
    #[error(transparent)]
    Crl(#[from] CrlError),
    /// Past its last day.
    #[error("certificate of {subject} expired at {not_after} (Unix seconds), it is {now} now")]
    Expired {
        /// Whose.
        subject: String,
        /// Last second of its validity.
        not_after: UnixTime,
        /// The time.
        now: UnixTime,
    },
    /// The root's list revokes the intermediate.
    #[error("certificate of {subject} is issued by an intermediate that the root has revoked")]
    Revoked {
        /// Whose.
        subject: String,
    },
    /// The certificate's own words about its chip do not fit its family.
    #[error("certificate of {subject}: {cause}")]
    Chip {
        /// Whose.
        subject: String,
        /// What does not fit.
        cause: KeyError,
    },
    /// Product and root disagree.
    #[error("certificate of {subject} is for product `{product}`, its root is {family}'s")]
    Product {
        /// Whose.
        subject: String,
        /// What it says.
        product: String,
        /// Of the root.
        family: Family,
    },
    /// A VCEK without hardware id, or a VLEK without CSP id.
    #[error("certificate of {subject} does not say which {what} it is for")]
    Nameless {
        /// Whose.
        subject: String,
        /// `chip` or `cloud provider`.
        what: &'static str,
    },
}

/// What a piece is looked up by.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum What {
    /// A chip at a TCB.
    Vcek(ChipTcb),
    /// A cloud provider's key at a TCB.
    Vlek {
        /// Of its root.
        family: Family,
        /// The provider.
        csp_id: String,
        /// What the key was derived for.
        tcb: TcbVersion,
    },
    /// ASK or ASVK, by the DER of its name.
    Issuer {
        /// Of its root.
        family: Family,
        /// DER of its subject.
        name: Vec<u8>,
    },
    /// The service's own root: nothing to keep.
    Root(Family),
    /// A family's revocation list.
    Crl(Box<VerifiedCrl>),
}

/// A verified piece. Only [`Piece::judge`] makes one from strangers' bytes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Piece {
    /// What it is.
    pub what: What,
    /// The bytes, DER.
    pub der: Vec<u8>,
    /// Its common name.
    pub subject: String,
    /// DER of its issuer's name.
    pub issuer: Vec<u8>,
    /// Last second of validity; of a list, its nextUpdate.
    pub not_after: Option<UnixTime>,
}

/// What judging needs besides the bytes.
pub struct Bench<'a> {
    /// Whom the service believes.
    pub roots: &'a Roots,
    /// What the roots have revoked.
    pub collateral: &'a Collateral,
    /// The time.
    pub now: UnixTime,
}

impl Piece {
    /// Verifies bytes (DER). `issuer` finds a verified intermediate by the DER of its name; those that come with this build need none.
    ///
    /// # Errors
    /// See [`Unfit`].
    pub fn judge(der: &[u8], bench: &Bench<'_>, issuer: impl Fn(&[u8]) -> Option<Vec<u8>>) -> Result<Self, Unfit> {
        let certificate = match Certificate::from_der(der) {
            Ok(certificate) => certificate,
            Err(error) => return judge_crl(der, bench, error),
        };
        if certificate.not_after() < bench.now {
            let subject = certificate.subject().to_string();
            return Err(Unfit::Expired { subject, not_after: certificate.not_after(), now: bench.now });
        }
        let what = match VekKind::of(&certificate) {
            Some(kind) => judge_vek(&certificate, kind, bench, issuer)?,
            None => judge_authority(&certificate, bench)?,
        };
        Ok(Self {
            what,
            subject: certificate.subject().to_string(),
            issuer: certificate.issuer().as_der().to_vec(),
            not_after: Some(certificate.not_after()),
            der: der.to_vec(),
        })
    }

    /// A piece as it lay in the database, read again but not verified again: each use verifies its chain. Lists are.
    ///
    /// # Errors
    /// See [`Unfit`].
    pub fn reread(row: &CollateralRow, roots: &Roots) -> Result<Self, Unfit> {
        if row.kind == CollateralKind::Crl {
            let list = roots.check_crl(&row.der)?;
            return Ok(Self::of_crl(list));
        }
        let certificate = Certificate::from_der(&row.der).map_err(Unfit::Unreadable)?;
        let subject = certificate.subject().to_string();
        let what = match VekKind::of(&certificate) {
            Some(kind) => vek(&VekExtensions::of(&certificate).map_err(Unfit::Unreadable)?, kind, row.family, &subject)?,
            None => What::Issuer { family: row.family, name: certificate.subject().as_der().to_vec() },
        };
        let (issuer, not_after) = (certificate.issuer().as_der().to_vec(), Some(certificate.not_after()));
        Ok(Self { what, der: row.der.clone(), subject, issuer, not_after })
    }

    fn of_crl(list: VerifiedCrl) -> Self {
        let crl = list.crl();
        Self {
            der: crl.as_der().to_vec(),
            subject: format!("CRL by {}", crl.issuer()),
            issuer: crl.issuer().as_der().to_vec(),
            not_after: crl.next_update(),
            what: What::Crl(Box::new(list)),
        }
    }

    /// Whether it is a certificate past its last day. A list past its nextUpdate still revokes.
    #[must_use]
    pub fn is_expired(&self, now: UnixTime) -> bool {
        !matches!(self.what, What::Crl(_)) && self.not_after.is_some_and(|end| end < now)
    }

    /// Whose it is.
    #[must_use]
    pub fn family(&self) -> Family {
        match &self.what {
            What::Vcek(key) => key.family(),
            What::Vlek { family, .. } | What::Issuer { family, .. } | What::Root(family) => *family,
            What::Crl(list) => list.family(),
        }
    }

    /// Kind and key of its row; none for the root, which is not stored.
    #[must_use]
    pub fn row_key(&self) -> Option<(CollateralKind, String)> {
        match &self.what {
            What::Vcek(key) => Some((CollateralKind::Vcek, format!("{}/{}", key.chip(), tcb_name(&key.tcb())))),
            What::Vlek { csp_id, tcb, .. } => Some((CollateralKind::Vlek, format!("{csp_id}/{}", tcb_name(tcb)))),
            What::Issuer { name, .. } => Some((CollateralKind::Issuer, Sha256Digest::of(name).to_string())),
            What::Crl(_) => Some((CollateralKind::Crl, Sha256Digest::of(&self.der).to_string())),
            What::Root(_) => None,
        }
    }
}

/// What it is, for people.
impl fmt::Display for Piece {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.what {
            What::Vcek(key) => write!(f, "VCEK of {key}"),
            What::Vlek { family, csp_id, tcb } => write!(f, "VLEK of {family} for `{}` at {tcb}", csp_id.escape_debug()),
            What::Issuer { family, .. } => write!(f, "intermediate {} of {family}", self.subject),
            What::Root(family) => write!(f, "root of {family}, the service's own"),
            What::Crl(list) => write!(f, "CRL of {} of {}", list.family(), rfc3339(list.crl().this_update().0)),
        }
    }
}

fn judge_crl(der: &[u8], bench: &Bench<'_>, as_certificate: CertificateError) -> Result<Piece, Unfit> {
    match bench.roots.check_crl(der) {
        Ok(list) => Ok(Piece::of_crl(list)),
        // What reads as neither is told by what it is no certificate for.
        Err(CrlError::Malformed(_)) => Err(Unfit::Unreadable(as_certificate)),
        Err(error) => Err(error.into()),
    }
}

fn judge_vek(
    certificate: &Certificate,
    kind: VekKind,
    bench: &Bench<'_>,
    issuer: impl Fn(&[u8]) -> Option<Vec<u8>>,
) -> Result<What, Unfit> {
    let subject = certificate.subject().to_string();
    let label = match kind {
        VekKind::Vcek => CertKind::Vcek,
        VekKind::Vlek => CertKind::Vlek,
    };
    let mut entries = vec![CertEntry { kind: label, data: certificate.as_der().to_vec() }];
    entries.extend(issuer(certificate.issuer().as_der()).map(|data| CertEntry { kind: CertKind::Ask, data }));
    let endorsement = endorse_certificates(kind.signing_key(), &entries, bench.roots).map_err(|e| refused(&subject, &e))?;
    check_validity(&endorsement, bench)?;
    if bench.collateral.revokes(endorsement.family(), endorsement.intermediate()) {
        return Err(Unfit::Revoked { subject });
    }
    vek(endorsement.extensions(), kind, endorsement.family(), &subject)
}

fn check_validity(endorsement: &Endorsement, bench: &Bench<'_>) -> Result<(), Unfit> {
    let expired = endorsement.validity().iter().find(|(_, _, not_after)| *not_after < bench.now);
    match expired {
        Some((name, _, not_after)) => Err(Unfit::Expired { subject: name.to_string(), not_after: *not_after, now: bench.now }),
        None => Ok(()),
    }
}

fn vek(extensions: &VekExtensions, kind: VekKind, family: Family, subject: &str) -> Result<What, Unfit> {
    let subject = || subject.to_owned();
    if Family::of_product(&extensions.product) != Some(family) {
        let product = extensions.product.escape_debug().to_string();
        return Err(Unfit::Product { subject: subject(), product, family });
    }
    match (kind, &extensions.hwid, &extensions.csp_id) {
        (VekKind::Vcek, Some(hwid), _) => {
            let key = ChipTcb::new(family, hwid.as_bytes(), extensions.tcb);
            Ok(What::Vcek(key.map_err(|cause| Unfit::Chip { subject: subject(), cause })?))
        }
        (VekKind::Vlek, _, Some(csp_id)) => Ok(What::Vlek { family, csp_id: csp_id.clone(), tcb: extensions.tcb }),
        (VekKind::Vcek, None, _) => Err(Unfit::Nameless { subject: subject(), what: "chip" }),
        (VekKind::Vlek, _, None) => Err(Unfit::Nameless { subject: subject(), what: "cloud provider" }),
    }
}

/// The root itself, an intermediate of it, or neither.
fn judge_authority(certificate: &Certificate, bench: &Bench<'_>) -> Result<What, Unfit> {
    let subject = certificate.subject().to_string();
    if certificate.subject().as_der() == certificate.issuer().as_der() {
        return bench.roots.family_of_root(certificate).map(What::Root).ok_or(Unfit::OtherRoot { subject });
    }
    let (family, _) = bench.roots.check_intermediate(certificate).map_err(|e| refused(&subject, &e))?;
    if bench.collateral.revokes(family, certificate.serial()) {
        return Err(Unfit::Revoked { subject });
    }
    Ok(What::Issuer { family, name: certificate.subject().as_der().to_vec() })
}

fn refused(subject: &str, reject: &Reject) -> Unfit {
    let (got, expected) = (reject.got().to_owned(), reject.expected().to_owned());
    Unfit::Chain { subject: subject.to_owned(), rule: reject.code(), got, expected }
}
