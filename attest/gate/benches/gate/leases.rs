//! Five hundred sites that renew every second at a gate on one core, and how long it takes from a withdrawal to the RST.

use std::time::{Duration, Instant};

use coffer_token::Withdrawn;
use coffer_token::lease::{Answer, Renewal};

use crate::cpu;
use crate::support::{Boot, Gate, Issuer, Service, Settings, Wire};

fn percentiles(times: &mut [Duration]) -> String {
    times.sort_unstable();
    let at = |of_thousand: usize| times[(times.len() - 1) * of_thousand / 1000].as_secs_f64() * 1000.0;
    format!("{:.1} / {:.1} / {:.1} ms", at(500), at(990), at(1000))
}

/// `sites` lease connections, each with a new token every second for `seconds`.
pub fn renewals(sites: usize, seconds: u32) {
    let issuer = Issuer::start();
    let gate = Gate::with(&issuer, &Settings { wrapper: ["taskset", "-c", "0"].map(str::to_owned).to_vec(), ..Settings::default() });
    let mut leased: Vec<(Boot, Wire)> = Vec::new();
    let (begun, cpu) = (Instant::now(), cpu::seconds(gate.pid()));
    for n in 0..sites {
        let boot = Boot::of(&format!("site-{n}"));
        let wire = gate.door.leased(&boot, &issuer.token(&boot));
        leased.push((boot, wire));
    }
    let used = cpu::seconds(gate.pid()) - cpu;
    println!("{sites} sites, the gate pinned to one core");
    println!("  {:<54}{:>9.2} ms of CPU each, {:.1} s in all", "coming in", 1000.0 * used / sites as f64, begun.elapsed().as_secs_f64());
    println!("  {:<54}{:>9} KiB", "resident with all of them in", cpu::resident_kib(gate.pid()));

    let (begun, cpu) = (Instant::now(), cpu::seconds(gate.pid()));
    let mut answers: Vec<Duration> = std::thread::scope(|scope| {
        let shares: Vec<_> = leased.chunks_mut(sites.div_ceil(4)).map(|share| (share, &issuer)).collect();
        let running: Vec<_> = shares.into_iter().map(|(share, issuer)| scope.spawn(move || renew(share, issuer, seconds))).collect();
        running.into_iter().flat_map(|thread| thread.join().unwrap()).collect()
    });
    let (wall, used) = (begun.elapsed().as_secs_f64(), cpu::seconds(gate.pid()) - cpu);
    println!("  {:<54}{:>9.0} /s", "renewals answered", answers.len() as f64 / wall);
    println!(
        "  {:<54}{:>9.0} % of one core, {:.2} ms each",
        "the gate's CPU time",
        100.0 * used / wall,
        1000.0 * used / answers.len() as f64
    );
    println!("  {:<54}{}", "an answer after p50 / p99 / max", percentiles(&mut answers));
}

/// One client's share: every site of it once a second, evenly.
fn renew(share: &mut [(Boot, Wire)], issuer: &Issuer, seconds: u32) -> Vec<Duration> {
    let pause = Duration::from_secs(1) / u32::try_from(share.len()).unwrap();
    let (begun, mut answers) = (Instant::now(), Vec::new());
    for second in 0..seconds {
        for (n, (boot, wire)) in (0u32..).zip(share.iter_mut()) {
            let due = Duration::from_secs(second.into()) + pause * n;
            std::thread::sleep(due.saturating_sub(begun.elapsed()));
            let renewal = Renewal { token: issuer.token(boot) };
            let asked = Instant::now();
            wire.send(&renewal).unwrap();
            let answer = wire.answer().unwrap();
            assert!(matches!(answer, Answer::Admitted { .. }), "{answer:?}");
            answers.push(asked.elapsed());
        }
    }
    answers
}

/// From a withdrawal at the service, and from the start of `coffer-attest site suspend`, to the RST at the guest.
pub fn cuts(count: usize) {
    let issuer = Issuer::start();
    let gate = Gate::of(&issuer).in_touch(&issuer);
    let mut pushed: Vec<Duration> = (0..count)
        .map(|n| {
            let boot = Boot::of(&format!("site-{n}"));
            let mut tunnel = gate.door.tunneled(&boot, &issuer.token(&boot));
            let begun = Instant::now();
            issuer.withdraw("site_suspended", Withdrawn::Site { host_data: boot.host_data });
            tunnel.reset(Duration::from_secs(10));
            begun.elapsed()
        })
        .collect();
    println!("from a withdrawal to the RST at the guest, {count} times");
    println!("  {:<54}{}", "pushed by a service, p50 / p99 / max", percentiles(&mut pushed));

    let service = Service::start();
    let gate = Gate::of_service(&service);
    let mut suspended: Vec<Duration> = (0..count)
        .map(|n| {
            let guest = service.enrolled(&format!("site-{n}"));
            let mut tunnel = gate.door.tunneled(&guest.boot, &service.token(&guest));
            let begun = Instant::now();
            service.works(&["site", "suspend", &format!("demo/site-{n}"), "--reason", "bench"]);
            tunnel.reset(Duration::from_secs(10));
            begun.elapsed()
        })
        .collect();
    println!("  {:<54}{}", "since `coffer-attest site suspend`, p50 / p99 / max", percentiles(&mut suspended));
}
