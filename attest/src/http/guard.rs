//! What every request passes: the bound on its source address, a time limit, the counting of refusals.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use axum::extract::{ConnectInfo, Request, State};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};

use super::Service;
use super::problem::{Problem, Told};
use super::unrecorded::Unrecorded;
use crate::clock::unix_now;
use crate::reason::Reason;

/// From the end of the head to the answer: a slow upload of evidence, then a few milliseconds of work.
const REQUEST_TIMEOUT: Duration = Duration::from_secs(30);

/// Refusals by code.
#[derive(Debug, Default)]
pub struct Counters(Mutex<BTreeMap<&'static str, u64>>);

impl Counters {
    fn count(&self, reason: Reason) {
        let mut counts = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        *counts.entry(reason.code()).or_default() += 1;
    }

    /// A copy, for an admin.
    #[must_use]
    pub fn snapshot(&self) -> BTreeMap<String, u64> {
        let counts = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        counts.iter().map(|(code, count)| ((*code).to_owned(), *count)).collect()
    }

    /// Writes them to the log.
    pub fn log(&self) {
        for (code, count) in &*self.0.lock().unwrap_or_else(PoisonError::into_inner) {
            tracing::info!(code, count, "refusals since start");
        }
    }
}

/// Wraps every route.
pub async fn guard(
    State(service): State<Arc<Service>>,
    ConnectInfo(peer): ConnectInfo<SocketAddr>,
    request: Request,
    next: Next,
) -> Response {
    let response = if service.bound.allow(peer.ip(), Instant::now()) {
        match tokio::time::timeout(REQUEST_TIMEOUT, next.run(request)).await {
            Ok(response) => response,
            Err(_) => Problem::refuse(Reason::Timeout, &peer).into_response(),
        }
    } else {
        Problem::refuse_quietly(Reason::RateLimited, &"more requests than its bound").into_response()
    };
    if let Some(told) = response.extensions().get::<Told>() {
        service.counters.count(told.reason);
        if !told.recorded {
            service.refusals.keep(Unrecorded { told: told.clone(), at: unix_now(), source: peer.ip() });
        }
    }
    response
}
