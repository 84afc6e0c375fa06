//! Collateral at the service: files and key servers' answers taken apart, names of a Trustee store, an operator's chip and TCB.
#![no_main]

use coffer_evidence::Family;
use coffer_fuzz::{plant, vectors};
use libfuzzer_sys::fuzz_target;

use crate::bundle::{MAX_FILE_BYTES, MAX_PIECES, StoreName, split};
use crate::key::{ChipTcb, Request, parse_tcb, tcb_name};

#[path = "../../../../attest/src/collateral/bundle.rs"]
mod bundle;
#[path = "../../../../attest/src/collateral/key.rs"]
#[allow(dead_code)]
mod key;

fuzz_target!(init: plant(seeds()), |bytes: &[u8]| {
    if let Ok(pieces) = split(bytes) {
        assert!(!pieces.is_empty() && pieces.len() <= MAX_PIECES && pieces.iter().all(|piece| !piece.is_empty()), "bounded");
        assert!(pieces.iter().map(Vec::len).sum::<usize>() <= bytes.len(), "nothing is added");
        let text: String = pieces.iter().map(|piece| armoured(piece)).collect();
        if text.len() <= MAX_FILE_BYTES {
            assert_eq!(split(text.as_bytes()), Ok(pieces), "a piece in armour is the same piece");
        }
    }
    let Ok(text) = std::str::from_utf8(bytes) else { return };
    let mut parts = text.splitn(3, '\n');
    let (first, second, third) = (parts.next().unwrap_or(""), parts.next().unwrap_or(""), parts.next().unwrap_or(""));
    if let Some(name) = StoreName::parse(["vcek", first, second]) {
        assert!(matches!(name.hwid.len(), 8 | 64));
        let said = name.tcb.map_or_else(|| "vcek.der".to_owned(), |tcb| format!("{}_vcek.der", tcb_name(&tcb)));
        assert_eq!(said, second, "one TCB, one name");
    }
    let _ = parse_tcb(text);
    for family in Family::ALL {
        let Ok(key) = ChipTcb::parse(family, first, third) else { continue };
        assert_eq!(key.hwid().len(), family.hwid_len());
        assert!(key.tcb().fmc.is_some() == (family == Family::Turin), "{key}");
        let path = Request::Vcek(key.clone()).path();
        assert!(path.starts_with("/vcek/v1/") && path.bytes().all(|b| b.is_ascii_alphanumeric() || b"/?&=_".contains(&b)), "{path}");
        let arguments = key.arguments();
        let mut words = arguments.split(' ').skip(1).step_by(2);
        let (Some(of), Some(chip), Some(tcb)) = (words.next(), words.next(), words.next()) else { panic!("{arguments}") };
        assert_eq!(ChipTcb::parse(of.parse().expect("a family"), chip, tcb), Ok(key), "what is shown can be typed");
    }
});

fn armoured(der: &[u8]) -> String {
    format!("-----BEGIN CERTIFICATE-----\n{}\n-----END CERTIFICATE-----\n", data_encoding::BASE64.encode(der))
}

fn seeds() -> Vec<Vec<u8>> {
    let mixed = format!("{}-----BEGIN X509 CRL-----\nMAA=\n-----END X509 CRL-----\n", armoured(&[0x30, 0]));
    let legacy = format!("{}\nbl03_tee00_snp08_ucode115_vcek.der\nbootloader=3,tee=0,snp=8,microcode=115", "ab".repeat(64));
    let turin = "0102030405060708\nbl03_tee02_snp05_ucode97_fmc01_vcek.der\nfmc=1,bootloader=3,tee=2,snp=5,microcode=97".to_owned();
    let any = "0102030405060708\nvcek.der\n".to_owned();
    let key = "-----BEGIN PRIVATE KEY-----\nMAA=\n-----END PRIVATE KEY-----\n".to_owned();
    let made = [mixed, legacy, turin, any, key].map(String::into_bytes);
    let real = vectors(&[
        "snp/virtee-sev/vcek_turin.der",
        "snp/dstack/sev_snp_vcek.pem",
        "snp/virtee-sev/cert_chain_turin",
        "snp/roots/ask_ark_milan.pem",
    ]);
    made.into_iter().chain(real).collect()
}
