//! Relying party in front of a Flower SuperLink: a site's connection passes while its lease is current.
#![forbid(unsafe_code)]

mod flower;

fn main() {}
