//! What the gate costs a connection, what five hundred leases cost the gate, how fast it cuts. Real programs, all on loopback.
//!
//!     cargo bench -p coffer-gate --bench gate -- [--mebibytes N] [--rounds N] [--sites N] [--seconds N] [--cuts N]
//!
//! Ways to one server are measured in turns in one run: straight there, through the guest's endpoint and the gate, and through nginx's
//! TLS stream proxy at both ends (left out where it is not installed). It prints figures and ratios and never fails on time.
#![forbid(unsafe_code)]

mod cpu;
mod endpoint;
mod leases;
mod nginx;
mod origin;
mod ways;

#[path = "../../tests/support/mod.rs"]
#[allow(dead_code, unused_imports, reason = "the tests' own support, of which a benchmark needs a part")]
mod support;

use std::time::Duration;

use endpoint::Endpoint;
use nginx::Nginx;
use ways::{Summary, Way};

/// What the command line asks for.
struct Asked {
    mebibytes: u64,
    rounds: usize,
    sites: usize,
    seconds: u32,
    cuts: usize,
}

fn main() {
    let args: Vec<String> = std::env::args().collect();
    if let [_, argument, origin] = args.as_slice()
        && argument == endpoint::ARGUMENT
    {
        return endpoint::run(origin);
    }
    let asked = asked();
    connections(&asked);
    leases::renewals(asked.sites, asked.seconds);
    leases::cuts(asked.cuts);
}

fn connections(asked: &Asked) {
    let origin = origin::start();
    let endpoint = Endpoint::start(origin);
    let nginx = Nginx::start(origin);
    let mut ways =
        vec![Way::new("straight", origin, Vec::new()), Way::new("guest's endpoint and gate", endpoint.address, endpoint.processes.clone())];
    ways.extend(nginx.as_ref().map(|nginx| Way::new("nginx and nginx", nginx.address, nginx.processes())));
    for _ in 0..asked.rounds {
        for way in &mut ways {
            way.round(asked.mebibytes << 20, 2000, 20);
        }
    }
    println!("one way or another to one server, {} rounds of {} MiB", asked.rounds, asked.mebibytes);
    println!(
        "  {:<28}{:>12}{:>12}{:>14}{:>12}{:>20}{:>20}",
        "", "down MiB/s", "up MiB/s", "2 + 2 MiB/s", "CPU s/GiB", "512 B p50/p99 us", "connect p50/p99 us"
    );
    let summaries: Vec<Summary> = ways.iter_mut().map(Way::summary).collect();
    for (way, summary) in ways.iter().zip(&summaries) {
        let mebibytes = |rate: f64| rate / f64::from(1 << 20);
        let two = |(median, worst): (Duration, Duration)| format!("{} / {}", median.as_micros(), worst.as_micros());
        println!(
            "  {:<28}{:>12.0}{:>12.0}{:>14.0}{:>12.2}{:>20}{:>20}",
            way.name,
            mebibytes(summary.down),
            mebibytes(summary.up),
            mebibytes(summary.both),
            summary.cpu,
            two(summary.echo),
            two(summary.connect)
        );
    }
    let [_, ours, rest @ ..] = summaries.as_slice() else { return };
    let Some(theirs) = rest.first() else {
        println!("  no ratio to nginx: it is not installed; hint: tests/setup.sh --long");
        return;
    };
    // Above 1 is better than nginx, for times and CPU time too.
    let faster = |ours: Duration, theirs: Duration| theirs.as_secs_f64() / ours.as_secs_f64();
    println!(
        "ratio to nginx (wanted: at least 0.9): down {:.2}, up {:.2}, 2 + 2 {:.2}, CPU {:.2}, echo p50 {:.2}, p99 {:.2}, connect p50 {:.2}",
        ours.down / theirs.down,
        ours.up / theirs.up,
        ours.both / theirs.both,
        theirs.cpu / ours.cpu,
        faster(ours.echo.0, theirs.echo.0),
        faster(ours.echo.1, theirs.echo.1),
        faster(ours.connect.0, theirs.connect.0)
    );
}

fn asked() -> Asked {
    let mut asked = Asked { mebibytes: 256, rounds: 5, sites: 500, seconds: 10, cuts: 20 };
    let mut args = std::env::args().skip(1);
    while let Some(arg) = args.next() {
        let mut number = || args.next().and_then(|n| n.parse::<u32>().ok()).filter(|n| *n > 0);
        match arg.as_str() {
            "--mebibytes" => asked.mebibytes = number().unwrap_or_else(|| usage()).into(),
            "--rounds" => asked.rounds = number().unwrap_or_else(|| usage()) as usize,
            "--sites" => asked.sites = number().unwrap_or_else(|| usage()) as usize,
            "--seconds" => asked.seconds = number().unwrap_or_else(|| usage()),
            "--cuts" => asked.cuts = number().unwrap_or_else(|| usage()) as usize,
            // What `cargo bench` says to every benchmark.
            "--bench" => {}
            _ => usage(),
        }
    }
    asked
}

fn usage() -> ! {
    eprintln!("gate: usage: gate [--mebibytes N] [--rounds N] [--sites N] [--seconds N] [--cuts N]");
    std::process::exit(2)
}
