//! DHCP answers, as the host's network hands them to PID 1.
#![no_main]

use coffer_fuzz::plant;
use libfuzzer_sys::fuzz_target;

use crate::dhcp::{Answer, Ask, MAX_MESSAGE_BYTES, ask, parse};

#[path = "../../../../guest-init/src/network/dhcp.rs"]
#[allow(dead_code)]
mod dhcp;

const MAC: [u8; 6] = [0x52, 0x54, 0, 0x12, 0x34, 0x56];
const XID: u32 = 0x0102_0304;
/// What QEMU's user network says after the message type: mask, router, resolver, lease time, server.
const OPTIONS: [u8; 31] = [1, 4, 255, 255, 255, 0, 3, 4, 10, 0, 2, 2, 6, 4, 10, 0, 2, 3, 51, 4, 0, 1, 81, 128, 54, 4, 10, 0, 2, 2, 255];

fuzz_target!(init: plant(made()), |bytes: &[u8]| {
    let answer = parse(bytes, XID, MAC);
    assert!(answer.is_err() || bytes.len() <= MAX_MESSAGE_BYTES);
    if let Ok(answer) = &answer {
        assert!(parse(bytes, XID ^ 1, MAC).is_err(), "an answer to another question: {answer:?}");
        assert!(parse(bytes, XID, [0; 6]).is_err(), "an answer to another client: {answer:?}");
    }
    // The same bytes as options of a well-formed answer.
    let options = parse(&[&fixed([10, 0, 2, 15]), bytes].concat(), XID, MAC);
    for lease in [answer, options].into_iter().flatten().filter_map(|answer| match answer {
        Answer::Offer(lease) | Answer::Granted(lease) => Some(lease),
        Answer::Denied => None,
    }) {
        let mask = lease.netmask.to_bits();
        assert!(mask != 0 && mask.leading_ones() == mask.count_ones(), "{lease:?}");
        assert!(lease.router.is_none_or(|router| (router.to_bits() ^ lease.address.to_bits()) & mask == 0 && router != lease.address));
        assert!(lease.resolvers.len() <= 3, "what resolv.conf reads: {lease:?}");
        for address in [lease.address, lease.server].iter().chain(&lease.resolvers) {
            assert!(!address.is_loopback() && !address.is_multicast() && !address.is_broadcast() && !address.is_unspecified(), "{lease:?}");
        }
        // What we would say next is a message, and no answer.
        let next = ask(Ask::Request { address: lease.address, server: lease.server }, XID, MAC);
        assert!(next.len() <= MAX_MESSAGE_BYTES && parse(&next, XID, MAC).is_err());
    }
});

/// An answer up to its options.
fn fixed(address: [u8; 4]) -> Vec<u8> {
    let mut message = vec![0; 236];
    message[..3].copy_from_slice(&[2, 1, 6]);
    message[4..8].copy_from_slice(&XID.to_be_bytes());
    message[16..20].copy_from_slice(&address);
    message[28..34].copy_from_slice(&MAC);
    message.extend([99, 130, 83, 99]);
    message
}

fn made() -> Vec<Vec<u8>> {
    let typed = |kind| [&[53, 1, kind], &OPTIONS[..]].concat();
    vec![typed(2), typed(5), vec![53, 1, 6, 255], [fixed([10, 0, 2, 15]), typed(2)].concat(), [fixed([10, 0, 2, 15]), typed(5)].concat()]
}
