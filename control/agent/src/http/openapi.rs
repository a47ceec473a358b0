//! The OpenAPI document, made from the handlers and the types they speak.

use super::handlers;
use utoipa::OpenApi;

#[derive(OpenApi)]
#[openapi(
    info(
        title = "Sluice node agent",
        description = "HTTP/1.1 over the agent's UNIX socket. Errors are problem details (RFC 9457)."
    ),
    paths(
        handlers::healthz,
        handlers::status,
        handlers::document_list,
        handlers::document_get,
        handlers::document_put,
        handlers::document_delete,
        handlers::diff,
        handlers::drain,
        handlers::undrain,
        handlers::stats,
        handlers::metrics,
        handlers::trace,
        handlers::events,
        handlers::upgrade,
        handlers::purge,
        handlers::release,
        handlers::openapi,
    )
)]
struct Api;

/// The document as JSON text.
pub fn document() -> String {
    // Its types hold strings, numbers and maps with string keys: they always have a JSON form.
    Api::openapi().to_pretty_json().unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::http::ROUTES;

    #[test]
    fn every_route_is_in_the_document_and_nothing_else() {
        let document: serde_json::Value = serde_json::from_str(&document()).expect("JSON");
        let mut described: Vec<(String, String)> = Vec::new();
        for (path, item) in document["paths"].as_object().expect("paths") {
            for method in item.as_object().expect("item").keys() {
                described.push((method.clone(), path.clone()));
            }
        }
        let mut routes: Vec<(String, String)> =
            ROUTES.iter().map(|(m, p)| ((*m).into(), (*p).into())).collect();
        described.sort();
        routes.sort();
        assert_eq!(described, routes);
        assert!(document["components"]["schemas"]["NodeStatus"].is_object());
        assert!(document["components"]["schemas"]["Document"].is_object());
    }
}
