//! The gate in front of real SuperLinks of four generations, with Flower's real command line and SuperNodes.
//!
//! `tests/flower.sh` installs a Flower once into `cache/flower`. One version is in every run, the others in the long tests.
#![forbid(unsafe_code)]

mod endpoint;
mod fleet;
mod front;
mod lab;
mod nodes;
mod runs;
mod terminate;

#[path = "../support/mod.rs"]
#[allow(dead_code, unused_imports, reason = "the tests of other targets use the rest")]
mod support;
