//! Load on a running service: the real `coffer-attest serve` on loopback, genuine fresh challenges, simulator-signed reports.
//!
//!     cargo bench -p coffer-attest --bench load -- [--seconds N] [--threads N] [--sites N]
//!
//! What counts is the *server's* CPU time (`/proc/<pid>/stat`), so the clients' own cryptography and a busy machine do not blur it:
//! handshakes per second per core = handshakes ÷ CPU seconds of the server. Raw P-384 verifications are timed the same way, on as
//! many threads as there are cores, since two threads of one core slow each other down. It prints figures and never fails on time.
#![forbid(unsafe_code)]

mod drive;
mod measure;
mod population;
mod wire;

#[path = "../../tests/service/support/mod.rs"]
#[allow(dead_code, unused_imports, reason = "the tests' own support, of which a benchmark needs the running service only")]
mod support;

use std::time::Duration;

use drive::{Kind, Load, drive};
use measure::{RawP384, Usage};
use population::{Population, Service};

/// What the command line asks for.
struct Settings {
    seconds: u64,
    threads: usize,
    sites: usize,
}

fn main() {
    let settings = settings();
    let service = Service::start();
    let at_start = service.rss_kib();
    let usage = Usage::of(service.pid());
    let population = Population::enroll(&service, settings.sites, settings.threads);
    let enrolling = usage.since();
    println!("memory");
    println!("  {:<54}{:>9} KiB", "resident at start", at_start);
    println!("  {:<54}{:>9} KiB", format!("resident with {} sites enrolled", settings.sites), service.rss_kib());
    println!("enrolling through the API, {} clients", settings.threads);
    println!("  {:<54}{:>9.0} /s, {:.0} /s per core", "sites", enrolling.per_second(settings.sites), enrolling.per_core(settings.sites));

    let length = Duration::from_secs(settings.seconds);
    let raw = RawP384::measure(&population, length);
    println!("raw P-384 verifications of a report");
    println!("  {:<54}{:>9.0} /s per core", "aws-lc-rs, which the verifier uses", raw.ours);
    println!("  {:<54}{:>9.0} /s per core", "ring, for comparison", raw.ring);
    for kind in Kind::ALL {
        let load = Load { kind, threads: settings.threads, length };
        // Once round for the caches, as in a service that has been up for a minute.
        drive(&service, &population, Load { length: Duration::from_millis(500), ..load });
        let usage = Usage::of(service.pid());
        let latencies = drive(&service, &population, load);
        let used = usage.since();
        let per_core = used.per_core(latencies.len());
        println!("{}, {} clients", kind.name(), settings.threads);
        println!("  {:<54}{per_core:>9.0} /s per core", "of the server's CPU time");
        if kind.is_handshake() {
            println!("  {:<54}{:>9.2} ({:.2} to ring's)", "ratio to raw P-384", per_core / raw.ours, per_core / raw.ring);
        }
        println!("  {:<54}{:>9.0} /s", "by the wall clock", used.per_second(latencies.len()));
        println!("  {:<54}{}", "latency p50 / p90 / p99 / max", measure::percentiles(latencies));
    }
    println!("memory");
    println!("  {:<54}{:>9} KiB", "resident at the end", service.rss_kib());
}

fn settings() -> Settings {
    let mut settings = Settings { seconds: 5, threads: 8, sites: 10_000 };
    let mut args = std::env::args().skip(1);
    while let Some(arg) = args.next() {
        let mut number = || args.next().and_then(|n| n.parse::<usize>().ok()).filter(|n| *n > 0);
        match arg.as_str() {
            "--seconds" => settings.seconds = number().unwrap_or_else(|| usage()) as u64,
            "--threads" => settings.threads = number().unwrap_or_else(|| usage()),
            "--sites" => settings.sites = number().unwrap_or_else(|| usage()),
            // What `cargo bench` says to every benchmark.
            "--bench" => {}
            _ => usage(),
        }
    }
    settings
}

fn usage() -> ! {
    eprintln!("load: usage: load [--seconds N] [--threads N] [--sites N]");
    std::process::exit(2)
}
