//! Which sites a run needs: what `flwr run` prints when one is missing, and what becomes of a run when one is lost.

use coffer_token::Withdrawn;

use super::lab::{GRPC, HTTP, KIT_KEYS, PATIENCE, PYPROJECT, SuperLink, boot_with_node};
use super::support::{Boot, Issuer, eventually};

/// `flwr run` is refused with the reason, admitted once the site holds its lease, and the run stopped when the site is taken back.
fn a_run_needs_its_site(version: &'static str) {
    let (link, issuer) = (SuperLink::start(version), Issuer::start());
    let (gate, front) = link.gate(&issuer, "require = [\"site-1\"]\non_loss = \"stop\"");
    let cli = link.cli(&front);

    let said = cli.run();
    assert!(said.contains("coffer-gate starts no run: 0 of 1 required sites hold a lease"), "{said}");
    assert!(said.contains("site-1 has held none since this gate started"), "{said}");
    assert!(!said.contains("Traceback"), "{said}");
    gate.logged(&["a Control call is refused", "site-1"]);

    if version != KIT_KEYS {
        let said = cli.registers(&link.path().join("stranger"));
        assert!(said.contains("coffer-gate registers nodes itself, from attested keys"), "{said}");
        assert_eq!(cli.nodes(), [], "a node nobody attested is registered");
    }

    let boot = if version == KIT_KEYS { Boot::of("site-1") } else { boot_with_node("site-1", &link.path().join("node")) };
    let _lease = gate.door.leased(&boot, &issuer.token(&boot));
    let run = cli.starts();
    gate.logged(&["a run is started", &run.to_string()]);
    eventually("the run goes on", PATIENCE, || (cli.status(run) == "running").then_some(()));

    issuer.withdraw("site_suspended", Withdrawn::Site { host_data: boot.host_data });
    eventually("the run is stopped", PATIENCE, || (cli.status(run) == "finished:stopped").then_some(()));
    gate.logged(&["a run is stopped", &run.to_string(), "site-1", &boot.key.jkt().to_string()]);
    let said = cli.run();
    assert!(said.contains("site-1 has held none for"), "{said}");
    assert!(said.contains("(withdrawn)"), "{said}");
}

#[test]
fn a_run_starts_only_with_its_sites_and_stops_with_the_first_that_is_lost() {
    a_run_needs_its_site(GRPC);
}

#[test]
fn long_a_run_needs_its_site_with_flower_1_19() {
    a_run_needs_its_site(KIT_KEYS);
}

#[test]
fn long_a_run_needs_its_site_with_flower_1_25() {
    a_run_needs_its_site(PYPROJECT);
}

#[test]
fn long_a_run_needs_its_site_with_flower_1_41() {
    a_run_needs_its_site(HTTP);
}

#[test]
fn a_restarted_gate_still_knows_its_runs_and_goes_on_without_a_site_where_that_is_asked_for() {
    let (link, issuer) = (SuperLink::start(GRPC), Issuer::start());
    let (mut gate, front) = link.gate(&issuer, "require = \"all\"\non_loss = \"continue\"");
    let cli = link.cli(&front);
    assert!(cli.run().contains("0 of 1 required sites hold a lease"));
    let boots = ["site-1", "site-2"].map(|site| boot_with_node(site, &link.path().join(site)));
    let _leases = boots.each_ref().map(|boot| gate.door.leased(boot, &issuer.token(boot)));
    let run = cli.starts();
    gate.logged(&["a run is started", &run.to_string()]);

    gate.down();
    gate.up();
    let mut gate = gate.in_touch(&issuer);
    let _leases = boots.each_ref().map(|boot| gate.door.leased(boot, &issuer.token(boot)));
    issuer.withdraw("site_suspended", Withdrawn::Site { host_data: boots[1].host_data });
    let line = eventually("the loss is logged", PATIENCE, || {
        gate.log().lines().find(|line| line.contains("a run goes on without a site it needs")).map(str::to_owned)
    });
    for word in [&run.to_string(), "site-2", &boots[1].key.jkt().to_string()] {
        assert!(line.contains(word), "{word}: {line}");
    }
    assert_eq!(cli.status(run), "running");
    // All are the sites that were here: the one that is gone counts, also for a gate that was started since.
    gate.down();
    gate.up();
    let gate = gate.in_touch(&issuer);
    let _lease = gate.door.leased(&boots[0], &issuer.token(&boots[0]));
    let said = cli.run();
    assert!(said.contains("1 of 2 required sites hold a lease: site-2 has held none since this gate started"), "{said}");
}
