//! A bound on what verified evidence may cause: a decision is a transaction and an entry of the audit log, which is kept for good.
//!
//! Before a signature holds, limits are by source address (`rate`); after it, by who it is. What is accepted, and what a session
//! asks for, counts against the site. What is refused counts against the processor that signed it: HOST_DATA is the host's to
//! choose, so counting refusals against the site named would let anybody with a genuine processor silence a site.

use std::collections::HashMap;
use std::fmt;
use std::sync::{Mutex, PoisonError};
use std::time::Instant;

use coffer_evidence::{ChipId, HostData};

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
}

impl Holder {
    /// Who answers for evidence that was refused though its signature holds. Where the processor is not named (VLEK, or a masked
    /// chip id: all zero), the HOST_DATA has to do.
    #[must_use]
    pub fn of_refused(chip_id: ChipId, host_data: HostData) -> Self {
        if chip_id.as_bytes().iter().all(|byte| *byte == 0) { Self::Site(host_data) } else { Self::Chip(chip_id) }
    }
}

impl fmt::Display for Holder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Site(host_data) => write!(f, "site config {host_data}"),
            Self::Chip(chip_id) => write!(f, "processor {chip_id}"),
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

    use super::*;

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
        let chip = ChipId::new([9; 64]);
        let (one, other) = (HostData::new([1; 32]), HostData::new([2; 32]));
        assert_eq!(Holder::of_refused(chip, one), Holder::of_refused(chip, other));
        assert_ne!(Holder::of_refused(chip, one), Holder::Site(one));
        assert_eq!(Holder::of_refused(ChipId::new([0; 64]), one), Holder::Site(one));
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
