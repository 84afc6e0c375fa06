//! What `status` and `/metrics` show: one snapshot, three forms.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::sync::atomic::Ordering;
use std::time::Instant;

use serde::{Deserialize, Serialize};

use crate::admission::sites::Site;
use crate::gate::Gate;
use crate::leases::View;
use crate::reason::Reason;
use crate::service::clock::Now;

/// A gate at one moment. Durations are whole seconds.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Status {
    /// Name in the gate's certificate.
    pub name: String,
    /// The one project.
    pub project: String,
    /// The one root of trust.
    pub root_of_trust: String,
    /// `passthrough` or `terminate`.
    pub mode: String,
    /// How long it runs.
    pub up_seconds: u64,
    /// How long after its newest token was issued a lease ends.
    pub check_frequency_seconds: u64,
    /// Whether it has a token of its own to show; absent where it does not run in a confidential VM.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub attested: Option<bool>,
    /// The key service.
    pub service: ServiceStatus,
    /// Sites that stand.
    pub leases: Vec<Lease>,
    /// Sites that showed a good token since the start and do not stand.
    pub gone: Vec<SiteStatus>,
    /// Sites that the operator keeps out.
    pub cuts: Vec<Cut>,
    /// Refusals whose token did not hold, by code.
    pub strangers: BTreeMap<String, u64>,
    /// Connections that ended before their first word.
    pub unheard: u64,
    /// Connections closed at once because there were too many.
    pub turned_away: u64,
    /// Open connections.
    pub connections: u64,
}

/// How the key service is reached.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct ServiceStatus {
    /// Whether it was heard within the last 15 seconds.
    pub reached: bool,
    /// Where it was heard last.
    pub url: Option<String>,
    /// How long ago.
    pub heard_seconds_ago: Option<u64>,
    /// What the last attempt failed with, if it did.
    pub error: Option<String>,
    /// The epoch of its list of withdrawals.
    pub epoch: u64,
    /// The newest number read of it.
    pub number: u64,
    /// How many lists were read.
    pub lists: u64,
    /// By how much this machine's clock is ahead of the service's, which counts; absent as long as that was never heard.
    pub clock_ahead_seconds: Option<i64>,
}

/// What is counted for a site.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct SiteStatus {
    /// Its name.
    pub site: String,
    /// Open connections.
    pub connections: u32,
    /// Bytes from the site to the SuperLink.
    pub bytes_up: u64,
    /// Bytes from the SuperLink to the site.
    pub bytes_down: u64,
    /// Tunnels that were cut.
    pub cuts: u64,
    /// How often it was admitted or renewed.
    pub admitted: u64,
    /// How often it was refused, by code.
    pub refused: BTreeMap<String, u64>,
    /// What it was told last: `admitted`, or a refusal's code.
    pub last: Option<String>,
    /// How long ago.
    pub last_seconds_ago: Option<u64>,
}

/// A site that stands.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Lease {
    /// What is counted for it.
    #[serde(flatten)]
    pub counted: SiteStatus,
    /// Since when it stands.
    pub age_seconds: u64,
    /// For how long, unless a newer token comes.
    pub remaining_seconds: u64,
    /// How long ago its newest token was issued.
    pub token_age_seconds: u64,
    /// The report's REPORT_ID.
    pub instance: String,
    /// SHA-256 of the site config.
    pub host_data: String,
    /// Thumbprint of the boot's key.
    pub key: String,
    /// Thumbprint of the workload's node key, where it has shown one.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub node: Option<String>,
}

/// A site that the operator keeps out.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Cut {
    /// Its name.
    pub site: String,
    /// For how long.
    pub remaining_seconds: u64,
}

fn by_code(counts: BTreeMap<Reason, u64>) -> BTreeMap<String, u64> {
    counts.into_iter().map(|(reason, count)| (reason.code().to_owned(), count)).collect()
}

impl SiteStatus {
    fn of(site: &Site, now: Instant) -> Self {
        let last = site.last();
        Self {
            site: site.name.clone(),
            connections: site.connections(),
            bytes_up: site.bytes_up.load(Ordering::Relaxed),
            bytes_down: site.bytes_down.load(Ordering::Relaxed),
            cuts: site.cuts.load(Ordering::Relaxed),
            admitted: site.admitted.load(Ordering::Relaxed),
            refused: by_code(site.refused()),
            last: last.map(|last| last.refused.map_or("admitted", Reason::code).to_owned()),
            last_seconds_ago: last.map(|last| now.saturating_duration_since(last.at).as_secs()),
        }
    }
}

impl Lease {
    fn of(view: &View, site: &Site, now: Now) -> Self {
        let leased = &view.leased;
        Self {
            counted: SiteStatus::of(site, now.at),
            age_seconds: now.at.saturating_duration_since(leased.since).as_secs(),
            remaining_seconds: view.until.saturating_duration_since(now.at).as_secs(),
            token_age_seconds: now.unix.0.saturating_sub(view.issued_at),
            instance: leased.instance.to_string(),
            host_data: leased.host_data.to_string(),
            key: leased.jkt.to_string(),
            node: leased.node.as_ref().and_then(|node| node.thumbprint().ok()).map(|jkt| jkt.to_string()),
        }
    }
}

impl Status {
    /// As it is now.
    #[must_use]
    pub fn of(gate: &Gate) -> Self {
        let admission = &gate.admission;
        let (now, sites) = (admission.clock.now(), &admission.sites);
        let health = gate.feed.health();
        let views = admission.leases.views();
        let stands = |site: &Site| views.iter().any(|view| view.leased.site == site.name);
        Self {
            name: gate.config.name.clone(),
            project: gate.config.service.project.clone(),
            root_of_trust: gate.config.service.root_of_trust.clone(),
            mode: gate.config.flower.mode.to_string(),
            up_seconds: gate.since.elapsed().as_secs(),
            check_frequency_seconds: gate.config.check_frequency.as_secs(),
            attested: gate.attested.as_ref().map(|attested| attested.token().is_some()),
            service: ServiceStatus {
                reached: health.reached(now.at),
                heard_seconds_ago: health.heard.map(|heard| now.at.saturating_duration_since(heard).as_secs()),
                url: health.url,
                error: health.error,
                epoch: health.epoch,
                number: health.number,
                lists: gate.feed.lists(),
                clock_ahead_seconds: admission.clock.ahead_seconds(),
            },
            leases: views.iter().map(|view| Lease::of(view, &sites.of(&view.leased.site), now)).collect(),
            gone: sites.all().iter().filter(|site| !stands(site)).map(|site| SiteStatus::of(site, now.at)).collect(),
            cuts: admission
                .leases
                .cuts(now)
                .into_iter()
                .map(|(site, until)| Cut { site, remaining_seconds: until.saturating_sub(now.unix.0) })
                .collect(),
            strangers: by_code(sites.strangers()),
            unheard: sites.unheard.load(Ordering::Relaxed),
            turned_away: sites.turned_away.load(Ordering::Relaxed),
            connections: u64::from(gate.config.limits.connections) - gate.slots.available_permits() as u64,
        }
    }

    /// For people.
    #[must_use]
    pub fn text(&self) -> String {
        let mut text = String::new();
        // Writing to a String does not fail.
        let _ = self.write_head(&mut text);
        let _ = self.write_sites(&mut text);
        text
    }

    fn write_head(&self, text: &mut String) -> std::fmt::Result {
        let service = &self.service;
        writeln!(text, "gate         {} (project {}, {}, up {})", self.name, self.project, self.mode, shown(self.up_seconds))?;
        writeln!(text, "root         {}", self.root_of_trust)?;
        if let Some(attested) = self.attested {
            writeln!(text, "attested     {}", if attested { "yes" } else { "no token of its own; see the log" })?;
        }
        let heard = service.heard_seconds_ago.map_or_else(|| "never heard".to_owned(), |ago| format!("heard {} ago", shown(ago)));
        let reached = if service.reached { "reached" } else { "NOT REACHED; leases go on to their end" };
        writeln!(text, "key service  {reached}, {heard}, list {} of epoch {}", service.number, service.epoch)?;
        if let Some(error) = service.error.as_ref().filter(|_| !service.reached) {
            writeln!(text, "             {error}")?;
        }
        match service.clock_ahead_seconds {
            None => writeln!(text, "clock        this machine's, until the service is heard")?,
            Some(ahead) if ahead.abs() <= 1 => writeln!(text, "clock        the service's; this machine's agrees")?,
            Some(ahead) => {
                let way = if ahead < 0 { "behind" } else { "ahead" };
                writeln!(text, "clock        the service's; this machine's is {} s {way}", ahead.unsigned_abs())?;
            }
        }
        writeln!(text, "connections  {}; {} never said a word, {} were too many", self.connections, self.unheard, self.turned_away)?;
        for (code, count) in &self.strangers {
            writeln!(text, "refused      {count} × {code} (token did not hold)")?;
        }
        Ok(())
    }

    fn write_sites(&self, text: &mut String) -> std::fmt::Result {
        for lease in &self.leases {
            let SiteStatus { site, connections, bytes_up, bytes_down, cuts, .. } = &lease.counted;
            let (age, left) = (shown(lease.age_seconds), shown(lease.remaining_seconds));
            writeln!(
                text,
                "leased       {site}: since {age}, {left} left, {connections} connections, {bytes_up} B up, {bytes_down} B down, {cuts} cuts"
            )?;
            writeln!(text, "             key {}, instance {}", lease.key, lease.instance)?;
            lease.counted.write_refusals(text)?;
        }
        for site in &self.gone {
            writeln!(text, "not leased   {}: {} cuts", site.site, site.cuts)?;
            site.write_refusals(text)?;
        }
        for cut in &self.cuts {
            writeln!(text, "kept out     {} for {} (coffer-gate cut {} --lift --dir …)", cut.site, shown(cut.remaining_seconds), cut.site)?;
        }
        Ok(())
    }
}

impl SiteStatus {
    fn write_refusals(&self, text: &mut String) -> std::fmt::Result {
        if let (Some(last), Some(ago)) = (&self.last, self.last_seconds_ago) {
            writeln!(text, "             last: {last}, {} ago", shown(ago))?;
        }
        for (code, count) in &self.refused {
            writeln!(text, "             refused {count} × {code}")?;
        }
        Ok(())
    }
}

fn shown(seconds: u64) -> String {
    match seconds {
        0..120 => format!("{seconds} s"),
        120..7200 => format!("{} min", seconds / 60),
        _ => format!("{} h", seconds / 3600),
    }
}
