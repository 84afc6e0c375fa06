//! CPU time, memory, percentiles; and P-384 alone, as the limit nothing can beat.

use std::fs;
use std::time::{Duration, Instant};

use coffer_evidence::{Certificate, PublicKey, ReportData};

use crate::population::Population;

/// `USER_HZ` of Linux on every architecture this runs on.
const TICKS_PER_SECOND: f64 = 100.0;

/// A process' CPU time and the wall clock at one moment.
pub struct Usage {
    pid: u32,
    cpu_seconds: f64,
    at: Instant,
}

/// What was used between two moments.
pub struct Used {
    cpu_seconds: f64,
    wall_seconds: f64,
}

impl Usage {
    pub fn of(pid: u32) -> Self {
        let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap();
        // After the name, which may hold anything: utime and stime are fields 14 and 15 of proc(5).
        let fields: Vec<_> = stat.rsplit_once(')').unwrap().1.split_whitespace().collect();
        let ticks: f64 = fields[11..13].iter().map(|n| n.parse::<f64>().unwrap()).sum();
        Self { pid, cpu_seconds: ticks / TICKS_PER_SECOND, at: Instant::now() }
    }

    pub fn since(&self) -> Used {
        let now = Self::of(self.pid);
        Used { cpu_seconds: now.cpu_seconds - self.cpu_seconds, wall_seconds: (now.at - self.at).as_secs_f64() }
    }
}

impl Used {
    pub fn per_core(&self, count: usize) -> f64 {
        count as f64 / self.cpu_seconds.max(1.0 / TICKS_PER_SECOND)
    }

    pub fn per_second(&self, count: usize) -> f64 {
        count as f64 / self.wall_seconds
    }
}

pub fn rss_kib(pid: u32) -> u64 {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).unwrap();
    line.trim().trim_end_matches(" kB").parse().unwrap()
}

/// Verifications of one report's signature per CPU second, on every core at once.
pub struct RawP384 {
    /// The library of the verifier.
    pub ours: f64,
    /// The other C library of the service.
    pub ring: f64,
}

impl RawP384 {
    pub fn measure(population: &Population, length: Duration) -> Self {
        let (point, message, signature) = signed(population);
        let ours = aws_lc_rs::signature::UnparsedPublicKey::new(&aws_lc_rs::signature::ECDSA_P384_SHA384_FIXED, &point);
        let ring = ring::signature::UnparsedPublicKey::new(&ring::signature::ECDSA_P384_SHA384_FIXED, &point);
        Self {
            ours: rate(length, || ours.verify(&message, &signature).unwrap()),
            ring: rate(length, || ring.verify(&message, &signature).unwrap()),
        }
    }
}

/// Public key, message and signature of a report.
fn signed(population: &Population) -> (Vec<u8>, Vec<u8>, Vec<u8>) {
    let evidence = population.asps[0].evidence(&population.guests[0], ReportData::new([7; 64])).unwrap();
    let vcek = Certificate::from_der_or_pem(&evidence.certificates[0].data).unwrap();
    let PublicKey::P384 { point } = vcek.public_key() else { panic!("a VCEK has a P-384 key") };
    let fields = evidence.report.fields();
    let big_endian = |little: &[u8; 72]| little[..48].iter().rev().copied().collect::<Vec<_>>();
    let signature = [big_endian(&fields.signature_r), big_endian(&fields.signature_s)].concat();
    (point.to_vec(), evidence.report.signed_bytes().to_vec(), signature)
}

fn rate(length: Duration, verify: impl Fn() + Sync) -> f64 {
    let usage = Usage::of(std::process::id());
    let threads = std::thread::available_parallelism().map_or(1, usize::from);
    let count: usize = std::thread::scope(|scope| {
        let count = || {
            let (begun, mut count) = (Instant::now(), 0);
            while begun.elapsed() < length {
                verify();
                count += 1;
            }
            count
        };
        let running: Vec<_> = (0..threads).map(|_| scope.spawn(count)).collect();
        running.into_iter().map(|thread| thread.join().unwrap()).sum()
    });
    usage.since().per_core(count)
}

pub fn percentiles(mut latencies: Vec<Duration>) -> String {
    latencies.sort_unstable();
    let at = |share: f64| latencies[((latencies.len() - 1) as f64 * share) as usize].as_secs_f64() * 1000.0;
    format!("{:.1} / {:.1} / {:.1} / {:.1} ms", at(0.5), at(0.9), at(0.99), at(1.0))
}
