//! The HTTP surface: one route, one function, one typed body. `healthz`, `jwks.json`, the two signed lists, `openapi.json` and the handshake are
//! open to everybody.

mod admins;
mod attest;
mod audit;
mod auth;
mod collateral;
mod explain;
mod extract;
mod guard;
mod health;
mod holder;
mod jwks;
mod keys;
mod openapi;
mod policy;
pub mod problem;
mod queue;
mod rate;
mod resource;
mod revocation;
mod sites;
mod status;
mod stock;
mod suspension;
mod unrecorded;
mod withdrawals;

use std::sync::{Arc, Mutex};
use std::time::Instant;

use axum::routing::{get, post};
use axum::{Router, middleware};

use crate::clock::unix_now;
use crate::collateral::Library;
use crate::config::Config;
use crate::judge::Judge;
use crate::live::Live;
use crate::reason::Reason;
use crate::revocation::Revocations;
use crate::session::CookieKey;
use crate::store::{Locked, SharedStore, Store, StoreError};
use guard::Counters;
pub use holder::Holder;
use holder::HolderBound;
use problem::Problem;
use queue::FairQueue;
pub use rate::{Held, SourceBound, SourceShare};
use unrecorded::Refusals;
use withdrawals::Waiting;

/// Everything a request may need. Nothing in it is per session.
#[derive(Debug)]
pub struct Service {
    store: SharedStore,
    started: Instant,
    cookies: CookieKey,
    epoch: u64,
    judge: Judge,
    tls_name: String,
    bound: SourceBound,
    counters: Counters,
    refusals: Refusals,
    queue: Arc<FairQueue>,
    holders: HolderBound,
    waiting: Waiting,
    revocations: Arc<Live<Revocations>>,
    started_at: u64,
    /// Held by the one dry run there may be at a time: each makes thousands of decisions.
    trying: Mutex<()>,
}

impl Service {
    /// A service in a new epoch.
    #[must_use]
    pub fn new(store: SharedStore, cookies: CookieKey, epoch: u64, judge: Judge, config: &Config) -> Self {
        let limits = config.limits;
        let bound = SourceBound::new(limits.requests_per_second_per_source, limits.burst_per_source, Instant::now());
        let tls_name = config.tls_name.clone();
        let queue = FairQueue::new(turns(), limits.waiting as usize);
        let holders = HolderBound::new(limits.decisions_per_minute_per_site, limits.burst_per_site);
        let revocations = store.lock().revocations();
        Self {
            revocations,
            store,
            started: Instant::now(),
            cookies,
            epoch,
            judge,
            tls_name,
            bound,
            counters: Counters::default(),
            refusals: Refusals::default(),
            queue,
            holders,
            waiting: Waiting::new(),
            started_at: unix_now(),
            trying: Mutex::new(()),
        }
    }

    /// The database, for one short operation.
    pub fn store(&self) -> Locked<'_> {
        self.store.lock()
    }

    /// Seconds since the start, by a clock that nobody sets: what challenges expire by. They end at a restart anyway.
    fn uptime_s(&self) -> u64 {
        self.started.elapsed().as_secs()
    }

    /// What is revoked at this moment, from memory.
    #[must_use]
    pub fn revocations(&self) -> Arc<Revocations> {
        self.revocations.load()
    }

    /// Changes token keys; what signs and what is published follows before anybody else sees the database.
    ///
    /// # Errors
    /// The change's own.
    pub fn change_keys<T, E: From<StoreError>>(&self, change: impl FnOnce(&mut Store) -> Result<T, E>) -> Result<T, E> {
        let mut store = self.store();
        let done = change(&mut store)?;
        self.judge.keys().replace(store.token_keys()?);
        Ok(done)
    }

    /// Certificates and revocation lists, in memory.
    pub const fn collateral(&self) -> &Library {
        self.judge.library()
    }

    /// Counts one decision about evidence whose signature holds against whoever answers for it. Call it before anything is
    /// recorded: what is over the bound leaves no trace in the audit log.
    ///
    /// # Errors
    /// 429, counted and not logged.
    pub fn take_decision(&self, holder: Holder) -> Result<(), Problem> {
        if self.holders.allow(holder, Instant::now()) {
            return Ok(());
        }
        Err(Problem::refuse_quietly(Reason::SiteRate, &format!("{holder} causes more decisions than its bound")))
    }

    /// What was refused since the start, for the log.
    pub fn log_counters(&self) {
        self.counters.log();
    }
}

/// How many requests work at a time: two for each core, since one in two waits for the database.
fn turns() -> usize {
    std::thread::available_parallelism().map_or(2, std::num::NonZero::get) * 2
}

/// Runs database and cryptography off the threads that move bytes, when it is the request's turn, and lets nobody hear of the
/// result before what it recorded is on the disk.
async fn blocking<T: Send + 'static>(
    service: &Arc<Service>,
    work: impl FnOnce(&Service) -> Result<T, Problem> + Send + 'static,
) -> Result<T, Problem> {
    let turn = service.queue.enter(guard::source()).await.map_err(|e| Problem::refuse_quietly(Reason::Busy, &e))?;
    let shared = Arc::clone(service);
    let done = tokio::task::spawn_blocking(move || {
        // Here, so that work that outlives its request still counts.
        let _turn = turn;
        SharedStore::run(|| work(&shared))
    });
    let done = done.await;
    let (result, ticket) = done.map_err(|e| Problem::internal(&e))?;
    service.store.durable(ticket).await.map_err(|e| Problem::internal(&e))?;
    result
}

/// What listens: every route, and what every request passes.
pub fn router(service: Arc<Service>) -> Router {
    routes()
        .fallback(no_such_path)
        .method_not_allowed_fallback(no_such_method)
        .layer(middleware::from_fn_with_state(Arc::clone(&service), guard::guard))
        .with_state(service)
}

/// Every route there is; `openapi.json` describes them.
fn routes() -> Router<Arc<Service>> {
    Router::new()
        .route("/kbs/v0/auth", post(auth::auth))
        .route("/kbs/v0/attest", post(attest::attest))
        .route("/kbs/v0/resource/{project}/{site}/{tag}", get(resource::resource).post(stock::set_resource).delete(stock::delete_resource))
        .route("/.well-known/jwks.json", get(jwks::jwks))
        .route("/healthz", get(health::health))
        .route("/coffer/v1/sites", get(sites::list).post(sites::enroll))
        .route("/coffer/v1/sites/{project}/{site}", get(sites::show))
        .route("/coffer/v1/sites/{project}/{site}/revoke", post(sites::revoke))
        .route("/coffer/v1/sites/{project}/{site}/suspend", post(suspension::suspend))
        .route("/coffer/v1/sites/{project}/{site}/resume", post(suspension::resume))
        .route("/coffer/v1/withdrawals", get(withdrawals::withdrawals))
        .route("/coffer/v1/refusals/{id}", get(explain::explain))
        .route("/coffer/v1/collateral", get(collateral::status).post(collateral::import))
        .route("/coffer/v1/collateral/fetch", post(collateral::fetch))
        .route("/coffer/v1/revocation-list", get(revocation::public))
        .route("/coffer/v1/revocations", get(revocation::list).post(revocation::revoke))
        .route("/coffer/v1/revocations/export", get(revocation::export))
        .route("/coffer/v1/admins", get(admins::list).post(admins::add))
        .route("/coffer/v1/admins/{name}/revoke", post(admins::revoke))
        .route("/coffer/v1/keys", get(keys::list))
        .route("/coffer/v1/keys/rotate", post(keys::rotate))
        .route("/coffer/v1/keys/{kid}/retire", post(keys::retire))
        .route("/coffer/v1/audit", get(audit::export))
        .route("/coffer/v1/audit/head", get(audit::head))
        .route("/coffer/v1/status", get(status::status))
        .route("/coffer/v1/openapi.json", get(openapi::openapi))
        .merge(policy::routes())
        .merge(stock::routes())
}

async fn no_such_path() -> Problem {
    Problem::refuse(Reason::NoSuchPath, &"no such path")
}

async fn no_such_method() -> Problem {
    Problem::refuse(Reason::NoSuchMethod, &"no such method on this path")
}
