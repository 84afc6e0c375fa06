//! A software AMD secure processor for machines without SEV-SNP. **It protects nothing.**
//!
//! It has a certificate hierarchy of its own with AMD's names, extensions and signature algorithms, signs attestation reports in the
//! real format, and computes launch digests from the files QEMU gets. A verifier believes it only if it was set up with this one
//! simulator's root instead of AMD's.
//!
//! The library makes certificates and reports with any field set, for tests that need evidence which is wrong in one place. The
//! program `coffer-simulator` does what hardware would: it cannot be told a launch digest, it measures.
#![forbid(unsafe_code)]

mod asp;
mod authority;
mod crl;
mod der;
mod identity;
mod launch;
mod platform;
mod port;
mod state;
mod vcek;
mod x509;

pub use asp::{Asp, Guest};
pub use authority::{ASK_SERIAL, ASVK_SERIAL, Authority, AuthoritySpec, Hierarchy, KeyError};
pub use crl::CrlSpec;
pub use identity::{IdError, IdPair, Identity};
pub use launch::{Launch, LaunchError, LaunchFiles};
pub use platform::Platform;
pub use port::{REQUEST_LEN, Request, Status, reply, serve};
pub use state::{StateError, ark_digest, init, load};
pub use vcek::{Vcek, VcekSpec};
