//! Revocation lists: DER and PEM.
#![no_main]

use coffer_evidence::Crl;
use coffer_fuzz::plant;
use libfuzzer_sys::fuzz_target;

fuzz_target!(init: plant(made()), |bytes: &[u8]| {
    let Ok(crl) = Crl::from_der_or_pem(bytes) else { return };
    let der = crl.as_der();
    assert_eq!(Crl::from_der(der).as_ref(), Ok(&crl), "a list is its DER");
    let pem = format!("-----BEGIN X509 CRL-----\n{}\n-----END X509 CRL-----\n", data_encoding::BASE64.encode(der));
    assert_eq!(Crl::from_der_or_pem(pem.as_bytes()).as_ref(), Ok(&crl), "PEM is DER in armour");
    assert!(der.windows(crl.signed_bytes().len()).any(|part| part == crl.signed_bytes()), "the signed part is in it");
    // Each entry takes at least a serial number and a date.
    assert!(crl.revoked().len() <= der.len() / 20, "bounded by its bytes");
    for serial in crl.revoked().iter().chain(crl.number()) {
        assert_ne!(serial.as_bytes().first(), Some(&0), "a number has no leading zeros");
        assert!(serial.to_string().chars().all(|c| c.is_ascii_hexdigit()));
    }
    assert!(!format!("{crl:?}").chars().any(char::is_control), "a name is safe to print");
    let _ = (crl.this_update(), crl.next_update(), crl.knows_all_critical_extensions(), crl.signature_algorithm(), crl.signature());
});

/// The shortest lists there are: nothing revoked, and three entries, one with a critical extension.
fn made() -> Vec<Vec<u8>> {
    fn element(tag: u8, parts: &[&[u8]]) -> Vec<u8> {
        let value = parts.concat();
        let length = u8::try_from(value.len()).expect("short");
        let head = if length < 0x80 { vec![tag, length] } else { vec![tag, 0x81, length] };
        [head, value].concat()
    }
    let algorithm = element(0x30, &[&[0x06, 0x01, 0x2A]]);
    let name = element(0x30, &[&element(0x31, &[&element(0x30, &[&[0x06, 3, 0x55, 4, 3], &element(0x0C, &[b"ARK-Genoa"])])])]);
    let date = element(0x17, &[b"260101000000Z"]);
    let number = element(0x30, &[&[0x06, 3, 0x55, 0x1D, 0x14], &element(0x04, &[&[2, 1, 9]])]);
    let issuer = element(0x30, &[&element(0x30, &[&[0x06, 3, 0x55, 0x1D, 0x1D], &[1, 1, 0xFF], &element(0x04, &[&[0x30, 0]])])]);
    let entry = |serial: &[u8], extensions: &[u8]| element(0x30, &[&element(0x02, &[serial]), &date, extensions]);
    let revoked = element(0x30, &[&entry(&[0], &[]), &entry(&[2, 0, 2], &[]), &entry(&[7], &issuer)]);
    let extensions = element(0xA0, &[&element(0x30, &[&number])]);
    let lists = [vec![], revoked].map(|revoked| {
        let signed = element(0x30, &[&[2, 1, 1], &algorithm, &name, &date, &date, &revoked, &extensions]);
        let whole = element(0x30, &[&signed, &algorithm, &element(0x03, &[&[0, 1, 2, 3]])]);
        assert!(Crl::from_der(&whole).is_ok(), "the seed is a list");
        whole
    });
    lists.into()
}
