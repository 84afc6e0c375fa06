//! Step 3 of the boot: loopback, the first Ethernet interface, an address by DHCP; later, keeping that address.

mod dhcp;

use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpStream, ToSocketAddrs, UdpSocket};
use std::ops::RangeInclusive;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use coffer_manifest::SiteConfig;
use coffer_sys::net::Interface;
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::Errno;
use rustix::net::sockopt::{set_socket_reuseaddr, socket_error};
use rustix::net::{AddressFamily, SocketFlags, SocketType, bind, connect as connect_socket, socket_with};

use self::dhcp::{Answer, Ask, Lease};
use crate::console;

/// How long the interface may take to appear: its driver is loaded, but probing it may lag.
const INTERFACE_PATIENCE: Duration = Duration::from_secs(10);
/// How long DHCP is tried before the guest gives up.
const DHCP_PATIENCE: Duration = Duration::from_secs(60);
/// How long one answer is awaited. RFC 2131 asks for 4 s doubling; a VM's DHCP server is its own host or next to it.
const ANSWER_PATIENCE: Duration = Duration::from_secs(3);
/// The shortest time after which a lease is renewed, whatever the server says; else it could keep us busy.
const MIN_RENEWAL: Duration = Duration::from_secs(60);
/// How many messages are looked at in one turn; whoever sends them without end must not keep PID 1 from its other duties.
const MESSAGES_PER_TURN: usize = 16;

/// Ports that take a right to bind that a workload has only as root (ip(7), `ip_unprivileged_port_start`).
const OWN_PORTS: RangeInclusive<u16> = 600..=1023;

const SERVER_PORT: u16 = 67;
const CLIENT_PORT: u16 = 68;

/// The network did not come up.
#[derive(Debug, thiserror::Error)]
pub enum NetworkError {
    /// No interface but loopback.
    #[error("no Ethernet interface appeared within {} s\nhint: the host must attach a virtio-net device", INTERFACE_PATIENCE.as_secs())]
    NoInterface,
    /// An ioctl or socket call failed.
    #[error("cannot {what}: {source}")]
    Io {
        /// What was tried.
        what: &'static str,
        /// Why it failed.
        source: io::Error,
    },
    /// No server answered.
    #[error("no DHCP server gave an address within {} s", DHCP_PATIENCE.as_secs())]
    NoLease,
}

fn doing(what: &'static str) -> impl FnOnce(io::Error) -> NetworkError {
    move |source| NetworkError::Io { what, source }
}

/// The guest's network: one interface with a leased address.
pub struct Network {
    socket: UdpSocket,
    hardware_address: [u8; 6],
    /// Tells answers apart, no more: whoever could forge one is on our own network.
    xid: u32,
    lease: Lease,
    renew_at: Option<Instant>,
}

/// Brings loopback and the first Ethernet interface up and gets an address.
pub fn up() -> Result<Network, NetworkError> {
    Interface::new("lo").and_then(|lo| lo.up()).map_err(doing("bring loopback up"))?;
    let name = await_interface()?;
    let interface = Interface::new(&name).map_err(doing("name the interface"))?;
    let hardware_address = interface.hardware_address().map_err(doing("read the Ethernet address"))?;
    interface.up().map_err(doing("bring the interface up"))?;

    let socket = UdpSocket::bind((Ipv4Addr::UNSPECIFIED, CLIENT_PORT)).map_err(doing("open the DHCP port"))?;
    socket.set_broadcast(true).map_err(doing("allow broadcasts"))?;
    interface.bind(&socket).map_err(doing("bind the DHCP port to the interface"))?;

    let xid = random_xid()?;
    let lease = acquire(&socket, xid, hardware_address)?;
    interface.configure(lease.address, lease.netmask).map_err(doing("set the address"))?;
    if let Some(router) = lease.router {
        interface.default_route(router).map_err(doing("set the default route"))?;
    }
    // For PID 1's own lookups of the key service's name, which must not outlast the time that is left to reach it by much.
    let _ = crate::early::make_folder("/etc");
    let text = resolv_conf(&lease.resolvers) + "options timeout:1 attempts:1\n";
    fs::write("/etc/resolv.conf", text).map_err(doing("write resolv.conf"))?;
    socket.set_nonblocking(true).map_err(doing("set up the DHCP port"))?;
    let renew_at = renewal(&lease);
    Ok(Network { socket, hardware_address, xid, lease, renew_at })
}

impl Network {
    /// The name servers of the lease.
    pub fn resolvers(&self) -> &[Ipv4Addr] {
        &self.lease.resolvers
    }

    /// When [`Self::keep`] wants to be called next, if ever.
    pub const fn due(&self) -> Option<Instant> {
        self.renew_at
    }

    /// Renews the lease if it is time, without ever waiting: asks, and reads the answer at the next call.
    ///
    /// The address stays configured even if nobody answers: the one who could take it away is the host, who can cut the
    /// network anyway, and a workload is better off with an address its server forgot than with none.
    pub fn keep(&mut self) {
        let mut buffer = [0; dhcp::MAX_MESSAGE_BYTES + 1];
        for _ in 0..MESSAGES_PER_TURN {
            let Ok(length) = self.socket.recv(&mut buffer) else { break };
            if let Ok(Answer::Granted(lease)) = dhcp::parse(&buffer[..length], self.xid, self.hardware_address)
                && lease.address == self.lease.address
            {
                self.renew_at = renewal(&lease);
            }
        }
        if self.renew_at.is_some_and(|due| Instant::now() >= due) {
            let question = dhcp::ask(Ask::Renew { address: self.lease.address }, self.xid, self.hardware_address);
            // Asked again every minute until somebody answers.
            let _ = self.socket.send_to(&question, (self.lease.server, SERVER_PORT));
            self.renew_at = Some(Instant::now() + MIN_RENEWAL);
        }
    }
}

/// Half of the lease from now (T1 of RFC 2131), if it ends at all.
fn renewal(lease: &Lease) -> Option<Instant> {
    let half = Duration::from_secs(u64::from(lease.seconds?) / 2).max(MIN_RENEWAL);
    Instant::now().checked_add(half)
}

fn await_interface() -> Result<String, NetworkError> {
    let deadline = Instant::now() + INTERFACE_PATIENCE;
    loop {
        if let Some(name) = ethernet_interface("/sys/class/net") {
            return Ok(name);
        }
        if Instant::now() > deadline {
            return Err(NetworkError::NoInterface);
        }
        std::thread::sleep(Duration::from_millis(50));
    }
}

/// The first interface in name order whose type is Ethernet (1 in `type`).
fn ethernet_interface(folder: &str) -> Option<String> {
    let mut names: Vec<String> = fs::read_dir(folder)
        .ok()?
        .flatten()
        .filter(|entry| fs::read_to_string(entry.path().join("type")).is_ok_and(|kind| kind.trim() == "1"))
        .filter_map(|entry| entry.file_name().into_string().ok())
        .collect();
    names.sort();
    names.into_iter().next()
}

fn random_xid() -> Result<u32, NetworkError> {
    let mut random = [0; 4];
    rustix::rand::getrandom(&mut random, rustix::rand::GetRandomFlags::empty())
        .map_err(|errno| doing("draw a random number")(errno.into()))?;
    Ok(u32::from_ne_bytes(random))
}

fn acquire(socket: &UdpSocket, xid: u32, hardware_address: [u8; 6]) -> Result<Lease, NetworkError> {
    let deadline = Instant::now() + DHCP_PATIENCE;
    while Instant::now() < deadline {
        let Some(Answer::Offer(offer)) = exchange(socket, Ask::Discover, xid, hardware_address)? else { continue };
        let request = Ask::Request { address: offer.address, server: offer.server };
        if let Some(Answer::Granted(lease)) = exchange(socket, request, xid, hardware_address)?
            && lease.address == offer.address
        {
            return Ok(lease);
        }
    }
    Err(NetworkError::NoLease)
}

/// Asks by broadcast and waits for the first answer that fits the question.
fn exchange(socket: &UdpSocket, ask: Ask, xid: u32, hardware_address: [u8; 6]) -> Result<Option<Answer>, NetworkError> {
    let deadline = Instant::now() + ANSWER_PATIENCE;
    if let Err(error) = socket.send_to(&dhcp::ask(ask, xid, hardware_address), (Ipv4Addr::BROADCAST, SERVER_PORT)) {
        // The link may not carry anything yet.
        std::thread::sleep(Duration::from_millis(200));
        console::line(&format!("waiting stage=network cause=\"{error}\""));
        return Ok(None);
    }
    let mut buffer = [0; dhcp::MAX_MESSAGE_BYTES + 1];
    loop {
        let left = deadline.saturating_duration_since(Instant::now());
        if left.is_zero() {
            return Ok(None);
        }
        socket.set_read_timeout(Some(left)).map_err(doing("set a timeout"))?;
        let length = match socket.recv(&mut buffer) {
            Ok(length) => length,
            Err(error) if matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut) => return Ok(None),
            Err(error) => return Err(doing("receive from the DHCP server")(error)),
        };
        // Anything else that arrives on the port is passed over until the time is up.
        match (dhcp::parse(&buffer[..length], xid, hardware_address), ask) {
            (Ok(answer @ Answer::Offer(_)), Ask::Discover) => return Ok(Some(answer)),
            (Ok(answer @ (Answer::Granted(_) | Answer::Denied)), Ask::Request { .. }) => return Ok(Some(answer)),
            _ => {}
        }
    }
}

/// The text of a resolv.conf.
pub fn resolv_conf(resolvers: &[Ipv4Addr]) -> String {
    resolvers.iter().map(|address| format!("nameserver {address}\n")).collect()
}

/// Connects to `address`, from a port that the workload cannot have where it has taken all that are given to whoever connects: it
/// shares this network, and must not be able to keep PID 1 from hearing that it has to stop.
pub fn connect(address: &SocketAddr, patience: Duration) -> io::Result<TcpStream> {
    match TcpStream::connect_timeout(address, patience) {
        Err(error) if error.kind() == io::ErrorKind::AddrNotAvailable => connect_from_own_port(address, patience),
        done => done,
    }
}

fn connect_from_own_port(address: &SocketAddr, patience: Duration) -> io::Result<TcpStream> {
    let (family, any): (_, IpAddr) = match address {
        SocketAddr::V4(_) => (AddressFamily::INET, Ipv4Addr::UNSPECIFIED.into()),
        SocketAddr::V6(_) => (AddressFamily::INET6, Ipv6Addr::UNSPECIFIED.into()),
    };
    for port in OWN_PORTS {
        let socket = socket_with(family, SocketType::STREAM, SocketFlags::CLOEXEC | SocketFlags::NONBLOCK, None)?;
        // Else a port that a connection was closed on is of no use for a minute.
        set_socket_reuseaddr(&socket, true)?;
        let started = bind(&socket, &SocketAddr::new(any, port)).and_then(|()| connect_socket(&socket, address));
        match started {
            Err(Errno::ADDRINUSE | Errno::ADDRNOTAVAIL) => continue,
            Ok(()) | Err(Errno::INPROGRESS) => {}
            Err(errno) => return Err(errno.into()),
        }
        let timeout = Timespec { tv_sec: patience.as_secs() as i64, tv_nsec: patience.subsec_nanos().into() };
        if poll(&mut [PollFd::new(&socket, PollFlags::OUT)], Some(&timeout))? == 0 {
            return Err(io::ErrorKind::TimedOut.into());
        }
        socket_error(&socket)??;
        let stream = TcpStream::from(socket);
        stream.set_nonblocking(false)?;
        return Ok(stream);
    }
    Err(io::ErrorKind::AddrNotAvailable.into())
}

/// The addresses of a URL's host: the site config's own entry, a literal address, or what the resolver says.
pub fn resolve(site: &SiteConfig, host: &str, port: u16) -> io::Result<Vec<SocketAddr>> {
    let literal = host.trim_start_matches('[').trim_end_matches(']').parse::<IpAddr>().ok();
    match site.network.hosts_entries.get(host).copied().or(literal) {
        Some(address) => Ok(vec![SocketAddr::new(address, port)]),
        None => remembered((host, port), (host, port).to_socket_addrs().map(Iterator::collect)),
    }
}

/// What was found, or where nothing is found this time, what was found last: a lookup takes a port too, which the workload may have
/// taken, and whoever answers at an old address has to prove who it is all the same.
fn remembered((host, port): (&str, u16), found: io::Result<Vec<SocketAddr>>) -> io::Result<Vec<SocketAddr>> {
    /// The names of one site config.
    static LAST: Mutex<BTreeMap<(String, u16), Vec<SocketAddr>>> = Mutex::new(BTreeMap::new());
    let mut last = LAST.lock().unwrap_or_else(PoisonError::into_inner);
    let key = (host.to_owned(), port);
    match found {
        Ok(addresses) if !addresses.is_empty() => {
            last.insert(key, addresses.clone());
            Ok(addresses)
        }
        nothing => last.get(&key).cloned().map_or(nothing, Ok),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_ethernet_interface_is_taken() {
        let dir = tempfile::tempdir().expect("tempdir");
        for (name, kind) in [("lo", "772\n"), ("eth1", "1\n"), ("eth0", "1\n"), ("sit0", "776\n")] {
            fs::create_dir(dir.path().join(name)).expect("mkdir");
            fs::write(dir.path().join(name).join("type"), kind).expect("write");
        }
        assert_eq!(ethernet_interface(&dir.path().to_string_lossy()).as_deref(), Some("eth0"));
        assert_eq!(ethernet_interface("/nonexistent"), None);
    }

    fn lease(seconds: Option<u32>) -> Lease {
        Lease {
            address: Ipv4Addr::new(10, 0, 2, 15),
            netmask: Ipv4Addr::new(255, 255, 255, 0),
            router: None,
            resolvers: vec![],
            server: Ipv4Addr::new(10, 0, 2, 2),
            seconds,
        }
    }

    /// In a network of its own: this very test again, in a process that may make one.
    #[test]
    fn a_workload_that_takes_every_port_keeps_nobody_from_connecting() {
        const INSIDE: &str = "COFFER_TEST_OWN_NETWORK";
        if std::env::var_os(INSIDE).is_none() {
            let mut again = std::process::Command::new("unshare");
            again.args(["--net", "--"]).arg(std::env::current_exe().expect("this test"));
            again.args(["--exact", "network::tests::a_workload_that_takes_every_port_keeps_nobody_from_connecting"]).env(INSIDE, "1");
            if !rustix::process::geteuid().is_root() {
                eprintln!("skipped: needs the right to make a network namespace");
                return;
            }
            let output = again.output().expect("unshare of util-linux");
            assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stdout));
            return;
        }
        Interface::new("lo").and_then(|lo| lo.up()).expect("loopback");
        fs::write("/proc/sys/net/ipv4/ip_local_port_range", "50000 50009").expect("a small range");
        let server = std::net::TcpListener::bind("127.0.0.1:40000").expect("a port");
        let address = server.local_addr().expect("an address");
        let taken: Vec<_> = (50000..=50009).map(|port| std::net::TcpListener::bind(("0.0.0.0", port)).expect("free")).collect();
        let patience = Duration::from_secs(5);
        let error = TcpStream::connect_timeout(&address, patience).expect_err("no port is left");
        assert_eq!(error.kind(), io::ErrorKind::AddrNotAvailable);
        for _ in 0..3 {
            let stream = connect(&address, patience).expect("connects");
            assert!(stream.local_addr().expect("an address").port() < 1024);
            let (mut served, _) = server.accept().expect("accepts");
            // The client ends first, and its port is not free for a minute.
            drop(stream);
            assert_eq!(io::Read::read(&mut served, &mut [0; 1]).expect("an end"), 0);
        }
        drop((server, taken));
        assert_eq!(connect(&address, patience).expect_err("nobody listens").kind(), io::ErrorKind::ConnectionRefused);
    }

    #[test]
    fn a_flood_of_messages_takes_one_turn_after_the_other() {
        let socket = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).expect("bind");
        let address = socket.local_addr().expect("address");
        for _ in 0..=MESSAGES_PER_TURN {
            socket.send_to(b"no DHCP", address).expect("send");
        }
        socket.set_nonblocking(true).expect("nonblocking");
        let mut network = Network { socket, hardware_address: [0; 6], xid: 1, lease: lease(None), renew_at: None };
        network.keep();
        assert!(network.socket.recv(&mut [0; 16]).is_ok(), "one is left for the next turn");
        assert!(network.socket.recv(&mut [0; 16]).is_err());
    }

    #[test]
    fn a_lease_is_renewed_at_half_time_but_not_in_a_loop() {
        assert_eq!(renewal(&lease(None)), None);
        let soon = renewal(&lease(Some(0))).expect("ends");
        assert!(soon >= Instant::now() + MIN_RENEWAL - Duration::from_secs(1));
        let later = renewal(&lease(Some(86400))).expect("ends");
        assert!(later > Instant::now() + Duration::from_secs(43000));
    }

    #[test]
    fn a_name_that_is_not_found_any_more_is_where_it_was() {
        let (host, address) = (("remembered.demo.test", 1), vec![SocketAddr::from(([10, 0, 2, 2], 1))]);
        let lost = || Err(io::Error::other("no port for the question"));
        assert!(remembered(host, lost()).is_err());
        assert_eq!(remembered(host, Ok(address.clone())).expect("found"), address);
        assert_eq!(remembered(host, lost()).expect("known"), address);
        assert_eq!(remembered(host, Ok(vec![])).expect("known"), address);
        assert!(remembered(("other.demo.test", 1), lost()).is_err());
    }

    #[test]
    fn names_of_the_site_config_go_before_the_resolver() {
        let mut site = crate::workload::tests::site("amd-sev-snp");
        site.network.hosts_entries.insert("kbs.demo.test".into(), IpAddr::from([10, 0, 2, 2]));
        assert_eq!(resolve(&site, "kbs.demo.test", 1).expect("known"), [SocketAddr::from(([10, 0, 2, 2], 1))]);
        assert_eq!(resolve(&site, "10.9.8.7", 2).expect("literal"), [SocketAddr::from(([10, 9, 8, 7], 2))]);
        assert_eq!(resolve(&site, "[::1]", 3).expect("literal").len(), 1);
    }
}
