//! Revocation lists: checked once, then looked at on each use.

use std::collections::{BTreeMap, BTreeSet};

use coffer_evidence::{CertificateError, Crl, Family, Serial, UnixTime};

use crate::reject::ChainFault;
use crate::roots::Roots;

/// Bytes that are no revocation list of this verifier's roots.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum CrlError {
    /// They cannot be read.
    #[error("revocation list cannot be read")]
    Malformed(#[from] CertificateError),
    /// Its issuer is no root of ours.
    #[error("revocation list is by {issuer}, which is no root of this service")]
    Issuer {
        /// Its issuer's common name, escaped.
        issuer: String,
    },
    /// The root did not sign it, or it cannot be understood whole.
    #[error("revocation list {fault}")]
    Fault {
        /// What is wrong with it.
        fault: ChainFault,
    },
}

/// A revocation list that its family's root has signed. Only [`Roots::check_crl`] makes one.
///
/// It says which certificates **of the root** no longer count: an ASK or ASVK, and with it every key below. It cannot say that of one
/// chip's VCEK or one provider's VLEK: those are issued by the ASK and ASVK, AMD publishes no list of theirs, and all of them have
/// serial number zero. To refuse one chip, use a deny-list or revoke the chip at the service.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct VerifiedCrl {
    family: Family,
    crl: Crl,
}

impl VerifiedCrl {
    pub(crate) const fn new(family: Family, crl: Crl) -> Self {
        Self { family, crl }
    }

    /// Whose root signed it.
    #[must_use]
    pub const fn family(&self) -> Family {
        self.family
    }

    /// What it says.
    #[must_use]
    pub const fn crl(&self) -> &Crl {
        &self.crl
    }

    /// (cRLNumber, thisUpdate): later lists have greater ones.
    fn age(&self) -> (usize, &[u8], UnixTime) {
        let number = self.crl.number().map_or(&[][..], Serial::as_bytes);
        (number.len(), number, self.crl.this_update())
    }
}

/// What [`Collateral::add`] did with a list.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Added {
    /// It is the newest of its family now.
    Newest,
    /// It is the newest that was there already.
    Same,
    /// A newer one is there and stays. What this one revokes counts all the same.
    Older,
}

/// One family's lists.
#[derive(Clone, PartialEq, Eq, Debug)]
struct Lists {
    newest: VerifiedCrl,
    revoked: BTreeSet<Serial>,
}

/// The revocation lists a verifier goes by. Starts empty; only lists checked against its roots get in.
///
/// What one list of a family has revoked stays revoked whatever other list is added: nobody can take a revocation back by handing in
/// an older list, and AMD's lists for VCEKs and for VLEKs, both by one root, do not shadow each other.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Collateral {
    lists: BTreeMap<Family, Lists>,
}

impl Collateral {
    /// No list at all.
    #[must_use]
    pub const fn new() -> Self {
        Self { lists: BTreeMap::new() }
    }

    /// Takes a list in.
    pub fn add(&mut self, crl: VerifiedCrl) -> Added {
        let revoked = crl.crl.revoked().iter().cloned();
        let Some(lists) = self.lists.get_mut(&crl.family) else {
            self.lists.insert(crl.family, Lists { revoked: revoked.collect(), newest: crl });
            return Added::Newest;
        };
        lists.revoked.extend(revoked);
        if lists.newest == crl {
            Added::Same
        } else if crl.age() > lists.newest.age() {
            lists.newest = crl;
            Added::Newest
        } else {
            Added::Older
        }
    }

    /// The newest list of a family.
    #[must_use]
    pub fn newest(&self, family: Family) -> Option<&VerifiedCrl> {
        self.lists.get(&family).map(|lists| &lists.newest)
    }

    /// Whether any list of this family revokes this serial number.
    #[must_use]
    pub fn revokes(&self, family: Family, serial: &Serial) -> bool {
        self.lists.get(&family).is_some_and(|lists| lists.revoked.contains(serial))
    }
}

impl Roots {
    /// Checks a revocation list (DER or PEM) against these roots. Its dates are not looked at: an expired list still revokes.
    ///
    /// # Errors
    /// See [`CrlError`].
    pub fn check_crl(&self, bytes: &[u8]) -> Result<VerifiedCrl, CrlError> {
        let crl = Crl::from_der_or_pem(bytes)?;
        let anchor = self.anchors.iter().find(|anchor| anchor.ark.subject().as_der() == crl.issuer().as_der());
        let anchor = anchor.ok_or_else(|| CrlError::Issuer { issuer: crl.issuer().to_string() })?;
        crate::chain::crl_is_signed_by(&crl, &anchor.ark).map_err(|fault| CrlError::Fault { fault })?;
        Ok(VerifiedCrl::new(anchor.family, crl))
    }
}
