//! The boot of a confidential VM: what `coffer-init` and `coffer-init-simulated` share. Everything but the report source.
#![forbid(unsafe_code)]

mod agent;
mod attest;
mod boot;
mod button;
mod clock;
mod config;
mod console;
mod disks;
mod early;
pub mod gate;
mod http;
pub mod keys;
mod kit;
mod network;
mod node_key;
mod quarantine;
mod renewal;
pub mod report;
mod root;
pub mod standing;
mod tls;
mod unlock;
mod workload;

pub use boot::{Failure, Platform, pid1};
