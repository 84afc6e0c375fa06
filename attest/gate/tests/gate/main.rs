//! Attacks on a gate and what goes wrong around it, with the real programs on loopback.
//!
//! Most tests take a double of the service that signs whatever they want signed; those in `together` run the real `coffer-attest` and
//! prove sites to it on a simulated processor.
#![forbid(unsafe_code)]

mod cuts;
mod faults;
mod frames;
mod leases;
mod operator;
mod strangers;
mod together;
mod tokens;

#[path = "../support/mod.rs"]
#[allow(dead_code, unused_imports, reason = "the benchmark uses the rest")]
mod support;
