//! Every code a guest can be told, in one flat table: what it means, when to try again, who can do what about it.
//!
//! A refusal is made from a [`Reason`] only, so a code without an entry cannot be sent. A table in `attest/README.md` is compared
//! with this one by a test.

use std::fmt;

macro_rules! reasons {
    ($($name:ident $code:literal $retry:literal, $meaning:literal, $remedy:literal;)*) => {
        /// Why a guest is refused, or its lease ended.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
        pub enum Reason {
            $(#[doc = $meaning] $name,)*
        }

        impl Reason {
            /// Every reason there is, in the order of a connection's life.
            pub const ALL: &'static [Self] = &[$(Self::$name),*];

            /// What the guest is told: `snake_case`, stable.
            #[must_use]
            pub const fn code(self) -> &'static str {
                match self { $(Self::$name => $code,)* }
            }

            /// In how many seconds trying again makes sense.
            #[must_use]
            pub const fn retry_after_seconds(self) -> u64 {
                match self { $(Self::$name => $retry,)* }
            }

            /// What happened, in one line without a full stop.
            #[must_use]
            pub const fn meaning(self) -> &'static str {
                match self { $(Self::$name => $meaning,)* }
            }

            /// Who can do what about it: `site: …`, `operator: …`.
            #[must_use]
            pub const fn remedy(self) -> &'static str {
                match self { $(Self::$name => $remedy,)* }
            }
        }
    };
}

reasons! {
    Malformed "malformed" 60,
        "what came is no message of this protocol",
        "site: do guest and gate come from builds that fit together?";
    NoKeys "no_keys" 5,
        "the gate has never reached the key service, and knows no key that signs tokens",
        "operator: `coffer-gate status` says why the service is not reached";
    TokenMalformed "token_malformed" 60,
        "the token is no job token of this version",
        "site: a token for stock clients, or of another build, opens no gate";
    TokenKey "token_key" 5,
        "the token is signed by a key that the service does not publish",
        "site: renew; operator: a key that leaked was taken out, or [service] names another service";
    TokenSignature "token_signature" 60,
        "the token's signature does not hold",
        "operator: somebody changed a token, or made one";
    TokenIssuer "token_issuer" 60,
        "the token is of another service",
        "operator: compare `issuer` in [service] with the service's settings";
    TokenAudience "token_audience" 60,
        "the token is for another audience",
        "operator: compare `audience` in [service] with the service's settings";
    TokenFuture "token_future" 10,
        "the token is from the future",
        "operator: `coffer-gate status` shows how far this clock is from the service's";
    TokenExpired "token_expired" 5,
        "the token has expired",
        "site: the guest renews by itself; is its key service reached?";
    RootOfTrust "root_of_trust" 60,
        "what signed the evidence is not the root of trust that this gate was set up for",
        "operator: simulated sites need a gate, and a service, of their own";
    Project "project" 60,
        "the site is of another project",
        "operator: one project, one gate: compare `project` in [service]";
    Role "role" 60,
        "the token is for another role; sites come as `client`",
        "project admin: servers and the superlink do not come through a gate";
    NotTheKey "not_the_key" 60,
        "the token is bound to another key than this connection's: it was copied",
        "operator: find out who has the token; without the guest's key it is worth nothing";
    NodeKey "node_key" 60,
        "the node key is not the one that the token names",
        "site: do guest and gate come from builds that fit together?";
    NodeMissing "node_missing" 1,
        "the site has not shown its node key yet, which its lease connection does",
        "site: connect again; the guest does so by itself";
    TokenOld "token_old" 5,
        "the token is older than `check_frequency`",
        "site: the guest renews by itself; is its key service reached?";
    Withdrawn "withdrawn" 30,
        "the service has taken the token back: site suspended, revoked, superseded, or its newest evidence refused",
        "project admin: `coffer-attest site show` says which; after `site resume` a new token is admitted";
    Cut "cut" 60,
        "the gate's operator keeps the site out",
        "operator: `coffer-gate cut SITE --lift`, or wait for its end";
    Replaced "replaced" 60,
        "another instance of the site took its place",
        "project admin: after a restart that is as it should be; else the site runs twice";
    InstanceRate "instance_rate" 60,
        "the site shows new instances faster than `instances_per_hour`",
        "project admin: the guest restarts again and again, or runs twice";
    RenewalChanged "renewal_changed" 5,
        "the renewal is for another site, site config, instance or key than the lease",
        "site: connect anew; the guest does so by itself";
    NodeLimit "node_limit" 60,
        "the site has as many live node keys as it may have",
        "operator: `node_keys_per_site` in [flower]";
    NodeRefused "node_refused" 10,
        "the SuperLink does not take the node key",
        "operator: the gate's log has what Flower said";
    SiteConnections "site_connections" 5,
        "the site has as many connections as it may have",
        "operator: `connections_per_site` in [limits]";
    SiteRate "site_rate" 2,
        "the site comes more often than it may",
        "operator: `new_connections_per_second_per_site` in [limits]";
    SuperlinkUnreachable "superlink_unreachable" 5,
        "the gate does not reach the SuperLink; a lease that is there stays",
        "operator: is it up, and is `fleet` in [flower] its address?";
    LeaseOver "lease_over" 5,
        "no newer token came within `check_frequency`",
        "site: the guest renews by itself; is its key service reached?";
    Internal "internal" 10,
        "met a fault of this gate",
        "operator: the gate's log has it under the id";
}

impl fmt::Display for Reason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.code())
    }
}

/// The table as `coffer-gate reasons` prints it and `attest/README.md` has it.
#[must_use]
pub fn table() -> String {
    let mut text = String::from("| code | what happened | who can do what |\n|---|---|---|\n");
    for reason in Reason::ALL {
        text.push_str(&format!("| `{reason}` | {} | {} |\n", reason.meaning(), reason.remedy()));
    }
    text
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn the_guide_has_this_table() {
        let path = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("../README.md");
        let guide = std::fs::read_to_string(path).expect("the guide");
        assert!(guide.contains(&table()), "attest/README.md is to have what `coffer-gate reasons` prints:\n{}", table());
    }

    #[test]
    fn codes_are_unique_and_every_remedy_says_who() {
        let codes: BTreeSet<_> = Reason::ALL.iter().map(|reason| reason.code()).collect();
        assert_eq!(codes.len(), Reason::ALL.len());
        for reason in Reason::ALL {
            let who = reason.remedy().split_once(": ").map(|(who, _)| who);
            assert!(matches!(who, Some("site" | "project admin" | "operator")), "{reason}: {}", reason.remedy());
            for text in [reason.meaning(), reason.remedy()] {
                assert!(!text.ends_with('.') && !text.contains('|'), "{reason}: {text}");
            }
            assert!((1..=60).contains(&reason.retry_after_seconds()), "{reason}");
        }
    }
}
