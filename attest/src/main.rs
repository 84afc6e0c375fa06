//! Attestation service: verifier, key broker, token issuer.

fn main() {}
