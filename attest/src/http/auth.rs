//! `POST /kbs/v0/auth`: hands out a challenge whose state travels in the cookie.

use std::sync::Arc;

use axum::extract::State;
use axum::http::header::{CACHE_CONTROL, CONTENT_TYPE, SET_COOKIE};
use axum::response::IntoResponse;
use coffer_protocol::{Challenge, Nonce, Request, Tee};

use super::Service;
use super::extract::Typed;
use super::problem::Problem;
use crate::kek::random;
use crate::reason::{Reason, Values};
use crate::session::{CHALLENGE_TTL_S, Challenged, set_cookie};

/// Any client of protocol 0.4.0 with SNP gets a challenge; nothing is stored.
pub async fn auth(State(service): State<Arc<Service>>, Typed(request): Typed<Request>) -> Result<impl IntoResponse, Problem> {
    if let Tee::Other(got) = &request.tee {
        let why = format!("tee is `{got}`, this service judges `snp`");
        return Err(Problem::refuse(Reason::Tee, &why).with_values(Some(Values::new(&"snp", got))));
    }
    let nonce = Nonce::new(random().map_err(|e| Problem::internal(&e))?);
    let state =
        Challenged { epoch: service.epoch, expires_at: service.uptime_s().saturating_add(CHALLENGE_TTL_S), nonce, coffer: request.coffer };
    let cookie = service.cookies.seal(&state).map_err(|e| Problem::internal(&e))?;
    let headers = [
        (SET_COOKIE, set_cookie(&cookie, CHALLENGE_TTL_S)),
        (CONTENT_TYPE, "application/json".to_owned()),
        (CACHE_CONTROL, "no-store".to_owned()),
    ];
    Ok((headers, Challenge { nonce, coffer: request.coffer }.to_bytes()))
}
