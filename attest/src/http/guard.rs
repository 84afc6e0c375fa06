//! What every request passes: the bound on its source address, a time limit, the counting of refusals.

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use axum::extract::{ConnectInfo, Request, State};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};

use super::Service;
use super::problem::{PROBLEM_JSON, Problem, Told};
use super::unrecorded::Unrecorded;
use crate::clock::unix_now;
use crate::reason::Reason;

/// From the end of the head to the answer: a slow upload of evidence, then a few milliseconds of work.
const REQUEST_TIMEOUT: Duration = Duration::from_secs(30);

/// The longest path and query. Ours end at some 300 bytes.
const MAX_URI_BYTES: usize = 2 * 1024;

tokio::task_local! {
    /// Where the request came from that this task serves.
    static SOURCE: IpAddr;
}

/// Where the current request came from. Work that serves no request is a source of its own.
pub(super) fn source() -> IpAddr {
    SOURCE.try_with(|source| *source).unwrap_or(IpAddr::V4(Ipv4Addr::UNSPECIFIED))
}

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
    let response = if !service.bound.allow(peer.ip(), Instant::now()) {
        Problem::refuse_quietly(Reason::RateLimited, &"more requests than its bound").into_response()
    } else if request.uri().path_and_query().is_some_and(|target| target.as_str().len() > MAX_URI_BYTES) {
        Problem::refuse_quietly(Reason::UriTooLong, &format!("more than {MAX_URI_BYTES} bytes")).into_response()
    } else {
        let answer = SOURCE.scope(peer.ip(), next.run(request));
        match tokio::time::timeout(REQUEST_TIMEOUT, answer).await {
            Ok(response) => response,
            Err(_) => Problem::refuse(Reason::Timeout, &peer).into_response(),
        }
    };
    if let Some(told) = response.extensions().get::<Told>() {
        service.note(told, peer);
    }
    response
}

impl Service {
    /// Counts a refusal and keeps it for `explain`, unless the audit log has it.
    fn note(&self, told: &Told, peer: SocketAddr) {
        self.counters.count(told.reason);
        if !told.recorded {
            self.refusals.keep(Unrecorded { told: told.clone(), at: unix_now(), source: peer.ip() });
        }
    }

    /// The whole answer, head and body, to what never became a request; the connection ends with it.
    #[must_use]
    pub fn refuse_unheard(&self, reason: Reason, peer: SocketAddr) -> Vec<u8> {
        let problem = Problem::refuse_quietly(reason, &"before there was a request");
        self.note(problem.told(), peer);
        let body = problem.body();
        let head = format!(
            "HTTP/1.1 {}\r\ncontent-type: {PROBLEM_JSON}\r\ncache-control: no-store\r\nconnection: close\r\ncontent-length: {}\r\n\r\n",
            problem.status(),
            body.len()
        );
        [head.as_bytes(), &body].concat()
    }
}
