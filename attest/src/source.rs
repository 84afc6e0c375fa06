//! Who counts as one peer before anything of it is believed.

use std::net::IpAddr;

/// What counts as one source: an IPv4 address, or an IPv6 /64, which is what one subscriber gets.
pub fn network(source: IpAddr) -> u64 {
    match source.to_canonical() {
        IpAddr::V4(v4) => u64::from(v4.to_bits()),
        IpAddr::V6(v6) => (v6.to_bits() >> 64) as u64,
    }
}
