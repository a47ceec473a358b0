//! The REST API on a UNIX socket.
//!
//! Bodies are the types of `sluice_api::rest`, `status` and `placement`; every error is a `Problem`
//! (RFC 9457). Runs on the agent's one thread and reaches its state through the engine's commands only.
//!
//! | Method and path | Body → answer |
//! |---|---|
//! | `GET /v1/healthz` | → `rest::Healthz` |
//! | `GET /v1/status` | → `status::NodeStatus` |
//! | `GET /v1/documents` | → `rest::DocumentList` |
//! | `GET /v1/documents/{name}` | → the text in force, `application/yaml` or `application/json` |
//! | `PUT /v1/documents/{name}?dry_run=` | YAML or JSON document → `rest::Applied`; 409 by the generation rule, 422 with field errors |
//! | `DELETE /v1/documents/{name}?dry_run=` | → `rest::Applied` |
//! | `POST /v1/diff` | YAML or JSON document → `rest::Diff` |
//! | `POST /v1/drain`, `POST /v1/undrain` | `rest::DrainOrder`, `rest::DrainRequest` → `rest::DrainReport` |
//! | `GET /v1/stats` | → `rest::NodeStats` |
//! | `GET /v1/metrics` | → Prometheus text |
//! | `POST /v1/trace` | `rest::TraceRequest` → `rest::Trace` |
//! | `GET /v1/events?after=N&wait_ms=M` | → `rest::EventList`, events after number N, waiting for one at most M ms |
//! | `POST /v1/proxy/upgrade` | → `rest::Upgraded` |
//! | `POST /v1/purge` | `proxy_admin::Purge` → 204, 502 `proxy` without a running proxy |
//! | `POST /v1/release` | takes everything off this node (XDP, pins, addresses, proxy) and ends the agent → 204 |
//! | `GET /v1/openapi.json` | → the OpenAPI document |

mod handlers;
mod metrics;
mod openapi;
mod problem;

use crate::driver::Handle;
use crate::host::Host;
use axum::Router;
use axum::extract::DefaultBodyLimit;
use axum::routing::{get, post};
use sluice_api::check::limits::JSON_BYTES_MAX;

pub use openapi::document as openapi_document;

/// Largest body of a request that is not a document, bytes.
pub const SMALL_BODY_BYTES_MAX: usize = 64 << 10;

/// Every route: method and path as in the OpenAPI document.
pub const ROUTES: [(&str, &str); 17] = [
    ("get", "/v1/healthz"),
    ("get", "/v1/status"),
    ("get", "/v1/documents"),
    ("get", "/v1/documents/{name}"),
    ("put", "/v1/documents/{name}"),
    ("delete", "/v1/documents/{name}"),
    ("post", "/v1/diff"),
    ("post", "/v1/drain"),
    ("post", "/v1/undrain"),
    ("get", "/v1/stats"),
    ("get", "/v1/metrics"),
    ("post", "/v1/trace"),
    ("get", "/v1/events"),
    ("post", "/v1/proxy/upgrade"),
    ("post", "/v1/purge"),
    ("post", "/v1/release"),
    ("get", "/v1/openapi.json"),
];

/// The API over an engine.
pub fn router<H: Host + Send + 'static>(engine: Handle<H>) -> Router {
    let documents = get(handlers::document_get::<H>)
        .put(handlers::document_put::<H>)
        .delete(handlers::document_delete::<H>)
        .layer(DefaultBodyLimit::max(JSON_BYTES_MAX));
    Router::new()
        .route("/v1/healthz", get(handlers::healthz::<H>))
        .route("/v1/status", get(handlers::status::<H>))
        .route("/v1/documents", get(handlers::document_list::<H>))
        .route("/v1/documents/{name}", documents)
        .route("/v1/diff", post(handlers::diff::<H>).layer(DefaultBodyLimit::max(JSON_BYTES_MAX)))
        .route("/v1/drain", post(handlers::drain::<H>))
        .route("/v1/undrain", post(handlers::undrain::<H>))
        .route("/v1/stats", get(handlers::stats::<H>))
        .route("/v1/metrics", get(handlers::metrics::<H>))
        .route("/v1/trace", post(handlers::trace::<H>))
        .route("/v1/events", get(handlers::events::<H>))
        .route("/v1/proxy/upgrade", post(handlers::upgrade::<H>))
        .route("/v1/purge", post(handlers::purge::<H>))
        .route("/v1/release", post(handlers::release::<H>))
        .route("/v1/openapi.json", get(handlers::openapi))
        .fallback(handlers::no_route)
        .method_not_allowed_fallback(handlers::no_method)
        .layer(DefaultBodyLimit::max(SMALL_BODY_BYTES_MAX))
        .with_state(engine)
}
