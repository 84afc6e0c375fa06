//! Which instances a site had: a clone or an older boot must not come back in the place of the newest.

use std::collections::{BTreeMap, VecDeque};
use std::time::{Duration, Instant};

use coffer_token::{Hex, Withdrawal};
use serde::{Deserialize, Serialize};

use crate::rate::Bucket;

/// So many instances of one site are remembered. At the fastest rate that is days.
const REMEMBERED: usize = 256;

/// How often a site may come as another instance.
#[derive(Debug, Clone, Copy)]
pub struct Instances {
    /// At once.
    pub burst: u32,
    /// One more after each.
    pub every: Duration,
}

/// What survives a restart of the gate.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Past {
    /// What the service has taken back lately.
    pub withdrawals: Vec<Withdrawal>,
    /// Sites that the operator keeps out, until so many Unix seconds by the service's clock.
    pub cuts: BTreeMap<String, u64>,
    /// By site, its instances, the newest last.
    pub instances: BTreeMap<String, Vec<Hex<32>>>,
}

/// One site's instances.
#[derive(Debug)]
pub(super) struct SiteMemory {
    /// The newest last.
    instances: VecDeque<Hex<32>>,
    bucket: Bucket,
}

impl SiteMemory {
    pub fn new(rate: Instances, now: Instant) -> Self {
        Self { instances: VecDeque::new(), bucket: Bucket::new(rate.burst, rate.every, now) }
    }

    pub fn restored(rate: Instances, instances: Vec<Hex<32>>, now: Instant) -> Self {
        let mut memory = Self::new(rate, now);
        for instance in instances {
            memory.is_now(instance);
        }
        memory
    }

    pub fn instances(&self) -> Vec<Hex<32>> {
        self.instances.iter().copied().collect()
    }

    /// Whether admitting this one would put another in its place.
    pub fn is_another(&self, instance: Hex<32>) -> bool {
        self.instances.back().is_some_and(|newest| *newest != instance)
    }

    pub fn was_replaced(&self, instance: Hex<32>) -> bool {
        self.is_another(instance) && self.instances.contains(&instance)
    }

    /// Whether there may be another now.
    pub fn could_change(&self, now: Instant) -> bool {
        self.bucket.has_one(now)
    }

    /// The same, and there is.
    pub fn may_change(&mut self, now: Instant) -> bool {
        self.bucket.take(now)
    }

    /// This one was admitted.
    pub fn is_now(&mut self, instance: Hex<32>) {
        if self.instances.back() == Some(&instance) {
            return;
        }
        if self.instances.len() == REMEMBERED {
            self.instances.pop_front();
        }
        self.instances.push_back(instance);
    }
}
