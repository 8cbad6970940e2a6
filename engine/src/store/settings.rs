//! `[store]` in `migration.toml`: where facts are kept, if not in the project folder.
//!
//! ```toml
//! [store]
//! url = "env:MIGRATE_STORE_URL"   # postgresql://user:password@host/database
//! project = "shop"                # keeps projects in one database apart
//! ```

use migrate_plugin_api::SecretRef;

use crate::workflow::tree::{Kind, Tree};
use crate::workflow::{Diagnostics, Mistakes, Source};

/// Longest project key: it is part of every row.
const MAX_PROJECT_BYTES: usize = 64;

/// A shared store.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StoreSettings {
    /// Where its URL is: it holds a password, so it is never written down.
    pub url: SecretRef,
    /// The project's key in it.
    pub project: String,
}

impl StoreSettings {
    /// What `environment` (`migration.toml`) says; `None` if it says nothing, and the store is the
    /// file in the project folder.
    ///
    /// # Errors
    /// Every mistake in it. A file that can't be read at all says nothing of the store, and may not be
    /// taken for one that has none.
    pub fn of(environment: &Source) -> Result<Option<Self>, Diagnostics> {
        let mut mistakes = Mistakes::default();
        let settings = Tree::parse(environment, &mut mistakes)
            .and_then(|tree| Self::read(tree.get("store")?.value.clone(), environment, &mut mistakes));
        mistakes.into_result()?;
        Ok(settings)
    }

    fn read(store: Tree, file: &Source, mistakes: &mut Mistakes) -> Option<Self> {
        const HELP: &str =
            "[store] takes `url = \"env:NAME\"`, or another reference to a secret, and `project = \"NAME\"`";
        let Kind::Table(entries) = &store.kind else {
            mistakes.add(file, store.span, "store", "`store` is no table").help(HELP);
            return None;
        };
        let (mut url, mut project) = (None, None);
        for entry in entries {
            let span = entry.value.span.clone();
            match (entry.key.as_str(), &entry.value.kind) {
                ("url", Kind::String(text)) => match SecretRef::try_from(text.clone()) {
                    Ok(reference) => url = Some(reference),
                    Err(error) => {
                        // Whatever it is, it may be the password itself.
                        mistakes.hide(file, &span);
                        mistakes.add(file, span, "store", error.to_string()).help(HELP);
                    }
                },
                ("project", Kind::String(text)) if (1..=MAX_PROJECT_BYTES).contains(&text.len()) => {
                    project = Some(text.clone());
                }
                ("url", _) => {
                    mistakes.add(file, span, "store", "`url` is no text").help(HELP);
                }
                ("project", _) => {
                    let message = format!("`project` is no text of 1 to {MAX_PROJECT_BYTES} bytes");
                    mistakes.add(file, span, "store", message).help(HELP);
                }
                (other, _) => {
                    let message = format!("`store` has no field `{other}`");
                    mistakes.add(file, entry.key_span.clone(), "store", message).help(HELP);
                }
            }
        }
        if !mistakes.is_empty() {
            return None;
        }
        if let (Some(url), Some(project)) = (url, project) {
            return Some(Self { url, project });
        }
        mistakes.add(file, store.span, "store", "`store` needs both `url` and `project`").help(HELP);
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_shared_store_is_read_and_every_mistake_told() {
        let read = |text: &str| StoreSettings::of(&Source::new("migration.toml", text));
        assert_eq!(read("schema = 1\n[site]\nname = \"x\"\n").unwrap(), None);
        let good = read("[store]\nurl = \"env:URL\"\nproject = \"shop\"\n").unwrap().unwrap();
        assert_eq!(good, StoreSettings { url: SecretRef::Env("URL".to_owned()), project: "shop".to_owned() });
        let mut said = Vec::new();
        for text in [
            "[store]\nurl = \"postgresql://ada:hunter2@db/x\"\nproject = \"shop\"\n",
            "[store]\nurl = \"env:URL\"\n",
            "[store]\nurl = 1\nproject = \"\"\nuser = \"ada\"\n",
            "store = 7\n",
            "[store\n",
        ] {
            let diagnostics = read(text).unwrap_err();
            for mistake in diagnostics.mistakes() {
                assert!(!format!("{mistake:?}").contains("hunter2"), "{text}");
                said.push(mistake.message.clone());
            }
        }
        insta::assert_snapshot!(said.join("\n"));
    }
}
