//! The HTTP surface: one route, one function, one typed body. `healthz`, `jwks.json` and the handshake are open to everybody.

mod admin;
mod attest;
mod auth;
mod explain;
mod extract;
mod guard;
mod health;
mod jwks;
pub mod problem;
mod rate;
mod resource;
mod unrecorded;

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Instant;

use axum::routing::{get, post};
use axum::{Router, middleware};

use crate::config::Config;
use crate::judge::Judge;
use crate::reason::Reason;
use crate::session::CookieKey;
use crate::store::Store;
use guard::Counters;
use problem::Problem;
use unrecorded::Refusals;
pub use rate::{Held, SourceBound, SourceShare};

/// Everything a request may need. Nothing in it is per session.
#[derive(Debug)]
pub struct Service {
    store: Mutex<Store>,
    cookies: CookieKey,
    epoch: u64,
    judge: Judge,
    tls_name: String,
    bound: SourceBound,
    counters: Counters,
    refusals: Refusals,
}

impl Service {
    /// A service in a new epoch.
    #[must_use]
    pub fn new(store: Store, cookies: CookieKey, epoch: u64, judge: Judge, config: &Config) -> Self {
        let limits = config.limits;
        let bound = SourceBound::new(limits.requests_per_second_per_source, limits.burst_per_source, Instant::now());
        let tls_name = config.tls_name.clone();
        Self { store: Mutex::new(store), cookies, epoch, judge, tls_name, bound, counters: Counters::default(), refusals: Refusals::default() }
    }

    /// The database, for one short operation.
    pub fn store(&self) -> MutexGuard<'_, Store> {
        // Each operation is one statement or one transaction: after a panic SQLite has rolled back.
        self.store.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// What was refused since the start, for the log.
    pub fn log_counters(&self) {
        self.counters.log();
    }
}

/// Runs database and cryptography off the threads that move bytes.
async fn blocking<T: Send + 'static>(
    service: &Arc<Service>,
    work: impl FnOnce(&Service) -> Result<T, Problem> + Send + 'static,
) -> Result<T, Problem> {
    let service = Arc::clone(service);
    match tokio::task::spawn_blocking(move || work(&service)).await {
        Ok(result) => result,
        Err(error) => Err(Problem::internal(&error)),
    }
}

/// Every route there is.
pub fn router(service: Arc<Service>) -> Router {
    Router::new()
        .route("/kbs/v0/auth", post(auth::auth))
        .route("/kbs/v0/attest", post(attest::attest))
        .route("/kbs/v0/resource/{project}/{site}/{tag}", get(resource::resource))
        .route("/.well-known/jwks.json", get(jwks::jwks))
        .route("/healthz", get(health::health))
        .route("/coffer/v1/sites", get(admin::list).post(admin::enroll))
        .route("/coffer/v1/sites/{project}/{site}", get(admin::show))
        .route("/coffer/v1/sites/{project}/{site}/revoke", post(admin::revoke))
        .route("/coffer/v1/refusals/{id}", get(explain::explain))
        .fallback(no_such_path)
        .method_not_allowed_fallback(no_such_method)
        .layer(middleware::from_fn_with_state(Arc::clone(&service), guard::guard))
        .with_state(service)
}

async fn no_such_path() -> Problem {
    Problem::refuse(Reason::NoSuchPath, &"no such path")
}

async fn no_such_method() -> Problem {
    Problem::refuse(Reason::NoSuchMethod, &"no such method on this path")
}
