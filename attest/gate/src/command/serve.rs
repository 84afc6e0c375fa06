//! `coffer-gate serve`: from a folder to a gate that listens, each step one the next relies on.

use std::io::{self, Write};
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use rustix::process::{DumpableBehavior, Resource, Rlimit, getrlimit, set_dumpable_behavior, setrlimit};
use serde_json::json;
use tokio::net::TcpListener;
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::sync::Semaphore;

use crate::admission::sites::Sites;
use crate::admission::{Admission, lines_of_strangers};
use crate::cli;
use crate::config::Config;
use crate::failure::{Failure, OrFail};
use crate::flower::Flower;
use crate::gate::Gate;
use crate::guests::attested::Attested;
use crate::guests::source::Waiting;
use crate::guests::{listen, tls};
use crate::layout::{Layout, read_small};
use crate::leases::{Instances, Leases};
use crate::operator;
use crate::operator::metrics;
use crate::service::clock::Clock;
use crate::service::keys::Keys;
use crate::service::{Feed, Heard};
use crate::state::State;

/// How long the start waits for the key service: what it took back meanwhile should be known before anybody comes in.
const FIRST_CONTACT: Duration = Duration::from_secs(5);
/// So many instances of one site at once: a guest that is rebooted a few times in a row is no attack.
const INSTANCES_AT_ONCE: u32 = 4;
/// File descriptors besides those of connections: the service, the state, `flwr`, those who look.
const OTHER_DESCRIPTORS: u64 = 512;
/// How long a stop waits for what is still being written.
const STOP_TIMEOUT: Duration = Duration::from_secs(2);

/// Runs until SIGTERM or SIGINT.
///
/// # Errors
/// Whatever keeps the gate from starting.
pub fn run(args: &cli::Serve) -> Result<(), Failure> {
    start_log();
    // The authority's key and this process's own are in its memory.
    set_dumpable_behavior(DumpableBehavior::NotDumpable).map_err(io::Error::from).or_fail("cannot turn off core dumps")?;
    let layout = Layout::new(&args.dir);
    let config = Config::read(&layout.config(), layout.dir()).or_fail("cannot read the settings");
    let config = config.map_err(|failure| failure.hint_without(&layout.config(), "`coffer-gate init` makes the folder"))?;
    take_descriptors(config.limits.connections);
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build().or_fail("cannot start")?;
    let served = runtime.block_on(serve(args, &layout, config));
    runtime.shutdown_timeout(STOP_TIMEOUT);
    served
}

/// Takes as many file descriptors as there may be connections, each with one to the SuperLink: where they are out, neither sites nor the
/// key service are reached.
fn take_descriptors(connections: u32) {
    let wanted = 2 * u64::from(connections) + OTHER_DESCRIPTORS;
    let Rlimit { current, maximum } = getrlimit(Resource::Nofile);
    let most = maximum.map_or(wanted, |maximum| maximum.min(wanted));
    let there = match current {
        Some(current) if current < most => setrlimit(Resource::Nofile, Rlimit { current: Some(most), maximum }).map_or(current, |()| most),
        other => other.unwrap_or(wanted),
    };
    if there < wanted {
        let hint = "raise LimitNOFILE, or lower limits.connections";
        tracing::warn!(there, wanted, hint, "a crowd could use up the file descriptors");
    }
}

async fn serve(args: &cli::Serve, layout: &Layout, config: Config) -> Result<(), Failure> {
    let stop = Stop::listen().or_fail("cannot listen for signals")?;
    let socket = operator::bind(&layout.socket()).await.or_fail(&format!("cannot make {}", layout.socket().display()))?;
    let listen = args.listen.unwrap_or(config.listen);
    let listener = TcpListener::bind(listen).await.or_fail(&format!("cannot listen on {listen}"));
    let listener =
        listener.map_err(|failure| failure.hint("`ss -ltnp` says who does; `listen` in coffer-gate.toml and --listen name another"))?;
    let address = listener.local_addr().or_fail("cannot listen")?;
    let metrics = match config.metrics {
        Some(metrics) => {
            let listener = TcpListener::bind(metrics).await.or_fail(&format!("cannot listen on metrics = {metrics}"));
            Some(listener.map_err(|failure| failure.hint("`ss -ltnp` says who does; `metrics` in coffer-gate.toml names another"))?)
        }
        None => None,
    };
    let gate = Arc::new(build(layout, config).await?);
    tokio::spawn(expire(Arc::clone(&gate.admission.leases)));
    let Admission { leases, keys, clock, .. } = &gate.admission;
    tokio::spawn(Arc::clone(&gate.state).keep(Arc::clone(leases), Arc::clone(keys), Arc::clone(clock)));
    tokio::spawn(operator::serve(Arc::clone(&gate), socket));
    if let Some(attested) = &gate.attested {
        tokio::spawn(Arc::clone(attested).keep());
    }
    if let Some(metrics) = metrics {
        tokio::spawn(metrics::serve(Arc::clone(&gate), metrics));
    }
    gate.feed.first_contact(FIRST_CONTACT).await;
    tokio::spawn(Arc::clone(&gate.feed).listen());
    tokio::spawn(Arc::clone(&gate.feed).poll());
    announce(address, args.json);
    let (name, project, root_of_trust) = (&gate.config.name, &gate.config.service.project, &gate.config.service.root_of_trust);
    tracing::info!(%address, name, project, root_of_trust, "listening");
    tokio::select! {
        () = listen::accept(Arc::clone(&gate), listener) => {}
        () = stop.asked() => {}
    }
    // Absent where somebody has cleaned up.
    let _ = std::fs::remove_file(layout.socket());
    gate.state.save(leases, keys, clock).await.or_fail("cannot keep what must survive a restart")?;
    tracing::info!("stopped");
    Ok(())
}

async fn build(layout: &Layout, config: Config) -> Result<Gate, Failure> {
    let limits = config.limits;
    let pinned = read_small(&config.service.ca).or_fail("cannot use [service] ca")?;
    let pinned = String::from_utf8_lossy(&pinned).into_owned();
    let (state, kept) = State::open(layout.state(), pinned).or_fail("cannot use what was kept over the restart")?;
    let (state, keys, clock) = (Arc::new(state), Arc::new(Keys::new(kept.jwks)), Arc::new(Clock::new(kept.service_time)));
    let instances = Instances { burst: INSTANCES_AT_ONCE, every: Duration::from_secs(3600) / limits.instances_per_hour };
    let leases = Arc::new(Leases::new(config.check_frequency, instances));
    leases.restore(kept.past, clock.now());
    let client = tls::client(&config.service.ca).or_fail("cannot use [service] ca")?;
    let heard = Heard { keys: Arc::clone(&keys), leases: Arc::clone(&leases), clock: Arc::clone(&clock), state: Arc::clone(&state) };
    let feed = Feed::new(config.service.clone(), client, heard).or_fail("cannot use [service] tls_name")?;
    let node_key = config.attested.as_ref().map(|attested| attested.node_key.as_path());
    let server = tls::server(layout, &config.name, node_key).or_fail("cannot make the gate's certificate").map_err(|failure| {
        let lost = "sites pin this authority: put tls/ back from its backup; a new one means new bundles";
        let failure = failure.hint_without(&layout.ca_key(), lost).hint_without(&layout.ca(), lost);
        let outside = "[attested] is for a gate in a confidential VM, which has this file";
        if let Some(path) = node_key { failure.hint_without(path, outside) } else { failure }
    })?;
    let attested = config.attested.as_ref().map(|given| Arc::new(Attested::new(given.socket.clone(), server.key, Arc::clone(&clock))));
    let flower = Flower::start(&config.flower, &config.runs, Arc::clone(&leases)).await.or_fail("cannot stand in front of this Flower")?;
    let sites = Arc::new(Sites::new(limits));
    let admission =
        Admission { service: config.service.clone(), keys, clock, leases, sites, flower, lines: lines_of_strangers(Instant::now()) };
    Ok(Gate {
        config,
        admission,
        feed: Arc::new(feed),
        state,
        acceptor: server.config.into(),
        attested,
        slots: Arc::new(Semaphore::new(limits.connections as usize)),
        waiting: Waiting::new(limits.unauthenticated, limits.unauthenticated_per_source),
        since: Instant::now(),
    })
}

/// Ends leases at their time.
async fn expire(leases: Arc<Leases>) {
    /// Where there is no lease. Any that begins wakes this.
    const NOTHING: Duration = Duration::from_secs(3600);
    loop {
        let now = Instant::now();
        let next = leases.expire(now).unwrap_or(now + NOTHING);
        tokio::select! {
            () = tokio::time::sleep_until(next.into()) => {}
            () = leases.sooner() => {}
        }
    }
}

/// The log goes to stderr. It never holds a token or a key: neither is given to it.
fn start_log() {
    let subscriber = tracing_subscriber::fmt().with_writer(io::stderr).with_ansi(false).with_target(false).finish();
    // Fails only if a subscriber is set already, and this is the one place that sets one.
    let _ = tracing::subscriber::set_global_default(subscriber);
}

fn announce(address: SocketAddr, as_json: bool) {
    let line = if as_json { json!({ "listening": address.to_string() }).to_string() } else { format!("listening {address}") };
    // A caller that closed our stdout does not want to know.
    let _ = writeln!(io::stdout(), "{line}").and_then(|()| io::stdout().flush());
}

/// SIGTERM and SIGINT, caught from the moment this exists.
struct Stop {
    term: Signal,
    interrupt: Signal,
}

impl Stop {
    fn listen() -> io::Result<Self> {
        Ok(Self { term: signal(SignalKind::terminate())?, interrupt: signal(SignalKind::interrupt())? })
    }

    async fn asked(mut self) {
        tokio::select! {
            _ = self.term.recv() => {}
            _ = self.interrupt.recv() => {}
        }
    }
}
