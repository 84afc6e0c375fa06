//! Step 4 of the boot: challenge → evidence → token and secrets, and how long to keep trying.

mod service;
mod verdict;

use std::io;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use coffer_evidence::{EvidenceError, HostData};
use coffer_manifest::disk::RootSecret;
use coffer_manifest::{KeyServiceKind, KitKey, ResourcePath, SecretName, SiteConfig};
use coffer_protocol::{
    BoundKeys, Challenge, Jwe, JweError, JwkError, MAX_JWE_BYTES, MAX_MESSAGE_BYTES, MAX_TOKEN_BYTES, MessageError, Purpose, RuntimeData,
    TeeKey, TokenResponse, attestation_body, open,
};
use rustix::rand::{GetRandomFlags, getrandom};
use rustix::time::{ClockId, Timespec, clock_gettime, clock_settime};
use zeroize::Zeroizing;

use self::service::{Service, ServiceError};
use self::verdict::Verdict;
use crate::boot::Failure;
use crate::button::PowerButton;
use crate::console::{self, Stage};
use crate::keys::{self, BootKeys, KeysError};
use crate::report::{ReportError, ReportSource};
use crate::tls::Trust;

/// How long one handshake may take, verification on the other side included.
const HANDSHAKE_PATIENCE: Duration = Duration::from_secs(60);
/// The first handshake gets this long even if `retry_for` is shorter.
const FIRST_PATIENCE: Duration = Duration::from_secs(5);
/// Pauses between rounds double from the first to the last. At the last, a hundred guests are ten rounds a second to a
/// service that comes back.
const FIRST_PAUSE: Duration = Duration::from_millis(500);
const LAST_PAUSE: Duration = Duration::from_secs(10);
/// How far the clock may be from the service's before it is set: the seconds a handshake itself takes.
const CLOCK_SLACK_SECONDS: u64 = 10;

/// What the service released to this guest.
pub struct Secrets {
    /// S.
    pub root: RootSecret,
    /// The kit's key, if the site has a kit.
    pub kit: Option<KitKey>,
}

/// Why one handshake gave no secrets.
#[derive(Debug, thiserror::Error)]
enum HandshakeError {
    /// The service was not reached, or did not answer as one.
    #[error(transparent)]
    Service(#[from] ServiceError),
    /// A message does not parse.
    #[error("answer of the key service: {0}")]
    Message(#[from] MessageError),
    /// A coffer key service must speak our dialect; without it no key of this boot is bound.
    #[error("key service does not confirm bound keys (`coffer: 1`), which this site's key_service.kind asks for")]
    NotCoffer,
    /// No report.
    #[error(transparent)]
    Report(#[from] ReportError),
    /// Evidence cannot be written as JSON.
    #[error(transparent)]
    Evidence(#[from] EvidenceError),
    /// The secret does not open, or is none.
    #[error("secret from the key service: {0}")]
    Secret(#[from] JweError),
    /// The secret has another length.
    #[error("secret from the key service has {got} bytes, expected {expected}")]
    SecretLength {
        /// Bytes received.
        got: usize,
        /// Bytes of an S or of a kit's key.
        expected: usize,
    },
    /// No random numbers.
    #[error(transparent)]
    Keys(#[from] KeysError),
    /// The time in the token is none, or the kernel does not take it.
    #[error("cannot set the clock: {0}")]
    Clock(#[source] io::Error),
}

impl HandshakeError {
    /// Whether the same service may say something else a little later.
    fn is_passing(&self) -> bool {
        matches!(self, Self::Service(error) if error.is_passing())
    }

    fn into_failure(self) -> Failure {
        match self {
            Self::Service(ServiceError::Refused { code, id }) => Failure::refused(&code, Some(&id)),
            other => Failure::new(Stage::Attest, &other),
        }
    }
}

impl From<JwkError> for HandshakeError {
    fn from(error: JwkError) -> Self {
        Self::Keys(error.into())
    }
}

impl From<coffer_protocol::JsonError> for HandshakeError {
    fn from(error: coffer_protocol::JsonError) -> Self {
        Self::Message(error.into())
    }
}

/// Attests and returns the secrets, or the one line this boot ends with.
///
/// Connection problems are tried again, with growing pauses, until `retry_for` has passed; an authenticated refusal, and a
/// service with a certificate of another authority, are final. The power button ends the waiting.
pub fn handshake(
    site: &SiteConfig,
    host_data: &HostData,
    reports: &mut dyn ReportSource,
    keys: &BootKeys,
    button: &mut PowerButton,
) -> Result<Secrets, Failure> {
    let fail = |error: &dyn std::fmt::Display| Failure::new(Stage::Attest, error);
    let started = Instant::now();
    let give_up = started + Duration::from_secs(site.attestation.retry_for.into());
    set_clock_floor(site.not_before).map_err(|error| fail(&format!("cannot set the clock: {error}")))?;
    let trust = Trust::new(&site.key_service).map_err(|error| fail(&error))?;

    let mut pause = FIRST_PAUSE;
    loop {
        let mut last = None;
        let mut refused_certificates = 0;
        for url in &site.key_service.urls {
            let deadline = (Instant::now() + HANDSHAKE_PATIENCE).min(give_up.max(started + FIRST_PATIENCE));
            let attempt = Service::connect(site, &trust, url, deadline)
                .map_err(HandshakeError::from)
                .and_then(|service| attempt(site, host_data, reports, keys, service));
            match attempt {
                Ok(secrets) => return Ok(secrets),
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

/// One RCAR handshake: auth, attest, then the resources, over one connection.
fn attempt(
    site: &SiteConfig,
    host_data: &HostData,
    reports: &mut dyn ReportSource,
    keys: &BootKeys,
    mut service: Service<'_>,
) -> Result<Secrets, HandshakeError> {
    let coffer = site.key_service.kind == KeyServiceKind::Coffer;
    let answer = service.post("/kbs/v0/auth", &coffer_protocol::Request::body(coffer), MAX_MESSAGE_BYTES)?;
    let challenge = Challenge::parse(&answer)?;
    if coffer && !challenge.coffer {
        return Err(HandshakeError::NotCoffer);
    }

    // For ECDH only, and new at each handshake.
    let tee_key = TeeKey::from_random(&*keys::random()?)?;
    let bound = BoundKeys { purpose: Purpose::Boot, keys: keys.bound(site) };
    let runtime_data = RuntimeData { nonce: challenge.nonce, tee_pubkey: tee_key.public(), coffer: coffer.then_some(bound) };
    let evidence = reports.report(runtime_data.report_data("")?.as_bytes())?;
    let evidence = if coffer { evidence.as_snp().to_raw_value()? } else { evidence.as_snp().to_stock_value()? };
    let body = attestation_body(&runtime_data, &evidence, "")?;
    let token = TokenResponse::parse(&service.post("/kbs/v0/attest", &body, MAX_TOKEN_BYTES)?)?.token;
    // What the token says came over the pinned connection from the service that will check its own signature; the guest
    // only reads the time in it and shows the verdict.
    let verdict = Verdict::read(&token).map_err(ServiceError::from)?;

    let root = fetch(site, host_data, SecretName::Root, &mut service, &tee_key)?;
    let kit = match &site.kit {
        Some(_) => Some(KitKey::new(*fetch(site, host_data, SecretName::Kit, &mut service, &tee_key)?)),
        None => None,
    };
    correct_clock(verdict.issued_at).map_err(HandshakeError::Clock)?;
    let short: String = host_data.to_string().chars().take(12).collect();
    console::line(&format!(
        "verdict={} project={} site={} host_data={short}… token_exp={}",
        verdict.status, site.project, site.site, verdict.expires_at
    ));
    Ok(Secrets { root: RootSecret::new(*root), kit })
}

/// Gets one 32-byte secret of this site config.
fn fetch(
    site: &SiteConfig,
    host_data: &HostData,
    secret: SecretName,
    service: &mut Service<'_>,
    tee_key: &TeeKey,
) -> Result<Zeroizing<[u8; 32]>, HandshakeError> {
    let path = ResourcePath { project: site.project.clone(), site: site.site.clone(), host_data: *host_data, secret };
    let answer = service.get(&format!("/kbs/v0/resource/{path}"), MAX_JWE_BYTES)?;
    let plain = open(&Jwe::parse(&answer)?, tee_key)?;
    match <[u8; 32]>::try_from(plain.as_slice()) {
        Ok(bytes) => Ok(Zeroizing::new(bytes)),
        Err(_) => Err(HandshakeError::SecretLength { got: plain.len(), expected: RootSecret::LEN }),
    }
}

/// Half to the whole of `pause`, so that guests that lost the service together do not come back together.
fn jittered(pause: Duration) -> Duration {
    let mut byte = [0];
    // Without random numbers the pause is merely the same for all.
    let _ = getrandom(&mut byte, GetRandomFlags::empty());
    pause / 2 + pause * u32::from(byte[0]) / 510
}

/// Moves the clock up to `not_before` if the host's RTC is behind it: a floor, so that certificates and tokens that had
/// expired when the site was built stay expired.
fn set_clock_floor(not_before: u64) -> io::Result<()> {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs());
    if now < not_before { set_clock(not_before) } else { Ok(()) }
}

/// Takes the service's time, the first word about the time that does not come from the host.
fn correct_clock(issued_at: u64) -> io::Result<()> {
    let now = u64::try_from(clock_gettime(ClockId::Realtime).tv_sec).unwrap_or(0);
    if now.abs_diff(issued_at) > CLOCK_SLACK_SECONDS { set_clock(issued_at) } else { Ok(()) }
}

fn set_clock(seconds: u64) -> io::Result<()> {
    let tv_sec = i64::try_from(seconds).map_err(|_| io::Error::from(io::ErrorKind::InvalidInput))?;
    Ok(clock_settime(ClockId::Realtime, Timespec { tv_sec, tv_nsec: 0 })?)
}

#[cfg(test)]
mod tests;
