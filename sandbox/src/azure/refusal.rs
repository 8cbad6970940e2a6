//! Errors as Azure Resource Manager and Entra say them.

use axum::response::{IntoResponse, Response};
use http::header::WWW_AUTHENTICATE;
use http::{HeaderValue, StatusCode};
use jiff::Timestamp;
use serde_json::json;

use crate::services;

/// A request that Resource Manager refuses:
/// <https://learn.microsoft.com/en-us/azure/azure-resource-manager/templates/common-deployment-errors>.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Refusal {
    pub status: StatusCode,
    pub code: String,
    pub message: String,
    /// Entra's form instead of Resource Manager's, with its number.
    entra: Option<u32>,
}

impl Refusal {
    pub(super) fn new(status: StatusCode, code: &str, message: impl Into<String>) -> Self {
        Self { status, code: code.to_owned(), message: message.into(), entra: None }
    }

    /// A refused login: <https://learn.microsoft.com/en-us/entra/identity-platform/reference-error-codes>.
    pub(super) fn entra(status: StatusCode, error: &str, number: u32, message: impl Into<String>) -> Self {
        Self { status, code: error.to_owned(), message: message.into(), entra: Some(number) }
    }

    pub(super) fn bad_request(code: &str, message: impl Into<String>) -> Self {
        Self::new(StatusCode::BAD_REQUEST, code, message)
    }

    /// A bearer token that is missing or not good here.
    pub(super) fn unauthorized(code: &str, message: &str) -> Self {
        Self::new(StatusCode::UNAUTHORIZED, code, message)
    }

    pub(super) fn not_found(code: &str, message: impl Into<String>) -> Self {
        Self::new(StatusCode::NOT_FOUND, code, message)
    }

    /// What ACR says of an import that it does not take or that failed (Azure/acr#632).
    pub(super) fn parameters(message: impl Into<String>) -> Self {
        Self::bad_request("InvalidParameters", message)
    }

    pub(super) fn request_too_large() -> Self {
        Self::new(
            StatusCode::PAYLOAD_TOO_LARGE,
            "RequestContentTooLarge",
            "The request content is too large.",
        )
    }

    /// The stand-in's own trouble, such as a registry that doesn't answer.
    pub(super) fn internal(error: &miette::Report) -> Self {
        let chain: Vec<String> = error.chain().map(ToString::to_string).collect();
        Self::new(StatusCode::INTERNAL_SERVER_ERROR, "InternalServerError", chain.join(": "))
    }

    pub(super) fn into_response(self) -> Response {
        let Some(number) = self.entra else {
            let body = json!({ "error": { "code": self.code, "message": self.message } });
            let mut response = (self.status, axum::Json(body)).into_response();
            if self.status == StatusCode::UNAUTHORIZED {
                let value = HeaderValue::from_static("Bearer error=\"invalid_token\"");
                response.headers_mut().insert(WWW_AUTHENTICATE, value);
            }
            return response;
        };
        let (trace, correlation) =
            (services::uuid().unwrap_or_default(), services::uuid().unwrap_or_default());
        let at = Timestamp::now().strftime("%Y-%m-%d %H:%M:%SZ").to_string();
        let description = format!(
            "AADSTS{number}: {} Trace ID: {trace} Correlation ID: {correlation} Timestamp: {at}",
            self.message
        );
        let body = json!({
            "error": self.code, "error_description": description, "error_codes": [number],
            "timestamp": at, "trace_id": trace, "correlation_id": correlation,
        });
        (self.status, axum::Json(body)).into_response()
    }
}
