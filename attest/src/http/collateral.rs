//! `/coffer/v1/collateral…`: admins fill the store of certificates and revocation lists, have it filled, and look at it.

use std::sync::Arc;

use axum::Json;
use axum::extract::State;
use axum::http::StatusCode;
use coffer_evidence::{Family, TcbVersion, VekKind};
use serde::{Deserialize, Serialize};

use super::extract::{Body, Nothing, Signed};
use super::problem::Problem;
use super::{Service, blocking};
use crate::collateral::bundle::MAX_FILE_BYTES;
use crate::collateral::key::{ChipTcb, Request};
use crate::collateral::{Keep, Missing, Source, Status, Taken};
use crate::reason::Reason;
use crate::store::{CollateralKind, CollateralRow, Scope, StoreError};

/// Pieces of one import.
const MAX_PIECES: usize = 256;
/// Fetches of one call.
const MAX_WISHES: usize = 64;
/// Characters of a piece's name that are kept.
const MAX_NAME: usize = 300;

/// `POST /coffer/v1/collateral`: pieces under the names the caller gives them.
#[derive(Debug)]
pub struct ImportBody(Vec<(String, Vec<u8>)>);

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct RawImport {
    pieces: Vec<RawPiece>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct RawPiece {
    name: String,
    /// Standard base64.
    der: String,
}

impl Body for ImportBody {
    /// The largest revocation list in base64, and many certificates.
    const LIMIT: usize = 4 << 20;

    fn parse(bytes: &[u8]) -> Result<Self, Problem> {
        let raw: RawImport = serde_json::from_slice(bytes).map_err(|e| malformed(&e))?;
        if raw.pieces.len() > MAX_PIECES {
            return Err(malformed(&format!("{} pieces, expected at most {MAX_PIECES}", raw.pieces.len())));
        }
        let piece = |RawPiece { name, der }: RawPiece| {
            let der = data_encoding::BASE64.decode(der.as_bytes()).map_err(|e| malformed(&format!("piece is no base64: {e}")))?;
            if der.len() > MAX_FILE_BYTES {
                return Err(malformed(&format!("piece has {} bytes, expected at most {MAX_FILE_BYTES}", der.len())));
            }
            Ok((name.chars().take(MAX_NAME).collect(), der))
        };
        raw.pieces.into_iter().map(piece).collect::<Result<_, _>>().map(Self)
    }
}

/// What became of each piece, in their order.
#[derive(Debug, Serialize)]
pub struct Imported {
    pieces: Vec<Outcome>,
}

#[derive(Debug, Serialize)]
struct Outcome {
    name: String,
    outcome: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    what: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    reason: Option<String>,
}

/// `POST /coffer/v1/collateral/fetch`.
#[derive(Debug)]
pub struct FetchBody(Vec<Request>);

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct RawFetch {
    /// Families whose chains and revocation list are wanted.
    #[serde(default)]
    families: Vec<Family>,
    /// Chips at a TCB.
    #[serde(default)]
    vceks: Vec<RawVcek>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct RawVcek {
    family: Family,
    /// Hexadecimal.
    chip: String,
    tcb: TcbVersion,
}

impl Body for FetchBody {
    const LIMIT: usize = 64 << 10;

    fn parse(bytes: &[u8]) -> Result<Self, Problem> {
        let raw: RawFetch = serde_json::from_slice(bytes).map_err(|e| malformed(&e))?;
        let of_family = |family| [Request::Chain(family, VekKind::Vcek), Request::Chain(family, VekKind::Vlek), Request::Crl(family)];
        let mut wishes: Vec<Request> = raw.families.into_iter().flat_map(of_family).collect();
        for RawVcek { family, chip, tcb } in raw.vceks {
            let hwid = data_encoding::HEXLOWER.decode(chip.as_bytes()).map_err(|e| malformed(&format!("chip is no hexadecimal: {e}")))?;
            wishes.push(Request::Vcek(ChipTcb::new(family, &hwid, tcb).map_err(|e| malformed(&e))?));
        }
        match wishes.len() {
            0 => Err(malformed(&"neither families nor vceks named")),
            1..=MAX_WISHES => Ok(Self(wishes)),
            more => Err(malformed(&format!("{more} fetches, expected at most {MAX_WISHES}"))),
        }
    }
}

/// What was put in line, as `waiting`, `fetched` and `errors` of the status name it.
#[derive(Debug, Serialize)]
pub struct Asked {
    asked: Vec<String>,
}

/// Two codes for a guest: what is on its way is worth asking for again, the rest is not.
impl From<Missing> for Problem {
    fn from(missing: Missing) -> Self {
        let reason = if missing.retry_after_s.is_some() { Reason::CollateralPending } else { Reason::CollateralMissing };
        Self::refuse(reason, &missing).retry_after(missing.retry_after_s)
    }
}

impl Keep for Service {
    fn keep(&self, put: &[CollateralRow], drop: &[(CollateralKind, Family, String)]) -> Result<(), StoreError> {
        if put.is_empty() && drop.is_empty() {
            return Ok(());
        }
        self.store().keep_collateral(put, drop)
    }
}

/// Verifies and takes in. One refused piece does not keep the others out.
pub async fn import(State(service): State<Arc<Service>>, signed: Signed<ImportBody>) -> Result<Json<Imported>, Problem> {
    signed.require(Scope::Collateral)?;
    let Signed { admin, body } = signed;
    blocking(&service, move |service| {
        let (names, ders): (Vec<String>, Vec<Vec<u8>>) = body.0.into_iter().unzip();
        let source = Source::Import(admin.name.clone());
        let taken = service.collateral().import(&ders, &source, service).map_err(|e| Problem::internal(&e))?;
        let new = taken.iter().filter(|taken| matches!(taken, Taken::New(_))).count();
        tracing::info!(by = %admin.name, pieces = taken.len(), new, "collateral imported");
        let outcome = |(name, taken)| match taken {
            Taken::New(what) => Outcome { name, outcome: "new", what: Some(what), reason: None },
            Taken::Known(what) => Outcome { name, outcome: "known", what: Some(what), reason: None },
            Taken::Refused(reason) => Outcome { name, outcome: "refused", what: None, reason: Some(reason) },
        };
        Ok(Json(Imported { pieces: names.into_iter().zip(taken).map(outcome).collect() }))
    })
    .await
}

/// Puts fetches in line; the answer does not wait for them.
pub async fn fetch(State(service): State<Arc<Service>>, signed: Signed<FetchBody>) -> Result<(StatusCode, Json<Asked>), Problem> {
    signed.require(Scope::Collateral)?;
    let Signed { admin, body } = signed;
    for wish in &body.0 {
        if !service.collateral().wish(wish) {
            let why = "this service makes no outgoing connections: [kds] enabled = false in coffer-attest.toml";
            return Err(Problem::tell(Reason::KeyServerOff, &why));
        }
        tracing::info!(by = %admin.name, %wish, "fetch asked for");
    }
    Ok((StatusCode::ACCEPTED, Json(Asked { asked: body.0.iter().map(ToString::to_string).collect() })))
}

/// Shows what there is.
pub async fn status(State(service): State<Arc<Service>>, signed: Signed<Nothing>) -> Result<Json<Status>, Problem> {
    signed.require(Scope::Collateral)?;
    blocking(&service, |service| Ok(Json(service.collateral().status()))).await
}

fn malformed(why: &dyn std::fmt::Display) -> Problem {
    Problem::tell(Reason::Malformed, why)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn bodies_are_bounded_and_their_chips_well_formed() {
        let fetch = |text: &str| FetchBody::parse(text.as_bytes()).map(|body| body.0.len());
        assert_eq!(fetch(r#"{"families":["genoa","turin"]}"#).unwrap(), 6);
        let tcb = r#"{"bootloader":1,"tee":1,"snp":1,"microcode":1}"#;
        let vcek = |chip: &str| format!(r#"{{"vceks":[{{"family":"genoa","chip":"{chip}","tcb":{tcb}}}]}}"#);
        assert_eq!(fetch(&vcek(&"ab".repeat(64))).unwrap(), 1);
        for bad in ["{}", r#"{"families":["rome"]}"#, r#"{"all":true}"#, &vcek("ab"), &vcek(&"00".repeat(64)), &vcek("../../x")] {
            assert!(fetch(bad).is_err(), "{bad}");
        }
        let many = format!(r#"{{"families":[{}]}}"#, vec![r#""genoa""#; MAX_WISHES].join(","));
        assert!(fetch(&many).is_err());
        let pieces = |n: usize| format!(r#"{{"pieces":[{}]}}"#, vec![r#"{"name":"x","der":"MAA="}"#; n].join(","));
        assert_eq!(ImportBody::parse(pieces(MAX_PIECES).as_bytes()).unwrap().0.len(), MAX_PIECES);
        assert!(ImportBody::parse(pieces(MAX_PIECES + 1).as_bytes()).is_err());
    }

    proptest! {
        #[test]
        fn bodies_never_panic(bytes: Vec<u8>, text in r#"\{"(pieces|families|vceks)":\[[ -~]{0,80}\]\}"#) {
            for body in [bytes.as_slice(), text.as_bytes()] {
                let _ = ImportBody::parse(body);
                let _ = FetchBody::parse(body);
            }
        }
    }
}
