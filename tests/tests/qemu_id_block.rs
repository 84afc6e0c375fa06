//! A project with an author key: its launches carry ID blocks, the service takes none without, and the processor none that measures
//! to something else.

use std::fs;

use coffer_measure::{IdAuth, IdBlock, IdPrivateKey};
use system_tests::lab::{Boot, Bundle, Lab, Service, Site};
use system_tests::repo;

/// A site whose enrollment asks for the author key, and its service.
fn enrolled() -> (Lab, Service, Bundle) {
    let lab = Lab::new();
    lab.use_author_key("author.pem");
    let service = lab.serve();
    let bundle = lab.build(&Site::default());
    lab.enroll(&bundle);
    (lab, service, bundle)
}

fn assert_refused(boot: &Boot, service: &Service, code: &str) {
    boot.assert_failed("attest", &format!("cause={code} "));
    let line = boot.console.lines().find(|line| line.contains("failed stage=attest")).expect("checked above");
    let id = line.split("id=").nth(1).map(str::trim).expect("a refusal id");
    assert!(id.len() >= 8 && service.log_text().contains(id), "the service's log does not have `{id}`:\n{}", service.log_text());
}

/// The ID blocks of a bundle and their authentication.
fn pairs(bundle: &Bundle) -> Vec<[std::path::PathBuf; 2]> {
    let entries = fs::read_dir(&bundle.dir).expect("the bundle").map(|entry| entry.expect("an entry").path());
    let blocks = entries.filter(|path| path.extension().is_some_and(|extension| extension == "block"));
    let pairs: Vec<_> = blocks.map(|block| [block.clone(), block.with_extension("auth")]).collect();
    assert!(!pairs.is_empty(), "no ID block in {}", bundle.dir.display());
    pairs
}

#[test]
fn a_launch_without_the_projects_id_block_boots_and_is_refused() {
    let (lab, service, bundle) = enrolled();
    lab.boot(&bundle).assert_ran();

    // A host that starts the very same files, and leaves the ID block out.
    let simulator = repo::program("coffer-simulator");
    let text = format!(
        "#!/bin/bash\nargs=()\nwhile (($#)); do\n\tcase $1 in --id-block | --id-auth) shift ;; --author-key-enabled) ;; *) args+=(\"$1\") ;; esac\n\tshift\ndone\nexec {} \"${{args[@]}}\"\n",
        simulator.display()
    );
    let without = lab.script("without-id-block", &text);
    let boot = lab.start(&bundle, &["--simulator".as_ref(), without.as_os_str()]).wait();
    assert_refused(&boot, &service, "enrolled_author_key");

    // And one that signs the same ID block with a key of its own.
    let stranger = IdPrivateKey::from_scalar(&[0x5a; 48]).expect("a key");
    let id_key = stranger.id_key_of("demo").expect("a key");
    for [block_path, auth_path] in pairs(&bundle) {
        let block = IdBlock::parse(&fs::read(&block_path).expect("an ID block")).expect("an ID block");
        fs::write(&auth_path, IdAuth::sign(&block, &id_key, &stranger).as_bytes()).expect("a file");
    }
    assert_refused(&lab.boot(&bundle), &service, "enrolled_author_key");
}

#[test]
fn with_its_id_block_another_kernel_is_not_even_started() {
    let (lab, _service, bundle) = enrolled();
    let kernel = bundle.file("vmlinuz");
    let mut bytes = fs::read(&kernel).expect("the kernel");
    bytes.extend([0x90; 512]);
    fs::write(&kernel, bytes).expect("the kernel is replaced");
    let boot = lab.boot(&bundle);
    assert_eq!(boot.code, Some(1), "{boot:#?}");
    assert!(boot.said.contains("ID block refused: the ID block expects launch digest"), "{boot:#?}");
    assert!(boot.console.is_empty(), "{boot:#?}");
}
