//! Errors in the Blob service's form: XML with a code, repeated in `x-ms-error-code`.

use axum::body::Body;
use axum::response::Response;
use http::header::CONTENT_TYPE;
use http::{HeaderValue, StatusCode};
use jiff::Timestamp;

/// A refused request.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Refusal {
    /// HTTP status.
    pub status: StatusCode,
    /// The service's error code.
    pub code: &'static str,
    /// What is wrong.
    pub message: String,
    /// Elements beside code and message, such as `HeaderName`.
    pub details: Vec<(&'static str, String)>,
}

impl Refusal {
    fn new(status: StatusCode, code: &'static str, message: impl Into<String>) -> Self {
        Self { status, code, message: message.into(), details: Vec::new() }
    }

    /// A header's value isn't what the operation takes.
    pub fn invalid_header(name: &'static str, value: &str) -> Self {
        let message = "The value for one of the HTTP headers is not in the correct format.";
        let mut refusal = Self::new(StatusCode::BAD_REQUEST, "InvalidHeaderValue", message);
        refusal.details = vec![("HeaderName", name.to_owned()), ("HeaderValue", value.to_owned())];
        refusal
    }

    /// A header that the operation needs isn't there.
    pub fn missing_header(name: &'static str) -> Self {
        let message = "An HTTP header that's mandatory for this request is not specified.";
        let mut refusal = Self::new(StatusCode::BAD_REQUEST, "MissingRequiredHeader", message);
        refusal.details = vec![("HeaderName", name.to_owned())];
        refusal
    }

    /// A query parameter that the operation needs isn't there.
    pub fn missing_query(name: &'static str) -> Self {
        let message = "A query parameter that's mandatory for this request is not specified.";
        let mut refusal = Self::new(StatusCode::BAD_REQUEST, "MissingRequiredQueryParameter", message);
        refusal.details = vec![("QueryParameterName", name.to_owned())];
        refusal
    }

    /// A query parameter's value isn't what the operation takes.
    pub fn invalid_query(name: &'static str, value: &str, reason: &str) -> Self {
        let message = "Value for one of the query parameters specified in the request URI is invalid.";
        let mut refusal = Self::new(StatusCode::BAD_REQUEST, "InvalidQueryParameterValue", message);
        refusal.details = vec![
            ("QueryParameterName", name.to_owned()),
            ("QueryParameterValue", value.to_owned()),
            ("Reason", reason.to_owned()),
        ];
        refusal
    }

    /// Both checksums of the source are given.
    pub fn both_checksums() -> Self {
        let message = "Both x-ms-source-content-crc64 header and x-ms-source-content-md5 header are present.";
        Self::new(StatusCode::BAD_REQUEST, "BothCrc64AndMd5HeaderPresent", message)
    }

    /// The operation came with the caller's shared key, whose signature covers another request.
    pub fn shared_key() -> Self {
        let message = "The sandbox's front performs From-URL operations only for requests authorized by SAS.";
        Self::new(StatusCode::NOT_IMPLEMENTED, "NotImplemented", message)
    }

    /// The source can't be read: with the source's status where it refused.
    pub fn source(status: StatusCode, message: impl Into<String>) -> Self {
        // The service passes on what the client can change; its own trouble with a source is 500.
        let status = if status.is_client_error() { status } else { StatusCode::INTERNAL_SERVER_ERROR };
        Self::new(status, "CannotVerifyCopySource", message)
    }

    /// A condition on the source doesn't hold.
    pub fn source_condition() -> Self {
        let message = "The source condition specified using HTTP conditional header(s) is not met.";
        Self::new(StatusCode::PRECONDITION_FAILED, "SourceConditionNotMet", message)
    }

    /// The source or its range is larger than the operation takes.
    pub fn too_large(limit_bytes: u64) -> Self {
        let message = "The request body is too large and exceeds the maximum permissible limit.";
        let mut refusal = Self::new(StatusCode::PAYLOAD_TOO_LARGE, "RequestBodyTooLarge", message);
        refusal.details = vec![("MaxLimit", limit_bytes.to_string())];
        refusal
    }

    /// The source's range lies outside it.
    pub fn invalid_range() -> Self {
        let message = "The range specified is invalid for the current size of the resource.";
        Self::new(StatusCode::RANGE_NOT_SATISFIABLE, "InvalidRange", message)
    }

    /// The request's URI can't be understood.
    pub fn invalid_uri() -> Self {
        Self::new(StatusCode::BAD_REQUEST, "InvalidUri", "The requested URI does not represent any resource.")
    }

    /// Azurite doesn't answer.
    pub fn unreachable(error: &reqwest::Error) -> Self {
        // The error's own text would show the URL with its SAS.
        let message = if error.is_timeout() { "Azurite timed out" } else { "Azurite does not answer" };
        Self::new(StatusCode::SERVICE_UNAVAILABLE, "ServerBusy", message)
    }

    /// As a response.
    pub fn into_response(self) -> Response {
        let mut details = String::new();
        for (name, value) in &self.details {
            details.push_str(&format!("<{name}>{}</{name}>", escape(value)));
        }
        let body = format!(
            "<?xml version=\"1.0\" encoding=\"utf-8\"?><Error><Code>{}</Code><Message>{}\nTime:{}</Message>{details}</Error>",
            self.code,
            escape(&self.message),
            Timestamp::now()
        );
        let mut response = Response::new(Body::from(body));
        *response.status_mut() = self.status;
        let headers = response.headers_mut();
        headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/xml"));
        headers.insert("x-ms-error-code", HeaderValue::from_static(self.code));
        response
    }
}

fn escape(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;")
}
