//! One process of a plugin for one call: started, agreed with, asked, and ended, whatever it does.

use std::path::Path;
use std::sync::{Mutex, PoisonError};

use migrate_plugin_api::protocol::METHOD_NOT_FOUND;
use migrate_plugin_api::{StepContext, StepError};
use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::conversation::{Conversation, Fault};
use crate::limits::EXIT_GRACE;
use crate::process::{Guard, Launch, Process, ending};
use crate::vault::Vault;

/// The plugin's own words, as the cause of an error.
#[derive(Debug, thiserror::Error)]
#[error("its last words were: {0}")]
struct LastWords(String);

/// A plugin at work. When it is dropped, so is every process of it.
pub(crate) struct Session {
    name: String,
    /// `None` only while it ends.
    talk: Option<Conversation>,
    process: Mutex<Process>,
}

impl Session {
    /// Starts `launch` in `dir` and agrees with it about the protocol.
    ///
    /// # Errors
    /// `Permanent` where it can't be started or speaks otherwise, `Transient` where it ended.
    pub(crate) async fn open(
        name: &str,
        guard: &Guard,
        launch: &Launch,
        dir: &Path,
    ) -> Result<Self, StepError> {
        let started = Process::start(guard, launch, dir);
        let (process, streams) = started.map_err(|error| {
            StepError::permanent(format!("failed to start plugin `{name}`")).with_source(error)
        })?;
        let talk = Conversation::new(streams.stdin, streams.stdout, streams.stderr);
        let mut session = Self { name: name.to_owned(), talk: Some(talk), process: Mutex::new(process) };
        let agreed = match &mut session.talk {
            Some(talk) => talk.initialize().await,
            None => Ok(()),
        };
        match agreed {
            Ok(()) => Ok(session),
            Err(fault) => Err(session.fail("initialize", fault).await),
        }
    }

    /// The secrets that the calls to come may ask for.
    pub(crate) fn lend(&mut self, vault: Vault) {
        if let Some(talk) = &mut self.talk {
            talk.lend(vault);
        }
    }

    /// Asks for `method`. `None`: the plugin has no such method.
    ///
    /// # Errors
    /// What the plugin says, or what is wrong with it; then it has been ended.
    pub(crate) async fn ask<T: DeserializeOwned>(
        &mut self,
        method: &str,
        params: &(impl Serialize + Sync),
        ctx: Option<&StepContext>,
    ) -> Result<Option<T>, StepError> {
        let Some(talk) = &mut self.talk else {
            return Err(StepError::permanent(format!("plugin `{}` has been ended", self.name)));
        };
        let process = &self.process;
        let terminate = || process.lock().unwrap_or_else(PoisonError::into_inner).terminate();
        let answer = talk.ask(method, params, ctx, &terminate).await;
        let read = match answer {
            Ok(value) => talk.read(method, value).map(Some),
            Err(Fault::Refused(error)) if error.code == METHOD_NOT_FOUND => Ok(None),
            Err(fault) => Err(fault),
        };
        match read {
            Ok(read) => Ok(read),
            Err(Fault::Refused(error)) => Err(error.into_step_error()),
            Err(fault) => Err(self.fail(method, fault).await),
        }
    }

    /// Ends it in peace. It has done what it was asked for, so that nothing here is a failure.
    pub(crate) async fn close(mut self, ctx: Option<&StepContext>) {
        if let Some(talk) = &mut self.talk {
            talk.shut_down().await;
            let over = tokio::time::timeout(EXIT_GRACE, talk.drain(ctx)).await;
            if let (Ok(Err(Fault::Broken(why))), Some(ctx)) = (over, ctx) {
                ctx.warn(format!("plugin `{}` broke the protocol at its end: {why}", self.name));
            }
        }
        self.end();
    }

    /// Ends it because of `fault`, and says what is wrong.
    async fn fail(&mut self, method: &str, fault: Fault) -> StepError {
        let name = self.name.clone();
        let words = self.talk.as_ref().and_then(Conversation::last_words).map(str::to_owned);
        if !matches!(fault, Fault::Ended) {
            self.end();
        }
        let bug = "this is a bug in the plugin: `migrate plugin test FILE` shows what to mend";
        let error = match fault {
            Fault::Refused(error) => error.into_step_error(),
            Fault::Broken(why) => {
                StepError::permanent(format!("plugin `{name}` broke the protocol in `{method}`: {why}"))
                    .with_hint(bug)
            }
            Fault::Late(limit) => {
                let seconds = limit.as_secs();
                // Nothing was asked of it yet, and the machine may be busy.
                StepError::transient(format!("plugin `{name}` did not answer `{method}` in {seconds} s"))
                    .with_hint(bug)
            }
            Fault::Stopped => StepError::cancelled(),
            Fault::Ended => {
                let process = self.process.get_mut().unwrap_or_else(PoisonError::into_inner);
                let how = match process.wait(EXIT_GRACE).await {
                    Some(status) => ending(status),
                    None => "closed its stdout".to_owned(),
                };
                StepError::transient(format!("plugin `{name}` {how} before it answered `{method}`"))
            }
        };
        self.end();
        match words.filter(|_| error.source.is_none()) {
            Some(words) if !matches!(error.class, migrate_plugin_api::ErrorClass::Cancelled) => {
                error.with_source(LastWords(words.replace('\n', " | ")))
            }
            _ => error,
        }
    }

    fn end(&mut self) {
        // First the streams: that is how the guard learns of it.
        self.talk = None;
        self.process.get_mut().unwrap_or_else(PoisonError::into_inner).end();
    }
}

impl Drop for Session {
    fn drop(&mut self) {
        self.end();
    }
}
