//! Which answers of the key service are its judgement of this guest. Only those trigger a site's `failure_action`; everything else is
//! a renewal that did not happen, to be tried again.

/// Every code by which a coffer-attest that knows whom it answers says no: the report's signature held and it answers this challenge.
/// From `attest/REASONS.md`, in its order: the rows `from` *guest*, but for those of [`RESOURCES`]. A code that comes from *anybody*
/// says that the service could not judge (limits, collateral it lacks, a challenge that went stale, evidence that a host mangled);
/// a host could bring those about, and all it gets is a renewal that does not happen, as by cutting the network.
const ABOUT_THIS_GUEST: &[&str] = &[
    "reserved_bytes",
    "vmpl",
    "debug_policy",
    "migration_policy",
    "policy_reserved",
    "guest_policy",
    "guest_policy_abi",
    "tcb_floor_missing",
    "family_mismatch",
    "family",
    "certificate_current_tcb",
    "tcb_order",
    "tcb_floor",
    "minimum_firmware",
    "mitigations",
    "platform_info",
    "masked_chip",
    "csp_id",
    "chip_allowed",
    "chip_denied",
    "chip_revoked",
    "family_id",
    "image_id",
    "guest_svn",
    "id_key",
    "author_key",
    "key_revoked",
    "report_id",
    "migration_agent",
    "host_data",
    "launch_digest",
    "launch_digest_revoked",
    "enrolled_chip",
    "enrolled_tcb_floor",
    "enrolled_id_key",
    "enrolled_author_key",
    "enrolled_guest_svn",
    "revoked",
    "site_suspended",
    "policy",
    "stock_reference_value",
];

/// Whether `code` judges this guest. Total: a code this build does not know is no judgement it understands.
pub fn is_about_this_guest(code: &str) -> bool {
    ABOUT_THIS_GUEST.contains(&code)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What a guest can be refused a *resource* with. A renewal asks for none.
    const RESOURCES: [&str; 3] = ["resource_path", "no_such_resource", "jwe"];

    /// Code, status and sender of every row of the table.
    fn rows() -> Vec<(&'static str, u16, &'static str)> {
        let rows = include_str!("../../../attest/REASONS.md").lines().filter_map(|line| {
            let mut cells = line.split('|').map(str::trim).skip(1);
            let code = cells.next()?.strip_prefix('`')?.strip_suffix('`')?;
            Some((code, cells.next()?.parse().ok()?, cells.next()?))
        });
        rows.collect()
    }

    #[test]
    fn every_code_of_the_service_is_decided() {
        let rows = rows();
        assert!(rows.len() > 100, "the table is read: {}", rows.len());
        for (code, status, from) in &rows {
            let expected = *from == "guest" && !RESOURCES.contains(code);
            assert_eq!(is_about_this_guest(code), expected, "{code}, from {from}");
            assert!(!expected || *status == 403, "{code}: {status} would be taken for illness");
        }
        for code in ABOUT_THIS_GUEST {
            assert!(rows.iter().any(|(row, ..)| row == code), "`{code}` is no code of the service");
        }
    }

    #[test]
    fn what_the_service_could_not_judge_is_no_refusal() {
        for code in ["busy", "timeout", "rate_limited", "site_rate", "collateral_pending", "collateral_missing", "challenge_epoch"] {
            assert!(!is_about_this_guest(code), "{code}");
        }
        for code in ["", "unheard_of", "admin_scope", "internal"] {
            assert!(!is_about_this_guest(code), "{code}");
        }
        assert!(is_about_this_guest("revoked"));
    }
}
