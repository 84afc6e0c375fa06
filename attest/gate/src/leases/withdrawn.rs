//! What the service has taken back, as far as it still matters.

use std::collections::HashMap;
use std::hash::Hash;

use coffer_token::{Hex, WITHDRAWALS_KEPT_SECONDS, Withdrawal, Withdrawn};

use crate::admission::proof::Proof;

/// Until when what is covered is worth nothing, and why.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Taken {
    /// Unix seconds by the service's clock: tokens issued then or before.
    at: u64,
    /// The service's reason code.
    code: String,
}

/// Withdrawals by what they are of. The newest of each counts, and nothing is forgotten before no token can be as old.
#[derive(Debug, Default)]
pub struct Record {
    sites: HashMap<Hex<32>, Taken>,
    instances: HashMap<(Hex<32>, Hex<32>), Taken>,
    images: HashMap<Hex<48>, Taken>,
    keys: HashMap<String, Taken>,
}

impl Record {
    /// Adds one; whether it says anything new.
    pub fn add(&mut self, entry: &Withdrawal) -> bool {
        let taken = Taken { at: entry.at, code: entry.code.clone() };
        match &entry.withdrawn {
            Withdrawn::Site { host_data } => newest(&mut self.sites, *host_data, taken),
            Withdrawn::Instance { host_data, instance } => newest(&mut self.instances, (*host_data, *instance), taken),
            Withdrawn::Image { launch_digest } => newest(&mut self.images, *launch_digest, taken),
            Withdrawn::TokenKey { kid } => newest(&mut self.keys, kid.clone(), taken),
        }
    }

    /// The service's reason code, where what was proved is worth nothing any more.
    #[must_use]
    pub fn covers(&self, proof: &Proof) -> Option<&str> {
        let taken = [
            self.sites.get(&proof.host_data),
            self.instances.get(&(proof.host_data, proof.instance)),
            self.images.get(&proof.launch_digest),
            self.keys.get(&proof.kid),
        ];
        taken.into_iter().flatten().find(|taken| proof.issued_at <= taken.at).map(|taken| taken.code.as_str())
    }

    /// Forgets what is older than any token that could still be shown.
    pub fn forget(&mut self, now: u64) {
        let kept = |taken: &Taken| taken.at.saturating_add(WITHDRAWALS_KEPT_SECONDS) >= now;
        self.sites.retain(|_, taken| kept(taken));
        self.instances.retain(|_, taken| kept(taken));
        self.images.retain(|_, taken| kept(taken));
        self.keys.retain(|_, taken| kept(taken));
    }

    /// Everything, for keeping over a restart. Numbers are those of one epoch of the service and mean nothing later: all are 0.
    #[must_use]
    pub fn entries(&self) -> Vec<Withdrawal> {
        let entry = |taken: &Taken, withdrawn| Withdrawal { number: 0, at: taken.at, code: taken.code.clone(), withdrawn };
        let sites = self.sites.iter().map(|(host_data, taken)| entry(taken, Withdrawn::Site { host_data: *host_data }));
        let instances = self
            .instances
            .iter()
            .map(|((host_data, instance), taken)| entry(taken, Withdrawn::Instance { host_data: *host_data, instance: *instance }));
        let images = self.images.iter().map(|(digest, taken)| entry(taken, Withdrawn::Image { launch_digest: *digest }));
        let keys = self.keys.iter().map(|(kid, taken)| entry(taken, Withdrawn::TokenKey { kid: kid.clone() }));
        sites.chain(instances).chain(images).chain(keys).collect()
    }
}

fn newest<K: Eq + Hash>(map: &mut HashMap<K, Taken>, key: K, taken: Taken) -> bool {
    match map.get_mut(&key) {
        Some(known) if known.at >= taken.at => false,
        Some(known) => {
            *known = taken;
            true
        }
        None => {
            map.insert(key, taken);
            true
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::admission::proof::tests::proof;

    fn of(withdrawn: Withdrawn, at: u64) -> Withdrawal {
        Withdrawal { number: 7, at, code: "site_suspended".into(), withdrawn }
    }

    #[test]
    fn each_kind_covers_what_it_names_up_to_its_second_and_nothing_else() {
        let token = proof("site-1", 1, 100);
        let other = Proof {
            host_data: Hex([9; 32]),
            instance: Hex([9; 32]),
            launch_digest: Hex([9; 48]),
            kid: "other".into(),
            ..proof("site-2", 9, 100)
        };
        let kinds = [
            Withdrawn::Site { host_data: token.host_data },
            Withdrawn::Instance { host_data: token.host_data, instance: token.instance },
            Withdrawn::Image { launch_digest: token.launch_digest },
            Withdrawn::TokenKey { kid: token.kid.clone() },
        ];
        for kind in kinds {
            for (at, covered) in [(99, false), (100, true), (101, true)] {
                let mut record = Record::default();
                assert!(record.add(&of(kind.clone(), at)) && !record.add(&of(kind.clone(), at)));
                assert_eq!(record.covers(&token).is_some(), covered, "{kind:?} at {at}");
                assert_eq!(record.covers(&other), None, "{kind:?}");
            }
        }
    }

    #[test]
    fn the_newest_counts_is_kept_over_a_restart_and_forgotten_when_no_token_is_as_old() {
        let site = Withdrawn::Site { host_data: proof("site-1", 1, 0).host_data };
        let mut record = Record::default();
        record.add(&of(site.clone(), 200));
        assert!(!record.add(&of(site, 150)), "an older one says nothing new");
        let mut later = Record::default();
        for entry in record.entries() {
            later.add(&entry);
        }
        assert_eq!(later.covers(&proof("site-1", 1, 180)), Some("site_suspended"));
        later.forget(200 + WITHDRAWALS_KEPT_SECONDS);
        assert!(later.covers(&proof("site-1", 1, 180)).is_some());
        later.forget(201 + WITHDRAWALS_KEPT_SECONDS);
        assert_eq!(later.covers(&proof("site-1", 1, 180)), None);
    }
}
