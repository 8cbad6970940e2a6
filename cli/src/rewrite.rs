//! `migrate rewrite`: the difference that the rules would make in a folder, or made in place.

use std::fmt::Write as _;
use std::fs;
use std::io::Write as _;
use std::path::Path;

use migrate_steps::manifests::{RewrittenFile, rewrite_files};

use crate::args::{Cli, RewriteArgs};
use crate::exit::Exit;
use crate::failure::Failure;
use crate::output::{print, print_json};
use crate::say::say;
use crate::site::knowledge;

/// Lines around a change.
const CONTEXT: usize = 3;

/// The command. Every file is rewritten before the first is written.
///
/// # Errors
/// When something can't be read, edited or written; then nothing was written, unless the disk failed.
pub fn rewrite(cli: &Cli, args: &RewriteArgs) -> Result<Exit, Failure> {
    let known = knowledge(cli, &args.rules)?;
    let done = rewrite_files(&args.path, &known.rules, &known.inputs)?;
    let changed: Vec<&RewrittenFile> = done.files.iter().filter(|file| file.before != file.after).collect();
    if args.write {
        for file in &changed {
            replace(&file.absolute, &file.after)
                .map_err(|source| Failure::Write { file: file.path.clone(), source })?;
        }
    }
    if cli.json {
        let files: Vec<_> =
            changed.iter().map(|f| serde_json::json!({ "file": f.path, "changes": f.changes })).collect();
        print_json(
            "rewrite",
            &serde_json::json!({ "written": args.write, "files": files, "findings": done.findings }),
        )?;
    } else if !args.write {
        let mut text = String::new();
        for file in &changed {
            diff(&mut text, file);
        }
        print(&text)?;
    }
    let edits: usize = changed.iter().map(|file| file.changes.len()).sum();
    let verb = if args.write { "written" } else { "would be written (--write)" };
    say!(
        "{edits} edits in {} of {} files {verb}; {} findings left",
        changed.len(),
        done.files.len(),
        done.findings.len()
    );
    let mut needs: Vec<&String> = done.findings.iter().flat_map(|finding| &finding.needs).collect();
    needs.sort();
    needs.dedup();
    for need in needs {
        say!("  missing in migration.toml: {need}");
    }
    Ok(Exit::Done)
}

/// Replaces a file as a whole or not at all, with its permissions.
fn replace(path: &Path, text: &str) -> std::io::Result<()> {
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    let draft = path.with_file_name(format!(".{name}.migrate"));
    let written = (|| {
        let mut file = fs::File::create(&draft)?;
        file.set_permissions(fs::metadata(path)?.permissions())?;
        file.write_all(text.as_bytes())?;
        file.sync_all()?;
        fs::rename(&draft, path)
    })();
    if written.is_err() {
        let _ = fs::remove_file(&draft);
    }
    written
}

/// The file's difference in unified form.
fn diff(out: &mut String, file: &RewrittenFile) {
    let differ = similar::TextDiff::from_lines(&file.before, &file.after);
    let (before, after) = (format!("a/{}", file.path), format!("b/{}", file.path));
    let mut unified = differ.unified_diff();
    let _ = write!(out, "{}", unified.context_radius(CONTEXT).header(&before, &after));
}
