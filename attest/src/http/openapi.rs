//! `GET /coffer/v1/openapi.json`: every route, its bodies and its answers. A test keeps it and the router equal.

use axum::http::header::CONTENT_TYPE;
use axum::response::IntoResponse;

/// OpenAPI 3.1, written by hand. `tests/service/openapi.rs` holds it against what the service answers.
const DOCUMENT: &str = include_str!("../../openapi.json");

/// The document.
pub async fn openapi() -> impl IntoResponse {
    ([(CONTENT_TYPE, "application/json")], DOCUMENT)
}

#[cfg(test)]
mod tests {
    use std::collections::{BTreeMap, BTreeSet};

    use serde_json::Value;

    use super::*;

    /// Methods and paths, which axum tells only in the `Debug` form of its router.
    fn routed() -> BTreeSet<String> {
        let text = format!("{:?}", crate::http::routes());
        let text = text.split("fallback_router: ").next().unwrap();
        let id = |part: &str| part.split(')').next().unwrap_or_default().to_owned();
        let mut paths = BTreeMap::new();
        let mut methods: BTreeMap<String, Vec<String>> = BTreeMap::new();
        for part in text.split("RouteId(").skip(1) {
            if let Some((_, rest)) = part.split_once("): \"") {
                paths.insert(id(part), rest.split('"').next().unwrap().replace("{*", "{"));
            } else if let Some((_, rest)) = part.split_once("): MethodRouter(MethodRouter { ") {
                let handlers = rest.split("fallback:").next().unwrap().split(", ");
                let there = handlers.filter_map(|handler| handler.strip_suffix(": BoxedHandler")).map(str::to_owned);
                methods.insert(id(part), there.collect());
            }
        }
        assert_eq!(paths.keys().collect::<Vec<_>>(), methods.keys().collect::<Vec<_>>(), "{text}");
        let of_path = |(id, path): (&String, &String)| methods[id].iter().map(|method| format!("{method} {path}")).collect::<Vec<_>>();
        paths.iter().flat_map(of_path).collect()
    }

    #[test]
    fn the_document_and_the_router_have_the_same_routes() {
        let document: Value = serde_json::from_str(DOCUMENT).unwrap();
        let mut documented = BTreeSet::new();
        for (path, item) in document["paths"].as_object().unwrap() {
            documented.extend(item.as_object().unwrap().keys().map(|method| format!("{method} {path}")));
        }
        let routed = routed();
        assert!(routed.len() > 40 && routed.contains("post /kbs/v0/attest"), "{routed:?}");
        let missing: Vec<_> = routed.difference(&documented).collect();
        let gone: Vec<_> = documented.difference(&routed).collect();
        assert!(missing.is_empty() && gone.is_empty(), "not in attest/openapi.json: {missing:?}; no route: {gone:?}");
    }
}
