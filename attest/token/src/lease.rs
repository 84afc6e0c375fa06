//! What a guest and a gate say to each other before the workload's bytes flow (DESIGN, Lease).
//!
//! TLS 1.3, ALPN [`ALPN`] or [`ALPN_ATTESTED`], no resumption. The guest authenticates with the raw public key (RFC 7250) of its boot,
//! P-384, the key its tokens are bound to (`cnf.jkt`); the gate with a certificate of the authority in the site config. Every message
//! is a frame: length as u32, big-endian, then so many bytes of JSON, at most [`MAX_FRAME_BYTES`].
//!
//! A connection begins with one [`Hello`] of the guest and one [`Answer`] of the gate. A guest whose site asks for an attested gate offers
//! [`ALPN_ATTESTED`] and nothing else: there the gate speaks before it, one [`Greeting`], and a guest that does not believe it has sent
//! nothing. On a [`Open::Lease`] connection [`Renewal`]s and answers follow, one for one, and the gate may say [`Answer::Refused`] at any
//! time, its last word. On a [`Open::Tunnel`] connection everything after an [`Answer::Admitted`] is the workload's, opaque, until either
//! side closes it.

use data_encoding::BASE64URL_NOPAD;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use crate::claims::Version1;
use crate::key::Jkt;

/// The application protocol (RFC 7301) of both kinds of connection, where the guest speaks first.
pub const ALPN: &[u8] = b"coffer-gate/1";

/// The same, where the gate proves itself first.
pub const ALPN_ATTESTED: &[u8] = b"coffer-gate-attested/1";

/// The longest frame, its four bytes of length not counted.
pub const MAX_FRAME_BYTES: usize = 16 * 1024;

/// Bytes of a frame's length.
pub const FRAME_HEADER_BYTES: usize = 4;

/// A gate's first frame under [`ALPN_ATTESTED`], sent unasked as soon as hands are shaken.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Greeting {
    /// Always 1.
    pub v: Version1,
    /// The gate's own job token, as in [`Answer::Admitted`].
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub gate_token: Option<String>,
}

/// A guest's first frame.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Hello {
    /// Always 1.
    pub v: Version1,
    /// What the connection is for.
    pub open: Open,
    /// The newest job token.
    pub token: String,
    /// The workload's node key, whose thumbprint the token has as `node_jkt`. On a lease connection, where there is one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub node: Option<NodeKey>,
}

/// What a connection is for.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Open {
    /// To renew the lease, and to hear at once when it ends.
    Lease,
    /// To carry one connection of the workload.
    Tunnel,
}

/// A newer token on a lease connection.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Renewal {
    /// The newest job token.
    pub token: String,
}

/// A gate's answer.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", tag = "answer", deny_unknown_fields)]
pub enum Answer {
    /// The site is leased.
    Admitted {
        /// For how many seconds from now, unless a newer token comes.
        lease_seconds: u64,
        /// The gate's own job token, role `superlink`, whose `node_jkt` is the key of the gate's certificate on this connection.
        /// Where the gate runs in a confidential VM.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        gate_token: Option<String>,
    },
    /// It is not, or no longer. The connection is closed after it.
    Refused {
        /// The reason's name; see the operator's guide.
        code: String,
        /// One line for people.
        detail: String,
        /// What the gate's log has it under.
        id: String,
        /// When trying again makes sense, in seconds.
        retry_after_seconds: u64,
    },
}

/// A workload's node key, a P-384 public key as a JWK (RFC 7517, RFC 7518 section 6.2).
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct NodeKey {
    kty: String,
    crv: String,
    x: String,
    y: String,
}

/// A node key is no point of P-384 in its one text form.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("node key is not a P-384 JWK {{kty, crv, x, y}}")]
pub struct NodeKeyError;

impl NodeKey {
    /// Bytes of an uncompressed point (SEC 1, section 2.3.3): 04, x, y.
    pub const SEC1_LEN: usize = 97;

    /// Takes an uncompressed point.
    ///
    /// # Errors
    /// If it is not on the curve.
    pub fn from_sec1(point: &[u8]) -> Result<Self, NodeKeyError> {
        p384::PublicKey::from_sec1_bytes(point).map_err(|_| NodeKeyError)?;
        let (Some(x), Some(y), Self::SEC1_LEN) = (point.get(1..49), point.get(49..97), point.len()) else { return Err(NodeKeyError) };
        let text = |half: &[u8]| BASE64URL_NOPAD.encode(half);
        Ok(Self { kty: "EC".to_owned(), crv: "P-384".to_owned(), x: text(x), y: text(y) })
    }

    /// The uncompressed point.
    ///
    /// # Errors
    /// If what was received is no point of P-384.
    pub fn to_sec1(&self) -> Result<[u8; Self::SEC1_LEN], NodeKeyError> {
        if self.kty != "EC" || self.crv != "P-384" || self.x.len() != 64 || self.y.len() != 64 {
            return Err(NodeKeyError);
        }
        let mut point = [4; Self::SEC1_LEN];
        for (text, half) in [(&self.x, 1..49), (&self.y, 49..97)] {
            let bytes = BASE64URL_NOPAD.decode(text.as_bytes()).map_err(|_| NodeKeyError)?;
            point[half].copy_from_slice(&bytes);
        }
        p384::PublicKey::from_sec1_bytes(&point).map_err(|_| NodeKeyError)?;
        Ok(point)
    }

    /// RFC 7638 thumbprint: what a token has as `node_jkt`.
    ///
    /// # Errors
    /// If what was received is no point of P-384.
    pub fn thumbprint(&self) -> Result<Jkt, NodeKeyError> {
        let point = self.to_sec1()?;
        Ok(Jkt::of_ec("P-384", &point[1..49], &point[49..97]))
    }
}

/// A message cannot be sent, or what was received is none.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum FrameError {
    /// Longer than any of ours.
    #[error("frame is {got} bytes long, at most {MAX_FRAME_BYTES} are read")]
    TooLong {
        /// Its length in bytes.
        got: usize,
    },
    /// Not of the expected shape.
    #[error("frame does not parse: {0}")]
    Json(#[from] serde_json::Error),
}

/// One message as a frame.
///
/// # Errors
/// See [`FrameError`].
pub fn to_frame(message: &impl Serialize) -> Result<Vec<u8>, FrameError> {
    let mut frame = vec![0; FRAME_HEADER_BYTES];
    serde_json::to_writer(&mut frame, message)?;
    let length = frame.len() - FRAME_HEADER_BYTES;
    match u32::try_from(length) {
        Ok(header) if length <= MAX_FRAME_BYTES => frame[..FRAME_HEADER_BYTES].copy_from_slice(&header.to_be_bytes()),
        _ => return Err(FrameError::TooLong { got: length }),
    }
    Ok(frame)
}

/// How many bytes follow a frame's header.
///
/// # Errors
/// [`FrameError::TooLong`].
pub const fn frame_length(header: [u8; FRAME_HEADER_BYTES]) -> Result<usize, FrameError> {
    let got = u32::from_be_bytes(header) as usize;
    if got > MAX_FRAME_BYTES { Err(FrameError::TooLong { got }) } else { Ok(got) }
}

/// The message in a frame's body. Total: any bytes give a message or an error.
///
/// # Errors
/// See [`FrameError`].
pub fn from_frame<T: DeserializeOwned>(body: &[u8]) -> Result<T, FrameError> {
    if body.len() > MAX_FRAME_BYTES {
        return Err(FrameError::TooLong { got: body.len() });
    }
    Ok(serde_json::from_slice(body)?)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn point() -> Vec<u8> {
        let secret = p384::SecretKey::from_slice(&[7; 48]).expect("a scalar");
        secret.public_key().to_sec1_bytes().to_vec()
    }

    #[test]
    fn messages_round_trip_in_their_one_form() {
        let node = NodeKey::from_sec1(&point()).expect("a point");
        let hello = Hello { v: Version1, open: Open::Lease, token: "a.b.c".into(), node: Some(node) };
        let frame = to_frame(&hello).expect("a frame");
        let header = [frame[0], frame[1], frame[2], frame[3]];
        assert_eq!(frame_length(header).expect("a length"), frame.len() - FRAME_HEADER_BYTES);
        assert_eq!(from_frame::<Hello>(&frame[FRAME_HEADER_BYTES..]).expect("a hello"), hello);
        let admitted = Answer::Admitted { lease_seconds: 90, gate_token: None };
        assert_eq!(serde_json::to_string(&admitted).expect("json"), r#"{"answer":"admitted","lease_seconds":90}"#);
        assert!(from_frame::<Answer>(br#"{"answer":"admitted","lease_seconds":90,"more":1}"#).is_err());
        let greeting = Greeting { v: Version1, gate_token: Some("a.b.c".into()) };
        assert_eq!(serde_json::to_string(&greeting).expect("json"), r#"{"v":1,"gate_token":"a.b.c"}"#);
        assert_eq!(from_frame::<Greeting>(br#"{"v":1}"#).expect("a greeting").gate_token, None);
        assert!(from_frame::<Greeting>(br#"{"v":2}"#).is_err() && from_frame::<Greeting>(br#"{"v":1,"more":1}"#).is_err());
        assert!(from_frame::<Hello>(br#"{"v":2,"open":"lease","token":""}"#).is_err());
    }

    #[test]
    fn a_node_key_is_a_point_of_p384_in_one_form() {
        let point = point();
        let key = NodeKey::from_sec1(&point).expect("a point");
        assert_eq!(key.to_sec1().expect("the point").as_slice(), point.as_slice());
        assert_eq!(key.thumbprint().expect("a thumbprint"), Jkt::of_ec("P-384", &point[1..49], &point[49..]));
        let mut off = point.clone();
        off[96] ^= 1;
        assert_eq!(NodeKey::from_sec1(&off), Err(NodeKeyError));
        let other = NodeKey { crv: "P-256".into(), ..key };
        assert_eq!(other.to_sec1(), Err(NodeKeyError));
    }

    #[test]
    fn frames_over_the_limit_are_neither_made_nor_read() {
        let long = Renewal { token: "x".repeat(MAX_FRAME_BYTES) };
        assert!(matches!(to_frame(&long), Err(FrameError::TooLong { .. })));
        assert!(frame_length([0, 1, 0, 0]).is_err());
        assert!(from_frame::<Renewal>(&vec![b' '; MAX_FRAME_BYTES + 1]).is_err());
    }

    proptest! {
        #[test]
        fn reading_is_total(body: Vec<u8>, header: [u8; 4]) {
            let _ = frame_length(header);
            let _ = from_frame::<Hello>(&body);
            let _ = from_frame::<Greeting>(&body);
            let _ = from_frame::<Answer>(&body);
            let _ = from_frame::<NodeKey>(&body).map(|key| key.thumbprint());
        }
    }
}
