//! What is revoked, in memory: every request looks here, and a change replaces it before the change is answered.

use std::sync::Arc;

use coffer_evidence::{ChipId, KeyDigest, LaunchDigest};
use coffer_kbs_policy::EvidenceFacts;
use coffer_token::{MAX_REVOCATIONS_PER_LIST, Revocation, RevocationKind, RevocationList, Version1};
use coffer_verify::Revoked;

/// The whole list, and sets of what evidence is compared with.
#[derive(Debug, Default)]
pub struct Revocations {
    entries: Vec<Arc<Revocation>>,
    revoked: Revoked,
}

impl Revocations {
    /// Takes the list as stored: numbered 1, 2, 3, ….
    #[must_use]
    pub fn new(entries: impl IntoIterator<Item = Arc<Revocation>>) -> Self {
        let mut all = Self::default();
        for entry in entries {
            match entry.kind {
                RevocationKind::Chip => all.revoked.chips.extend(entry.value.parse::<ChipId>()),
                RevocationKind::Image => all.revoked.launch_digests.extend(entry.value.parse::<LaunchDigest>()),
                RevocationKind::Key => all.revoked.keys.extend(entry.value.parse::<KeyDigest>()),
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

    /// What evidence is compared with.
    #[must_use]
    pub const fn revoked(&self) -> &Revoked {
        &self.revoked
    }

    /// The revocation of a guest's chip, image or key, if there is one, whenever it was made.
    #[must_use]
    pub fn of_facts(&self, facts: &EvidenceFacts) -> Option<&Revocation> {
        let chip = facts.chip_id().parse().is_ok_and(|chip: ChipId| self.revoked.chips.contains(&chip));
        let image = facts.launch_digest().parse().is_ok_and(|digest: LaunchDigest| self.revoked.launch_digests.contains(&digest));
        let is_key = |key: &&str| key.parse().is_ok_and(|key: KeyDigest| self.revoked.keys.contains(&key));
        let (kind, value) = match facts.key_digests().find(is_key) {
            _ if chip => (RevocationKind::Chip, facts.chip_id()),
            _ if image => (RevocationKind::Image, facts.launch_digest()),
            Some(key) => (RevocationKind::Key, key),
            None => return None,
        };
        self.entries.iter().map(Arc::as_ref).find(|entry| entry.kind == kind && entry.value == value)
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
