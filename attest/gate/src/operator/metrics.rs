//! `/metrics`: Prometheus text (exposition format 0.0.4), on loopback only.

use std::convert::Infallible;
use std::fmt::Write as _;
use std::sync::Arc;
use std::time::Duration;

use http_body_util::Full;
use hyper::body::{Bytes, Incoming};
use hyper::header::CONTENT_TYPE;
use hyper::server::conn::http1;
use hyper::{Method, Request, Response, StatusCode};
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::net::TcpListener;
use tokio::sync::Semaphore;

use crate::gate::Gate;
use crate::operator::status::{SiteStatus, Status};

/// A collector that needs longer for a request's head is none.
const HEAD_TIMEOUT: Duration = Duration::from_secs(5);
/// Connections at a time: whoever is on this machine may connect, and shall not use up the gate's file descriptors.
const COLLECTORS: usize = 16;

/// Answers for as long as the gate runs.
pub async fn serve(gate: Arc<Gate>, listener: TcpListener) {
    let places = Arc::new(Semaphore::new(COLLECTORS));
    loop {
        // The semaphore is never closed.
        let Ok(place) = Arc::clone(&places).acquire_owned().await else { return };
        let Ok((stream, _)) = listener.accept().await else {
            tokio::time::sleep(Duration::from_millis(100)).await;
            continue;
        };
        let gate = Arc::clone(&gate);
        tokio::spawn(async move {
            let respond = hyper::service::service_fn(move |request: Request<Incoming>| {
                let response = respond(&gate, &request);
                async move { Ok::<_, Infallible>(response) }
            });
            let serving = http1::Builder::new()
                .timer(TokioTimer::new())
                .header_read_timeout(HEAD_TIMEOUT)
                .serve_connection(TokioIo::new(stream), respond);
            // Whatever ends it is the collector's affair.
            let _ = serving.await;
            drop(place);
        });
    }
}

fn respond(gate: &Gate, request: &Request<Incoming>) -> Response<Full<Bytes>> {
    let found = request.method() == Method::GET && request.uri().path() == "/metrics";
    let body = if found { text(&Status::of(gate)) } else { String::new() };
    let mut response = Response::new(Full::from(body));
    if found {
        response.headers_mut().insert(CONTENT_TYPE, hyper::header::HeaderValue::from_static("text/plain; version=0.0.4"));
    } else {
        *response.status_mut() = StatusCode::NOT_FOUND;
    }
    response
}

/// One number for each site.
type OfSite = fn(&SiteStatus) -> u64;

/// Name, type, help, value.
const PER_SITE: [(&str, &str, &str, OfSite); 5] = [
    ("coffer_gate_connections", "gauge", "Open connections of a site", |site| site.connections as u64),
    ("coffer_gate_bytes_up_total", "counter", "Bytes from a site to the SuperLink", |site| site.bytes_up),
    ("coffer_gate_bytes_down_total", "counter", "Bytes from the SuperLink to a site", |site| site.bytes_down),
    ("coffer_gate_cuts_total", "counter", "Tunnels of a site that were cut", |site| site.cuts),
    ("coffer_gate_admitted_total", "counter", "How often a site was admitted or renewed", |site| site.admitted),
];

fn text(status: &Status) -> String {
    let mut text = String::new();
    // Writing to a String does not fail.
    let _ = write(&mut text, status);
    text
}

fn write(text: &mut String, status: &Status) -> std::fmt::Result {
    let mut one =
        |name: &str, kind: &str, help: &str, value: i64| writeln!(text, "# HELP {name} {help}\n# TYPE {name} {kind}\n{name} {value}");
    let number = |value: u64| i64::try_from(value).unwrap_or(i64::MAX);
    one("coffer_gate_up_seconds", "gauge", "How long the gate runs", number(status.up_seconds))?;
    one("coffer_gate_service_reached", "gauge", "Whether the key service was heard within 15 seconds", i64::from(status.service.reached))?;
    one("coffer_gate_leases", "gauge", "Sites that stand", number(status.leases.len() as u64))?;
    one("coffer_gate_unheard_total", "counter", "Connections that ended before their first word", number(status.unheard))?;
    one("coffer_gate_turned_away_total", "counter", "Connections closed at once because there were too many", number(status.turned_away))?;
    if let Some(ahead) = status.service.clock_ahead_seconds {
        one("coffer_gate_clock_ahead_seconds", "gauge", "This machine's clock against the service's", ahead)?;
    }
    let sites: Vec<&SiteStatus> = status.leases.iter().map(|lease| &lease.counted).chain(&status.gone).collect();
    for (name, kind, help, value) in PER_SITE {
        writeln!(text, "# HELP {name} {help}\n# TYPE {name} {kind}")?;
        for site in &sites {
            writeln!(text, "{name}{{site=\"{}\"}} {}", site.site, value(site))?;
        }
    }
    writeln!(text, "# HELP coffer_gate_lease_age_seconds Since when a site stands\n# TYPE coffer_gate_lease_age_seconds gauge")?;
    for lease in &status.leases {
        writeln!(text, "coffer_gate_lease_age_seconds{{site=\"{}\"}} {}", lease.counted.site, lease.age_seconds)?;
    }
    writeln!(text, "# HELP coffer_gate_lease_remaining_seconds Until a lease ends\n# TYPE coffer_gate_lease_remaining_seconds gauge")?;
    for lease in &status.leases {
        writeln!(text, "coffer_gate_lease_remaining_seconds{{site=\"{}\"}} {}", lease.counted.site, lease.remaining_seconds)?;
    }
    writeln!(text, "# HELP coffer_gate_last_verdict What a site was told last: `admitted`, or a refusal's code; 1")?;
    writeln!(text, "# TYPE coffer_gate_last_verdict gauge")?;
    for (site, code) in sites.iter().filter_map(|site| Some((&site.site, site.last.as_ref()?))) {
        writeln!(text, "coffer_gate_last_verdict{{site=\"{site}\",code=\"{code}\"}} 1")?;
    }
    writeln!(text, "# HELP coffer_gate_refused_total Refusals by code; site is empty where the token did not hold")?;
    writeln!(text, "# TYPE coffer_gate_refused_total counter")?;
    let of_sites = sites.iter().flat_map(|site| site.refused.iter().map(|(code, count)| (site.site.as_str(), code, count)));
    for (site, code, count) in of_sites.chain(status.strangers.iter().map(|(code, count)| ("", code, count))) {
        writeln!(text, "coffer_gate_refused_total{{site=\"{site}\",code=\"{code}\"}} {count}")?;
    }
    Ok(())
}
