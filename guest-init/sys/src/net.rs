//! IPv4 configuration of one interface, by the ioctls of netdevice(7) and rtnetlink's elder, `SIOCADDRT`.

use std::io;
use std::mem;
use std::net::{Ipv4Addr, UdpSocket};
use std::os::fd::{AsFd, AsRawFd};

use crate::ioctl;

/// An interface, named once and checked to fit `IFNAMSIZ`.
pub struct Interface {
    socket: UdpSocket,
    name: [libc::c_char; libc::IFNAMSIZ],
}

impl Interface {
    /// Prepares to configure `name`.
    ///
    /// # Errors
    /// A name of more than 15 bytes, or with a NUL, is `InvalidInput`; otherwise what socket(2) says.
    pub fn new(name: &str) -> io::Result<Self> {
        if name.is_empty() || name.len() >= libc::IFNAMSIZ || name.contains('\0') {
            return Err(io::Error::new(io::ErrorKind::InvalidInput, "interface name must have 1 to 15 bytes"));
        }
        let mut text = [0; libc::IFNAMSIZ];
        for (to, from) in text.iter_mut().zip(name.bytes()) {
            *to = from as libc::c_char;
        }
        Ok(Self { socket: UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 0))?, name: text })
    }

    /// Sets IFF_UP.
    ///
    /// # Errors
    /// What the kernel says; `ENODEV` if there is no such interface.
    pub fn up(&self) -> io::Result<()> {
        let mut request = self.request();
        self.call(libc::SIOCGIFFLAGS, &mut request)?;
        // SAFETY: SIOCGIFFLAGS filled the member `ifru_flags`; every bit pattern is a valid c_short.
        let flags = unsafe { request.ifr_ifru.ifru_flags };
        request.ifr_ifru.ifru_flags = flags | libc::IFF_UP as libc::c_short;
        self.call(libc::SIOCSIFFLAGS, &mut request)
    }

    /// Sets the address and the netmask.
    ///
    /// # Errors
    /// What the kernel says.
    pub fn configure(&self, address: Ipv4Addr, netmask: Ipv4Addr) -> io::Result<()> {
        for (command, value) in [(libc::SIOCSIFADDR, address), (libc::SIOCSIFNETMASK, netmask)] {
            let mut request = self.request();
            request.ifr_ifru.ifru_addr = socket_address(value);
            self.call(command, &mut request)?;
        }
        Ok(())
    }

    /// Adds the default route.
    ///
    /// # Errors
    /// What the kernel says; `ENETUNREACH` if `router` is not on a directly connected network.
    pub fn default_route(&self, router: Ipv4Addr) -> io::Result<()> {
        let mut name = self.name;
        // SAFETY: `rtentry` is plain data (integers, sockaddrs, one pointer that may be null): all-zero is valid.
        let mut route: libc::rtentry = unsafe { mem::zeroed() };
        route.rt_dst = socket_address(Ipv4Addr::UNSPECIFIED);
        route.rt_genmask = socket_address(Ipv4Addr::UNSPECIFIED);
        route.rt_gateway = socket_address(router);
        route.rt_flags = libc::RTF_UP | libc::RTF_GATEWAY;
        route.rt_dev = name.as_mut_ptr();
        // SAFETY: SIOCADDRT reads one `rtentry`; `rt_dev` points to a NUL-terminated name that outlives the call.
        unsafe { ioctl(self.socket.as_fd(), libc::SIOCADDRT, (&raw mut route).cast()) }
    }

    /// The Ethernet address.
    ///
    /// # Errors
    /// What the kernel says, or `InvalidData` if the interface is not Ethernet.
    pub fn hardware_address(&self) -> io::Result<[u8; 6]> {
        let mut request = self.request();
        self.call(libc::SIOCGIFHWADDR, &mut request)?;
        // SAFETY: SIOCGIFHWADDR filled the member `ifru_hwaddr`; every bit pattern is a valid sockaddr.
        let address = unsafe { request.ifr_ifru.ifru_hwaddr };
        if address.sa_family != libc::ARPHRD_ETHER {
            return Err(io::Error::new(io::ErrorKind::InvalidData, "interface is not Ethernet"));
        }
        let mut octets = [0; 6];
        for (to, from) in octets.iter_mut().zip(address.sa_data) {
            *to = from as u8;
        }
        Ok(octets)
    }

    /// Makes `socket` send and receive through this interface only (SO_BINDTODEVICE): needed before there is a route.
    ///
    /// # Errors
    /// What setsockopt(2) says.
    pub fn bind(&self, socket: &UdpSocket) -> io::Result<()> {
        // SAFETY: the socket is open; the option value is IFNAMSIZ readable bytes, NUL-terminated by construction.
        let code = unsafe {
            libc::setsockopt(
                socket.as_raw_fd(),
                libc::SOL_SOCKET,
                libc::SO_BINDTODEVICE,
                self.name.as_ptr().cast(),
                libc::IFNAMSIZ as libc::socklen_t,
            )
        };
        if code == -1 { Err(io::Error::last_os_error()) } else { Ok(()) }
    }

    fn request(&self) -> libc::ifreq {
        // SAFETY: `ifreq` is plain data, all-zero is valid.
        let mut request: libc::ifreq = unsafe { mem::zeroed() };
        request.ifr_name = self.name;
        request
    }

    fn call(&self, command: u64, request: &mut libc::ifreq) -> io::Result<()> {
        // SAFETY: every command used here reads and writes one `ifreq`.
        unsafe { ioctl(self.socket.as_fd(), command, (&raw mut *request).cast()) }
    }
}

/// A `sockaddr` that is a `sockaddr_in`: family, port 0, address in network byte order in `sa_data[2..6]`.
fn socket_address(address: Ipv4Addr) -> libc::sockaddr {
    let mut data = [0; 14];
    for (to, from) in data[2..6].iter_mut().zip(address.octets()) {
        *to = from as libc::c_char;
    }
    libc::sockaddr { sa_family: libc::AF_INET as libc::sa_family_t, sa_data: data }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_bounded() {
        assert!(Interface::new("").is_err());
        assert!(Interface::new("0123456789abcdef").is_err());
        assert!(Interface::new("lo").is_ok());
    }

    #[test]
    fn loopback_is_not_ethernet_and_nothing_is_called_none() {
        assert!(Interface::new("lo").expect("name").hardware_address().is_err());
        assert!(Interface::new("none0").expect("name").hardware_address().is_err());
    }

    #[test]
    fn addresses_are_in_network_order() {
        let address = socket_address(Ipv4Addr::new(10, 0, 2, 15));
        assert_eq!(address.sa_data[2..6], [10, 0, 2, 15]);
    }
}
