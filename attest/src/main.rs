//! Attestation service: verifier, key broker, token issuer.
#![forbid(unsafe_code)]
#![allow(dead_code)]
mod kek; mod layout; mod clock; mod store; mod session; mod config; mod tls; mod http { pub mod rate; pub mod problem; }
fn main() {}
