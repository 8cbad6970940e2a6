//! Velero's files about a backup or a restore, fetched as `velero describe` does: a
//! DownloadRequest is answered with a signed URL at the location's (public) endpoint.
//!
//! Such a URL is a secret: it is never logged and never part of an error.

use std::collections::BTreeMap;
use std::io::Read;
use std::time::Duration;

use flate2::read::GzDecoder;
use kube::api::{DeleteParams, PostParams};
use migrate_plugin_api::{ErrorClass, StepContext, StepError};
use reqwest::StatusCode;
use serde::Deserialize;
use serde::de::DeserializeOwned;
use tokio::time::Instant;

use super::api::{DownloadTarget, Velero};
use super::follow::{Pace, Patience};
use crate::kubernetes::kube_error;
use crate::tls::{self, Speaks};

/// The largest file we unpack. A resource list has about 100 bytes an object, so this is millions
/// of objects; more is not what we asked for.
pub(super) const MAX_FILE_BYTES: u64 = 512 << 20;
/// The largest file we fetch, packed.
const MAX_PACKED_BYTES: usize = 128 << 20;
/// Connecting to the object store from here; where it is private this fails at once or never.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);
/// The longest silence of the store; a large file over a slow line takes its time.
const READ_TIMEOUT: Duration = Duration::from_secs(60);

/// A file that Velero hands out.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum VeleroFile {
    /// All objects in a backup, in a packed archive.
    BackupContents,
    /// Names of all objects in a backup, by kind.
    BackupResourceList,
    /// Texts of a backup's warnings and errors.
    BackupResults,
    /// Names of all objects a restore looked at, by kind, with what became of each.
    RestoreResourceList,
    /// Texts of a restore's warnings and errors.
    RestoreResults,
}

impl VeleroFile {
    fn kind(self) -> &'static str {
        match self {
            Self::BackupContents => "BackupContents",
            Self::BackupResourceList => "BackupResourceList",
            Self::BackupResults => "BackupResults",
            Self::RestoreResourceList => "RestoreResourceList",
            Self::RestoreResults => "RestoreResults",
        }
    }
}

/// Why a file wasn't read.
enum Unread {
    /// The store can't be reached from here: for a moment, or because it is private.
    Away(StepError),
    /// Anything else.
    Failed(StepError),
}

/// As [`fetch_as`], of JSON.
pub(super) async fn fetch<T: DeserializeOwned>(
    ctx: &StepContext,
    velero: &Velero,
    pace: Pace,
    file: VeleroFile,
    name: &str,
) -> Result<T, StepError> {
    fetch_as(ctx, velero, pace, file, name, parse).await
}

/// Fetches `file` about the backup or restore called `name`, and reads it with `read`. Bears a store or an API server that is away for
/// a while: what is not read now may never be asked for again.
///
/// # Errors
/// A class that is retried where it may be read later. Any other where it can't be read, or not from here.
pub(super) async fn fetch_as<T>(
    ctx: &StepContext,
    velero: &Velero,
    pace: Pace,
    file: VeleroFile,
    name: &str,
    read: fn(&[u8]) -> Result<T, String>,
) -> Result<T, StepError> {
    let (mut patience, mut reach) = (Patience::new(pace.outage), Patience::new(pace.download));
    loop {
        let fetched = fetch_once(ctx, velero, pace, file, name).await.and_then(|packed| {
            let what = format!("{} of `{name}`", file.kind());
            let failed = |reason| StepError::corrupt(format!("failed to read the {what}: {reason}"));
            read(&packed).map_err(|reason| Unread::Failed(failed(reason)))
        });
        match fetched {
            Ok(found) => return Ok(found),
            Err(Unread::Failed(e)) => {
                patience.bear::<()>(Err(e), Instant::now())?;
            }
            Err(Unread::Away(e)) => {
                let borne = reach.bear::<()>(Err(e), Instant::now());
                borne.map_err(|e| StepError { class: ErrorClass::Permanent, ..e })?;
            }
        }
        pace.pause(ctx).await?;
    }
}

async fn fetch_once(
    ctx: &StepContext,
    velero: &Velero,
    pace: Pace,
    file: VeleroFile,
    name: &str,
) -> Result<Vec<u8>, Unread> {
    let url = signed_url(ctx, velero, pace, file, name).await.map_err(Unread::Failed)?;
    let what = format!("{} of `{name}`", file.kind());
    let failed = |e: reqwest::Error| {
        let is_away = e.is_connect();
        let is_refused = e.status().is_some_and(|status| !is_passing(status));
        let class =
            if is_refused { ErrorClass::Permanent } else { ErrorClass::Transient { retry_after_ms: None } };
        let error =
            StepError::new(class, format!("failed to download the {what}")).with_source(e.without_url());
        if is_away { Unread::Away(error) } else { Unread::Failed(error) }
    };
    let http = tls::client(Speaks::Http2)
        .connect_timeout(CONNECT_TIMEOUT)
        .read_timeout(READ_TIMEOUT)
        .build()
        .map_err(failed)?;
    let mut response =
        http.get(url).send().await.and_then(reqwest::Response::error_for_status).map_err(failed)?;
    let mut packed = Vec::new();
    while let Some(piece) = response.chunk().await.map_err(failed)? {
        ctx.check_cancelled().map_err(Unread::Failed)?;
        if packed.len() + piece.len() > MAX_PACKED_BYTES {
            let message = format!("the {what} is larger than {MAX_PACKED_BYTES} bytes");
            return Err(Unread::Failed(StepError::permanent(message)));
        }
        packed.extend_from_slice(&piece);
    }
    Ok(packed)
}

/// Whether a store that answers so may answer otherwise a moment later.
fn is_passing(status: StatusCode) -> bool {
    status.is_server_error() || matches!(status, StatusCode::REQUEST_TIMEOUT | StatusCode::TOO_MANY_REQUESTS)
}

/// The URL at which Velero offers `file`.
async fn signed_url(
    ctx: &StepContext,
    velero: &Velero,
    pace: Pace,
    file: VeleroFile,
    name: &str,
) -> Result<String, StepError> {
    let api = velero.download_requests();
    let what = format!("{} of `{name}`", file.kind());
    let target = DownloadTarget { kind: file.kind().to_owned(), name: name.to_owned() };
    let request = Velero::new_download_request(ctx, target);
    let created = api.create(&PostParams::default(), &request).await;
    let created = created.map_err(|e| kube_error(format!("failed to ask Velero for the {what}"), e))?;
    let request_name = created.metadata.name.unwrap_or_default();
    let url = wait_for_url(ctx, velero, pace, &request_name, &what).await;
    // Velero deletes it by itself when it expires, 10 minutes later.
    if let Err(e) = api.delete(&request_name, &DeleteParams::default()).await {
        ctx.debug(format!("failed to delete download request `{request_name}`: {e}"));
    }
    url
}

async fn wait_for_url(
    ctx: &StepContext,
    velero: &Velero,
    pace: Pace,
    request: &str,
    what: &str,
) -> Result<String, StepError> {
    let api = velero.download_requests();
    let start = Instant::now();
    loop {
        let found = api.get(request).await;
        let found =
            found.map_err(|e| kube_error(format!("failed to read Velero's answer about the {what}"), e))?;
        if let Some(status) = found.status.filter(|s| s.phase == "Processed" && !s.download_url.is_empty()) {
            return Ok(status.download_url);
        }
        if start.elapsed() >= pace.download {
            return Err(StepError::transient(format!("Velero didn't offer the {what} in time"))
                .with_hint("is the velero deployment running, and its storage location available?"));
        }
        pace.pause(ctx).await?;
    }
}

/// Reads JSON, packed by gzip or not.
fn parse<T: DeserializeOwned>(bytes: &[u8]) -> Result<T, String> {
    let mut text = Vec::new();
    let read = if bytes.starts_with(&[0x1f, 0x8b]) {
        GzDecoder::new(bytes).take(MAX_FILE_BYTES + 1).read_to_end(&mut text)
    } else {
        bytes.take(MAX_FILE_BYTES + 1).read_to_end(&mut text)
    };
    read.map_err(|e| e.to_string())?;
    if text.len() as u64 > MAX_FILE_BYTES {
        return Err(format!("it is larger than {MAX_FILE_BYTES} bytes"));
    }
    serde_json::from_slice(&text).map_err(|e| e.to_string())
}

/// `NAME-results.gz`.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub(super) struct Results {
    pub warnings: Messages,
    pub errors: Messages,
}

/// Messages by where they belong.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub(super) struct Messages {
    velero: Vec<String>,
    cluster: Vec<String>,
    namespaces: BTreeMap<String, Vec<String>>,
}

impl Messages {
    /// One line each, saying where it belongs.
    pub(super) fn lines(&self) -> Vec<String> {
        let velero = self.velero.iter().map(|m| format!("velero: {m}"));
        let cluster = self.cluster.iter().map(|m| format!("cluster: {m}"));
        let namespaces = self
            .namespaces
            .iter()
            .flat_map(|(namespace, messages)| messages.iter().map(move |m| format!("{namespace}: {m}")));
        velero.chain(cluster).chain(namespaces).collect()
    }
}

/// Texts of warnings and errors; where Velero counted some but they can't be read, a line that
/// says so, so that none goes unseen.
pub(super) struct Texts {
    pub warnings: Vec<String>,
    pub errors: Vec<String>,
}

impl Texts {
    /// Fetches `file` if there is anything to read.
    ///
    /// # Errors
    /// Only `Cancelled`.
    pub(super) async fn fetch(
        ctx: &StepContext,
        velero: &Velero,
        pace: Pace,
        file: VeleroFile,
        name: &str,
        (warnings, errors): (u64, u64),
    ) -> Result<Self, StepError> {
        if warnings == 0 && errors == 0 {
            return Ok(Self { warnings: Vec::new(), errors: Vec::new() });
        }
        match fetch::<Results>(ctx, velero, pace, file, name).await {
            Ok(results) => Ok(Self { warnings: results.warnings.lines(), errors: results.errors.lines() }),
            Err(e) if e.class == ErrorClass::Cancelled => Err(e),
            Err(e) => {
                ctx.warn(format!("the texts of warnings and errors of `{name}` can't be read: {e}"));
                let unread = |count: u64, what: &str| {
                    let line = format!("{count} {what}; the texts can't be read from here");
                    if count == 0 { Vec::new() } else { vec![line] }
                };
                Ok(Self { warnings: unread(warnings, "warnings"), errors: unread(errors, "errors") })
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use super::*;

    #[test]
    fn results_become_lines_that_say_where() {
        let json = br#"{"warnings":{"velero":["slow"],"namespaces":{"shop":["exists","differs"]}},
            "errors":{"cluster":["no CRD"]}}"#;
        let mut gzip = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
        gzip.write_all(json).unwrap();
        let results: Results = parse(&gzip.finish().unwrap()).unwrap();
        assert_eq!(results.warnings.lines(), ["velero: slow", "shop: exists", "shop: differs"]);
        assert_eq!(results.errors.lines(), ["cluster: no CRD"]);
        let empty: Results = parse(br#"{"errors":{},"warnings":{}}"#).unwrap();
        assert!(empty.warnings.lines().is_empty());
        assert!(parse::<Results>(b"<Error>").is_err());
    }

    #[test]
    fn a_signed_url_is_never_shown() {
        let status = super::super::api::DownloadRequestStatus {
            phase: "Processed".to_owned(),
            download_url: "http://store/x?X-Amz-Signature=topsecret".to_owned(),
        };
        assert!(!format!("{status:?}").contains("topsecret"));
    }
}
