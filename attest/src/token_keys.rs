//! The keys that sign tokens, and which of them does what at a moment: next, signing, retiring, retired, leaked.
//!
//! Pure: a ring is a list of times. A key is published when it is made, signs from `signs_from` until the next one does, and
//! stays published until the last token it can have signed has expired; a leaked one is out at once.

use coffer_token::{Checked, Claims, Expectation, Jwks, MAX_LIFETIME_SECONDS, MAX_SKEW_SECONDS, Reject, Signer, UnixTime};
use serde::Serialize;

/// How many keys are published at once. A relying party reads sets of 16.
pub const MAX_PUBLISHED_KEYS: usize = 8;
/// How long a relying party may use the key set it fetched, in seconds; said in `Cache-Control`.
pub const JWKS_MAX_AGE_S: u64 = 60;
/// How long a new key is published before it signs, in seconds: five times what relying parties may cache.
pub const DEFAULT_PUBLICATION_S: u64 = 300;
/// A longer delay is a mistake: 30 days.
pub const MAX_PUBLICATION_S: u64 = 30 * 24 * 3600;
/// How long a superseded key stays published, in seconds: its last token's life, and clocks that differ.
const OVERLAP_S: u64 = MAX_LIFETIME_SECONDS + MAX_SKEW_SECONDS;

/// A token key and its times, in Unix seconds.
#[derive(Debug)]
pub struct RingKey {
    /// Its id.
    pub kid: String,
    /// The set with this one key.
    pub public: Jwks,
    /// Its private half, while it may sign.
    pub signer: Option<Signer>,
    /// When it was made and published.
    pub made_at: u64,
    /// When it signs.
    pub signs_from: u64,
    /// When it was retired at once.
    pub leaked_at: Option<u64>,
}

/// What a key does at a moment.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum KeyState {
    /// Published, does not sign yet.
    Next,
    /// Signs.
    Signing,
    /// Signs no more; tokens of it may still live.
    Retiring,
    /// Nothing of it counts any more.
    Retired,
    /// Retired at once: nothing of it ever counts again.
    Leaked,
}

/// A key as an admin sees it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct KeyStatus {
    /// Its id.
    pub kid: String,
    /// What it does now.
    pub state: KeyState,
    /// Unix seconds.
    pub made_at: u64,
    /// Unix seconds.
    pub signs_from: u64,
    /// When it leaves the published set, Unix seconds; not known before the next key is made.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub published_until: Option<u64>,
}

/// Every key there ever was, by `signs_from`.
#[derive(Debug)]
pub struct KeyRing {
    keys: Vec<RingKey>,
}

impl KeyRing {
    /// Takes keys in order of `signs_from`.
    #[must_use]
    pub const fn new(keys: Vec<RingKey>) -> Self {
        Self { keys }
    }

    /// The key that signs at `now`: the newest that may; the first, where the clock was set back before all of them.
    #[must_use]
    pub fn signer(&self, now: u64) -> Option<&Signer> {
        let signing = self.signing(now)?;
        self.keys[signing].signer.as_ref()
    }

    /// Keys that relying parties take at `now`.
    pub fn published(&self, now: u64) -> impl Iterator<Item = &RingKey> {
        self.keys.iter().enumerate().filter(move |(at, _)| self.state(*at, now).is_published()).map(|(_, key)| key)
    }

    /// The set relying parties take at `now`; none only where every key leaked.
    #[must_use]
    pub fn jwks(&self, now: u64) -> Option<Jwks> {
        Jwks::union(self.published(now).map(|key| &key.public)).ok()
    }

    /// Checks a token with the keys that count at `now`.
    ///
    /// # Errors
    /// The first rule broken.
    pub fn check(&self, token: &str, expected: &Expectation<'_>, now: u64) -> Result<Checked<Claims>, Reject> {
        match self.jwks(now) {
            Some(jwks) => coffer_token::check(token, &jwks, expected, UnixTime(now)),
            None => Err(Reject::UnknownKey { kid: "any: every token key leaked".to_owned() }),
        }
    }

    /// The key that signs after the one that signs now.
    #[must_use]
    pub fn next(&self, now: u64) -> Option<&RingKey> {
        (0..self.keys.len()).find(|at| self.state(*at, now) == KeyState::Next).map(|at| &self.keys[at])
    }

    /// Keys whose private half is of no more use at `now`.
    pub fn superseded(&self, now: u64) -> impl Iterator<Item = &RingKey> {
        self.keys.iter().enumerate().filter(move |(at, _)| self.state(*at, now) == KeyState::Retired).map(|(_, key)| key)
    }

    /// The key with an id.
    #[must_use]
    pub fn find(&self, kid: &str) -> Option<&RingKey> {
        self.keys.iter().find(|key| key.kid == kid)
    }

    /// When a key leaves the published set, as far as that is known.
    #[must_use]
    pub fn left_at(&self, kid: &str) -> Option<u64> {
        let at = self.keys.iter().position(|key| key.kid == kid)?;
        self.published_until(at)
    }

    /// Every key that did not leak, for what was signed long ago: one set a key, newest first.
    pub fn history(&self) -> impl Iterator<Item = &Jwks> {
        self.keys.iter().rev().filter(|key| key.leaked_at.is_none()).map(|key| &key.public)
    }

    /// What an admin sees.
    #[must_use]
    pub fn status(&self, now: u64) -> Vec<KeyStatus> {
        let status = |(at, key): (usize, &RingKey)| KeyStatus {
            kid: key.kid.clone(),
            state: self.state(at, now),
            made_at: key.made_at,
            signs_from: key.signs_from,
            published_until: self.published_until(at),
        };
        self.keys.iter().enumerate().map(status).collect()
    }

    fn signing(&self, now: u64) -> Option<usize> {
        let may = |at: &usize| self.keys[*at].leaked_at.is_none() && self.keys[*at].signer.is_some();
        let due = (0..self.keys.len()).rev().filter(may).find(|at| self.keys[*at].signs_from <= now);
        due.or_else(|| (0..self.keys.len()).find(may))
    }

    fn state(&self, at: usize, now: u64) -> KeyState {
        let key = &self.keys[at];
        if key.leaked_at.is_some() {
            return KeyState::Leaked;
        }
        match self.signing(now) {
            Some(signing) if at == signing => KeyState::Signing,
            Some(signing) if at > signing => KeyState::Next,
            _ if self.published_until(at).is_some_and(|until| until <= now) => KeyState::Retired,
            _ => KeyState::Retiring,
        }
    }

    /// The next key that ever signed ends this one's signing, and does so for good: if it leaks, this one does not come back.
    fn published_until(&self, at: usize) -> Option<u64> {
        if let Some(leaked_at) = self.keys[at].leaked_at {
            return Some(leaked_at);
        }
        let successor = self.keys[at + 1..].iter().find(|key| key.leaked_at.is_none_or(|leaked_at| leaked_at >= key.signs_from))?;
        Some(successor.signs_from.saturating_add(OVERLAP_S))
    }
}

impl KeyState {
    const fn is_published(self) -> bool {
        matches!(self, Self::Next | Self::Signing | Self::Retiring)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key(byte: u8, signs_from: u64) -> RingKey {
        let signer = Signer::from_bytes(&[byte; 32]).unwrap();
        let (kid, public) = (signer.kid().to_owned(), signer.jwks());
        RingKey { kid, public, signer: Some(signer), made_at: signs_from.saturating_sub(300), signs_from, leaked_at: None }
    }

    fn states(ring: &KeyRing, now: u64) -> Vec<KeyState> {
        ring.status(now).into_iter().map(|key| key.state).collect()
    }

    fn published(ring: &KeyRing, now: u64) -> usize {
        serde_json::from_slice::<serde_json::Value>(&ring.jwks(now).unwrap().to_bytes().unwrap()).unwrap()["keys"].as_array().unwrap().len()
    }

    #[test]
    fn a_key_is_published_before_it_signs_and_until_its_last_token_has_expired() {
        use KeyState::{Next, Retired, Retiring, Signing};
        let ring = KeyRing::new(vec![key(1, 1000), key(2, 5000)]);
        let signs = |now| ring.signer(now).unwrap().kid().to_owned();
        for (now, expected, count, signer) in [
            (1000, [Signing, Next], 2, 0),
            (4999, [Signing, Next], 2, 0),
            (5000, [Retiring, Signing], 2, 1),
            (5000 + 629, [Retiring, Signing], 2, 1),
            (5000 + 630, [Retired, Signing], 1, 1),
            // A clock set back: the first key, rather than none.
            (0, [Signing, Next], 2, 0),
        ] {
            assert_eq!(states(&ring, now), expected, "{now}");
            assert_eq!((published(&ring, now), signs(now)), (count, ring.keys[signer].kid.clone()), "{now}");
        }
        // The last token of the first key, signed one second before it stops, lives shorter than its key is published.
        const { assert!(4999 + MAX_LIFETIME_SECONDS < 5000 + OVERLAP_S) };
    }

    #[test]
    fn a_leaked_key_is_out_at_once_and_does_not_bring_back_the_one_before_it() {
        let mut leaked = key(2, 5000);
        (leaked.leaked_at, leaked.signer) = (Some(6000), None);
        let ring = KeyRing::new(vec![key(1, 1000), leaked, key(3, 6000)]);
        assert_eq!(states(&ring, 6000), [KeyState::Retired, KeyState::Leaked, KeyState::Signing]);
        assert_eq!((ring.history().count(), ring.superseded(6000).count()), (2, 1));
        // One that leaked before it ever signed ended nothing.
        let mut early = key(2, 5000);
        (early.leaked_at, early.signer) = (Some(4000), None);
        let ring = KeyRing::new(vec![key(1, 1000), early]);
        assert_eq!(states(&ring, 9000), [KeyState::Signing, KeyState::Leaked]);
    }

    #[test]
    fn no_key_is_no_set() {
        let mut only = key(1, 0);
        (only.leaked_at, only.signer) = (Some(1), None);
        let ring = KeyRing::new(vec![only]);
        assert!(ring.jwks(5).is_none() && ring.signer(5).is_none());
    }
}
