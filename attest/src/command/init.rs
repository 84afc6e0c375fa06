//! `coffer-attest init`: a new service folder, complete or not there at all.

use std::path::Path;

use coffer_evidence::Certificate;
use coffer_manifest::{RootOfTrust, Sha256Digest};
use coffer_token::admin::AdminSigner;
use serde_json::json;
use zeroize::Zeroizing;

use crate::cli;
use crate::clock::unix_now;
use crate::config::initial_text;
use crate::failure::{Failure, OrFail};
use crate::kek::{Kek, random};
use crate::layout::{Layout, LayoutError, NewFolder, read_small, write_new};
use crate::policy::Checked;
use crate::store::{Admin, NewPolicy, PolicyChange, PolicyOwner, Scope, ServiceKey, Store, check_name};
use crate::tls::make_certificates;

/// The default policy of a simulated service: what the simulator's platforms report at least; Milan stays off there too.
const SIMULATED_POLICY: &[u8] = include_bytes!("../policy/simulated.json");

/// Makes the folder and says what it holds.
///
/// # Errors
/// Whatever keeps the folder from being made; nothing is left then.
pub fn run(args: &cli::Init) -> Result<(), Failure> {
    let (root_of_trust, ark) = root_of_trust(&args.root_of_trust)?;
    check_name(&args.admin).map_err(Failure::new)?;
    let folder = NewFolder::begin(&args.dir).map_err(|e| {
        let failure = Failure::new(format!("cannot make a service: {e}"));
        match e {
            LayoutError::Exists { .. } => failure.hint("a service is never written over; name another folder, or remove this one yourself"),
            _ => failure,
        }
    })?;
    let layout = folder.layout();
    make_certificates(&layout, &args.tls_name).or_fail("cannot make the certificates")?;
    let settings = initial_text(root_of_trust, &args.tls_name);
    write_new(&layout.config(), 0o600, settings.as_bytes()).or_fail("cannot write the settings")?;
    make_database(&layout, root_of_trust, ark.as_deref(), &args.admin)?;
    let layout = folder.finish().or_fail("cannot make a service")?;
    report(args, &layout, root_of_trust);
    Ok(())
}

/// Reads `amd-sev-snp` or `simulated:<file>`; the file's certificate becomes the service's only root.
fn root_of_trust(text: &str) -> Result<(RootOfTrust, Option<Vec<u8>>), Failure> {
    let Some(file) = text.strip_prefix("simulated:") else {
        return match text.parse() {
            Ok(root @ RootOfTrust::AmdSevSnp) => Ok((root, None)),
            _ => Err(Failure::new(format!("root of trust `{text}` is neither `amd-sev-snp` nor `simulated:<ARK certificate>`"))),
        };
    };
    let doing = format!("cannot use {file} as root of trust");
    let bytes = read_small(Path::new(file)).or_fail(&doing)?;
    // Makes sure that it is a simulator's self-signed ARK, and not AMD's.
    let roots = coffer_verify::Roots::simulated(&bytes).or_fail(&doing)?;
    let ark = Certificate::from_der_or_pem(&bytes).or_fail(&doing)?.as_der().to_vec();
    let root = RootOfTrust::Simulated(Sha256Digest::of(&ark));
    if roots.root_of_trust().to_string() == root.to_string() {
        Ok((root, Some(ark)))
    } else {
        Err(Failure::new(format!("{doing}: its digest is {root}, the verifier computes {}", roots.root_of_trust())))
    }
}

fn make_database(layout: &Layout, root_of_trust: RootOfTrust, ark: Option<&[u8]>, admin: &str) -> Result<(), Failure> {
    let doing = "cannot make the database";
    let kek = Kek::generate().or_fail(doing)?;
    write_new(&layout.kek(), 0o600, kek.expose()).or_fail("cannot write the key file")?;
    // SQLite would make it readable by others.
    write_new(&layout.database(), 0o600, b"").or_fail(doing)?;
    let now = unix_now();
    let mut store = Store::create(&layout.database(), kek, root_of_trust, ark).or_fail(doing)?;
    store.add_token_key(now, now).or_fail("cannot make the token key")?;
    store.put_key(ServiceKey::Cookie, Zeroizing::new(random::<32>().or_fail(doing)?).as_slice()).or_fail(doing)?;

    if matches!(root_of_trust, RootOfTrust::Simulated(_)) {
        set_simulated_policy(&mut store, now)?;
    }
    let key = AdminSigner::from_random(&Zeroizing::new(random().or_fail(doing)?)).or_fail("cannot make the admin key")?;
    let public = key.public();
    let admin = Admin {
        kid: public.id().to_string(),
        name: admin.to_owned(),
        public: public.to_pem().or_fail(doing)?,
        scopes: Scope::ALL.to_vec(),
        project: None,
        added_at: now,
        added_by: "init".to_owned(),
        revoked_at: None,
    };
    store.add_admin(&admin, None).or_fail(doing)?;
    let pem = key.expose_pem().or_fail(doing)?;
    write_new(&layout.admin_key(), 0o600, pem.as_bytes()).or_fail("cannot write the admin key")
}

fn set_simulated_policy(store: &mut Store, now: u64) -> Result<(), Failure> {
    let doing = "cannot set the default policy";
    let owner = PolicyOwner::Default;
    let document = Checked::read(&owner, SIMULATED_POLICY).or_fail(doing)?.into_document().to_bytes().or_fail(doing)?;
    let reason = "what the simulator's platforms report".to_owned();
    let change = PolicyChange { set_at: now, set_by: "init".to_owned(), reason };
    store.set_policy(&NewPolicy { owner: &owner, replaces: 0, document: &document, weaker: &[], change }).or_fail(doing)?;
    Ok(())
}

fn report(args: &cli::Init, layout: &Layout, root_of_trust: RootOfTrust) {
    let show = |path: std::path::PathBuf| path.display().to_string();
    if args.json {
        let result = json!({
            "dir": show(layout.dir().to_owned()),
            "root_of_trust": root_of_trust.to_string(),
            "tls_name": args.tls_name,
            "tls_ca": show(layout.tls_ca()),
            "config": show(layout.config()),
            "admin": args.admin,
            "admin_key": show(layout.admin_key()),
        });
        println!("{result}");
        return;
    }
    println!("root of trust  {root_of_trust}");
    println!("settings       {}", show(layout.config()));
    println!("CA to pin      {} (project.yml: key_service.ca)", show(layout.tls_ca()));
    println!("admin key      {} (admin `{}`; take it off this machine)", show(layout.admin_key()), args.admin);
    println!("key file       {} (back it up apart from the database)", show(layout.kek()));
    if root_of_trust == RootOfTrust::AmdSevSnp {
        println!(
            "no evidence is accepted until a policy says what is enough: coffer-attest policy set FILE --default --replaces 0 --reason TEXT"
        );
    }
    println!("next: coffer-attest serve --dir {} --listen ADDRESS:PORT", show(layout.dir().to_owned()));
}
