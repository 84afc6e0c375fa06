//! Relying party in front of a Flower SuperLink: a site's connection passes while its lease is current.
#![forbid(unsafe_code)]

mod cli;
mod clock;
mod config;
mod failure;
mod flower;
mod layout;
mod leases;
mod proof;
mod rate;
mod reason;
mod withdrawn;

fn main() {}
