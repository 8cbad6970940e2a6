//! The engine `azcopy`: our listings, our proofs, AzCopy's transfers.
//!
//! What is to be copied is listed and compared as ever; AzCopy gets it as a list, in batches. Its job is
//! followed and, after an interruption, resumed; AzCopy begins half-copied objects again. A blob that it
//! made is taken over only if it is new, of the object's size (and MD5, where both know one) and the
//! object is still the same version; then it gets our marks. The bytes are proven by `verify --deep`.
//!
//! The AWS keys go to AzCopy by its environment. A SAS it takes only in a URL on its command line, which
//! other users of this machine may read: the plan warns. With Entra nothing secret is there.

use std::collections::BTreeMap;
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::sync::Arc;

use aws_credential_types::provider::ProvideCredentials as _;
use futures::{StreamExt as _, TryStreamExt as _, stream};
use migrate_plugin_api::{ErrorClass, Problem, Progress, StepContext, StepError};
use serde::{Deserialize, Serialize};
use tokio::io::{AsyncBufReadExt as _, BufReader};
use tokio::process::Command;

use super::azcopy_job::{Said, Summary, said};
use super::config::{CopyConfig, CopyOutputs, Overwrite};
use super::cursor::{Cursor, Failed};
use super::errors::line;
use super::merge::{Pair, Standing, standing};
use super::names::{Part, Phase, folder, phases};
use super::pass::{failed_objects, skipped};
use super::repository::{self, MAX_ROUNDS};
use super::source::{Object, Source};
use super::target::{Blob, Target};
use super::transfer::Mover;
use super::walk::{Event, walk_all};
use crate::stdin_lock::claim;

/// Objects of one job: enough to keep AzCopy busy, few enough to take over again after a kill.
const BATCH: usize = 10_000;
/// Blobs that are taken over at the same time; each is two looks and a write.
const ADOPTED_AT_ONCE: usize = 32;
/// Of the failed, those that are stored.
const MAX_FAILED: usize = 500;
/// Lines of trouble that an error shows.
const TROUBLE: usize = 3;

/// Two that don't go together.
const NO_DELETES: &str = "the engine `azcopy` deletes nothing";

/// What AzCopy is to copy, and what was there before.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
struct Order {
    key: String,
    etag: String,
    size: u64,
    /// The blob's ETag before the job, if there was a blob.
    blob: Option<String>,
}

/// What the engine asks of the machine and the config.
pub(super) async fn problems(config: &CopyConfig) -> Vec<Problem> {
    let mut problems = Vec::new();
    let version = Command::new(program(config)).arg("--version").stdin(Stdio::null()).output().await;
    if !version.is_ok_and(|output| output.status.success()) {
        let hint = "install AzCopy 10, or name it with `azcopy`, or use another `engine`";
        let message = format!("`{}` does not run", program(config).display());
        problems.push(Problem::error(message).in_field("engine").with_hint(hint));
    }
    if config.delete_extra {
        problems.push(Problem::error(NO_DELETES).in_field("delete-extra").with_hint("use another `engine`"));
    }
    let host = config.from.endpoint.as_ref().map(|url| url.host_str().unwrap_or_default());
    if host.is_some_and(|host| !host.ends_with(".amazonaws.com")) {
        let message = "AzCopy reads objects only from AWS, not from another endpoint";
        problems.push(Problem::error(message).in_field("engine").with_hint("use `engine = \"auto\"`"));
    }
    if config.to.sas.is_some() {
        let message =
            "AzCopy takes a SAS only on its command line, which other users of this machine may read";
        let hint = "leave `sas` out to log in with Entra, or use another `engine`";
        problems.push(Problem::warning(message).in_field("to").with_hint(hint));
    }
    problems
}

fn program(config: &CopyConfig) -> PathBuf {
    config.azcopy.clone().unwrap_or_else(|| PathBuf::from("azcopy"))
}

/// Copies everything, phase after phase.
pub(super) async fn run(
    ctx: &StepContext,
    config: &CopyConfig,
    source: &Arc<Source>,
    target: &Arc<Target>,
    mut cursor: Cursor,
) -> Result<CopyOutputs, StepError> {
    if config.delete_extra {
        return Err(StepError::permanent(NO_DELETES).with_hint("use another `engine`"));
    }
    let folder = ctx.path(".migrate/azcopy").join(ctx.key.as_str());
    std::fs::create_dir_all(&folder).map_err(|e| {
        StepError::permanent(format!("failed to make the folder {}", folder.display())).with_source(e)
    })?;
    let mover = Arc::new(Mover::new(Arc::clone(source), Arc::clone(target), config, BTreeMap::new()));
    let mut engine = Engine { ctx, config, source, target, mover, folder, failed: Vec::new(), more: 0 };
    // What the last attempt had begun.
    if engine.orders_file().exists() {
        let (orders, summary) = match ctx.handle() {
            Some(job) => {
                ctx.info(format!("resuming AzCopy's job {job}"));
                let summary = match engine.follow(engine.resume(job).await?).await {
                    Err(error) if error.class == ErrorClass::Cancelled => return Err(error),
                    // A job that AzCopy can't resume is no loss: what it left is listed.
                    said => said.inspect_err(|e| ctx.warn(line(e))).unwrap_or_default(),
                };
                (engine.stored_orders()?, summary)
            }
            // Killed before the job had told its name: when AzCopy has ended, what it made is taken over.
            None => {
                drop(claim(ctx).await?);
                (engine.stored_orders().unwrap_or_default(), Summary::default())
            }
        };
        engine.adopt(orders, &summary).await?;
        (engine.failed, engine.more) = (Vec::new(), 0);
    }
    let phases = phases(config);
    let (mut begun_before, mut rounds) = (true, 0);
    while let Some(phase) = phases.get(cursor.phase) {
        if phase.part == Part::Packs {
            if rounds >= MAX_ROUNDS {
                return Err(repository::restless());
            }
            rounds += 1;
        }
        let counts = engine.phase(phase, cursor.again, cursor.counts.as_of_seconds).await?;
        cursor.counts.add(&counts);
        if !engine.failed.is_empty() {
            return Err(failed_objects(phase, &engine.failed, engine.more));
        }
        let copied = (!begun_before).then_some(counts.copied);
        cursor.phase = repository::next(&phases, cursor.phase, &mut cursor.again, copied);
        begun_before = false;
        ctx.checkpoint(&cursor).await?;
    }
    Ok(cursor.counts)
}

struct Engine<'a> {
    ctx: &'a StepContext,
    config: &'a CopyConfig,
    source: &'a Arc<Source>,
    target: &'a Arc<Target>,
    /// For what AzCopy can't be told to copy.
    mover: Arc<Mover>,
    folder: PathBuf,
    failed: Vec<Failed>,
    more: u64,
}

impl Engine<'_> {
    /// `again`: what is equal in Velero's repositories is counted already.
    async fn phase(
        &mut self,
        phase: &Phase,
        again: bool,
        as_of_seconds: i64,
    ) -> Result<CopyOutputs, StepError> {
        let again = again && phase.part.may_change();
        let mut counts = CopyOutputs::default();
        let mut batch = Vec::new();
        for prefix in &repository::scopes(self.source, phase).await? {
            let mut events = walk_all(self.source, self.target, prefix, false, true);
            while let Some(event) = events.recv().await {
                self.ctx.check_cancelled()?;
                let Event::Pairs { pairs, .. } = event? else { continue };
                for pair in pairs {
                    let Pair::Object(object, blob) = pair else { continue };
                    if !phase.takes(&object.key) || phase.leaves(&object, as_of_seconds) {
                        continue;
                    }
                    let blob = repository::beside(self.target, phase, &object, blob).await?;
                    if object.is_folder_marker() {
                        counts.folder_markers += u64::from(!again);
                    } else if blob.as_ref().is_some_and(|b| standing(&object, b) == Standing::Equal) {
                        if !again {
                            counts.add(&skipped(&object));
                        }
                    } else if phase.part != Part::Formats
                        && is_plain(&object)
                        && (blob.is_none() || self.config.overwrite == Overwrite::ReplaceChanged)
                    {
                        let Object { key, etag, size, .. } = object;
                        batch.push(Order { key, etag, size, blob: blob.map(|b| b.etag) });
                    } else {
                        let key = object.key.clone();
                        match self.ourselves(phase, object, blob).await {
                            Ok(copied) => counts.add(&copied),
                            Err(error) => self.failed(key, error)?,
                        }
                    }
                }
                if batch.len() >= BATCH {
                    counts.add(&self.job(std::mem::take(&mut batch)).await?);
                }
            }
        }
        counts.add(&self.job(batch).await?);
        Ok(counts)
    }

    /// Copies what AzCopy can't be told to copy, or is refused.
    async fn ourselves(
        &self,
        phase: &Phase,
        object: Object,
        blob: Option<Blob>,
    ) -> Result<CopyOutputs, StepError> {
        if let Some(blob) = blob.as_ref().filter(|_| phase.part == Part::Formats) {
            repository::check_same(self.source, self.target, &object, blob).await?;
        }
        self.mover.copy(object, blob.is_some()).await
    }

    /// One job, from its list to marked blobs.
    async fn job(&mut self, orders: Vec<Order>) -> Result<CopyOutputs, StepError> {
        if orders.is_empty() {
            return Ok(CopyOutputs::default());
        }
        // First: the AzCopy of an earlier attempt may still read what is written here.
        let mut command = self.command().await?;
        let list: String = orders.iter().map(|order| format!("{}\n", order.key)).collect();
        self.write(&self.folder.join("list"), list.as_bytes())?;
        let stored = serde_json::to_vec(&orders)
            .map_err(|e| StepError::permanent("failed to write the list of objects").with_source(e))?;
        self.write(&self.orders_file(), &stored)?;
        command.arg("copy").arg(self.from()).arg(self.to().await?).arg("--list-of-files");
        command.arg(self.folder.join("list"));
        command.args(["--recursive", "--as-subdir=false", "--from-to", "S3Blob"]);
        command.args(["--s2s-handle-invalid-metadata", "ExcludeIfInvalid"]);
        command.args(["--output-type", "json", "--log-level", "ERROR"]);
        if self.config.overwrite == Overwrite::Refuse {
            command.arg("--overwrite=false");
        }
        let summary = self.follow(command).await?;
        self.adopt(orders, &summary).await
    }

    fn orders_file(&self) -> PathBuf {
        self.folder.join("orders.json")
    }

    fn stored_orders(&self) -> Result<Vec<Order>, StepError> {
        let failed = |cause: String| {
            StepError::corrupt(format!("{} can't be read: {cause}", self.orders_file().display()))
                .with_hint("delete the file: everything is listed again")
        };
        let text = std::fs::read(self.orders_file()).map_err(|e| failed(e.to_string()))?;
        serde_json::from_slice(&text).map_err(|e| failed(e.to_string()))
    }

    /// The whole file or, after a kill, the one of before.
    fn write(&self, file: &Path, bytes: &[u8]) -> Result<(), StepError> {
        let draft = file.with_extension("draft");
        let written = std::fs::File::create(&draft).and_then(|mut new| {
            new.write_all(bytes)?;
            new.sync_all()?;
            std::fs::rename(&draft, file)?;
            std::fs::File::open(&self.folder)?.sync_all()
        });
        written
            .map_err(|e| StepError::permanent(format!("failed to write {}", file.display())).with_source(e))
    }

    async fn resume(&self, job: &str) -> Result<Command, StepError> {
        let mut command = self.command().await?;
        command.args(["jobs", "resume", job, "--output-type", "json"]);
        if let Some(reference) = &self.config.to.sas {
            let sas = self.ctx.secret(reference).await?;
            command.arg(format!("--destination-sas={}", sas.expose().trim().trim_start_matches('?')));
        }
        Ok(command)
    }

    /// AzCopy with a state of its own, and the keys in its environment.
    async fn command(&self) -> Result<Command, StepError> {
        let mut command = Command::new(program(self.config));
        // A job of an earlier attempt that outlived its `migrate` holds it.
        let (input, _) = claim(self.ctx).await?;
        command.env("MIGRATE_NODE", self.ctx.node.as_str());
        command.stdin(input).stdout(Stdio::piped()).stderr(Stdio::null()).kill_on_drop(true);
        command.env("AZCOPY_LOG_LOCATION", &self.folder).env("AZCOPY_JOB_PLAN_LOCATION", &self.folder);
        if self.config.to.sas.is_none() {
            self.log_in(&mut command).await?;
        }
        let aws = crate::aws::config(self.ctx, &self.config.aws).await;
        let provider = aws.credentials_provider().ok_or_else(|| StepError::auth("no AWS credentials"))?;
        let keys = provider.provide_credentials().await;
        let keys = keys.map_err(|e| StepError::auth("no AWS credentials were found").with_source(e))?;
        command.env("AWS_ACCESS_KEY_ID", keys.access_key_id());
        command.env("AWS_SECRET_ACCESS_KEY", keys.secret_access_key());
        match keys.session_token() {
            Some(token) => command.env("AWS_SESSION_TOKEN", token),
            None => command.env_remove("AWS_SESSION_TOKEN"),
        };
        Ok(command)
    }

    /// To Entra, as AzCopy takes it (`azcopy env`): by an application, or by what is there.
    async fn log_in(&self, command: &mut Command) -> Result<(), StepError> {
        let Some(principal) = &self.config.to.service_principal else {
            if std::env::var_os("AZCOPY_AUTO_LOGIN_TYPE").is_none() {
                let federated = std::env::var_os("AZURE_FEDERATED_TOKEN_FILE").is_some();
                command.env("AZCOPY_AUTO_LOGIN_TYPE", if federated { "WORKLOAD" } else { "AZCLI" });
            }
            return Ok(());
        };
        let secret = self.ctx.secret(&principal.client_secret).await?;
        command.env("AZCOPY_AUTO_LOGIN_TYPE", "SPN").env("AZCOPY_TENANT_ID", &principal.tenant);
        command.env("AZCOPY_SPA_APPLICATION_ID", &principal.client_id);
        command.env("AZCOPY_SPA_CLIENT_SECRET", secret.expose());
        if let Some(authority) = &principal.authority {
            command.env("AZCOPY_ACTIVE_DIRECTORY_ENDPOINT", authority.as_str());
        }
        Ok(())
    }

    fn from(&self) -> String {
        let from = &self.config.from;
        let prefix = folder(from.prefix.as_deref());
        format!("https://s3.{}.amazonaws.com/{}/{prefix}", self.config.aws.region, from.bucket)
    }

    async fn to(&self) -> Result<String, StepError> {
        let to = &self.config.to;
        let account = to.account_url.as_str().trim_end_matches('/');
        let url = format!("{account}/{}/{}", to.container, folder(to.prefix.as_deref()));
        let url = url.trim_end_matches('/');
        Ok(match &to.sas {
            Some(reference) => {
                let sas = self.ctx.secret(reference).await?;
                format!("{url}?{}", sas.expose().trim().trim_start_matches('?'))
            }
            None => url.to_owned(),
        })
    }

    /// Until the job is over; what is under way is given up when the run is asked to stop.
    async fn follow(&self, mut command: Command) -> Result<Summary, StepError> {
        let shown = program(self.config).display().to_string();
        let mut child = command
            .spawn()
            .map_err(|e| StepError::permanent(format!("failed to start `{shown}`")).with_source(e))?;
        let stdout = child.stdout.take().ok_or_else(|| StepError::permanent("AzCopy has no stdout"))?;
        let mut lines = BufReader::new(stdout).lines();
        let (mut summary, mut trouble, mut ended) = (Summary::default(), Vec::new(), false);
        loop {
            let next = tokio::select! {
                // Dropping the child kills it; its job can be resumed.
                () = self.ctx.cancel.cancelled() => return Err(StepError::cancelled()),
                next = lines.next_line() => next,
            };
            let next = next.map_err(|e| StepError::transient("lost sight of AzCopy").with_source(e))?;
            let Some(next) = next else { break };
            match said(&next) {
                Some(Said::Started(job)) => self.ctx.set_handle(job).await?,
                Some(Said::Progress(now)) => summary = self.progress(summary, now),
                Some(Said::Ended(now)) => {
                    summary = self.progress(summary, now);
                    ended = true;
                }
                Some(Said::Trouble(text)) => trouble.push(text),
                None => {}
            }
        }
        let status = child.wait().await;
        let status = status.map_err(|e| StepError::transient("lost sight of AzCopy").with_source(e))?;
        if ended {
            return Ok(summary);
        }
        trouble.truncate(TROUBLE);
        Err(StepError::transient(format!("`{shown}` ended with {status}: {}", trouble.join("; "))))
    }

    fn progress(&self, before: Summary, mut now: Summary) -> Summary {
        let progress = Progress::message(format!("AzCopy: {}", now.status));
        self.ctx.progress(progress.bytes(now.bytes, None).items(now.completed, None));
        now.failed.extend(before.failed);
        now
    }

    /// Takes over what AzCopy copied, and notes what it didn't.
    async fn adopt(&mut self, orders: Vec<Order>, summary: &Summary) -> Result<CopyOutputs, StepError> {
        let said = |key: &str| {
            let end = format!("/{key}");
            summary.failed.iter().find(|(url, _)| url.ends_with(&end)).map(|(_, why)| why.clone())
        };
        let (this, mut counts) = (&*self, CopyOutputs::default());
        let adopted: Vec<_> = stream::iter(orders)
            .map(|order| async move {
                match this.adopt_one(&order).await {
                    Err(error) if matches!(error.class, ErrorClass::Auth) => Err(error),
                    outcome => Ok((order, outcome)),
                }
            })
            .buffer_unordered(ADOPTED_AT_ONCE)
            .try_collect()
            .await?;
        let mut failed = Vec::new();
        for (order, outcome) in adopted {
            match outcome {
                Ok(one) => counts.add(&one),
                Err(error) => {
                    let error = match said(&order.key) {
                        Some(why) => {
                            StepError::new(error.class, format!("{} (AzCopy: {why})", error.message))
                        }
                        None => error,
                    };
                    failed.push((order.key, error));
                }
            }
        }
        for (key, error) in failed {
            self.failed(key, error)?;
        }
        Ok(counts)
    }

    async fn adopt_one(&self, order: &Order) -> Result<CopyOutputs, StepError> {
        let key = &order.key;
        let Some((object, properties)) = self.source.head(key).await? else {
            return Err(StepError::conflict(format!("object `{key}` is gone from the source")));
        };
        if object.etag != order.etag || object.size != order.size {
            return Err(StepError::conflict(format!("object `{key}` changed while it was copied")));
        }
        let missing = || StepError::transient(format!("AzCopy did not copy object `{key}`"));
        let blob = self.target.head(key).await?.ok_or_else(missing)?;
        if standing(&object, &blob) == Standing::Equal && blob.source_etag.is_some() {
            // Taken over by an earlier attempt.
            return Ok(CopyOutputs {
                copied: 1,
                server_side: 1,
                copied_bytes: object.size,
                skipped: 0,
                ..skipped(&object)
            });
        }
        if order.blob.as_deref().map(bare) == Some(bare(&blob.etag)) {
            return Err(missing());
        }
        if blob.size != object.size {
            return Err(StepError::corrupt(format!(
                "blob `{key}` has {} of {} bytes after AzCopy's copy",
                blob.size, object.size
            )));
        }
        let kind = match (&blob.md5, &properties.md5) {
            (Some(blob), Some(source)) if blob != source => {
                return Err(StepError::corrupt(format!("blob `{key}` has another MD5 after AzCopy's copy")));
            }
            (Some(_), Some(_)) => "md5",
            _ => "length",
        };
        let crc64 = properties.crc64;
        let (dress, mut counts) = self.mover.dress(&object, properties, crc64).await?;
        self.target.mark(&blob, dress.metadata).await?;
        counts.add(&CopyOutputs { skipped: 0, ..skipped(&object) });
        counts.copied = 1;
        counts.copied_bytes = object.size;
        counts.server_side = 1;
        counts.replaced = u64::from(order.blob.is_some());
        counts.checksums.insert(kind.to_owned(), 1);
        Ok(counts)
    }

    fn failed(&mut self, key: String, error: StepError) -> Result<(), StepError> {
        if matches!(error.class, ErrorClass::Auth | ErrorClass::Cancelled) {
            return Err(error);
        }
        self.ctx.warn(line(&error));
        if self.failed.len() < MAX_FAILED {
            self.failed.push(Failed { key, reason: line(&error), class: error.class });
        } else {
            self.more += 1;
        }
        Ok(())
    }
}

fn bare(etag: &str) -> &str {
    etag.trim_matches('"')
}

/// Whether AzCopy's list can name the object without reading something else into it.
fn is_plain(object: &Object) -> bool {
    let plain = |c: char| c.is_ascii_alphanumeric() || matches!(c, '/' | '.' | '_' | '-' | '=');
    let key = &object.key;
    let steps = key.split('/').any(|step| step.is_empty() || step.ends_with('.'));
    !object.archived && object.size > 0 && key.chars().all(plain) && !steps
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_that_a_list_would_change_go_our_own_way() {
        let object = |key: &str| Object { key: key.to_owned(), size: 1, ..Object::default() };
        for key in ["a", "kopia/shop/p0.1_x-y", "a=b/c"] {
            assert!(is_plain(&object(key)), "{key}");
        }
        for key in ["a b", "ü", "a//b", "/a", "a*", "a%20", "a/../b", "a/.", "a\nb", "a?b"] {
            assert!(!is_plain(&object(key)), "{key}");
        }
        assert!(!is_plain(&Object { size: 0, ..object("empty") }));
    }
}
