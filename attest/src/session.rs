//! Session cookies: all of a session's state, sealed. The service keeps nothing per session but spent nonces.
//!
//! Cookie value: unpadded base64url of 16-byte salt ‖ AES-256-GCM ciphertext ‖ 16-byte tag. Key and nonce are
//! HKDF-SHA-256(shared key, salt, info `coffer/cookie/v1/<kind>`, 32 + 12), so there is no bound on how many are sealed.

use std::fmt;

use coffer_kbs_policy::EvidenceFacts;
use coffer_protocol::Nonce;
use coffer_token::CofferClaims;
use data_encoding::BASE64URL_NOPAD;
use hkdf::Hkdf;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use sha2::Sha256;
use zeroize::{ZeroizeOnDrop, Zeroizing};

use crate::kek::{SealError, gcm_open, gcm_seal, random};

/// How long a challenge can be redeemed, in seconds (DESIGN, Challenge).
pub const CHALLENGE_TTL_S: u64 = 60;
/// How long after its attestation a guest may fetch its secrets, in seconds; as long as a stock service's session.
pub const ATTESTED_TTL_S: u64 = 300;
/// The name stock clients know.
const COOKIE_NAME: &str = "kbs-session-id";
/// Cookies longer than this are not ours.
const MAX_COOKIE_BYTES: usize = 4096;
const SALT_BYTES: usize = 16;

/// The shared cookie key.
#[derive(ZeroizeOnDrop)]
pub struct CookieKey([u8; Self::LEN]);

impl fmt::Debug for CookieKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("CookieKey(<32 bytes redacted>)")
    }
}

/// A challenge that waits for evidence.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Challenged {
    /// The service's epoch when it was made.
    pub epoch: u64,
    /// Seconds since the service's start.
    pub expires_at: u64,
    /// What the evidence must answer.
    pub nonce: Nonce,
    /// The client asked for bound keys, so it must bring them.
    pub coffer: bool,
}

/// A guest whose evidence was accepted.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Attested {
    /// The service's epoch when it was made.
    pub epoch: u64,
    /// Unix seconds.
    pub expires_at: u64,
    /// Where secrets are encrypted to: the JWK `tee-pubkey`.
    pub tee_pubkey: serde_json::Value,
    /// What was verified, as the token says it.
    pub coffer: CofferClaims,
    /// What was verified, as policies see it.
    pub facts: EvidenceFacts,
    /// Under which of the project's reference values.
    pub values_tag: String,
    /// The id under which the attestation is in the audit log.
    pub id: String,
}

/// A cookie is refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum CookieError {
    /// Not sealed by this service, or for another purpose.
    #[error("session cookie does not open")]
    Unreadable,
    /// From before the service's last start.
    #[error("session cookie is of epoch {got}, the service is in epoch {current}")]
    Epoch {
        /// In the cookie.
        got: u64,
        /// The service's.
        current: u64,
    },
    /// Too old.
    #[error("session cookie expired at {expires_at}, it is {now}")]
    Expired {
        /// Seconds, by the clock of its kind.
        expires_at: u64,
        /// Seconds, by the same clock.
        now: u64,
    },
}

/// State that travels in a cookie.
pub trait Sealed: Serialize + DeserializeOwned {
    /// Keeps kinds apart: a challenge never opens as an attested session.
    const KIND: &'static str;
    /// Epoch and expiry, checked at each opening.
    fn bounds(&self) -> (u64, u64);
}

impl Sealed for Challenged {
    const KIND: &'static str = "challenge";
    fn bounds(&self) -> (u64, u64) {
        (self.epoch, self.expires_at)
    }
}

impl Sealed for Attested {
    const KIND: &'static str = "attested";
    fn bounds(&self) -> (u64, u64) {
        (self.epoch, self.expires_at)
    }
}

impl CookieKey {
    /// Length in bytes.
    pub const LEN: usize = 32;

    /// Wraps 32 random bytes.
    #[must_use]
    pub const fn new(bytes: [u8; Self::LEN]) -> Self {
        Self(bytes)
    }

    /// Seals a state into a cookie's value.
    ///
    /// # Errors
    /// [`SealError`] if there is no randomness.
    pub fn seal<T: Sealed>(&self, state: &T) -> Result<String, SealError> {
        let refuse = |bytes| SealError::Seal { name: T::KIND.to_owned(), bytes };
        let plain = Zeroizing::new(serde_json::to_vec(state).map_err(|_| refuse(0))?);
        let salt = random::<SALT_BYTES>()?;
        let (key, nonce) = self.derive(&salt, T::KIND).ok_or_else(|| refuse(plain.len()))?;
        let sealed = gcm_seal(&key, nonce, &plain, &[]).ok_or_else(|| refuse(plain.len()))?;
        Ok(BASE64URL_NOPAD.encode(&[salt.as_slice(), &sealed].concat()))
    }

    /// Opens a cookie's value.
    ///
    /// # Errors
    /// See [`CookieError`]. Total: any text gives a state or an error.
    pub fn open<T: Sealed>(&self, value: &str, epoch: u64, now: u64) -> Result<T, CookieError> {
        let state: T = self.try_open(value).ok_or(CookieError::Unreadable)?;
        let (got, expires_at) = state.bounds();
        if got != epoch {
            return Err(CookieError::Epoch { got, current: epoch });
        }
        if now >= expires_at {
            return Err(CookieError::Expired { expires_at, now });
        }
        Ok(state)
    }

    fn try_open<T: Sealed>(&self, value: &str) -> Option<T> {
        if value.len() > MAX_COOKIE_BYTES {
            return None;
        }
        let bytes = BASE64URL_NOPAD.decode(value.as_bytes()).ok()?;
        let (salt, sealed) = bytes.split_first_chunk::<SALT_BYTES>()?;
        let (key, nonce) = self.derive(salt, T::KIND)?;
        serde_json::from_slice(&gcm_open(&key, nonce, sealed, &[])?).ok()
    }

    fn derive(&self, salt: &[u8], kind: &str) -> Option<(Zeroizing<[u8; 32]>, [u8; 12])> {
        let hkdf = Hkdf::<Sha256>::new(Some(salt), &self.0);
        let (mut key, mut nonce) = (Zeroizing::new([0; 32]), [0; 12]);
        let info = format!("coffer/cookie/v1/{kind}");
        hkdf.expand_multi_info(&[info.as_bytes(), b"/key"], key.as_mut_slice()).ok()?;
        hkdf.expand_multi_info(&[info.as_bytes(), b"/nonce"], &mut nonce).ok()?;
        Some((key, nonce))
    }
}

/// The value of our cookie in a `Cookie` header, which may carry others.
#[must_use]
pub fn find_cookie(header: &str) -> Option<&str> {
    header.split(';').filter_map(|pair| pair.trim().split_once('=')).find(|(name, _)| *name == COOKIE_NAME).map(|(_, value)| value)
}

/// A `Set-Cookie` header for a sealed value.
#[must_use]
pub fn set_cookie(value: &str, max_age_s: u64) -> String {
    format!("{COOKIE_NAME}={value}; Max-Age={max_age_s}; Path=/kbs/v0; Secure; HttpOnly; SameSite=Strict")
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const KEY: CookieKey = CookieKey::new([3; 32]);

    fn challenged() -> Challenged {
        Challenged { epoch: 4, expires_at: 160, nonce: Nonce::new([9; 32]), coffer: true }
    }

    #[test]
    fn a_cookie_opens_in_its_epoch_until_it_expires() {
        let value = KEY.seal(&challenged()).unwrap();
        assert_eq!(KEY.open::<Challenged>(&value, 4, 159), Ok(challenged()));
        assert_eq!(KEY.open::<Challenged>(&value, 4, 160), Err(CookieError::Expired { expires_at: 160, now: 160 }));
        assert_eq!(KEY.open::<Challenged>(&value, 5, 100), Err(CookieError::Epoch { got: 4, current: 5 }));
        assert_eq!(CookieKey::new([4; 32]).open::<Challenged>(&value, 4, 100), Err(CookieError::Unreadable));
    }

    #[test]
    fn a_challenge_is_no_attested_session_and_no_byte_may_change() {
        let value = KEY.seal(&challenged()).unwrap();
        assert!(matches!(KEY.open::<Attested>(&value, 4, 100), Err(CookieError::Unreadable)));
        for at in 0..value.len() - 1 {
            let mut changed = value.clone().into_bytes();
            changed[at] = if changed[at] == b'A' { b'B' } else { b'A' };
            let changed = String::from_utf8(changed).unwrap();
            assert_eq!(KEY.open::<Challenged>(&changed, 4, 100), Err(CookieError::Unreadable), "character {at}");
        }
    }

    #[test]
    fn our_cookie_is_found_among_others() {
        assert_eq!(find_cookie("a=b; kbs-session-id=xyz; c=d"), Some("xyz"));
        assert_eq!(find_cookie("kbs-session-id=xyz"), Some("xyz"));
        assert_eq!(find_cookie("xkbs-session-id=xyz"), None);
        assert_eq!(find_cookie(""), None);
    }

    proptest! {
        #[test]
        fn opening_never_panics(text: String) {
            let _ = KEY.open::<Challenged>(&text, 1, 1);
            let _ = find_cookie(&text);
        }
    }
}
