//! What arrived at the sink, in a few numbers.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use crc_fast::CrcAlgorithm::Crc64Nvme;
use futures::StreamExt as _;
use md5::{Digest as _, Md5};

/// Bytes of a blob that are kept.
const FEW_BYTES: usize = 1_024;

/// What bytes came.
pub struct Sum {
    pub size: u64,
    pub crc64: u64,
    /// Base64; only where somebody compares it.
    pub md5: Option<String>,
    /// If they are few.
    pub bytes: Option<bytes::Bytes>,
}

impl Sum {
    /// `None` where they broke off.
    pub async fn of<E>(
        bytes: impl futures::Stream<Item = Result<bytes::Bytes, E>>,
        with_md5: bool,
    ) -> Option<Self> {
        let mut bytes = std::pin::pin!(bytes);
        let mut crc64 = crc_fast::Digest::new(Crc64Nvme);
        let mut md5 = with_md5.then(Md5::new);
        let (mut size, mut few) = (0, None);
        while let Some(chunk) = bytes.next().await {
            let chunk = chunk.ok()?;
            few = (size == 0 && chunk.len() <= FEW_BYTES).then(|| chunk.clone());
            size += chunk.len() as u64;
            crc64.update(&chunk);
            if let Some(md5) = &mut md5 {
                md5.update(&chunk);
            }
        }
        let md5 = md5.map(|md5| BASE64.encode(md5.finalize()));
        Some(Self { size, crc64: crc64.finalize(), md5, bytes: few })
    }
}
