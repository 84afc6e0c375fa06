//! AMD's extensions of a VCEK or VLEK: the input is their values, in a certificate that is otherwise right.
#![no_main]

use coffer_evidence::{Certificate, VekExtensions, VekKind};
use coffer_fuzz::plant;
use libfuzzer_sys::fuzz_target;

/// The last arcs of AMD's extensions, in the order of the input: product, bootloader, tee, snp, microcode, FMC, HWID, CSP id.
const ARCS: [&[u8]; 8] = [&[2], &[3, 1], &[3, 2], &[3, 3], &[3, 8], &[3, 9], &[4], &[5]];

fuzz_target!(init: plant(made()), |bytes: &[u8]| {
    let values = split(bytes);
    let der = certificate(&values);
    let certificate = Certificate::from_der(&der).expect("a certificate around any values");
    assert_eq!(VekKind::of(&certificate), Some(VekKind::Vcek));
    let Ok(extensions) = VekExtensions::of(&certificate) else { return };
    assert!(values[..5].iter().all(Option::is_some), "the product and four levels are never made up");
    assert_eq!(extensions.tcb.fmc.is_some(), values[5].is_some(), "nor is an FMC");
    assert_eq!(extensions.hwid.is_some(), values[6].is_some());
    assert_eq!(extensions.csp_id.is_some(), values[7].is_some());
    assert!(extensions.hwid.is_none_or(|hwid| matches!(hwid.as_bytes().len(), 8 | 64)), "a hardware id has one of two lengths");
    assert!(extensions.product.is_ascii() && extensions.csp_id.is_none_or(|csp_id| csp_id.is_ascii()), "IA5");
    // A level is one byte, written the one way DER has for it.
    for (value, level) in values[1..5].iter().zip([extensions.tcb.bootloader, extensions.tcb.tee, extensions.tcb.snp, extensions.tcb.microcode]) {
        let written = if level < 0x80 { vec![2, 1, level] } else { vec![2, 2, 0, level] };
        assert_eq!(value.as_deref(), Some(&written[..]));
    }
});

/// Each value is a length byte and that many bytes; 255 leaves the extension out.
fn split(mut bytes: &[u8]) -> [Option<Vec<u8>>; 8] {
    ARCS.map(|_| {
        let (&length, rest) = bytes.split_first()?;
        if length == 0xFF {
            bytes = rest;
            return None;
        }
        let value = rest[..rest.len().min(length.into())].to_vec();
        bytes = &rest[value.len()..];
        Some(value)
    })
}

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

fn certificate(values: &[Option<Vec<u8>>; 8]) -> Vec<u8> {
    let algorithm = element(0x30, &[&[0x06, 0x01, 0x2A]]);
    let name = element(0x30, &[&element(0x31, &[&element(0x30, &[&[0x06, 3, 0x55, 4, 3], &element(0x0C, &[b"SEV-VCEK"])])])]);
    let validity = element(0x30, &[&element(0x17, &[b"200101000000Z"]), &element(0x17, &[b"270101000000Z"])]);
    let curve = element(0x30, &[&[0x06, 7, 0x2A, 0x86, 0x48, 0xCE, 0x3D, 2, 1], &[0x06, 5, 0x2B, 0x81, 4, 0, 0x22]]);
    let key = element(0x30, &[&curve, &element(0x03, &[&[0, 4], &[1; 96]])]);
    let extensions = ARCS.iter().zip(values).filter_map(|(arc, value)| {
        let oid = element(0x06, &[&[0x2B, 6, 1, 4, 1, 0x9C, 0x78, 1], arc]);
        Some(element(0x30, &[&oid, &element(0x04, &[value.as_deref()?])]))
    });
    let extensions: Vec<Vec<u8>> = extensions.collect();
    let extensions: Vec<&[u8]> = extensions.iter().map(Vec::as_slice).collect();
    let list = element(0xA3, &[&element(0x30, &[&extensions.concat()])]);
    let signed = element(0x30, &[&[0xA0, 3, 2, 1, 2], &[2, 1, 0], &algorithm, &name, &validity, &name, &key, &list]);
    element(0x30, &[&signed, &algorithm, &element(0x03, &[&[0, 1, 2, 3]])])
}

/// A Genoa's, a Turin's and a cloud provider's.
fn made() -> Vec<Vec<u8>> {
    let level = |level: u8| if level < 0x80 { vec![3, 2, 1, level] } else { vec![4, 2, 2, 0, level] };
    let text = |text: &str| [&[text.len() as u8 + 2, 0x16, text.len() as u8][..], text.as_bytes()].concat();
    let (absent, long, short) = (vec![0xFF], [vec![64], vec![7; 64]].concat(), [vec![8], vec![7; 8]].concat());
    let levels = [level(10), level(0), level(23), level(0xD9)].concat();
    vec![
        [text("Genoa"), levels.clone(), absent.clone(), long, absent.clone()].concat(),
        [text("Turin"), levels.clone(), level(1), short, absent.clone()].concat(),
        [text("Milan"), levels, absent.clone(), absent, text("CN=cc-us-east-2.amazonaws.com")].concat(),
    ]
}
