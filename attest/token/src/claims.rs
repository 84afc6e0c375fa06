//! What a token says (DESIGN, Tokens).

use std::fmt;

use serde::{Deserialize, Deserializer, Serialize, Serializer};
use serde_json::Value;

use crate::UnixTime;
use crate::key::Jkt;

/// The longest life of a token: 10 minutes. Longer would outlast a revocation by as much.
pub const MAX_LIFETIME_SECONDS: u64 = 600;

/// The EAT profile of EAR (draft-ietf-rats-ear, `eat_profile`).
const EAT_PROFILE: &str = "tag:github.com,2023:veraison/ear";

/// What a token is for; the header's `typ`.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Typ {
    /// `coffer-job+jwt`: a job token, bound to a key of one boot; what a gate takes.
    Job,
    /// `coffer-kbs+jwt`: for stock clients, towards the key service only; no `cnf`, no gate takes it.
    Kbs,
}

impl Typ {
    /// The header's value.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Job => "coffer-job+jwt",
            Self::Kbs => "coffer-kbs+jwt",
        }
    }
}

/// `N` bytes whose text form is lower-case hexadecimal.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct Hex<const N: usize>(pub [u8; N]);

impl<const N: usize> fmt::Display for Hex<N> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&data_encoding::HEXLOWER.encode(&self.0))
    }
}

impl<const N: usize> fmt::Debug for Hex<N> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl<const N: usize> Serialize for Hex<N> {
    fn serialize<S: Serializer>(&self, s: S) -> Result<S::Ok, S::Error> {
        s.collect_str(self)
    }
}

impl<'de, const N: usize> Deserialize<'de> for Hex<N> {
    fn deserialize<D: Deserializer<'de>>(d: D) -> Result<Self, D::Error> {
        let text = String::deserialize(d)?;
        let bytes = data_encoding::HEXLOWER.decode(text.as_bytes()).ok().and_then(|bytes| bytes.try_into().ok());
        bytes.map(Self).ok_or_else(|| serde::de::Error::custom(format!("not {N} bytes of lower-case hexadecimal")))
    }
}

/// A member `v` whose only value is 1.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Version1;

impl Serialize for Version1 {
    fn serialize<S: Serializer>(&self, s: S) -> Result<S::Ok, S::Error> {
        s.serialize_u64(1)
    }
}

impl<'de> Deserialize<'de> for Version1 {
    fn deserialize<D: Deserializer<'de>>(d: D) -> Result<Self, D::Error> {
        match u64::deserialize(d)? {
            1 => Ok(Self),
            other => Err(serde::de::Error::custom(format!("version {other} is not supported; this build reads 1"))),
        }
    }
}

/// The claim `coffer`: whose token this is and what was verified.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct CofferClaims {
    /// Always 1.
    pub v: Version1,
    /// Project of the enrollment.
    pub project: String,
    /// Site of the enrollment.
    pub site: String,
    /// Role of the enrollment, such as `client`.
    pub role: String,
    /// SHA-256 of the site config.
    pub host_data: Hex<32>,
    /// Digest of the base that runs.
    pub launch_digest: Hex<48>,
    /// The base's counter.
    pub base_svn: u32,
    /// What signed the evidence: `amd-sev-snp` or `simulated:<sha256 of ARK>`.
    pub root_of_trust: String,
    /// The report's REPORT_ID: one per boot.
    pub instance: Hex<32>,
    /// Processor family, such as `genoa`.
    pub family: String,
    /// Thumbprint of the workload's node key.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub node_jkt: Option<Jkt>,
    /// What is known about GPUs.
    pub gpu: GpuVerdict,
    /// What the handshake was for: `boot`, `gpu` or `renew`.
    pub purpose: String,
}

/// What is known about a site's GPUs.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum GpuVerdict {
    /// No GPU evidence was asked for or given.
    None,
}

/// `cnf` (RFC 7800): the key that may present the token.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Confirmation {
    /// RFC 7638 thumbprint of the boot's TLS key.
    jkt: Jkt,
}

/// AR4SI summary of an appraisal. A refused one has no token, so there is no other value.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
enum EarStatus {
    /// Everything that was asked was affirmed.
    Affirming,
}

#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct VerifierId {
    developer: String,
    build: String,
}

#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Submods {
    cpu0: Appraisal,
}

#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Appraisal {
    #[serde(rename = "ear.status")]
    status: EarStatus,
    #[serde(rename = "ear.trustworthiness-vector")]
    vector: TrustVector,
    #[serde(rename = "ear.veraison.annotated-evidence", default, skip_serializing_if = "Option::is_none")]
    annotated: Option<Annotated>,
}

/// AR4SI claims (draft-ietf-rats-ar4si): 2 and 3 are affirming; 0, "no claim", is left out.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
struct TrustVector {
    /// 2: this environment is recognised (its HOST_DATA is enrolled).
    instance_identity: i8,
    /// 2: the guest policy is approved.
    configuration: i8,
    /// 3: only approved executables were loaded at boot. Not 2: what a workload loads later is its own affair.
    executables: i8,
    /// 2: genuine hardware at an approved TCB. Left out for a simulated root of trust, which affirms no hardware.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    hardware: Option<i8>,
}

/// Where the stock service keeps the client's key, for its resource answers.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Annotated {
    runtime_data_claims: RuntimeDataClaims,
}

#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct RuntimeDataClaims {
    #[serde(rename = "tee-pubkey")]
    tee_pubkey: Value,
}

/// Everything a token says. Members no version of ours writes are refused.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Claims {
    eat_profile: String,
    iss: String,
    aud: String,
    jti: String,
    iat: u64,
    exp: u64,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    cnf: Option<Confirmation>,
    #[serde(rename = "ear.verifier-id")]
    verifier: VerifierId,
    submods: Submods,
    coffer: CofferClaims,
}

/// What the issuer decides for one token.
#[derive(Clone, Debug)]
pub struct Subject {
    /// Who issues: the service's name, such as `https://attest.demo.test`.
    pub issuer: String,
    /// The one audience.
    pub audience: String,
    /// Unique id of the token, for the log.
    pub token_id: String,
    /// When it is issued.
    pub issued_at: UnixTime,
    /// How long it lives, in seconds; at most [`MAX_LIFETIME_SECONDS`].
    pub lifetime_seconds: u64,
    /// Thumbprint of the boot's TLS key: required in a job token, absent from a token for stock clients.
    pub confirmation: Option<Jkt>,
    /// The handshake's key as a JWK, where the token itself must lead back to it (stock clients with a bearer token).
    pub tee_pubkey: Option<Value>,
    /// What was verified.
    pub coffer: CofferClaims,
}

/// Claims break a rule that does not depend on who checks.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum FormError {
    /// Another EAT profile.
    #[error("token has eat_profile `{got}`, expected `{EAT_PROFILE}`")]
    Profile {
        /// The profile given.
        got: String,
    },
    /// It expires before it is issued, or lives too long.
    #[error("token lives from {iat} to {exp}, expected 1 to {MAX_LIFETIME_SECONDS} seconds")]
    Lifetime {
        /// When it was issued, unix seconds.
        iat: u64,
        /// When it expires, unix seconds.
        exp: u64,
    },
    /// A job token without a key, which anybody who copied it could present.
    #[error("job token has no cnf")]
    Unbound,
    /// A token for stock clients with a key, which might pass for a job token.
    #[error("token for stock clients has a cnf")]
    Bound,
}

impl Claims {
    /// Fills in the claims of an affirming appraisal.
    #[must_use]
    pub fn affirming(subject: Subject) -> Self {
        let genuine = subject.coffer.root_of_trust == "amd-sev-snp";
        let vector = TrustVector { instance_identity: 2, configuration: 2, executables: 3, hardware: genuine.then_some(2) };
        let annotated = subject.tee_pubkey.map(|tee_pubkey| Annotated { runtime_data_claims: RuntimeDataClaims { tee_pubkey } });
        Self {
            eat_profile: EAT_PROFILE.into(),
            iss: subject.issuer,
            aud: subject.audience,
            jti: subject.token_id,
            iat: subject.issued_at.0,
            exp: subject.issued_at.0.saturating_add(subject.lifetime_seconds),
            cnf: subject.confirmation.map(|jkt| Confirmation { jkt }),
            verifier: VerifierId { developer: "coffer".into(), build: concat!("coffer-attest ", env!("CARGO_PKG_VERSION")).into() },
            submods: Submods { cpu0: Appraisal { status: EarStatus::Affirming, vector, annotated } },
            coffer: subject.coffer,
        }
    }

    pub(crate) fn check_form(&self, typ: Typ) -> Result<(), FormError> {
        if self.eat_profile != EAT_PROFILE {
            return Err(FormError::Profile { got: self.eat_profile.chars().take(80).collect() });
        }
        let lifetime = self.exp.saturating_sub(self.iat);
        if lifetime == 0 || lifetime > MAX_LIFETIME_SECONDS {
            return Err(FormError::Lifetime { iat: self.iat, exp: self.exp });
        }
        match (typ, self.cnf) {
            (Typ::Job, None) => Err(FormError::Unbound),
            (Typ::Kbs, Some(_)) => Err(FormError::Bound),
            _ => Ok(()),
        }
    }

    /// Who issued it.
    #[must_use]
    pub fn issuer(&self) -> &str {
        &self.iss
    }

    /// For whom.
    #[must_use]
    pub fn audience(&self) -> &str {
        &self.aud
    }

    /// Its unique id.
    #[must_use]
    pub fn token_id(&self) -> &str {
        &self.jti
    }

    /// When it was issued.
    #[must_use]
    pub const fn issued_at(&self) -> UnixTime {
        UnixTime(self.iat)
    }

    /// When it expires.
    #[must_use]
    pub const fn expires_at(&self) -> UnixTime {
        UnixTime(self.exp)
    }

    /// The key that may present it.
    #[must_use]
    pub fn confirmation(&self) -> Option<Jkt> {
        self.cnf.map(|cnf| cnf.jkt)
    }

    /// The handshake's key, as the JWK that was sent.
    #[must_use]
    pub fn tee_pubkey(&self) -> Option<&Value> {
        self.submods.cpu0.annotated.as_ref().map(|annotated| &annotated.runtime_data_claims.tee_pubkey)
    }

    /// Whose token it is and what was verified.
    #[must_use]
    pub const fn coffer(&self) -> &CofferClaims {
        &self.coffer
    }
}
