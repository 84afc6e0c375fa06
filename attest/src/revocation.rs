//! What is revoked, in memory: every request looks here, and a change replaces it before the change is answered.

use std::collections::HashSet;
use std::sync::Arc;

use coffer_evidence::{ChipId, KeyDigest, LaunchDigest};
use coffer_token::{MAX_REVOCATIONS_PER_LIST, Revocation, RevocationKind, RevocationList, Version1};

/// The whole list, and sets of what evidence is compared with.
#[derive(Debug, Default)]
pub struct Revocations {
    entries: Vec<Arc<Revocation>>,
    chips: HashSet<ChipId>,
    launch_digests: HashSet<LaunchDigest>,
    keys: HashSet<KeyDigest>,
}

impl Revocations {
    /// Takes the list as stored: numbered 1, 2, 3, ….
    #[must_use]
    pub fn new(entries: impl IntoIterator<Item = Arc<Revocation>>) -> Self {
        let mut all = Self::default();
        for entry in entries {
            match entry.kind {
                RevocationKind::Chip => all.chips.extend(entry.value.parse::<ChipId>()),
                RevocationKind::Image => all.launch_digests.extend(entry.value.parse::<LaunchDigest>()),
                RevocationKind::Key => all.keys.extend(entry.value.parse::<KeyDigest>()),
                RevocationKind::Site | RevocationKind::Admin | RevocationKind::TokenKey => {}
            }
            all.entries.push(entry);
        }
        all
    }

    /// The newest number; 0 where nothing was ever revoked.
    #[must_use]
    pub fn number(&self) -> u64 {
        self.entries.last().map_or(0, |entry| entry.number)
    }

    /// Every revocation, by number.
    #[must_use]
    pub fn entries(&self) -> &[Arc<Revocation>] {
        &self.entries
    }

    /// What comes after a number, as much as one list carries.
    #[must_use]
    pub fn list(&self, issuer: &str, after: u64, in_full: bool, now: u64) -> RevocationList {
        let from = usize::try_from(after).unwrap_or(usize::MAX).min(self.entries.len());
        let stretch = self.entries[from..].iter().take(MAX_REVOCATIONS_PER_LIST);
        let entries = stretch.map(|entry| if in_full { Revocation::clone(entry) } else { entry.public() }).collect();
        RevocationList { v: Version1, iss: issuer.to_owned(), iat: now, number: self.number(), after, entries }
    }
}
