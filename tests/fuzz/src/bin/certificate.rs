//! VCEK, VLEK, ASK and ARK certificates: DER and PEM, and AMD's extensions.
#![no_main]

use coffer_evidence::{Certificate, VekExtensions, VekKind, pem_certificates};
use coffer_fuzz::{plant, vectors};
use libfuzzer_sys::fuzz_target;

const CERTIFICATES: [&str; 9] = [
    "snp/go-sev-guest/vcek.testcer",
    "snp/virtee-sev/vcek_turin.der",
    "snp/trustee/test-vcek.der",
    "snp/trustee/test-vlek.der",
    "snp/trustee/test-vcek-invalid-legacy.der",
    "snp/trustee/test-vcek-invalid-new.der",
    "snp/roots/virtee_genoa_ark.pem",
    "snp/roots/virtee_turin_ask.pem",
    "snp/roots/ask_ark_milan.pem",
];

fuzz_target!(init: plant(made().into_iter().chain(seeds())), |bytes: &[u8]| {
    let _ = pem_certificates(bytes);
    let Ok(certificate) = Certificate::from_der_or_pem(bytes) else { return };
    let der = certificate.as_der();
    assert_eq!(Certificate::from_der(der).as_ref(), Ok(&certificate), "a certificate is its DER");
    assert!(der == bytes || bytes.starts_with(b"-----BEGIN"), "nothing follows it");
    let pem = format!("-----BEGIN CERTIFICATE-----\n{}\n-----END CERTIFICATE-----\n", data_encoding::BASE64.encode(der));
    assert_eq!(Certificate::from_der_or_pem(pem.as_bytes()).as_ref(), Ok(&certificate), "PEM is DER in armour");
    assert!(der.windows(certificate.signed_bytes().len()).any(|part| part == certificate.signed_bytes()), "the signed part is in it");

    assert!(certificate.subject().is_beside(certificate.subject()), "a name is like itself");
    assert_ne!(certificate.serial().as_bytes().first(), Some(&0), "a serial number has no leading zeros");
    let _ = (certificate.may_sign_certificates(), certificate.may_sign_crls(), VekKind::of(&certificate));
    let _ = certificate.knows_all_critical_extensions();
    let shown = format!("{certificate:?}");
    assert!(!shown.chars().any(char::is_control), "a name is safe to print: {shown:?}");
    if let Ok(extensions) = VekExtensions::of(&certificate) {
        assert!(extensions.hwid.is_none_or(|hwid| matches!(hwid.as_bytes().len(), 8 | 64)), "a hardware id has one of two lengths");
    }
});

/// The vectors, and the DER in those that are PEM.
fn seeds() -> Vec<Vec<u8>> {
    let files = vectors(&CERTIFICATES);
    let inside: Vec<_> = files.iter().filter_map(|file| pem_certificates(file).ok()).flatten().collect();
    files.into_iter().chain(inside).collect()
}

/// The shortest certificate there is: without vectors, mutation would not find its nesting.
fn made() -> Vec<Vec<u8>> {
    fn element(tag: u8, parts: &[&[u8]]) -> Vec<u8> {
        let value = parts.concat();
        let length = value.len();
        let head = match length {
            0..0x80 => vec![tag, length as u8],
            0x80..0x100 => vec![tag, 0x81, length as u8],
            _ => vec![tag, 0x82, (length >> 8) as u8, length as u8],
        };
        [head, value].concat()
    }
    let algorithm = element(0x30, &[&[0x06, 0x01, 0x2A]]);
    let name = element(0x30, &[&element(0x31, &[&element(0x30, &[&[0x06, 3, 0x55, 4, 3], &element(0x0C, &[b"SEV-VCEK"])])])]);
    let validity = element(0x30, &[&element(0x17, &[b"200101000000Z"]), &element(0x17, &[b"270101000000Z"])]);
    let curve = element(0x30, &[&[0x06, 7, 0x2A, 0x86, 0x48, 0xCE, 0x3D, 2, 1], &[0x06, 5, 0x2B, 0x81, 4, 0, 0x22]]);
    let key = element(0x30, &[&curve, &element(0x03, &[&[0, 4], &[1; 96]])]);
    let extension = |arc: &[u8], value: &[u8]| {
        let oid = element(0x06, &[&[0x2B, 6, 1, 4, 1, 0x9C, 0x78, 1], arc]);
        element(0x30, &[&oid, &element(0x04, &[value])])
    };
    let spls: Vec<Vec<u8>> = [1, 2, 3, 8, 9].iter().map(|number| extension(&[3, *number], &[2, 1, 7])).collect();
    let spls: Vec<&[u8]> = spls.iter().map(Vec::as_slice).collect();
    let list = element(0x30, &[&extension(&[2], &element(0x16, &[b"Turin"])), &extension(&[4], &[9; 64]), &spls.concat()]);
    let extensions = element(0xA3, &[&list]);
    let signed = element(0x30, &[&[0xA0, 3, 2, 1, 2], &[2, 1, 0], &algorithm, &name, &validity, &name, &key, &extensions]);
    let whole = element(0x30, &[&signed, &algorithm, &element(0x03, &[&[0, 1, 2, 3]])]);
    assert!(Certificate::from_der(&whole).is_ok_and(|made| VekExtensions::of(&made).is_ok()), "the seed is a certificate");
    vec![whole]
}
