//! Room in memory, for a bounded number of bytes at once, and bytes that give theirs back as they are sent.

use std::convert::Infallible;
use std::sync::Arc;

use futures::stream;
use migrate_plugin_api::StepError;
use reqwest::Body;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use super::blob_wire::Pieces;

/// Room for so many bytes, counted in KiB.
pub(super) struct Room {
    free: Arc<Semaphore>,
    kibibytes: u32,
}

impl Room {
    pub(super) fn new(bytes: u64) -> Self {
        let kibibytes = u32::try_from(bytes >> 10).unwrap_or(u32::MAX);
        Self { free: Arc::new(Semaphore::new(kibibytes as usize)), kibibytes }
    }

    /// Waits until there is room for `bytes`; for all of it where they are more.
    pub(super) async fn take(&self, bytes: u64) -> Result<OwnedSemaphorePermit, StepError> {
        let wanted = kibibytes(bytes).min(self.kibibytes);
        // Never closed; were it, the pass would be over.
        Arc::clone(&self.free).acquire_many_owned(wanted).await.map_err(|_| StepError::cancelled())
    }
}

/// Bytes and the room that was taken for them.
pub(super) struct Held {
    pub(super) pieces: Pieces,
    pub(super) room: OwnedSemaphorePermit,
}

impl Held {
    /// A body that holds no piece, nor its room, that has gone to the connection.
    pub(super) fn sent(self) -> Body {
        let Self { pieces: Pieces { pieces, bytes, .. }, room } = self;
        let rest = (pieces.into_iter(), bytes, room);
        Body::wrap_stream(stream::unfold(rest, |(mut pieces, left, mut room)| async move {
            let piece = pieces.next()?;
            let left = left.saturating_sub(piece.len() as u64);
            drop(room.split(room.num_permits().saturating_sub(kibibytes(left) as usize)));
            Some((Ok::<_, Infallible>(piece), (pieces, left, room)))
        }))
    }
}

fn kibibytes(bytes: u64) -> u32 {
    u32::try_from(bytes.div_ceil(1 << 10)).unwrap_or(u32::MAX)
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;
    use http_body_util::BodyExt as _;

    use super::super::checksum::Crc64;
    use super::*;

    /// Of `sizes`, in `room`.
    async fn held(room: &Room, sizes: &[usize]) -> Held {
        let pieces: Vec<_> = sizes.iter().map(|size| Bytes::from(vec![0; *size])).collect();
        let bytes = sizes.iter().sum::<usize>() as u64;
        let room = room.take(bytes).await.unwrap();
        Held { pieces: Pieces { pieces, bytes, crc64: Crc64::of(b"") }, room }
    }

    #[tokio::test]
    async fn room_comes_back_as_bytes_go_and_whole_when_a_body_is_given_up() {
        let room = Room::new(8 << 10);
        let mut body = held(&room, &[2_500, 4_000]).await.sent();
        assert_eq!(room.free.available_permits(), 1);
        assert_eq!(body.frame().await.unwrap().unwrap().into_data().unwrap().len(), 2_500);
        assert_eq!(room.free.available_permits(), 4, "4,000 bytes are held");
        assert_eq!(body.collect().await.unwrap().to_bytes().len(), 4_000);
        assert_eq!(room.free.available_permits(), 8);
        drop(held(&room, &[2_500, 4_000]).await.sent());
        assert_eq!(room.free.available_permits(), 8);
    }

    #[tokio::test]
    async fn what_is_larger_than_the_room_keeps_all_of_it_until_the_rest_is_smaller() {
        let room = Room::new(8 << 10);
        let mut body = held(&room, &[4 << 10; 5]).await.sent();
        for free in [0, 0, 0, 4, 8] {
            body.frame().await.unwrap().unwrap();
            assert_eq!(room.free.available_permits(), free);
        }
    }
}
