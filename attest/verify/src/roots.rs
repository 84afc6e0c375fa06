//! What this verifier believes: AMD's roots, or one simulator's. Never both.

use core::fmt;

use coffer_evidence::{Certificate, CertificateError, Family, PublicKey};
use ring::digest;
use serde::{Serialize, Serializer};

use crate::chain::{self, is_issued_by};
use crate::reject::ChainFault;

coffer_evidence::hex_bytes! {
    /// SHA-256 of the DER of an ARK certificate.
    ArkDigest, 32
}

/// What vouches for a verdict. Text form as in a site config: `amd-sev-snp` or `simulated:<sha256 of the ARK>`.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum RootOfTrust {
    /// AMD's built-in roots.
    AmdSevSnp,
    /// One simulator.
    Simulated(ArkDigest),
}

impl fmt::Display for RootOfTrust {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::AmdSevSnp => f.write_str("amd-sev-snp"),
            Self::Simulated(ark) => write!(f, "simulated:{ark}"),
        }
    }
}

impl Serialize for RootOfTrust {
    fn serialize<S: Serializer>(&self, s: S) -> Result<S::Ok, S::Error> {
        s.collect_str(self)
    }
}

/// A certificate is no root this verifier can use.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum RootsError {
    /// It cannot be read.
    #[error("root certificate cannot be read")]
    Certificate(#[from] CertificateError),
    /// Its common name is not `ARK-` and a family.
    #[error("root certificate is named {name}, expected ARK-Milan, ARK-Genoa or ARK-Turin")]
    Name {
        /// Its common name.
        name: String,
    },
    /// It does not sign itself as AMD's roots do.
    #[error("root certificate {fault}")]
    Fault {
        /// What is wrong with it.
        fault: ChainFault,
    },
    /// AMD's own root was given as a simulator's.
    #[error("root certificate is AMD's own {name}, not a simulator's\nhint: use `amd-sev-snp`")]
    Amd {
        /// Its common name.
        name: String,
    },
}

/// A root and the intermediates that come with this build, which it has signed.
#[derive(Clone, Debug)]
pub(crate) struct Anchor {
    pub(crate) family: Family,
    pub(crate) ark: Certificate,
    pub(crate) intermediates: Vec<Certificate>,
}

/// The roots of one verifier. Which they are cannot be changed later.
#[derive(Clone, Debug)]
pub struct Roots {
    root_of_trust: RootOfTrust,
    pub(crate) anchors: Vec<Anchor>,
}

/// (ARK, ASK, ASVK) of every family, as AMD publishes them; see `roots/README.md`.
const AMD: [(&[u8], [&[u8]; 2]); 3] = [
    (include_bytes!("../roots/ark-milan.der"), [include_bytes!("../roots/ask-milan.der"), include_bytes!("../roots/asvk-milan.der")]),
    (include_bytes!("../roots/ark-genoa.der"), [include_bytes!("../roots/ask-genoa.der"), include_bytes!("../roots/asvk-genoa.der")]),
    (include_bytes!("../roots/ark-turin.der"), [include_bytes!("../roots/ask-turin.der"), include_bytes!("../roots/asvk-turin.der")]),
];

impl Roots {
    /// AMD's roots of Milan, Genoa and Turin, built in.
    ///
    /// # Errors
    /// [`RootsError`] if this build's own files are damaged; a test keeps that from being released.
    pub fn amd() -> Result<Self, RootsError> {
        let anchor = |(ark, intermediates): (&[u8], [&[u8]; 2])| -> Result<Anchor, RootsError> {
            let (family, ark) = root(ark)?;
            let intermediate = |der| -> Result<Certificate, RootsError> {
                let certificate = Certificate::from_der(der)?;
                is_issued_by(&certificate, &ark).map_err(|fault| RootsError::Fault { fault })?;
                Ok(certificate)
            };
            let intermediates = intermediates.into_iter().map(intermediate).collect::<Result<_, _>>()?;
            Ok(Anchor { family, ark, intermediates })
        };
        let anchors = AMD.into_iter().map(anchor).collect::<Result<_, _>>()?;
        Ok(Self { root_of_trust: RootOfTrust::AmdSevSnp, anchors })
    }

    /// One simulator's root, DER or PEM, and nothing else: AMD's evidence is then refused.
    ///
    /// # Errors
    /// See [`RootsError`].
    pub fn simulated(ark: &[u8]) -> Result<Self, RootsError> {
        let (family, ark) = root(ark)?;
        if AMD.iter().any(|(amd, _)| *amd == ark.as_der()) {
            return Err(RootsError::Amd { name: ark.subject().to_string() });
        }
        let root_of_trust = RootOfTrust::Simulated(ark_digest(&ark));
        Ok(Self { root_of_trust, anchors: vec![Anchor { family, ark, intermediates: Vec::new() }] })
    }

    /// Which root of trust this is.
    #[must_use]
    pub fn root_of_trust(&self) -> RootOfTrust {
        self.root_of_trust
    }
}

/// A self-signed ARK and its family.
fn root(bytes: &[u8]) -> Result<(Family, Certificate), RootsError> {
    let ark = Certificate::from_der_or_pem(bytes)?;
    let family = chain::family_named("ARK-", ark.subject()).ok_or_else(|| RootsError::Name { name: ark.subject().to_string() })?;
    if !matches!(ark.public_key(), PublicKey::Rsa { .. }) {
        return Err(RootsError::Fault { fault: ChainFault::KeyType });
    }
    is_issued_by(&ark, &ark).map_err(|fault| RootsError::Fault { fault })?;
    Ok((family, ark))
}

fn ark_digest(ark: &Certificate) -> ArkDigest {
    let digest = digest::digest(&digest::SHA256, ark.as_der());
    let mut bytes = [0; ArkDigest::LEN];
    bytes.copy_from_slice(digest.as_ref());
    ArkDigest::new(bytes)
}

#[cfg(test)]
mod tests {
    use coffer_evidence::VekKind;

    use super::*;

    #[test]
    fn built_in_roots_are_amds() {
        let roots = Roots::amd().unwrap();
        let names: Vec<_> = roots.anchors.iter().map(|a| (a.family, a.ark.subject().to_string())).collect();
        assert_eq!(names, Family::ALL.map(|family| (family, format!("ARK-{}", family.amd_name()))));
        for anchor in &roots.anchors {
            let names: Vec<_> = anchor.intermediates.iter().map(|certificate| certificate.subject().to_string()).collect();
            assert_eq!(
                names,
                [VekKind::Vcek, VekKind::Vlek].map(|kind| format!("{}{}", chain::intermediate_prefix(kind), anchor.family.amd_name()))
            );
            for certificate in &anchor.intermediates {
                assert_eq!(is_issued_by(certificate, &anchor.ark), Ok(()));
                assert!(certificate.subject().is_beside(anchor.ark.subject()));
            }
            assert!(anchor.ark.may_sign_crls());
        }
        // As AMD's key server serves them; other tools print the same.
        let digests: Vec<_> = roots.anchors.iter().map(|a| ark_digest(&a.ark).to_string()).collect();
        assert_eq!(
            digests,
            [
                "69d063b45344d26a2e94e1f4210de49ef555308287d4c174445c95639a540bcd",
                "4c6598d19c18719c5dfd4a7d335f674e5bfe1d8f800cea2cf270c10d103db2f1",
                "1f084161a44bb6d93778a904877d4819cafa5d05ef4193b2ded9dd9c73dd3f6a",
            ]
        );
    }

    #[test]
    fn no_root_is_taken_for_another() {
        for (ark, [ask, asvk]) in AMD {
            assert!(matches!(Roots::simulated(ark), Err(RootsError::Amd { .. })));
            assert!(matches!(Roots::simulated(ask), Err(RootsError::Name { .. })));
            assert!(matches!(Roots::simulated(asvk), Err(RootsError::Name { .. })));
        }
        assert!(matches!(Roots::simulated(b"ark"), Err(RootsError::Certificate(_))));
        // One flipped bit in a self-signed root.
        let mut forged = AMD[1].0.to_vec();
        let last = forged.len() - 1;
        forged[last] ^= 1;
        assert!(matches!(Roots::simulated(&forged), Err(RootsError::Fault { fault: ChainFault::Signature })));
    }
}
