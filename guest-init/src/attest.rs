//! Step 4 of the boot, and its renewals: challenge → evidence → token, at boot with the secrets; and how long to keep trying at boot.

mod handshake;
pub(crate) mod refusal;
pub(crate) mod service;
mod verdict;

use std::sync::Arc;
use std::time::{Duration, Instant};

use coffer_evidence::HostData;
use coffer_manifest::SiteConfig;
use coffer_manifest::disk::RootSecret;
use coffer_manifest::{KitKey, SecretName};
use coffer_protocol::{KeySet, Purpose};
use rustix::rand::{GetRandomFlags, getrandom};

use self::handshake::{Handshake, HandshakeError};
use self::service::{Service, ServiceError};
use crate::boot::Failure;
use crate::button::PowerButton;
use crate::clock;
use crate::console::{self, Stage};
use crate::report::ReportSource;
use crate::standing::Token;
use crate::tls::Trust;

/// How long one handshake may take, verification on the other side included.
const HANDSHAKE_PATIENCE: Duration = Duration::from_secs(60);
/// The same at a renewal: as long as the service itself works at an answer. A lease may end while one replica does not answer.
const RENEWAL_PATIENCE: Duration = Duration::from_secs(30);
/// The first handshake gets this long even if `retry_for` is shorter.
const FIRST_PATIENCE: Duration = Duration::from_secs(5);
/// Pauses between rounds double from the first to the last. At the last, a hundred guests are ten rounds a second to a
/// service that comes back.
const FIRST_PAUSE: Duration = Duration::from_millis(500);
const LAST_PAUSE: Duration = Duration::from_secs(10);

/// What the service released to this guest.
pub struct Secrets {
    /// S.
    pub root: RootSecret,
    /// The kit's key, if the site has a kit.
    pub kit: Option<KitKey>,
}

/// Why a renewal gave no token.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum NotRenewed {
    /// The pinned service judged this guest, and said no.
    Refused {
        /// Its reason code.
        code: String,
        /// The id under which its log says everything.
        id: String,
    },
    /// Nobody judged this guest: not there, not well, not the service, or something on the way.
    Unreached {
        /// The last URL that was tried.
        url: String,
        /// Why.
        why: String,
    },
}

/// Proves what this guest is, as often as it is asked to: the owner of the source of reports.
pub struct Attester {
    site: Arc<SiteConfig>,
    host_data: HostData,
    reports: Box<dyn ReportSource>,
    /// This boot's, bound in every report.
    keys: KeySet,
    trust: Trust,
}

impl Attester {
    /// Takes all that a handshake needs.
    ///
    /// # Errors
    /// If the site config's key service cannot be trusted: no usable authority, or no name.
    pub fn new(site: Arc<SiteConfig>, host_data: HostData, reports: Box<dyn ReportSource>, keys: KeySet) -> Result<Self, Failure> {
        let trust = Trust::new(&site.key_service).map_err(|error| Failure::new(Stage::Attest, &error))?;
        Ok(Self { site, host_data, reports, keys, trust })
    }

    /// Attests and returns the secrets and the first token, or the one line this boot ends with.
    ///
    /// Connection problems are tried again, with growing pauses, until `retry_for` has passed; an authenticated refusal, and a
    /// service with a certificate of another authority, are final. The power button ends the waiting.
    ///
    /// # Errors
    /// The boot's last line.
    pub fn boot(&mut self, button: &mut PowerButton) -> Result<(Secrets, Token), Failure> {
        let fail = |error: &dyn std::fmt::Display| Failure::new(Stage::Attest, error);
        let started = Instant::now();
        let give_up = started + Duration::from_secs(self.site.attestation.retry_for.into());
        clock::raise_to(self.site.not_before).map_err(|error| fail(&format!("cannot set the clock: {error}")))?;
        let site = self.site.clone();

        let mut pause = FIRST_PAUSE;
        loop {
            let mut last = None;
            let mut refused_certificates = 0;
            for url in &site.key_service.urls {
                let deadline = (Instant::now() + HANDSHAKE_PATIENCE).min(give_up.max(started + FIRST_PATIENCE));
                match self.fetch_secrets(url, deadline) {
                    Ok(released) => return Ok(released),
                    Err(HandshakeError::Service(error)) if error.is_refused_certificate() => {
                        refused_certificates += 1;
                        last = Some((url, HandshakeError::Service(error)));
                    }
                    Err(error) if error.is_passing() => last = Some((url, error)),
                    Err(error) => return Err(error.into_failure()),
                }
            }
            let Some((url, error)) = last else { return Err(fail(&"key_service.urls is empty")) };
            if refused_certificates == site.key_service.urls.len() {
                return Err(fail(&format!("{url} is not this site's key service: {error}")));
            }
            let next = jittered(pause).min(give_up.saturating_duration_since(Instant::now()));
            if !next.is_zero() {
                console::line(&format!("waiting stage=attest url={url} cause=\"{error}\" next={:.1}", next.as_secs_f32()));
                if button.wait(next) {
                    return Err(fail(&"the power button was pressed while waiting for the key service"));
                }
            }
            if Instant::now() >= give_up {
                let seconds = site.attestation.retry_for;
                return Err(fail(&format!("key service {url} not reached within {seconds} s: {error}")));
            }
            pause = (pause * 2).min(LAST_PAUSE);
        }
    }

    /// One handshake of the boot: token, then the resources, over one connection.
    fn fetch_secrets(&mut self, url: &str, deadline: Instant) -> Result<(Secrets, Token), HandshakeError> {
        let site = self.site.clone();
        let mut handshake = self.shake_hands(Purpose::Boot, url, deadline)?;
        let root = handshake.fetch(SecretName::Root)?;
        let kit = match &site.kit {
            Some(_) => Some(KitKey::new(*handshake.fetch(SecretName::Kit)?)),
            None => None,
        };
        let (token, status) = handshake.finish();
        clock::follow(token.issued_at).map_err(HandshakeError::Clock)?;
        let short: String = self.host_data.to_string().chars().take(12).collect();
        console::line(&format!(
            "verdict={status} project={} site={} host_data={short}… token_exp={}",
            site.project, site.site, token.expires_at
        ));
        Ok((Secrets { root: RootSecret::new(*root), kit }, token))
    }

    /// One round over the site's URLs for a fresh token, and nothing else: keys are released at boot only.
    ///
    /// # Errors
    /// See [`NotRenewed`].
    pub fn renew(&mut self) -> Result<Token, NotRenewed> {
        let site = self.site.clone();
        let mut last = NotRenewed::Unreached { url: "-".to_owned(), why: "key_service.urls is empty".to_owned() };
        for url in &site.key_service.urls {
            let attempt = self.shake_hands(Purpose::Renew, url, Instant::now() + RENEWAL_PATIENCE);
            match attempt {
                Ok(handshake) => {
                    let (token, _) = handshake.finish();
                    // The token is as good with a clock that cannot be set: nothing ends by it.
                    let _ = clock::follow(token.issued_at);
                    return Ok(token);
                }
                Err(HandshakeError::Service(ServiceError::Refused { code, id })) if refusal::is_about_this_guest(&code) => {
                    return Err(NotRenewed::Refused { code, id });
                }
                Err(error) => last = NotRenewed::Unreached { url: url.clone(), why: error.to_string() },
            }
        }
        Err(last)
    }

    fn shake_hands<'a>(&'a mut self, purpose: Purpose, url: &'a str, deadline: Instant) -> Result<Handshake<'a>, HandshakeError> {
        let service = Service::connect(&self.site, &self.trust, url, deadline)?;
        Handshake::new(service, &self.site, &self.host_data, self.reports.as_mut(), &self.keys, purpose)
    }
}

/// Half to the whole of `pause`, so that guests that lost the service together do not come back together.
pub fn jittered(pause: Duration) -> Duration {
    let mut byte = [0];
    // Without random numbers the pause is merely the same for all.
    let _ = getrandom(&mut byte, GetRandomFlags::empty());
    pause / 2 + pause * u32::from(byte[0]) / 510
}

#[cfg(test)]
mod tests;
