//! A blob whose bytes are passed on as they come, and held until the source's word of them holds.

use std::sync::{Arc, Mutex, PoisonError};

use bytes::Bytes;
use futures::stream;
use migrate_plugin_api::StepError;

use super::checksum::Crc64;
use super::config::CopyOutputs;
use super::dress::Dress;
use super::errors::same;
use super::source::{Object, Properties, Reading};

/// A blob whose bytes are passed on as they come.
pub(super) struct Passing {
    pub(super) body: reqwest::Body,
    pub(super) bytes: u64,
    /// What the source says that the bytes are.
    pub(super) crc64: Crc64,
    pub(super) md5: Vec<u8>,
    pub(super) dress: Dress,
    pub(super) counts: CopyOutputs,
    /// Why the body ended early, if it did.
    pub(super) broken: Arc<Mutex<Option<StepError>>>,
}

/// Why a blob's bytes were not passed on, for a reason that is not the target's.
pub(super) enum NotPassed {
    /// The source says too little of them.
    Unknown(Box<(Properties, Reading)>),
    Failed(StepError),
}

impl From<StepError> for NotPassed {
    fn from(error: StepError) -> Self {
        Self::Failed(error)
    }
}

/// The bytes of `reading`, of which the last piece comes only when all of them are those that `known` is
/// of. Why they ended early is left in `broken`.
pub(super) fn passed(
    object: Object,
    reading: Reading,
    known: Crc64,
    broken: Arc<Mutex<Option<StepError>>>,
) -> reqwest::Body {
    let begun = Some((reading, None::<Bytes>));
    let pieces = stream::try_unfold((begun, object, broken), move |(state, object, broken)| async move {
        let Some((mut reading, mut held)) = state else { return Ok(None) };
        let next = loop {
            if reading.is_whole() {
                break same(&object, known, reading.crc64()).map(|()| (held, None));
            }
            match reading.next().await {
                Ok(piece) => {
                    if let Some(before) = std::mem::replace(&mut held, piece) {
                        break Ok((Some(before), Some((reading, held))));
                    }
                }
                Err(error) => break Err(error),
            }
        };
        match next {
            Ok((piece, state)) => Ok(piece.map(|piece| (piece, (state, object, broken)))),
            Err(error) => {
                *broken.lock().unwrap_or_else(PoisonError::into_inner) = Some(error);
                Err(std::io::Error::other("the source broke off"))
            }
        }
    });
    reqwest::Body::wrap_stream(pieces)
}
