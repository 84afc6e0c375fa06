//! What both kinds of connection to the gate begin with: the gate's name and, where the site asks for it, its token; then this boot's
//! newest token for the gate. Nothing of the workload is sent before.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use coffer_manifest::{Gate, SiteConfig};
use coffer_token::Version1;
use coffer_token::lease::{Answer, Greeting, Hello, NodeKey, Open, to_frame};

use super::aggregator::{Aggregator, AggregatorError};
use super::session::{Patience, Session, SessionError};
use crate::network;
use crate::standing::{Standing, Token};
use crate::tls::Trust;

/// The longest a lease is believed to last without a newer token. No gate gives a longer one.
const LONGEST_LEASE: Duration = Duration::from_secs(3600);

/// Why a connection is of no use.
#[derive(Debug, thiserror::Error)]
pub enum NotAdmitted {
    /// The service has refused this guest: there is nothing to show.
    #[error("no token")]
    NoToken,
    /// No connection, or no answer.
    #[error(transparent)]
    Unreached(#[from] SessionError),
    /// The gate's last word has run out.
    #[error("no newer token was admitted in time")]
    Over,
    /// The gate said no.
    #[error("refused: {} ({})", .0.code, .0.id)]
    Refused(Refusal),
    /// The gate is not the attested aggregator that this site asks for.
    #[error(transparent)]
    Unattested(#[from] AggregatorError),
}

impl From<io::Error> for NotAdmitted {
    fn from(error: io::Error) -> Self {
        Self::Unreached(error.into())
    }
}

/// The gate's no.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Refusal {
    /// Reason code.
    pub code: String,
    /// One line for people.
    pub detail: String,
    /// Id in the gate's log.
    pub id: String,
    /// When it makes sense to try again, as the gate says it.
    pub retry_after_seconds: u64,
}

/// Everything that does not change during a boot.
pub struct Contact {
    /// The site config.
    pub site: Arc<SiteConfig>,
    /// Its gate.
    pub gate: Gate,
    /// Whom to trust as that.
    pub trust: Trust,
    /// The workload's node key.
    pub node: NodeKey,
    /// How the gate's own token is checked, where the site asks for one.
    pub aggregator: Option<Aggregator>,
    /// This boot's standing.
    pub standing: Arc<Standing>,
}

impl Contact {
    /// The gate's addresses, in order. A name is looked up each time.
    pub fn addresses(&self) -> Result<Vec<SocketAddr>, SessionError> {
        let mut found = Vec::new();
        let mut failed = None;
        for text in &self.gate.addresses {
            let resolved = host_and_port(text).map(|(host, port)| network::resolve(&self.site, host, port));
            match resolved {
                Some(Ok(addresses)) => found.extend(addresses),
                Some(Err(error)) => failed = Some(error),
                None => {}
            }
        }
        match failed {
            Some(error) if found.is_empty() => Err(error.into()),
            _ => Ok(found),
        }
    }

    /// Opens a connection with the newest token; what it is good for, and for how long.
    pub fn open(&self, address: SocketAddr, open: Open, patience: Patience<'_>) -> Result<(Session, Arc<Token>, Duration), NotAdmitted> {
        let token = self.standing.now().token.ok_or(NotAdmitted::NoToken)?;
        let mut session = Session::open(&self.trust, address, patience)?;
        if let Some(aggregator) = &self.aggregator {
            let Greeting { gate_token, .. } = session.greeting(patience)?;
            aggregator.check(gate_token.as_deref(), session.gate_key(), &token)?;
        }
        let node = (open == Open::Lease).then(|| self.node.clone());
        let hello = Hello { v: Version1, open, token: token.text.clone(), node };
        session.send(&to_frame(&hello).map_err(SessionError::from)?, patience)?;
        let answer = session.answer(patience)?;
        let lease = self.admission(&session, answer, &token)?;
        Ok((session, token, lease))
    }

    /// For how long an answer admits; checks whose it is where the site asks for it.
    pub fn admission(&self, session: &Session, answer: Answer, own: &Token) -> Result<Duration, NotAdmitted> {
        match answer {
            Answer::Refused { code, detail, id, retry_after_seconds } => {
                Err(NotAdmitted::Refused(Refusal { code: word(&code), detail, id: word(&id), retry_after_seconds }))
            }
            Answer::Admitted { lease_seconds, gate_token } => {
                if let Some(aggregator) = &self.aggregator {
                    aggregator.check(gate_token.as_deref(), session.gate_key(), own)?;
                }
                Ok(Duration::from_secs(lease_seconds).min(LONGEST_LEASE))
            }
        }
    }
}

/// What can be a code or an id, and nothing that would read as another part of a line.
fn word(text: &str) -> String {
    text.chars().filter(|c| c.is_ascii_alphanumeric() || "_-.:".contains(*c)).take(64).collect()
}

/// The parts of `host:port`; an IPv6 address stands in brackets.
pub fn host_and_port(text: &str) -> Option<(&str, u16)> {
    let (host, port) = text.rsplit_once(':')?;
    let bare = host.strip_prefix('[').and_then(|host| host.strip_suffix(']'));
    let clean = match bare {
        Some(address) => address.parse::<std::net::Ipv6Addr>().is_ok(),
        None => !host.is_empty() && host.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"-._".contains(&byte)),
    };
    let port = port.parse().ok().filter(|port| *port != 0)?;
    clean.then_some((host, port))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_are_host_and_port_and_codes_are_words() {
        assert_eq!(host_and_port("10.0.2.2:9443"), Some(("10.0.2.2", 9443)));
        assert_eq!(host_and_port("gate.demo.test:1"), Some(("gate.demo.test", 1)));
        assert_eq!(host_and_port("[fd00::1]:9443"), Some(("[fd00::1]", 9443)));
        assert_eq!(word("site_cut"), "site_cut");
        assert_eq!(word("x id=1 \"\n\u{1b}[2J"), "xid12J");
        assert_eq!(word(&"y".repeat(1000)).len(), 64);
        for bad in ["", "a", "a:", ":1", "a:0", "a:65536", "fd00::1:9443", "[x]:1", "https://a:1", "a b:1", "a\n:1"] {
            assert_eq!(host_and_port(bad), None, "{bad}");
        }
    }
}
