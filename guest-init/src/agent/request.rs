//! What the workload may ask over its socket: two paths, `GET` only. Nothing in a request is ever reported on or signed.

/// The longest request line plus headers read, in bytes.
pub const MAX_HEAD_BYTES: usize = 8 * 1024;

/// What is asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Asked {
    /// `/v1/token`.
    Token,
    /// `/v1/status`.
    Status,
}

/// Why a request gets neither.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Unanswered {
    /// No HTTP/1.1 request head (RFC 9112).
    Malformed,
    /// Longer than [`MAX_HEAD_BYTES`].
    TooLong,
    /// Another path.
    NoSuchPath,
    /// Another method than `GET`.
    NoSuchMethod,
}

/// How many bytes the head has, its empty line included, once all of it has come.
///
/// # Errors
/// [`Unanswered::TooLong`] once it cannot be within the limit any more.
pub fn head_length(received: &[u8]) -> Result<Option<usize>, Unanswered> {
    match received.windows(4).position(|four| four == b"\r\n\r\n") {
        Some(at) if at + 4 <= MAX_HEAD_BYTES => Ok(Some(at + 4)),
        None if received.len() < MAX_HEAD_BYTES => Ok(None),
        _ => Err(Unanswered::TooLong),
    }
}

/// Reads a head. Total: any bytes give a request or the reason why not.
///
/// # Errors
/// See [`Unanswered`].
pub fn parse(head: &[u8]) -> Result<Asked, Unanswered> {
    let text = str::from_utf8(head).map_err(|_| Unanswered::Malformed)?;
    let text = text.strip_suffix("\r\n\r\n").ok_or(Unanswered::Malformed)?;
    let mut lines = text.split("\r\n");
    let (method, path) = request_line(lines.next().unwrap_or_default()).ok_or(Unanswered::Malformed)?;
    if !lines.all(is_header) {
        return Err(Unanswered::Malformed);
    }
    let asked = match path {
        "/v1/token" => Asked::Token,
        "/v1/status" => Asked::Status,
        _ => return Err(Unanswered::NoSuchPath),
    };
    if method == "GET" { Ok(asked) } else { Err(Unanswered::NoSuchMethod) }
}

/// Method and target of `METHOD target HTTP/1.1`.
fn request_line(line: &str) -> Option<(&str, &str)> {
    let mut parts = line.split(' ');
    let (method, target, version) = (parts.next()?, parts.next()?, parts.next()?);
    let well_formed = is_token(method) && target.starts_with('/') && target.bytes().all(|b| b.is_ascii_graphic());
    (well_formed && matches!(version, "HTTP/1.1" | "HTTP/1.0") && parts.next().is_none()).then_some((method, target))
}

/// `name: value` without control characters; no folding.
fn is_header(line: &str) -> bool {
    let Some((name, value)) = line.split_once(':') else { return false };
    is_token(name) && value.chars().all(|c| c == '\t' || !c.is_control())
}

/// RFC 9110, section 5.6.2.
fn is_token(text: &str) -> bool {
    !text.is_empty() && text.bytes().all(|b| b.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&b))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn two_paths_are_answered() {
        let asks = |line: &str| parse(format!("{line}\r\nHost: localhost\r\nAccept: */*\r\n\r\n").as_bytes());
        assert_eq!(asks("GET /v1/token HTTP/1.1"), Ok(Asked::Token));
        assert_eq!(asks("GET /v1/status HTTP/1.0"), Ok(Asked::Status));
        for path in
            ["/", "/v1/token/", "/v1/token?a=b", "/v1/report", "/v1/sign", "/v1/../v1/token", "/V1/token", "/v1/%74oken", "//v1/token"]
        {
            assert_eq!(asks(&format!("GET {path} HTTP/1.1")), Err(Unanswered::NoSuchPath), "{path}");
        }
        for method in ["POST", "PUT", "HEAD", "get", "DELETE", "OPTIONS"] {
            assert_eq!(asks(&format!("{method} /v1/token HTTP/1.1")), Err(Unanswered::NoSuchMethod), "{method}");
        }
    }

    #[test]
    fn what_is_no_request_is_malformed() {
        for head in [
            "",
            "\r\n\r\n",
            "GET /v1/token\r\n\r\n",
            "GET  /v1/token HTTP/1.1\r\n\r\n",
            "GET /v1/token HTTP/1.1 x\r\n\r\n",
            "GET /v1/token HTTP/2.0\r\n\r\n",
            "GET http://localhost/v1/token HTTP/1.1\r\n\r\n",
            "GET /v1/token HTTP/1.1\r\nno colon\r\n\r\n",
            "GET /v1/token HTTP/1.1\r\nHost : a\r\n\r\n",
            "GET /v1/token HTTP/1.1\r\n folded: a\r\n\r\n",
            "GET /v1/token HTTP/1.1\r\nHost: a\nEvil: b\r\n\r\n",
            "GET /v1/token HTTP/1.1\r\nHost: a\r\n",
            "G\u{e4}T /v1/token HTTP/1.1\r\n\r\n",
        ] {
            assert_eq!(parse(head.as_bytes()), Err(Unanswered::Malformed), "{head:?}");
        }
    }

    #[test]
    fn a_head_ends_at_its_empty_line_or_is_too_long() {
        assert_eq!(head_length(b"GET / HTTP/1.1\r\n"), Ok(None));
        assert_eq!(head_length(b"GET / HTTP/1.1\r\n\r\nmore"), Ok(Some(18)));
        assert_eq!(head_length(&[b'x'; MAX_HEAD_BYTES - 1]), Ok(None));
        assert_eq!(head_length(&[b'x'; MAX_HEAD_BYTES]), Err(Unanswered::TooLong));
    }

    proptest! {
        #[test]
        fn reading_is_total(bytes: Vec<u8>, tail: String) {
            let _ = parse(&bytes);
            let _ = head_length(&bytes);
            let _ = parse(format!("GET /v1/token HTTP/1.1\r\n{tail}\r\n\r\n").as_bytes());
        }

        #[test]
        fn only_two_paths_are_paths(path in "/[ -~]{0,20}") {
            if let Ok(asked) = parse(format!("GET {path} HTTP/1.1\r\n\r\n").as_bytes()) {
                prop_assert_eq!(path, match asked { Asked::Token => "/v1/token", Asked::Status => "/v1/status" });
            }
        }
    }
}
