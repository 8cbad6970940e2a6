//! What AzCopy says of its job with `--output-type json`. Pure.
//!
//! Seen with 10.32.2: a JSON object a line, whose content is JSON in a string; numbers are strings; the
//! failed transfers are in `Progress` and not in `EndOfJob`.

use std::collections::BTreeMap;

use serde::Deserialize;

use super::errors::redact;

/// A line that matters.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Said {
    /// The job has this ID.
    Started(String),
    /// How far it is.
    Progress(Summary),
    /// The last word.
    Ended(Summary),
    /// For people.
    Trouble(String),
}

/// How far a job is.
#[derive(Debug, Default, PartialEq, Eq, Clone)]
pub(super) struct Summary {
    pub(super) status: String,
    pub(super) completed: u64,
    pub(super) bytes: u64,
    /// By the end of the blob's URL path, without the query: what it was that failed, with AzCopy's code.
    pub(super) failed: BTreeMap<String, String>,
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Line {
    message_type: String,
    #[serde(default)]
    message_content: String,
}

#[derive(Deserialize)]
struct Init {
    #[serde(rename = "JobID")]
    job: String,
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Content {
    #[serde(default)]
    job_status: String,
    #[serde(default)]
    transfers_completed: String,
    #[serde(default)]
    total_bytes_transferred: String,
    #[serde(default)]
    failed_transfers: Option<Vec<Transfer>>,
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Transfer {
    #[serde(default)]
    src: String,
    #[serde(default)]
    transfer_status: String,
    #[serde(default)]
    error_code: String,
}

/// What a line of stdout means; `None` where nothing of it matters.
pub(super) fn said(line: &str) -> Option<Said> {
    let Ok(line) = serde_json::from_str::<Line>(line) else {
        let text = line.trim();
        return (!text.is_empty()).then(|| Said::Trouble(redact(text)));
    };
    let summary = || serde_json::from_str::<Content>(&line.message_content).ok().map(Summary::of);
    match line.message_type.as_str() {
        "Init" => {
            serde_json::from_str::<Init>(&line.message_content).ok().map(|init| Said::Started(init.job))
        }
        "Progress" => summary().map(Said::Progress),
        "EndOfJob" => summary().map(Said::Ended),
        "Error" => Some(Said::Trouble(redact(&line.message_content))),
        _ => None,
    }
}

impl Summary {
    fn of(content: Content) -> Self {
        let failed = content.failed_transfers.unwrap_or_default().into_iter();
        let failed = failed.map(|transfer| {
            let path = transfer.src.split('?').next().unwrap_or_default().to_owned();
            (path, format!("{} with {}", transfer.transfer_status, transfer.error_code))
        });
        Self {
            status: content.job_status,
            completed: content.transfers_completed.parse().unwrap_or(0),
            bytes: content.total_bytes_transferred.parse().unwrap_or(0),
            failed: failed.collect(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    // As AzCopy 10.32.2 said it, shortened.
    const INIT: &str = r#"{"TimeStamp":"2026-11-25T22:09:20.5Z","MessageType":"Init","MessageContent":"{\"LogFileLocation\":\"/l/ebcc.log\",\"JobID\":\"ebcca933-28b0\",\"IsCleanupJob\":false}","PromptDetails":{"PromptType":"","ResponseOptions":null,"PromptTarget":""}}"#;
    const PROGRESS: &str = r#"{"TimeStamp":"x","MessageType":"Progress","MessageContent":"{\"ErrorMsg\":\"\",\"JobID\":\"ebcca933-28b0\",\"JobStatus\":\"Failed\",\"TotalTransfers\":\"2\",\"TransfersCompleted\":\"1\",\"TransfersFailed\":\"1\",\"TotalBytesTransferred\":\"4096\",\"FailedTransfers\":[{\"Src\":\"https://s3.us-east-1.amazonaws.com/small/p000001\",\"Dst\":\"http://127.0.0.1:17071/bench/c/p000001\",\"IsFolderProperties\":false,\"TransferStatus\":\"Failed\",\"TransferSize\":4096,\"ErrorCode\":\"500\"}],\"SkippedTransfers\":null}"}"#;

    #[test]
    fn a_job_is_followed_by_what_it_says() {
        assert_eq!(said(INIT), Some(Said::Started("ebcca933-28b0".to_owned())));
        let summary = Summary {
            status: "Failed".to_owned(),
            completed: 1,
            bytes: 4096,
            failed: BTreeMap::from([(
                "https://s3.us-east-1.amazonaws.com/small/p000001".to_owned(),
                "Failed with 500".to_owned(),
            )]),
        };
        assert_eq!(said(PROGRESS), Some(Said::Progress(summary.clone())));
        let ended = PROGRESS.replace("\"Progress\"", "\"EndOfJob\"");
        assert_eq!(said(&ended), Some(Said::Ended(summary)));
        assert_eq!(said(r#"{"MessageType":"Info","MessageContent":"INFO: Scanning..."}"#), None);
        assert_eq!(said(""), None);
    }

    #[test]
    fn what_goes_wrong_is_told_without_signatures() {
        let error = r#"{"MessageType":"Error","MessageContent":"failed: http://h/c?sv=1&sig=SECRET x"}"#;
        assert_eq!(said(error), Some(Said::Trouble("failed: http://h/c?… x".to_owned())));
        assert_eq!(said("panic: sig=SECRET"), Some(Said::Trouble("panic: sig=…".to_owned())));
    }
}
