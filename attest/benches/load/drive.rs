//! Client threads, each a queue of guests, and how long every one of them waited for the service.

use std::time::{Duration, Instant};

use coffer_evidence::ReportData;
use coffer_protocol::{BoundKeys, Challenge, KeySet, P384Key, Purpose, Request, RuntimeData, TeeKey, TokenResponse, attestation_body};

use crate::population::{Population, Service, random};
use crate::wire::{Connection, Target};

/// What the clients do over and over.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// Our guest: connection, challenge, job token.
    Guest,
    /// The same over one connection per client, which is what TLS costs by difference.
    GuestKeptAlive,
    /// Our guest's renewal: the same with another purpose, again a new connection.
    Renewal,
    /// A stock client: connection, challenge, its token.
    Stock,
    /// The same over one connection per client.
    StockKeptAlive,
    /// One secret after another in an attested session.
    Resource,
}

impl Kind {
    pub const ALL: [Self; 6] = [Self::Guest, Self::GuestKeptAlive, Self::Renewal, Self::Stock, Self::StockKeptAlive, Self::Resource];

    pub const fn name(self) -> &'static str {
        match self {
            Self::Guest => "guests: full handshakes, a new TLS connection each",
            Self::GuestKeptAlive => "guests: full handshakes, connections kept alive",
            Self::Renewal => "guests: renewals, a new TLS connection each",
            Self::Stock => "stock clients: full handshakes, a new TLS connection each",
            Self::StockKeptAlive => "stock clients: full handshakes, connections kept alive",
            Self::Resource => "resource fetches, connections kept alive",
        }
    }

    pub fn is_handshake(self) -> bool {
        self != Self::Resource
    }

    fn is_kept_alive(self) -> bool {
        !matches!(self, Self::Guest | Self::Renewal | Self::Stock)
    }

    fn is_ours(self) -> bool {
        !matches!(self, Self::Stock | Self::StockKeptAlive)
    }
}

#[derive(Clone, Copy)]
pub struct Load {
    pub kind: Kind,
    pub threads: usize,
    pub length: Duration,
}

/// Gives how long the client waited, for each handshake or fetch.
pub fn drive(service: &Service, population: &Population, load: Load) -> Vec<Duration> {
    std::thread::scope(|scope| {
        let client = |first| {
            let target = service.target();
            scope.spawn(move || Client::new(target, population, load, first).run())
        };
        let running: Vec<_> = (0..load.threads).map(client).collect();
        running.into_iter().flat_map(|thread| thread.join().unwrap()).collect()
    })
}

struct Client<'a> {
    target: Target,
    population: &'a Population,
    load: Load,
    /// The next guest.
    next: usize,
    /// A guest makes one for each handshake; the server cannot tell, and its cost is not the server's.
    tee_key: TeeKey,
    tls: P384Key,
}

impl<'a> Client<'a> {
    fn new(target: Target, population: &'a Population, load: Load, next: usize) -> Self {
        let mut point = [4; 97];
        point[1..].copy_from_slice(&random::<96>());
        let (tee_key, tls) = (TeeKey::from_random(&random()).unwrap(), P384Key::from_sec1(&point).unwrap());
        Self { target, population, load, next, tee_key, tls }
    }

    fn run(mut self) -> Vec<Duration> {
        let begun = Instant::now();
        let mut latencies = Vec::new();
        let mut connection = self.target.connect();
        let mut waited = Duration::ZERO;
        let session = self.handshake(&mut connection, &mut waited);
        let path = format!("/kbs/v0/resource/demo/site-{}/{}", self.next, self.population.guests[self.next].host_data);
        while begun.elapsed() < self.load.length {
            let mut waited = Duration::ZERO;
            if self.load.kind == Kind::Resource {
                let begun = Instant::now();
                let answer = connection.send("GET", &path, &[("cookie", &session)], &[]);
                waited = begun.elapsed();
                assert_eq!(answer.status, 200, "{}", String::from_utf8_lossy(&answer.body));
            } else {
                self.next = (self.next + self.load.threads) % self.population.guests.len();
                if !self.load.kind.is_kept_alive() {
                    let begun = Instant::now();
                    connection = self.target.connect();
                    waited = begun.elapsed();
                }
                self.handshake(&mut connection, &mut waited);
            }
            latencies.push(waited);
        }
        latencies
    }

    /// One challenge and its answer; gives the session cookie, which a renewal has none of, and adds the time spent waiting.
    fn handshake(&self, connection: &mut Connection, waited: &mut Duration) -> String {
        let ours = self.load.kind.is_ours();
        let begun = Instant::now();
        let challenge = connection.send("POST", "/kbs/v0/auth", &[], &Request::body(ours));
        *waited += begun.elapsed();
        assert_eq!(challenge.status, 200, "{}", String::from_utf8_lossy(&challenge.body));
        let body = self.evidence(Challenge::parse(&challenge.body).unwrap(), ours);
        let cookie = challenge.cookie.unwrap();
        let begun = Instant::now();
        let answer = connection.send("POST", "/kbs/v0/attest", &[("cookie", &cookie)], &body);
        *waited += begun.elapsed();
        assert_eq!(answer.status, 200, "{}", String::from_utf8_lossy(&answer.body));
        assert!(!TokenResponse::parse(&answer.body).unwrap().token.is_empty());
        answer.cookie.unwrap_or_default()
    }

    fn evidence(&self, challenge: Challenge, ours: bool) -> Vec<u8> {
        let purpose = if self.load.kind == Kind::Renewal { Purpose::Renew } else { Purpose::Boot };
        let bound = BoundKeys { purpose, keys: KeySet { tls: self.tls.clone(), node: None, wg: None } };
        let runtime_data = RuntimeData { nonce: challenge.nonce, tee_pubkey: self.tee_key.public(), coffer: ours.then_some(bound) };
        let report_data = ReportData::new(*runtime_data.report_data("").unwrap().as_bytes());
        let asp = &self.population.asps[self.next % self.population.asps.len()];
        let evidence = asp.evidence(&self.population.guests[self.next], report_data).unwrap();
        let wire = if ours { evidence.to_raw_value() } else { evidence.to_stock_value() }.unwrap();
        attestation_body(&runtime_data, &wire, "").unwrap()
    }
}
