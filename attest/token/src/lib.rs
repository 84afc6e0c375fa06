//! Attestation results: claims, signing, checking.
