//! Tokens, key sets and admin calls as a peer presents them.
#![no_main]

use coffer_token::{Jwks, admin};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| {
    if let Ok(keys) = Jwks::parse(bytes) {
        let again = keys.to_bytes().expect("a key set can be written");
        let _ = Jwks::parse(&again).expect("what we write, we read");
    }
    if let Ok(text) = std::str::from_utf8(bytes) {
        let _ = admin::named_key(text);
        let _ = admin::AdminKey::from_pem(text);
    }
});
