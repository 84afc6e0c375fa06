//! What the boot reads from its first token: the verdict it prints, and the time.

use data_encoding::BASE64URL_NOPAD;
use serde_json::Value;

/// The token is no JWT with an EAR's claims.
#[derive(Debug, thiserror::Error)]
#[error("attestation token has no readable {what}")]
pub struct VerdictError {
    what: &'static str,
}

/// The claims this boot looks at.
#[derive(Debug, PartialEq, Eq)]
pub struct Verdict {
    /// `submods.cpu0."ear.status"`: `affirming`, or what a stock service says.
    pub status: String,
    /// `iat`, Unix seconds.
    pub issued_at: u64,
    /// `exp`, Unix seconds.
    pub expires_at: u64,
}

impl Verdict {
    /// Reads the payload of a compact JWS. Says nothing about its signature.
    ///
    /// # Errors
    /// [`VerdictError`]. Total: any text gives a verdict or an error.
    pub fn read(token: &str) -> Result<Self, VerdictError> {
        let unreadable = |what| VerdictError { what };
        let payload = token.split('.').nth(1).ok_or(unreadable("payload"))?;
        let bytes = BASE64URL_NOPAD.decode(payload.as_bytes()).map_err(|_| unreadable("payload"))?;
        let claims: Value = serde_json::from_slice(&bytes).map_err(|_| unreadable("payload"))?;
        let number = |name| claims.get(name).and_then(Value::as_u64);
        let status = claims.pointer("/submods/cpu0/ear.status").and_then(Value::as_str);
        let status = status.filter(|s| (1..=20).contains(&s.len()) && s.bytes().all(|b| b.is_ascii_lowercase()));
        Ok(Self {
            status: status.ok_or(unreadable("ear.status"))?.to_owned(),
            issued_at: number("iat").ok_or(unreadable("iat"))?,
            expires_at: number("exp").ok_or(unreadable("exp"))?,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn token(claims: &str) -> String {
        format!("e30.{}.c2ln", BASE64URL_NOPAD.encode(claims.as_bytes()))
    }

    #[test]
    fn a_token_gives_status_and_times() {
        let verdict = Verdict::read(&token(r#"{"iat":7,"exp":9,"submods":{"cpu0":{"ear.status":"affirming"}}}"#));
        let expected = Verdict { status: "affirming".into(), issued_at: 7, expires_at: 9 };
        assert_eq!(verdict.expect("reads"), expected);
    }

    #[test]
    fn tokens_without_what_is_needed_are_refused() {
        for claims in [
            "{}",
            r#"{"iat":7,"exp":9}"#,
            r#"{"iat":-7,"exp":9,"submods":{"cpu0":{"ear.status":"affirming"}}}"#,
            r#"{"iat":7,"exp":9,"submods":{"cpu0":{"ear.status":"Affirming site=x"}}}"#,
            "[]",
        ] {
            assert!(Verdict::read(&token(claims)).is_err(), "{claims}");
        }
        assert!(Verdict::read("").is_err());
    }

    proptest! {
        #[test]
        fn reading_is_total(text: String, claims: String) {
            let _ = Verdict::read(&text);
            let _ = Verdict::read(&token(&claims));
        }
    }
}
