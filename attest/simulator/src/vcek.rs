//! The key that signs reports, and its certificate with AMD's extensions.

use std::fmt;

use coffer_evidence::{AMD_ARC, Family, TcbVersion, UnixTime, VekKind};
use ring::rand::SystemRandom;
use ring::signature::{ECDSA_P384_SHA384_FIXED_SIGNING, EcdsaKeyPair, KeyPair};
use zeroize::Zeroizing;

use crate::authority::{Authority, BACKDATED, KeyError};
use crate::der::{ia5_string, integer};
use crate::platform::Platform;
use crate::x509::{ORGANISATION, Template, extension, p384_public_key};

/// Seconds AMD's VCEKs live: 7 years.
const VCEK_LIFETIME: u64 = 7 * 365 * 86_400;

/// Seconds AMD's VLEKs live: 1 year.
const VLEK_LIFETIME: u64 = 365 * 86_400;

/// What a VCEK certificate is to say. [`VcekSpec::of`] is what AMD would say; tests change one thing.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct VcekSpec {
    /// `SEV-VCEK`.
    pub common_name: String,
    /// Product name, for example `Genoa`.
    pub product: String,
    /// The TCB it was derived for.
    pub tcb: TcbVersion,
    /// The chip's id, raw: 64 bytes, 8 on Turin. Empty leaves the extension out, as in a VLEK.
    pub hwid: Vec<u8>,
    /// First second of validity.
    pub not_before: UnixTime,
    /// Last second of validity.
    pub not_after: UnixTime,
    /// The cloud provider, in a VLEK.
    pub csp_id: Option<String>,
    /// Organisation in its name.
    pub organisation: String,
    /// Extensions beyond AMD's: OID (content bytes), critical, value.
    pub extra: Vec<(Vec<u8>, bool, Vec<u8>)>,
}

impl VcekSpec {
    /// The honest certificate of this platform, made at `now`.
    #[must_use]
    pub fn of(platform: &Platform, now: UnixTime) -> Self {
        let product = match platform.family {
            Family::Milan => "Milan-B0",
            Family::Genoa => "Genoa",
            Family::Turin => "Turin",
        };
        Self {
            common_name: "SEV-VCEK".into(),
            product: product.into(),
            tcb: platform.tcb,
            hwid: platform.hwid().to_vec(),
            not_before: UnixTime(now.0.saturating_sub(BACKDATED)),
            not_after: UnixTime(now.0.saturating_add(VCEK_LIFETIME)),
            csp_id: None,
            organisation: ORGANISATION.into(),
            extra: Vec::new(),
        }
    }

    /// The certificate of a VLEK for this cloud provider, made at `now`: it names no chip and lives for a year.
    #[must_use]
    pub fn vlek_of(platform: &Platform, csp_id: &str, now: UnixTime) -> Self {
        Self {
            common_name: VekKind::Vlek.common_name().into(),
            product: platform.family.amd_name().into(),
            hwid: Vec::new(),
            not_after: UnixTime(now.0.saturating_add(VLEK_LIFETIME)),
            csp_id: Some(csp_id.into()),
            ..Self::of(platform, now)
        }
    }

    /// AMD 57230, "VCEK Certificate Fields", in the order real certificates have them.
    fn extensions(&self) -> Vec<Vec<u8>> {
        let amd = |arc: &[u8], value: &[u8]| extension(&[&AMD_ARC[..], arc].concat(), false, value);
        let level = |number, value: u8| amd(&[3, number], &integer(u32::from(value)));
        let mut extensions = vec![amd(&[1], &integer(0)), amd(&[2], &ia5_string(&self.product))];
        extensions.extend(self.tcb.fmc.map(|fmc| level(9, fmc)));
        extensions.extend([level(1, self.tcb.bootloader), level(2, self.tcb.tee), level(3, self.tcb.snp)]);
        extensions.extend([5, 6, 7].map(|spare| level(spare, 0)));
        extensions.push(level(8, self.tcb.microcode));
        if !self.hwid.is_empty() {
            // Raw bytes, no DER inside: that is how AMD's are.
            extensions.push(amd(&[4], &self.hwid));
        }
        extensions.extend(self.csp_id.iter().map(|csp_id| amd(&[5], &ia5_string(csp_id))));
        extensions.extend(self.extra.iter().map(|(oid, critical, value)| extension(oid, *critical, value)));
        extensions
    }
}

/// A P-384 key and its certificate: a VCEK, or a VLEK where the certificate says so.
pub struct Vcek {
    kind: VekKind,
    certificate: Vec<u8>,
    key: EcdsaKeyPair,
    pkcs8: Zeroizing<Vec<u8>>,
}

impl Vcek {
    /// Makes a key and has `issuer` certify it.
    ///
    /// # Errors
    /// See [`KeyError`].
    pub fn issue(spec: &VcekSpec, issuer: &Authority) -> Result<Self, KeyError> {
        let pkcs8 = EcdsaKeyPair::generate_pkcs8(&ECDSA_P384_SHA384_FIXED_SIGNING, &SystemRandom::new()).map_err(|_| KeyError::Random)?;
        let pkcs8 = Zeroizing::new(pkcs8.as_ref().to_vec());
        let key = load(&pkcs8)?;
        let template = Template {
            serial: 0,
            issuer: issuer.common_name(),
            subject: &spec.common_name,
            organisation: &spec.organisation,
            not_before: spec.not_before,
            not_after: spec.not_after,
            public_key: p384_public_key(key.public_key().as_ref()),
            extensions: spec.extensions(),
        };
        let certificate = template.sign(issuer.key())?;
        let kind = if spec.common_name == VekKind::Vlek.common_name() { VekKind::Vlek } else { VekKind::Vcek };
        Ok(Self { kind, certificate, key, pkcs8 })
    }

    /// Takes up a VCEK that was made before.
    pub(crate) fn from_parts(certificate: Vec<u8>, pkcs8: Zeroizing<Vec<u8>>) -> Result<Self, KeyError> {
        Ok(Self { kind: VekKind::Vcek, certificate, key: load(&pkcs8)?, pkcs8 })
    }

    /// What kind of key it is.
    #[must_use]
    pub fn kind(&self) -> VekKind {
        self.kind
    }

    /// DER of its certificate.
    #[must_use]
    pub fn certificate(&self) -> &[u8] {
        &self.certificate
    }

    /// PKCS #8 of its private key.
    pub(crate) fn expose_pkcs8(&self) -> &[u8] {
        &self.pkcs8
    }

    /// R and S, 48 bytes each, big-endian.
    pub(crate) fn sign(&self, message: &[u8]) -> Result<([u8; 48], [u8; 48]), KeyError> {
        let signature = self.key.sign(&SystemRandom::new(), message).map_err(|_| KeyError::Sign)?;
        let (r, s) = signature.as_ref().split_first_chunk().ok_or(KeyError::Sign)?;
        Ok((*r, s.try_into().map_err(|_| KeyError::Sign)?))
    }
}

impl fmt::Debug for Vcek {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Vcek(<key redacted>)")
    }
}

fn load(pkcs8: &[u8]) -> Result<EcdsaKeyPair, KeyError> {
    EcdsaKeyPair::from_pkcs8(&ECDSA_P384_SHA384_FIXED_SIGNING, pkcs8, &SystemRandom::new())
        .map_err(|cause| KeyError::Rejected { kind: "P-384", cause })
}
