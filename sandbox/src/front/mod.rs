//! The sandbox's own strict stand-in in front of Azurite (`sandbox front`).
//!
//! Azurite throws NotImplemented for Put Blob From URL, and for Put Block From URL where the source
//! isn't itself. This front does both by the service's documented rules, with a ranged GET of the
//! source and an ordinary Put Blob or Put Block under the caller's own SAS, so that it is Azurite
//! that checks permission, lease, conditions and checksums. Everything else is passed through as
//! it is, streaming. Holds no credential and keeps nothing.

mod from_url;
mod refusal;
mod source;
#[cfg(test)]
mod tests;

use std::net::SocketAddr;

use axum::Router;
use axum::body::Body;
use axum::extract::{Request, State};
use axum::response::Response;
use http::header::{CONNECTION, CONTENT_LENGTH, HOST, TRANSFER_ENCODING};
use http::{HeaderMap, HeaderName};
use miette::{IntoDiagnostic, Result, WrapErr};
use reqwest::Client;
use url::Url;

pub use refusal::Refusal;

/// Headers about one connection, not about the message.
const HOP_BY_HOP: [HeaderName; 6] = [
    CONNECTION,
    TRANSFER_ENCODING,
    http::header::UPGRADE,
    http::header::TE,
    http::header::TRAILER,
    HeaderName::from_static("keep-alive"),
];

/// What a request needs: Azurite's address and a client for it and for sources.
#[derive(Clone)]
pub struct Front {
    upstream: Url,
    http: Client,
}

/// Serves on `listen` until the process ends.
///
/// # Errors
/// When the address can't be bound.
pub async fn serve(listen: SocketAddr, azurite: Url) -> Result<()> {
    let listener = tokio::net::TcpListener::bind(listen)
        .await
        .into_diagnostic()
        .wrap_err_with(|| format!("can't listen on {listen}"))?;
    axum::serve(listener, router(azurite)?).await.into_diagnostic()
}

/// The front as a service, for `serve` and for tests.
///
/// # Errors
/// When the HTTP client can't be set up.
pub fn router(azurite: Url) -> Result<Router> {
    // A redirect of a source is the source's answer, not a reason to go elsewhere.
    let http = Client::builder()
        .redirect(reqwest::redirect::Policy::none())
        .no_proxy()
        .build()
        .into_diagnostic()
        .wrap_err("can't set up the HTTP client")?;
    Ok(Router::new().fallback(handle).with_state(Front { upstream: azurite, http }))
}

async fn handle(State(front): State<Front>, request: Request) -> Response {
    let (method, path) = (request.method().clone(), request.uri().path().to_owned());
    let comp = request.uri().query().and_then(comp).unwrap_or_default().to_owned();
    let outcome = match from_url::Call::of(&request) {
        None => front.pass(request).await,
        Some(call) => front.fetch_and_put(call, request).await,
    };
    let response = outcome.unwrap_or_else(|refusal| refusal.into_response());
    // The access log is what tests count writes by. The query holds the SAS: only `comp` of it is shown.
    tracing::info!("{} {method} {path} comp={comp}", response.status().as_u16());
    response
}

/// The value of `comp`, which tells the operations on one address apart.
fn comp(query: &str) -> Option<&str> {
    query.split('&').find_map(|pair| pair.strip_prefix("comp="))
}

impl Front {
    /// Azurite's address for the same path and query, byte for byte.
    fn target(&self, uri: &http::Uri) -> Result<Url, Refusal> {
        let path = uri.path_and_query().map_or("/", |p| p.as_str());
        let base = self.upstream.as_str().trim_end_matches('/');
        Url::parse(&format!("{base}{path}")).map_err(|_| Refusal::invalid_uri())
    }

    /// Passes a request through.
    async fn pass(&self, request: Request) -> Result<Response, Refusal> {
        let url = self.target(request.uri())?;
        let (parts, body) = request.into_parts();
        let length = parts.headers.get(CONTENT_LENGTH).and_then(|v| v.to_str().ok());
        let bodiless = length.map_or(!parts.headers.contains_key(TRANSFER_ENCODING), |l| l == "0");
        let mut headers = end_to_end(&parts.headers);
        // Tells Azurite the host that the client used: it names it in listings.
        if let Some(host) = parts.headers.get(HOST) {
            headers.insert(HOST, host.clone());
        }
        let mut forwarded = self.http.request(parts.method, url).headers(headers);
        if !bodiless {
            forwarded = forwarded.body(reqwest::Body::wrap_stream(body.into_data_stream()));
        }
        let answer = forwarded.send().await.map_err(|e| Refusal::unreachable(&e))?;
        Ok(returned(answer))
    }
}

/// Azurite's answer as ours. `Content-Length` stays even where there is no body: that is what HEAD
/// is asked for.
fn returned(answer: reqwest::Response) -> Response {
    let status = answer.status();
    let headers = end_to_end(answer.headers());
    let empty = answer.content_length() == Some(0) || headers.get(CONTENT_LENGTH).is_none_or(|l| l == "0");
    let chunked = answer.headers().contains_key(TRANSFER_ENCODING);
    let body = if empty && !chunked { Body::empty() } else { Body::from_stream(answer.bytes_stream()) };
    let mut response = Response::new(body);
    *response.status_mut() = status;
    *response.headers_mut() = headers;
    response
}

fn end_to_end(headers: &HeaderMap) -> HeaderMap {
    let kept = headers.iter().filter(|(name, _)| !HOP_BY_HOP.contains(name) && **name != HOST);
    kept.map(|(name, value)| (name.clone(), value.clone())).collect()
}
