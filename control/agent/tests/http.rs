//! The API without a socket: every route is there, and every refusal is a problem document.

use axum::body::Body;
use axum::http::{Request, StatusCode, header};
use http_body_util::BodyExt;
use serde_json::Value;
use sluice_agent::clock::SystemClock;
use sluice_agent::driver::Queue;
use sluice_agent::engine::{Config, Engine};
use sluice_agent::host::fake::FakeHost;
use sluice_agent::http::{ROUTES, SMALL_BODY_BYTES_MAX, router};
use sluice_agent::ledger::{Ledger, Opened};
use tower::ServiceExt;

const SITE: &str = include_str!("../../../docs/examples/cdn.yaml");

fn api() -> axum::Router {
    let clock = SystemClock::start();
    let start = move || -> Result<_, std::io::Error> {
        let config = Config { node: "edge-1".into(), announce: true, with_proxy: true, placements: None };
        let ledger = Ledger::on(redb::backends::InMemoryBackend::new()).map_err(std::io::Error::other)?;
        Engine::start(config, Box::new(clock), ledger, &Opened::default(), FakeHost::new())
            .map_err(std::io::Error::other)
    };
    let (engine, _thread) = Queue::<FakeHost>::new().run(clock, start).expect("engine");
    router(engine)
}

async fn ask(
    api: &axum::Router,
    method: &str,
    path: &str,
    kind: &str,
    body: &str,
) -> (StatusCode, String, String) {
    let mut request = Request::builder().method(method).uri(path);
    if !kind.is_empty() {
        request = request.header(header::CONTENT_TYPE, kind);
    }
    let request = request.body(Body::from(body.to_owned())).expect("request");
    let response = api.clone().oneshot(request).await.expect("answer");
    let status = response.status();
    let kind = response.headers().get(header::CONTENT_TYPE).map(|v| v.to_str().expect("text").to_owned());
    let body = response.into_body().collect().await.expect("body").to_bytes();
    (status, kind.unwrap_or_default(), String::from_utf8_lossy(&body).into_owned())
}

async fn refused(api: &axum::Router, ask_for: (&str, &str, &str, &str), status: u16, problem: &str) -> Value {
    let (method, path, kind, body) = ask_for;
    let (got, media, text) = ask(api, method, path, kind, body).await;
    assert_eq!(
        (got.as_u16(), media.as_str()),
        (status, "application/problem+json"),
        "{method} {path}: {text}"
    );
    let value: Value = serde_json::from_str(&text).expect("JSON");
    assert_eq!(value["type"], format!("urn:sluice:problem:{problem}"));
    assert_eq!(value["status"], status);
    value
}

#[tokio::test]
async fn every_route_is_served() {
    let api = api();
    for (method, path) in ROUTES.iter().filter(|(_, path)| *path != "/v1/release") {
        let (status, media, text) =
            ask(&api, &method.to_uppercase(), &path.replace("{name}", "none"), "", "").await;
        let missing = text.contains("GET /v1/openapi.json lists") || status == StatusCode::METHOD_NOT_ALLOWED;
        assert!(!missing, "{method} {path}: {status} {text}");
        assert!(
            status.is_success() || media == "application/problem+json",
            "{method} {path}: {status} {media}"
        );
    }
    let (status, ..) = ask(&api, "POST", "/v1/release", "", "").await;
    assert_eq!(status, StatusCode::NO_CONTENT);
}

#[tokio::test]
async fn documents_go_in_and_come_out() {
    let api = api();
    let path = "/v1/documents/cdn";
    let (status, _, text) = ask(&api, "PUT", &format!("{path}?dry_run=true"), "application/yaml", SITE).await;
    assert_eq!(status, StatusCode::OK, "{text}");
    let (status, ..) = ask(&api, "GET", path, "", "").await;
    assert_eq!(status, StatusCode::NOT_FOUND, "a dry run keeps nothing");
    let (status, _, text) = ask(&api, "PUT", path, "application/yaml", SITE).await;
    assert_eq!(status, StatusCode::OK, "{text}");
    let (status, media, text) = ask(&api, "GET", path, "", "").await;
    assert_eq!((status, media.as_str(), text.as_str()), (StatusCode::OK, "application/yaml", SITE));
    let (_, _, text) = ask(&api, "GET", "/v1/events?after=0&wait_ms=10", "", "").await;
    assert!(text.contains("document_applied"), "{text}");
}

#[tokio::test]
async fn refusals_are_problem_documents() {
    let api = api();
    let (json, yaml) = ("application/json", "application/yaml");
    let document = "/v1/documents/cdn";
    refused(&api, ("GET", "/v1/nothing", "", ""), 404, "not-found").await;
    refused(&api, ("PATCH", "/v1/status", "", ""), 405, "method-not-allowed").await;
    refused(&api, ("PUT", document, "text/html", SITE), 415, "media-type").await;
    refused(&api, ("POST", "/v1/drain", "text/plain", "{}"), 415, "media-type").await;
    let long = " ".repeat(SMALL_BODY_BYTES_MAX + 1);
    refused(&api, ("POST", "/v1/drain", json, &long), 413, "too-large").await;
    refused(&api, ("POST", "/v1/drain", json, "{\"kind\":\"node\"}"), 400, "bad-request").await;
    refused(&api, ("POST", "/v1/drain", json, "{\"kind\":\"node\",\"name\":\"x\"}"), 404, "not-found").await;
    refused(&api, ("POST", "/v1/trace", json, "{}"), 400, "bad-request").await;
    refused(&api, ("POST", "/v1/purge", json, "{\"kind\":\"all\"}"), 502, "proxy").await;
    refused(&api, ("GET", "/v1/events?after=x", "", ""), 400, "bad-request").await;
    refused(&api, ("PUT", "/v1/documents/other", yaml, SITE), 400, "bad-request").await;
    let broken = SITE.replace("mode: l2_direct", "mode: dnat");
    let problem = refused(&api, ("PUT", document, yaml, &broken), 422, "invalid-document").await;
    assert_eq!(problem["errors"][0]["path"], "vips[0].mode");
    let (status, ..) = ask(&api, "PUT", document, yaml, SITE).await;
    assert_eq!(status, StatusCode::OK);
    let other = SITE.replace("port: 80", "port: 81");
    let problem = refused(&api, ("PUT", document, yaml, &other), 409, "generation").await;
    assert_eq!(problem["errors"][0]["path"], "generation");
}
