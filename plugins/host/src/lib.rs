//! Runs step plugins in processes of their own, and holds them to `docs/plugins/protocol.md`.
//!
//! [`find`] and [`load`] make [`Step`](migrate_plugin_api::Step)s of the plugins that a project has;
//! [`Plugin`] is one of them. Each call is a process behind a [`guard`], which sees to it that nothing of
//! the plugin outlives the call, nor the host. [`conformance`] tells the author of a plugin what to mend.
//!
//! A plugin costs its node, never the run: whatever it does, a call ends with a result or an error that
//! names it.

#[cfg(not(unix))]
compile_error!("plugins need process groups: this crate is for unix");

pub mod conformance;
mod conversation;
mod discovery;
pub mod guard;
mod limits;
mod lines;
mod plugin;
mod process;
mod program;
mod pulse;
mod rate;
pub mod schemas;
mod sensitive;
mod session;
mod settings;
mod stderr;
mod vault;

pub use discovery::{DiscoveryError, FILE_PREFIX, Found, Listed, Origin, PROJECT_FOLDER, find, load};
pub use plugin::Plugin;
pub use process::{Guard, Launch};
pub use program::ProgramDigest;
pub use settings::{PluginSettings, SettingsError, part, settings};
