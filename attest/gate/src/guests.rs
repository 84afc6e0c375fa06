//! Towards the guests: from a connection to the listener, by way of TLS and frames, to the bytes of a tunnel.

pub mod attested;
pub mod connection;
pub mod frames;
pub mod listen;
pub mod openssh;
pub mod socket;
pub mod source;
pub mod tls;
pub mod tunnel;
