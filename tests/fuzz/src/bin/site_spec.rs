//! `cc_*.yml` and `project.yml`: a spec, or one error that names a line of the file.
#![no_main]

use coffer_fuzz::{memory_file, path_of, plant, repository};
use libfuzzer_sys::fuzz_target;

use crate::failure::Hint;
use crate::spec::{ProjectSpec, SiteSpec, Source};

#[path = "../../../../builder/src/failure.rs"]
#[allow(dead_code)]
mod failure;
#[path = "../../../../builder/src/fault.rs"]
#[allow(dead_code)]
mod fault;
#[path = "../../../../builder/src/spec.rs"]
#[allow(dead_code)]
mod spec;

const SAMPLES: [&str; 2] = ["builder/tests/samples/cc_server1_local.yml", "builder/tests/samples/cc_site-1_local.yml"];
const PROJECT: &[u8] = b"name: demo\nkey_service:\n  kind: coffer\n  urls: [https://10.0.2.2:8999]\n  tls_name: attest.demo.test\n  ca: [ca.pem]\nsimulator_ark: sim/ark.pem\n";
const OURS: &[u8] = b"site: a\nkit: {/opt/kit: ./kit}\ncontainer: {command: [a, \"b\"], env: {A: 'x'}}\ncc_attestation: {retry_for: 5}\n";

fuzz_target!(init: plant(repository(&SAMPLES).into_iter().chain([PROJECT.to_vec(), OURS.to_vec()])), |bytes: &[u8]| {
    let file = memory_file(bytes);
    let source = Source { file: path_of(&file) };
    // YAML ends lines at carriage returns too.
    let lines = bytes.iter().filter(|byte| matches!(byte, b'\n' | b'\r')).count() as u64 + 2;
    for error in [spec::read::<SiteSpec>(&source).err(), spec::read::<ProjectSpec>(&source).err()].into_iter().flatten() {
        assert!(error.line >= 1 && error.line <= lines, "{error}");
        assert!(!error.field.is_empty(), "{error}");
        assert!(error.hint().is_none_or(|hint| !hint.is_empty() && !hint.contains('\n')), "{error}");
        assert_eq!(error.to_string().lines().count(), 1, "one line: {error:?}");
    }
});
