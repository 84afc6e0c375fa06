//! The service under load, and who loads it: sites enrolled through its own API, on a handful of chips.

use std::path::PathBuf;

use coffer_evidence::{Family, GuestPolicy, UnixTime};
use coffer_manifest::disk::RootSecret;
use coffer_manifest::{EnrollmentFile, KitKey, Secrets};
use coffer_simulator::{Asp, Guest};
use coffer_token::admin::{AdminSigner, Call};
use data_encoding::HEXLOWER;

use crate::support::{self, BASE, KIT_KEY, ROOT_SECRET, TLS_NAME, host_data, now, simulator};
use crate::wire::Target;

/// Random bytes.
pub fn random<const N: usize>() -> [u8; N] {
    let mut bytes = [0; N];
    getrandom::fill(&mut bytes).unwrap();
    bytes
}

/// How many hosts the guests run on; each brings a VCEK of its own.
const CHIPS: usize = 16;

/// More than can be asked for.
const MANY: u32 = 10_000_000;

/// The running service, without bounds on one source or site: here every site comes from one address, over and over.
pub struct Service(support::Service);

impl Service {
    pub fn start() -> Self {
        let limits = |per_second, burst, per_minute, per_site| {
            format!(
                "second_per_source = {per_second}\nburst_per_source = {burst}\nwaiting = 512\n\
                 decisions_per_minute_per_site = {per_minute}\nburst_per_site = {per_site}"
            )
        };
        Self(support::Service::edited(&limits(50, 500, 10, 60), &limits(MANY, MANY, MANY, MANY)))
    }

    pub fn pid(&self) -> u32 {
        self.0.pid()
    }

    pub fn rss_kib(&self) -> u64 {
        crate::measure::rss_kib(self.pid())
    }

    pub fn target(&self) -> Target {
        Target::new(&self.0.url, &self.file("tls/ca.pem"))
    }

    fn file(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }
}

pub struct Population {
    pub asps: Vec<Asp>,
    /// Guest `n` is that of `demo/site-<n>`.
    pub guests: Vec<Guest>,
}

impl Population {
    pub fn enroll(service: &Service, sites: usize, threads: usize) -> Self {
        let hierarchy = &simulator(Family::Genoa).hierarchy;
        let asps = (0..CHIPS).map(|_| Asp::new(hierarchy, UnixTime(now())).unwrap()).collect();
        let guest = |n: usize| Guest::launch(BASE, host_data(&format!("site-{n}")), GuestPolicy(0x3_0000)).unwrap();
        let population = Self { asps, guests: (0..sites).map(guest).collect() };
        let signer = AdminSigner::from_pem(&std::fs::read_to_string(service.file("admin.key")).unwrap()).unwrap();
        std::thread::scope(|scope| {
            for first in 0..threads {
                let (population, signer, target) = (&population, &signer, service.target());
                scope.spawn(move || {
                    let mut connection = target.connect();
                    for n in (first..sites).step_by(threads) {
                        let body = population.enrollment(service, n);
                        let call = Call { audience: TLS_NAME, method: "POST", path: "/coffer/v1/sites", body: &body };
                        let token = signer.sign(&call, &HEXLOWER.encode(&random::<16>()), coffer_token::UnixTime(now()), 120).unwrap();
                        let answer = connection.send(call.method, call.path, &[("authorization", &format!("Bearer {token}"))], &body);
                        assert_eq!(answer.status, 201, "{}", String::from_utf8_lossy(&answer.body));
                    }
                });
            }
        });
        population
    }

    fn enrollment(&self, service: &Service, n: usize) -> Vec<u8> {
        let record = service.0.record(&format!("site-{n}"), self.guests[n].host_data);
        let secrets = Secrets { root: RootSecret::new(ROOT_SECRET), kit: Some(KitKey::new(KIT_KEY)) };
        let file = EnrollmentFile { record, secrets }.to_bytes().unwrap();
        [br#"{"accept_aml_risk":false,"enrollment":"#, file.as_slice(), b"}"].concat()
    }
}
