//! A bound on what verified evidence may cause: a decision is a transaction and an entry of the audit log, which is kept for good.
//!
//! Before a signature holds, limits are by source address (`rate`); after it, by who it is. What is accepted, and what a session
//! asks for, counts against the site. What is refused counts against the processor that signed it: HOST_DATA is the host's to
//! choose, so counting refusals against the site named would let anybody with a genuine processor silence a site.

use std::collections::HashMap;
use std::fmt;
use std::sync::{Mutex, PoisonError};
use std::time::Instant;

use coffer_evidence::{CertKind, Certificate, ChipId, HostData, SigningKey, SnpEvidence};
use coffer_manifest::Sha256Digest;
use coffer_token::Jkt;

/// Holders remembered at most. Each is a site that is enrolled or a genuine processor, and is forgotten once its bucket is full
/// again, so this many would have to come within minutes.
const MOST: usize = 1 << 16;

/// Who answers for a decision.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Holder {
    /// A site, by its HOST_DATA: its evidence was accepted.
    Site(HostData),
    /// A processor: it signed evidence that was refused.
    Chip(ChipId),
    /// The same, where the report does not name it (VLEK, or a masked chip id: all zero): digest of the certificate of the key.
    Key(Sha256Digest),
    /// An admin who was revoked and still calls, by the id of the key.
    Revoked(Jkt),
}

impl Holder {
    /// Who answers for evidence that was refused though its signature holds: never the HOST_DATA, which any host may name.
    #[must_use]
    pub fn of_refused(evidence: &SnpEvidence) -> Self {
        let chip_id = evidence.report.fields().chip_id;
        if chip_id.as_bytes().iter().any(|byte| *byte != 0) {
            return Self::Chip(chip_id);
        }
        let label = match evidence.report.fields().key_info.signing_key() {
            SigningKey::Vlek => CertKind::Vlek,
            _ => CertKind::Vcek,
        };
        // The entry that was verified, and its DER whatever text it came as: nothing beside it makes another holder of one key.
        let of_keys = || evidence.certificates.iter().filter(|entry| matches!(entry.kind, CertKind::Vcek | CertKind::Vlek));
        let entry = of_keys().find(|entry| entry.kind == label).or_else(|| of_keys().next());
        let certificate = entry.and_then(|entry| Certificate::from_der_or_pem(&entry.data).ok());
        Self::Key(Sha256Digest::of(certificate.as_ref().map_or(&[], Certificate::as_der)))
    }
}

impl fmt::Display for Holder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Site(host_data) => write!(f, "site config {host_data}"),
            Self::Chip(chip_id) => write!(f, "processor {chip_id}"),
            Self::Key(digest) => write!(f, "key of certificate {digest}"),
            Self::Revoked(kid) => write!(f, "revoked admin key {kid}"),
        }
    }
}

/// The bounds of all holders.
#[derive(Debug)]
pub struct HolderBound {
    buckets: Mutex<HashMap<Holder, Bucket>>,
    per_second: f64,
    burst: f64,
}

#[derive(Debug, Clone, Copy)]
struct Bucket {
    tokens: f64,
    filled: Instant,
}

impl HolderBound {
    /// Lets every holder cause `burst` decisions at once and `per_minute` in the long run.
    #[must_use]
    pub fn new(per_minute: u32, burst: u32) -> Self {
        Self { buckets: Mutex::default(), per_second: f64::from(per_minute) / 60.0, burst: f64::from(burst) }
    }

    /// Takes one decision of `holder` out of its bucket; false if there is none left.
    #[must_use]
    pub fn allow(&self, holder: Holder, now: Instant) -> bool {
        // Poisoned or not, each bucket holds two numbers that are valid on their own.
        let mut buckets = self.buckets.lock().unwrap_or_else(PoisonError::into_inner);
        if buckets.len() >= MOST && !buckets.contains_key(&holder) {
            buckets.retain(|_, bucket| self.grown(bucket, now) < self.burst);
            if buckets.len() >= MOST {
                return false;
            }
        }
        let bucket = buckets.entry(holder).or_insert(Bucket { tokens: self.burst, filled: now });
        *bucket = Bucket { tokens: self.grown(bucket, now), filled: now };
        if bucket.tokens < 1.0 {
            return false;
        }
        bucket.tokens -= 1.0;
        true
    }

    fn grown(&self, bucket: &Bucket, now: Instant) -> f64 {
        (bucket.tokens + now.saturating_duration_since(bucket.filled).as_secs_f64() * self.per_second).min(self.burst)
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use coffer_evidence::{CertEntry, Family, GuestPolicy, LaunchDigest, ReportData};
    use coffer_simulator::{Asp, Guest, Hierarchy};

    use super::*;
    use crate::clock::unix_now;

    fn site(n: u32) -> Holder {
        let mut bytes = [7; 32];
        bytes[..4].copy_from_slice(&n.to_le_bytes());
        Holder::Site(HostData::new(bytes))
    }

    #[test]
    fn each_holder_has_its_burst_then_its_rate() {
        let (bound, start) = (HolderBound::new(60, 5), Instant::now());
        let allowed = |holder, at| (0..20).filter(|_| bound.allow(holder, at)).count();
        assert_eq!(allowed(site(1), start), 5);
        assert_eq!(allowed(site(2), start), 5, "another site's bound is its own");
        assert_eq!(allowed(site(1), start + Duration::from_secs(2)), 2);
        assert_eq!(allowed(site(1), start + Duration::from_secs(3600)), 5);
    }

    #[test]
    fn a_refusal_is_the_processors_whatever_site_it_names() {
        let time = coffer_evidence::UnixTime(unix_now());
        let hierarchy = Hierarchy::generate(Family::Genoa, time).unwrap();
        let (asp, another) = (Asp::new(&hierarchy, time).unwrap(), Asp::new(&hierarchy, time).unwrap());
        let (one, other) = (HostData::new([1; 32]), HostData::new([2; 32]));
        let evidence = |asp: &Asp, host_data, masked: bool| {
            let guest = Guest::launch(LaunchDigest::new([1; 48]), host_data, GuestPolicy(0x3_0000)).unwrap();
            let mut fields = asp.fields(&guest, ReportData::new([3; 64]), 0);
            if masked {
                fields.chip_id = ChipId::new([0; 64]);
            }
            asp.evidence_of(&fields).unwrap()
        };
        for masked in [false, true] {
            let holder = |asp, host_data| Holder::of_refused(&evidence(asp, host_data, masked));
            assert_eq!(holder(&asp, one), holder(&asp, other));
            assert_ne!(holder(&asp, one), holder(&another, one), "another processor");
            assert!(!matches!(holder(&asp, one), Holder::Site(_)));
        }
        // What a host puts beside the certificate that counts makes nobody else of it.
        let mut padded = evidence(&asp, one, true);
        padded.certificates.insert(0, CertEntry { kind: CertKind::Vlek, data: evidence(&another, one, true).certificates[0].data.clone() });
        assert_eq!(Holder::of_refused(&padded), Holder::of_refused(&evidence(&asp, one, true)));
    }

    #[test]
    fn who_has_been_quiet_is_forgotten_when_there_are_many() {
        let (bound, start) = (HolderBound::new(60, 2), Instant::now());
        for n in 0..MOST as u32 {
            assert!(bound.allow(site(n), start));
        }
        assert!(!bound.allow(site(u32::MAX), start), "no room, and all of them have just been here");
        assert!(bound.allow(site(5), start), "who is known has its bound still");
        let later = start + Duration::from_secs(1);
        assert!(bound.allow(site(u32::MAX), later));
        assert!(bound.buckets.lock().unwrap().len() < 10);
    }
}
