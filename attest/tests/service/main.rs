//! The service as its peers meet it: the real program on loopback, real TLS, the simulator's evidence.
#![forbid(unsafe_code)]

mod admin;
mod attacks;
mod captured;
mod collateral;
mod commands;
mod explain;
mod handshake;
mod limits;
mod fairness;
mod policy;
mod restart;
mod stock_admin;
mod stock_client;
mod support;
