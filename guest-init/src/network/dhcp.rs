//! DHCPv4 messages (RFC 2131, RFC 2132): three made, one kind parsed. What comes in is hostile.

use std::net::Ipv4Addr;

/// The fixed part of a message: BOOTP up to and with `file`, 236 bytes.
const FIXED_BYTES: usize = 236;
/// RFC 2131 section 3: the four bytes that start the options.
const MAGIC_COOKIE: [u8; 4] = [99, 130, 83, 99];
/// RFC 1542 section 2.1: some relays drop messages shorter than this.
const MIN_MESSAGE_BYTES: usize = 300;
/// The longest message read: an Ethernet frame's worth.
pub const MAX_MESSAGE_BYTES: usize = 1500;
/// How many resolvers are kept: what resolv.conf reads.
const MAX_RESOLVERS: usize = 3;

/// Byte offsets in the fixed part (RFC 2131, figure 1).
mod offset {
    use std::ops::Range;

    pub const OP: usize = 0; // 1 request, 2 reply
    pub const HTYPE: usize = 1; // 1 Ethernet
    pub const HLEN: usize = 2; // 6
    pub const XID: Range<usize> = 4..8; // chosen by the client
    pub const FLAGS: usize = 10; // top bit: answer by broadcast
    pub const CIADDR: Range<usize> = 12..16; // the client's address, if it has one
    pub const YIADDR: Range<usize> = 16..20; // the address offered
    pub const CHADDR: Range<usize> = 28..34; // the client's Ethernet address
}

/// Option codes (RFC 2132).
mod option {
    pub const PAD: u8 = 0;
    pub const NETMASK: u8 = 1;
    pub const ROUTER: u8 = 3;
    pub const RESOLVERS: u8 = 6;
    pub const REQUESTED_ADDRESS: u8 = 50;
    pub const LEASE_SECONDS: u8 = 51;
    pub const MESSAGE_TYPE: u8 = 53;
    pub const SERVER: u8 = 54;
    pub const PARAMETERS: u8 = 55;
    pub const END: u8 = 255;
}

/// What this client says.
#[derive(Clone, Copy, Debug)]
pub enum Ask {
    /// Who has an address for me?
    Discover,
    /// I take this one, from that server.
    Request {
        /// The address offered.
        address: Ipv4Addr,
        /// Whose offer it is.
        server: Ipv4Addr,
    },
    /// May I keep the address I use?
    Renew {
        /// The address in use.
        address: Ipv4Addr,
    },
}

/// What a server answers.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Answer {
    /// DHCPOFFER.
    Offer(Lease),
    /// DHCPACK.
    Granted(Lease),
    /// DHCPNAK.
    Denied,
}

/// An address and what goes with it, checked to be usable for one host.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Lease {
    /// Ours.
    pub address: Ipv4Addr,
    /// Contiguous ones, then zeros.
    pub netmask: Ipv4Addr,
    /// The default router, on our own network.
    pub router: Option<Ipv4Addr>,
    /// Name servers, at most three.
    pub resolvers: Vec<Ipv4Addr>,
    /// The server that answers for the lease.
    pub server: Ipv4Addr,
    /// How long the address is ours; `None` is for ever.
    pub seconds: Option<u32>,
}

/// Bytes that are no answer to us.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum DhcpError {
    /// Too short, too long, or not a DHCP reply at all.
    #[error("message of {got} bytes is no DHCP reply")]
    Shape {
        /// Bytes received.
        got: usize,
    },
    /// An answer to somebody else, or to an earlier question.
    #[error("DHCP reply is not for this client")]
    NotOurs,
    /// An option that does not fit.
    #[error("DHCP option {code} is malformed")]
    Option {
        /// Its code.
        code: u8,
    },
    /// A message without what it must have, or with a value no host can use.
    #[error("DHCP reply has no usable {what}")]
    Unusable {
        /// Which value.
        what: &'static str,
    },
}

/// The bytes of a question.
pub fn ask(ask: Ask, xid: u32, hardware_address: [u8; 6]) -> Vec<u8> {
    let mut message = vec![0; FIXED_BYTES];
    message[offset::OP] = 1;
    message[offset::HTYPE] = 1;
    message[offset::HLEN] = 6;
    message[offset::XID].copy_from_slice(&xid.to_be_bytes());
    message[offset::CHADDR].copy_from_slice(&hardware_address);
    message.extend_from_slice(&MAGIC_COOKIE);
    let mut put = |code: u8, value: &[u8]| {
        message.extend_from_slice(&[code, value.len() as u8]);
        message.extend_from_slice(value);
    };
    put(option::MESSAGE_TYPE, &[if matches!(ask, Ask::Discover) { 1 } else { 3 }]);
    if let Ask::Request { address, server } = ask {
        put(option::REQUESTED_ADDRESS, &address.octets());
        put(option::SERVER, &server.octets());
    }
    put(option::PARAMETERS, &[option::NETMASK, option::ROUTER, option::RESOLVERS, option::LEASE_SECONDS]);
    message.push(option::END);
    match ask {
        Ask::Renew { address } => message[offset::CIADDR].copy_from_slice(&address.octets()),
        // Without an address yet, we can only be reached by broadcast.
        Ask::Discover | Ask::Request { .. } => message[offset::FLAGS] = 0x80,
    }
    message.resize(message.len().max(MIN_MESSAGE_BYTES), 0);
    message
}

/// Reads an answer to the question `xid` of `hardware_address`.
///
/// # Errors
/// See [`DhcpError`]. Total: any bytes give an answer or an error.
pub fn parse(message: &[u8], xid: u32, hardware_address: [u8; 6]) -> Result<Answer, DhcpError> {
    let shape = DhcpError::Shape { got: message.len() };
    if message.len() > MAX_MESSAGE_BYTES {
        return Err(shape);
    }
    let (fixed, rest) = message.split_at_checked(FIXED_BYTES).ok_or(shape.clone())?;
    let options = rest.strip_prefix(&MAGIC_COOKIE).ok_or(shape.clone())?;
    if fixed[offset::OP] != 2 || fixed[offset::HTYPE] != 1 || fixed[offset::HLEN] != 6 {
        return Err(shape);
    }
    if fixed[offset::XID] != xid.to_be_bytes() || fixed[offset::CHADDR] != hardware_address {
        return Err(DhcpError::NotOurs);
    }
    let options = Options::parse(options)?;
    match options.message_type {
        Some(2) => options.lease(&fixed[offset::YIADDR]).map(Answer::Offer),
        Some(5) => options.lease(&fixed[offset::YIADDR]).map(Answer::Granted),
        Some(6) => Ok(Answer::Denied),
        _ => Err(DhcpError::Unusable { what: "message type" }),
    }
}

/// The options we asked for, the first of each kind.
#[derive(Default)]
struct Options {
    message_type: Option<u8>,
    netmask: Option<Ipv4Addr>,
    router: Option<Ipv4Addr>,
    resolvers: Vec<Ipv4Addr>,
    server: Option<Ipv4Addr>,
    seconds: Option<u32>,
}

impl Options {
    fn parse(mut bytes: &[u8]) -> Result<Self, DhcpError> {
        let mut options = Self::default();
        loop {
            let (code, value, rest) = match bytes {
                [] | [option::END, ..] => return Ok(options),
                [option::PAD, rest @ ..] => {
                    bytes = rest;
                    continue;
                }
                [code, length, rest @ ..] => {
                    let (value, rest) = rest.split_at_checked(usize::from(*length)).ok_or(DhcpError::Option { code: *code })?;
                    (*code, value, rest)
                }
                [code] => return Err(DhcpError::Option { code: *code }),
            };
            options.take(code, value)?;
            bytes = rest;
        }
    }

    fn take(&mut self, code: u8, value: &[u8]) -> Result<(), DhcpError> {
        let malformed = DhcpError::Option { code };
        let addresses = || -> Result<Vec<Ipv4Addr>, DhcpError> {
            let chunks = value.chunks_exact(4);
            if value.is_empty() || !chunks.remainder().is_empty() {
                return Err(DhcpError::Option { code });
            }
            Ok(chunks.map(|c| Ipv4Addr::new(c[0], c[1], c[2], c[3])).collect())
        };
        let word = || <[u8; 4]>::try_from(value).map_err(|_| DhcpError::Option { code });
        match code {
            option::MESSAGE_TYPE => match value {
                [kind] => self.message_type = self.message_type.or(Some(*kind)),
                _ => return Err(malformed),
            },
            option::NETMASK => self.netmask = self.netmask.or(Some(Ipv4Addr::from(word()?))),
            option::SERVER => self.server = self.server.or(Some(Ipv4Addr::from(word()?))),
            option::LEASE_SECONDS => self.seconds = self.seconds.or(Some(u32::from_be_bytes(word()?))),
            option::ROUTER => self.router = self.router.or(addresses()?.first().copied()),
            option::RESOLVERS if self.resolvers.is_empty() => {
                self.resolvers = addresses()?.into_iter().filter(|a| is_host(*a)).take(MAX_RESOLVERS).collect();
            }
            _ => {}
        }
        Ok(())
    }

    fn lease(self, offered: &[u8]) -> Result<Lease, DhcpError> {
        let unusable = |what| DhcpError::Unusable { what };
        let address = <[u8; 4]>::try_from(offered).map(Ipv4Addr::from).map_err(|_| unusable("address"))?;
        let netmask = self.netmask.filter(|mask| is_netmask(*mask)).ok_or(unusable("netmask"))?;
        let host_part = address.to_bits() & !netmask.to_bits();
        // Not the network's own address, not its broadcast address; point-to-point masks have neither.
        let edge = netmask.to_bits().count_ones() < 31 && (host_part == 0 || host_part == !netmask.to_bits());
        if !is_host(address) || edge {
            return Err(unusable("address"));
        }
        let on_link = |router: &Ipv4Addr| (router.to_bits() ^ address.to_bits()) & netmask.to_bits() == 0;
        if self.router.is_some_and(|router| !on_link(&router) || router == address) {
            return Err(unusable("router"));
        }
        Ok(Lease {
            address,
            netmask,
            router: self.router,
            resolvers: self.resolvers,
            server: self.server.filter(|server| is_host(*server)).ok_or(unusable("server"))?,
            seconds: match self.seconds.ok_or(unusable("lease time"))? {
                u32::MAX => None,
                seconds => Some(seconds),
            },
        })
    }
}

/// An address one host can have.
fn is_host(address: Ipv4Addr) -> bool {
    let first = address.octets()[0];
    first != 0 && first != 127 && first < 224
}

fn is_netmask(mask: Ipv4Addr) -> bool {
    let bits = mask.to_bits();
    bits != 0 && bits.leading_ones() == bits.count_ones()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const MAC: [u8; 6] = [0x52, 0x54, 0, 0x12, 0x34, 0x56];
    const XID: u32 = 0x0102_0304;

    fn reply(kind: u8, address: [u8; 4], options: &[(u8, &[u8])]) -> Vec<u8> {
        let mut message = vec![0; FIXED_BYTES];
        message[..3].copy_from_slice(&[2, 1, 6]);
        message[offset::XID].copy_from_slice(&XID.to_be_bytes());
        message[offset::YIADDR].copy_from_slice(&address);
        message[offset::CHADDR].copy_from_slice(&MAC);
        message.extend_from_slice(&MAGIC_COOKIE);
        message.extend_from_slice(&[53, 1, kind, 0]);
        for (code, value) in options {
            message.extend_from_slice(&[*code, value.len() as u8]);
            message.extend_from_slice(value);
        }
        message.push(option::END);
        message
    }

    /// What QEMU's user network offers.
    const SLIRP: [(u8, &[u8]); 5] =
        [(1, &[255, 255, 255, 0]), (3, &[10, 0, 2, 2]), (6, &[10, 0, 2, 3]), (51, &[0, 1, 81, 128]), (54, &[10, 0, 2, 2])];

    #[test]
    fn an_offer_gives_a_lease() {
        let Ok(Answer::Offer(lease)) = parse(&reply(2, [10, 0, 2, 15], &SLIRP), XID, MAC) else { panic!("an offer") };
        assert_eq!(lease.address, Ipv4Addr::new(10, 0, 2, 15));
        assert_eq!(lease.router, Some(Ipv4Addr::new(10, 0, 2, 2)));
        assert_eq!(lease.resolvers, [Ipv4Addr::new(10, 0, 2, 3)]);
        assert_eq!(lease.seconds, Some(86400));
        assert!(matches!(parse(&reply(5, [10, 0, 2, 15], &SLIRP), XID, MAC), Ok(Answer::Granted(_))));
        assert_eq!(parse(&reply(6, [0; 4], &[]), XID, MAC), Ok(Answer::Denied));
    }

    #[test]
    fn answers_to_others_are_not_ours() {
        let message = reply(2, [10, 0, 2, 15], &SLIRP);
        assert_eq!(parse(&message, XID + 1, MAC), Err(DhcpError::NotOurs));
        assert_eq!(parse(&message, XID, [0; 6]), Err(DhcpError::NotOurs));
    }

    #[test]
    fn values_no_host_can_use_are_refused() {
        let with = |code: u8, value: &'static [u8]| {
            let mut options = SLIRP;
            options.iter_mut().find(|(c, _)| *c == code).expect("present").1 = value;
            parse(&reply(2, [10, 0, 2, 15], &options), XID, MAC)
        };
        assert_eq!(with(1, &[255, 0, 255, 0]), Err(DhcpError::Unusable { what: "netmask" }));
        assert_eq!(with(1, &[0, 0, 0, 0]), Err(DhcpError::Unusable { what: "netmask" }));
        assert_eq!(with(3, &[10, 0, 3, 2]), Err(DhcpError::Unusable { what: "router" }));
        assert_eq!(with(54, &[224, 0, 0, 1]), Err(DhcpError::Unusable { what: "server" }));
        assert_eq!(with(6, &[10, 0, 2]), Err(DhcpError::Option { code: 6 }));
        for address in [[0, 0, 0, 0], [127, 0, 0, 1], [224, 0, 0, 1], [10, 0, 2, 0], [10, 0, 2, 255]] {
            assert_eq!(parse(&reply(2, address, &SLIRP), XID, MAC), Err(DhcpError::Unusable { what: "address" }), "{address:?}");
        }
        assert_eq!(parse(&reply(2, [10, 0, 2, 15], &SLIRP[1..]), XID, MAC), Err(DhcpError::Unusable { what: "netmask" }));
    }

    #[test]
    fn an_option_past_the_end_is_refused() {
        let mut message = reply(2, [10, 0, 2, 15], &[]);
        message.pop();
        message.extend_from_slice(&[6, 200, 1]);
        assert_eq!(parse(&message, XID, MAC), Err(DhcpError::Option { code: 6 }));
    }

    #[test]
    fn questions_have_the_fields_servers_look_at() {
        let address = Ipv4Addr::new(10, 0, 2, 15);
        let discover = ask(Ask::Discover, XID, MAC);
        assert_eq!(discover.len(), 300);
        assert_eq!(discover[offset::FLAGS], 0x80);
        assert_eq!(discover[236..243], [99, 130, 83, 99, 53, 1, 1]);
        let request = ask(Ask::Request { address, server: Ipv4Addr::new(10, 0, 2, 2) }, XID, MAC);
        assert_eq!(request[240..255], [53, 1, 3, 50, 4, 10, 0, 2, 15, 54, 4, 10, 0, 2, 2]);
        let renew = ask(Ask::Renew { address }, XID, MAC);
        assert_eq!(renew[offset::CIADDR], [10, 0, 2, 15]);
        assert_eq!(renew[offset::FLAGS], 0);
    }

    proptest! {
        #[test]
        fn parsing_is_total(bytes: Vec<u8>) {
            let _ = parse(&bytes, XID, MAC);
        }

        #[test]
        fn options_are_total_and_leases_are_sane(kind in 0u8..8, address: [u8; 4], options: Vec<u8>) {
            let mut message = reply(kind, address, &[]);
            message.pop();
            message.extend_from_slice(&options);
            if let Ok(Answer::Offer(lease) | Answer::Granted(lease)) = parse(&message, XID, MAC) {
                prop_assert!(is_netmask(lease.netmask) && is_host(lease.address) && lease.resolvers.len() <= 3);
            }
        }
    }
}
