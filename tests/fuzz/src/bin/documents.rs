//! Enrollments, base and bundle manifests.
#![no_main]

use coffer_fuzz::{plant, repository};
use coffer_manifest::{Base, Bundle, EnrollmentFile, decode, encode};
use libfuzzer_sys::fuzz_target;

const GOLDEN: [&str; 4] = [
    "builder/manifest/tests/golden/enrollment.json",
    "builder/manifest/tests/golden/base.json",
    "builder/manifest/tests/golden/manifest.json",
    "tests/golden/base.json",
];

fuzz_target!(init: plant(repository(&GOLDEN)), |bytes: &[u8]| {
    let mut kinds = 0;
    if let Ok(file) = EnrollmentFile::from_bytes(bytes) {
        assert_eq!(file.to_bytes().expect("an enrollment can be written").as_slice(), bytes);
        let secret = data_encoding::HEXLOWER.encode(file.secrets.root.expose());
        assert!(!format!("{:?}", file.secrets).contains(&secret), "a secret is not shown");
        kinds += 1;
    }
    if let Ok(base) = decode::<Base>(bytes) {
        assert_eq!(encode(&base).expect("a base can be written"), bytes);
        kinds += 1;
    }
    if let Ok(bundle) = decode::<Bundle>(bytes) {
        assert_eq!(encode(&bundle).expect("a manifest can be written"), bytes);
        kinds += 1;
    }
    assert!(kinds <= 1, "a document is of one type");
});
