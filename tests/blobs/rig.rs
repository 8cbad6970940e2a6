//! A bucket and a folder in the container for one test, in the sandbox that
//! `MIGRATE_SANDBOX_PROJECT` names; and a line whose bytes can be counted.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};

use aws_sdk_s3::Client;
use aws_sdk_s3::primitives::ByteStream;
use aws_sdk_s3::types::{ChecksumAlgorithm, CompletedMultipartUpload, CompletedPart};
use azure_core::http::{Body, Url};
use azure_storage_blob::models::{
    BlobContainerClientListBlobsOptions, BlockBlobClientUploadOptions, BlockListType, ListBlobsIncludeItem,
};
use azure_storage_blob::{BlobClient, BlobContainerClient};
use bytes::Bytes;
use futures::TryStreamExt as _;
use migrate_plugin_api::testing::RecordingHost;
use migrate_plugin_api::{PlanConfig, StepContext, TypedStep as _, VerifyDepth};
use migrate_steps::blobs::{BlobCopy, CopyConfig, CopyOutputs, Engine, Order};
use migrate_steps::site::{AwsAccess, BucketRef, ContainerRef};
use serde::Deserialize;
use tokio::net::{TcpListener, TcpStream};

const PROJECT: &str = "MIGRATE_SANDBOX_PROJECT";

/// Parts of one test never meet those of another, nor those of an earlier run.
static NEXT: AtomicU32 = AtomicU32::new(0);

#[derive(Deserialize)]
struct Site {
    source: SourceSite,
    target: TargetSite,
}

#[derive(Deserialize)]
struct SourceSite {
    aws: AwsAccess,
    objects: BucketRef,
}

#[derive(Deserialize)]
struct TargetSite {
    objects: ContainerRef,
}

pub struct Rig {
    pub config: CopyConfig,
    pub host: Arc<RecordingHost>,
    pub project: PathBuf,
    pub s3: Client,
    pub container: BlobContainerClient,
    folder: String,
}

/// Bytes that compress badly, repeat nowhere soon and are the same for the same seed.
pub fn noise(size: usize, seed: u64) -> Bytes {
    let mut state = seed.wrapping_mul(0x9E37_79B9_7F4A_7C15) | 1;
    let mut bytes = Vec::with_capacity(size + 8);
    while bytes.len() < size {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        bytes.extend_from_slice(&state.to_le_bytes());
    }
    bytes.truncate(size);
    bytes.into()
}

pub fn project() -> PathBuf {
    let Ok(project) = std::env::var(PROJECT) else {
        panic!(
            "set {PROJECT} to the sandbox's folder with migration.toml; start one: cargo xtask sandbox up"
        );
    };
    PathBuf::from(project)
}

impl Rig {
    pub async fn new(test: &str) -> Self {
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        Self::named(&format!("blobs-{test}-{}-{number}", std::process::id())).await
    }

    /// The rig of this name, which another process may have made.
    pub async fn named(name: &str) -> Self {
        let project = project();
        let text =
            std::fs::read_to_string(project.join("migration.toml")).expect("a readable migration.toml");
        let site: Site = toml::from_str(&text).expect("a migration.toml with source and target objects");
        let host = Arc::new(RecordingHost::default());
        let mut to = site.target.objects;
        let reference = to.sas.clone().expect("a SAS in the sandbox");
        let migrate_plugin_api::SecretRef::File(file) = &reference else { panic!("a SAS in a file") };
        let sas = std::fs::read_to_string(project.join(file)).expect("a readable SAS").trim().to_owned();
        host.put_secret(&reference.to_string(), &sas);
        let mut url = to.account_url.clone();
        url.path_segments_mut().unwrap().pop_if_empty().push(&to.container);
        url.set_query(Some(&sas));
        let container = BlobContainerClient::new(url, None, None).unwrap();
        // Velero allows no folder of another name beside its own.
        let folder = format!("plugins/{name}");
        to.prefix = Some(folder.clone());
        let mut from = site.source.objects;
        name.clone_into(&mut from.bucket);
        from.prefix = None;
        let s3 = s3(&site.source.aws, &from, &project).await;
        // Another process of the same test may have made it.
        let _ = s3.create_bucket().bucket(&from.bucket).send().await;
        let config = CopyConfig {
            from,
            aws: site.source.aws,
            to,
            prefixes: None,
            include: None,
            exclude: Vec::new(),
            delete_extra: false,
            bandwidth_mib: None,
            azcopy: None,
            tags: migrate_steps::blobs::Tags::default(),
            tier: None,
            order: Order::Listing,
            engine: Engine::Stream,
            concurrency: None,
            overwrite: migrate_steps::blobs::Overwrite::default(),
        };
        Self { config, host, project, s3, container, folder }
    }

    pub fn context(&self) -> StepContext {
        self.host.context("copy-backup", &self.project)
    }

    /// As after a kill or a Ctrl-C, with the last cursor.
    pub fn resumed(&self) -> StepContext {
        self.context().with_state(None, self.host.recorded().cursors.last().cloned())
    }

    pub async fn put(&self, key: &str, bytes: impl Into<Bytes>) {
        let body = ByteStream::from(bytes.into());
        let put = self.s3.put_object().bucket(&self.config.from.bucket).key(key).body(body);
        put.checksum_algorithm(ChecksumAlgorithm::Crc64Nvme).send().await.unwrap();
    }

    /// As large objects come to be: in parts, so that the ETag is no MD5.
    pub async fn put_parts(&self, key: &str, bytes: &Bytes, part: usize) {
        let bucket = &self.config.from.bucket;
        let upload = self.s3.create_multipart_upload().bucket(bucket).key(key);
        let upload = upload.checksum_algorithm(ChecksumAlgorithm::Crc64Nvme).send().await.unwrap();
        let id = upload.upload_id().unwrap();
        let mut parts = Vec::new();
        for (number, start) in (1..).zip((0..bytes.len()).step_by(part)) {
            let body = ByteStream::from(bytes.slice(start..(start + part).min(bytes.len())));
            let sent = self.s3.upload_part().bucket(bucket).key(key).upload_id(id).part_number(number);
            let sent = sent.checksum_algorithm(ChecksumAlgorithm::Crc64Nvme).body(body).send().await.unwrap();
            let part = CompletedPart::builder().part_number(number).set_e_tag(sent.e_tag);
            parts.push(part.set_checksum_crc64_nvme(sent.checksum_crc64_nvme).build());
        }
        let parts = CompletedMultipartUpload::builder().set_parts(Some(parts)).build();
        let done = self.s3.complete_multipart_upload().bucket(bucket).key(key).upload_id(id);
        done.multipart_upload(parts).send().await.unwrap();
    }

    pub fn blob(&self, key: &str) -> BlobClient {
        self.container.blob_client(&format!("{}/{key}", self.folder))
    }

    pub async fn read(&self, key: &str) -> Bytes {
        self.blob(key).download(None).await.unwrap().body.collect().await.unwrap()
    }

    /// Writes a blob behind the tool's back.
    pub async fn overwrite(&self, key: &str, bytes: Bytes, options: BlockBlobClientUploadOptions<'_>) {
        self.blob(key).upload(Body::Bytes(bytes).into(), Some(options)).await.unwrap();
    }

    /// Names below the folder.
    pub async fn names(&self) -> Vec<String> {
        let prefix = format!("{}/", self.folder);
        let options =
            BlobContainerClientListBlobsOptions { prefix: Some(prefix.clone()), ..Default::default() };
        let items: Vec<_> = self.container.list_blobs(Some(options)).unwrap().try_collect().await.unwrap();
        items.into_iter().map(|i| i.name.unwrap().strip_prefix(&prefix).unwrap().to_owned()).collect()
    }

    /// Blocks staged and not committed.
    pub async fn staged(&self, key: &str) -> usize {
        let blob = self.blob(key).block_blob_client();
        let Ok(list) = blob.get_block_list(BlockListType::Uncommitted, None).await else { return 0 };
        list.into_model().unwrap().uncommitted_blocks.map_or(0, |blocks| blocks.len())
    }

    pub async fn apply(&self) -> CopyOutputs {
        BlobCopy.apply(&self.context(), &self.config).await.unwrap()
    }

    pub async fn verify(&self, outputs: &CopyOutputs, depth: VerifyDepth) -> migrate_plugin_api::Evidence {
        BlobCopy.verify(&self.context(), &self.config, outputs, depth).await.unwrap()
    }

    pub async fn plan(&self) -> migrate_plugin_api::StepPlan {
        let config = PlanConfig::new(&serde_json::to_value(&self.config).unwrap()).unwrap();
        BlobCopy.plan(&self.context(), &config).await.unwrap()
    }

    /// Leaves nothing behind; a failed test does, for whoever looks into it.
    pub async fn remove(self) {
        let include = Some(vec![ListBlobsIncludeItem::UncommittedBlobs]);
        let prefix = Some(format!("{}/", self.folder));
        let options = BlobContainerClientListBlobsOptions { include, prefix, ..Default::default() };
        let blobs: Vec<_> = self.container.list_blobs(Some(options)).unwrap().try_collect().await.unwrap();
        for blob in blobs {
            let _ = self.container.blob_client(&blob.name.unwrap()).delete(None).await;
        }
        let bucket = &self.config.from.bucket;
        let mut pages = self.s3.list_objects_v2().bucket(bucket).into_paginator().send();
        while let Some(page) = pages.next().await {
            for object in page.unwrap().contents() {
                let delete = self.s3.delete_object().bucket(bucket).key(object.key().unwrap());
                delete.send().await.unwrap();
            }
        }
        self.s3.delete_bucket().bucket(bucket).send().await.unwrap();
    }
}

async fn s3(aws: &AwsAccess, from: &BucketRef, project: &std::path::Path) -> Client {
    use aws_runtime::env_config::file::{EnvConfigFileKind, EnvConfigFiles};
    let mut loader = aws_config::defaults(aws_config::BehaviorVersion::latest())
        .region(aws_config::Region::new(aws.region.clone()));
    if let Some(file) = &aws.credentials_file {
        let file = project.join(file);
        loader = loader
            .profile_files(EnvConfigFiles::builder().with_file(EnvConfigFileKind::Credentials, file).build());
    }
    if let Some(profile) = &aws.profile {
        loader = loader.profile_name(profile);
    }
    let endpoint = from.endpoint.as_ref().expect("an S3 endpoint in the sandbox");
    let config = aws_sdk_s3::config::Builder::from(&loader.load().await)
        .endpoint_url(endpoint.as_str())
        .force_path_style(true);
    Client::from_conf(config.build())
}

/// Passes bytes on to a service and counts those that go there.
pub struct Line {
    pub url: Url,
    sent: Arc<AtomicU64>,
}

impl Line {
    pub async fn to(service: &Url) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let mut url = service.clone();
        let here: SocketAddr = listener.local_addr().unwrap();
        let there = (service.host_str().unwrap().to_owned(), service.port_or_known_default().unwrap());
        url.set_host(Some("127.0.0.1")).unwrap();
        url.set_port(Some(here.port())).unwrap();
        let sent = Arc::new(AtomicU64::new(0));
        let counter = Arc::clone(&sent);
        tokio::spawn(async move {
            while let Ok((near, _)) = listener.accept().await {
                let (there, counter) = (there.clone(), Arc::clone(&counter));
                tokio::spawn(async move {
                    let far = TcpStream::connect(there).await.unwrap();
                    let ((mut near_read, mut near_write), (mut far_read, mut far_write)) =
                        (near.into_split(), far.into_split());
                    let up = async {
                        let mut buffer = vec![0; 1 << 16];
                        while let Ok(read) = tokio::io::AsyncReadExt::read(&mut near_read, &mut buffer).await
                        {
                            if read == 0 {
                                break;
                            }
                            counter.fetch_add(read as u64, Ordering::Relaxed);
                            let written =
                                tokio::io::AsyncWriteExt::write_all(&mut far_write, &buffer[..read]).await;
                            if written.is_err() {
                                break;
                            }
                        }
                    };
                    // Either end may break off at any time.
                    let _ = tokio::join!(up, tokio::io::copy(&mut far_read, &mut near_write));
                });
            }
        });
        Self { url, sent }
    }

    pub fn sent(&self) -> u64 {
        self.sent.load(Ordering::Relaxed)
    }
}
