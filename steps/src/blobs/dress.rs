//! What a blob carries besides its bytes, and how it is written into a request. Pure.

use std::collections::HashMap;

use azure_core::http::Etag;
use azure_storage_blob::models::AccessTier;
use http::HeaderMap;
use http::header::{HeaderName, HeaderValue};

use super::config::Tier;
use super::source::Properties;

/// Says which version of the object the blob is: the ETag at the source.
pub(super) const META_ETAG: &str = "migrate_source_etag";
/// CRC64NVME of the bytes written, as S3 writes it.
pub(super) const META_CRC64: &str = "migrate_crc64";
/// MD5 of the bytes written in one piece, in hex. The service keeps its own in Content-MD5, which
/// a rewrite changes and this doesn't.
pub(super) const META_MD5: &str = "migrate_md5";

/// What a new blob carries besides its bytes.
#[derive(Debug, Clone)]
pub(super) struct Dress {
    pub(super) properties: Properties,
    /// Names already valid; ours among them.
    pub(super) metadata: HashMap<String, String>,
    /// Content-MD5, where Azure fetches the whole.
    pub(super) md5: Option<Vec<u8>>,
    /// As a header has them.
    pub(super) tags: Option<String>,
    pub(super) tier: Option<Tier>,
    /// Fail if there is a blob already.
    pub(super) only_if_absent: bool,
}

impl Dress {
    /// As Put Blob has them.
    ///
    /// # Errors
    /// What can't be written into a header.
    pub(super) fn headers(&self) -> Result<HeaderMap, String> {
        let mut headers = HeaderMap::with_capacity(self.metadata.len() + 16);
        let properties = &self.properties;
        let tier = self.tier();
        for (name, value) in [
            ("x-ms-blob-cache-control", properties.cache_control.as_deref()),
            ("x-ms-blob-content-disposition", properties.content_disposition.as_deref()),
            ("x-ms-blob-content-encoding", properties.content_encoding.as_deref()),
            ("x-ms-blob-content-language", properties.content_language.as_deref()),
            ("x-ms-blob-content-type", properties.content_type.as_deref()),
            ("x-ms-tags", self.tags.as_deref()),
            ("x-ms-access-tier", tier.as_ref().map(AsRef::as_ref)),
            ("if-none-match", self.only_if_absent.then_some("*")),
        ] {
            let Some(value) = value else { continue };
            let value = HeaderValue::from_str(value).map_err(|_| name.to_owned())?;
            headers.insert(HeaderName::from_static(name), value);
        }
        for (name, value) in &self.metadata {
            let failed = |_| format!("metadata `{name}`");
            let header = HeaderName::try_from(format!("x-ms-meta-{name}")).map_err(|_| failed(()))?;
            headers.insert(header, HeaderValue::from_str(value).map_err(|_| failed(()))?);
        }
        Ok(headers)
    }

    pub(super) fn condition(&self) -> Option<Etag> {
        self.only_if_absent.then(|| Etag::from("*"))
    }

    pub(super) fn tier(&self) -> Option<AccessTier> {
        self.tier.map(|tier| match tier {
            Tier::Hot => AccessTier::Hot,
            Tier::Cool => AccessTier::Cool,
            Tier::Cold => AccessTier::Cold,
        })
    }
}
