//! `migrate rewrite`: the difference that the rules would make in a folder, or made in place.

use std::fmt::Write as _;

use migrate_steps::manifests::{RewrittenFile, rewrite_files};

use crate::args::{Cli, RewriteArgs};
use crate::assess::left_out;
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
    let changed: Vec<&RewrittenFile> = done.changed().collect();
    if args.write {
        done.write_back()?;
    }
    if cli.json {
        let file = |f: &&RewrittenFile| serde_json::json!({ "file": f.path, "changes": f.changes, "removed": f.is_emptied });
        let files: Vec<_> = changed.iter().map(file).collect();
        print_json(
            "rewrite",
            &serde_json::json!({ "written": args.write, "files": files, "findings": done.findings, "left-out": done.left_out }),
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
    let verb = if args.write { "was removed" } else { "would be removed" };
    for file in changed.iter().filter(|file| file.is_emptied) {
        say!("  {} {verb}: nothing in it is for AKS; take it out of what names it", file.path);
    }
    for path in &done.left_out {
        say!("  {}", left_out(path));
    }
    let mut needs: Vec<&String> = done.findings.iter().flat_map(|finding| &finding.needs).collect();
    needs.sort();
    needs.dedup();
    for need in needs {
        say!("  missing in migration.toml: {need}");
    }
    Ok(Exit::Done)
}

/// The file's difference in unified form.
fn diff(out: &mut String, file: &RewrittenFile) {
    let after = if file.is_emptied { "" } else { &file.after };
    let differ = similar::TextDiff::from_lines(file.before.as_str(), after);
    let names = (format!("a/{}", file.path), format!("b/{}", file.path));
    let after = if file.is_emptied { "/dev/null" } else { &names.1 };
    let mut unified = differ.unified_diff();
    let _ = write!(out, "{}", unified.context_radius(CONTEXT).header(&names.0, after));
}
