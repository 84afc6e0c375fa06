//! Builds bases and per-site confidential-VM bundles.

fn main() {}
