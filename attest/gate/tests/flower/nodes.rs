//! Node keys at the SuperLink: registered before a site's first byte, unregistered when another boot took its place.

use super::lab::{GRPC, HTTP, KIT_KEYS, PATIENCE, PYPROJECT, SuperLink, boot_with_node};
use super::support::{Boot, Issuer, eventually, refusal};

/// Registered when the site comes, once; left when it is cut; unregistered when it comes as another boot.
fn a_boot_has_one_node(version: &'static str) {
    let (mut link, issuer) = (SuperLink::start(version), Issuer::start());
    let (gate, _) = link.gate(&issuer, "require = \"none\"");
    let control = link.control();
    let first = boot_with_node("site-1", &link.path().join("first"));
    let lease = gate.door.leased(&first, &issuer.token(&first));
    let nodes = link.cli(&control).nodes();
    assert_eq!(nodes.len(), 1, "{nodes:?}");
    gate.logged(&["registered a node at the SuperLink", "site-1", &nodes[0].0]);
    drop(lease);

    // Cut, and back: the same boot has the same node, which nobody unregistered meanwhile.
    gate.works(&["cut", "site-1", "--for", "1s"]);
    eventually("the cut is over", PATIENCE, || {
        let (_, answer) = gate.door.lease(&first, &issuer.token(&first));
        matches!(answer, coffer_token::lease::Answer::Admitted { .. }).then_some(())
    });
    assert_eq!(link.cli(&control).nodes(), nodes);

    // A SuperLink that is down takes no new key: the site is told to come again, and is let in once it is up.
    link.down();
    let second =
        Boot { key: Boot::of("site-1").key, instance: first.again().instance, ..boot_with_node("site-1", &link.path().join("second")) };
    let (_, answer) = gate.door.lease(&second, &issuer.token(&second));
    assert_eq!(refusal(&answer).0, "superlink_unreachable");
    link.up();
    let _lease = eventually("the SuperLink takes the key", PATIENCE, || {
        let (wire, answer) = gate.door.lease(&second, &issuer.token(&second));
        matches!(answer, coffer_token::lease::Answer::Admitted { .. }).then_some(wire)
    });
    let cli = link.cli(&control);
    eventually("the first boot's node is gone", PATIENCE, || {
        let of = |id: &str| cli.nodes().into_iter().find(|node| node.0 == id).map(|node| node.1);
        matches!(of(&nodes[0].0).as_deref(), None | Some("unregistered" | "deleted")).then_some(())
    });
    gate.logged(&["unregistered the node of a boot that is over", "site-1", &nodes[0].0]);
    let state = std::fs::metadata(gate.path().join("flower/nodes.json")).unwrap();
    assert_eq!(std::os::unix::fs::PermissionsExt::mode(&state.permissions()) & 0o777, 0o600);
}

#[test]
fn a_node_key_is_registered_before_a_sites_first_byte_and_unregistered_after_its_boot() {
    a_boot_has_one_node(GRPC);
}

#[test]
fn long_a_boot_has_one_node_with_flower_1_25() {
    a_boot_has_one_node(PYPROJECT);
}

#[test]
fn long_a_boot_has_one_node_with_flower_1_41() {
    a_boot_has_one_node(HTTP);
}

#[test]
fn a_site_without_a_node_key_and_one_with_too_many_are_refused() {
    let (mut link, issuer) = (SuperLink::start(GRPC), Issuer::start());
    let (gate, _) = link.gate_with(&issuer, "require = \"none\"", "node_keys_per_site = 2\n");
    let none = Boot::of("site-1");
    assert_eq!(refusal(&gate.door.lease(&none, &issuer.token(&none)).1).0, "node_missing");
    let boots = ["first", "second", "third"].map(|name| boot_with_node("site-1", &link.path().join(name)));
    let _leases = boots[..2].iter().map(|boot| gate.door.leased(boot, &issuer.token(boot))).collect::<Vec<_>>();
    // The first boot's key cannot be unregistered now, so there is no room for another.
    link.down();
    let (_, answer) = gate.door.lease(&boots[2], &issuer.token(&boots[2]));
    assert_eq!(refusal(&answer).0, "node_limit");
}

#[test]
fn long_flower_1_19_has_the_keys_of_its_kits() {
    let (link, issuer) = (SuperLink::start(KIT_KEYS), Issuer::start());
    let (gate, _) = link.gate(&issuer, "require = \"none\"");
    gate.logged(&["registers no node keys at run time", "1.19.0"]);
    let boot = Boot::of("site-1");
    let _lease = gate.door.leased(&boot, &issuer.token(&boot));
}
