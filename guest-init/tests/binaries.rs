//! What the two programs are, seen from outside.

use std::fs;
use std::process::Command;

const PRODUCTION: &str = env!("CARGO_BIN_EXE_coffer-init");
const SIMULATED: &str = env!("CARGO_BIN_EXE_coffer-init-simulated");

/// Words that only code for the simulator's port, or only code for AMD hardware, needs.
/// (The port's own name is compared with immediate operands in an optimised build, so it can be in neither.)
const SIMULATOR_WORDS: [&str; 2] = ["/sys/class/virtio-ports", "a certificate table"];
const HARDWARE_WORDS: [&str; 2] = ["/dev/sev-guest", "/sys/kernel/config/tsm/report"];

fn has(program: &str, word: &str) -> bool {
    let bytes = fs::read(program).expect("the program is readable");
    bytes.windows(word.len()).any(|window| window == word.as_bytes())
}

#[test]
fn the_production_program_holds_no_simulator_code() {
    for word in SIMULATOR_WORDS {
        assert!(has(SIMULATED, word), "the test looks for the wrong word: {word}");
        assert!(!has(PRODUCTION, word), "{word}");
    }
    assert!(!has(PRODUCTION, "org.coffer.asp"));
}

#[test]
fn the_simulated_program_reaches_no_hardware() {
    for word in HARDWARE_WORDS {
        assert!(has(PRODUCTION, word), "the test looks for the wrong word: {word}");
        assert!(!has(SIMULATED, word), "{word}");
    }
}

#[test]
fn neither_does_anything_but_refuse_outside_a_guest() {
    for program in [PRODUCTION, SIMULATED] {
        let output = Command::new(program).output().expect("it runs");
        assert_eq!(output.status.code(), Some(2), "{program}");
        let said = String::from_utf8_lossy(&output.stderr);
        assert!(said.starts_with("coffer-init: runs only as process 1 ") && said.contains("hint: "), "{said}");
    }
}
