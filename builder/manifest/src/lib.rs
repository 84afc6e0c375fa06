//! Site config, enrollment, base and bundle manifests: types, canonical bytes, digests. No I/O.
//!
//! Every document here is RFC 8785 (JCS) JSON with a `type` member that names its format and version. A reader accepts
//! exactly one version, refuses unknown and repeated members, and requires that re-encoding gives the bytes it was given.
#![forbid(unsafe_code)]

mod base;
mod bundle;
mod canonical;
pub mod disk;
mod enrollment;
mod kit;
mod names;
mod site;

pub use base::{Base, BaseFile, BaseRoot, LaunchShape, OpenRisks};
pub use bundle::{Bundle, BundleFile, Content};
pub use canonical::{DocumentError, MAX_DOCUMENT_BYTES, decode, encode};
pub use coffer_evidence::{ChipId, HostData, KeyDigest, LaunchDigest, TcbVersion};
pub use enrollment::{Enrollment, EnrollmentFile, MAX_OVERLAP_SECONDS, Secrets};
pub use kit::{KitKey, KitSealError, SealedKit, open_kit, seal_kit};
pub use names::{NameError, ProjectName, ResourcePath, RootOfTrust, SecretName, Sha256Digest, SiteName};
pub use site::{
    Attestation, Container, FailureAction, Gate, Gpu, GpuMechanism, Issuer, KeyService, KeyServiceKind, KitRef, Network, Role, SiteConfig,
    User, WorkloadEnd,
};
