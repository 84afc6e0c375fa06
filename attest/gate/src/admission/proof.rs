//! What a connection has proved: a token that passed every check, held by the connection's own key.

use coffer_token::lease::NodeKey;
use coffer_token::{Checked, Claims, Hex, Jkt};

/// What a gate keeps of a token that [`coffer_token::check`] passed for the key of this connection.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Proof {
    /// Project of the enrollment.
    pub project: String,
    /// Site of the enrollment.
    pub site: String,
    /// SHA-256 of the site config.
    pub host_data: Hex<32>,
    /// Digest of the base that runs.
    pub launch_digest: Hex<48>,
    /// The report's REPORT_ID: one per boot.
    pub instance: Hex<32>,
    /// The key of the boot, which is this connection's.
    pub jkt: Jkt,
    /// Thumbprint of the workload's node key, as the token names it.
    pub node_jkt: Option<Jkt>,
    /// The node key itself, where this connection showed it; its thumbprint is [`Self::node_jkt`].
    pub node: Option<NodeKey>,
    /// Which key of the service signed.
    pub kid: String,
    /// The token's id, for the log.
    pub token_id: String,
    /// When the token was issued, Unix seconds by the service's clock.
    pub issued_at: u64,
    /// How long it lives from then on, in seconds.
    pub lifetime: u64,
}

impl Proof {
    /// Of checked claims. `kid` is the header's, `jkt` the peer's key, which `check` has compared.
    #[must_use]
    pub fn of(checked: &Checked<Claims>, kid: String, jkt: Jkt) -> Self {
        let claims = checked.claims();
        let coffer = claims.coffer();
        Self {
            project: coffer.project.clone(),
            site: coffer.site.clone(),
            host_data: coffer.host_data,
            launch_digest: coffer.launch_digest,
            instance: coffer.instance,
            jkt,
            node_jkt: coffer.node_jkt,
            node: None,
            kid,
            token_id: claims.token_id().to_owned(),
            issued_at: claims.issued_at().0,
            lifetime: claims.expires_at().0.saturating_sub(claims.issued_at().0),
        }
    }
}

#[cfg(test)]
pub mod tests {
    use super::*;

    /// A proof as `site`'s boot number `boot` would give with a token of that second.
    pub fn proof(site: &str, boot: u8, issued_at: u64) -> Proof {
        Proof {
            project: "demo".into(),
            site: site.into(),
            host_data: Hex([1; 32]),
            launch_digest: Hex([2; 48]),
            instance: Hex([boot; 32]),
            jkt: Jkt::new([boot; 32]),
            node_jkt: None,
            node: None,
            kid: "key-1".into(),
            token_id: "t-1".into(),
            issued_at,
            lifetime: 60,
        }
    }
}
