//! What every request passes: the bound on its source address, a time limit, the counting of refusals.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use axum::extract::{ConnectInfo, Request, State};
use axum::http::StatusCode;
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use coffer_protocol::ErrorKind;

use super::Service;
use super::problem::{Code, Problem};

/// From the end of the head to the answer: a slow upload of evidence, then a few milliseconds of work.
const REQUEST_TIMEOUT: Duration = Duration::from_secs(30);

/// Refusals by code. Bounded: codes are words of this program.
#[derive(Debug, Default)]
pub struct Counters(Mutex<BTreeMap<String, u64>>);

impl Counters {
    fn count(&self, code: &str) {
        let mut counts = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        *counts.entry(code.to_owned()).or_default() += 1;
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
            Err(_) => Problem::new(StatusCode::SERVICE_UNAVAILABLE, ErrorKind::PluginInternalError, "timeout", &peer).into_response(),
        }
    } else {
        Problem::unlogged(StatusCode::TOO_MANY_REQUESTS, ErrorKind::PluginInternalError, "rate_limited").into_response()
    };
    if let Some(Code(code)) = response.extensions().get() {
        service.counters.count(code);
    }
    response
}
