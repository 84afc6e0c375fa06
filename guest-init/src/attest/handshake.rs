//! One RCAR handshake of the KBS protocol: auth, attest, then what the purpose allows, over one connection.

use std::io;

use coffer_evidence::{EvidenceError, HostData};
use coffer_manifest::disk::RootSecret;
use coffer_manifest::{KeyServiceKind, ResourcePath, SecretName, SiteConfig};
use coffer_protocol::{
    BoundKeys, Challenge, Jwe, JweError, JwkError, KeySet, MAX_JWE_BYTES, MAX_MESSAGE_BYTES, MAX_TOKEN_BYTES, MessageError, Purpose,
    RuntimeData, TeeKey, TokenResponse, attestation_body, open,
};
use zeroize::Zeroizing;

use super::service::{Service, ServiceError};
use super::verdict::Verdict;
use crate::boot::Failure;
use crate::console::Stage;
use crate::keys::{KeysError, random};
use crate::report::{ReportError, ReportSource};
use crate::standing::Token;

/// Why one handshake gave no token, or no secret.
#[derive(Debug, thiserror::Error)]
pub enum HandshakeError {
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
    pub fn is_passing(&self) -> bool {
        matches!(self, Self::Service(error) if error.is_passing())
    }

    pub fn into_failure(self) -> Failure {
        match self {
            Self::Service(ServiceError::Refused { code, id }) => Failure::refused(Stage::Attest, &code, &id),
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

/// A service that has verified this guest.
pub struct Handshake<'a> {
    service: Service<'a>,
    site: &'a SiteConfig,
    host_data: &'a HostData,
    tee_key: TeeKey,
    token: Token,
    status: String,
}

impl<'a> Handshake<'a> {
    /// Asks for a challenge and answers it with a report that binds it, a key of this handshake and `keys`.
    ///
    /// # Errors
    /// See [`HandshakeError`].
    pub fn new(
        mut service: Service<'a>,
        site: &'a SiteConfig,
        host_data: &'a HostData,
        reports: &mut dyn ReportSource,
        keys: &KeySet,
        purpose: Purpose,
    ) -> Result<Self, HandshakeError> {
        let coffer = site.key_service.kind == KeyServiceKind::Coffer;
        let answer = service.post("/kbs/v0/auth", &coffer_protocol::Request::body(coffer), MAX_MESSAGE_BYTES)?;
        let challenge = Challenge::parse(&answer)?;
        if coffer && !challenge.coffer {
            return Err(HandshakeError::NotCoffer);
        }

        // For ECDH only, and new at each handshake.
        let tee_key = TeeKey::from_random(&*random()?)?;
        let bound = BoundKeys { purpose, keys: keys.clone() };
        let runtime_data = RuntimeData { nonce: challenge.nonce, tee_pubkey: tee_key.public(), coffer: coffer.then_some(bound) };
        let evidence = reports.report(runtime_data.report_data("")?.as_bytes())?;
        let evidence = if coffer { evidence.as_snp().to_raw_value()? } else { evidence.as_snp().to_stock_value()? };
        let body = attestation_body(&runtime_data, &evidence, "")?;
        let text = TokenResponse::parse(&service.post("/kbs/v0/attest", &body, MAX_TOKEN_BYTES)?)?.token;
        // What the token says came over the pinned connection from the service that will check its own signature; the guest
        // only reads the times in it and shows the verdict.
        let Verdict { status, issued_at, expires_at } = Verdict::read(&text).map_err(ServiceError::from)?;
        Ok(Self { service, site, host_data, tee_key, token: Token { text, issued_at, expires_at }, status })
    }

    /// Gets one 32-byte secret of this site config.
    ///
    /// # Errors
    /// See [`HandshakeError`].
    pub fn fetch(&mut self, secret: SecretName) -> Result<Zeroizing<[u8; 32]>, HandshakeError> {
        let site = self.site;
        let path = ResourcePath { project: site.project.clone(), site: site.site.clone(), host_data: *self.host_data, secret };
        let answer = self.service.get(&format!("/kbs/v0/resource/{path}"), MAX_JWE_BYTES)?;
        let plain = open(&Jwe::parse(&answer)?, &self.tee_key)?;
        match <[u8; 32]>::try_from(plain.as_slice()) {
            Ok(bytes) => Ok(Zeroizing::new(bytes)),
            Err(_) => Err(HandshakeError::SecretLength { got: plain.len(), expected: RootSecret::LEN }),
        }
    }

    /// The token, and the verdict in it.
    pub fn finish(self) -> (Token, String) {
        (self.token, self.status)
    }
}
