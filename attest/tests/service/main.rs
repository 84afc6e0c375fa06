//! The service as its peers meet it: the real program on loopback, real TLS, the simulator's evidence.
#![forbid(unsafe_code)]

mod admin;
mod admins;
mod attacks;
mod audit;
mod bounds;
mod captured;
mod collateral;
mod commands;
mod crash;
mod explain;
mod fairness;
mod guide;
mod handshake;
mod intruders;
mod keys;
mod limits;
mod openapi;
mod policy;
mod restart;
mod revocation;
mod stock_admin;
mod stock_client;
mod support;
mod suspend;
mod trust;
mod withdrawals;
