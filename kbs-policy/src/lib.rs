//! Verified claims to decision: rego that can only narrow.
