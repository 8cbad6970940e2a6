//! Step plugins in Rust: write a [`TypedStep`] (or a [`Step`]) as a built-in one, and hand it to
//! [`main`]. The protocol, the secrets, cancelling and errors are done here.
//!
//! ```no_run
//! use migrate_plugin_sdk::{
//!     Evidence, Idempotency, PlanConfig, StepContext, StepError, StepPlan, Typed, TypedObservation,
//!     TypedStep, VerifyDepth, async_trait,
//! };
//! use schemars::JsonSchema;
//! use serde::{Deserialize, Serialize};
//!
//! struct Touch;
//!
//! #[derive(Deserialize, JsonSchema)]
//! #[serde(rename_all = "kebab-case", deny_unknown_fields)]
//! struct Config {
//!     /// The file to make
//!     file: String,
//! }
//!
//! #[derive(Serialize, Deserialize, JsonSchema)]
//! struct Outputs {
//!     /// Where it is
//!     path: String,
//! }
//!
//! #[async_trait]
//! impl TypedStep for Touch {
//!     const NAME: &'static str = "team.touch";
//!     const SUMMARY: &'static str = "Makes an empty file";
//!     const IDEMPOTENCY: Idempotency = Idempotency::Natural;
//!     type Config = Config;
//!     type Outputs = Outputs;
//!
//!     async fn plan(&self, _: &StepContext, config: &PlanConfig<Config>) -> Result<StepPlan, StepError> {
//!         let file = config.field::<String>("file")?.unwrap_or_else(|| "a file".to_owned());
//!         Ok(StepPlan::new(format!("make {file}")))
//!     }
//!
//!     async fn observe(&self, _: &StepContext, _: &Config) -> Result<TypedObservation<Outputs>, StepError> {
//!         Ok(TypedObservation::Absent)
//!     }
//!
//!     async fn apply(&self, ctx: &StepContext, config: &Config) -> Result<Outputs, StepError> {
//!         let path = ctx.path(&config.file);
//!         std::fs::File::create(&path)
//!             .map_err(|e| StepError::permanent(format!("failed to make {}", config.file)).with_source(e))?;
//!         Ok(Outputs { path: path.display().to_string() })
//!     }
//!
//!     async fn verify(
//!         &self,
//!         ctx: &StepContext,
//!         config: &Config,
//!         _: &Outputs,
//!         _: VerifyDepth,
//!     ) -> Result<Evidence, StepError> {
//!         let found = if ctx.path(&config.file).exists() { "there" } else { "missing" };
//!         let check = migrate_plugin_sdk::Check::equal(&config.file, "file", "there", found);
//!         Ok(Evidence { checks: vec![check] })
//!     }
//! }
//!
//! fn main() -> std::process::ExitCode {
//!     migrate_plugin_sdk::main(Typed(Touch))
//! }
//! ```
//!
//! Everything of `migrate-plugin-api` is re-exported, so that a plugin needs this crate, `serde` and
//! `schemars`. Never print to stdout: it carries the protocol; `ctx.info` and stderr are logs.
//! `migrate plugin test FILE` runs the conformance suite.

mod link;
mod message;
mod serve;

pub use migrate_plugin_api::*;
pub use serve::{ServeError, main, serve, serve_on};
