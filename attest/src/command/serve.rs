//! `coffer-attest serve`: from a folder to a listening service, each step one the next relies on.

use std::io::Write;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use coffer_token::AuditHead;
use serde_json::json;
use tokio::net::TcpListener;

use super::audit::read_head;
use super::offline;
use crate::cli;
use crate::clock::unix_now;
use crate::collateral::Library;
use crate::collateral::kds::{Kds, KdsConfig};
use crate::config::Config;
use crate::failure::{Exit, Failure, OrFail};
use crate::http::{Service, router};
use crate::judge::Judge;
use crate::layout::{Layout, replace};
use crate::net;
use crate::session::CookieKey;
use crate::store::{ServiceKey, SharedStore, Store};
use crate::tls::server_config;

/// How often used nonces and old withdrawals are forgotten, and counters logged.
const HOUSEKEEPING: Duration = Duration::from_secs(60);
/// How often overlaps that are over are written down: gates hear of it then.
const OVERLAPS: Duration = Duration::from_secs(1);
/// How many of these rounds go by between two audit heads in the log: ten minutes.
const ROUNDS_PER_HEAD: u64 = 10;

/// Runs until SIGTERM or SIGINT.
///
/// # Errors
/// Whatever keeps the service from starting.
pub fn run(args: &cli::Serve) -> Result<(), Failure> {
    start_log();
    let layout = Layout::new(&args.dir);
    let config = Config::read(&layout.config()).or_fail("cannot read the settings")?;
    let store = open_store(&layout)?;
    check_age(&store, args)?;
    let tls = server_config(&layout).or_fail("cannot use the server certificate")?;
    let service = Arc::new(build(store, &layout, &config)?);
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build().or_fail("cannot start")?;
    runtime.block_on(async {
        let listener = TcpListener::bind(args.listen).await.or_fail(&format!("cannot listen on {}", args.listen))?;
        let address = listener.local_addr().or_fail("cannot listen")?;
        let stop = net::Stop::listen().or_fail("cannot listen for signals")?;
        announce(&layout, address, args.json)?;
        tokio::spawn(housekeeping(Arc::clone(&service)));
        tokio::spawn(overlaps(Arc::clone(&service)));
        let librarian = Arc::clone(&service);
        let thread = std::thread::Builder::new().name("collateral".to_owned());
        thread.spawn(move || librarian.collateral().work(&*librarian)).or_fail("cannot start")?;
        let served = net::serve(listener, tls, Arc::clone(&service), router(Arc::clone(&service)), config.limits, stop).await;
        // Absent where somebody has cleaned up; the file only helps `--dir`.
        let _ = std::fs::remove_file(layout.listening());
        service.log_counters();
        log_head(&service);
        // So that the one file is a whole backup of a stopped service.
        if let Err(error) = service.store().fold_log() {
            tracing::warn!(%error, "the database keeps its write-ahead log: a backup needs both files");
        }
        served.or_fail("cannot serve")
    })
}

/// The log goes to stderr. It never holds a secret: secret types have no `Display` and a redacted `Debug`.
fn start_log() {
    let subscriber = tracing_subscriber::fmt().with_writer(std::io::stderr).with_ansi(false).with_target(false).finish();
    // Fails only if a subscriber is set already, and this is the one place that sets one.
    let _ = tracing::subscriber::set_global_default(subscriber);
}

fn open_store(layout: &Layout) -> Result<Store, Failure> {
    let store = offline::open(layout)?;
    let doing = format!("cannot open {}", layout.database().display());
    let (entries, head) = store.check_audit().map_err(|e| {
        Failure::new(format!("{doing}: {e}")).hint("the audit log was edited or damaged: restore the database from a backup you trust")
    })?;
    tracing::info!(entries, %head, "audit log is whole");
    Ok(store)
}

/// A restored backup brings back what was revoked since: whoever keeps a number or a head elsewhere is not served by one.
fn check_age(store: &Store, args: &cli::Serve) -> Result<(), Failure> {
    let newest = store.revocations().load().number();
    if newest < args.min_revocation {
        let why = format!("the database goes up to revocation {newest}, expected at least {}", args.min_revocation);
        return Err(Failure::new(why).exit(Exit::Stale).hint(
            "it is a restored backup: bring it up to date with `coffer-attest revocations import`, or revoke again what was revoked since",
        ));
    }
    let Some(file) = &args.audit_head else { return Ok(()) };
    let (seq, expected) = read_head(file, None, Some(store))?;
    let got = store.audit_digest(seq).or_fail("cannot read the audit log")?;
    if seq == 0 || got == Some(expected) {
        return Ok(());
    }
    let got = got.map_or_else(|| "is missing".to_owned(), |got| format!("is {got}"));
    Err(Failure::new(format!("audit entry {seq} {got}, the kept head {} says {expected}", file.display()))
        .exit(Exit::Stale)
        .hint("the log was cut off or the database is an older copy: restore a newer backup, or take a new head if you accept the loss"))
}

fn build(store: Store, layout: &Layout, config: &Config) -> Result<Service, Failure> {
    let doing = "cannot use the database";
    // On the disk before this returns: challenges answered before a crash are refused for their epoch.
    let epoch = store.raise_epoch(unix_now()).or_fail(doing)?;
    let keys = store.token_keys().or_fail("cannot use the token keys")?;
    let cookies = CookieKey::new(*fixed(&store.key(ServiceKey::Cookie).or_fail(doing)?)?);
    let root_of_trust = store.root_of_trust();
    let ark = store.ark().or_fail(doing)?;
    let judge = Judge::new(root_of_trust, ark.as_deref(), keys, store.revocations(), store.policies().or_fail(doing)?, config)
        .or_fail("cannot use the root of trust and the policies")?;
    if !judge.policies().accepts_anything() {
        tracing::warn!("no evidence is accepted: no policy takes any family; coffer-attest policy set FILE --default, or --project NAME");
    }
    let library = library(&store, &judge, layout, config)?;
    let judge = judge.with_library(library);
    tracing::info!(%root_of_trust, epoch, "starting");
    let store = SharedStore::new(store, &layout.database()).or_fail(doing)?;
    Ok(Service::new(store, cookies, epoch, judge, config))
}

/// What is known of certificates, and where to ask for more, if anywhere.
fn library(store: &Store, judge: &Judge, layout: &Layout, config: &Config) -> Result<Library, Failure> {
    let KdsConfig { enabled, url, ca } = &config.kds;
    let kds = enabled.then(|| Kds::new(url, &layout.dir().join(ca))).transpose();
    let kds = kds.map_err(|e| {
        let failure = Failure::new(format!("cannot use the key server: {}", crate::failure::chain(&e)));
        failure.hint("[kds] ca in coffer-attest.toml; on Debian, the package ca-certificates has the public authorities")
    })?;
    let rows = store.collateral().or_fail("cannot use the database")?;
    tracing::info!(pieces = rows.len(), key_server = kds.as_ref().map_or("off", Kds::url), "collateral");
    Ok(Library::open(rows, judge.roots().clone(), kds))
}

fn fixed(bytes: &[u8]) -> Result<zeroize::Zeroizing<[u8; 32]>, Failure> {
    let got = bytes.len();
    let fixed = <[u8; 32]>::try_from(bytes).map_err(|_| Failure::new(format!("a sealed key has {got} bytes, expected 32")))?;
    Ok(zeroize::Zeroizing::new(fixed))
}

/// Tells the caller, and `--dir` of the other commands, where the service is.
fn announce(layout: &Layout, address: SocketAddr, as_json: bool) -> Result<(), Failure> {
    let url = format!("https://{address}");
    let reachable = match address.ip() {
        IpAddr::V4(ip) if ip.is_unspecified() => SocketAddr::new(Ipv4Addr::LOCALHOST.into(), address.port()),
        IpAddr::V6(ip) if ip.is_unspecified() => SocketAddr::new(Ipv6Addr::LOCALHOST.into(), address.port()),
        _ => address,
    };
    let path: PathBuf = layout.listening();
    replace(&path, 0o600, format!("https://{reachable}\n").as_bytes()).or_fail("cannot note the address")?;
    let line = if as_json { json!({ "listening": url }).to_string() } else { format!("listening {url}") };
    // A caller that closed our stdout does not want to know.
    let _ = writeln!(std::io::stdout(), "{line}").and_then(|()| std::io::stdout().flush());
    Ok(())
}

/// The signed head, for whoever keeps logs elsewhere: the database alone cannot show that its end was cut off.
fn log_head(service: &Service) {
    match service.signed_audit_head() {
        Ok((head, AuditHead { seq, .. })) => tracing::info!(seq, head, "audit head"),
        Err(error) => tracing::error!(%error, "cannot sign the audit head"),
    }
}

async fn overlaps(service: Arc<Service>) {
    let mut every = tokio::time::interval(OVERLAPS);
    loop {
        every.tick().await;
        let service = Arc::clone(&service);
        let ended = tokio::task::spawn_blocking(move || service.store().end_overlaps(unix_now()));
        match ended.await {
            Ok(Ok(0)) | Err(_) => {}
            Ok(Ok(configs)) => tracing::info!(configs, "overlaps are over: superseded configs are revoked"),
            Ok(Err(error)) => tracing::error!(%error, "cannot revoke superseded configs"),
        }
    }
}

async fn housekeeping(service: Arc<Service>) {
    let mut every = tokio::time::interval(HOUSEKEEPING);
    for round in 0_u64.. {
        every.tick().await;
        let service = Arc::clone(&service);
        let swept = tokio::task::spawn_blocking(move || {
            service.log_counters();
            if round % ROUNDS_PER_HEAD == 0 {
                log_head(&service);
            }
            if let Err(error) = service.change_keys(|store| store.forget_old_token_keys(unix_now())) {
                tracing::error!(%error, "cannot destroy old token keys");
            }
            let store = service.store();
            store.forget(unix_now()).and_then(|_| store.forget_withdrawals(unix_now()))
        });
        if let Ok(Err(error)) = swept.await {
            tracing::error!(%error, "cannot forget used nonces and old withdrawals");
        }
    }
}
