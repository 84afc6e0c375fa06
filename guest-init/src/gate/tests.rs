//! The whole endpoint against a gate made for the occasion: real TLS with raw public keys, real frames, real sockets; no hardware.

mod double;
mod hostile;
mod leases;
mod mutual;
mod tunnels;
