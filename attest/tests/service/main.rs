//! The service as its peers meet it: the real program on loopback, real TLS, the simulator's evidence.
#![forbid(unsafe_code)]

mod admin;
mod attacks;
mod captured;
mod commands;
mod handshake;
mod limits;
mod restart;
mod support;
