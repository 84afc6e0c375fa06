//! Random ids and pauses.

use std::time::Duration;

/// Eight random bytes; should the operating system have none, bytes of the clock: an id names a line in the log and opens nothing.
fn bytes() -> [u8; 8] {
    let mut bytes = [0; 8];
    if getrandom::fill(&mut bytes).is_err() {
        let nanos = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).map_or(0, |d| d.subsec_nanos());
        bytes[..4].copy_from_slice(&nanos.to_be_bytes());
    }
    bytes
}

/// What the log has a refusal under: `g-` and 16 hexadecimal digits.
#[must_use]
pub fn id() -> String {
    format!("g-{}", data_encoding::HEXLOWER.encode(&bytes()))
}

/// Between half and one and a half of a pause, so that gates do not come all at once.
#[must_use]
pub fn jittered(pause: Duration) -> Duration {
    let [high, low, ..] = bytes();
    pause.mul_f64(0.5 + f64::from(u16::from_be_bytes([high, low])) / f64::from(u16::MAX))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_differ_and_pauses_stay_near() {
        assert_ne!(id(), id());
        assert_eq!(id().len(), 18);
        for _ in 0..1000 {
            let pause = jittered(Duration::from_secs(2));
            assert!((Duration::from_secs(1)..=Duration::from_secs(3)).contains(&pause));
        }
    }
}
