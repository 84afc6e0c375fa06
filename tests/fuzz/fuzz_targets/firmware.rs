//! Firmware files given to `coffer base`.
#![no_main]

use coffer_measure::Firmware;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| {
    if let Ok(firmware) = Firmware::parse(bytes) {
        let _ = (firmware.sections(), firmware.hash_table_area(), firmware.reset_eip());
    }
});
