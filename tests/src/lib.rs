//! What the system tests share.
#![forbid(unsafe_code)]

pub mod lab;
pub mod repo;
pub mod vectors;
