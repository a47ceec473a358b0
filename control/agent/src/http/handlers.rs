//! One function per route. Bodies are read here, so that every refusal is a problem document.

use super::metrics as prometheus;
use super::openapi;
use super::problem::Refusal;
use crate::driver::Handle;
use crate::engine::{ApiError, Put};
use crate::host::Host;
use axum::Json;
use axum::body::Bytes;
use axum::extract::rejection::BytesRejection;
use axum::extract::{Path, RawQuery, State};
use axum::http::{HeaderMap, Method, StatusCode, Uri, header};
use axum::response::{IntoResponse, Response};
use serde::de::DeserializeOwned;
use sluice_api::proxy_admin::Purge;
use sluice_api::rest::{
    Applied, Diff, DocumentList, DrainOrder, DrainReport, DrainRequest, EventList, Healthz, NodeStats,
    Problem, Trace, TraceRequest, Upgraded,
};
use sluice_api::status::NodeStatus;
use std::time::Duration;

/// Longest wait of `GET /v1/events`, ms.
const WAIT_MS_MAX: u64 = 60_000;

type Body = Result<Bytes, BytesRejection>;
type Answer<T> = Result<Json<T>, Refusal>;

#[utoipa::path(get, path = "/v1/healthz", responses((status = 200, body = Healthz)))]
pub async fn healthz<H: Host + 'static>(State(engine): State<Handle<H>>) -> Answer<Healthz> {
    Ok(Json(engine.call(|e| e.healthz()).await?))
}

#[utoipa::path(get, path = "/v1/status", responses((status = 200, body = NodeStatus)))]
pub async fn status<H: Host + 'static>(State(engine): State<Handle<H>>) -> Answer<NodeStatus> {
    Ok(Json(engine.call(|e| e.status()).await?))
}

#[utoipa::path(get, path = "/v1/documents", responses((status = 200, body = DocumentList)))]
pub async fn document_list<H: Host + 'static>(State(engine): State<Handle<H>>) -> Answer<DocumentList> {
    Ok(Json(engine.call(|e| e.document_list()).await?))
}

#[utoipa::path(get, path = "/v1/documents/{name}", params(("name" = String, Path, description = "Document")),
    responses((status = 200, description = "Text in force", content_type = "application/yaml", body = String),
        (status = 404, content_type = "application/problem+json", body = Problem)))]
pub async fn document_get<H: Host + 'static>(
    State(engine): State<Handle<H>>,
    Path(name): Path<String>,
) -> Result<Response, Refusal> {
    let asked = name.clone();
    let text = engine.call(move |e| e.document_text(&asked)).await?;
    let text = text.ok_or_else(|| ApiError::NotFound(format!("there is no document {name:?}")))?;
    let json = text.iter().find(|b| !b.is_ascii_whitespace()) == Some(&b'{');
    let kind = if json { "application/json" } else { "application/yaml" };
    Ok(([(header::CONTENT_TYPE, kind)], text).into_response())
}

#[utoipa::path(put, path = "/v1/documents/{name}",
    params(("name" = String, Path, description = "Document"), ("dry_run" = Option<bool>, Query, description = "Change nothing")),
    request_body(content = sluice_api::placement::Document, content_type = "application/yaml"),
    responses((status = 200, body = Applied),
        (status = 409, description = "The generation rule", content_type = "application/problem+json", body = Problem),
        (status = 422, description = "Fields at fault", content_type = "application/problem+json", body = Problem)))]
pub async fn document_put<H: Host + 'static>(
    State(engine): State<Handle<H>>,
    Path(name): Path<String>,
    RawQuery(query): RawQuery,
    headers: HeaderMap,
    body: Body,
) -> Answer<Applied> {
    let dry_run = dry_run(query.as_deref())?;
    let text = document_body(&headers, body)?;
    let applied = engine.call(move |e| {
        let seen_us = e.now_us();
        e.put_document(&Put { name, text, dry_run, seen_us })
    });
    Ok(Json(applied.await??))
}

#[utoipa::path(delete, path = "/v1/documents/{name}",
    params(("name" = String, Path, description = "Document"), ("dry_run" = Option<bool>, Query, description = "Change nothing")),
    responses((status = 200, body = Applied), (status = 404, content_type = "application/problem+json", body = Problem),
        (status = 422, description = "Others need it", content_type = "application/problem+json", body = Problem)))]
pub async fn document_delete<H: Host + 'static>(
    State(engine): State<Handle<H>>,
    Path(name): Path<String>,
    RawQuery(query): RawQuery,
) -> Answer<Applied> {
    let dry_run = dry_run(query.as_deref())?;
    Ok(Json(engine.call(move |e| e.delete_document(&name, dry_run)).await??))
}

#[utoipa::path(post, path = "/v1/diff",
    request_body(content = sluice_api::placement::Document, content_type = "application/yaml"),
    responses((status = 200, body = Diff), (status = 409, content_type = "application/problem+json", body = Problem),
        (status = 422, content_type = "application/problem+json", body = Problem)))]
pub async fn diff<H: Host + 'static>(
    State(engine): State<Handle<H>>,
    headers: HeaderMap,
    body: Body,
) -> Answer<Diff> {
    let text = document_body(&headers, body)?;
    Ok(Json(engine.call(move |e| e.diff(&text)).await??))
}

#[utoipa::path(post, path = "/v1/drain", request_body = DrainOrder,
    responses((status = 200, body = DrainReport), (status = 404, content_type = "application/problem+json", body = Problem)))]
pub async fn drain<H: Host + 'static>(
    State(engine): State<Handle<H>>,
    headers: HeaderMap,
    body: Body,
) -> Answer<DrainReport> {
    let order: DrainOrder = json_body(&headers, body)?;
    let request = DrainRequest { kind: order.kind, name: order.name };
    Ok(Json(engine.call(move |e| e.drain_for(&request, true, order.deadline_ms)).await??))
}

#[utoipa::path(post, path = "/v1/undrain", request_body = DrainRequest, responses((status = 200, body = DrainReport)))]
pub async fn undrain<H: Host + 'static>(
    State(engine): State<Handle<H>>,
    headers: HeaderMap,
    body: Body,
) -> Answer<DrainReport> {
    let request: DrainRequest = json_body(&headers, body)?;
    Ok(Json(engine.call(move |e| e.drain(&request, false)).await??))
}

#[utoipa::path(get, path = "/v1/stats", responses((status = 200, body = NodeStats)))]
pub async fn stats<H: Host + 'static>(State(engine): State<Handle<H>>) -> Answer<NodeStats> {
    Ok(Json(engine.call(|e| e.stats()).await?))
}

#[utoipa::path(get, path = "/v1/metrics",
    responses((status = 200, description = "Prometheus text format", content_type = "text/plain", body = String)))]
pub async fn metrics<H: Host + 'static>(State(engine): State<Handle<H>>) -> Result<Response, Refusal> {
    let (stats, status) = engine.call(|e| (e.stats(), e.status())).await?;
    Ok(([(header::CONTENT_TYPE, prometheus::CONTENT_TYPE)], prometheus::text(&stats, &status))
        .into_response())
}

#[utoipa::path(post, path = "/v1/trace", request_body = TraceRequest,
    responses((status = 200, body = Trace), (status = 502, content_type = "application/problem+json", body = Problem)))]
pub async fn trace<H: Host + 'static>(
    State(engine): State<Handle<H>>,
    headers: HeaderMap,
    body: Body,
) -> Answer<Trace> {
    let request: TraceRequest = json_body(&headers, body)?;
    Ok(Json(engine.call(move |e| e.trace(&request)).await??))
}

#[utoipa::path(get, path = "/v1/events",
    params(("after" = Option<u64>, Query, description = "Only events after this number"),
        ("wait_ms" = Option<u64>, Query, description = "Wait for one at most this long")),
    responses((status = 200, body = EventList)))]
pub async fn events<H: Host + 'static>(
    State(engine): State<Handle<H>>,
    RawQuery(query): RawQuery,
) -> Answer<EventList> {
    let number = |name| -> Result<u64, Refusal> {
        let Some(text) = parameter(query.as_deref(), name) else { return Ok(0) };
        text.parse().map_err(|_| Refusal::bad_request(format!("{name}={text} is no number")))
    };
    let (after, wait_ms) = (number("after")?, number("wait_ms")?.min(WAIT_MS_MAX));
    let mut newest = engine.events.clone();
    if wait_ms > 0 {
        let arrived = newest.wait_for(|last| *last > after);
        // Nothing new in time is an answer too: the empty list.
        drop(tokio::time::timeout(Duration::from_millis(wait_ms), arrived).await);
    }
    Ok(Json(EventList { events: engine.call(move |e| e.events_after(after)).await? }))
}

#[utoipa::path(post, path = "/v1/proxy/upgrade",
    responses((status = 200, body = Upgraded), (status = 404, content_type = "application/problem+json", body = Problem),
        (status = 502, content_type = "application/problem+json", body = Problem)))]
pub async fn upgrade<H: Host + 'static>(State(engine): State<Handle<H>>) -> Answer<Upgraded> {
    Ok(Json(engine.call(|e| e.upgrade_proxy()).await??))
}

#[utoipa::path(post, path = "/v1/purge", request_body = Purge,
    responses((status = 204), (status = 502, content_type = "application/problem+json", body = Problem)))]
pub async fn purge<H: Host + 'static>(
    State(engine): State<Handle<H>>,
    headers: HeaderMap,
    body: Body,
) -> Result<StatusCode, Refusal> {
    let request: Purge = json_body(&headers, body)?;
    engine.call(move |e| e.purge(request)).await??;
    Ok(StatusCode::NO_CONTENT)
}

#[utoipa::path(post, path = "/v1/release",
    responses((status = 204), (status = 500, content_type = "application/problem+json", body = Problem)))]
pub async fn release<H: Host + 'static>(State(engine): State<Handle<H>>) -> Result<StatusCode, Refusal> {
    engine.call(|e| e.release()).await??;
    Ok(StatusCode::NO_CONTENT)
}

#[utoipa::path(get, path = "/v1/openapi.json", responses((status = 200, description = "This document")))]
pub async fn openapi() -> Response {
    ([(header::CONTENT_TYPE, "application/json")], openapi::document()).into_response()
}

pub async fn no_route(uri: Uri) -> Refusal {
    let detail = format!("there is no {}; GET /v1/openapi.json lists what there is", uri.path());
    Refusal::new(StatusCode::NOT_FOUND, "not-found", "there is no such thing", detail)
}

pub async fn no_method(method: Method, uri: Uri) -> Refusal {
    let detail = format!("{} does not know {method}", uri.path());
    Refusal::new(StatusCode::METHOD_NOT_ALLOWED, "method-not-allowed", "the method is not allowed", detail)
}

fn parameter<'a>(query: Option<&'a str>, name: &str) -> Option<&'a str> {
    query?
        .split('&')
        .find_map(|pair| pair.split_once('=').filter(|(key, _)| *key == name))
        .map(|(_, value)| value)
}

fn dry_run(query: Option<&str>) -> Result<bool, Refusal> {
    match parameter(query, "dry_run") {
        None | Some("false") => Ok(false),
        Some("true") => Ok(true),
        Some(other) => Err(Refusal::bad_request(format!("dry_run={other} is neither true nor false"))),
    }
}

fn media_type(headers: &HeaderMap) -> Option<String> {
    let value = headers.get(header::CONTENT_TYPE)?.to_str().unwrap_or("?");
    Some(value.split(';').next().unwrap_or("").trim().to_ascii_lowercase())
}

fn document_body(headers: &HeaderMap, body: Body) -> Result<Vec<u8>, Refusal> {
    const GOOD: [&str; 5] = [
        "application/yaml",
        "application/x-yaml",
        "text/yaml",
        "application/json",
        "application/octet-stream",
    ];
    match media_type(headers) {
        Some(kind) if !GOOD.contains(&kind.as_str()) => {
            Err(Refusal::media_type(&kind, "application/yaml or application/json"))
        }
        _ => Ok(body?.to_vec()),
    }
}

fn json_body<T: DeserializeOwned>(headers: &HeaderMap, body: Body) -> Result<T, Refusal> {
    match media_type(headers) {
        Some(kind) if kind != "application/json" => {
            return Err(Refusal::media_type(&kind, "application/json"));
        }
        _ => {}
    }
    serde_json::from_slice(&body?).map_err(|error| Refusal::bad_request(error.to_string()))
}
