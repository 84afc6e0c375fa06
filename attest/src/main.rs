//! Attestation service: verifier, key broker, token issuer.
#![forbid(unsafe_code)]
#![allow(dead_code)]
mod kek; mod layout; mod clock; mod store;
fn main() {}
