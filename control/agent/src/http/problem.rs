//! Errors as problem details (RFC 9457).

use crate::driver::Ended;
use crate::engine::ApiError;
use axum::Json;
use axum::extract::rejection::BytesRejection;
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use sluice_api::check::FieldError;
use sluice_api::rest::Problem;

/// An error answer.
#[derive(Debug)]
pub struct Refusal(Box<Problem>);

impl Refusal {
    /// With its kind, title, status and detail.
    pub fn new(status: StatusCode, kind: &str, title: &str, detail: impl Into<String>) -> Self {
        Refusal(Box::new(Problem {
            kind: format!("urn:sluice:problem:{kind}"),
            title: title.to_owned(),
            status: status.as_u16(),
            detail: detail.into(),
            errors: Vec::new(),
        }))
    }

    /// The request makes no sense.
    pub fn bad_request(detail: impl Into<String>) -> Self {
        Self::new(StatusCode::BAD_REQUEST, "bad-request", "the request is not understood", detail)
    }

    /// Another media type is needed.
    pub fn media_type(found: &str, wanted: &str) -> Self {
        let detail = format!("content-type is {found:?}; send {wanted}");
        Self::new(StatusCode::UNSUPPORTED_MEDIA_TYPE, "media-type", "the media type is not supported", detail)
    }

    fn with_errors(mut self, errors: Vec<FieldError>) -> Self {
        self.0.errors = errors;
        self
    }
}

impl IntoResponse for Refusal {
    fn into_response(self) -> Response {
        let status = StatusCode::from_u16(self.0.status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
        (status, [(header::CONTENT_TYPE, "application/problem+json")], Json(self.0)).into_response()
    }
}

impl From<ApiError> for Refusal {
    fn from(error: ApiError) -> Self {
        let detail = error.to_string();
        match error {
            ApiError::Invalid(errors) => {
                let detail = errors.first().map_or(detail, ToString::to_string);
                let status = StatusCode::UNPROCESSABLE_ENTITY;
                Self::new(status, "invalid-document", "the document is refused", detail).with_errors(errors)
            }
            ApiError::Generation(_) => {
                let error = FieldError {
                    document: String::new(),
                    path: "generation".into(),
                    message: detail.clone(),
                };
                let title = "the generation rule refuses the document";
                Self::new(StatusCode::CONFLICT, "generation", title, detail).with_errors(vec![error])
            }
            ApiError::NotFound(_) => {
                Self::new(StatusCode::NOT_FOUND, "not-found", "there is no such thing", detail)
            }
            ApiError::BadRequest(_) => Self::bad_request(detail),
            ApiError::Proxy(_) => {
                Self::new(StatusCode::BAD_GATEWAY, "proxy", "the proxy did not do it", detail)
            }
            ApiError::Internal(_) => {
                Self::new(StatusCode::INTERNAL_SERVER_ERROR, "internal", "the node did not do it", detail)
            }
        }
    }
}

impl From<Ended> for Refusal {
    fn from(error: Ended) -> Self {
        Self::new(StatusCode::SERVICE_UNAVAILABLE, "internal", "the agent is ending", error.to_string())
    }
}

impl From<BytesRejection> for Refusal {
    fn from(rejection: BytesRejection) -> Self {
        if rejection.status() == StatusCode::PAYLOAD_TOO_LARGE {
            let title = "the body is too large";
            return Self::new(StatusCode::PAYLOAD_TOO_LARGE, "too-large", title, rejection.body_text());
        }
        Self::bad_request(rejection.body_text())
    }
}
