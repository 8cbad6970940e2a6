//! What has to be on the machine before the first rehearsal, looked for before anything is built: the
//! sandbox looks again, and for more, but only after a quarter of an hour of cargo.

use std::process::Command;

use crate::cargo::{self, Outcome};

/// A program, its least version, and what it is for.
struct Tool {
    name: &'static str,
    /// What prints the version.
    ask: &'static [&'static str],
    least: (u32, u32),
    why: &'static str,
}

const TOOLS: [Tool; 5] = [
    Tool {
        name: "rustc",
        ask: &["--version"],
        least: (1, 95),
        why: "builds the project; see https://rustup.rs",
    },
    Tool {
        name: "go",
        ask: &["env", "GOVERSION"],
        least: (1, 26),
        why: "builds Kubernetes and Velero; see https://go.dev/dl",
    },
    Tool { name: "node", ask: &["--version"], least: (20, 0), why: "runs Azurite; see https://nodejs.org" },
    Tool { name: "npm", ask: &["--version"], least: (0, 0), why: "installs Azurite; comes with Node.js" },
    Tool {
        name: "python3",
        // Debian has them in a package of their own.
        ask: &["-c", "import sys, venv, ensurepip; print(sys.version.split()[0])"],
        least: (3, 9),
        why: "runs moto in a venv; install python3 and python3-venv",
    },
];

/// Refuses to begin without them, with all that is missing in one message.
pub fn check() -> Outcome {
    // Once the sandbox has been there, what it still needs is for it to say.
    if cargo::target().join("sandbox").exists() { Ok(()) } else { check_with(&answer) }
}

fn check_with(answer: &dyn Fn(&Tool) -> Option<String>) -> Outcome {
    let missing: Vec<String> = TOOLS.iter().filter_map(|tool| lack(tool, answer(tool))).collect();
    if missing.is_empty() {
        return Ok(());
    }
    Err(format!(
        "this machine lacks what the rehearsal needs; nothing was built. Missing:\n{}",
        missing.join("\n")
    ))
}

/// What is said of a tool that isn't there, or too old.
fn lack(tool: &Tool, answer: Option<String>) -> Option<String> {
    let (major, minor) = tool.least;
    let least = if major == 0 { String::new() } else { format!(" {major}.{minor} or newer") };
    match answer {
        Some(text) if version(&text) >= tool.least => None,
        Some(text) => Some(format!("  - {}{least}: {} (found {})", tool.name, tool.why, text.trim())),
        None => Some(format!("  - {}{least}: {}", tool.name, tool.why)),
    }
}

fn answer(tool: &Tool) -> Option<String> {
    let output =
        Command::new(tool.name).args(tool.ask).output().ok().filter(|output| output.status.success())?;
    Some(String::from_utf8_lossy(&output.stdout).into_owned())
}

/// Of `rustc 1.95.0 (…)`, `go1.26.1`, `v22.1.0`: the first two numbers.
fn version(text: &str) -> (u32, u32) {
    let text = text.trim_start_matches(|c: char| !c.is_ascii_digit());
    let mut numbers = text.split(|c: char| !c.is_ascii_digit()).map(|part| part.parse().unwrap_or(0));
    (numbers.next().unwrap_or(0), numbers.next().unwrap_or(0))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_missing_or_too_old_is_told_at_once_and_with_its_use() {
        let machine = |tool: &Tool| match tool.name {
            "rustc" => Some("rustc 1.95.0 (abc 2026-01-01)\n".to_owned()),
            "go" => Some("go1.25.4\n".to_owned()),
            "node" => Some("v22.1.0\n".to_owned()),
            "npm" => None,
            _ => Some("3.11.2\n".to_owned()),
        };
        let said = check_with(&machine).unwrap_err();
        let lines: Vec<&str> = said.lines().skip(1).collect();
        assert_eq!(
            lines,
            [
                "  - go 1.26 or newer: builds Kubernetes and Velero; see https://go.dev/dl (found go1.25.4)",
                "  - npm: installs Azurite; comes with Node.js",
            ]
        );
    }
}
