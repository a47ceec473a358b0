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
//! | `POST /v1/drain`, `POST /v1/undrain` | `rest::DrainRequest` → `rest::DrainReport` |
//! | `GET /v1/stats` | → `rest::NodeStats` |
//! | `GET /v1/metrics` | → Prometheus text |
//! | `POST /v1/trace` | `rest::TraceRequest` → `rest::Trace` |
//! | `GET /v1/events?after=N&wait_ms=M` | → `rest::EventList`, events after number N, waiting for one at most M ms |
//! | `POST /v1/proxy/upgrade` | → `rest::Upgraded` |
//! | `POST /v1/purge` | `proxy_admin::Purge` → 204, 502 `proxy` without a running proxy |
//! | `POST /v1/release` | takes everything off this node (XDP, pins, addresses, proxy) and ends the agent → 204 |
//! | `GET /v1/openapi.json` | → the OpenAPI document |
