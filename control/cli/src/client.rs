//! The agent's REST API over its UNIX socket: one connection per request, answers bounded in size and time.
//!
//! Refusals arrive as problem+json (RFC 9457) and become [`ClientError::Refused`] with every field path kept.

use http_body_util::{BodyExt, Full, Limited};
use hyper::body::Bytes;
use hyper::{Method, Request, StatusCode};
use hyper_util::rt::TokioIo;
use serde::de::DeserializeOwned;
use serde_json::Value;
use sluice_api::rest::Problem;
use std::fmt;
use std::path::{Path, PathBuf};
use std::time::Duration;
use tokio::net::UnixStream;

/// Longest answer taken: a status of 100,000 sites stays below, a runaway peer does not fill memory.
const MAX_ANSWER_BYTES: usize = 64 << 20;
/// An agent that answers nothing in this time is as good as unreachable.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(30);

/// What a request to the agent may end in besides an answer.
#[derive(Debug, thiserror::Error)]
pub enum ClientError {
    /// No agent behind the socket.
    #[error("the agent cannot be reached at {path}: {source}")]
    Connect {
        /// Socket tried.
        path: PathBuf,
        /// Why not.
        source: std::io::Error,
    },
    /// The connection broke or the answer was no HTTP.
    #[error("the agent at {path} broke off: {message}")]
    Broken {
        /// Socket used.
        path: PathBuf,
        /// What happened.
        message: String,
    },
    /// No answer in time.
    #[error("the agent at {path} did not answer within {} s", ANSWER_TIMEOUT.as_secs())]
    Timeout {
        /// Socket used.
        path: PathBuf,
    },
    /// The agent said no.
    #[error("{}", InWords(.0))]
    Refused(Problem),
    /// The answer is not of the expected shape.
    #[error("unexpected answer to {what}: {message}")]
    Shape {
        /// Request.
        what: String,
        /// What serde said.
        message: String,
    },
}

/// A [`Problem`] in words, every field at fault on a line of its own.
pub struct InWords<'a>(pub &'a Problem);

impl fmt::Display for InWords<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Problem { title, detail, errors, .. } = self.0;
        f.write_str(if title.is_empty() { "refused" } else { title })?;
        if !detail.is_empty() && detail != title {
            write!(f, ": {detail}")?;
        }
        errors.iter().try_for_each(|e| write!(f, "\n  {e}"))
    }
}

/// A client of one agent.
#[derive(Clone, Debug)]
pub struct AgentClient {
    socket: PathBuf,
}

impl AgentClient {
    /// A client of the agent behind `socket`; connects at each request.
    pub fn new(socket: impl AsRef<Path>) -> Self {
        AgentClient { socket: socket.as_ref().to_owned() }
    }

    /// GET that answers JSON.
    pub async fn get<T: DeserializeOwned>(&self, path: &str) -> Result<T, ClientError> {
        let body = self.request(Method::GET, path, None).await?;
        decode(path, &body)
    }

    /// GET that answers text.
    pub async fn get_text(&self, path: &str) -> Result<String, ClientError> {
        let body = self.request(Method::GET, path, None).await?;
        Ok(String::from_utf8_lossy(&body).into_owned())
    }

    /// Request with an optional JSON body; an empty answer is `null`.
    pub async fn send(&self, method: Method, path: &str, body: Option<&Value>) -> Result<Value, ClientError> {
        let bytes = body.map(|v| Bytes::from(v.to_string()));
        let answer = self.request(method, path, bytes).await?;
        if answer.iter().all(u8::is_ascii_whitespace) {
            return Ok(Value::Null);
        }
        decode(path, &answer)
    }

    async fn request(&self, method: Method, path: &str, body: Option<Bytes>) -> Result<Bytes, ClientError> {
        tokio::time::timeout(ANSWER_TIMEOUT, self.exchange(method, path, body))
            .await
            .map_err(|_| ClientError::Timeout { path: self.socket.clone() })?
    }

    async fn exchange(&self, method: Method, path: &str, body: Option<Bytes>) -> Result<Bytes, ClientError> {
        let stream = UnixStream::connect(&self.socket)
            .await
            .map_err(|source| ClientError::Connect { path: self.socket.clone(), source })?;
        let broken = |message: String| ClientError::Broken { path: self.socket.clone(), message };
        let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream))
            .await
            .map_err(|e| broken(e.to_string()))?;
        // Ends by itself when `sender` is dropped or the peer closes; its error is seen by the request too.
        tokio::spawn(connection);
        let mut request = Request::builder().method(method).uri(path).header("host", "agent");
        request = request.header("accept", "application/json, application/problem+json");
        if body.is_some() {
            request = request.header("content-type", "application/json");
        }
        let request = request.body(Full::new(body.unwrap_or_default())).map_err(|e| broken(e.to_string()))?;
        let response = sender.send_request(request).await.map_err(|e| broken(e.to_string()))?;
        let status = response.status();
        let bytes = Limited::new(response.into_body(), MAX_ANSWER_BYTES)
            .collect()
            .await
            .map_err(|e| broken(e.to_string()))?
            .to_bytes();
        if status.is_success() { Ok(bytes) } else { Err(ClientError::Refused(problem(status, &bytes))) }
    }
}

fn decode<T: DeserializeOwned>(what: &str, body: &[u8]) -> Result<T, ClientError> {
    serde_json::from_slice(body)
        .map_err(|e| ClientError::Shape { what: what.to_owned(), message: e.to_string() })
}

fn problem(status: StatusCode, body: &[u8]) -> Problem {
    let mut problem: Problem = serde_json::from_slice(body).unwrap_or_else(|_| Problem {
        detail: String::from_utf8_lossy(body).trim().to_owned(),
        ..Problem::default()
    });
    problem.status = status.as_u16();
    if problem.title.is_empty() {
        problem.title = status.canonical_reason().unwrap_or("refused").to_owned();
    }
    problem
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_problem_names_every_field() {
        let body = br#"{"type":"about:blank","title":"Invalid placement","status":422,
            "detail":"2 fields at fault","errors":[{"document":"web","path":"vips[0].pool","message":"no such pool"},
            {"path":"pools[1].backends[0].weight","message":"1001 is above 1000"}]}"#;
        let p = problem(StatusCode::UNPROCESSABLE_ENTITY, body);
        assert_eq!(p.status, 422);
        assert_eq!(
            InWords(&p).to_string(),
            "Invalid placement: 2 fields at fault\n  document web: vips[0].pool: no such pool\n  \
             pools[1].backends[0].weight: 1001 is above 1000"
        );
    }

    #[test]
    fn an_answer_that_is_no_problem_json_is_shown_as_it_is() {
        let p = problem(StatusCode::NOT_FOUND, b"no such route\n");
        assert_eq!(InWords(&p).to_string(), "Not Found: no such route");
    }

    #[test]
    fn no_agent_is_told_apart_from_a_refusal() {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        let dir = tempfile::tempdir().unwrap();
        let client = AgentClient::new(dir.path().join("none.sock"));
        let error = runtime.block_on(client.get_text("/v1/healthz")).unwrap_err();
        assert!(matches!(error, ClientError::Connect { .. }), "{error}");
    }
}
