//! The port on loopback where the workload finds its server: bound from before the workload starts until the power is cut, so that
//! nobody else can ever have it, and listening only while the site is leased.
//!
//! While nobody listens a connection is refused (ECONNREFUSED). That is what a SuperNode waits through; a connection that is accepted
//! and then closed makes newer ones stop for ever.

use std::io;
use std::net::{Ipv4Addr, SocketAddrV4, TcpStream};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::time::Duration;

use rustix::fs::{Uid, fchown};
use rustix::net::sockopt::{set_socket_linger, set_socket_reuseport, set_tcp_nodelay, socket_acceptconn};
use rustix::net::{AddressFamily, Shutdown, SocketFlags, SocketType, accept_with, bind, listen, shutdown, socket_with};

/// Connections that wait to be accepted; the tunnel takes them at once.
const BACKLOG: i32 = 64;

/// A bound port.
pub struct Port {
    socket: OwnedFd,
    owner: Uid,
}

impl Port {
    /// Binds `port` on 127.0.0.1; connections are refused until [`Self::listen`].
    ///
    /// `owner` is a user id that the workload does not have. Linux lets a socket listen again only where every connection that is still
    /// in TIME_WAIT after the last time, and the socket itself, are marked SO_REUSEPORT; that mark shares a port with sockets of the
    /// same owner (fchown(2) sets it), and with nobody else. A workload that runs as root could take on any owner; it could as well
    /// edit its own /etc/hosts.
    ///
    /// # Errors
    /// What the system calls say; `EADDRINUSE` for a port that somebody has.
    pub fn reserve(port: u16, owner: u32) -> io::Result<Self> {
        let socket = socket_with(AddressFamily::INET, SocketType::STREAM, SocketFlags::CLOEXEC | SocketFlags::NONBLOCK, None)?;
        let owner = Uid::from_raw(owner);
        // Before bind(2), which notes the owner.
        fchown(&socket, Some(owner), None)?;
        set_socket_reuseport(&socket, true)?;
        bind(&socket, &SocketAddrV4::new(Ipv4Addr::LOCALHOST, port))?;
        Ok(Self { socket, owner })
    }

    /// Takes connections from now on.
    ///
    /// # Errors
    /// What listen(2) says.
    pub fn listen(&self) -> io::Result<()> {
        Ok(listen(&self.socket, BACKLOG)?)
    }

    /// Refuses connections from now on, and resets those that nobody has accepted. The port stays bound.
    ///
    /// # Errors
    /// What shutdown(2) says.
    pub fn refuse(&self) -> io::Result<()> {
        // A shutdown while it does not listen would stay with it: the connections of the next time would begin with their end.
        if socket_acceptconn(&self.socket)? {
            shutdown(&self.socket, Shutdown::Both)?;
        }
        Ok(())
    }

    /// The next connection, non-blocking; none if there is none, or the port does not listen.
    ///
    /// However it is dropped, that is a reset, until [`closes_in_order`] has been said of it.
    pub fn accept(&self) -> Option<TcpStream> {
        let accepted = accept_with(&self.socket, SocketFlags::CLOEXEC | SocketFlags::NONBLOCK).ok()?;
        // None of these fails on a socket that was just made. For the owner see `reserve`.
        let _ = fchown(&accepted, Some(self.owner), None);
        let _ = set_tcp_nodelay(&accepted, true);
        let _ = set_socket_linger(&accepted, Some(Duration::ZERO));
        Some(TcpStream::from(accepted))
    }
}

impl AsFd for Port {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }
}

/// Lets a connection whose both sides have ended be closed as one.
pub fn closes_in_order(stream: &TcpStream) {
    // SO_LINGER cannot fail on a TCP socket.
    let _ = set_socket_linger(stream, None);
}

/// Closes a connection with RST, so that the other side sees a failure and not an end, and nothing stays in TIME_WAIT.
pub fn reset(stream: TcpStream) {
    // SO_LINGER of zero cannot fail on a TCP socket.
    let _ = set_socket_linger(&stream, Some(Duration::ZERO));
    drop(stream);
}

#[cfg(test)]
mod tests {
    use std::io::{ErrorKind, Read, Write};
    use std::net::{Ipv6Addr, SocketAddr, SocketAddrV6, TcpListener};

    use rustix::io::Errno;
    use rustix::net::sockopt::{set_ipv6_v6only, set_socket_reuseaddr};
    use rustix::process::geteuid;

    use super::*;

    /// As PID 1 would; without the right to give sockets away, as whoever runs the test.
    fn owner() -> u32 {
        if geteuid().is_root() { 0xffff_0000 } else { geteuid().as_raw() }
    }

    fn free_port() -> u16 {
        TcpListener::bind("127.0.0.1:0").expect("a port").local_addr().expect("an address").port()
    }

    fn reserved() -> (Port, SocketAddr) {
        let port = free_port();
        (Port::reserve(port, owner()).expect("reserved"), SocketAddr::from(([127, 0, 0, 1], port)))
    }

    /// Tries every way to have the port too; as the user `uid` where that is possible.
    fn assert_nobody_else_binds(port: u16, uid: u32, when: &str) {
        for (address_reuse, port_reuse) in [(false, false), (true, false), (false, true), (true, true)] {
            for host in [Ipv4Addr::LOCALHOST, Ipv4Addr::UNSPECIFIED] {
                let thief = socket_with(AddressFamily::INET, SocketType::STREAM, SocketFlags::CLOEXEC, None).expect("a socket");
                if geteuid().is_root() {
                    fchown(&thief, Some(Uid::from_raw(uid)), None).expect("fchown");
                } else if port_reuse {
                    continue; // Would be the owner's.
                }
                set_socket_reuseaddr(&thief, address_reuse).expect("an option");
                set_socket_reuseport(&thief, port_reuse).expect("an option");
                let got = bind(&thief, &SocketAddrV4::new(host, port));
                assert_eq!(got, Err(Errno::ADDRINUSE), "{when}: {host} reuseaddr={address_reuse} reuseport={port_reuse} uid={uid}");
            }
        }
    }

    /// A socket for both protocols would have the port of IPv4 too.
    fn assert_nobody_binds_by_ipv6(port: u16, when: &str) {
        for (address_reuse, port_reuse) in [(false, false), (true, false), (true, true)] {
            let Ok(thief) = socket_with(AddressFamily::INET6, SocketType::STREAM, SocketFlags::CLOEXEC, None) else { return };
            if geteuid().is_root() {
                fchown(&thief, Some(Uid::from_raw(1000)), None).expect("fchown");
            }
            set_ipv6_v6only(&thief, false).expect("an option");
            set_socket_reuseaddr(&thief, address_reuse).expect("an option");
            set_socket_reuseport(&thief, port_reuse && geteuid().is_root()).expect("an option");
            for host in [Ipv6Addr::UNSPECIFIED, Ipv4Addr::LOCALHOST.to_ipv6_mapped()] {
                let got = bind(&thief, &SocketAddrV6::new(host, port, 0, 0));
                assert_eq!(got, Err(Errno::ADDRINUSE), "{when}: {host} reuseaddr={address_reuse} reuseport={port_reuse}");
            }
        }
    }

    fn assert_refused(address: SocketAddr) {
        assert_eq!(TcpStream::connect(address).expect_err("nobody listens").kind(), ErrorKind::ConnectionRefused);
    }

    fn accept(port: &Port) -> TcpStream {
        for _ in 0..1000 {
            if let Some(stream) = port.accept() {
                stream.set_nonblocking(false).expect("blocking");
                return stream;
            }
            std::thread::sleep(Duration::from_millis(1));
        }
        panic!("no connection came")
    }

    #[test]
    fn the_port_cannot_be_stolen_at_any_moment() {
        let (port, address) = reserved();
        let check = |when: &str| {
            for uid in [0, 1000] {
                assert_nobody_else_binds(address.port(), uid, when);
            }
            assert_nobody_binds_by_ipv6(address.port(), when);
        };
        check("reserved");
        for round in 0..3 {
            port.listen().expect("listens");
            check(&format!("listening, round {round}"));
            let mut client = TcpStream::connect(address).expect("connects");
            let served = accept(&port);
            // The server ends first: this end stays in TIME_WAIT, which must not keep the port from listening again.
            closes_in_order(&served);
            drop(served);
            assert_eq!(client.read(&mut [0; 1]).expect("an end"), 0);
            drop(client);
            port.refuse().expect("refuses");
            check(&format!("refusing, round {round}"));
            assert_refused(address);
        }
    }

    #[test]
    fn a_port_that_does_not_listen_refuses_and_never_accepts() {
        let (port, address) = reserved();
        assert_refused(address);
        port.refuse().expect("refusing already");
        port.listen().expect("listens");
        let mut pending = TcpStream::connect(address).expect("connects");
        assert!(pending.set_nonblocking(true).is_ok() && pending.peek(&mut [0; 1]).is_err(), "no end, no data: open");
        pending.set_nonblocking(false).expect("blocking");
        let mut served = TcpStream::connect(address).expect("connects");
        let (mut one, other) = (accept(&port), accept(&port));
        drop(other);
        let mut waiting = TcpStream::connect(address).expect("waits to be accepted");
        port.refuse().expect("refuses");
        assert_refused(address);
        assert!(port.accept().is_none());
        // Who was not accepted is reset; who was goes on.
        assert_eq!(waiting.read(&mut [0; 1]).expect_err("reset").kind(), ErrorKind::ConnectionReset);
        one.write_all(b"x").expect("writes");
        pending.read_exact(&mut [0; 1]).expect("reads");
        let _ = served.write_all(b"x");
        port.listen().expect("listens with connections of the last time open");
        drop(TcpStream::connect(address).expect("connects again"));
    }

    #[test]
    fn a_cut_is_a_reset_and_not_an_end() {
        let (port, address) = reserved();
        port.listen().expect("listens");
        for cut in [reset, drop] {
            let mut client = TcpStream::connect(address).expect("connects");
            cut(accept(&port));
            assert_eq!(client.read(&mut [0; 1]).expect_err("reset").kind(), ErrorKind::ConnectionReset);
        }
    }

    #[test]
    fn a_taken_port_is_an_error() {
        let other = TcpListener::bind("127.0.0.1:0").expect("a port");
        let port = other.local_addr().expect("an address").port();
        assert_eq!(Port::reserve(port, owner()).err().map(|error| error.kind()), Some(ErrorKind::AddrInUse));
    }
}
