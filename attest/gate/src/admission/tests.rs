use coffer_token::{Claims, CofferClaims, GpuVerdict, Hex, Signer, Subject, Typ, UnixTime, Version1};

use super::*;
use crate::config::{Limits, Service};
use crate::flower::config::{Flower as FlowerConfig, Runs};
use crate::leases::Instances;

const T: u64 = 1_795_400_000;
const JKT: Jkt = Jkt::new([7; 32]);

fn run<T>(test: impl Future<Output = T>) -> T {
    tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap().block_on(test)
}

async fn gate(keys: Option<&Signer>) -> Admission {
    let text = "urls = ['https://a']\ntls_name = 'a'\nca = 'ca.pem'\nissuer = 'https://a'\naudience = 'coffer'\n\
                root_of_trust = 'amd-sev-snp'\nproject = 'demo'\n";
    let service: Service = toml::from_str(text).unwrap();
    let instances = Instances { burst: 1, every: Duration::from_secs(60) };
    let leases = Arc::new(Leases::new(Duration::from_secs(60), instances));
    let flower: FlowerConfig = toml::from_str("mode = 'passthrough'\nfleet = '127.0.0.1:9'").unwrap();
    let flower = Flower::start(&flower, &Runs::absent(), Arc::clone(&leases)).await.unwrap();
    let clock = Arc::new(Clock::new(0));
    clock.hear(T, Instant::now());
    let limits = Limits { new_connections_per_second_per_site: 2, ..Limits::default() };
    let (keys, sites) = (Arc::new(Keys::new(keys.map(Signer::jwks))), Arc::new(Sites::new(limits)));
    Admission { service, keys, clock, leases, sites, flower, lines: lines_of_strangers(Instant::now()) }
}

fn signer(byte: u8) -> Signer {
    Signer::from_bytes(&[byte; 32]).unwrap()
}

fn token(signer: &Signer, change: impl FnOnce(&mut Subject)) -> String {
    let coffer = CofferClaims {
        v: Version1,
        project: "demo".into(),
        site: "site-1".into(),
        role: "client".into(),
        host_data: Hex([1; 32]),
        launch_digest: Hex([2; 48]),
        base_svn: 1,
        root_of_trust: "amd-sev-snp".into(),
        instance: Hex([3; 32]),
        family: "genoa".into(),
        node_jkt: None,
        gpu: GpuVerdict::None,
        purpose: "renew".into(),
    };
    let mut subject = Subject {
        issuer: "https://a".into(),
        audience: "coffer".into(),
        token_id: "t-1".into(),
        issued_at: UnixTime(T),
        lifetime_seconds: 300,
        confirmation: Some(JKT),
        tee_pubkey: None,
        coffer,
    };
    change(&mut subject);
    signer.sign(Typ::Job, &Claims::affirming(subject)).unwrap()
}

fn shown(token: &str) -> Shown<'_> {
    Shown { token, node: None, jkt: JKT, before: None, what: "lease" }
}

#[test]
fn what_breaks_a_rule_is_refused_by_its_name_and_takes_no_lease() {
    type Change = fn(&mut Subject);
    let rules: [(Reason, Change); 11] = [
        (Reason::TokenIssuer, |s| s.issuer = "https://b".into()),
        (Reason::TokenAudience, |s| s.audience = "other".into()),
        (Reason::TokenFuture, |s| s.issued_at = UnixTime(T + 40)),
        (Reason::TokenExpired, |s| s.issued_at = UnixTime(T - 301)),
        (Reason::TokenOld, |s| s.issued_at = UnixTime(T - 61)),
        (Reason::RootOfTrust, |s| s.coffer.root_of_trust = format!("simulated:{}", "ab".repeat(32))),
        (Reason::Project, |s| s.coffer.project = "other".into()),
        (Reason::Role, |s| s.coffer.role = "superlink".into()),
        (Reason::Role, |s| s.coffer.role = "server".into()),
        (Reason::NotTheKey, |s| s.confirmation = Some(Jkt::new([8; 32]))),
        (Reason::Role, |s| s.coffer.role = "Client".into()),
    ];
    run(async {
        let service = signer(1);
        let gate = gate(Some(&service)).await;
        for (reason, change) in rules {
            let refused = gate.admit(shown(&token(&service, change))).await.unwrap_err();
            assert_eq!(refused.reason, reason, "{}", refused.detail);
            assert!(refused.id.starts_with("g-") && !refused.detail.is_empty());
        }
        for junk in ["", "a.b.c", &"x".repeat(9000)] {
            assert_eq!(gate.admit(shown(junk)).await.unwrap_err().reason, Reason::TokenMalformed);
        }
        assert!(gate.leases.views().is_empty());
        let admitted = gate.admit(shown(&token(&service, |_| ()))).await.unwrap();
        assert_eq!(admitted.lasts, Duration::from_secs(60));
        // Counted where they belong: what was no good token is no site's.
        assert_eq!(gate.sites.strangers().get(&Reason::Role), Some(&3));
        assert_eq!(admitted.site.refused().into_keys().collect::<Vec<_>>(), [Reason::TokenOld]);
    });
}

#[test]
fn a_key_that_is_not_known_is_fetched_once_and_whoever_comes_after_does_not_wait() {
    run(async {
        let (old, new) = (signer(1), signer(2));
        let gate = gate(Some(&old)).await;
        let text = token(&new, |_| ());
        let fetched = async {
            gate.keys.wanted().await;
            gate.keys.store(new.jwks());
            gate.keys.fetch_ended();
        };
        let (admitted, ()) = tokio::join!(gate.admit(shown(&text)), fetched);
        assert_eq!(admitted.unwrap().proof.kid, new.kid());
        let begun = Instant::now();
        for byte in 3..30 {
            let refused = gate.admit(shown(&token(&signer(byte), |_| ()))).await.unwrap_err();
            assert_eq!(refused.reason, Reason::TokenKey);
        }
        assert!(begun.elapsed() < REFETCH_PATIENCE, "{:?}", begun.elapsed());
    });
}

#[test]
fn a_gate_without_keys_says_so() {
    run(async {
        let refused = gate(None).await.admit(shown(&token(&signer(1), |_| ()))).await.unwrap_err();
        assert_eq!(refused.reason, Reason::NoKeys);
    });
}

#[test]
fn a_renewal_is_held_to_what_its_connection_showed_and_a_site_to_its_rate() {
    run(async {
        let service = signer(1);
        let gate = gate(Some(&service)).await;
        let first = gate.admit(shown(&token(&service, |_| ()))).await.unwrap();
        for change in [
            |s: &mut Subject| s.coffer.site = "site-2".into(),
            |s: &mut Subject| s.coffer.host_data = Hex([9; 32]),
            |s: &mut Subject| {
                s.coffer.instance = Hex([9; 32]);
            },
        ] {
            let text = token(&service, change);
            let renewal = Shown { before: Some(&first.proof), what: "renewal", ..shown(&text) };
            assert_eq!(gate.admit(renewal).await.unwrap_err().reason, Reason::RenewalChanged);
        }
        let text = token(&service, |s| s.issued_at = UnixTime(T + 1));
        let mut told: Vec<_> = Vec::new();
        for _ in 0..20 {
            told.push(gate.admit(shown(&text)).await.map_err(|refusal| (refusal.reason, refusal.of_site)).map(|_| ()));
        }
        // Ten at once; three were this site's before, one another's.
        assert_eq!(told.iter().filter(|told| told.is_ok()).count(), 7);
        assert_eq!(told.last(), Some(&Err((Reason::SiteRate, true))));
        assert_eq!(first.leased.over(), None);
    });
}

fn with<'a>(token: &'a str, node: &'a NodeKey) -> Shown<'a> {
    Shown { node: Some(node), ..shown(token) }
}

#[test]
fn a_node_key_counts_only_as_the_one_that_the_token_names() {
    run(async {
        let service = signer(1);
        let gate = gate(Some(&service)).await;
        let node = |byte| {
            let secret = p384::SecretKey::from_slice(&[byte; 48]).unwrap();
            NodeKey::from_sec1(&secret.public_key().to_sec1_bytes()).unwrap()
        };
        let named = token(&service, |s| s.coffer.node_jkt = Some(node(5).thumbprint().unwrap()));
        assert_eq!(gate.admit(with(&named, &node(6))).await.unwrap_err().reason, Reason::NodeKey);
        assert_eq!(gate.admit(with(&token(&service, |_| ()), &node(5))).await.unwrap_err().reason, Reason::NodeKey);
        let admitted = gate.admit(with(&named, &node(5))).await.unwrap();
        assert_eq!(admitted.leased.node, Some(node(5)));
    });
}
