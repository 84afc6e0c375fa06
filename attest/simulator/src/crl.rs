//! Revocation lists, as AMD's roots sign them.

use coffer_evidence::UnixTime;

use crate::authority::{Authority, KeyError};
use crate::der::{context, element, integer, sequence, time};
use crate::x509::{ORGANISATION, extension, name, rsa_pss_sha384, signed};

/// What a revocation list is to say.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct CrlSpec {
    /// cRLNumber.
    pub number: u32,
    /// When it was issued.
    pub this_update: UnixTime,
    /// By when the next is due.
    pub next_update: Option<UnixTime>,
    /// Serial numbers it revokes.
    pub revoked: Vec<u32>,
    /// Whether it has a critical extension: an issuing distribution point, as a list of a part only would.
    pub partial: bool,
}

impl CrlSpec {
    /// A list that revokes nothing.
    #[must_use]
    pub const fn empty(number: u32, this_update: UnixTime, next_update: UnixTime) -> Self {
        Self { number, this_update, next_update: Some(next_update), revoked: Vec::new(), partial: false }
    }
}

impl Authority {
    /// Signs a revocation list (RFC 5280, section 5): DER.
    ///
    /// # Errors
    /// See [`KeyError`].
    pub fn revocation_list(&self, spec: &CrlSpec) -> Result<Vec<u8>, KeyError> {
        let entries: Vec<Vec<u8>> = spec.revoked.iter().map(|serial| sequence(&[&integer(*serial), &time(spec.this_update)])).collect();
        let entries: Vec<&[u8]> = entries.iter().map(Vec::as_slice).collect();
        let mut extensions = vec![extension(&[0x55, 0x1D, 0x14], false, &integer(spec.number))];
        if spec.partial {
            // issuingDistributionPoint with onlyContainsUserCerts.
            extensions.push(extension(&[0x55, 0x1D, 0x1C], true, &sequence(&[&element(0x81, &[0xFF])])));
        }
        let extensions: Vec<&[u8]> = extensions.iter().map(Vec::as_slice).collect();
        let tbs = sequence(&[
            &integer(1),
            &rsa_pss_sha384(),
            &name(self.common_name(), ORGANISATION),
            &time(spec.this_update),
            &spec.next_update.map(time).unwrap_or_default(),
            &if entries.is_empty() { Vec::new() } else { sequence(&entries) },
            &context(0, &sequence(&extensions)),
        ]);
        signed(&tbs, self.key())
    }
}
