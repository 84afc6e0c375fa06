//! Every published launch digest we know, and one that real hardware signed.

use std::fs;

use coffer_measure::{Firmware, HashTable, HashTableArea, LaunchDigest, Section, SectionKind, Shape, Vmm, measure};
use serde::Deserialize;
use sha2::{Digest, Sha256};
use system_tests::vectors;

#[derive(Deserialize)]
struct Case {
    ovmf: String,
    kernel: Option<String>,
    initrd: Option<String>,
    append: Option<String>,
    vcpus: u32,
    vcpu_type: Option<String>,
    vcpu_sig: Option<u32>,
    guest_features: u64,
    vmm: String,
    launch_digest: Option<LaunchDigest>,
    error: Option<String>,
}

fn vmm(name: &str) -> Vmm {
    match name {
        "qemu" => Vmm::Qemu,
        "ec2" => Vmm::Ec2,
        "gce" => Vmm::Gce,
        other => panic!("unknown vmm {other}"),
    }
}

fn read(name: &str) -> Vec<u8> {
    if name == "/dev/null" {
        return Vec::new();
    }
    fs::read(vectors::path(&format!("measure/{name}")).expect("the list of cases was found")).expect(name)
}

fn sha256(bytes: &[u8]) -> [u8; 32] {
    Sha256::digest(bytes).into()
}

#[test]
fn published_digests_agree() {
    let Some(list) = vectors::path("measure/launch_digests.json") else { return };
    let cases: Vec<Case> = serde_json::from_slice(&fs::read(list).unwrap()).unwrap();
    assert_eq!(cases.len(), 35);
    let mut refused = 0;
    for (i, case) in cases.iter().enumerate() {
        let shape = Shape {
            vmm: vmm(&case.vmm),
            vcpus: case.vcpus,
            cpu: case.vcpu_type.as_deref().unwrap_or("EPYC").parse().unwrap(),
            guest_features: case.guest_features,
        };
        if let Some(signature) = case.vcpu_sig {
            assert_eq!(shape.cpu.signature(), signature, "case {i}");
        }
        let table = case.kernel.as_ref().map(|kernel| {
            let initrd = case.initrd.as_deref().map(read).unwrap_or_default();
            HashTable::new(sha256(&read(kernel)), sha256(&initrd), case.append.as_deref().unwrap_or_default())
        });
        let firmware = Firmware::parse(&read(&case.ovmf)).unwrap();
        let got = measure(&firmware, table.as_ref(), &shape);
        match (&case.launch_digest, &case.error) {
            (Some(digest), None) => assert_eq!(got, Ok(*digest), "case {i}"),
            (None, Some(error)) => {
                assert!(error.contains("SNP_KERNEL_HASHES"), "case {i} expects another error: {error}");
                let text = got.expect_err("a firmware without the section").to_string();
                assert!(text.contains("SNP_KERNEL_HASHES"), "case {i}: {text}");
                refused += 1;
            }
            _ => panic!("case {i} expects neither or both"),
        }
    }
    assert_eq!(refused, 1);
}

#[derive(Deserialize)]
struct RealCase {
    ovmf_launch_digest: LaunchDigest,
    ovmf_sections: Vec<RealSection>,
    hashes_table_gpa: u32,
    reset_eip: u32,
    kernel_sha256: String,
    initrd_sha256: String,
    append: String,
    hashes_page_sha384: String,
    vcpus: u32,
    vcpu_type: String,
    guest_features: u64,
    launch_digest: LaunchDigest,
    report: String,
}

#[derive(Deserialize)]
struct RealSection {
    gpa: u32,
    size: u32,
    #[serde(rename = "type")]
    kind: u32,
}

#[test]
fn a_digest_that_real_hardware_signed_agrees() {
    let Some(path) = vectors::path("measure/real-milan-dstack.json") else { return };
    let case: RealCase = serde_json::from_slice(&fs::read(path).unwrap()).unwrap();
    let section = |s: &RealSection| Section { gpa: s.gpa, size: s.size, kind: SectionKind::from_number(s.kind).unwrap() };
    let firmware = Firmware::from_parts(
        case.ovmf_launch_digest,
        case.ovmf_sections.iter().map(section).collect(),
        Some(HashTableArea { gpa: case.hashes_table_gpa, size: 0x400 }),
        case.reset_eip,
    );
    let hex = |text: &str| coffer_evidence::parse_hex::<32>("digest", text).unwrap();
    let table = HashTable::new(hex(&case.kernel_sha256), hex(&case.initrd_sha256), &case.append);
    let page = table.page(case.hashes_table_gpa as usize % coffer_measure::PAGE_BYTES).unwrap();
    assert_eq!(LaunchDigest::new(sha2::Sha384::digest(page).into()).to_string(), case.hashes_page_sha384);
    let shape = Shape { vmm: Vmm::Qemu, vcpus: case.vcpus, cpu: case.vcpu_type.parse().unwrap(), guest_features: case.guest_features };
    assert_eq!(measure(&firmware, Some(&table), &shape), Ok(case.launch_digest));
    // MEASUREMENT of the report AMD's key signed: 48 bytes at 0x090.
    let report = fs::read(vectors::path(&case.report).unwrap()).unwrap();
    assert_eq!(&report[0x090..0x0C0], case.launch_digest.as_bytes());
}
