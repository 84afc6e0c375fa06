//! Whether the gate is the attested aggregator: its job token, of role `superlink`, checked against the key service's keys.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use coffer_manifest::SiteConfig;
use coffer_token::{Claims, Expectation, Jkt, Jwks, KeyError, Reject, UnixTime, Usage, check};
use data_encoding::BASE64URL_NOPAD;

use crate::attest::service::{Service, ServiceError};
use crate::standing::Token;
use crate::tls::{Trust, TrustError};

/// How long fetching the keys may take: half of what a gate waits for a first word, which is not said before.
const FETCH_PATIENCE: Duration = Duration::from_secs(5);
/// The shortest time between two fetches: a gate that shows tokens of unknown keys must not make this guest a load on the service.
const FETCH_PERIOD: Duration = Duration::from_secs(if cfg!(test) { 2 } else { 10 });
/// How long fetched keys are used without asking again: one that leaked is not among them any more. It is as long as a token lives.
const KEYS_LIFE: Duration = Duration::from_secs(if cfg!(test) { 3 } else { 600 });
/// How long they are used where asking again is in vain: a service that is ill for a while takes nobody's gate away.
const KEYS_LAST: Duration = Duration::from_secs(if cfg!(test) { 6 } else { 3600 });
/// The longest key set read, in bytes.
const MAX_JWKS_BYTES: usize = 16 * 1024;

/// The gate did not prove that it is the attested aggregator.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum AggregatorError {
    /// It shows no token.
    #[error("the gate shows no token of its own, and this site's gate.attested asks for one")]
    NoToken,
    /// Its certificate is not of a node key.
    #[error("the gate's certificate has no P-384 key, which an attested gate's has")]
    NoKey,
    /// This guest's own token does not read, so that nothing is known to compare with.
    #[error("this guest's own token does not read")]
    OwnToken,
    /// The keys were not fetched.
    #[error("the key service's keys: {0}")]
    Fetch(#[from] ServiceError),
    /// The site config names no key service.
    #[error("key_service.urls is empty")]
    NoService,
    /// They are no keys.
    #[error("the key service's keys: {0}")]
    Keys(#[from] KeyError),
    /// They were not fetched a moment ago either.
    #[error("the key service's keys were not got {} s ago, and are not asked for so soon again", .0.as_secs())]
    TooSoon(Duration),
    /// The token is somebody else's, or none.
    #[error("the gate's token: {0}")]
    Token(#[from] Reject),
}

/// Checks gates' tokens.
pub struct Aggregator {
    site: Arc<SiteConfig>,
    service: Trust,
    keys: Mutex<Keys>,
}

#[derive(Default)]
struct Keys {
    /// And when they were fetched.
    known: Option<(Jwks, Instant)>,
    /// When fetching them was last tried.
    tried: Option<Instant>,
}

impl Aggregator {
    /// Takes the key service of the site config; fetches nothing yet.
    ///
    /// # Errors
    /// See [`TrustError`].
    pub fn new(site: Arc<SiteConfig>) -> Result<Self, TrustError> {
        let service = Trust::new(&site.key_service)?;
        Ok(Self { site, service, keys: Mutex::default() })
    }

    /// Checks `token`, shown over a connection whose certificate has the key `gate`; `own` is this guest's newest token, of the same
    /// issuer and for the same audience.
    ///
    /// Project and root of trust are those of the site config. The time is this guest's clock, which its service has set.
    ///
    /// # Errors
    /// See [`AggregatorError`].
    pub fn check(&self, token: Option<&str>, gate: Option<Jkt>, own: &Token) -> Result<(), AggregatorError> {
        let token = token.ok_or(AggregatorError::NoToken)?;
        let peer_node = gate.ok_or(AggregatorError::NoKey)?;
        let own = read(own).ok_or(AggregatorError::OwnToken)?;
        let expected = Expectation {
            issuer: own.issuer(),
            audience: own.audience(),
            root_of_trust: &self.site.root_of_trust.to_string(),
            usage: Usage::Aggregator { project: self.site.project.as_str(), peer_node },
        };
        let seconds = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs());
        // Not before the service's own word about the time.
        let now = UnixTime(seconds.max(own.issued_at().0));
        let mut keys = self.keys.lock().unwrap_or_else(PoisonError::into_inner);
        let age = keys.known.as_ref().map(|(_, since)| since.elapsed());
        if age.is_none_or(|age| age >= KEYS_LIFE) {
            match self.fetch(&mut keys) {
                Ok(fresh) => return Ok(check(token, fresh, &expected, now).map(|_| ())?),
                Err(error) if age.is_none_or(|age| age >= KEYS_LAST) => return Err(error),
                Err(_) => {}
            }
        }
        let checked = keys.known.as_ref().map(|(known, _)| check(token, known, &expected, now));
        match checked {
            // The service has a new key since.
            None | Some(Err(Reject::UnknownKey { .. })) => {
                let fresh = self.fetch(&mut keys)?;
                Ok(check(token, fresh, &expected, now).map(|_| ())?)
            }
            Some(checked) => Ok(checked.map(|_| ())?),
        }
    }

    /// Fetches the keys over the pinned connection, unless it was tried a moment ago.
    fn fetch<'a>(&self, keys: &'a mut Keys) -> Result<&'a Jwks, AggregatorError> {
        if let Some(since) = keys.tried.map(|tried| tried.elapsed()).filter(|since| *since < FETCH_PERIOD) {
            return Err(AggregatorError::TooSoon(since));
        }
        keys.tried = Some(Instant::now());
        let deadline = Instant::now() + FETCH_PATIENCE;
        let mut last = AggregatorError::NoService;
        for url in &self.site.key_service.urls {
            let answer = Service::connect(&self.site, &self.service, url, deadline)
                .and_then(|mut service| service.get("/.well-known/jwks.json", MAX_JWKS_BYTES));
            match answer.map_err(AggregatorError::from).and_then(|bytes| Ok(Jwks::parse(&bytes)?)) {
                Ok(fresh) => return Ok(&keys.known.insert((fresh, Instant::now())).0),
                Err(error) => last = error,
            }
        }
        // A service that lets us wait does so once in a while, and not at every connection.
        keys.tried = Some(Instant::now());
        Err(last)
    }
}

/// The claims of this guest's own token, which came over the pinned connection from the service that signed it.
fn read(token: &Token) -> Option<Claims> {
    let payload = token.text.split('.').nth(1)?;
    serde_json::from_slice(&BASE64URL_NOPAD.decode(payload.as_bytes()).ok()?).ok()
}
